//! A worker, seen from the daemon.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use prost::Message as _;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::worker::{ARGUMENT, BEAT, Job, LONGEST, Report};
use crate::error::{Code, Error, Result};

/// Has a worker do a job with a descriptor. It is killed when the future is dropped.
pub async fn work(program: &Path, job: &Job, file: OwnedFd, stall: Duration) -> Result<Report> {
    let broken = |error| Error::io("the layer worker", &error);
    let (ours, theirs) = UnixStream::pair().map_err(broken)?;
    send(&ours, job, file)?;
    let mut child = Command::new(program)
        .arg0("knarrd-layer")
        .arg(ARGUMENT)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .env_clear()
        .current_dir("/")
        .kill_on_drop(true)
        .spawn()
        .map_err(broken)?;
    ours.set_nonblocking(true).map_err(broken)?;
    let mut answers = tokio::net::UnixStream::from_std(ours).map_err(broken)?;
    loop {
        let beat = tokio::time::timeout(stall, answers.read_u8()).await;
        match beat {
            Ok(Ok(BEAT)) => {}
            Ok(Ok(_)) => break,
            Ok(Err(_)) => {
                let status = child.wait().await.map_err(broken)?;
                return Err(Error::internal(format!(
                    "the layer worker ended early: {status}"
                )));
            }
            Err(_) => {
                let what = format!("the layer worker did nothing for {} s", stall.as_secs());
                return Err(Error::new(Code::DeadlineExceeded, what));
            }
        }
    }
    let mut report = Vec::new();
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    let read = async { (&mut answers).take(most).read_to_end(&mut report).await };
    match tokio::time::timeout(stall, read).await {
        Ok(Ok(_)) => {}
        _ => {
            return Err(Error::internal(
                "the layer worker did not finish its report",
            ));
        }
    }
    let report = Report::decode(&*report);
    report.map_err(|error| Error::internal(format!("the report of the layer worker: {error}")))
}

/// Sends the job and the descriptor, which wait in the socket for the worker.
fn send(socket: &UnixStream, job: &Job, file: OwnedFd) -> Result<()> {
    let broken = |error| Error::io("the layer worker's socket", &error);
    let bytes = job.encode_to_vec();
    if bytes.len() > LONGEST {
        return Err(Error::invalid("the mounts of a snapshot are too many"));
    }
    let length = u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&length)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    );
    sent.map_err(|errno| broken(errno.into()))?;
    (&*socket).write_all(&bytes).map_err(broken)
}
