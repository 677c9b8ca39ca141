//! Word from the kernel that a process was killed for want of memory.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::file;
use crate::error::{Context, Error, Result};

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomEvent {
    /// A process was killed, or waits for memory.
    Oom,
    /// The cgroup is gone: nothing will happen any more.
    Gone,
    /// Nothing that matters.
    Nothing,
}

/// A watch over one cgroup; see [`OomWatch::fd`] and [`OomWatch::event`].
#[derive(Debug)]
pub struct OomWatch {
    dir: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// An eventfd registered in cgroup.event_control (v1).
    Eventfd(OwnedFd),
    /// memory.events (v2) and the number of kills it showed last.
    Events(OwnedFd, u64),
}

impl OomWatch {
    pub(super) fn v1(dir: &str) -> Result<OomWatch> {
        let control = rustix::fs::open(
            file::join(dir, "memory.oom_control"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .context(|| format!("open(\"{dir}/memory.oom_control\")"))?;
        let event =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context(|| "eventfd()")?;
        let line = format!("{} {}", raw(&event), raw(&control));
        file::write(dir, "cgroup.event_control", &line)
            .map_err(|errno| file::write_error(dir, "cgroup.event_control", &line, errno))?;
        Ok(OomWatch {
            dir: dir.to_owned(),
            source: Source::Eventfd(event),
        })
    }

    pub(super) fn v2(dir: &str) -> Result<OomWatch> {
        let events = rustix::fs::open(
            file::join(dir, "memory.events"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .context(|| format!("open(\"{dir}/memory.events\")"))?;
        let seen = kills(&events).context(|| format!("read(\"{dir}/memory.events\")"))?;
        Ok(OomWatch {
            dir: dir.to_owned(),
            source: Source::Events(events, seen),
        })
    }

    /// What to poll(2), and for which events, until [`OomWatch::event`] is worth a call.
    #[must_use]
    pub fn fd(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.source {
            Source::Eventfd(fd) => (fd.as_fd(), PollFlags::IN),
            Source::Events(fd, _) => (fd.as_fd(), PollFlags::PRI),
        }
    }

    /// Waits for up to `milliseconds` (for ever where negative) and says what happened.
    ///
    /// # Errors
    /// poll(2).
    pub fn wait(&mut self, milliseconds: i32) -> Result<OomEvent> {
        let timeout = u64::try_from(milliseconds)
            .ok()
            .map(|ms| rustix::event::Timespec {
                tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
            });
        let (fd, flags) = self.fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok(OomEvent::Nothing),
            Ok(_) => self.event(),
            Err(errno) => Err(Error::system("poll()", errno)),
        }
    }

    /// Takes what the descriptor of [`OomWatch::fd`] announced.
    ///
    /// # Errors
    /// read(2).
    pub fn event(&mut self) -> Result<OomEvent> {
        match &mut self.source {
            Source::Eventfd(fd) => {
                let mut count = [0; 8];
                match rustix::io::read(&*fd, &mut count) {
                    Ok(_) => {}
                    Err(Errno::AGAIN) => return Ok(OomEvent::Nothing),
                    Err(errno) => return Err(Error::system("read(eventfd)", errno)),
                }
                // The removal of the cgroup is announced the same way.
                let there = rustix::fs::access(
                    file::join(&self.dir, "cgroup.event_control"),
                    rustix::fs::Access::EXISTS,
                );
                Ok(if there.is_ok() {
                    OomEvent::Oom
                } else {
                    OomEvent::Gone
                })
            }
            Source::Events(fd, seen) => match kills(fd) {
                Ok(now) if now > *seen => {
                    *seen = now;
                    Ok(OomEvent::Oom)
                }
                Ok(_) => Ok(OomEvent::Nothing),
                Err(Errno::NODEV) => Ok(OomEvent::Gone),
                Err(errno) => Err(Error::system(
                    format!("read(\"{}/memory.events\")", self.dir),
                    errno,
                )),
            },
        }
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

/// `oom_kill` of memory.events.
fn kills(fd: &OwnedFd) -> std::result::Result<u64, Errno> {
    let mut buffer = [0; 512];
    let length = rustix::io::pread(fd, &mut buffer, 0)?;
    let text = buffer.get(..length).unwrap_or_default();
    let text = std::str::from_utf8(text).unwrap_or_default();
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.parse().ok())
        .unwrap_or(0))
}
