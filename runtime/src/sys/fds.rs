//! Which descriptors are open and survive execve(2), closing many: close_range(2), fcntl(2).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

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

/// Descriptors that are done with, closed many at a time: neighbours take one close_range(2) together.
#[derive(Debug, Default)]
pub struct Batch(Vec<OwnedFd>);

impl Batch {
    /// How many wait at most: a process may have a thousand.
    const MOST: usize = 64;

    /// Takes a descriptor over; it is closed when there are many, or when the batch is dropped.
    pub fn push(&mut self, fd: OwnedFd) {
        self.0.push(fd);
        if self.0.len() >= Self::MOST {
            self.close();
        }
    }

    /// Takes another batch over.
    pub fn append(&mut self, mut other: Batch) {
        for fd in other.0.drain(..) {
            self.push(fd);
        }
    }

    fn close(&mut self) {
        self.0.sort_unstable_by_key(AsRawFd::as_raw_fd);
        let mut rest = self.0.drain(..).map(IntoRawFd::into_raw_fd).peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|fd| *fd == last + 1) {
                last = next;
            }
            close_run(first, last);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.close();
    }
}

/// Closes the descriptors from `first` to `last`, which are the caller's and given up.
fn close_run(first: RawFd, last: RawFd) {
    let (from, to) = (first.unsigned_abs(), last.unsigned_abs());
    // SAFETY: no pointer is passed; the descriptors are the caller's, who uses none any more.
    let closed =
        first < last && check(unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) }).is_ok();
    if !closed {
        for fd in first..=last {
            // SAFETY: as above, and none has been closed: close_range(2) fails for its arguments only.
            unsafe { libc::close(fd) };
        }
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

/// The descriptor by which this program was executed, close-on-exec from now on, where whoever did
/// that left it open. To be called once, before anything that this process opened may have gone to
/// somebody else to be closed. execveat(2), getauxval(3), AT_EXECFN.
#[must_use]
pub fn executed_from() -> Option<OwnedFd> {
    // SAFETY: only looks a value up.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) };
    if name == 0 {
        return None;
    }
    // SAFETY: the value is the address of a string that the kernel has put there for good.
    let name = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(usize::try_from(name).ok()?)) };
    let number = name.to_str().ok()?.strip_prefix("/dev/fd/")?.parse().ok()?;
    if number < 3 || !is_handed_on(number) {
        return None;
    }
    // SAFETY: the descriptor is open, and as it survives execve(2), as none does that this process
    // opens, it is the one that the program was executed by: nobody else here owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    io::fcntl_setfd(&fd, io::FdFlags::CLOEXEC).ok()?;
    Some(fd)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: asks for flags only; a number that is no descriptor gives EBADF.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        flags >= 0
    }

    #[test]
    fn a_batch_closes_its_own_and_no_others() {
        // Far up, where no other test's descriptors come and go.
        let open = |at: RawFd| -> OwnedFd {
            let null = File::open("/dev/null").unwrap();
            io::fcntl_dupfd_cloexec(&null, at).unwrap()
        };
        let all: Vec<OwnedFd> = (700..710).map(open).collect();
        let mut batch = Batch::default();
        let mut kept = Vec::new();
        for fd in all.into_iter().rev() {
            if matches!(fd.as_raw_fd(), 703 | 708) {
                kept.push(fd);
            } else {
                batch.push(fd);
            }
        }
        assert!((700..710).all(is_open));
        drop(batch);
        let open: Vec<RawFd> = (700..710).filter(|fd| is_open(*fd)).collect();
        assert_eq!(open, [703, 708]);
        drop(kept);
    }

    #[test]
    fn a_batch_does_not_grow_for_ever() {
        let mut batch = Batch::default();
        for _ in 0..Batch::MOST * 3 {
            batch.push(File::open("/dev/null").unwrap().into());
            assert!(batch.0.len() < Batch::MOST);
        }
    }
}
