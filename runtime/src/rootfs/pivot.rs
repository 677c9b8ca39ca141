//! The root mount: bound at the beginning, made `/` at the end.
//!
//! Belongs here: propagation of the namespace's mounts, the root's own mount,
//! pivot_root(2) and its replacement. Does not: what is mounted in the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{self, MountPropagationFlags, UnmountFlags};
use rustix::process;

use super::kernel::Kernel;
use super::plan::RootfsPlan;
use super::root_fd::RootFd;
use super::tree::{self, Changes, Depth};
use crate::error::{Context, Error, Result};
use crate::spec::mount_options::{Propagation, PropagationKind};

pub(super) fn is_shared(plan: &RootfsPlan<'_>) -> bool {
    matches!(
        plan.propagation,
        Some(Propagation {
            kind: PropagationKind::Shared,
            ..
        })
    )
}

/// Keeps what the container mounts from travelling to the host, and finds out
/// what the kernel can do.
///
/// With a shared root the mounts stay as they are, because volumes may be
/// meant to share with the host; then only the root's own mounts are cut off.
pub(super) fn stop_propagation(plan: &RootfsPlan<'_>) -> Result<Kernel> {
    Kernel::probe(!is_shared(plan))
}

/// Makes the root a mount of its own (pivot_root(2) wants one) and returns it.
/// `tree` is the root as the host's side has opened it, if it had to.
pub(super) fn bind_root(
    plan: &RootfsPlan<'_>,
    kernel: &Kernel,
    tree: Option<OwnedFd>,
) -> Result<OwnedFd> {
    let path = &plan.rootfs;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = match fs::open(path, flags, Mode::empty()) {
        // Mapped root may not pass the directories above: any place will do,
        // since it is left at the pivot.
        Err(Errno::ACCESS) if tree.is_some() => fs::open("/", flags, Mode::empty()),
        result => result,
    }
    .context(|| format!("root.path: open({path:?}, O_DIRECTORY)"))?;
    let tree = match tree {
        Some(tree) => tree,
        None => tree::clone_fd(place.as_fd(), Depth::All)
            .context(|| format!("root.path: open_tree({path:?})"))?,
    };
    let changes = match plan.propagation.map(|propagation| propagation.kind) {
        None | Some(PropagationKind::Slave) => Changes::default(),
        // A shared root gets its new peers at the end.
        Some(PropagationKind::Private | PropagationKind::Shared | PropagationKind::Unbindable) => {
            Changes::propagation(Propagation {
                kind: PropagationKind::Private,
                recursive: true,
            })
        }
    };
    if is_shared(plan) {
        make_parent_private(kernel, place.as_fd())?;
    }
    kernel
        .place(tree.as_fd(), &changes, place.as_fd())
        .context(|| "root.path")?;
    Ok(tree)
}

/// Makes the mount that `place` is in private: a mount made upon a shared one
/// would appear on the host too, and pivot_root(2) refuses it.
fn make_parent_private(kernel: &Kernel, place: BorrowedFd<'_>) -> Result<()> {
    let private = Changes::propagation(Propagation {
        kind: PropagationKind::Private,
        recursive: false,
    });
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = fs::openat(place, ".", flags, Mode::empty()).context(|| "openat(rootfs)")?;
    loop {
        // EINVAL: not the root of a mount, so the root is further up.
        match kernel.change(here.as_fd(), &private) {
            Err(error) if error.errno() == Some(Errno::INVAL) => {}
            result => return result.context(|| "root.path: its mount"),
        }
        let above = fs::openat(&here, "..", flags, Mode::empty()).context(|| "openat(\"..\")")?;
        let (a, b) = (fs::fstat(&here), fs::fstat(&above));
        if let (Ok(a), Ok(b)) = (a, b)
            && (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
        {
            return Err(Error::system("root.path: finding its mount", Errno::INVAL));
        }
        here = above;
    }
}

/// Exchanges the roots and detaches the old one.
pub(super) fn pivot_root(root: &RootFd, plan: &RootfsPlan<'_>) -> Result<()> {
    let old = if is_shared(plan) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Some(fs::open("/", flags, Mode::empty()).context(|| "open(\"/\")")?)
    } else {
        None
    };
    process::fchdir(root).context(|| "fchdir(rootfs)")?;
    process::pivot_root(".", ".").map_err(|errno| {
        let error = Error::system("pivot_root(\".\", \".\")", errno);
        match errno {
            Errno::INVAL => error.context("if the host's root is a ramdisk, use --no-pivot"),
            _ => error,
        }
    })?;
    // The old root lies on top of the new one now, and `.` is the new one.
    if let Some(old) = old {
        // Its mounts still share with the host, which must not lose them too.
        process::fchdir(&old).context(|| "fchdir(old root)")?;
        let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount::mount_change(".", flags).context(|| "mount(old root, MS_SLAVE | MS_REC)")?;
        mount::unmount(".", UnmountFlags::DETACH).context(|| "umount2(old root, MNT_DETACH)")?;
        return process::fchdir(root).context(|| "fchdir(rootfs)");
    }
    mount::unmount(".", UnmountFlags::DETACH).context(|| "umount2(old root, MNT_DETACH)")
}

/// Moves the root over the old one and enters it.
pub(super) fn move_root(root: &RootFd) -> Result<()> {
    process::fchdir(root).context(|| "fchdir(rootfs)")?;
    let slash = fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open(\"/\")")?;
    tree::attach(root.as_fd(), slash.as_fd()).context(|| "move_mount(rootfs, \"/\")")?;
    process::chroot(".").context(|| "chroot(rootfs)")
}
