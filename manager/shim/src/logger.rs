//! Log URIs, and the programs that some of them name.
//!
//! A logger gets standard output and error of a process as its descriptors 3 and 4, says by closing
//! 5 that it is ready, and ends when both have ended.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knarr_proto::ttrpc::{Code, Status};
use knarr_runtime::sys::spawn::spawn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::stdio::{Owner, failed, null};

/// How long a logger may take to be ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where output goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// Through a fifo to the client.
    Fifo(PathBuf),
    /// To the end of a file.
    File(PathBuf),
    /// To a program with these arguments.
    Logger(PathBuf, Vec<OsString>),
}

impl Target {
    /// What a client has named: a path, or a URI.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for a scheme that is unknown.
    pub fn parse(text: &str) -> Result<Target, Status> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Target::Fifo(text.into()));
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(decode(path, false));
        match scheme {
            "fifo" => Ok(Target::Fifo(path)),
            // What stands before a path is a host, which there is none of.
            "file" if !path.is_absolute() => {
                let message = format!("open {text}: there is no absolute path in it");
                Err(Status::new(Code::InvalidArgument, message))
            }
            "file" => Ok(Target::File(path)),
            "binary" => {
                let pairs = query.split('&').filter(|pair| !pair.is_empty());
                let arguments = pairs.flat_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    [decode(key, true), decode(value, true)]
                });
                Ok(Target::Logger(path, arguments.collect()))
            }
            _ => {
                let message = format!("unknown STDIO scheme {scheme}");
                Err(Status::new(Code::Unimplemented, message))
            }
        }
    }
}

/// Percent-decodes; what is no valid code stays as it is.
fn decode(text: &str, plus_is_space: bool) -> OsString {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        let code = match (digit(rest.first()), digit(rest.get(1))) {
            (Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        let (byte, rest) = match (first, code) {
            (b'%', Some(byte)) => (byte, rest.get(2..).unwrap_or_default()),
            (b'+', _) if plus_is_space => (b' ', rest),
            (byte, _) => (*byte, rest),
        };
        decoded.push(byte);
        bytes = rest;
    }
    OsString::from_vec(decoded)
}

/// A program that logs what a process writes.
#[derive(Debug)]
pub struct Logger {
    /// Its process, a child of the shim.
    pub pid: Pid,
    /// What the process shall have as standard output and error.
    pub streams: [OwnedFd; 2],
}

impl Logger {
    /// Starts the program for the process of that id, and waits until it is ready.
    ///
    /// # Errors
    /// A program that cannot be started, or ends or does nothing instead of being ready.
    pub fn start(path: &Path, arguments: &[OsString], of: Owner<'_>) -> Result<Logger, Status> {
        let what = format!("logger {}", path.display());
        let text = |text: &OsStr| {
            CString::new(text.as_bytes()).map_err(|_| {
                let message = format!("{what}: an argument with a NUL byte");
                Status::new(Code::InvalidArgument, message)
            })
        };
        let path = text(path.as_os_str())?;
        let mut args = vec![path.clone()];
        for argument in arguments {
            args.push(text(argument)?);
        }
        let env = [
            text(format!("CONTAINER_ID={}", of.id).as_ref())?,
            text(format!("CONTAINER_NAMESPACE={}", of.namespace).as_ref())?,
        ];
        let pipe = || -> Result<(OwnedFd, OwnedFd), Errno> {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            // The program has lower numbers.
            Ok((above(&reader)?, above(&writer)?))
        };
        let (out, stdout) = pipe().map_err(failed("pipe2()"))?;
        let (err, stderr) = pipe().map_err(failed("pipe2()"))?;
        let (ready, readiness) = pipe().map_err(failed("pipe2()"))?;
        let null = above(&null()?).map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
        let null = null.as_fd();
        let fds = [
            null,
            null,
            null,
            out.as_fd(),
            err.as_fd(),
            readiness.as_fd(),
        ];
        let pid = spawn(&path, &args, &env, &fds, None).map_err(failed(&what))?;
        drop(readiness);
        let logger = Logger {
            pid,
            streams: [stdout, stderr],
        };
        match until_closed(&ready, Instant::now() + PATIENCE) {
            true => Ok(logger),
            false => {
                let _ = kill_process_group(pid, Signal::KILL);
                let seconds = PATIENCE.as_secs();
                let message = format!(
                    "{what} is not ready after {seconds} seconds: it closes descriptor 5 to say so"
                );
                Err(Status::new(Code::DeadlineExceeded, message))
            }
        }
    }
}

fn above(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 6)
}

/// Whether the other end is closed, or writes, before `end`.
fn until_closed(fd: &OwnedFd, end: Instant) -> bool {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else {
            return false;
        };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let parse = |text| Target::parse(text).unwrap();
        assert_eq!(parse("/a b%20"), Target::Fifo("/a b%20".into()));
        assert_eq!(parse("fifo:///a"), Target::Fifo("/a".into()));
        assert_eq!(
            parse("file:///a%20b%zz%2"),
            Target::File("/a b%zz%2".into())
        );
        let arguments = ["k", "v w", "x=y", "", "z", ""].map(OsString::from).into();
        assert_eq!(
            parse("binary:///bin/l?k=v+w&x%3dy&&z="),
            Target::Logger("/bin/l".into(), arguments)
        );
        let unknown = Target::parse("npipe://x").unwrap_err();
        assert_eq!(unknown.code, Code::Unimplemented);
    }
}
