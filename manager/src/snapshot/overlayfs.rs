//! Snapshots as the layers of an overlay: nothing is copied. The kernel's overlayfs.rst.
//!
//! ```text
//! ID/fs      what the snapshot changes: upperdir, or one of the lowerdirs
//! ID/work    overlayfs's own, for snapshots that are written to
//! ```

use std::path::{Path, PathBuf};

use super::{Driver, Mount, disk};
use crate::error::Result;
use crate::store::name::Labels;
use crate::store::schema::{SnapshotKind, Usage};

/// Layers below one directory.
#[derive(Debug)]
pub struct Overlayfs {
    dir: PathBuf,
    volatile: bool,
}

impl Overlayfs {
    /// Layers below `dir`, which is made where it is not there. Where they may be `volatile`, those
    /// that are written to are mounted without regard to power cuts.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn open(dir: &Path, volatile: bool) -> Result<Self> {
        disk::make_dirs(dir, 0o700)?;
        let dir = dir.to_owned();
        Ok(Self { dir, volatile })
    }

    fn layer(&self, id: u64) -> String {
        self.dir
            .join(id.to_string())
            .join("fs")
            .display()
            .to_string()
    }
}

impl Driver for Overlayfs {
    fn name(&self) -> &'static str {
        "overlayfs"
    }

    fn capabilities(&self) -> &'static [&'static str] {
        &["rebase"]
    }

    fn create(&self, id: u64, kind: SnapshotKind, parents: &[u64], _labels: &Labels) -> Result<()> {
        let dir = self.dir.join(id.to_string());
        let made = (|| {
            disk::make_dir(&dir, 0o700)?;
            disk::make_dir(&dir.join("fs"), 0o755)?;
            if kind == SnapshotKind::Active {
                disk::make_dir(&dir.join("work"), 0o711)?;
            }
            // The root directory belongs to whom it belonged to below.
            parents.first().map_or(Ok(()), |parent| {
                disk::own_alike(Path::new(&self.layer(*parent)), &dir.join("fs"))
            })
        })();
        if made.is_err() {
            let _ = disk::remove(&dir);
        }
        made
    }

    fn rebase(&self, id: u64, parent: u64) -> Result<()> {
        // The root directory belongs to whom it belongs below, unless the layer has said something.
        let own = self.layer(id);
        match disk::is_as_made(Path::new(&own), 0o755)? {
            true => disk::own_alike(Path::new(&self.layer(parent)), Path::new(&own)),
            false => Ok(()),
        }
    }

    fn mounts(&self, id: u64, kind: SnapshotKind, parents: &[u64], _labels: &Labels) -> Vec<Mount> {
        let bind = |id, access: &str| {
            vec![Mount {
                kind: "bind".to_owned(),
                source: self.layer(id),
                options: vec![access.to_owned(), "rbind".to_owned()],
            }]
        };
        match (kind, parents) {
            (SnapshotKind::Active, []) => return bind(id, "rw"),
            (_, []) => return bind(id, "ro"),
            // An overlay of one layer is refused by the kernel.
            (SnapshotKind::View, [parent]) => return bind(*parent, "ro"),
            _ => {}
        }
        let mut options = Vec::new();
        if kind == SnapshotKind::Active {
            let work = self.dir.join(id.to_string()).join("work");
            options.push(format!("workdir={}", work.display()));
            options.push(format!("upperdir={}", self.layer(id)));
        }
        let lower: Vec<String> = parents.iter().map(|parent| self.layer(*parent)).collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        options.push("index=off".to_owned());
        if self.volatile && kind == SnapshotKind::Active {
            options.push("volatile".to_owned());
        }
        vec![Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options,
        }]
    }

    fn usage(&self, id: u64) -> Result<Usage> {
        disk::usage(Path::new(&self.layer(id)))
    }

    fn remove(&self, id: u64) -> Result<()> {
        disk::remove(&self.dir.join(id.to_string()))
    }

    fn ids(&self) -> Result<Vec<u64>> {
        disk::numbers(&self.dir)
    }
}
