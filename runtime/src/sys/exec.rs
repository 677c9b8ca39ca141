//! Becoming the program: execve(2) and the signal state that crosses it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::ptr;

use rustix::io::Errno;

use super::last_errno;

/// Puts back to the default the standard signals whose bits are set, the lowest one signal 1's; but
/// SIGPIPE, see [`restore_signals`]. sigaction(2).
pub fn default_signals(set: u64) {
    let ours = [libc::SIGKILL, libc::SIGSTOP, libc::SIGPIPE];
    let wanted = (1..=libc::SIGSYS).filter(|signal| set >> (signal - 1) & 1 == 1);
    for signal in wanted.filter(|signal| !ours.contains(signal)) {
        // SAFETY: SIG_DFL is a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Ignores every signal that can be.
#[cfg(test)]
pub(crate) fn ignore_all() {
    for signal in 1..=libc::SIGSYS {
        // SAFETY: SIG_IGN is a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Puts back to the default what this program changed for itself and execve(2) would hand on: SIGPIPE,
/// which it ignores, and the mask of blocked signals: sigaction(2), sigprocmask(2).
pub fn restore_signals() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before sigprocmask reads it; SIG_DFL is a valid disposition.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Replaces the calling process with the program at `path`: execve(2). Returns only the error.
#[must_use]
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: path and the strings behind argv and envp end with NUL and outlive the call;
    // both arrays end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    last_errno()
}
