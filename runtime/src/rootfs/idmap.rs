//! Mounts whose ids are shifted, for callers that mount a root before there is a container.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::sources::new_user_namespace;
use crate::error::{Context, Error, Result};
use crate::spec::config::IdMapping;
use crate::sys::mount::{MOUNT_ATTR_IDMAP, MountAttr, mount_setattr};

/// A user namespace that mounts take their ids from. To be made in a process of one thread.
#[derive(Debug)]
pub struct IdMap(OwnedFd);

impl IdMap {
    /// One with these ranges.
    ///
    /// # Errors
    /// Where the kernel makes none, or refuses the ranges.
    pub fn new(uids: &[IdMapping], gids: &[IdMapping]) -> Result<IdMap> {
        new_user_namespace(uids, gids).map(IdMap)
    }

    /// A copy of the mount that `path` is in, from there on, with all mounts below where
    /// `recursive`: a file looks as if its owner were the one that the ranges make of it. It is
    /// attached nowhere.
    ///
    /// # Errors
    /// open_tree(2); `Unsupported` where kernel or file system can't map ids.
    pub fn copy(&self, path: &Path, recursive: bool) -> Result<OwnedFd> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = open_tree(CWD, path, flags)
            .context(|| format!("open_tree({}, OPEN_TREE_CLONE)", path.display()))?;
        map_ids(tree.as_fd(), recursive, self.0.as_fd())
            .map_err(|error| error.context(path.display()))?;
        Ok(tree)
    }
}

/// Makes a mount that is attached nowhere take its ids from a user namespace.
pub(super) fn map_ids(
    tree: BorrowedFd<'_>,
    recursive: bool,
    namespace: BorrowedFd<'_>,
) -> Result<()> {
    let change = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_raw_fd().unsigned_abs().into(),
        ..MountAttr::default()
    };
    mount_setattr(tree, c"", recursive, &change).map_err(|errno| {
        let error = Error::system("mount_setattr(MOUNT_ATTR_IDMAP)", errno);
        match errno {
            Errno::INVAL => Error::unsupported(
                error,
                "the source's file system does not support id mappings",
            ),
            Errno::PERM => Error::unsupported(
                error,
                "an id mapping needs privileges over the source's file system",
            ),
            Errno::NOSYS => Error::unsupported(error, "id mappings need Linux 5.12"),
            _ => error,
        }
    })
}
