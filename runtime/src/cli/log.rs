//! Messages: one line each, as text or JSON, to standard error, a file, syslog or the journal.
//!
//! Callers read the log file of a failed command: containerd takes its last
//! line of level error, podman parses the whole file as one JSON object. So a
//! failure writes exactly one line, and with `--log` nothing below level error
//! is written unless it is asked for; people at a terminal get warnings too.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use knarr_runtime::error::{Context, Error, Kind, Result};
use knarr_runtime::time::now_rfc3339_seconds;

/// How much a message matters, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who debug the runtime.
    Debug,
    /// For the curious.
    Info,
    /// Something was not done as asked.
    Warning,
    /// The command failed.
    Error,
}

impl Level {
    /// The level of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Level> {
        match name {
            "debug" | "trace" => Some(Level::Debug),
            "info" => Some(Level::Info),
            "warning" | "warn" => Some(Level::Warning),
            "error" | "fatal" => Some(Level::Error),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }

    /// The priority in syslog(3).
    fn priority(self) -> u8 {
        match self {
            Level::Debug => 7,
            Level::Info => 6,
            Level::Warning => 4,
            Level::Error => 3,
        }
    }
}

#[derive(Debug)]
enum Sink {
    File(File),
    Syslog(UnixDatagram, String),
    Journal(UnixDatagram, String),
}

/// Where messages go and in which form.
#[derive(Debug, Default)]
pub struct Log {
    /// Whether lines are JSON.
    pub json: bool,
    /// The least level, where one was chosen.
    pub level: Option<Level>,
    sink: Option<Sink>,
}

impl Log {
    /// Sends messages to `target`: a path, `file:PATH`, `syslog:NAME` or `journald:NAME` (the prefixes are crun's).
    ///
    /// # Errors
    /// A target that cannot be opened.
    pub fn open(&mut self, target: &Path) -> Result<()> {
        let bytes = target.as_os_str().as_bytes();
        let text = target.to_str().unwrap_or_default();
        self.sink = Some(if let Some(name) = text.strip_prefix("syslog:") {
            Sink::Syslog(connect("/dev/log")?, name.to_owned())
        } else if let Some(name) = text.strip_prefix("journald:") {
            Sink::Journal(connect("/run/systemd/journal/socket")?, name.to_owned())
        } else {
            let path = bytes.strip_prefix(b"file:").unwrap_or(bytes);
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            // O_SYNC is left out: the line is for the caller who waits, not for a crash of the machine.
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY)
                .open(path)
                .context(|| format!("--log: open {}", path.display()))?;
            Sink::File(file)
        });
        Ok(())
    }

    /// Whether messages of a level are written.
    #[must_use]
    pub fn enabled(&self, level: Level) -> bool {
        let least = self.level.unwrap_or(if self.sink.is_some() {
            Level::Error
        } else {
            Level::Warning
        });
        level >= least
    }

    /// Writes a message. What cannot be written is lost: there is nowhere left to say so.
    pub fn write(&self, level: Level, message: &str) {
        if !self.enabled(level) {
            return;
        }
        let written = match &self.sink {
            None => return to_stderr(&self.line(level, message)),
            Some(Sink::File(file)) => {
                let mut file = file;
                file.write_all(self.line(level, message).as_bytes()).is_ok()
            }
            Some(Sink::Syslog(socket, name)) => socket
                .send(
                    format!(
                        "<{}>{name}[{}]: {message}",
                        8 + level.priority(),
                        std::process::id()
                    )
                    .as_bytes(),
                )
                .is_ok(),
            Some(Sink::Journal(socket, name)) => {
                socket.send(&journal_entry(level, name, message)).is_ok()
            }
        };
        // Errors go to standard error as well, where people look; and so does what could not be logged.
        if level == Level::Error || !written {
            to_stderr(&format!("{message}\n"));
        }
    }

    fn line(&self, level: Level, message: &str) -> String {
        let time = now_rfc3339_seconds();
        // A string of JSON is also a quoted string of logfmt. Serializing text does not fail.
        let message = serde_json::to_string(message).unwrap_or_default();
        let level = level.name();
        if self.json {
            format!("{{\"level\":\"{level}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
        } else {
            format!("time=\"{time}\" level={level} msg={message}\n")
        }
    }
}

fn connect(path: &str) -> Result<UnixDatagram> {
    let socket = UnixDatagram::unbound().context(|| "--log: socket(AF_UNIX, SOCK_DGRAM)")?;
    socket
        .connect(path)
        .context(|| format!("--log: connect({path:?})"))?;
    Ok(socket)
}

/// The journal's native protocol: a field with a newline in it carries its length.
fn journal_entry(level: Level, name: &str, message: &str) -> Vec<u8> {
    let mut entry = format!(
        "PRIORITY={}\nSYSLOG_IDENTIFIER={}\nMESSAGE\n",
        level.priority(),
        name.replace('\n', " ")
    )
    .into_bytes();
    let length = u64::try_from(message.len()).unwrap_or(0);
    entry.extend_from_slice(&length.to_le_bytes());
    entry.extend_from_slice(message.as_bytes());
    entry.push(b'\n');
    entry
}

/// One write(2), so that lines of several processes do not mix.
fn to_stderr(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The log format that a name stands for: whether it is JSON.
///
/// # Errors
/// An unknown name.
pub fn is_json(format: &str) -> Result<bool> {
    match format {
        "json" => Ok(true),
        "text" => Ok(false),
        other => Err(Error::new(
            Kind::InvalidArgument,
            format!("invalid log-format: {other}; use text or json"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_a_message_onto_one_line() {
        let log = Log {
            json: true,
            ..Log::default()
        };
        let line = log.line(Level::Error, "a \"b\"\nc\u{1}");
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["msg"], "a \"b\"\nc\u{1}");
    }
}
