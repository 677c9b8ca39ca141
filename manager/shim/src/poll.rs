//! epoll(7), and tokens that say whose descriptor is ready.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use knarr_runtime::error::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// Whose descriptor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// The socket at which clients connect.
    Listener,
    /// Signals.
    Signals,
    /// The connection to the daemon's events service.
    Events,
    /// A client.
    Client(u32),
    /// One of the two ends of a pump.
    Pump(u32),
    /// Word of processes killed for want of memory.
    Oom(u32),
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        let (kind, number) = match token {
            Token::Listener => (0, 0),
            Token::Signals => (1, 0),
            Token::Events => (2, 0),
            Token::Client(number) => (3, number),
            Token::Pump(number) => (4, number),
            Token::Oom(number) => (5, number),
        };
        (kind << 32) | u64::from(number)
    }
}

impl Token {
    fn of(data: u64) -> Option<Token> {
        let number = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        Some(match data >> 32 {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::Events,
            3 => Token::Client(number),
            4 => Token::Pump(number),
            5 => Token::Oom(number),
            _ => return None,
        })
    }
}

/// What is waited for.
#[derive(Debug)]
pub struct Poll(OwnedFd);

impl Poll {
    /// Nothing yet.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new() -> Result<Poll> {
        let fd = epoll::create(CreateFlags::CLOEXEC).context(|| "epoll_create1()")?;
        Ok(Poll(fd))
    }

    /// Waits for a descriptor, from now on.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<()> {
        epoll::add(&self.0, fd, EventData::new_u64(token.into()), flags)
            .context(|| "epoll_ctl(EPOLL_CTL_ADD)")
    }

    /// Waits for other events of a descriptor.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn modify(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<()> {
        epoll::modify(&self.0, fd, EventData::new_u64(token.into()), flags)
            .context(|| "epoll_ctl(EPOLL_CTL_MOD)")
    }

    /// Waits no more. To be called before a descriptor is closed: others may have copies of it.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits, at most for `timeout` milliseconds, until something is ready.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn wait(&self, ready: &mut Vec<Event>, timeout: Option<u64>) -> Result<()> {
        ready.clear();
        let timeout = timeout.map(|millis| Timespec {
            tv_sec: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(millis % 1000 * 1_000_000).unwrap_or(0),
        });
        match epoll::wait(&self.0, spare_capacity(ready), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno).context(|| "epoll_wait()"),
        }
    }
}

/// Whose descriptor an event is of.
pub fn token(event: &Event) -> Option<Token> {
    Token::of(event.data.u64())
}
