//! Changing mounts on every kernel: with mount_setattr(2), or mount(2) before Linux 5.12.
//!
//! Belongs here: which of the two is used, and how mount(2) is aimed at a
//! descriptor. Does not: what is changed.
//!
//! mount(2) takes paths only. The one it gets is the descriptor's number,
//! relative to the host's /proc/self/fd, which was opened before anything of
//! the container was mounted.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{self, MountFlags, MountPropagationFlags};
use rustix::process::fchdir;

use super::tree::{self, Changes};
use crate::error::{Context, Error, Result};
use crate::spec::mount_options::{MountOptions, attr};
use crate::sys::mount::{MountAttr, mount_setattr};

/// What the running kernel is asked to change mounts with.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The host's /proc/self/fd, where mount_setattr(2) is missing.
    fds: Option<OwnedFd>,
}

impl Kernel {
    /// Finds out; where `slave`, makes all mounts of the namespace slaves on the way.
    pub(super) fn probe(slave: bool) -> Result<Kernel> {
        let mut change = MountAttr::default();
        if slave {
            change.propagation = MountPropagationFlags::DOWNSTREAM.bits().into();
        }
        match mount_setattr(CWD, c"/", slave, &change) {
            Ok(()) => return Ok(Kernel { fds: None }),
            Err(Errno::NOSYS) => {}
            Err(errno) => {
                return Err(Error::system(
                    "mount_setattr(\"/\", AT_RECURSIVE, MS_SLAVE)",
                    errno,
                ));
            }
        }
        if slave {
            let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            mount::mount_change("/", flags).context(|| "mount(\"/\", MS_SLAVE | MS_REC)")?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fds = fs::open("/proc/self/fd", flags, Mode::empty())
            .context(|| "open(\"/proc/self/fd\")")?;
        Ok(Kernel { fds: Some(fds) })
    }

    /// Puts a detached mount onto `destination`, changed. Nobody sees it
    /// unchanged, except where mount(2) has to do it.
    pub(super) fn place(
        &self,
        tree: BorrowedFd<'_>,
        changes: &Changes,
        destination: BorrowedFd<'_>,
    ) -> Result<()> {
        if self.fds.is_none() {
            changes.apply(tree)?;
        }
        tree::attach(tree, destination).context(|| "move_mount(destination)")?;
        if self.fds.is_some() {
            self.change(tree, changes)?;
        }
        Ok(())
    }

    /// Changes a mount that is attached.
    pub(super) fn change(&self, mount: BorrowedFd<'_>, changes: &Changes) -> Result<()> {
        let Some(fds) = &self.fds else {
            return changes.apply(mount);
        };
        let here = fs::openat(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .context(|| "open(\".\")")?;
        fchdir(fds).context(|| "fchdir(\"/proc/self/fd\")")?;
        let result = changes
            .iter()
            .try_for_each(|(recursive, attr)| change_classic(mount, *recursive, attr));
        fchdir(&here).context(|| "fchdir")?;
        result
    }
}

/// mount_setattr(2) by means of mount(2); the working directory is /proc/self/fd.
fn change_classic(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    let name = mount.as_raw_fd().to_string();
    if attr.attr_set | attr.attr_clr != 0 {
        if recursive {
            return Err(Error::unsupported(
                "recursive mount options",
                "need Linux 5.12",
            ));
        }
        let now = fs::fstatvfs(mount).context(|| "fstatvfs")?.f_flag;
        let mut options = MountOptions::default();
        options.attributes.set = current(now) & !attr.attr_clr | attr.attr_set;
        // Without an explicit mode mount(2) takes its default, not the present one.
        options.attributes.clear = attr::ATIME;
        let flags = u32::try_from(options.mount_flags()).unwrap_or(0);
        let flags = MountFlags::from_bits_retain(flags) | MountFlags::BIND;
        mount::mount_remount(&name, flags, c"")
            .context(|| format!("mount(MS_REMOUNT | MS_BIND, {flags:?})"))?;
    }
    if attr.propagation != 0 {
        let mut flags =
            MountPropagationFlags::from_bits_retain(u32::try_from(attr.propagation).unwrap_or(0));
        if recursive {
            flags |= MountPropagationFlags::REC;
        }
        mount::mount_change(&name, flags).context(|| format!("mount({flags:?})"))?;
    }
    Ok(())
}

/// The attributes that a mount has now: statvfs(3).
fn current(flags: StatVfsMountFlags) -> u64 {
    let atime = if flags.contains(StatVfsMountFlags::NOATIME) {
        attr::NOATIME
    } else if flags.contains(StatVfsMountFlags::RELATIME) {
        attr::RELATIME
    } else {
        attr::STRICTATIME
    };
    [
        (StatVfsMountFlags::RDONLY, attr::RDONLY),
        (StatVfsMountFlags::NOSUID, attr::NOSUID),
        (StatVfsMountFlags::NODEV, attr::NODEV),
        (StatVfsMountFlags::NOEXEC, attr::NOEXEC),
        (StatVfsMountFlags::NODIRATIME, attr::NODIRATIME),
        (
            StatVfsMountFlags::from_bits_retain(0x2000),
            attr::NOSYMFOLLOW,
        ),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .fold(atime, |set, (_, attribute)| set | attribute)
}
