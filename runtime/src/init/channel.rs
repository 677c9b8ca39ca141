//! The socket between the runtime and the container's process while it is set up.
//!
//! One sequenced-packet socket pair, one packet a message: a tag, then the body.
//! The container's process asks, the runtime answers; each side knows what may
//! come next, and anything else is an error.
//!
//! ```text
//! runtime                               container's process
//!   cgroups entered, ids mapped  --Go-->  waits for it before it looks at either
//!                                <--Init-- a helper made init and hands over its pidfd
//!                                         (only where a user namespace is joined)
//!                                <--Hooks-- mounts are made, the root is still the host's
//!   runs createRuntime hooks     --Go-->
//!                                <--Console-- with the terminal's master
//!                                <--Notify-- the number of its seccomp listener
//!   took and passed it on        --Go-->
//!                                <--Warning-- any time, any number
//!                                <--Ready-- everything is done but the program
//!   stored the state             --Go-->  may be started from now on
//!                                <--Executing-- the next step is execve, which closes the socket
//!                                <--Failed-- instead of any of the above; it ends then
//! ```
//!
//! Messages without a descriptor go through read(2) and write(2), which every
//! seccomp profile lets pass that lets a program run at all: some are sent when
//! the container's filter is in force already.
//!
//! A closed socket means that the other side is dead: the runtime undoes what it
//! did, the container's process ends.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::signal::Signals;

/// The largest message; an error text longer than that is cut.
const MAX_MESSAGE: usize = 16 << 10;

/// What the two sides say to each other.
#[derive(Debug)]
pub(crate) enum Message {
    /// Go on.
    Go,
    /// The mounts are made: run the hooks that come before the root is changed.
    Hooks,
    /// A pidfd of init, where another process than the first child is init.
    Init(OwnedFd),
    /// The terminal's master.
    Console(OwnedFd),
    /// The seccomp listener, as the number it has in the container's process.
    Notify(i32),
    /// Something worth telling that is no error.
    Warning(String),
    /// All is done but the program.
    Ready,
    /// The program is executed next.
    Executing,
    /// A step failed.
    Failed(Error),
}

/// One end of the socket.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// Makes the two ends.
pub(crate) fn pair() -> Result<(Channel, Channel)> {
    let (a, b) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "socketpair()")?;
    Ok((Channel(a), Channel(b)))
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Sends a message.
    pub fn send(&self, message: &Message) -> Result<()> {
        match message {
            Message::Go => self.send_raw(b'G', &[], None),
            Message::Hooks => self.send_raw(b'H', &[], None),
            Message::Init(pidfd) => self.send_raw(b'I', &[], Some(pidfd.as_fd())),
            Message::Console(fd) => self.send_raw(b'C', &[], Some(fd.as_fd())),
            Message::Notify(number) => self.send_raw(b'N', &number.to_le_bytes(), None),
            Message::Warning(text) => self.send_raw(b'W', text.as_bytes(), None),
            Message::Ready => self.send_raw(b'R', &[], None),
            Message::Executing => self.send_raw(b'X', &[], None),
            Message::Failed(error) => self.send_raw(b'F', &error.to_bytes(), None),
        }
    }

    fn send_raw(&self, tag: u8, body: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let body = body
            .get(..body.len().min(MAX_MESSAGE - 1))
            .unwrap_or_default();
        let Some(fd) = fd else {
            let mut packet = Vec::with_capacity(1 + body.len());
            packet.push(tag);
            packet.extend_from_slice(body);
            return retry(|| rustix::io::write(&self.0, &packet))
                .map(drop)
                .context(|| "write(the other side of the set-up)");
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let parts = [IoSlice::new(std::slice::from_ref(&tag)), IoSlice::new(body)];
        retry(|| sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL))
            .map(drop)
            .context(|| "sendmsg(the other side of the set-up)")
    }

    /// Waits for a message; `None` when the other side is gone.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut receive = || {
            retry(|| {
                recvmsg(
                    &self.0,
                    &mut [IoSliceMut::new(&mut buffer)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC,
                )
            })
        };
        let received = match receive() {
            // Told once, ahead of what the other side sent before it ended with our words unread.
            Err(Errno::CONNRESET) => receive(),
            other => other,
        };
        let read = match received {
            Ok(received) => received.bytes,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => {
                return Err(Error::system(
                    "recvmsg(the other side of the set-up)",
                    errno,
                ));
            }
        };
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let (tag, body) = match buffer.get(..read) {
            None | Some([]) => return Ok(None),
            Some([tag, body @ ..]) => (*tag, body),
        };
        Ok(Some(match (tag, fd) {
            (b'G', None) => Message::Go,
            (b'H', None) => Message::Hooks,
            (b'I', Some(fd)) => Message::Init(fd),
            (b'C', Some(fd)) => Message::Console(fd),
            (b'N', None) => Message::Notify(number(body)),
            (b'W', None) => Message::Warning(String::from_utf8_lossy(body).into_owned()),
            (b'R', None) => Message::Ready,
            (b'X', None) => Message::Executing,
            (b'F', None) => Message::Failed(Error::from_bytes(body)),
            _ => return Err(unexpected("a message of no known kind")),
        }))
    }

    /// Waits until there is a message, or the other side is gone. Signals that come first do what they
    /// do to any program.
    pub fn wait_beside(&self, signals: &Signals) -> Result<()> {
        let mut fds = [
            PollFd::new(&self.0, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        retry(|| poll(&mut fds, None)).context(|| "poll(the other side of the set-up, signals)")?;
        while fds[0].revents().is_empty() {
            signals.let_through();
            // One that the caller had blocked stays.
            let now = Some(&Timespec::default());
            if retry(|| poll(&mut fds, now)).context(|| "poll(signals)")? > 0 {
                return Ok(());
            }
            retry(|| poll(&mut fds, None))
                .context(|| "poll(the other side of the set-up, signals)")?;
        }
        Ok(())
    }

    /// Lets the other side go on. Where it has ended instead, its last word is the error.
    pub fn send_go(&self) -> Result<()> {
        self.send(&Message::Go)
            .map_err(|error| self.last_word().unwrap_or(error))
    }

    /// What the other side said before it ended. To be asked when it is known to have ended, or to be about to.
    pub fn last_word(&self) -> Option<Error> {
        loop {
            match self.receive() {
                Ok(Some(Message::Failed(error))) => return Some(error),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The error that the other side has sent by now, or else `error`, which may have come of its end.
    pub fn last_word_or(&self, error: Error) -> Error {
        while self.poll(PollFlags::IN).is_ok_and(|ready| ready) {
            match self.receive() {
                Ok(Some(Message::Failed(reason))) => return reason,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        error
    }

    /// Makes sure that the other side is there, without waiting.
    pub fn check_open(&self) -> Result<()> {
        if self.poll(PollFlags::empty())? {
            Err(runtime_ended())
        } else {
            Ok(())
        }
    }

    /// Whether any of `events` is there, or the other side is gone.
    fn poll(&self, events: PollFlags) -> Result<bool> {
        let mut fds = [PollFd::new(&self.0, events)];
        retry(|| poll(&mut fds, Some(&Timespec::default())))
            .map(|ready| ready > 0)
            .context(|| "poll(the other side of the set-up)")
    }

    /// Waits for leave to go on; the runtime being gone ends the set-up.
    pub fn wait_for_go(&self) -> Result<()> {
        let mut tag = [0u8; 1];
        match retry(|| rustix::io::read(&self.0, &mut tag)) {
            Ok(1) if tag == *b"G" => Ok(()),
            Ok(0) | Err(Errno::CONNRESET) => Err(runtime_ended()),
            Ok(_) => Err(unexpected("another message than Go")),
            Err(errno) => Err(Error::system("read(the other side of the set-up)", errno)),
        }
    }
}

fn runtime_ended() -> Error {
    Error::new(
        Kind::System,
        "the runtime ended while the container was set up",
    )
}

fn number(body: &[u8]) -> i32 {
    <[u8; 4]>::try_from(body).map_or(0, i32::from_le_bytes)
}

fn retry<T>(
    mut call: impl FnMut() -> std::result::Result<T, Errno>,
) -> std::result::Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The error for a message that cannot come at that point.
pub(crate) fn unexpected(what: &str) -> Error {
    Error::new(
        Kind::System,
        format!("the set-up of the container got out of step: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_every_message() {
        let (a, b) = pair().unwrap();
        a.send(&Message::Warning("careful".to_owned())).unwrap();
        assert!(matches!(b.receive().unwrap(), Some(Message::Warning(text)) if text == "careful"));
        a.send(&Message::Notify(12)).unwrap();
        assert!(matches!(b.receive().unwrap(), Some(Message::Notify(12))));
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(&Message::Console(file.into())).unwrap();
        assert!(matches!(b.receive().unwrap(), Some(Message::Console(_))));
        a.send(&Message::Failed(Error::new(
            Kind::Hook,
            "x".repeat(1 << 20),
        )))
        .unwrap();
        assert!(
            matches!(b.receive().unwrap(), Some(Message::Failed(error)) if error.kind() == Kind::Hook)
        );
    }

    #[test]
    fn the_last_word_comes_through_whatever_was_unread() {
        for unread in [false, true] {
            let (a, b) = pair().unwrap();
            if unread {
                a.send(&Message::Go).unwrap();
            }
            b.send(&Message::Failed(Error::new(Kind::Exec, "why")))
                .unwrap();
            drop(b);
            let error = a.last_word_or(Error::new(Kind::System, "other"));
            assert_eq!(error.kind(), Kind::Exec);
            let error = a.last_word_or(Error::new(Kind::System, "other"));
            assert_eq!(error.kind(), Kind::System);
        }
    }

    #[test]
    fn tells_when_the_other_side_is_gone() {
        let (a, b) = pair().unwrap();
        assert!(b.check_open().is_ok());
        drop(a);
        assert!(b.check_open().is_err());
        assert!(b.receive().unwrap().is_none());
        assert!(b.wait_for_go().is_err());
        assert!(b.send(&Message::Ready).is_err());
    }
}
