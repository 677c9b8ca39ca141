//! kill(2) with any signal number; rustix knows the named signals only.
#![allow(unsafe_code)]

use rustix::io::Errno;

/// Sends `signal` to the process `pid`: kill(2).
///
/// # Errors
/// `ESRCH`, `EPERM`, `EINVAL`; `EINVAL` too for a pid that means more than one process.
pub fn kill(pid: u32, signal: i32) -> Result<(), Errno> {
    let Ok(pid @ 1..) = libc::pid_t::try_from(pid) else {
        return Err(Errno::INVAL);
    };
    // SAFETY: kill(2) takes two numbers and touches no memory of ours.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
