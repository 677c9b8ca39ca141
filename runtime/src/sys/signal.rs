//! Signals as a descriptor: signalfd(2), sigprocmask(2).
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::{self, Errno};

use super::last_errno;

/// All signals but those of faults, blocked and readable from a descriptor.
///
/// Made before a child is, so that none is lost between. The mask is inherited: a child must
/// put its own right before execve(2), see [`super::exec::restore_signals`].
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals of the calling thread and opens the descriptor: signalfd(2).
    ///
    /// # Errors
    /// Those of sigprocmask(2) and signalfd(2).
    pub fn block() -> io::Result<Signals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initialises the set before the other calls read it.
        let fd = unsafe {
            libc::sigfillset(set.as_mut_ptr());
            // Blocked, a fault would kill the process all the same, without its handler.
            for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
                libc::sigdelset(set.as_mut_ptr(), fault);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) != 0 {
                return Err(last_errno());
            }
            libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: signalfd returned a new descriptor that nobody else owns.
        Ok(Signals(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal: its number.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next(&self) -> io::Result<Option<i32>> {
        // struct signalfd_siginfo: 128 bytes that begin with the number.
        let mut info = [0; 128];
        match io::read(&self.0, &mut info) {
            Ok(count) if count == info.len() => {
                let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                Ok(i32::try_from(number).ok())
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl From<Signals> for OwnedFd {
    fn from(signals: Signals) -> OwnedFd {
        signals.0
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

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
        Err(last_errno())
    }
}
