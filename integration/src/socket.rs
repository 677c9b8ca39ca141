//! Unix sockets that a runtime sends descriptors to or forwards messages to.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// A listening socket for `--console-socket`, `--pidfd-socket` or seccomp's `listenerPath`.
#[derive(Debug)]
pub struct Receiver {
    path: PathBuf,
    listener: UnixListener,
}

/// One message with its descriptors.
#[derive(Debug)]
pub struct Message {
    /// The bytes.
    pub data: Vec<u8>,
    /// The descriptors of SCM_RIGHTS.
    pub fds: Vec<OwnedFd>,
}

impl Receiver {
    /// Listens at `path`.
    ///
    /// # Panics
    /// Where it cannot.
    #[must_use]
    pub fn bind(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        Self { path, listener }
    }

    /// The socket's path as an argument.
    ///
    /// # Panics
    /// Where it is not UTF-8.
    #[must_use]
    pub fn arg(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the one connection and all messages on it, until the sender closes.
    ///
    /// # Panics
    /// Where none comes in ten seconds.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.listener.set_nonblocking(true).unwrap();
        let mut stream = None;
        crate::process::eventually(Duration::from_secs(10), || {
            stream = self.listener.accept().ok().map(|(stream, _)| stream);
            stream.is_some()
        });
        let stream = stream.expect("nobody connected to the socket");
        stream.set_nonblocking(false).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut all = Vec::new();
        while let Some(message) = receive(&stream) {
            all.push(message);
        }
        all
    }

    /// The first message's first descriptor and its bytes.
    ///
    /// # Panics
    /// Where no descriptor came.
    #[must_use]
    pub fn descriptor(&self) -> (OwnedFd, Vec<u8>) {
        let mut messages = self.messages();
        assert!(!messages.is_empty(), "no message came");
        let mut first = messages.remove(0);
        assert!(!first.fds.is_empty(), "no descriptor came");
        (first.fds.remove(0), first.data)
    }
}

/// One message, `None` at the end.
fn receive(stream: &UnixStream) -> Option<Message> {
    let mut data = vec![0; 1 << 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut data)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .expect("recvmsg");
    assert!(
        !got.flags.contains(ReturnFlags::CTRUNC),
        "more than eight descriptors in one message"
    );
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 && fds.is_empty() {
        return None;
    }
    data.truncate(got.bytes);
    Some(Message { data, fds })
}

/// A socket that plays systemd's side of sd_notify(3).
#[derive(Debug)]
pub struct Notify {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Notify {
    /// Binds at `path`.
    ///
    /// # Panics
    /// Where it cannot.
    #[must_use]
    pub fn bind(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self { path, socket }
    }

    /// The value for NOTIFY_SOCKET.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next datagram's text.
    ///
    /// # Panics
    /// Where none comes in ten seconds.
    #[must_use]
    pub fn next(&self) -> String {
        let mut data = [0; 4096];
        let size = self.socket.recv(&mut data).expect("no notification came");
        String::from_utf8_lossy(&data[..size]).into_owned()
    }
}
