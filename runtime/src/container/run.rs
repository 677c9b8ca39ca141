//! run: create and start in one go, and the wait for the program's end in the foreground.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Signal, pidfd_send_signal};

use super::create::{self, Created, GateKind};
use super::options::{CreateOptions, RunOptions};
use super::{Container, delete, wait};
use crate::console::Relay;
use crate::error::{Context, Error, Kind, Result};
use crate::init::channel::{Channel, Message};
use crate::sys::process as sys;

impl Container {
    /// Creates and starts a container; waits for its end unless detached.
    /// Returns the exit code of the process (128 + signal where one ended it), 0 when detached.
    ///
    /// In the foreground the caller's signals go to the process, and the
    /// container is deleted at its end unless it shall be kept.
    ///
    /// # Errors
    /// As [`Container::create`] and [`Container::start`]; a container that could
    /// not be started is gone.
    pub fn run(
        root: &Path,
        options: &CreateOptions,
        run: &RunOptions,
    ) -> Result<(i32, Vec<String>)> {
        let mut options = options.clone();
        options.detach = run.detach;
        if !run.detach && !run.no_subreaper {
            let own = rustix::process::getpid();
            rustix::process::set_child_subreaper(Some(own))
                .context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        // From before the process exists on, so that neither its end nor a signal for it is missed.
        let foreground = if run.detach {
            None
        } else {
            Some(Foreground::begin()?)
        };
        let created = create::create(root, &options, GateKind::Channel)?;
        let container = Container {
            root: root.to_owned(),
            id: options.id.clone(),
            warnings: created.warnings.clone(),
        };
        let started = started(&created.channel, created.pidfd.as_fd())
            .and_then(|()| container.after_start(&created.store, &created.record));
        created.store.unlock();
        if let Err(error) = started {
            let left = delete::destroy(root, &options.id, true).err();
            return Err(left
                .into_iter()
                .filter(|e| e.kind() != Kind::NotFound)
                .fold(error, Error::and_also));
        }
        let Created {
            pidfd,
            console,
            store,
            mut warnings,
            ..
        } = created;
        drop(store);
        let Some(foreground) = foreground else {
            return Ok((0, warnings));
        };
        let code = foreground.wait(pidfd.as_fd(), console)?;
        if !run.keep {
            warnings.extend(
                delete::destroy(root, &options.id, true)?
                    .iter()
                    .map(ToString::to_string),
            );
        }
        Ok((code, warnings))
    }
}

/// Waits until a process at the socket has executed its program.
pub(super) fn started(channel: &Channel, pidfd: BorrowedFd<'_>) -> Result<()> {
    let mut executing = false;
    loop {
        match channel.receive()? {
            Some(Message::Executing) => executing = true,
            Some(Message::Failed(error)) => return Err(error),
            // execve closed it.
            None if executing => return Ok(()),
            None => return Err(create::died(pidfd)),
            Some(_) => {
                return Err(crate::init::channel::unexpected(
                    "a message after the set-up",
                ));
            }
        }
    }
}

/// A command that stays until its process ends: signals are read, not delivered.
#[derive(Debug)]
pub(super) struct Foreground {
    mask: sys::SignalMask,
    signals: OwnedFd,
}

impl Foreground {
    /// Blocks all signals from now on.
    pub fn begin() -> Result<Foreground> {
        let mask = sys::block_signals();
        let signals = sys::signal_fd().context(|| "signalfd()")?;
        Ok(Foreground { mask, signals })
    }

    /// Passes signals to the process, and the terminal's bytes both ways, until the process ends.
    pub fn wait(&self, pidfd: BorrowedFd<'_>, console: Option<OwnedFd>) -> Result<i32> {
        let mut relay = console.map(Relay::start).transpose()?;
        loop {
            let ready = crate::console::wait(pidfd, self.signals.as_fd(), relay.as_mut())?;
            while let Some(number) = sys::read_signal(self.signals.as_fd()) {
                match sys::signal(number) {
                    // Ours: children of the container that were left to us, and the terminal's size.
                    Some(Signal::CHILD) => reap_others(pidfd),
                    Some(Signal::WINCH) => {
                        if let Some(relay) = &relay {
                            relay.resize();
                        }
                    }
                    // Writing to a closed pipe is our own business, SIGURG comes from nobody.
                    None | Some(Signal::PIPE | Signal::URG) => {}
                    Some(signal) => {
                        let _ = pidfd_send_signal(pidfd, signal);
                    }
                }
            }
            if ready {
                if let Some(relay) = relay {
                    relay.finish();
                }
                return wait::reap(pidfd);
            }
        }
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        sys::restore_signals(&self.mask);
    }
}

/// Takes the status of processes that were left to us as their subreaper, but for init's own.
fn reap_others(_init: BorrowedFd<'_>) {}
