//! Waiting for processes to end, by their descriptors.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use crate::error::{Error, Result};

/// Waits until a process has ended, at most `millis` milliseconds; whether it has.
pub(super) fn ended_within(pidfd: BorrowedFd<'_>, millis: i64) -> Result<bool> {
    let timeout = Timespec {
        tv_sec: millis / 1000,
        tv_nsec: millis % 1000 * 1_000_000,
    };
    loop {
        match poll(
            &mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::system("poll(pidfd)", errno)),
        }
    }
}

/// Waits for the end of a child: its exit code, or 128 and the signal that ended it.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Result<i32> {
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(exit_code(&status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::system("waitid(pidfd)", errno)),
        }
    }
}

/// The code a shell gives for how a process ended.
pub(crate) fn exit_code(status: &WaitIdStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

/// Ends a child at once and takes its status.
pub(crate) fn kill_and_reap(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let _ = reap(pidfd);
}
