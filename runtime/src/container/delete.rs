//! delete: removes a stopped container and all that create made for it.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, kill_process_group};

use super::record::Record;
use super::state::Status;
use super::store::{CONFIG, STATE, Store};
use super::{CgroupDriver, Container, config_of, wait};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::intel_rdt::Resctrl;
use crate::process::procfs::ProcFs;
use crate::{cgroup, hooks, proc};

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
        unless_gone(destroy(root, id, true))
    }
}

/// A container that somebody else has removed needs no more removing.
pub(super) fn unless_gone(outcome: Result<Vec<String>>) -> Result<Vec<String>> {
    match outcome {
        Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Destroys a container and runs its poststop hooks; returns their failures.
pub(super) fn destroy(root: &Path, id: &str, force: bool) -> Result<Vec<String>> {
    let Some(store) = Store::open(root, id)? else {
        return Err(super::store::does_not_exist());
    };
    if force {
        interrupt(&store, id)?;
    }
    store.lock()?;
    fault!("delete.locked");
    let record = match store
        .read(STATE)
        .map(|json| json.map(|json| Record::from_json(id, &json)).transpose())
    {
        Ok(Ok(Some(record))) => record,
        // The creator died before it made anything else, or is past removing everything else.
        Ok(Ok(None)) if force => return store.remove().map(|()| Vec::new()),
        Ok(Ok(None)) => return Err(super::store::does_not_exist()),
        Ok(Err(damage)) | Err(damage) if force => return salvage(&store, id, &damage),
        Ok(Err(error)) | Err(error) => return Err(error),
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
    take_apart(&store, &record, status, force)
}

/// As [`destroy`], for the creator of a container whose init it has seen end.
pub(super) fn destroy_ended(store: &Store, record: &Record) -> Result<Vec<String>> {
    store.lock()?;
    take_apart(store, record, Status::Stopped, true)
}

/// Removes what is there of a container that is `status`, and ends what lives.
fn take_apart(store: &Store, record: &Record, status: Status, force: bool) -> Result<Vec<String>> {
    if !record.ready && !store.has(CONFIG) {
        // Its creator was killed when it had seen no more of the cgroup than its name: whoever
        // lives there is none of the container's.
        cgroup::remove_planned(&record.cgroup);
        return store.remove().map(|()| Vec::new());
    }
    let mut manager = cgroup::from_record(&record.cgroup)?;
    if status != Status::Stopped || !record.private_pid || !record.ready {
        end_processes(record, &*manager)?;
    }
    fault!("delete.ended");
    // Whatever fails from here on is tried to the end, and told at the end.
    let mut failures = Vec::new();
    if let Some(rdt) = &record.rdt {
        failures.extend(
            Resctrl::find(&ProcFs::open()?)
                .and_then(|resctrl| resctrl.remove(rdt))
                .err(),
        );
    }
    let mut removed = manager.delete();
    if force && removed.is_err() {
        // The record may be wrong about init: whoever is left in the cgroup holds it.
        removed = manager
            .kill_all(Signal::KILL.as_raw())
            .and_then(|()| manager.delete());
    }
    failures.extend(removed.err());
    fault!("delete.cgroup");
    if let Some(error) = failures.into_iter().next() {
        return Err(error);
    }
    let config = record.poststop.then(|| store.read(CONFIG));
    store.remove()?;
    fault!("delete.removed");
    let Some(config) = config else {
        return Ok(Vec::new());
    };
    // The container is gone, whatever becomes of its last hooks.
    let failures = config
        .and_then(|config| poststop(record, &config.unwrap_or_default()))
        .unwrap_or_else(|error| vec![error.context("hooks.poststop are not run")]);
    Ok(failures.iter().map(ToString::to_string).collect())
}

/// Runs the poststop hooks; returns those that failed.
fn poststop(record: &Record, config: &[u8]) -> Result<Vec<Error>> {
    let spec = config_of(&record.id, config)?;
    let list = spec
        .hooks
        .as_ref()
        .map(|hooks| hooks.poststop.as_slice())
        .unwrap_or_default();
    let state = record.hooks_state(Status::Stopped, 0);
    Ok(hooks::run_all(
        &hooks::plan(list, "hooks.poststop")?,
        &state,
        &record.bundle,
    ))
}

/// How long whoever holds the lock is helped to an end, in milliseconds, and how often.
const INTERRUPT: (u64, u64) = (5_000, 10);

/// Ends what the holder of the lock may be waiting for, if somebody has it: init, such as a start
/// whose hooks in the container do not end; or a hook, such as a create on the host's side of it.
/// The holder itself goes on, and undoes or finishes what it has begun.
fn interrupt(store: &Store, id: &str) -> Result<()> {
    let (limit, pause) = INTERRUPT;
    for round in 0..limit / pause {
        // Once the container is removed, what the holder still runs are its last hooks.
        if store.try_lock()? || store.is_removed()? {
            return Ok(());
        }
        if round == 0 {
            let record = store.read(STATE).ok().flatten();
            let record = record.and_then(|json| Record::from_json(id, &json).ok());
            if let Some(Ok(Some(init))) = record.as_ref().map(super::open_init) {
                let _ = wait::signal(init.as_fd(), Signal::KILL);
            }
        } else if let Some(holder) = store.holder()? {
            // Not in the first round: most are about to let go.
            kill_children(holder);
        }
        std::thread::sleep(Duration::from_millis(pause));
    }
    Ok(())
}

/// Kills the children of a process, with the process groups that they lead.
fn kill_children(parent: i32) {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let Ok(children) = std::fs::read_to_string(path) else {
        return;
    };
    for child in children.split_ascii_whitespace() {
        let Some(pid) = child.parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        // The descriptor is of the child, if it is a child still when that is open.
        let Ok(process) = wait::open(pid.as_raw_nonzero().get()) else {
            continue;
        };
        if proc::identity(pid.as_raw_nonzero().get())
            .is_ok_and(|found| found.is_some_and(|found| found.parent == parent))
        {
            if getpgid(Some(pid)) == Ok(pid) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = wait::signal(process.as_fd(), Signal::KILL);
        }
    }
}

/// Removes a container whose record cannot be used: its processes and its cgroup are where its
/// configuration says, and the directories above are left, since nobody knows who made them.
fn salvage(store: &Store, id: &str, damage: &Error) -> Result<Vec<String>> {
    let mut warnings = vec![damage.to_string()];
    let found = store
        .read(CONFIG)
        .and_then(|config| remove_cgroup(id, &config.unwrap_or_default()));
    if let Err(error) = found {
        warnings.push(format!(
            "its processes and cgroup, if there are any, are left: {error}"
        ));
    }
    store.remove().map(|()| warnings)
}

fn remove_cgroup(id: &str, config: &[u8]) -> Result<()> {
    let spec = config_of(id, config)?;
    let path = spec.linux.as_ref().map(|linux| &*linux.cgroups_path);
    let path = path.unwrap_or_default();
    let with = |driver: CgroupDriver| {
        cgroup::manager(&cgroup::Request {
            id,
            cgroups_path: path,
            driver,
            rootless: Host::new().rootless(),
            annotations: &spec.annotations,
        })
    };
    if !path.starts_with('/') && path.split(':').count() == 3 {
        // As systemd's driver reads it, which looks whether the unit is this container's.
        let unit = with(CgroupDriver::Systemd)?.planned();
        cgroup::from_record(&unit)?.delete()?;
    }
    let mut record = with(CgroupDriver::Cgroupfs)?.record();
    for dir in &mut record.dirs {
        dir.made = 1;
    }
    let mut manager = cgroup::from_record(&record)?;
    manager.kill_all(Signal::KILL.as_raw())?;
    manager.delete()
}

/// Kills what is left of a container: init, and in a shared pid namespace its descendants.
fn end_processes(record: &Record, manager: &dyn cgroup::Manager) -> Result<()> {
    let init = super::open_init(record)?;
    if let Some(pidfd) = &init {
        let _ = wait::signal(pidfd.as_fd(), Signal::KILL);
    }
    // A frozen process does not die, and other processes may live in the cgroup without init.
    // What a killed create has left may be there without being recorded.
    if init.is_some() || !record.private_pid || !record.ready {
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
