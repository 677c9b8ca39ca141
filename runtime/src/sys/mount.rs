//! Mount calls that rustix lacks: mount_setattr(2) and open_tree_attr(2).
//!
//! Belongs here: the calls and the structure they take. Does not: which
//! attributes a mount gets.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::last_errno;

/// `MOUNT_ATTR_IDMAP`: the mount maps ids as the user namespace in [`MountAttr::userns_fd`] does.
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// `AT_EMPTY_PATH`: the descriptor itself is meant.
const AT_EMPTY_PATH: libc::c_uint = 0x1000;

/// `AT_RECURSIVE`: all mounts below are meant too.
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// `struct mount_attr` of mount_setattr(2), first version (32 bytes).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` bits to set.
    pub attr_set: u64,
    /// `MOUNT_ATTR_*` bits to clear; cleared before the others are set.
    pub attr_clr: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0 for no change.
    pub propagation: u64,
    /// Descriptor of the user namespace for [`MOUNT_ATTR_IDMAP`].
    pub userns_fd: u64,
}

/// Changes the mount whose root `path` is, `mount` itself where `path` is empty,
/// with all mounts below it where `recursive`.
///
/// # Errors
/// mount_setattr(2): `EINVAL` where that is not the root of a mount,
/// `EPERM` for an attribute that is locked, `ENOSYS` before Linux 5.12.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attr: &MountAttr,
) -> Result<(), Errno> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `path` is NUL-terminated; `attr` points to a live `repr(C)`
    // structure whose size is passed with it. The kernel only reads both. The
    // descriptor stays open while it is borrowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}
