//! Running hooks: programs of the bundle that are called at points of the life cycle.
//!
//! Belongs here: one list of hooks, run in order. Does not: which list runs
//! when, and what happens to the container when one fails.
//!
//! A hook gets the state as its standard input in a sealed memory file: nothing
//! to write while it runs, no end of a pipe that it could close early. Its
//! output is read only for the error message. It runs in a process group of its
//! own; when its time is over the whole group is killed and nothing is read any
//! more, so that a child that keeps the output open holds nobody up.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::io::{Errno, pwrite, read};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group,
    pidfd_open, waitid, waitpid,
};

use crate::error::{Context, Error, Kind, Result};
use crate::spec::config;
use crate::sys::spawn::spawn;

/// How much of a hook's output an error message carries, in bytes from its end.
const TAIL: usize = 1024;

/// A hook that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    timeout: Option<Duration>,
    /// Where it stands in the configuration, such as `hooks.prestart[0]`.
    place: String,
}

/// Reads one list of hooks; `json_path` is its place, such as `hooks.prestart`.
///
/// # Errors
/// `InvalidConfig` for a path that is not absolute, a timeout below one second, NUL bytes.
pub fn plan(hooks: &[config::Hook<'_>], json_path: &str) -> Result<Vec<Hook>> {
    hooks
        .iter()
        .enumerate()
        .map(|(index, hook)| plan_one(hook, format!("{json_path}[{index}]")))
        .collect()
}

fn plan_one(hook: &config::Hook<'_>, place: String) -> Result<Hook> {
    let text = |field: &str, text: &str| {
        CString::new(text)
            .map_err(|_| Error::config(format_args!("{place}.{field}"), "contains a NUL byte"))
    };
    if !hook.path.starts_with('/') {
        return Err(Error::config(
            format_args!("{place}.path"),
            format_args!("{:?} is not absolute", hook.path),
        ));
    }
    let timeout = match hook.timeout {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
            _ => {
                return Err(Error::config(
                    format_args!("{place}.timeout"),
                    format_args!("{seconds} is not greater than 0; leave it out for no limit"),
                ));
            }
        },
    };
    let path = text("path", &hook.path)?;
    let mut args = Vec::with_capacity(hook.args.len().max(1));
    for (index, arg) in hook.args.iter().enumerate() {
        args.push(text(&format!("args[{index}]"), arg)?);
    }
    if args.is_empty() {
        args.push(path.clone());
    }
    let mut env = Vec::with_capacity(hook.env.len());
    for (index, variable) in hook.env.iter().enumerate() {
        env.push(text(&format!("env[{index}]"), variable)?);
    }
    Ok(Hook {
        path,
        args,
        env,
        timeout,
        place,
    })
}

/// Runs the hooks in order, each with `state` as its standard input, in the caller's namespaces and
/// in the directory `dir`, or the caller's own where it cannot be opened.
///
/// # Errors
/// `Hook`, at the first that cannot be run, fails or runs out of time; the later ones do not run.
pub fn run(hooks: &[Hook], state: &[u8], dir: &str) -> Result<()> {
    let dir = directory(hooks, dir);
    let dir = dir.as_ref().map(AsFd::as_fd);
    hooks.iter().try_for_each(|hook| hook.run(state, dir))
}

/// Runs all hooks, those after a failed one too, and returns what failed: for `poststop`.
#[must_use]
pub fn run_all(hooks: &[Hook], state: &[u8], dir: &str) -> Vec<Error> {
    let dir = directory(hooks, dir);
    let dir = dir.as_ref().map(AsFd::as_fd);
    hooks
        .iter()
        .filter_map(|hook| hook.run(state, dir).err())
        .collect()
}

/// Opens where hooks run. The bundle may be gone by the time of poststop; that keeps none from running.
fn directory(hooks: &[Hook], dir: &str) -> Option<OwnedFd> {
    if hooks.is_empty() {
        return None;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(dir, flags, Mode::empty()).ok()
}

impl Hook {
    fn run(&self, state: &[u8], dir: Option<BorrowedFd<'_>>) -> Result<()> {
        let deadline = self
            .timeout
            // A time beyond what the clock can count to is no limit.
            .and_then(|timeout| Instant::now().checked_add(timeout));
        self.run_until(state, dir, deadline).map_err(|error| {
            error
                .context(format_args!(
                    "{} ({})",
                    self.place,
                    self.path.to_string_lossy()
                ))
                .with_kind(Kind::Hook)
        })
    }

    fn run_until(
        &self,
        state: &[u8],
        dir: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let stdin = sealed(state)?;
        let (output, stdout) = pipe_with(PipeFlags::CLOEXEC).context(|| "pipe2()")?;
        // Only the reading end must not block: the hook's end stays as programs expect it.
        rustix::io::ioctl_fionbio(&output, true).context(|| "ioctl(FIONBIO)")?;
        let pid = spawn(
            &self.path,
            &self.args,
            &self.env,
            &[stdin.as_fd(), stdout.as_fd(), stdout.as_fd()],
            dir,
        )
        .context(|| "execve()")?;
        drop(stdout);
        drop(stdin);
        let mut running = Running { pid, reaped: false };
        let mut tail = Tail::default();
        running.watch(&output, &mut tail, deadline)?;
        let status = waitpid(Some(pid), WaitOptions::empty())
            .context(|| format!("waitpid({pid})"))?
            .map(|(_, status)| status);
        running.reaped = true;
        tail.drain(&output);
        let what = match status {
            Some(status) if status.exit_status() == Some(0) => return Ok(()),
            Some(status) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("killed by signal {signal}"),
                (None, None) => "ended in an unknown way".to_owned(),
            },
            None => "ended in an unknown way".to_owned(),
        };
        Err(Error::new(Kind::Hook, what + &tail.describe()))
    }
}

/// A memory file with `contents`, at its start and unchangeable.
fn sealed(contents: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create("state", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create("state", flags),
        result => result,
    }
    .context(|| "memfd_create(\"state\")")?;
    let mut written = 0;
    while written < contents.len() {
        let offset = u64::try_from(written).unwrap_or(u64::MAX);
        written += pwrite(&file, &contents[written..], offset).context(|| "pwrite(\"state\")")?;
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals).context(|| "fcntl(F_ADD_SEALS)")?;
    Ok(file)
}

/// How often a hook is looked at that cannot be waited for.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

/// A hook between its start and its end; killed with its group when dropped early.
struct Running {
    pid: Pid,
    reaped: bool,
}

impl Running {
    /// Reads the output until the hook has ended (it is not reaped) or its time is over.
    fn watch(
        &mut self,
        output: &OwnedFd,
        tail: &mut Tail,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let pidfd = match pidfd_open(self.pid, PidfdFlags::empty()) {
            // The end of a child can be asked for, too.
            Err(Errno::NOSYS | Errno::PERM) => None,
            result => Some(result.context(|| format!("pidfd_open({})", self.pid))?),
        };
        let mut output_open = true;
        loop {
            let left = match deadline {
                None => None,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::new(
                            Kind::Hook,
                            format!("killed, its timeout is over{}", tail.describe()),
                        ));
                    }
                    Timespec::try_from(left).ok()
                }
            };
            // The output first: after its end only the process is waited for.
            let mut fds = [
                PollFd::new(output, PollFlags::IN),
                PollFd::new(pidfd.as_ref().unwrap_or(output), PollFlags::IN),
            ];
            let first = usize::from(!output_open);
            let ready = match pidfd {
                Some(_) => poll(&mut fds[first..], left.as_ref()),
                None => poll(&mut fds[first..1], Some(&PAUSE)),
            };
            match ready {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).context(|| "poll()"),
            }
            if output_open && !fds[0].revents().is_empty() {
                output_open = tail.read(output);
            }
            let ended = match pidfd {
                Some(_) => !fds[1].revents().is_empty(),
                None => {
                    let options =
                        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                    let ended = waitid(WaitId::Pid(self.pid), options).context(|| "waitid()")?;
                    ended.is_some()
                }
            };
            if ended {
                return Ok(());
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        // The group may be empty already; the leader may have left it.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The last bytes of a hook's output.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Reads once; false at the end of the output.
    fn read(&mut self, output: &OwnedFd) -> bool {
        let mut buffer = [0; 4096];
        match read(output, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.bytes.extend_from_slice(&buffer[..count]);
                let excess = self.bytes.len().saturating_sub(TAIL);
                if excess > 0 {
                    self.bytes.drain(..excess);
                    self.cut = true;
                }
                true
            }
            Err(Errno::INTR | Errno::AGAIN) => true,
            Err(_) => false,
        }
    }

    /// Reads what the hook left in the pipe, at most its capacity: a child that goes on writing
    /// is not listened to.
    fn drain(&mut self, output: &OwnedFd) {
        let mut buffers = 0;
        while buffers < 16 && rustix::io::ioctl_fionread(output).is_ok_and(|left| left > 0) {
            self.read(output);
            buffers += 1;
        }
    }

    fn describe(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim();
        if text.is_empty() {
            return String::new();
        }
        // One line, because a log record is one line.
        let text = text.replace(|c: char| c.is_control(), " ");
        format!("; output: {}{text}", if self.cut { "..." } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell<'a>(script: &'a str, timeout: Option<i64>) -> config::Hook<'a> {
        config::Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["PATH=/usr/bin:/bin".into()],
            timeout,
        }
    }

    fn run_scripts(scripts: &[config::Hook<'_>], state: &[u8]) -> Result<()> {
        run(&plan(scripts, "hooks.prestart")?, state, "/")
    }

    #[test]
    fn gets_state_arguments_and_exactly_its_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!(
            "exec >{}; cat; echo; echo \"$0 $1\"; cat /proc/$$/environ | tr '\\0' ' '",
            out.display()
        );
        let mut hook = shell(&script, None);
        hook.args[0] = "name".into();
        hook.args.push("zero".into());
        hook.args.push("one".into());
        // Neither sorted nor free of repetitions.
        hook.env = vec![
            "Z=1".into(),
            "PATH=/usr/bin:/bin".into(),
            "A=2".into(),
            "A=3".into(),
        ];
        run_scripts(&[hook], br#"{"status":"creating"}"#).unwrap();
        assert_eq!(
            std::fs::read_to_string(out).unwrap(),
            "{\"status\":\"creating\"}\nzero one\nZ=1 PATH=/usr/bin:/bin A=2 A=3 "
        );
    }

    #[test]
    fn a_state_larger_than_a_pipe_and_a_hook_that_reads_nothing() {
        let state = vec![b'x'; 1 << 20];
        run_scripts(&[shell("test $(wc -c) = 1048576", None)], &state).unwrap();
        run_scripts(&[shell("exec <&-", None)], &state).unwrap();
    }

    #[test]
    fn a_hook_cannot_change_the_state() {
        let error = run_scripts(&[shell("echo x >&0", None)], b"{}").unwrap_err();
        assert!(error.to_string().contains("exit status"), "{error}");
    }

    #[test]
    fn runs_in_order_and_stops_at_the_first_failure() {
        let dir = tempfile::tempdir().unwrap();
        let scripts: Vec<String> = [
            "echo 1 >>out",
            "echo 2 >>out; echo why >&2; exit 7",
            "echo 3 >>out",
        ]
        .iter()
        .map(|script| format!("cd {}; {script}", dir.path().display()))
        .collect();
        let hooks: Vec<_> = scripts
            .iter()
            .map(|script| shell(script, Some(60)))
            .collect();
        let error = run_scripts(&hooks, b"{}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "hooks.prestart[1] (/bin/sh): exit status 7; output: why"
        );
        assert_eq!(error.kind(), Kind::Hook);
        let out = dir.path().join("out");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "1\n2\n");

        std::fs::remove_file(&out).unwrap();
        let errors = run_all(&plan(&hooks, "hooks.poststop").unwrap(), b"{}", "/");
        assert_eq!(errors.len(), 1);
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "1\n2\n3\n");
    }

    #[test]
    fn the_message_has_the_end_of_the_output_only() {
        let script =
            "i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); done; echo last; kill -9 $$";
        let text = run_scripts(&[shell(script, None)], b"{}")
            .unwrap_err()
            .to_string();
        assert!(text.contains("killed by signal 9; output: ..."), "{text}");
        assert!(text.ends_with("29999 last"), "{text}");
        assert!(text.len() < 2 * TAIL);
    }

    #[test]
    fn a_timeout_kills_the_group_and_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        // The child ignores signals, stays in the group and keeps the output open.
        let script = format!(
            "trap '' TERM INT HUP; (sleep 1000 & echo $! >{0}; wait) & echo $$ >>{0}.leader; sleep 1000",
            pids.display()
        );
        let begin = Instant::now();
        let error = run_scripts(&[shell(&script, Some(1))], b"{}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "hooks.prestart[0] (/bin/sh): killed, its timeout is over"
        );
        assert!(begin.elapsed() < Duration::from_secs(60));
        let pid: i32 = std::fs::read_to_string(&pids)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        // Killed, though perhaps not reaped yet by whoever inherited it.
        let gone = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "))
        };
        while !gone() {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "the child lives on"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_child_that_keeps_the_output_does_not_hold_up_a_hook_that_ended() {
        let begin = Instant::now();
        run_scripts(&[shell("sleep 20 & exit 0", Some(1000))], b"{}").unwrap();
        assert!(begin.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn signals_are_at_their_defaults_and_unblocked() {
        // The test process ignores SIGPIPE, as every Rust program does.
        // Signals 32 and 33 belong to the C library, which leaves them as the caller had them.
        for pattern in ["^SigBlk:\t0+$", "^SigIgn:\t0{7}[0-3][08]0{7}$"] {
            let mut hook = shell("", None);
            hook.path = "/bin/grep".into();
            hook.args = vec![
                "grep".into(),
                "-qE".into(),
                pattern.into(),
                "/proc/self/status".into(),
            ];
            run_scripts(&[hook], b"{}").unwrap();
        }
    }

    #[test]
    fn leads_a_process_group_of_its_own() {
        let script = "set -- $(cat /proc/$$/stat); test $5 = $$";
        run_scripts(&[shell(script, None)], b"{}").unwrap();
    }

    #[test]
    fn inherits_no_descriptors() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = "ls -l /proc/$$/fd; exit 1";
        let text = run_scripts(&[shell(script, None)], b"{}")
            .unwrap_err()
            .to_string();
        let name = file.path().file_name().unwrap().to_str().unwrap();
        assert!(text.contains("0 -> /memfd:state"), "{text}");
        assert!(!text.contains(name), "{text}");
    }

    #[test]
    fn programs_that_cannot_run() {
        let mut hook = shell("", None);
        hook.path = "/nonexistent/hook".into();
        let error = run_scripts(&[hook], b"{}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "hooks.prestart[0] (/nonexistent/hook): execve(): no such file or directory"
        );
        assert_eq!(error.kind(), Kind::Hook);
    }

    #[test]
    fn what_the_specification_forbids() {
        for (hook, expected) in [
            (
                config::Hook {
                    path: "bin/sh".into(),
                    ..Default::default()
                },
                "hooks.prestart[0].path: \"bin/sh\" is not absolute",
            ),
            (
                shell("", Some(0)),
                "hooks.prestart[0].timeout: 0 is not greater than 0; leave it out for no limit",
            ),
            (
                shell("", Some(-5)),
                "hooks.prestart[0].timeout: -5 is not greater than 0; leave it out for no limit",
            ),
            (
                shell("\0", None),
                "hooks.prestart[0].args[2]: contains a NUL byte",
            ),
        ] {
            assert_eq!(
                plan(&[hook], "hooks.prestart").unwrap_err().to_string(),
                expected
            );
        }
    }

    #[test]
    fn a_timeout_of_centuries_is_no_limit() {
        run_scripts(&[shell("true", Some(i64::MAX))], b"{}").unwrap();
    }
}
