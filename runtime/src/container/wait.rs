//! Processes by their descriptors: signals for them, and waiting for their end.
//!
//! A descriptor is a pidfd; where pidfd_open(2) is missing, one of the directory /proc/PID, which
//! stays that of the process it was opened for, too: of another one with the same pid, later, it
//! shows nothing.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, pidfd_open,
    pidfd_send_signal, waitid,
};

use crate::error::{Context, Error, Kind, Result};
use crate::proc;

/// Whether descriptors of processes may be directories: pidfd_open(2) was found missing.
static DIRECTORIES: AtomicBool = AtomicBool::new(false);

/// How often a process that is known by its directory is looked at, in milliseconds.
const PAUSE: i64 = 5;

/// A descriptor for a process.
///
/// # Errors
/// `ESRCH` where there is none.
pub(crate) fn open(pid: i32) -> Result<OwnedFd> {
    let process =
        Pid::from_raw(pid).ok_or_else(|| Error::new(Kind::State, "pid 0 is no process"))?;
    match pidfd_open(process, PidfdFlags::empty()) {
        Err(Errno::NOSYS | Errno::PERM) => {}
        result => return result.context(|| format!("pidfd_open({pid})")),
    }
    DIRECTORIES.store(true, Ordering::Relaxed);
    let path = format!("/proc/{pid}");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => Err(Errno::SRCH),
        result => result,
    }
    .context(|| format!("open({path})"))
}

/// Whether a process is known by its directory, at which nobody can wait.
pub(crate) fn is_directory(process: BorrowedFd<'_>) -> bool {
    DIRECTORIES.load(Ordering::Relaxed)
        && fstat(process)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// What /proc says of a process that is known by its directory; `None` once it was reaped.
fn look(directory: BorrowedFd<'_>) -> Option<proc::Identity> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let stat = openat(directory, "stat", flags, Mode::empty()).ok()?;
    proc::identity_in(&stat)
}

/// The pid of a process, in the caller's pid namespace. proc_pid_fdinfo(5).
///
/// # Errors
/// A process that was reaped.
pub(crate) fn pid_of(process: BorrowedFd<'_>) -> Result<i32> {
    if is_directory(process) {
        let found = look(process).map(|found| found.pid);
        return found.ok_or_else(|| Error::system("read(/proc/PID/stat)", Errno::SRCH));
    }
    let path = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let text = std::fs::read_to_string(&path).context(|| format!("read({path})"))?;
    let pid = text
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0)
        .ok_or_else(|| Error::new(Kind::System, format!("{path} names no process")))
}

/// Sends a signal.
pub(crate) fn signal(process: BorrowedFd<'_>, signal: Signal) -> std::result::Result<(), Errno> {
    match pidfd_send_signal(process, signal) {
        Err(Errno::NOSYS | Errno::PERM) => {}
        result => return result,
    }
    // Its pid is not another's as long as it was not reaped, which was so a moment ago.
    let pid = pid_of(process).map_err(|_| Errno::SRCH)?;
    kill_process(Pid::from_raw(pid).ok_or(Errno::SRCH)?, signal)
}

/// Waits until a process has ended, at most `millis` milliseconds; whether it has.
pub(crate) fn ended_within(process: BorrowedFd<'_>, millis: i64) -> Result<bool> {
    if is_directory(process) {
        let end = Instant::now() + Duration::from_millis(millis.unsigned_abs());
        while look(process).is_some_and(|found| found.alive) {
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(PAUSE.unsigned_abs()));
        }
        return Ok(true);
    }
    let timeout = Timespec {
        tv_sec: millis / 1000,
        tv_nsec: millis % 1000 * 1_000_000,
    };
    loop {
        match poll(
            &mut [PollFd::from_borrowed_fd(process, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::system("poll(pidfd)", errno)),
        }
    }
}

/// Waits until one of `fds` is ready, of which the first is `process`, at most `timeout`; whether
/// the process has ended.
///
/// # Errors
/// Those of poll(2).
pub(crate) fn poll_beside(
    process: BorrowedFd<'_>,
    fds: &mut [PollFd<'_>],
    timeout: Option<&Timespec>,
) -> std::result::Result<bool, Errno> {
    if !is_directory(process) {
        poll(fds, timeout)?;
        return Ok(fds.first().is_some_and(|first| !first.revents().is_empty()));
    }
    // Seen now and then only: what the others have to say may come late, but comes.
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: PAUSE * 1_000_000,
    };
    poll(fds.get_mut(1..).unwrap_or_default(), Some(&pause))?;
    if let Some(first) = fds.first_mut() {
        first.clear_revents();
    }
    Ok(look(process).is_none_or(|found| !found.alive))
}

/// Waits for the end of a child: its exit code, or 128 and the signal that ended it.
pub(crate) fn reap(child: BorrowedFd<'_>) -> Result<i32> {
    let mut by_pid = None;
    loop {
        let which = by_pid.map_or(WaitId::PidFd(child), WaitId::Pid);
        match waitid(which, WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(exit_code(&status)),
            Ok(None) | Err(Errno::INTR) => {}
            // P_PIDFD is younger than waitid(2), and the descriptor may be none.
            Err(Errno::INVAL | Errno::BADF) if by_pid.is_none() => {
                by_pid = Some(
                    pid_of(child)
                        .ok()
                        .and_then(Pid::from_raw)
                        .ok_or_else(|| Error::system("waitid(pidfd)", Errno::CHILD))?,
                );
            }
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
    let _ = signal(pidfd, Signal::KILL);
    let _ = reap(pidfd);
}
