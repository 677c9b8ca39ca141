//! The process that touches what strangers have packed. The order of its steps:
//!
//! | step | why here |
//! |---|---|
//! | read the job | from the daemon, so trusted |
//! | mount the snapshot's trees privately, make them the root directory (`place.rs`) | needs privileges and the host's paths |
//! | give up capabilities, set limits (`confine.rs`) | nothing later needs them |
//! | make the threads (`pipeline.rs`) | the filter allows no more of them |
//! | load the filter of system calls | all threads are there |
//! | read the first byte of the layer | shut in |
//!
//! It ends when the daemon does or closes the socket.

mod confine;
mod job;
mod pack;
mod pipeline;
mod place;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

pub use job::{Apply, BEAT, Diff, Job, LONGEST, Mounted, Report};

use super::changes::{self, Changes, Trees};
use super::unpack::{Place, Unpacker, Whiteouts};
use super::{Compression, Limits, tar};
use crate::error::{Error, Result};
use pipeline::{Pipeline, Progress};
use place::Access;

/// The argument that makes the program a worker.
pub const ARGUMENT: &str = "layer-worker";

/// How often it says that it gets on.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether this process is to be a worker.
#[must_use]
pub fn asked() -> bool {
    std::env::args_os().nth(1).as_deref() == Some(OsStr::new(ARGUMENT))
}

/// Does the job that comes over the standard input.
#[must_use]
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knarrd: layer worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let broken = |error| Error::io("the socket", &error);
    let stdin = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3);
    let mut socket = UnixStream::from(stdin.map_err(|errno| broken(errno.into()))?);
    let (job, file) = receive(&mut socket)?;
    let report = match work(&job, file, &socket) {
        Ok((diff_id, size)) => Report {
            diff_id,
            size,
            ..Report::default()
        },
        Err(error) => Report::from(&error),
    };
    let mut answer = vec![job::DONE];
    report
        .encode(&mut answer)
        .map_err(|error| Error::internal(error.to_string()))?;
    socket.write_all(&answer).map_err(broken)
}

/// The job and the descriptor that comes with it.
fn receive(socket: &mut UnixStream) -> Result<(Job, OwnedFd)> {
    let broken = |error| Error::io("the job", &error);
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        &*socket,
        &mut [IoSliceMut::new(&mut length)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    );
    let received = received.map_err(|errno| broken(errno.into()))?;
    let mut files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file = files.next().and_then(|mut files| files.next());
    let (4, Some(file)) = (received.bytes, file) else {
        return Err(Error::invalid("no job on the standard input"));
    };
    let length = u64::from(u32::from_le_bytes(length));
    let mut bytes = Vec::new();
    socket
        .take(length)
        .read_to_end(&mut bytes)
        .map_err(broken)?;
    let job = Job::decode(&*bytes).map_err(|error| Error::invalid(format!("the job: {error}")))?;
    Ok((job, file))
}

fn work(job: &Job, file: OwnedFd, socket: &UnixStream) -> Result<(String, u64)> {
    let progress = Arc::new(Progress::default());
    match job {
        Job {
            apply: Some(apply), ..
        } => unpack(apply, file, socket, &progress),
        Job {
            diff: Some(diff), ..
        } => compare(diff, file, socket, &progress),
        _ => Err(Error::invalid("a job with nothing to do")),
    }
}

fn unpack(
    job: &Apply,
    source: OwnedFd,
    socket: &UnixStream,
    progress: &Arc<Progress>,
) -> Result<(String, u64)> {
    let limits = Limits {
        size: job.size,
        ratio: job.ratio.max(1),
        unchecked: job.unchecked,
        entries: job.entries,
        ..Limits::default()
    };
    let mut jail = place::Jail::new()?;
    let place = jail.tree(&job.mounts, Access::Write)?;
    jail.enter()?;
    confine::give_up(confine::UNPACKING)?;
    let mut pipeline = Pipeline::new(File::from(source), limits, Arc::clone(progress))?;
    watch(socket, progress)?;
    confine::filter()?;
    pipeline.begin();
    let sync = job.sync.then(|| rustix::io::dup(&place.dir)).transpose();
    let sync = sync.map_err(|errno| Error::io("a directory", &errno.into()))?;
    let read = tar::Limits {
        entries: limits.entries,
        ..tar::Limits::default()
    };
    let mut reader = tar::Reader::new(&mut pipeline.stream, read);
    Unpacker::new(place)?.unpack(&mut reader)?;
    reader.finish()?;
    let (diff_id, size) = pipeline.finish()?;
    if let Some(dir) = sync {
        rustix::fs::syncfs(dir).map_err(|errno| Error::io("the snapshot", &errno.into()))?;
    }
    Ok((diff_id.to_string(), size))
}

fn compare(
    job: &Diff,
    sink: OwnedFd,
    socket: &UnixStream,
    progress: &Arc<Progress>,
) -> Result<(String, u64)> {
    let compression = Compression::from_number(job.compression)?;
    let mut jail = place::Jail::new()?;
    let changes = jail.changes(&job.lower, &job.upper)?;
    let lower = match &job.lower[..] {
        [] => None,
        lower => Some(jail.tree(lower, Access::Read)?.dir),
    };
    let upper = jail.tree(&job.upper, Access::Read)?;
    jail.enter()?;
    confine::give_up(confine::COMPARING)?;
    let (sink, packer) = pack::start(File::from(sink), compression, Arc::clone(progress))?;
    watch(socket, progress)?;
    confine::filter()?;
    let mut trees = Trees {
        lower,
        upper: upper.dir,
        overlay: None,
        ids: upper.ids,
    };
    if let Some(Place {
        dir,
        whiteouts: Whiteouts::Overlay(prefix),
        ..
    }) = changes
        && !changes::refers_below(dir.as_fd(), prefix, b"")?
    {
        trees.upper = dir;
        trees.overlay = Some(prefix);
    }
    let epoch = job.epoch.map(|seconds| tar::Time {
        seconds,
        nanoseconds: job.epoch_nanoseconds,
    });
    let written = Changes::write(&trees, epoch, sink).and_then(pack::Sink::finish);
    // What the output failed with is the reason for whatever else failed.
    packer.finish()?;
    let (diff_id, size) = written?;
    Ok((diff_id.to_string(), size))
}

/// A thread that tells the daemon that the others get on, and ends the process with the daemon.
fn watch(socket: &UnixStream, progress: &Arc<Progress>) -> Result<()> {
    let broken = |error| Error::io("the socket", &error);
    let mut socket = socket.try_clone().map_err(broken)?;
    let progress = Arc::clone(progress);
    let watch = move || {
        let pause = Timespec {
            tv_sec: PAUSE.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut seen = 0;
        loop {
            let mut files = [PollFd::new(&socket, PollFlags::RDHUP)];
            let found = poll(&mut files, Some(&pause));
            if found.is_ok_and(|found| found > 0) {
                // Nobody wants the result any more.
                std::process::exit(1);
            }
            let pieces = progress.pieces.load(Ordering::Relaxed);
            let waits = progress.waits.load(Ordering::Relaxed);
            if (pieces != seen || waits) && socket.write_all(&[BEAT]).is_err() {
                std::process::exit(1);
            }
            seen = pieces;
        }
    };
    thread::Builder::new()
        .name("watch".to_owned())
        .spawn(watch)
        .map_err(broken)?;
    Ok(())
}
