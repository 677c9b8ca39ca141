//! Hidden and read-only paths.
//!
//! Belongs here: linux.maskedPaths and linux.readonlyPaths. Does not: which
//! paths these are.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType};
use rustix::io::Errno;

use super::kernel::Kernel;
use super::root_fd::{Links, RootFd, file_type};
use super::tree::{Changes, Depth, NewFilesystem, ReadOnly};
use crate::error::{Context, Error, Result};
use crate::spec::Text;
use crate::spec::mount_options::{Attributes, MountOptions, attr};

/// What masks are made of: opened before the root changes, so that nothing the
/// container can touch takes part (CVE-2025-31133).
#[derive(Debug)]
pub(super) struct Masks {
    null: Mask,
    /// An empty file system, made when the first directory is masked.
    empty: Option<Mask>,
}

/// A mount that is put onto the first path itself; the others get copies of it.
/// (Before Linux 6.15 only a mount that is attached can be copied.)
#[derive(Debug)]
struct Mask {
    tree: OwnedFd,
    attached: bool,
}

impl Mask {
    fn new(tree: OwnedFd) -> Mask {
        Mask {
            tree,
            attached: false,
        }
    }

    /// Copies take over what `changes` did to the first mount.
    fn put(
        &mut self,
        root: &RootFd,
        kernel: &Kernel,
        changes: &Changes,
        target: OwnedFd,
    ) -> Result<()> {
        if self.attached {
            let copy = kernel
                .clone_fd(self.tree.as_fd(), Depth::One)
                .context(|| "open_tree(mask)")?;
            kernel
                .attach(copy.as_fd(), target.as_fd())
                .context(|| "move_mount(mask)")?;
            root.done(copy);
        } else {
            self.attached = true;
            kernel.place(self.tree.as_fd(), changes, target.as_fd())?;
        }
        root.done(target);
        Ok(())
    }
}

impl Masks {
    /// Copies the mount of the host's null device and makes sure that it is one.
    pub(super) fn open(kernel: &Kernel) -> Result<Masks> {
        let path = "/dev/null";
        let null = kernel
            .clone_host_path(Path::new(path), Depth::One, false)
            .context(|| format!("open_tree({path:?})"))?;
        let stat = fs::fstat(&null).context(|| format!("fstat({path:?})"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
            || stat.st_rdev != fs::makedev(1, 3)
        {
            return Err(Error::unsupported(
                "linux.maskedPaths",
                "the host's /dev/null is not the null device",
            ));
        }
        Ok(Masks {
            null: Mask::new(null),
            empty: None,
        })
    }

    /// Hides each of `paths`; what does not exist needs no hiding.
    pub(super) fn apply(
        &mut self,
        root: &RootFd,
        kernel: &Kernel,
        paths: &[Text<'_>],
        label: &str,
    ) -> Result<()> {
        for (index, path) in paths.iter().enumerate() {
            self.mask(root, kernel, path, label)
                .context(|| format!("linux.maskedPaths[{index}] {:?}", path.as_str()))?;
        }
        Ok(())
    }

    /// Gives the originals up.
    pub(super) fn done(self, root: &RootFd) {
        root.done(self.null.tree);
        if let Some(empty) = self.empty {
            root.done(empty.tree);
        }
    }

    fn mask(&mut self, root: &RootFd, kernel: &Kernel, path: &str, label: &str) -> Result<()> {
        let Some(target) = existing(root, path)? else {
            return Ok(());
        };
        // The type is looked at first: a mount that fails costs the kernel a
        // grace period, milliseconds instead of microseconds.
        let kind = file_type(target.as_fd()).context(|| "fstat")?;
        if kind != FileType::Directory {
            // It is the host's own node: mode and owner are not for the container to change.
            // A device is written to all the same.
            return self.null.put(root, kernel, &Changes::read_only(), target);
        }
        let empty = match &mut self.empty {
            Some(empty) => empty,
            None => self
                .empty
                .insert(Mask::new(empty_directory(kernel, label)?)),
        };
        empty.put(root, kernel, &Changes::default(), target)
    }
}

/// A read-only tmpfs with nothing in it; its copies share one superblock.
fn empty_directory(kernel: &Kernel, label: &str) -> Result<OwnedFd> {
    let options = MountOptions {
        attributes: Attributes {
            set: attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC,
            clear: 0,
        },
        ..MountOptions::default()
    };
    kernel.new_filesystem(&NewFilesystem {
        kind: "tmpfs",
        source: "",
        options: &options,
        extra: Some(("nr_inodes", "2")),
        label,
        read_only: ReadOnly::All,
    })
}

/// Makes each of `paths`, with the mounts below it as they are, read-only.
pub(super) fn make_read_only(root: &RootFd, kernel: &Kernel, paths: &[Text<'_>]) -> Result<()> {
    for (index, path) in paths.iter().enumerate() {
        read_only(root, kernel, path)
            .context(|| format!("linux.readonlyPaths[{index}] {path:?}"))?;
    }
    Ok(())
}

fn read_only(root: &RootFd, kernel: &Kernel, path: &str) -> Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let tree = kernel
        .clone_fd(target.as_fd(), Depth::All)
        .context(|| "open_tree")?;
    kernel.place(tree.as_fd(), &Changes::read_only(), target.as_fd())?;
    root.done(tree);
    root.done(target);
    Ok(())
}

/// Resolves a path once; everything after works on the descriptor.
fn existing(root: &RootFd, path: &str) -> Result<Option<OwnedFd>> {
    match root.resolve(path, Links::Follow) {
        Ok(fd) => Ok(Some(fd)),
        // ENOTDIR: a component on the way is a file; the path cannot exist.
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Error::system("openat2(rootfs, RESOLVE_IN_ROOT)", errno)),
    }
}
