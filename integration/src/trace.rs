//! Kills a process of the runtime at the n-th system call that it makes: ptrace(2).
//!
//! Belongs here: following the runtime and its children, and counting. Does not: what must be true
//! afterwards.

use std::collections::HashMap;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::runtime::LIMIT;

/// What came of a traced call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whether the process came to its n-th system call, and was killed there.
    pub killed: bool,
    /// The number of that call; of the last one that was counted where it was not killed.
    pub call: u64,
    /// The runtime's exit code, 128 + signal where it was killed.
    pub code: i32,
}

/// How often, and how far apart, a child is looked at that may wait for ever.
const QUIET: u32 = 5;
const PAUSE: Duration = Duration::from_millis(1);

/// A process that is followed.
#[derive(Debug, Default)]
struct Followed {
    /// How many processes of this call were there before.
    index: usize,
    /// Whether it is between the entry and the exit of a system call.
    inside: bool,
    /// System calls so far.
    calls: u64,
}

/// Runs `command` (made by [`crate::Sandbox::traced`]) and kills the process number `whom` as it
/// enters its `nth` system call, before anything of that call is done. 0 is the runtime itself, 1 its
/// first child, and so on. A child is followed until it executes another program.
///
/// # Panics
/// Where the processes cannot be traced, or hang.
#[must_use]
pub fn kill_at(mut command: Command, whom: usize, nth: u64) -> Ended {
    let text = format!("{command:?}");
    let mut child = command.spawn().unwrap();
    let runtime = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (done, watched) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = watched.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
        if late {
            let _ = kill(runtime, Signal::SIGKILL);
        }
        late
    });
    let ended = follow(runtime, whom, nth);
    drop(done);
    assert!(
        !watchdog.join().unwrap(),
        "{whom}, call {nth}: hangs: {text}"
    );
    // Its status is taken already.
    let _ = child.try_wait();
    ended
}

fn follow(runtime: Pid, whom: usize, nth: u64) -> Ended {
    let mut options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    if whom > 0 {
        options |= Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE;
    }
    let mut victim = None;
    let mut seen = 0;
    let mut quiet = 0;
    let mut followed: HashMap<Pid, Followed> = HashMap::new();
    let mut ended = Ended {
        killed: false,
        call: 0,
        code: -1,
    };
    loop {
        // Only what this thread has started or traces: other tests run beside.
        let mut flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        // A child that goes on after the runtime's end may come to more calls, or to wait for ever.
        let alone = ended.code >= 0 && victim.is_none();
        if alone {
            flags |= WaitPidFlag::WNOHANG;
        }
        let status = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::StillAlive) if quiet < QUIET => {
                quiet = match followed.keys().all(|pid| waits(*pid)) {
                    true => quiet + 1,
                    false => 0,
                };
                std::thread::sleep(PAUSE);
                continue;
            }
            Ok(WaitStatus::StillAlive) => return ended,
            Ok(status) => status,
            Err(Errno::ECHILD) => return ended,
            Err(errno) => panic!("waitpid: {errno}"),
        };
        quiet = 0;
        let Some(pid) = status.pid() else { continue };
        match status {
            WaitStatus::Exited(_, code) if pid == runtime => ended.code = code,
            WaitStatus::Signaled(_, signal, _) if pid == runtime => {
                ended.code = 128 + signal as i32;
            }
            _ => {}
        }
        if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
            if victim == Some(pid) {
                victim = None;
            }
            // Who is left is the container's by now, and ends with it; but the one that was killed
            // would stay a zombie, which holds its pid namespace up.
            if ended.code >= 0 && victim.is_none() && followed.is_empty() {
                return ended;
            }
            continue;
        }
        let is_new = !followed.contains_key(&pid);
        let process = followed.entry(pid).or_default();
        if is_new {
            process.index = seen;
            seen += 1;
            if pid == runtime {
                ptrace::setoptions(pid, options).unwrap();
            }
            resume(pid, process, whom, None);
            continue;
        }
        match status {
            WaitStatus::PtraceSyscall(_) => {
                process.inside = !process.inside;
                if process.inside && process.index == whom {
                    process.calls += 1;
                    ended.call = call_of(pid);
                    if process.calls == nth {
                        ended.killed = true;
                        victim = Some(pid);
                        let _ = kill(pid, Signal::SIGKILL);
                        continue;
                    }
                }
                resume(pid, process, whom, None);
            }
            WaitStatus::PtraceEvent(_, _, event) => {
                if event == Event::PTRACE_EVENT_EXEC as i32 && pid != runtime {
                    // The container's program, or a hook: none of ours.
                    let _ = ptrace::detach(pid, None);
                    followed.remove(&pid);
                    continue;
                }
                resume(pid, process, whom, None);
            }
            WaitStatus::Stopped(_, signal) => {
                resume(
                    pid,
                    process,
                    whom,
                    Some(signal).filter(|s| *s != Signal::SIGTRAP),
                );
            }
            _ => resume(pid, process, whom, None),
        }
    }
}

/// Whether a process sleeps, and is neither about to run nor stopped; or is gone.
fn waits(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('S' | 'Z' | 'X'))
}

/// Lets a process go on, to its next system call where it is the one that counts.
fn resume(pid: Pid, process: &Followed, whom: usize, signal: Option<Signal>) {
    // It may have been killed by another meanwhile.
    let _ = match process.index {
        index if index == whom => ptrace::syscall(pid, signal),
        index if index < whom => ptrace::cont(pid, signal),
        // A later one of no interest.
        _ => ptrace::detach(pid, None),
    };
}

#[cfg(target_arch = "x86_64")]
fn call_of(pid: Pid) -> u64 {
    ptrace::getregs(pid).map_or(0, |registers| registers.orig_rax)
}

#[cfg(not(target_arch = "x86_64"))]
fn call_of(_: Pid) -> u64 {
    0
}
