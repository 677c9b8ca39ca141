//! Layers: unpacked into directories, and made of what changed in directories.
//!
//! Whoever packed a layer is a stranger, so it is unpacked in a process of its own ([`worker`]): the
//! program executes itself once more, with the layer as a descriptor, and that process shuts itself
//! in with the directory to write to before it reads the first byte. The same holds for reading a
//! container's tree when a layer is made of it.
//!
//! ```text
//! tar/       archives as streams; no file system
//! unpack/    entries to files below a descriptor; no process
//! changes/   files below descriptors to entries
//! worker/    the process: the job, where it works, how it is shut in, decompression
//! spawn.rs   the daemon's side of it; store.rs new layers as blobs
//! differ.rs  other programs that do the same
//! ```

mod changes;
mod differ;
mod spawn;
mod store;
pub mod tar;
pub mod unpack;
pub mod worker;

pub use differ::Differ;
pub use store::New;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::snapshot::Mount;
use crate::store::digest::Digest;

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// As a job says it.
    fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Zstd => 2,
        }
    }

    fn from_number(number: u32) -> Result<Self> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Zstd),
            _ => Err(Error::invalid("an unknown compression")),
        }
    }

    /// What a layer's media type says of it. Nothing where it is not a layer's.
    #[must_use]
    pub fn of(media_type: &str) -> Option<Self> {
        let (base, suffix) = match media_type.split_once('+') {
            Some((base, suffix)) => (base, Some(suffix)),
            None => (media_type, None),
        };
        match (base, suffix) {
            (
                "application/vnd.oci.image.layer.v1.tar"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar",
                suffix,
            ) => match suffix {
                None => Some(Self::None),
                Some("gzip") => Some(Self::Gzip),
                Some("zstd") => Some(Self::Zstd),
                Some(_) => None,
            },
            (
                "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar",
                None,
            ) => Some(Self::None),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                None,
            ) => Some(Self::Gzip),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", None) => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// How much a layer may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes unpacked.
    pub size: u64,
    /// Bytes unpacked for each packed one, once there are more than `unchecked`.
    pub ratio: u64,
    /// See `ratio`.
    pub unchecked: u64,
    /// Entries.
    pub entries: u64,
    /// How long nothing may happen, but for waiting for the layer itself.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            size: 256 << 30,
            ratio: 200,
            unchecked: 4 << 30,
            entries: 4 << 20,
            stall: Duration::from_secs(300),
        }
    }
}

/// What was unpacked, or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The digest of the archive without its compression: the layer's diffID.
    pub diff_id: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Unpacks and makes layers.
#[derive(Debug, Clone)]
pub struct Layers {
    /// The program that is executed as the worker.
    program: PathBuf,
    limits: Limits,
}

impl Layers {
    /// With `program` as the worker: knarrd.
    pub fn new(program: impl Into<PathBuf>, limits: Limits) -> Self {
        let program = program.into();
        Self { program, limits }
    }

    /// Unpacks a layer onto `mounts`, as a snapshotter gives them for a snapshot to write to.
    ///
    /// `source` is the layer: a file, from its position on, or the reading end of a pipe that is
    /// filled meanwhile; it is read to its end, unless something fails. The compression shows in
    /// its first bytes. With `sync`, all of it is on the disk in the end.
    ///
    /// Dropping the future kills the worker; what that has written stays, for the owner of the
    /// snapshot to remove. Nobody has compared the answer with what was promised.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no layer, `ResourceExhausted` where it passes a limit or the
    /// disk is full, `DeadlineExceeded` where nothing happens for too long.
    pub async fn apply(
        &self,
        source: impl Into<OwnedFd>,
        mounts: &[Mount],
        sync: bool,
    ) -> Result<Applied> {
        let job = worker::Job {
            apply: Some(worker::Apply {
                mounts: mounts.iter().map(Into::into).collect(),
                sync,
                size: self.limits.size,
                ratio: self.limits.ratio,
                unchecked: self.limits.unchecked,
                entries: self.limits.entries,
            }),
            diff: None,
        };
        self.work(job, source.into()).await
    }

    /// Makes a layer of what `upper` has that `lower` has not, and writes it to `sink`, a file or the
    /// writing end of a pipe. No time in it is later than `epoch`, in nanoseconds since 1970; equal
    /// trees make equal layers. `lower` may be empty: then all of `upper` is new.
    ///
    /// # Errors
    /// Where the trees can't be read or the sink fails.
    pub async fn diff(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        compression: Compression,
        epoch: Option<i64>,
        sink: impl Into<OwnedFd>,
    ) -> Result<Applied> {
        let job = worker::Job {
            apply: None,
            diff: Some(worker::Diff {
                lower: lower.iter().map(Into::into).collect(),
                upper: upper.iter().map(Into::into).collect(),
                compression: compression.number(),
                epoch: epoch.map(|time| time.div_euclid(1_000_000_000)),
                epoch_nanoseconds: epoch.map_or(0, |time| {
                    u32::try_from(time.rem_euclid(1_000_000_000)).unwrap_or(0)
                }),
            }),
        };
        self.work(job, sink.into()).await
    }

    async fn work(&self, job: worker::Job, file: OwnedFd) -> Result<Applied> {
        let report = spawn::work(&self.program, &job, file, self.limits.stall).await?;
        let (diff_id, size) = (report.diff_id.clone(), report.size);
        match report.error() {
            Some(error) => Err(error),
            None => Ok(Applied {
                diff_id: diff_id.parse()?,
                size,
            }),
        }
    }
}

/// Checks that a layer of this media type can be unpacked.
///
/// # Errors
/// `Unimplemented`.
pub fn check_media_type(media_type: &str) -> Result<()> {
    match Compression::of(media_type) {
        Some(_) => Ok(()),
        None => Err(Error::new(
            crate::error::Code::Unimplemented,
            format!("unsupported diff media type: {media_type}"),
        )),
    }
}
