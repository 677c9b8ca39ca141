//! seccomp(2).
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use libc::sock_filter;
use rustix::io::Errno;

/// `SECCOMP_FILTER_FLAG_TSYNC` of linux/seccomp.h.
pub const TSYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_LOG`.
pub const LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
pub const SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_TSYNC_ESRCH`.
const TSYNC_ESRCH: u32 = 1 << 4;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: libc::c_uint = 1;

/// Loads a filter; returns the listener that `listen` asks for. seccomp(2)
///
/// # Errors
/// The call's; EINVAL too for a filter of more than 65535 instructions, ESRCH
/// if another thread could not follow (`TSYNC`).
pub fn load(
    filter: &[sock_filter],
    flags: u32,
    listen: bool,
) -> rustix::io::Result<Option<OwnedFd>> {
    let mut flags = flags;
    if listen {
        flags |= NEW_LISTENER;
        if flags & TSYNC != 0 {
            // Both want the return value; this moves the failure of TSYNC to errno.
            flags |= TSYNC_ESRCH;
        }
    }
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions, which outlive the call; the
    // kernel copies and does not change them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 && listen => {
            // SAFETY: with NEW_LISTENER the call returns a new descriptor that nobody else owns.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        Ok(0) => Ok(None),
        // TSYNC without a listener: the id of a thread that could not follow.
        Ok(1..) => Err(Errno::SRCH),
        _ => Err(last_errno()),
    }
}

/// Whether the kernel takes a flag. Loads nothing. seccomp(2)
#[must_use]
pub fn has_flag(flag: u32) -> bool {
    let flag = match flag {
        WAIT_KILLABLE_RECV => WAIT_KILLABLE_RECV | NEW_LISTENER,
        flag => flag,
    };
    // SAFETY: a null program makes the call fail, with EFAULT if the flags are known.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            flag,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    result == -1 && last_errno() == Errno::FAULT
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
