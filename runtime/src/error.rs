//! The one error type of the runtime: what failed, where, and why.
//!
//! Belongs here: [`Error`], its [`Kind`]s, and their form on the socket between
//! parent and container process. Does not: texts of single errors, which stand
//! where the error happens.

use std::fmt;

/// What a caller may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A system call or a file operation failed; the errno says how.
    System = 0,
    /// The configuration breaks the specification.
    InvalidConfig = 1,
    /// An argument of the command or call makes no sense.
    InvalidArgument = 2,
    /// There is no such container (or process).
    NotFound = 3,
    /// A container with that id exists already.
    Exists = 4,
    /// The container is in a state that does not allow the operation.
    WrongState = 5,
    /// The kernel, the host or this build lacks a feature that was asked for.
    Unsupported = 6,
    /// A hook failed or ran out of time.
    Hook = 7,
    /// The program of a container cannot be executed.
    Exec = 8,
    /// The state on disk is damaged or of another version.
    State = 9,
}

impl Kind {
    fn from_u8(value: u8) -> Kind {
        match value {
            1 => Kind::InvalidConfig,
            2 => Kind::InvalidArgument,
            3 => Kind::NotFound,
            4 => Kind::Exists,
            5 => Kind::WrongState,
            6 => Kind::Unsupported,
            7 => Kind::Hook,
            8 => Kind::Exec,
            9 => Kind::State,
            _ => Kind::System,
        }
    }
}

/// An error of the runtime: one line for people, a [`Kind`] and an errno for programs.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    errno: i32,
    message: String,
}

/// What the library returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that is not a failed system call.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            errno: 0,
            message: message.into(),
        }))
    }

    /// A failed system call; `call` reads like a line of strace, without its result.
    pub fn system(call: impl Into<String>, errno: rustix::io::Errno) -> Error {
        Error(Box::new(Inner {
            kind: Kind::System,
            errno: errno.raw_os_error(),
            message: call.into(),
        }))
    }

    /// Invalid configuration: `path` is the JSON path, `why` says what is wrong and what to do.
    pub fn config(path: impl fmt::Display, why: impl fmt::Display) -> Error {
        Error::new(Kind::InvalidConfig, format!("{path}: {why}"))
    }

    /// Something that the host lacks: `what` names the field or object that asked for it.
    pub fn unsupported(what: impl fmt::Display, why: impl fmt::Display) -> Error {
        Error::new(Kind::Unsupported, format!("{what}: {why}"))
    }

    /// Puts `context` before the message: the step that failed, outermost first.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Adds what else went wrong while the failed step was undone.
    #[must_use]
    pub fn and_also(mut self, other: Error) -> Error {
        let text = self.to_string();
        self.0.message = format!("{text}; and then {other}");
        self.0.errno = 0;
        self
    }

    /// Changes the kind, keeping errno and message.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.0.kind = kind;
        self
    }

    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The errno of the failed system call, if one failed.
    #[must_use]
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        (self.0.errno != 0).then(|| rustix::io::Errno::from_raw_os_error(self.0.errno))
    }

    /// The form in which an error crosses from the container's process to its parent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(5 + self.0.message.len());
        bytes.push(self.0.kind as u8);
        bytes.extend_from_slice(&self.0.errno.to_le_bytes());
        bytes.extend_from_slice(self.0.message.as_bytes());
        bytes
    }

    /// Reads what [`Error::to_bytes`] wrote; never fails, whatever came.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Error {
        let (kind, errno, message) = match bytes {
            [kind, a, b, c, d, message @ ..] => (
                Kind::from_u8(*kind),
                i32::from_le_bytes([*a, *b, *c, *d]),
                String::from_utf8_lossy(message).into_owned(),
            ),
            _ => (
                Kind::System,
                0,
                "the container's process sent a cut-off error".to_owned(),
            ),
        };
        Error(Box::new(Inner {
            kind,
            errno,
            message,
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if self.0.errno != 0 {
            write!(f, ": {}", errno_text(self.0.errno))?;
        }
        Ok(())
    }
}

/// The kernel's words for an errno in lower case, as callers written in Go match them.
#[must_use]
pub fn errno_text(errno: i32) -> String {
    let mut text = std::io::Error::from_raw_os_error(errno).to_string();
    if let Some(end) = text.rfind(" (os error") {
        text.truncate(end);
    }
    // "No such file" becomes "no such file"; "RFS specific error" stays.
    let mut chars = text.chars();
    if let (Some(first), Some(second)) = (chars.next(), chars.next())
        && first.is_ascii_uppercase()
        && !second.is_ascii_uppercase()
    {
        text.replace_range(0..1, &first.to_ascii_lowercase().to_string());
    }
    text
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Error {}

/// Adds to a failed result what was being done.
pub trait Context<T> {
    /// Puts the text of `context` before the error's message.
    ///
    /// # Errors
    /// The error it was called on.
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| error.context(context()))
    }
}

impl<T> Context<T> for std::result::Result<T, rustix::io::Errno> {
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|errno| Error::system(context().to_string(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
            Some(errno) => Error::system(context().to_string(), errno),
            None => Error::new(Kind::System, format!("{}: {error}", context())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn prints_the_chain_and_the_errno_in_lower_case() {
        let error = Error::system("openat2(3, \"etc\")", Errno::NOENT).context("mounts[2]");
        assert_eq!(
            error.to_string(),
            "mounts[2]: openat2(3, \"etc\"): no such file or directory"
        );
    }

    #[test]
    fn crosses_the_socket_unchanged() {
        let error = Error::system("execve(\"/bin/x\")", Errno::ACCESS).with_kind(Kind::Exec);
        let copy = Error::from_bytes(&error.to_bytes());
        assert_eq!(copy.to_string(), error.to_string());
        assert_eq!(copy.kind(), Kind::Exec);
        assert_eq!(copy.errno(), Some(Errno::ACCESS));
    }

    #[test]
    fn reads_any_bytes() {
        for bytes in [&b""[..], b"\x01", b"\xff\0\0\0\0\xff\xfe"] {
            let _ = Error::from_bytes(bytes).to_string();
        }
    }
}
