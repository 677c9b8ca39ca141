//! Starting a program: posix_spawn(3), which shares the memory with the child
//! until execve(2) instead of copying the page tables as fork(2) does.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::{self, Errno};
use rustix::process::Pid;

fn check(result: libc::c_int) -> io::Result<()> {
    // The posix_spawn family returns the error number itself.
    match result {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

/// Starts `path` as the leader of a process group of its own, with every signal
/// unblocked and at its default, and exactly `args` and `env`, in `dir` or else the caller's working
/// directory: posix_spawn(3).
///
/// The program gets `fds` as 0, 1, 2 and so on. They must be close-on-exec and have higher numbers
/// than those.
///
/// # Errors
/// Those of execve(2) and clone(2); `EINVAL` for descriptors with too low numbers.
pub fn spawn(
    path: &CStr,
    args: &[CString],
    env: &[CString],
    fds: &[BorrowedFd<'_>],
    dir: Option<BorrowedFd<'_>>,
) -> io::Result<Pid> {
    // A dup2 onto one of them would close what a later one still needs.
    let lowest = i32::try_from(fds.len()).unwrap_or(i32::MAX);
    if fds.iter().any(|fd| fd.as_raw_fd() < lowest) {
        return Err(Errno::INVAL);
    }
    let argv = pointers(args);
    let envp = pointers(env);

    let mut attributes = MaybeUninit::<libc::posix_spawnattr_t>::uninit();
    // SAFETY: posix_spawnattr_init initialises the object that it gets.
    check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
    let attributes = Attributes(attributes);
    let mut actions = MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    // SAFETY: posix_spawn_file_actions_init initialises the object that it gets.
    check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
    let actions = Actions(actions);

    let mut attributes = attributes;
    let mut actions = actions;
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    let flags =
        libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
    // SAFETY: attributes was initialised above; sigemptyset and sigfillset initialise the set
    // before posix_spawnattr_* copies it.
    unsafe {
        let attributes = attributes.0.as_mut_ptr();
        check(libc::posix_spawnattr_setpgroup(attributes, 0))?;
        libc::sigemptyset(signals.as_mut_ptr());
        check(libc::posix_spawnattr_setsigmask(
            attributes,
            signals.as_ptr(),
        ))?;
        libc::sigfillset(signals.as_mut_ptr());
        check(libc::posix_spawnattr_setsigdefault(
            attributes,
            signals.as_ptr(),
        ))?;
        let flags = libc::c_short::try_from(flags).map_err(|_| Errno::INVAL)?;
        check(libc::posix_spawnattr_setflags(attributes, flags))?;
    }
    for (target, fd) in (0..).zip(fds) {
        // SAFETY: actions was initialised above; the call only records two numbers.
        check(unsafe {
            libc::posix_spawn_file_actions_adddup2(actions.0.as_mut_ptr(), fd.as_raw_fd(), target)
        })?;
    }
    if let Some(dir) = dir {
        // SAFETY: actions was initialised above; the call only records a number.
        check(unsafe {
            libc::posix_spawn_file_actions_addfchdir_np(actions.0.as_mut_ptr(), dir.as_raw_fd())
        })?;
    }
    let mut pid: libc::pid_t = 0;
    // SAFETY: path, the strings behind argv and envp, and both objects outlive the call;
    // argv and envp end with a null pointer.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            actions.0.as_ptr(),
            attributes.0.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    })?;
    Pid::from_raw(pid).ok_or(Errno::SRCH)
}

struct Attributes(MaybeUninit<libc::posix_spawnattr_t>);

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: an Attributes is made only after its init call succeeded.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
}

struct Actions(MaybeUninit<libc::posix_spawn_file_actions_t>);

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: an Actions is made only after its init call succeeded.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}
