//! Standard streams of processes: fifos that the daemon's client reads and writes.
//!
//! Output goes into the fifo without the shim between: the process has its writing end itself. The
//! shim keeps a reading end open, so that a client that goes away makes the process wait and not
//! die. Input is copied into a pipe, so that its end can be told. What has a terminal is copied
//! both ways.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use knarr_proto::ttrpc::{Code, Status};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fcntl_setfl, fstat, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

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
}

/// Opens the streams; those of the process belong to this user and group, unless these are 0.
///
/// # Errors
/// `UNIMPLEMENTED` for ways to log that are unknown; paths that cannot be opened.
pub fn open_streams(paths: &Paths, uid: u32, gid: u32) -> Result<Streams, Status> {
    let mut kept = Vec::new();
    let owner = (uid != 0 || gid != 0).then_some((uid, gid));
    let input = match paths.stdin.as_str() {
        "" => None,
        path => Some(open_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?),
    };
    if paths.terminal {
        let output = match paths.stdout.as_str() {
            "" => None,
            path => Some(open_output(path, &mut kept)?),
        };
        return Ok(Streams {
            process: [null()?, null()?, null()?],
            input,
            pipe: None,
            output,
            kept,
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
    let mut output = |path: &str| match path {
        "" => null(),
        path => {
            let fd = open_output(path, &mut kept)?;
            fcntl_setfl(&fd, OFlags::empty()).map_err(failed("fcntl(F_SETFL)"))?;
            Ok(fd)
        }
    };
    let process = [stdin, output(&paths.stdout)?, output(&paths.stderr)?];
    if let Some((uid, gid)) = owner {
        for fd in process.iter().filter(|fd| is_fifo(fd)) {
            fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(failed("fchown(stream)"))?;
        }
    }
    Ok(Streams {
        process,
        input,
        pipe,
        output: None,
        kept,
    })
}

/// Opens the writing end, non-blocking, of where output goes.
fn open_output(path: &str, kept: &mut Vec<OwnedFd>) -> Result<OwnedFd, Status> {
    let append = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Some((scheme, rest)) = path.split_once("://") {
        if scheme != "file" {
            let message = format!("log URI {path}: only fifos and file:// are known");
            return Err(Status::new(Code::Unimplemented, message));
        }
        if let Some(parent) = std::path::Path::new(rest).parent() {
            let _ = fs::create_dir_all(parent);
        }
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        return open(rest, append | OFlags::CREATE, mode).map_err(failed(path));
    }
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
            Err(errno) => return Err(failed(path)(errno)),
        }
    };
    if is_fifo(&writer) {
        kept.push(open_path(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    }
    Ok(writer)
}

fn open_path(path: &str, flags: OFlags) -> Result<OwnedFd, Status> {
    open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(failed(path))
}

/// /dev/null.
pub fn null() -> Result<OwnedFd, Status> {
    open_path("/dev/null", OFlags::RDWR)
}

fn is_fifo(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

fn failed(what: &str) -> impl Fn(Errno) -> Status {
    move |errno| {
        let text = knarr_runtime::error::errno_text(errno.raw_os_error());
        Status::new(Code::Unknown, format!("standard streams: {what}: {text}"))
    }
}
