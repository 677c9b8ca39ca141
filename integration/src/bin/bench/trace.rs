//! Counts what one call does: system calls, new tasks, execs under strace(1), memory under busybox's
//! time(1). Both disturb, so nothing is timed here.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use knarr_integration::{process, runtime};

use crate::measure::limit;

/// What a call did, itself and all processes it made, until it ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// System calls.
    pub syscalls: u64,
    /// Processes and threads made.
    pub forks: u64,
    /// Programs executed, the runtime's own start included.
    pub execs: u64,
}

/// Runs `command` under strace, its log at `log`. `None` where it fails or hangs, or strace is missing.
pub fn count(command: &Command, log: &Path) -> Option<Counts> {
    let strace = runtime::find("strace".as_ref())?;
    let mut traced = Command::new(strace);
    traced
        .args(["-f", "-o"])
        .arg(log)
        .args(["-e", "signal=none", "-s", "0", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    silence(&mut traced);
    let mut child = traced.spawn().ok()?;
    // strace stays as long as any process it follows; create leaves one behind. So the end is the
    // runtime's own, the first process in the log.
    let mut code = None;
    process::eventually(limit() * 2, || {
        code = leader_exit(log);
        code.is_some() || matches!(child.try_wait(), Ok(Some(_)))
    });
    // Asked to end, strace lets go of those that live.
    process::kill(child.id(), 15);
    if !process::ended_within(child.id(), limit()) {
        let _ = child.kill();
    }
    let _ = child.wait();
    code = code.or_else(|| leader_exit(log));
    (code? == 0).then(|| parse(&fs::read_to_string(log).unwrap_or_default()))
}

/// The exit code of the first process in a log of strace.
fn leader_exit(log: &Path) -> Option<i32> {
    let text = fs::read_to_string(log).ok()?;
    let (leader, _) = text.split_once(' ')?;
    text.lines().rev().find_map(|line| {
        let (pid, rest) = line.split_once(' ')?;
        let code = rest.trim_start().strip_prefix("+++ exited with ")?;
        (pid == leader).then(|| code.trim_end_matches(" +++").parse().ok())?
    })
}

/// Counts the calls in a log of strace.
fn parse(text: &str) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines() {
        let Some((_, call)) = line.split_once(' ') else {
            continue;
        };
        // `<... resumed>` is the second half of a call that was counted; `+++` and `---` are none.
        let Some((name, _)) = call.trim_start().split_once('(') else {
            continue;
        };
        if name.contains(['<', '+', '-', ' ']) {
            continue;
        }
        counts.syscalls += 1;
        match name {
            "clone" | "clone3" | "fork" | "vfork" => counts.forks += 1,
            "execve" | "execveat" if !call.contains(" = -1 ") => counts.execs += 1,
            _ => {}
        }
    }
    counts
}

/// The largest peak resident set, in KiB, of the runtime and of what it waited for.
///
/// The kernel hands a process the peak of the program that forked it, so the one that forks must be
/// smaller than any runtime: busybox, not this program.
pub fn memory(command: &Command, log: &Path) -> Option<u64> {
    let mut timed = Command::new("/bin/busybox");
    timed
        .args([OsStr::new("time"), OsStr::new("-v"), OsStr::new("-o")])
        .arg(log)
        .arg(command.get_program())
        .args(command.get_args());
    silence(&mut timed);
    let mut child = timed.spawn().ok()?;
    if !process::ended_within(child.id(), limit()) {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    let status = child.wait().ok()?;
    if !status.success() || status.signal().is_some() {
        return None;
    }
    let text = fs::read_to_string(log).ok()?;
    text.lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("Maximum resident set size (kbytes):")
        })
        .and_then(|value| value.trim().parse().ok())
        // This time(1) takes the kernel's KiB for pages.
        .map(|value: u64| value / (rustix::param::page_size() as u64 / 1024))
}

fn silence(command: &mut Command) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
}
