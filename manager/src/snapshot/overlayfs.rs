//! Snapshots as the layers of an overlay: nothing is copied. The kernel's overlayfs.rst.
//!
//! ```text
//! ID/fs      what the snapshot changes: upperdir, or one of the lowerdirs
//! ID/work    overlayfs's own, for snapshots that are written to
//! ```

use std::path::{Path, PathBuf};

use super::idmap::{self, IdMaps};
use super::{Driver, Mount, disk};
use crate::error::Result;
use crate::store::name::Labels;
use crate::store::schema::{SnapshotKind, Usage};

/// Layers below one directory.
#[derive(Debug)]
pub struct Overlayfs {
    dir: PathBuf,
    volatile: bool,
    /// Whether its mounts can shift owners.
    idmapped: bool,
}

impl Overlayfs {
    /// Layers below `dir`, which is made where it is not there. Where they may be `volatile`, those
    /// that are written to are mounted without regard to power cuts.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn open(dir: &Path, volatile: bool) -> Result<Self> {
        disk::make_dirs(dir, 0o700)?;
        Ok(Self {
            dir: dir.to_owned(),
            volatile,
            idmapped: idmap::is_possible(dir),
        })
    }

    fn layer(&self, id: u64) -> String {
        self.dir
            .join(id.to_string())
            .join("fs")
            .display()
            .to_string()
    }

    fn overlay(
        &self,
        id: u64,
        kind: SnapshotKind,
        parents: &[u64],
        mut options: Vec<String>,
    ) -> Mount {
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
        Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options,
        }
    }
}

impl Driver for Overlayfs {
    fn name(&self) -> &'static str {
        "overlayfs"
    }

    fn capabilities(&self) -> &'static [&'static str] {
        match self.idmapped {
            true => &["remap-ids", "only-remap-ids", "rebase"],
            // Clients copy the layers then, and give the copy away.
            false => &["rebase"],
        }
    }

    fn create(&self, id: u64, kind: SnapshotKind, parents: &[u64], labels: &Labels) -> Result<()> {
        let maps = IdMaps::of(labels)?;
        let dir = self.dir.join(id.to_string());
        let made = (|| {
            disk::make_dir(&dir, 0o700)?;
            disk::make_dir(&dir.join("fs"), 0o755)?;
            if kind == SnapshotKind::Active {
                disk::make_dir(&dir.join("work"), 0o711)?;
            }
            // The root directory belongs to whom it belonged to below.
            let below = parents.first().map(|parent| self.layer(*parent));
            disk::own_alike(below.as_deref().map(Path::new), &dir.join("fs"), |owner| {
                maps.as_ref().map_or(owner, |maps| {
                    let root = || maps.outside(0, 0).unwrap_or(owner);
                    maps.outside(owner.0, owner.1).unwrap_or_else(root)
                })
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
            true => {
                let below = self.layer(parent);
                disk::own_alike(Some(Path::new(&below)), Path::new(&own), |owner| owner)
            }
            false => Ok(()),
        }
    }

    fn mounts(
        &self,
        id: u64,
        kind: SnapshotKind,
        parents: &[u64],
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        let maps = IdMaps::of(labels)?;
        let mut options: Vec<String> = maps
            .map(|maps| maps.options)
            .into_iter()
            .flatten()
            .collect();
        let (shown, access) = match (kind, parents) {
            (SnapshotKind::Active, []) => (id, "rw"),
            (_, []) => (id, "ro"),
            // An overlay of one layer is refused by the kernel.
            (SnapshotKind::View, [parent]) => (*parent, "ro"),
            _ => return Ok(vec![self.overlay(id, kind, parents, options)]),
        };
        options.extend([access.to_owned(), "rbind".to_owned()]);
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: self.layer(shown),
            options,
        }])
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
