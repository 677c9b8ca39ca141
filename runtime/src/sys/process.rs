//! What a process does to itself: executing itself again, its name, its end.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::clone::last_errno;

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

/// Ends the process at once, without handlers and without flushing. _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
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
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    }
}
