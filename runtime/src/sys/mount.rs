//! Calls of the mount API that rustix lacks.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::clone::check;

/// MOUNT_ATTR_RDONLY of mount_setattr(2).
pub const ATTR_RDONLY: u64 = 1;

/// Changes the attributes of one mount. mount_setattr(2).
///
/// # Errors
/// mount_setattr(2).
pub fn set_attributes(mount: BorrowedFd<'_>, set: u64, clear: u64) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty terminated string and the structure lives across the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
}
