//! Counts what one call does: system calls, new tasks, execs under strace(1), memory through `launch`.
//! Both disturb, so nothing is timed here.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use knarr_integration::{process, runtime, without};

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
pub fn memory(command: &Command, log: &Path) -> Option<u64> {
    let mut measured = Command::new(without::launcher());
    measured
        .arg("measured")
        .arg(log)
        .arg(command.get_program())
        .args(command.get_args());
    silence(&mut measured);
    let mut child = measured.spawn().ok()?;
    if !process::ended_within(child.id(), limit()) {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    let ended = child.wait().ok()?.success();
    ended.then(|| fs::read_to_string(log).ok()?.parse().ok())?
}

fn silence(command: &mut Command) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
}
