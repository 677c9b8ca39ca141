//! One `criu swrk`: starting it, talking to it, waiting for its end.

use std::ffi::CString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketFlags, SocketType, recvmsg, send, socketpair,
};

use super::rpc::{self, Opts, Request, Response};
use crate::container::reap;
use crate::container::wait;
use crate::error::{Context, Error, Kind, Result, errno_text};
use crate::init::channel::{self, Channel, Message};
use crate::sys::clone::{Side, clone_process};
use crate::sys::{exec, fds, process as sys};

/// The largest answer; criu's are a few hundred bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// The largest log that is searched for what went wrong, in bytes.
const MAX_LOG: usize = 16 << 20;

/// Finds criu in PATH.
///
/// # Errors
/// `Unsupported` where it is not there.
pub(crate) fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("criu"))
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
        .ok_or_else(|| {
            Error::unsupported(
                "checkpoint and restore",
                "criu not found in PATH: install the package criu",
            )
        })
}

/// What criu has beyond its standard streams.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Inherit<'a> {
    /// The cgroup to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Descriptors that keep their numbers.
    pub fds: &'a [BorrowedFd<'a>],
}

/// A step at which criu waits.
#[derive(Debug)]
pub(crate) struct Step {
    /// Its name, see criu(8), ACTION SCRIPTS.
    pub name: String,
    /// The first process, where it exists.
    pub pid: i32,
    /// A descriptor that comes with it.
    pub fd: Option<OwnedFd>,
}

/// A process that is or becomes `criu swrk`; ended when dropped.
#[derive(Debug)]
pub(crate) struct Criu {
    /// Its pid.
    pub pid: i32,
    pidfd: OwnedFd,
    /// Gone once criu runs.
    set_up: Option<Channel>,
    socket: Option<OwnedFd>,
}

impl Criu {
    /// Makes the process, which waits for [`Criu::call`].
    ///
    /// # Errors
    /// clone3(2).
    pub fn new(program: &Path, inherit: Inherit<'_>) -> Result<Criu> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .context(|| "socketpair()")?;
        let (set_up, child_set_up) = channel::pair()?;
        let side = clone_process(0, inherit.cgroup).context(|| "clone3(for criu)")?;
        match side {
            Side::Child => {
                drop((ours, set_up));
                let result = child_set_up
                    .wait_for_go()
                    .and_then(|()| become_criu(program, &theirs, inherit.fds));
                if let Err(error) = result {
                    let _ = child_set_up.send(&Message::Failed(error));
                }
                sys::exit_now(1)
            }
            Side::Parent { pid, pidfd } => Ok(Criu {
                pid,
                pidfd,
                set_up: Some(set_up),
                socket: Some(ours),
            }),
        }
    }

    /// Starts criu and has it serve `request`; `at_step` is called at each of criu's steps, and an
    /// error from there makes criu give up.
    ///
    /// # Errors
    /// What `at_step` failed with, else what criu says.
    pub fn call(
        &mut self,
        request: Request,
        opts: &Opts,
        log_dir: &Path,
        at_step: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        let Some(socket) = self.socket.take() else {
            return Err(Error::new(Kind::InvalidArgument, "criu serves one request"));
        };
        if let Some(set_up) = self.set_up.take() {
            set_up.send(&Message::Go)?;
            match set_up.receive()? {
                // execve closed it.
                None => {}
                Some(Message::Failed(error)) => return Err(error),
                Some(_) => return Err(channel::unexpected("a message that is none of criu's")),
            }
        }
        let log = log_dir.join(opts.log_file);
        let failed = |message: &str| {
            Error::new(
                Kind::System,
                format!(
                    "criu {} failed: {message} (log: {})",
                    request.name(),
                    log.display()
                ),
            )
        };
        // A criu that is gone already may have said why.
        transmit(&socket, &rpc::request(request, opts))
            .map_err(|_| failed(&reason("", 0, &log)))?;
        let mut given_up: Option<Error> = None;
        let done = loop {
            let Some((bytes, fd)) = receive(&socket)? else {
                break Err(failed(&reason("", 0, &log)));
            };
            match rpc::response(&bytes)? {
                Response::Notify { step, pid } => {
                    let name = step;
                    let result = match &given_up {
                        Some(_) => Ok(()),
                        None => at_step(Step { name, pid, fd }),
                    };
                    given_up = given_up.or(result.err());
                    // criu being gone is told by the next receive.
                    let _ = transmit(&socket, &rpc::notified(given_up.is_none()));
                }
                Response::Done { success: true, .. } => break Ok(()),
                Response::Done { errno, message, .. } => {
                    break Err(failed(&reason(&message, errno, &log)));
                }
            }
        };
        // After a pre-dump criu would wait for the dump.
        drop(socket);
        reap(self.pidfd.as_fd())?;
        match given_up {
            Some(error) => Err(error),
            None => done,
        }
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        let _ = wait::signal(self.pidfd.as_fd(), rustix::process::Signal::KILL);
        // Already done after a call that came to its end.
        let _ = reap(self.pidfd.as_fd());
    }
}

fn become_criu(program: &Path, socket: &OwnedFd, keep: &[BorrowedFd<'_>]) -> Result<()> {
    exec::default_signals(u64::MAX);
    exec::restore_signals();
    for fd in keep.iter().copied().chain([socket.as_fd()]) {
        fds::keep_on_exec(fd.as_raw_fd()).context(|| "fcntl(F_SETFD)")?;
    }
    let text = |bytes: Vec<u8>| {
        CString::new(bytes).map_err(|_| Error::new(Kind::InvalidArgument, "PATH has a NUL byte"))
    };
    let path = text(program.as_os_str().to_owned().into_vec())?;
    let number = text(socket.as_raw_fd().to_string().into_bytes())?;
    let args = [c"criu".to_owned(), c"swrk".to_owned(), number];
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).ok()
        })
        .collect();
    Err(Error::system(
        format!("exec({})", program.display()),
        exec::execve(&path, &args, &env),
    ))
}

fn transmit(socket: &OwnedFd, packet: &[u8]) -> Result<()> {
    loop {
        match send(socket, packet, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result.map(drop).context(|| "send(criu)"),
        }
    }
}

/// The next packet, `None` where criu has closed its end.
fn receive(socket: &OwnedFd) -> Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let received = loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => {
                let fd = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                break Some((received, fd));
            }
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => break None,
            Err(errno) => return Err(Error::system("recvmsg(criu)", errno)),
        }
    };
    let Some((received, fd)) = received.filter(|(received, _)| received.bytes > 0) else {
        return Ok(None);
    };
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::new(
            Kind::System,
            format!("criu sent an answer of more than {MAX_MESSAGE} bytes"),
        ));
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, fd)))
}

/// Why criu failed, in one line: what it says, else the first error of its log, else the errno.
fn reason(message: &str, errno: i32, log: &Path) -> String {
    let text = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    if !message.trim().is_empty() {
        return text(message);
    }
    let log = std::fs::File::open(log)
        .ok()
        .and_then(|file| crate::proc::read_bounded(file.into(), MAX_LOG).ok())
        .unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    match log.lines().find(|line| line.contains("Error (")) {
        Some(line) => text(line),
        None if errno != 0 => errno_text(errno),
        None => "it gave no reason".to_owned(),
    }
}
