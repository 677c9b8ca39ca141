//! Which descriptors are open and survive execve(2): close_range(2), fcntl(2).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{self, Errno};

use super::clone::check;

/// Marks all descriptors from `first` on close-on-exec. close_range(2).
///
/// # Errors
/// Reading /proc/self/fd, where close_range(2) is missing.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: no pointer is passed; marking descriptors closes none.
    let result = check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC)
    });
    match result {
        // Before Linux 5.11, or hidden by a filter.
        Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => close_on_exec_slowly(first),
        other => other,
    }
}

/// Closes all descriptors from `first` on but those in `keep`. close_range(2).
///
/// For a process that is about to execute a program and uses no other
/// descriptor any more: owners of the closed ones are never dropped in it.
pub fn close_from_except(first: u32, keep: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = keep
        .iter()
        .map(|fd| fd.as_raw_fd().unsigned_abs())
        .collect();
    kept.sort_unstable();
    let mut from = first;
    for fd in kept.into_iter().filter(|fd| *fd >= first).chain([u32::MAX]) {
        let to = fd.saturating_sub(1);
        if from <= to {
            // SAFETY: no pointer is passed; by this function's contract nothing uses the descriptors.
            let closed = check(unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) });
            if closed.is_err() {
                close_slowly(from, to);
            }
        }
        from = fd.saturating_add(1);
    }
}

fn close_slowly(from: u32, to: u32) {
    for fd in open_descriptors()
        .unwrap_or_default()
        .into_iter()
        .filter(|fd| (from..=to).contains(fd))
    {
        // SAFETY: as in close_from_except; one closed meanwhile gives EBADF, which is fine.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

fn open_descriptors() -> Result<Vec<u32>, Errno> {
    let entries = std::fs::read_dir("/proc/self/fd")
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

fn close_on_exec_slowly(first: u32) -> Result<(), Errno> {
    for fd in open_descriptors()?.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: F_SETFD takes an integer; a descriptor closed meanwhile gives EBADF, which is fine.
        unsafe { libc::fcntl(fd.cast_signed(), libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Whether the descriptor `fd` is open and survives execve(2), as one does that the caller handed
/// over and none that was opened by this process: fcntl(2), F_GETFD.
#[must_use]
pub fn is_handed_on(fd: i32) -> bool {
    // SAFETY: only asks for flags; a number that is no descriptor gives EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// A copy of the descriptor of that number, close-on-exec: fcntl(2), F_DUPFD_CLOEXEC.
///
/// # Errors
/// `EBADF` for a number that is no open descriptor.
pub fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the original is not touched; a number that is no descriptor gives EBADF.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    check(copy.into())?;
    // SAFETY: the call has just made it, so that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Lets the descriptor `fd` survive execve(2): fcntl(2), F_SETFD.
///
/// # Errors
/// `EBADF` for a number that is no open descriptor.
pub fn keep_on_exec(fd: i32) -> io::Result<()> {
    // SAFETY: changes a flag only; a number that is no descriptor gives EBADF.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into())
}
