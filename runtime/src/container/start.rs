//! start: lets init run the program, and the hooks around it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::record::Record;
use super::state::Status;
use super::store::{CONFIG, RESULT_FIFO, START_FIFO, Store};
use super::{Container, config_of, delete, open_init};
use crate::error::{Context, Error, Kind, Result};
use crate::hooks;
use crate::init::EXECUTING;
use crate::notify::{self, Listener};

/// The largest error text that init sends.
const MAX_REPORT: u64 = 16 << 10;

impl Container {
    /// Starts the program of a created container and runs the poststart hooks.
    ///
    /// # Errors
    /// `WrongState` where the container is not created, or has no process; a
    /// program that cannot be executed; a hook that fails, which stops the container.
    pub fn start(&self) -> Result<()> {
        let (store, record) = self.open_locked()?;
        if !record.has_process {
            return Err(Error::new(
                Kind::WrongState,
                "cannot start a container whose configuration has no process",
            ));
        }
        let status = self.status(&store, &record)?;
        if status != Status::Created {
            return Err(Error::new(
                Kind::WrongState,
                format!("cannot start a container in the {} state", status.as_str()),
            ));
        }
        // Opened before init is let go, so that its report cannot be missed.
        let result = store.open_fifo(RESULT_FIFO, OFlags::RDONLY)?;
        let gate = store.open_fifo(START_FIFO, OFlags::WRONLY)?;
        let (Some(result), Some(gate)) = (result, gate) else {
            return Err(Error::new(
                Kind::WrongState,
                "cannot start a container whose process has ended",
            ));
        };
        let notify = listen(&store)?;
        fault!("start.open");
        rustix::io::write(&gate, b"G").context(|| "write(start fifo)")?;
        drop(gate);
        fault!("start.go");
        if let Err(error) = outcome(result) {
            if error.kind() == Kind::Hook {
                return Err(self.destroy_after(error, &store));
            }
            return Err(error);
        }
        fault!("start.outcome");
        store.unlink(START_FIFO);
        store.unlink(RESULT_FIFO);
        fault!("start.started");
        self.after_start(&store, &record)?;
        // The program may take its time to say that it is ready; whoever waits for the lock has none.
        store.unlock();
        if let (Some((listener, host)), Some(init)) = (notify, open_init(&record)?) {
            listener.proxy(&host, record.pid.cast_unsigned(), init.as_fd())?;
        }
        Ok(())
    }

    /// What comes after the program runs: hooks, which may use commands on the container.
    pub(super) fn after_start(&self, store: &Store, record: &Record) -> Result<()> {
        if !record.poststart {
            return Ok(());
        }
        store.unlock();
        let text = store.read(CONFIG)?.unwrap_or_default();
        let spec = config_of(&self.id, &text)?;
        let list = spec
            .hooks
            .as_ref()
            .map(|hooks| hooks.poststart.as_slice())
            .unwrap_or_default();
        let state = record.hooks_state(Status::Running, record.pid);
        if let Err(error) = hooks::plan(list, "hooks.poststart")
            .and_then(|hooks| hooks::run(&hooks, &state, &record.bundle))
        {
            return Err(self.destroy_after(error, store));
        }
        Ok(())
    }

    /// What the specification asks for where a hook fails: stop the container and destroy it, its
    /// poststop hooks included. Returns the error with what else went wrong.
    fn destroy_after(&self, error: Error, store: &Store) -> Error {
        store.unlock();
        match delete::destroy(&self.root, &self.id, true) {
            // A hook has deleted it, or somebody else.
            Err(other) if other.kind() != Kind::NotFound => error.and_also(other),
            _ => error,
        }
    }
}

/// Listens for word from the container, if create was called for a service manager that waits for it.
pub(super) fn listen(store: &Store) -> Result<Option<(Listener, String)>> {
    match notify::host_socket() {
        Some(host) if store.has(notify::DIRECTORY) => {
            Ok(Some((Listener::bind(store.as_fd())?, host)))
        }
        _ => Ok(None),
    }
}

/// Waits until init has executed the program or has reported why not.
fn outcome(result: OwnedFd) -> Result<()> {
    loop {
        // The fifo has no data and its only writer is init: it hangs up when init executes or ends.
        match poll(&mut [PollFd::new(&result, PollFlags::IN)], None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::system("poll(result fifo)", errno)),
        }
    }
    // Something is there, but perhaps not all of it: from here on reading may wait for the rest.
    rustix::fs::fcntl_setfl(&result, OFlags::empty()).context(|| "fcntl(result fifo)")?;
    let mut report = Vec::new();
    std::fs::File::from(result)
        .take(MAX_REPORT)
        .read_to_end(&mut report)
        .context(|| "read(result fifo)")?;
    judge(&report)
}

/// What init's report says.
pub(super) fn judge(report: &[u8]) -> Result<()> {
    match report {
        [EXECUTING] => Ok(()),
        [EXECUTING, error @ ..] => Err(Error::from_bytes(error)),
        [] => Err(Error::new(
            Kind::WrongState,
            "the container's process ended before it ran its program",
        )),
        error => Err(Error::from_bytes(error)),
    }
}
