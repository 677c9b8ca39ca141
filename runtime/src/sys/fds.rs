//! Which descriptors survive execve(2): close_range(2), fcntl(2).
#![allow(unsafe_code)]

use rustix::io::{self, Errno};

fn result(value: libc::c_long) -> io::Result<()> {
    if value == -1 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    Ok(())
}

/// Marks every descriptor from `first` on close-on-exec: close_range(2), Linux 5.11.
///
/// # Errors
/// `ENOSYS` and `EINVAL` on older kernels.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: changes flags of descriptors only; nothing is closed, so every owner keeps what it has.
    result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })
}

/// Whether the descriptor `fd` is open: fcntl(2), F_GETFD.
#[must_use]
pub fn is_open(fd: i32) -> bool {
    // SAFETY: only asks for a flag; a number that is no descriptor gives EBADF.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Lets the descriptor `fd` survive execve(2): fcntl(2), F_SETFD.
///
/// # Errors
/// `EBADF` for a number that is no open descriptor.
pub fn keep_on_exec(fd: i32) -> io::Result<()> {
    // SAFETY: changes a flag only; a number that is no descriptor gives EBADF.
    result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into())
}
