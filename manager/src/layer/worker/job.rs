//! What the daemon asks of a worker, and what that answers.
//!
//! ```text
//! daemon                          worker
//!   length, Job, descriptors ──▶
//!                             ◀── BEAT   now and then, while it gets on
//!                             ◀── DONE, Report, the end of the stream
//! ```
//!
//! The descriptors are the layer to read, or the place to write a new one to.

use prost::Message;

use crate::error::{Code, Error};
use crate::snapshot::Mount;

/// The worker gets on.
pub const BEAT: u8 = 0;

/// The rest is the report.
pub const DONE: u8 = 1;

/// The longest job, in bytes.
pub const LONGEST: usize = 64 << 10;

/// What a worker is to do.
#[derive(Clone, PartialEq, Message)]
pub struct Job {
    /// What it unpacks.
    #[prost(message, optional, tag = "1")]
    pub apply: Option<Apply>,
    /// What it compares.
    #[prost(message, optional, tag = "2")]
    pub diff: Option<Diff>,
}

/// A layer that is to be unpacked.
#[derive(Clone, PartialEq, Message)]
pub struct Apply {
    /// Where to.
    #[prost(message, repeated, tag = "1")]
    pub mounts: Vec<Mounted>,
    /// Whether all of it has to be on the disk at the end.
    #[prost(bool, tag = "2")]
    pub sync: bool,
    /// The most bytes that it may have.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// The most bytes that may come out of one.
    #[prost(uint64, tag = "4")]
    pub ratio: u64,
    /// From so many bytes on.
    #[prost(uint64, tag = "5")]
    pub unchecked: u64,
    /// The most entries.
    #[prost(uint64, tag = "6")]
    pub entries: u64,
}

/// Trees of which the difference is to be told.
#[derive(Clone, PartialEq, Message)]
pub struct Diff {
    /// As it was.
    #[prost(message, repeated, tag = "1")]
    pub lower: Vec<Mounted>,
    /// As it is.
    #[prost(message, repeated, tag = "2")]
    pub upper: Vec<Mounted>,
    /// Of the layer.
    #[prost(uint32, tag = "3")]
    pub compression: u32,
    /// The latest time in it, in seconds and nanoseconds.
    #[prost(int64, optional, tag = "4")]
    pub epoch: Option<i64>,
    /// The rest of it.
    #[prost(uint32, tag = "5")]
    pub epoch_nanoseconds: u32,
}

/// A [`Mount`].
#[derive(Clone, PartialEq, Message)]
pub struct Mounted {
    /// The type.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// What.
    #[prost(string, tag = "2")]
    pub source: String,
    /// How.
    #[prost(string, repeated, tag = "3")]
    pub options: Vec<String>,
}

impl From<&Mount> for Mounted {
    fn from(mount: &Mount) -> Self {
        let Mount {
            kind,
            source,
            options,
        } = mount.clone();
        Self {
            kind,
            source,
            options,
        }
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Message)]
pub struct Report {
    /// The digest of the archive, empty where it failed.
    #[prost(string, tag = "1")]
    pub diff_id: String,
    /// Its length in bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// What went wrong.
    #[prost(string, tag = "3")]
    pub message: String,
    /// Its class, an index of `CODES`.
    #[prost(uint32, tag = "4")]
    pub code: u32,
}

/// The classes, as numbers.
const CODES: [Code; 13] = [
    Code::Internal,
    Code::NotFound,
    Code::AlreadyExists,
    Code::FailedPrecondition,
    Code::InvalidArgument,
    Code::Unavailable,
    Code::ResourceExhausted,
    Code::OutOfRange,
    Code::DataLoss,
    Code::Unimplemented,
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::PermissionDenied,
];

impl From<&Error> for Report {
    fn from(error: &Error) -> Self {
        let code = CODES.iter().position(|code| *code == error.code());
        Self {
            message: error.message().to_owned(),
            code: u32::try_from(code.unwrap_or(0)).unwrap_or(0),
            ..Self::default()
        }
    }
}

impl Report {
    /// The error that it tells of.
    pub fn error(self) -> Option<Error> {
        let code = usize::try_from(self.code)
            .ok()
            .and_then(|code| CODES.get(code));
        let code = *code.unwrap_or(&Code::Internal);
        self.diff_id
            .is_empty()
            .then(|| Error::new(code, self.message))
    }
}
