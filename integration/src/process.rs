//! Processes on the host: signals, waiting with a limit, and what /proc says.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Sends a signal by number; a dead process is fine.
pub fn kill(pid: u32, signal: i32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether the process exists and is no zombie.
#[must_use]
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            let (_, rest) = stat.rsplit_once(") ")?;
            rest.chars().next()
        })
        .is_some_and(|state| state != 'Z' && state != 'X')
}

/// The children of a process, their children, and so on.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = fs::read_to_string(path).unwrap_or_default();
        found.extend(
            text.split(' ')
                .filter_map(|child| child.parse::<u32>().ok()),
        );
        next += 1;
    }
    found.split_off(1)
}

/// A limit for something that takes far less, as many times longer as `KNARR_SLOWNESS` says of this
/// machine, which may be emulated.
///
/// # Panics
/// Where that is no number.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    let slowness = std::env::var("KNARR_SLOWNESS").ok();
    limit * slowness.map_or(1, |times| times.parse().unwrap())
}

/// Polls until `done`, at most `limit`; tells whether it came true.
pub fn eventually(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a child has ended, at most `limit`, without reaping it; tells whether it has.
///
/// # Panics
/// Where the kernel has no pidfds.
#[must_use]
pub fn ended_within(child: u32, limit: Duration) -> bool {
    let pid = Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return true,
        Err(error) => panic!("pidfd_open: {error}"),
    };
    let mut fds = [rustix::event::PollFd::new(
        &fd,
        rustix::event::PollFlags::IN,
    )];
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let time = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap(),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match rustix::event::poll(&mut fds, Some(&time)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// The identity of a process's namespace, for example `net:[4026531840]`.
///
/// # Panics
/// Where the process is gone.
#[must_use]
pub fn namespace(pid: u32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}"))
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

/// The path of a process's namespace.
#[must_use]
pub fn namespace_path(pid: u32, kind: &str) -> PathBuf {
    format!("/proc/{pid}/ns/{kind}").into()
}

/// A field of /proc/PID/status.
///
/// # Panics
/// Where the process or the field is missing.
#[must_use]
pub fn status_field(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {field} in the status of {pid}"))
        .trim()
        .to_owned()
}
