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
pub struct Signals {
    fd: OwnedFd,
    /// The mask from before.
    before: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals of the calling thread and opens the descriptor: signalfd(2).
    ///
    /// # Errors
    /// Those of sigprocmask(2) and signalfd(2).
    pub fn block() -> io::Result<Signals> {
        let set = all_but_faults();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both point to sets that live as long as the call, which initialises the second.
        if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) } != 0 {
            return Err(last_errno());
        }
        // SAFETY: the set is initialised, and lives as long as the call.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_errno());
        }
        Ok(Signals {
            // SAFETY: signalfd returned a new descriptor that nobody else owns.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            // SAFETY: sigprocmask succeeded, and so has written it.
            before: unsafe { before.assume_init() },
        })
    }

    /// Lets the signals that are pending do what they would have done unblocked: sigprocmask(2).
    /// Comes back where that does not end this process.
    pub fn let_through(&self) {
        let set = all_but_faults();
        // SAFETY: both sets are initialised and live as long as the calls.
        unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, &self.before, ptr::null_mut());
            libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        }
    }

    /// The next pending signal: its number.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next(&self) -> io::Result<Option<i32>> {
        // struct signalfd_siginfo: 128 bytes that begin with the number.
        let mut info = [0; 128];
        match io::read(&self.fd, &mut info) {
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
        signals.fd
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signals").field(&self.fd).finish()
    }
}

/// Blocked, a fault would kill the process all the same, without its handler.
fn all_but_faults() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set before the other calls read it.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            libc::sigdelset(set.as_mut_ptr(), fault);
        }
        set.assume_init()
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
