//! delete: removes a stopped container and all that create made for it.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::{Signal, pidfd_send_signal};

use super::record::Record;
use super::state::Status;
use super::store::{CONFIG, STATE, Store};
use super::{Container, config_of, hooks_state, wait};
use crate::error::{Error, Kind, Result};
use crate::intel_rdt::Resctrl;
use crate::process::procfs::ProcFs;
use crate::{cgroup, hooks};

/// How long a killed process may take to end, in milliseconds.
const KILL_WAIT: i64 = 10_000;

impl Container {
    /// Removes a stopped container; with `force` kills it first.
    ///
    /// A poststop hook that fails is a warning: the container is gone all the same.
    ///
    /// # Errors
    /// `WrongState` for a container that is not stopped, and whatever could not be removed.
    pub fn delete(&self, force: bool) -> Result<Vec<String>> {
        destroy(&self.root, &self.id, force)
    }

    /// Removes whatever is there under an id, a half-made container too; nothing there is no error.
    ///
    /// # Errors
    /// Whatever could not be removed.
    pub fn force_delete(root: &Path, id: &str) -> Result<Vec<String>> {
        match destroy(root, id, true) {
            Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }
}

/// Destroys a container and runs its poststop hooks; returns their failures.
pub(super) fn destroy(root: &Path, id: &str, force: bool) -> Result<Vec<String>> {
    let Some(store) = Store::open(root, id)? else {
        return Err(super::store::does_not_exist());
    };
    store.lock()?;
    let record = match store.read(STATE)? {
        Some(json) => match Record::from_json(id, &json) {
            Ok(record) => record,
            // Nothing is known of it but its directory.
            Err(_) if force => return store.remove().map(|()| Vec::new()),
            Err(error) => return Err(error),
        },
        // The creator died before it made anything else, or is past removing everything else.
        None if force => return store.remove().map(|()| Vec::new()),
        None => return Err(super::store::does_not_exist()),
    };
    let container = Container {
        root: root.to_owned(),
        id: id.to_owned(),
        warnings: Vec::new(),
    };
    let status = container.status(&store, &record)?;
    if status != Status::Stopped && !force {
        return Err(Error::new(
            Kind::WrongState,
            format!(
                "cannot delete container {id} that is not stopped: {}",
                status.as_str()
            ),
        ));
    }
    let mut manager = cgroup::from_record(&record.cgroup)?;
    end_processes(&record, &*manager)?;
    // Whatever fails from here on is tried to the end, and told at the end.
    let mut failures = Vec::new();
    if let Some(rdt) = &record.rdt {
        failures.extend(
            Resctrl::find(&ProcFs::open()?)
                .and_then(|resctrl| resctrl.remove(rdt))
                .err(),
        );
    }
    failures.extend(manager.delete().err());
    if let Some(error) = failures.into_iter().next() {
        return Err(error);
    }
    let config = if record.poststop {
        store.read(CONFIG)?.unwrap_or_default()
    } else {
        Vec::new()
    };
    store.remove()?;
    let mut warnings = Vec::new();
    if record.poststop {
        let spec = config_of(id, &config)?;
        let list = spec
            .hooks
            .as_ref()
            .map(|hooks| hooks.poststop.as_slice())
            .unwrap_or_default();
        let state = hooks_state(&record, Status::Stopped, 0);
        warnings.extend(
            hooks::run_all(&hooks::plan(list, "hooks.poststop")?, &state)
                .iter()
                .map(ToString::to_string),
        );
    }
    Ok(warnings)
}

/// Kills what is left of a container: init, and in a shared pid namespace its descendants.
fn end_processes(record: &Record, manager: &dyn cgroup::Manager) -> Result<()> {
    let init = super::open_init(record)?;
    if let Some(pidfd) = &init {
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    // A frozen process does not die, and other processes may live in the cgroup without init.
    if init.is_some() || !record.private_pid {
        manager.kill_all(Signal::KILL.as_raw())?;
    }
    if let Some(pidfd) = init
        && !wait::ended_within(pidfd.as_fd(), KILL_WAIT)?
    {
        return Err(Error::new(
            Kind::WrongState,
            format!(
                "container {} did not end within {} s of SIGKILL",
                record.id,
                KILL_WAIT / 1000
            ),
        ));
    }
    Ok(())
}
