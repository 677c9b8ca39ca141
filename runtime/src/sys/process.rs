//! What a process does to itself: exec, signals, descriptors.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::clone::{check, last_errno};

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

/// Lets a program inherit the descriptors from 3 on, `count` of them. fcntl(2), F_SETFD.
///
/// # Errors
/// `EBADF` for one that is not open.
pub fn inherit(count: u32) -> Result<(), Errno> {
    for fd in 3..3u32.saturating_add(count) {
        // SAFETY: F_SETFD takes an integer.
        check(unsafe { libc::fcntl(fd.cast_signed(), libc::F_SETFD, 0) }.into())?;
    }
    Ok(())
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

/// Runs the file `fd` in place of this program, with this program's own arguments and environment.
/// execveat(2). Returns only on failure.
#[must_use]
pub fn reexec(fd: BorrowedFd<'_>) -> Errno {
    use std::os::unix::ffi::OsStringExt;
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let args: Vec<CString> = std::env::args_os()
        .filter_map(|arg| CString::new(arg.into_vec()).ok())
        .collect();
    let mut pointers: Vec<*const libc::c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: both arrays end with a null pointer, and what they point to outlives the call:
    // args does by its scope, environ because nobody changes the environment meanwhile.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            pointers.as_ptr(),
            environ,
            libc::AT_EMPTY_PATH,
        );
    }
    last_errno()
}

/// Runs `program` in place of this program. execve(2). Returns only on failure.
#[must_use]
pub fn execve(program: &CString, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |list: &[CString]| {
        let mut pointers: Vec<*const libc::c_char> =
            list.iter().map(|item| item.as_ptr()).collect();
        pointers.push(std::ptr::null());
        pointers
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point into the callers' strings.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_errno()
}

/// Ends the process at once, without handlers and without flushing. _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// A set of blocked signals, to be put back later.
#[derive(Clone, Copy)]
pub struct SignalMask(libc::sigset_t);

impl std::fmt::Debug for SignalMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalMask")
    }
}

/// Blocks all signals and returns what was blocked before. sigprocmask(2).
#[must_use]
pub fn block_signals() -> SignalMask {
    // SAFETY: sigset_t is plain integers; sigfillset and sigprocmask write within it.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        SignalMask(old)
    }
}

/// Puts back a mask. sigprocmask(2).
pub fn restore_signals(mask: &SignalMask) {
    // SAFETY: the mask came from sigprocmask.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
}

/// Unblocks all signals. Before a program of somebody else starts.
pub fn unblock_signals() {
    // SAFETY: as in block_signals.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Gives SIGPIPE, which Rust's start-up ignores, its default action; an ignored signal
/// would stay ignored in the container's program. signal(2).
pub fn default_sigpipe() {
    // SAFETY: SIG_DFL installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// A descriptor that reads blocked signals. signalfd(2).
///
/// # Errors
/// signalfd(2).
pub fn signal_fd() -> Result<OwnedFd, Errno> {
    // SAFETY: the set lives across the call; the new descriptor has no other owner.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        let fd = libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            Err(last_errno())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

/// Reads one signal from a [`signal_fd`]: its number, or `None` where none is pending.
#[must_use]
pub fn read_signal(fd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(fd, &mut info).ok()?;
    // ssi_signo is the structure's first field.
    (read >= 4).then(|| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
}

/// Names the process, as ps shows it; at most 15 bytes count. prctl(2), PR_SET_NAME.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the kernel reads at most 16 bytes of a terminated string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The signal of that number, real-time ones included; `None` for a number that no signal has.
#[must_use]
pub fn signal(number: i32) -> Option<rustix::process::Signal> {
    if !(1..=64).contains(&number) {
        return None;
    }
    // SAFETY: the number is that of a signal; none is raised in or handled by this process here,
    // it is only sent to others, so those that the C library keeps for itself do no harm.
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}
