//! Snapshots: the layers of root file systems, each a change to its parent.
//!
//! ```text
//!   prepare(key, parent) ──▶ Active ──commit(name)──▶ Committed ◀── parent of others
//!   view(key, parent) ────▶ View
//! ```
//!
//! [`Local`] keeps the records and the rules; a [`Driver`] makes the directories and says how they
//! are mounted, or a [`Proxy`] asks another program to. A snapshot's directory has its number for a name: it is there before its record and
//! goes after it, so that what a crash leaves is a directory without a record, which
//! [`Local::clean_up`] removes.

mod backend;
mod disk;
mod idmap;
mod local;
mod native;
mod overlayfs;
mod proxy;
#[cfg(test)]
mod testsuite;

pub use local::{Local, Named};
pub use native::Native;
pub use overlayfs::Overlayfs;
pub use proxy::Proxy;

use crate::error::{Code, Error, Result};
use crate::store::name::Labels;
use crate::store::schema::{SnapshotKind, Usage};

/// A mount that a client makes to see a snapshot: mount(8), without the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The type of the file system, or `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Options, as for mount(8).
    pub options: Vec<String>,
}

/// How one kind of snapshotter lays out its directories. Numbers name the snapshots; `parents`
/// begins with the nearest. No method is called from an asynchronous task.
pub trait Driver: std::fmt::Debug + Send + Sync + 'static {
    /// The name that clients choose it by.
    fn name(&self) -> &'static str;

    /// What it can do beyond what all can, in the words of the API.
    fn capabilities(&self) -> &'static [&'static str] {
        &[]
    }

    /// Makes the directory of a new snapshot.
    ///
    /// # Errors
    /// Where the disk fails; then nothing is left.
    fn create(&self, id: u64, kind: SnapshotKind, parents: &[u64], labels: &Labels) -> Result<()>;

    /// Puts an active snapshot that has no parent upon `parent`.
    ///
    /// # Errors
    /// `Unimplemented` where a snapshot is more than what it changes; where the disk fails.
    fn rebase(&self, _id: u64, _parent: u64) -> Result<()> {
        let what = format!("a commit of {} upon another parent", self.name());
        Err(Error::new(Code::Unimplemented, what))
    }

    /// How a snapshot is mounted.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that make no sense.
    fn mounts(
        &self,
        id: u64,
        kind: SnapshotKind,
        parents: &[u64],
        labels: &Labels,
    ) -> Result<Vec<Mount>>;

    /// What a snapshot takes on the disk beyond its parent.
    ///
    /// # Errors
    /// Where the disk fails.
    fn usage(&self, id: u64) -> Result<Usage>;

    /// Removes the directory of a snapshot, if there is one.
    ///
    /// # Errors
    /// Where the disk fails.
    fn remove(&self, id: u64) -> Result<()>;

    /// The numbers of all snapshots that have a directory.
    ///
    /// # Errors
    /// Where the disk fails.
    fn ids(&self) -> Result<Vec<u64>>;
}

/// The labels of a snapshot that are meant for whoever makes it.
fn inherited(labels: &Labels) -> Labels {
    let meant = |key: &str| {
        key.starts_with("containerd.io/snapshot/") || key == "containerd.io/snapshot.ref"
    };
    let labels = labels.iter().filter(|(key, _)| meant(key));
    labels
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
