//! The root mount: bound at the beginning, made `/` at the end.
//!
//! Belongs here: propagation of the namespace's mounts, the root's own mount,
//! pivot_root(2) and its replacement. Does not: what is mounted in the root.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{self, MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process;

use super::kernel::{Kernel, Reach};
use super::plan::RootfsPlan;
use super::root_fd::RootFd;
use super::tree::{Changes, Depth};
use crate::error::{Context, Error, Result};
use crate::proc::unescape;
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
    Kernel::probe(match (plan.mount_namespace, is_shared(plan)) {
        (false, _) => Reach::Host,
        (true, true) => Reach::Shared,
        (true, false) => Reach::Container,
    })
}

/// The root where the mounts are the host's: the directory as it is, no mount.
pub(super) fn open_root(plan: &RootfsPlan<'_>) -> Result<OwnedFd> {
    let needs = |field, what: &str| {
        let why = format!(
            "{what} without a mount namespace would change the host; add one to linux.namespaces"
        );
        Err(Error::config(field, why))
    };
    if plan.readonly {
        return needs("root.readonly", "a read-only root");
    }
    if plan.propagation.is_some() {
        return needs("linux.rootfsPropagation", "the propagation of the root");
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = &plan.rootfs;
    fs::open(path, flags, Mode::empty())
        .context(|| format!("root.path: open({path:?}, O_DIRECTORY)"))
}

/// Makes the root a mount of its own (pivot_root(2) wants one) and returns it.
/// `tree` is the root as the host's side has opened it, if it had to.
pub(super) fn bind_root(
    plan: &RootfsPlan<'_>,
    kernel: &Kernel,
    tree: Option<OwnedFd>,
) -> Result<RootFd> {
    match bind_root_by(plan, kernel, tree) {
        // The first of the calls that make mounts detached or move them: it shows whether there
        // are any, or whether a filter has other words for that.
        Err(error)
            if matches!(error.errno(), Some(Errno::NOSYS | Errno::PERM))
                && kernel.begin_staging() =>
        {
            bind_root_by(plan, kernel, None).map_err(|_| error)
        }
        result => result,
    }
}

fn bind_root_by(plan: &RootfsPlan<'_>, kernel: &Kernel, tree: Option<OwnedFd>) -> Result<RootFd> {
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
        None => kernel
            .clone_fd(place.as_fd(), Depth::All)
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
    let root = RootFd::from(tree);
    root.done(place);
    Ok(root)
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

/// Enters the root and leaves all mounts where they are.
pub(super) fn change_root(root: &RootFd) -> Result<()> {
    process::fchdir(root).context(|| "fchdir(rootfs)")?;
    process::chroot(".").context(|| "chroot(rootfs)")
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
///
/// The old root stays mounted beneath. Whole proc and sys file systems there
/// would let a user namespace in the container mount new ones without the
/// masks, so they go first.
pub(super) fn move_root(root: &RootFd, kernel: &Kernel, plan: &RootfsPlan<'_>) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .context(|| "read(\"/proc/self/mountinfo\")")?;
    let inside = fs::readlinkat(
        CWD,
        format!("/proc/self/fd/{}", root.as_fd().as_raw_fd()),
        Vec::new(),
    )
    .context(|| "readlink(\"/proc/self/fd/N\")")?;
    if is_shared(plan) {
        // What goes here must stay on the host.
        let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount::mount_change("/", flags).context(|| "mount(\"/\", MS_SLAVE | MS_REC)")?;
    }
    for place in full_views(&table, inside.to_bytes()) {
        if mount::unmount(&*place, UnmountFlags::DETACH).is_err() {
            mount::mount("tmpfs", &*place, "tmpfs", MountFlags::RDONLY, None)
                .context(|| format!("mount(\"tmpfs\", {:?})", String::from_utf8_lossy(&place)))?;
        }
    }
    process::fchdir(root).context(|| "fchdir(rootfs)")?;
    let slash = fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open(\"/\")")?;
    kernel
        .attach(root.as_fd(), slash.as_fd())
        .context(|| "move_mount(rootfs, \"/\")")?;
    process::chroot(".").context(|| "chroot(rootfs)")
}

/// Where whole proc and sys file systems are mounted outside of the directory
/// `inside`, the last one first: proc_pid_mountinfo(5).
fn full_views(table: &str, inside: &[u8]) -> Vec<Vec<u8>> {
    let mut places: Vec<Vec<u8>> = table
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            if !matches!(filesystem.split(' ').next()?, "proc" | "sysfs") {
                return None;
            }
            let mut fields = mount.split(' ').skip(3);
            let root = fields.next()?;
            let place = unescape(fields.next()?);
            let below = place
                .strip_prefix(inside)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
            (root == "/" && !below).then_some(place)
        })
        .collect();
    places.reverse();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_whole_views_outside_the_root() {
        let table = "1 0 0:1 / / rw - ext4 x rw\n\
             2 1 0:2 / /proc rw - proc proc rw\n\
             3 1 0:3 / /b\\040c/sys rw shared:1 - sysfs sysfs rw\n\
             4 1 0:2 /sys /proc/sys ro - proc proc rw\n\
             5 1 0:4 / /r/proc rw - proc proc rw\n\
             6 1 0:4 / /rx rw - proc proc rw\n";
        let places: Vec<_> = full_views(table, b"/r")
            .into_iter()
            .map(|place| String::from_utf8(place).unwrap())
            .collect();
        assert_eq!(places, ["/rx", "/b c/sys", "/proc"]);
    }
}
