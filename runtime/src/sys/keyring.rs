//! Keyrings: keyctl(2).
#![allow(unsafe_code)]

use std::ffi::CStr;

use rustix::io::{self, Errno};

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_SETPERM: libc::c_int = 5;

fn result(value: libc::c_long) -> io::Result<libc::c_long> {
    if value == -1 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    Ok(value)
}

/// Joins the session keyring `name`, which is made where there is none: keyctl_join_session_keyring(3).
/// Returns its serial number.
///
/// # Errors
/// `ENOSYS` for a kernel without keys, `EDQUOT`, `EACCES`.
pub fn join_session(name: &CStr) -> io::Result<i32> {
    // SAFETY: the kernel reads a string at the pointer, which ends with NUL.
    let serial = result(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })?;
    i32::try_from(serial).map_err(|_| Errno::OVERFLOW)
}

/// Sets the permissions of a key: keyctl_setperm(3).
///
/// # Errors
/// Those of the call.
pub fn set_permissions(serial: i32, permissions: u32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    result(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, permissions) })
        .map(drop)
}
