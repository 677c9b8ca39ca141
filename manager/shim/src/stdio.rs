//! Standard streams of processes: fifos that the daemon's client reads and writes.
//!
//! Output goes into the fifo without the shim between: the process has its writing end itself. The
//! shim keeps a reading end open, so that a client that goes away makes the process wait and not
//! die. Input is copied into a pipe, so that its end can be told. What has a terminal is copied
//! both ways. Output may also go to a file or a logger, see `logger.rs`.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use knarr_proto::ttrpc::{Code, Status};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fcntl_setfl, fstat, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::logger::{Logger, Target};

/// How long a client may take to open its end of a fifo whose name it has given.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);

/// Where streams lead, as the client has said; empty for nowhere.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// Opened streams.
#[derive(Debug)]
pub struct Streams {
    /// What the process has as 0, 1 and 2.
    pub process: [OwnedFd; 3],
    /// What the client writes, to be copied.
    pub input: Option<OwnedFd>,
    /// Where the input is copied to, unless that is a terminal.
    pub pipe: Option<OwnedFd>,
    /// Where a terminal's output is copied to.
    pub output: Option<OwnedFd>,
    /// Reading ends of output fifos.
    pub kept: Vec<OwnedFd>,
    /// The program that reads the output.
    pub logger: Option<Pid>,
}

/// Whose streams they are.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Id of the container or process.
    pub id: &'a str,
    pub namespace: &'a str,
    /// User and group; none unless one of them is not 0.
    pub uid: u32,
    pub gid: u32,
}

/// Opens the streams.
///
/// # Errors
/// `UNIMPLEMENTED` for ways to log that are unknown; paths that cannot be opened; loggers that do
/// not start.
pub fn open_streams(paths: &Paths, of: Owner<'_>) -> Result<Streams, Status> {
    let mut kept = Vec::new();
    let input = match paths.stdin.as_str() {
        "" => None,
        path => Some(open_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?),
    };
    if paths.terminal {
        let (output, _, logger) = open_outputs(paths, of, &mut kept)?;
        return Ok(Streams {
            process: [null()?, null()?, null()?],
            input,
            pipe: None,
            output,
            kept,
            logger,
        });
    }
    let (stdin, input, pipe) = match input {
        None => (null()?, None, None),
        Some(input) if is_fifo(&input) => {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe2()"))?;
            fcntl_setfl(&writer, OFlags::NONBLOCK).map_err(failed("fcntl(F_SETFL)"))?;
            (reader, Some(input), Some(writer))
        }
        // A file needs no copying.
        Some(input) => (input, None, None),
    };
    let (stdout, stderr, logger) = open_outputs(paths, of, &mut kept)?;
    let output = |fd: Option<OwnedFd>| match fd {
        None => null(),
        Some(fd) => {
            fcntl_setfl(&fd, OFlags::APPEND).map_err(failed("fcntl(F_SETFL)"))?;
            Ok(fd)
        }
    };
    let process = [stdin, output(stdout)?, output(stderr)?];
    if of.uid != 0 || of.gid != 0 {
        let (uid, gid) = (Uid::from_raw(of.uid), Gid::from_raw(of.gid));
        for fd in process.iter().filter(|fd| is_fifo(fd)) {
            fchown(fd, Some(uid), Some(gid)).map_err(failed("fchown(stream)"))?;
        }
    }
    Ok(Streams {
        process,
        input,
        pipe,
        output: None,
        kept,
        logger,
    })
}

type Outputs = (Option<OwnedFd>, Option<OwnedFd>, Option<Pid>);

/// Opens, non-blocking, where standard output and error go. A log is of both.
fn open_outputs(paths: &Paths, of: Owner<'_>, kept: &mut Vec<OwnedFd>) -> Result<Outputs, Status> {
    let target = |path: &str| match path {
        "" => Ok(None),
        path => Target::parse(path).map(Some),
    };
    let stdout = target(&paths.stdout)?;
    match &stdout {
        Some(Target::File(path)) => {
            return Ok((Some(open_file(path)?), Some(open_file(path)?), None));
        }
        Some(Target::Logger(path, arguments)) => {
            let logger = Logger::start(path, arguments, of)?;
            let [out, err] = logger.streams;
            // A terminal's is written by the shim, which must not wait.
            fcntl_setfl(&out, OFlags::NONBLOCK).map_err(failed("fcntl(F_SETFL)"))?;
            return Ok((Some(out), Some(err), Some(logger.pid)));
        }
        _ => {}
    }
    let mut open = |target: Option<Target>| match target {
        None => Ok(None),
        Some(Target::Fifo(path)) => open_fifo(&path, kept).map(Some),
        Some(Target::File(path)) => open_file(&path).map(Some),
        Some(Target::Logger(..)) => {
            let message = "standard error has no logger of its own: standard output's gets both";
            Err(Status::new(Code::InvalidArgument, message))
        }
    };
    let stdout = open(stdout)?;
    let stderr = match paths.terminal {
        true => None,
        false => open(target(&paths.stderr)?)?,
    };
    Ok((stdout, stderr, None))
}

/// Opens the end of a file, which is made where it is missing.
fn open_file(path: &Path) -> Result<OwnedFd, Status> {
    if let Some(parent) = path.parent() {
        let name = parent.display().to_string();
        let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(|error| Status::new(Code::Unknown, format!("mkdir({name}): {error}")))?;
    }
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    open(path, flags, mode).map_err(failed(&path.display().to_string()))
}

/// Opens the writing end of a fifo.
fn open_fifo(path: &Path, kept: &mut Vec<OwnedFd>) -> Result<OwnedFd, Status> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK;
    let start = Instant::now();
    let writer = loop {
        match open(path, flags | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => break fd,
            // The client has not opened its end yet: were the process to end before that, nobody
            // would read what it wrote.
            Err(Errno::NXIO) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(Errno::NXIO) => {
                // It comes later, if at all.
                kept.push(open_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
                break open_path(path, flags)?;
            }
            Err(errno) => return Err(failed(&path.display().to_string())(errno)),
        }
    };
    if is_fifo(&writer) {
        kept.push(open_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    }
    Ok(writer)
}

fn open_path(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Status> {
    let path = path.as_ref();
    open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(failed(&path.display().to_string()))
}

/// /dev/null.
pub fn null() -> Result<OwnedFd, Status> {
    open_path("/dev/null", OFlags::RDWR)
}

fn is_fifo(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// An error of a system call.
pub fn failed(what: &str) -> impl Fn(Errno) -> Status {
    move |errno| {
        let text = knarr_runtime::error::errno_text(errno.raw_os_error());
        Status::new(Code::Unknown, format!("standard streams: {what}: {text}"))
    }
}
