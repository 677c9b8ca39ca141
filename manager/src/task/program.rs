//! Running a program to its end, with all it says, in a limited time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, SeekFrom, fcntl_setfl, memfd_create, seek};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, prlimit, setrlimit,
};

use crate::error::{Error, Result};

/// The most that is kept of an output, in bytes.
const MOST: usize = 10 << 20;

/// How many descriptors this process could have before it took more.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Takes as many descriptors as are allowed: three for each task, and more for clients. Programs that
/// are run from here get what was allowed before, and so do containers.
pub fn raise_descriptor_limit() {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        let _ = BEFORE.set(before);
    }
}

/// What a program has said, and how it ended.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// Runs a program with `input`; kills it where it is not done in `limit`.
///
/// # Errors
/// `DeadlineExceeded`; where it can't be run.
pub(super) async fn run(mut command: Command, input: Vec<u8>, limit: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let work = move || run_now(&mut command, &input, limit);
    let result = match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::Interrupted.into()),
    };
    result.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => Error::late(format!("{name} took more than {limit:?}")),
        _ => Error::io(name, &error),
    })
}

fn run_now(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<Output> {
    let end = Instant::now() + limit;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(match input {
        [] => Stdio::null(),
        // A file, and no pipe that it may leave unread.
        input => {
            let mut file = File::from(memfd_create(c"input", MemfdFlags::CLOEXEC)?);
            file.write_all(input)?;
            seek(&file, SeekFrom::Start(0))?;
            file.into()
        }
    });
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(before) = BEFORE.get() {
        // It has to read first what it is to do.
        let _ = prlimit(pid, Resource::Nofile, *before);
    }
    match follow(&mut child, end) {
        Ok((stdout, stderr)) => Ok(Output {
            status: child.wait()?,
            stdout,
            stderr,
        }),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// Reads until the program ends. What it has started may hold its streams open for longer.
fn follow(child: &mut Child, end: Instant) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let streams = [
        stdout.as_ref().map(AsFd::as_fd),
        stderr.as_ref().map(AsFd::as_fd),
    ];
    for fd in streams.into_iter().flatten() {
        fcntl_setfl(fd, OFlags::NONBLOCK)?;
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        fds.extend(stdout.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(stderr.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ended = !fds.first().is_none_or(|fd| fd.revents().is_empty());
        drop(fds);
        if !more(&mut stdout, &mut said)? {
            stdout = None;
        }
        if !more(&mut stderr, &mut complained)? {
            stderr = None;
        }
        if ended {
            return Ok((said, complained));
        }
    }
}

/// Takes what is there to read; whether there may be more.
fn more(from: &mut Option<impl Read>, into: &mut Vec<u8>) -> io::Result<bool> {
    let Some(from) = from else {
        return Ok(false);
    };
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                if into.len() + count > MOST {
                    let what = format!("it says more than {MOST} bytes");
                    return Err(io::Error::other(what));
                }
                into.extend_from_slice(&bytes[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn all_that_is_said() {
        let script = "cat; echo wrong >&2; exit 3";
        let input = vec![b'x'; 300_000];
        let output = run(shell(script), input.clone(), Duration::from_secs(60));
        let output = output.await.unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout == input);
        assert_eq!(output.stderr, b"wrong\n");
    }

    #[tokio::test]
    async fn what_it_leaves_behind_is_not_waited_for() {
        let start = Instant::now();
        let script = "sleep 100 & echo $!";
        let output = run(shell(script), Vec::new(), Duration::from_secs(60)).await;
        assert!(start.elapsed() < Duration::from_secs(50));
        let pid = String::from_utf8(output.unwrap().stdout).unwrap();
        let killed = Command::new("kill").arg(pid.trim()).status().unwrap();
        assert!(killed.success());
    }

    #[tokio::test]
    async fn time_is_limited() {
        let limit = Duration::from_millis(100);
        let error = run(shell("exec sleep 100"), Vec::new(), limit).await;
        assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
        let flood = run(
            shell("exec cat /dev/zero"),
            Vec::new(),
            Duration::from_secs(60),
        );
        let error = flood.await.unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
    }
}
