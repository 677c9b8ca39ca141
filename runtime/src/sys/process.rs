//! What a process does to itself: its beginning, executing itself again, its name, its end.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use rustix::io::Errno;

use super::last_errno;

/// The arguments as the C library passed them, where [`adopt_arguments`] was called.
static ARGUMENTS: AtomicPtr<*const c_char> = AtomicPtr::new(ptr::null_mut());

/// Takes over the arguments of the C function `main`, which the standard library does not see
/// where that is not its own; returns them.
///
/// # Safety
/// `argv` is an array of `argc` strings that end with NUL, followed by a null pointer, and stays
/// unchanged until the process ends.
pub unsafe fn adopt_arguments(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    ARGUMENTS.store(argv.cast_mut(), Ordering::Relaxed);
    let count = usize::try_from(argc).unwrap_or(0);
    (0..count)
        .map(|index| {
            // SAFETY: by the caller's word there are so many, each ending with NUL.
            let arg = unsafe { CStr::from_ptr(*argv.add(index)) };
            OsStr::from_bytes(arg.to_bytes()).to_owned()
        })
        .collect()
}

/// Opens /dev/null in the place of standard streams that are closed: no file that the process
/// opens later may be taken for one. poll(2), open(2).
/// The process ends where that cannot be done.
pub fn hold_standard_streams() {
    let stream = |fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    let mut streams = [0, 1, 2].map(stream);
    // SAFETY: the array has three entries and lives across the call.
    if unsafe { libc::poll(streams.as_mut_ptr(), 3, 0) } < 0 {
        // A limit of less than three descriptors, or no memory: nothing good would come of it.
        exit_now(1);
    }
    for stream in streams {
        if stream.revents & libc::POLLNVAL != 0 {
            // SAFETY: opens a file by a name that ends with NUL. The lowest free number is this one.
            let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
            if fd < 0 {
                exit_now(1);
            }
        }
    }
}

/// Lets writing to a pipe that nobody reads fail instead of ending the process. signal(2).
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Lets statuses of children be waited for where the caller ignored SIGCHLD, which execve(2) hands on:
/// without a status there is no exit code, and every hook has failed. signal(2).
pub fn keep_statuses() {
    // SAFETY: SIG_DFL runs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Runs the file `fd` in place of this program, with this program's own arguments and environment.
/// execveat(2). Returns only on failure.
#[must_use]
pub fn reexec(fd: BorrowedFd<'_>) -> Errno {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let args: Vec<CString>;
    let mut pointers: Vec<*const c_char>;
    let mut argv = ARGUMENTS.load(Ordering::Relaxed).cast_const();
    if argv.is_null() {
        args = std::env::args_os()
            .filter_map(|arg| CString::new(arg.into_vec()).ok())
            .collect();
        pointers = args.iter().map(|arg| arg.as_ptr()).collect();
        pointers.push(ptr::null());
        argv = pointers.as_ptr();
    }
    // SAFETY: both arrays end with a null pointer, and what they point to outlives the call:
    // args does by its scope, adopted arguments by the word of whoever passed them, environ
    // because nobody changes the environment meanwhile.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv,
            environ,
            libc::AT_EMPTY_PATH,
        );
    }
    last_errno()
}

/// Ends the process at once, without handlers and without flushing. _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Names the process, as ps shows it; at most 15 bytes count. prctl(2), PR_SET_NAME.
pub fn set_name(name: &CStr) {
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

/// Takes the status of every child that has ended, but of the child `main`, for whom somebody else
/// waits. Once `main` has ended, others are left. waitid(2).
pub fn reap_all_but(main: i32) {
    loop {
        // SAFETY: siginfo_t is plain integers and pointers, for which zero is valid; waitid writes
        // within it. WNOWAIT leaves the child as it is.
        let pid = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            match libc::waitid(libc::P_ALL, 0, &raw mut info, flags) {
                0 => info.si_pid(),
                _ => return,
            }
        };
        if pid == 0 || pid == main {
            return;
        }
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
    }
}
