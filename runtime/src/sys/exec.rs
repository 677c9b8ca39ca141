//! Becoming the program: execve(2) and the signal state that crosses it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::ptr;

use rustix::io::Errno;

use super::last_errno;

/// What the caller ignored and execve(2) would hand on: SIGPIPE, as every Rust program does, and what
/// nohup(1) and shells ignore for programs in the background.
const IGNORED: [libc::c_int; 4] = [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

/// Puts back to the default what a program would inherit: signals that are ignored, and the mask of
/// blocked ones: sigaction(2), sigprocmask(2).
pub fn restore_signals() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before sigprocmask reads it; SIG_DFL is a valid disposition.
    unsafe {
        for signal in IGNORED {
            libc::signal(signal, libc::SIG_DFL);
        }
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
