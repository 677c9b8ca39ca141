//! Freezing and killing: the waiting that both versions share.

use rustix::io::Errno;

use super::{Manager, file};
use crate::error::{Error, Kind, Result};
use crate::sys::signal::kill;

/// How long processes may take to stand still.
const FREEZE_MS: u64 = 10_000;

/// Asks again and again until `done` says yes; pauses grow from 50 us to 10 ms.
pub(super) fn wait_until(what: &str, mut done: impl FnMut(u32) -> Result<bool>) -> Result<()> {
    let mut waited = std::time::Duration::ZERO;
    let mut pause = std::time::Duration::from_micros(50);
    for attempt in 0.. {
        if done(attempt)? {
            return Ok(());
        }
        if waited >= std::time::Duration::from_millis(FREEZE_MS) {
            break;
        }
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(std::time::Duration::from_millis(10));
    }
    Err(Error::new(
        Kind::System,
        format!("{what}: not done after {FREEZE_MS} ms"),
    ))
}

/// Sends a signal to every process of a cgroup while none of them can fork.
/// Afterwards the processes stand or run as before, but SIGKILL always lets
/// them go, because a frozen process does not die.
pub(super) fn signal_frozen(manager: &dyn Manager, signal: i32) -> Result<()> {
    let deadly = signal == libc::SIGKILL;
    let was_frozen = manager.is_frozen().unwrap_or(false);
    // Without a freezer one round has to do; SIGKILL gets more, as forks may escape it.
    let frozen = was_frozen || manager.freeze().is_ok();
    let mut result = send(manager, signal);
    if frozen && (deadly || !was_frozen) {
        let thawed = manager.thaw();
        result = result.and(thawed);
    }
    if deadly && !frozen {
        for _ in 0..10 {
            if manager.pids()?.is_empty() {
                break;
            }
            file::pause_ms(1);
            result = send(manager, signal);
        }
    }
    result
}

fn send(manager: &dyn Manager, signal: i32) -> Result<()> {
    for pid in manager.pids()? {
        match kill(pid, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(Error::system(format!("kill({pid}, {signal})"), errno)),
        }
    }
    Ok(())
}
