//! The command line, in the style of Go's flags: `-name value`, `-name=value`, one dash or two.

use std::ffi::OsString;
use std::path::PathBuf;

use knarr_runtime::error::{Error, Kind, Result};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `-v`
    Version,
    /// `-info`
    Info,
    /// `start`
    Start,
    /// `delete`
    Delete,
    /// Neither: serves calls on the socket that is standard input.
    Serve,
}

/// A parsed command line.
#[derive(Debug)]
pub struct Args {
    pub action: Action,
    /// Namespace of the daemon's client.
    pub namespace: String,
    /// Id of the container or sandbox.
    pub id: String,
    /// Path of the daemon's main socket.
    pub address: String,
    /// Directory of the container, for `delete`.
    pub bundle: Option<PathBuf>,
    /// Path of the shim's own socket, for serving.
    pub socket: String,
}

impl Args {
    /// Parses the arguments behind the program's name.
    ///
    /// # Errors
    /// `InvalidArgument`: an unknown flag or command, a value that is missing.
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Args> {
        let mut args = Args {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            socket: String::new(),
        };
        let mut words = words.map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-') else {
                args.action = match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(wrong(format!("unknown command {word:?}"))),
                };
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, mut given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut value = || {
                given
                    .take()
                    .or_else(|| words.next())
                    .ok_or_else(|| wrong(format!("-{name} needs a value")))
            };
            match name {
                "v" | "version" => args.action = Action::Version,
                "info" => args.action = Action::Info,
                "debug" => {}
                "namespace" => args.namespace = value()?,
                "id" => args.id = value()?,
                "address" => args.address = value()?,
                "socket" => args.socket = value()?,
                "bundle" => args.bundle = Some(value()?.into()),
                // Events go over the daemon's ttrpc socket.
                "publish-binary" => drop(value()?),
                _ => return Err(wrong(format!("unknown flag -{name}"))),
            }
        }
        let named = matches!(args.action, Action::Version | Action::Info);
        if !named && (args.id.is_empty() || args.namespace.is_empty()) {
            return Err(wrong("-id and -namespace are needed".to_owned()));
        }
        Ok(args)
    }
}

fn wrong(why: String) -> Error {
    Error::new(Kind::InvalidArgument, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn as_daemons_call_it() {
        let args = parse(
            "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id x start",
        )
        .unwrap();
        assert_eq!(args.action, Action::Start);
        assert_eq!(
            (&*args.namespace, &*args.id, &*args.address),
            ("default", "x", "/run/c.sock")
        );
        let args = parse("--namespace=ns --id=y -bundle /b delete").unwrap();
        assert_eq!(args.action, Action::Delete);
        assert_eq!(args.bundle, Some("/b".into()));
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn what_makes_no_sense() {
        for line in [
            "",
            "-id x start",
            "-namespace n -id x stop",
            "-wrong",
            "-id",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
