//! Telling the daemon what happens, over its events service.
//!
//! One event is under way at a time: the daemon serves calls of one connection side by side, so
//! that is what keeps them in order. While the daemon is away they wait, up to a number of which
//! ends of processes are the last to be given up.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use knarr_proto::any;
use knarr_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use knarr_proto::prost::{Message, Name};
use knarr_proto::ttrpc::frame::{self, Decoder, Incoming, Kind};
use knarr_proto::ttrpc::{Request, services};
use knarr_proto::types::Envelope;
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::poll::{Poll, Token};

/// How many events wait for a daemon that is away; then the oldest go.
const MOST: usize = 8192;
/// The topic of ends of processes.
pub const EXIT: &str = "/tasks/exit";
/// How long after a failure the daemon is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// A connection and what is under way on it.
#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    /// The stream of the event that is under way.
    stream: u32,
    sent: bool,
    /// What of it is not written yet.
    out: Vec<u8>,
}

/// Events on their way.
#[derive(Debug)]
pub struct Events {
    address: String,
    namespace: String,
    queue: VecDeque<ForwardRequest>,
    connection: Option<Connection>,
    retry: Option<Instant>,
}

impl Events {
    /// For the daemon that listens at `address`; without one nobody is told.
    pub fn new(address: &str, namespace: &str) -> Events {
        Events {
            address: address.trim_start_matches("unix://").to_owned(),
            namespace: namespace.to_owned(),
            queue: VecDeque::new(),
            connection: None,
            retry: None,
        }
    }

    /// Tells of an event.
    pub fn publish<M: Message + Name>(&mut self, poll: &Poll, topic: &str, event: &M) {
        if self.address.is_empty() {
            return;
        }
        if self.queue.len() >= MOST {
            // Not the one that is under way, and ends last: nobody else knows of them.
            let others = self.queue.iter().skip(1);
            let mut topics = others.map(|event| event.envelope.as_ref().map(|one| &*one.topic));
            let least = topics.position(|topic| topic != Some(EXIT));
            self.queue.remove(least.map_or(1, |index| index + 1));
        }
        self.queue.push_back(ForwardRequest {
            envelope: Some(Envelope {
                timestamp: Some(SystemTime::now().into()),
                namespace: self.namespace.clone(),
                topic: topic.to_owned(),
                event: Some(any::pack(event)),
            }),
        });
        self.advance(poll);
    }

    /// In how many milliseconds [`Events::advance`] is worth a call.
    pub fn timeout(&self) -> Option<u64> {
        let left = self.retry?.saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis())
            .ok()
            .map(|millis| millis + 1)
    }

    /// Tries again now: somebody has called, so the daemon may be back.
    pub fn hasten(&mut self, poll: &Poll) {
        if self.retry.take().is_some() {
            self.advance(poll);
        }
    }

    /// Does what can be done without waiting.
    pub fn advance(&mut self, poll: &Poll) {
        if self.retry.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.retry = None;
        if self.step(poll).is_err() {
            self.disconnect(poll);
            self.retry = (!self.queue.is_empty()).then(|| Instant::now() + RETRY);
        }
    }

    /// Waits until all are told, at most for `limit`.
    pub fn flush(&mut self, poll_: &Poll, limit: Duration) {
        let end = Instant::now() + limit;
        self.advance(poll_);
        while !self.queue.is_empty() && Instant::now() < end {
            match &self.connection {
                Some(connection) => {
                    let flags = match connection.out.is_empty() {
                        true => PollFlags::IN,
                        false => PollFlags::IN | PollFlags::OUT,
                    };
                    let second = Timespec {
                        tv_sec: 0,
                        tv_nsec: 100_000_000,
                    };
                    let _ = poll(&mut [PollFd::new(&connection.socket, flags)], Some(&second));
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
            self.advance(poll_);
        }
    }

    fn disconnect(&mut self, poll: &Poll) {
        if let Some(connection) = self.connection.take() {
            poll.remove(connection.socket.as_fd());
        }
    }

    fn step(&mut self, poll: &Poll) -> std::io::Result<()> {
        if self.connection.is_none() {
            if self.queue.is_empty() {
                return Ok(());
            }
            let socket = UnixStream::connect(&self.address)?;
            socket.set_nonblocking(true)?;
            poll.add(&socket, Token::Events, EventFlags::IN)
                .map_err(std::io::Error::other)?;
            self.connection = Some(Connection {
                socket,
                decoder: Decoder::default(),
                stream: 1,
                sent: false,
                out: Vec::new(),
            });
        }
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        loop {
            connection.receive(&mut self.queue)?;
            if connection.sent && connection.out.is_empty() {
                return Ok(());
            }
            if !connection.sent {
                let Some(event) = self.queue.front() else {
                    return Ok(());
                };
                let request = Request {
                    service: services::EVENTS[0].to_owned(),
                    method: "Forward".to_owned(),
                    payload: event.encode_to_vec().into(),
                    ..Request::default()
                };
                connection.sent = true;
                let stream = connection.stream;
                if frame::encode(&mut connection.out, stream, Kind::Request, &request).is_err() {
                    // Nobody can be told of what is that large.
                    connection.sent = false;
                    self.queue.pop_front();
                    continue;
                }
            }
            if !connection.send(poll)? {
                return Ok(());
            }
        }
    }
}

impl Connection {
    /// Takes answers; the event that is answered has arrived, whatever the answer.
    fn receive(&mut self, queue: &mut VecDeque<ForwardRequest>) -> std::io::Result<()> {
        let mut bytes = [0; 512];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.decoder.push(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            while let Some(incoming) = self.decoder.take() {
                let (Incoming::Frame(header, _) | Incoming::TooLong(header)) = incoming;
                if self.sent && header.stream == self.stream {
                    self.sent = false;
                    self.stream = self.stream.wrapping_add(2);
                    queue.pop_front();
                    if queue.is_empty() {
                        // It may have been long.
                        queue.shrink_to_fit();
                    }
                }
            }
        }
    }

    /// Writes; whether all is written.
    fn send(&mut self, poll: &Poll) -> std::io::Result<bool> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let flags = EventFlags::IN | EventFlags::OUT;
                    poll.modify(&self.socket, Token::Events, flags)
                        .map_err(std::io::Error::other)?;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.out = Vec::new();
        poll.modify(&self.socket, Token::Events, EventFlags::IN)
            .map_err(std::io::Error::other)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_proto::events::{TaskExecStarted, TaskExit};

    #[test]
    fn ends_are_kept_longest() {
        let poll = Poll::new().unwrap();
        let mut events = Events::new("/no/such/socket", "n");
        for _ in 0..MOST {
            events.publish(&poll, "/tasks/exec-started", &TaskExecStarted::default());
            events.publish(&poll, EXIT, &TaskExit::default());
        }
        assert_eq!(events.queue.len(), MOST);
        let is_end = |event: &ForwardRequest| event.envelope.as_ref().unwrap().topic == EXIT;
        assert!(events.queue.iter().skip(1).all(is_end));
        events.publish(&poll, EXIT, &TaskExit::default());
        assert_eq!(events.queue.len(), MOST);
    }
}
