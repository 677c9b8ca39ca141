//! run: create and start in one go, and the wait for the program's end in the foreground.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, Signal};

use super::create::{self, Created, GateKind};
use super::options::{CreateOptions, RunOptions};
use super::{Container, delete, wait};
use crate::console;
use crate::error::{Context, Error, Kind, Result};
use crate::init::channel::{Channel, Message};
use crate::notify::{self, Listener};
use crate::sys::clone::{Side, clone_process};
use crate::sys::fds::Batch;
use crate::sys::process as sys;
use crate::sys::signal::Signals;

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
        let signals = prepare_to_wait(run)?;
        let created = create::create(root, &options, GateKind::Channel)?;
        let container = Container {
            root: root.to_owned(),
            id: options.id.clone(),
            warnings: created.warnings.clone(),
        };
        let started = started(&created.channel, created.pidfd.as_fd())
            .and_then(|()| container.after_start(&created.store, &created.record));
        created.store.unlock();
        match started.and_then(|()| accompany(&created, signals.as_ref())) {
            Ok(code) => {
                let mut warnings = created.warnings;
                if !run.detach && !run.keep {
                    let deleted = delete::destroy_ended(&created.store, &created.record);
                    warnings.extend(delete::unless_gone(deleted)?);
                }
                let mut spent = Batch::default();
                spent.push(created.pidfd);
                spent.push(created.channel.into());
                if let Some(signals) = signals {
                    spent.push(signals.into());
                }
                created.store.close(&mut spent);
                Ok((code, warnings))
            }
            Err(error) => {
                let left = delete::destroy(root, &options.id, true).err();
                if let Some(path) = &options.pid_file {
                    let _ = std::fs::remove_file(path);
                }
                Err(left
                    .into_iter()
                    .filter(|e| e.kind() != Kind::NotFound)
                    .fold(error, Error::and_also))
            }
        }
    }
}

/// Passes a service manager's socket through, and waits for the process's end where there are
/// signals to wait for meanwhile: its exit code.
fn accompany(created: &Created, signals: Option<&Signals>) -> Result<i32> {
    fault!("run.started");
    let pidfd = created.pidfd.as_fd();
    let notify = created.notify.as_ref().zip(notify::host_socket());
    let Some(signals) = signals else {
        if let Some((listener, host)) = notify {
            listener.proxy(&host, created.record.pid.cast_unsigned(), pidfd)?;
        }
        return Ok(0);
    };
    if let Some((listener, host)) = notify {
        pass_on_beside(listener, &host, pidfd)?;
    }
    wait_in_foreground(pidfd, signals, created.console.as_ref())
}

/// Makes the calling process one that can wait for a container's end; `None` where it shall not.
/// To be called before the process exists, so that neither its end nor a signal for it is missed.
pub(super) fn prepare_to_wait(run: &RunOptions) -> Result<Option<Signals>> {
    if run.detach {
        return Ok(None);
    }
    if !run.no_subreaper {
        // Any pid but none says yes.
        rustix::process::set_child_subreaper(Some(Pid::INIT))
            .context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    }
    Signals::block().context(|| "signalfd()").map(Some)
}

/// Waits for the end of a container in the foreground, and deletes it then unless it shall be kept.
pub(super) fn until_end(
    (root, id): (&Path, &str),
    pidfd: BorrowedFd<'_>,
    signals: &Signals,
    console: Option<&OwnedFd>,
    keep: bool,
    mut warnings: Vec<String>,
) -> Result<(i32, Vec<String>)> {
    let code = wait_in_foreground(pidfd, signals, console)?;
    if !keep {
        warnings.extend(Container::force_delete(root, id)?);
    }
    Ok((code, warnings))
}

/// Passes the container's word on in a process of its own: this one waits for the container's end,
/// and stays the service's main process.
fn pass_on_beside(listener: &Listener, host: &str, pidfd: BorrowedFd<'_>) -> Result<()> {
    let own = rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs();
    match clone_process(0, None).context(|| "clone3()")? {
        Side::Parent { .. } => Ok(()),
        Side::Child => {
            let passed = listener.proxy(host, own, pidfd);
            sys::exit_now(i32::from(passed.is_err()))
        }
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

/// Waits for the end of a process in the foreground: signals for us go to it.
pub(super) fn wait_in_foreground(
    pidfd: BorrowedFd<'_>,
    signals: &Signals,
    console: Option<&OwnedFd>,
) -> Result<i32> {
    let mut forward = |number: i32| match sys::signal(number) {
        // Children that are not ours: as a subreaper we inherit what the container orphans.
        Some(Signal::CHILD) => {
            if let Ok(main) = wait::pid_of(pidfd) {
                sys::reap_all_but(main);
            }
        }
        // Writing to a closed pipe is our own business, and nobody sends SIGURG.
        None | Some(Signal::PIPE | Signal::URG) => {}
        Some(signal) => {
            let _ = wait::signal(pidfd, signal);
        }
    };
    console::wait(pidfd, signals, console, &mut forward)?;
    wait::reap(pidfd)
}
