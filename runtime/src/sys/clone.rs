//! Making the container's process: clone3(2), and clone(2) where a filter hides it.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::last_errno;

/// The same value for every namespace kind, in clone3(2), unshare(2) and setns(2).
pub mod flags {
    /// Mount namespace.
    pub const NEWNS: u64 = 0x0002_0000;
    /// Cgroup namespace.
    pub const NEWCGROUP: u64 = 0x0200_0000;
    /// UTS namespace.
    pub const NEWUTS: u64 = 0x0400_0000;
    /// IPC namespace.
    pub const NEWIPC: u64 = 0x0800_0000;
    /// User namespace.
    pub const NEWUSER: u64 = 0x1000_0000;
    /// Pid namespace.
    pub const NEWPID: u64 = 0x2000_0000;
    /// Network namespace.
    pub const NEWNET: u64 = 0x4000_0000;
    /// Time namespace; clone(2) cannot take it, its bit is part of the exit signal there.
    pub const NEWTIME: u64 = 0x0000_0080;
    /// The new process is a sibling of the caller.
    pub const PARENT: u64 = 0x0000_8000;
    /// For unshare(2): a process of its own, which only one with one thread is.
    pub const THREAD: u64 = 0x0001_0000;
    const PIDFD: u64 = 0x0000_1000;
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    pub(super) const fn pidfd() -> u64 {
        PIDFD
    }
    pub(super) const fn into_cgroup() -> u64 {
        INTO_CGROUP
    }
}

/// The two sides of a clone.
#[derive(Debug)]
pub enum Side {
    /// The caller: the new process and a descriptor for it.
    Parent {
        /// Pid in the caller's pid namespace.
        pid: i32,
        /// Descriptor of the process, close-on-exec.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// Makes a process like fork(2), in new namespaces and, on cgroup v2, in the cgroup of a directory.
/// Where clone3(2) is missing, clone(2) does it; `ENOSYS` for a cgroup then.
///
/// The caller must have one thread: the child runs ordinary code, and a lock
/// that another thread holds would stay locked in it for ever.
///
/// # Errors
/// clone3(2).
pub fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side, Errno> {
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain integers, for which zero is the documented "unset".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | flags::pidfd();
    args.pidfd = std::ptr::from_mut(&mut pidfd).expose_provenance() as u64;
    // A sibling reports its end as the caller does; clone3(2) takes no other wish.
    if flags & flags::PARENT == 0 {
        args.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    }
    if let Some(cgroup) = cgroup {
        args.flags |= flags::into_cgroup();
        args.cgroup = cgroup.as_raw_fd().unsigned_abs().into();
    }
    // SAFETY: args lives across the call and pidfd is written before it returns. Without
    // CLONE_VM the child gets a copy of the memory, so both sides may go on in this frame.
    let mut pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    };
    if pid < 0 {
        let errno = last_errno();
        // Filters of older container engines say EPERM for calls that they do not know.
        if !matches!(errno, Errno::NOSYS | Errno::PERM) {
            return Err(errno);
        }
        if cgroup.is_some() {
            return Err(Errno::NOSYS);
        }
        // What clone(2) cannot take is made before, for the next child.
        let time = match flags & flags::NEWTIME {
            0 => None,
            _ => Some(leave_time_namespace()?),
        };
        let flags = (args.flags & !flags::NEWTIME) | args.exit_signal;
        // SAFETY: as above; a null stack makes clone(2) behave like fork(2). The fourth
        // argument is unused without CLONE_CHILD_* flags on every architecture.
        pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                flags,
                0usize,
                &raw mut pidfd,
                0usize,
                0usize,
            )
        };
        let errno = last_errno();
        if let Some(time) = time.filter(|_| pid != 0) {
            setns(time.as_fd(), flags::NEWTIME)?;
        }
        if pid < 0 {
            return Err(errno);
        }
    }
    if pid == 0 {
        return Ok(Side::Child);
    }
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Side::Parent {
        pid: i32::try_from(pid).map_err(|_| Errno::OVERFLOW)?,
        pidfd,
    })
}

/// Makes a time namespace for the children; returns the one that they had.
fn leave_time_namespace() -> Result<OwnedFd, Errno> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::empty();
    let own = rustix::fs::open("/proc/self/ns/time_for_children", flags, mode)?;
    unshare(flags::NEWTIME)?;
    Ok(own)
}

/// Moves the caller into namespaces: of a process, where `fd` is a pidfd, or the one that `fd` is. setns(2).
///
/// # Errors
/// setns(2).
pub fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags) })
}

/// Moves the caller into new namespaces. unshare(2).
///
/// # Errors
/// unshare(2).
pub fn unshare(flags: u64) -> Result<(), Errno> {
    // SAFETY: no pointer is passed, and CLONE_FILES is not among the flags we define; CLONE_THREAD
    // changes nothing where it does not fail.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) })
}

/// The kind of the namespace that `fd` is, as a `CLONE_NEW*` flag. ioctl_ns(2), NS_GET_NSTYPE.
///
/// # Errors
/// `ENOTTY` where `fd` is no namespace.
pub fn namespace_type(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    const NS_GET_NSTYPE: u64 = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument.
    let kind = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 {
        Err(last_errno())
    } else {
        u64::try_from(kind).map_err(|_| Errno::OVERFLOW)
    }
}

pub(super) fn check(result: libc::c_long) -> Result<(), Errno> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}
