//! Copying from one descriptor to another without waiting for either.
//!
//! Both are non-blocking, and one is waited for at a time: the source while there is nothing to
//! write, the destination while it is full. So no more is held than one piece.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, read, write};

use crate::poll::{Poll, Token};

/// Bytes that are read at once.
const PIECE: usize = 4096;
/// Pieces that are copied before others get their turn.
const TURN: usize = 32;

/// Whether there will be more to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Both ends are there.
    Open,
    /// The source has ended, or nobody reads the destination.
    Ended,
}

/// A copy in progress.
#[derive(Debug)]
pub struct Pump {
    token: Token,
    from: OwnedFd,
    /// Absent: what is read is thrown away.
    to: Option<OwnedFd>,
    /// Read and not yet written.
    pending: Vec<u8>,
    /// Whether the destination is waited for.
    full: bool,
    /// Whether what is there now is all that shall be copied.
    last: bool,
}

impl Pump {
    /// Copies from now on, whenever [`Pump::run`] is called for the token.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn new(
        poll: &Poll,
        token: Token,
        from: OwnedFd,
        to: Option<OwnedFd>,
    ) -> knarr_runtime::Result<Pump> {
        poll.add(&from, token, EventFlags::IN)?;
        Ok(Pump {
            token,
            from,
            to,
            pending: Vec::new(),
            full: false,
            last: false,
        })
    }

    /// Copies what is there and no more.
    pub fn finish(&mut self, poll: &Poll) -> Flow {
        self.last = true;
        match self.full {
            // The destination's turn comes first.
            true => Flow::Open,
            false => self.run(poll),
        }
    }

    /// Copies what can be copied now.
    pub fn run(&mut self, poll: &Poll) -> Flow {
        for _ in 0..TURN {
            if !self.pending.is_empty() {
                let pending = std::mem::take(&mut self.pending);
                match self.put(&pending) {
                    Ok(0) => {}
                    Ok(left) => {
                        let start = pending.len().saturating_sub(left);
                        self.pending = pending.get(start..).unwrap_or_default().to_vec();
                        return self.wait_for_room(poll);
                    }
                    Err(_) => return Flow::Ended,
                }
            }
            let mut piece = [0; PIECE];
            match read(&self.from, &mut piece) {
                Ok(0) => return Flow::Ended,
                Ok(count) => {
                    let piece = piece.get(..count).unwrap_or_default();
                    match self.put(piece) {
                        Ok(0) => {}
                        Ok(left) => {
                            let start = count.saturating_sub(left);
                            self.pending = piece.get(start..).unwrap_or_default().to_vec();
                            return self.wait_for_room(poll);
                        }
                        Err(_) => return Flow::Ended,
                    }
                }
                Err(Errno::AGAIN) if self.last => return Flow::Ended,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // A terminal that nobody has open any more.
                Err(_) => return Flow::Ended,
            }
        }
        self.wait_for_more(poll)
    }

    /// Writes; returns how many bytes at the end there was no room for.
    fn put(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let Some(to) = &self.to else { return Ok(0) };
        let mut rest = bytes;
        while !rest.is_empty() {
            match write(to, rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(rest.len())
    }

    fn wait_for_room(&mut self, poll: &Poll) -> Flow {
        if let (false, Some(to)) = (self.full, &self.to) {
            poll.remove(self.from.as_fd());
            if poll.add(to, self.token, EventFlags::OUT).is_err() {
                return Flow::Ended;
            }
            self.full = true;
        }
        Flow::Open
    }

    fn wait_for_more(&mut self, poll: &Poll) -> Flow {
        if let (true, Some(to)) = (self.full, &self.to) {
            poll.remove(to.as_fd());
            if poll.add(&self.from, self.token, EventFlags::IN).is_err() {
                return Flow::Ended;
            }
            self.full = false;
        }
        Flow::Open
    }

    /// Closes both ends.
    pub fn close(self, poll: &Poll) {
        match (self.full, &self.to) {
            (true, Some(to)) => poll.remove(to.as_fd()),
            _ => poll.remove(self.from.as_fd()),
        }
    }
}
