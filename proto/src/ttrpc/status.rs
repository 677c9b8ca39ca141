//! How a call ends: the codes of gRPC, which ttrpc shares.

use std::fmt;

use crate::google::rpc;

/// The kind of a result. Callers decide by it, so each is used for what gRPC's
/// documentation says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// None of the others.
    Unknown = 2,
    /// The request is wrong, in whatever state the server is.
    InvalidArgument = 3,
    /// It took longer than the caller allowed.
    DeadlineExceeded = 4,
    /// There is no such object.
    NotFound = 5,
    /// There is such an object already.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// Too large, too many, no space.
    ResourceExhausted = 8,
    /// The object is not in the state for it.
    FailedPrecondition = 9,
    /// Somebody else was faster; the whole may be tried again.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// No such method.
    Unimplemented = 12,
    /// The server itself is at fault.
    Internal = 13,
    /// Not now; the call may be tried again.
    Unavailable = 14,
    /// Data is lost or damaged.
    DataLoss = 15,
    /// Nobody knows who the caller is.
    Unauthenticated = 16,
}

impl From<i32> for Code {
    fn from(number: i32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

impl From<Code> for i32 {
    fn from(code: Code) -> Self {
        code as Self
    }
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// For callers.
    pub code: Code,
    /// For people. Some callers search it for words.
    pub message: String,
}

impl Status {
    /// A failed call.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.message, self.code)
    }
}

impl std::error::Error for Status {}

impl From<Status> for rpc::Status {
    fn from(status: Status) -> Self {
        Self {
            code: status.code.into(),
            message: status.message,
            details: Vec::new(),
        }
    }
}

impl From<rpc::Status> for Status {
    fn from(status: rpc::Status) -> Self {
        Self::new(status.code.into(), status.message)
    }
}

#[cfg(feature = "grpc")]
impl From<Status> for tonic::Status {
    fn from(status: Status) -> Self {
        Self::new(tonic::Code::from_i32(status.code.into()), status.message)
    }
}

#[cfg(feature = "grpc")]
impl From<tonic::Status> for Status {
    fn from(status: tonic::Status) -> Self {
        Self::new(i32::from(status.code()).into(), status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_as_in_grpc() {
        for number in 0..=16 {
            assert_eq!(i32::from(Code::from(number)), number);
        }
        assert_eq!(Code::from(17), Code::Unknown);
        assert_eq!(Code::from(-1), Code::Unknown);
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn grpc_has_the_same_codes() {
        for number in 0..=16 {
            let ours = Status::new(number.into(), "text");
            let theirs = tonic::Status::from(ours.clone());
            assert_eq!(i32::from(theirs.code()), number);
            assert_eq!(format!("{:?}", theirs.code()), format!("{:?}", ours.code));
            assert_eq!(Status::from(theirs), ours);
        }
    }
}
