//! What goes wrong, with the class that a client acts on.

use std::fmt;

/// A result of the manager.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of an error. Clients of the containerd API tell classes apart by the gRPC status code,
/// and people by the words at the end of the message; both follow from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The object is not there.
    NotFound,
    /// An object of this name is there already.
    AlreadyExists,
    /// The object is not in a state that allows this.
    FailedPrecondition,
    /// The request makes no sense, whatever the state.
    InvalidArgument,
    /// Somebody else is at it, or something is not reachable: worth another try.
    Unavailable,
    /// A limit is reached: of a size, a number, the disk.
    ResourceExhausted,
    /// An offset or a position that is not there.
    OutOfRange,
    /// What is stored does not agree with itself.
    DataLoss,
    /// Nobody offers this.
    Unimplemented,
    /// The caller has gone, or has asked to stop.
    Cancelled,
    /// It took too long.
    DeadlineExceeded,
    /// The caller may not do this.
    PermissionDenied,
    /// What a shim says without a class.
    Unknown,
    /// A registry does not know the caller, or not as one who may do this.
    Unauthenticated,
    /// What should not happen.
    Internal,
}

impl Code {
    /// The words that end a message of this class, as clients compare them.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::FailedPrecondition => "failed precondition",
            Self::InvalidArgument => "invalid argument",
            Self::Unavailable => "unavailable",
            Self::ResourceExhausted => "resource exhausted",
            Self::OutOfRange => "out of range",
            Self::DataLoss => "data loss",
            Self::Unimplemented => "not implemented",
            Self::Cancelled => "context canceled",
            Self::DeadlineExceeded => "context deadline exceeded",
            Self::PermissionDenied => "permission denied",
            Self::Unknown => "unknown",
            Self::Unauthenticated => "authorization failed",
            Self::Internal => "internal",
        }
    }
}

/// One line about what went wrong, and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: String,
}

impl Error {
    /// An error of a class; the message names the object and says what is wrong with it.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// `what` is not there.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(Code::NotFound, what)
    }

    /// `what` is there already.
    pub fn exists(what: impl Into<String>) -> Self {
        Self::new(Code::AlreadyExists, what)
    }

    /// `what` makes no sense.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, what)
    }

    /// `what` is not possible now.
    pub fn precondition(what: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, what)
    }

    /// `what` should not happen.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Code::Internal, what)
    }

    /// It took too long to do `what`.
    pub fn late(what: impl Into<String>) -> Self {
        Self::new(Code::DeadlineExceeded, what)
    }

    /// A failed system call on `what`.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Code::ResourceExhausted
            }
            std::io::ErrorKind::PermissionDenied => Code::PermissionDenied,
            _ => Code::Internal,
        };
        Self::new(code, format!("{what}: {error}"))
    }

    /// The class.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What is wrong, without the words of its class.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same error, said of something larger.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Code::Internal | Code::Unknown => f.write_str(&self.message),
            // Some texts have the words in them already.
            code if self.message.ends_with(code.words()) => f.write_str(&self.message),
            // Said where the reason comes after, as clients know it.
            Code::Unauthenticated if self.message.contains(self.code.words()) => {
                f.write_str(&self.message)
            }
            code => write!(f, "{}: {}", self.message, code.words()),
        }
    }
}

impl std::error::Error for Error {}
