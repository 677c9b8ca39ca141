//! Snapshots as whole copies of their parents, for file systems that overlayfs can't be on. Where
//! the file system shares blocks between files, a copy takes no room.

use std::path::{Path, PathBuf};

use super::{Driver, Mount, disk};
use crate::error::Result;
use crate::store::name::Labels;
use crate::store::schema::{SnapshotKind, Usage};

/// Trees below one directory.
#[derive(Debug)]
pub struct Native {
    dir: PathBuf,
}

impl Native {
    /// Trees below `dir`, which is made where it is not there.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn open(dir: &Path) -> Result<Self> {
        disk::make_dirs(dir, 0o700)?;
        let dir = dir.to_owned();
        Ok(Self { dir })
    }

    fn tree(&self, id: u64) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

impl Driver for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn create(&self, id: u64, kind: SnapshotKind, parents: &[u64], _labels: &Labels) -> Result<()> {
        let tree = self.tree(id);
        // One that is only looked at shows its parent.
        let made = match parents.first() {
            Some(parent) if kind == SnapshotKind::Active => disk::copy(&self.tree(*parent), &tree),
            _ => disk::make_dir(&tree, 0o755),
        };
        if made.is_err() {
            let _ = disk::remove(&tree);
        }
        made
    }

    fn mounts(
        &self,
        id: u64,
        kind: SnapshotKind,
        parents: &[u64],
        _labels: &Labels,
    ) -> Result<Vec<Mount>> {
        let (shown, access) = match (kind, parents) {
            (SnapshotKind::Active, _) => (id, "rw"),
            (_, [parent, ..]) => (*parent, "ro"),
            (_, []) => (id, "ro"),
        };
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: self.tree(shown).display().to_string(),
            options: vec!["rbind".to_owned(), access.to_owned()],
        }])
    }

    fn usage(&self, id: u64) -> Result<Usage> {
        disk::usage(&self.tree(id))
    }

    fn remove(&self, id: u64) -> Result<()> {
        disk::remove(&self.tree(id))
    }

    fn ids(&self) -> Result<Vec<u64>> {
        disk::numbers(&self.dir)
    }
}
