//! The life cycle: create, start, exec, kill, delete, pause, update and the rest.
//!
//! Belongs here: the order of the steps on the host's side, the state on disk,
//! locks and roll-back. Does not: how a single step is done (`init`, `rootfs`,
//! `cgroup`, `seccomp`), and nothing about command lines.

pub mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
pub mod options;
pub(crate) mod record;
mod restore;
mod run;
mod start;
pub mod state;
mod store;
pub(crate) mod wait;

pub use crate::cgroup::CgroupDriver;
pub use options::{CreateOptions, ExecOptions, RunOptions, User};
pub use state::{State, Status};
pub(crate) use wait::reap;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Signal;
use serde::Deserialize;

use crate::error::{Context, Error, Kind, Result};
use crate::intel_rdt::Resctrl;
use crate::process::procfs::ProcFs;
use crate::spec::Spec;
use crate::spec::resources::Resources;
use crate::{cgroup, proc};

use record::Record;
use store::{CONFIG, START_FIFO, STATE, Store};

/// A container that exists on disk below a root directory.
#[derive(Debug)]
pub struct Container {
    /// Directory that holds the state of all containers.
    pub root: PathBuf,
    /// The container's id.
    pub id: String,
    /// What create had to say that is no error.
    pub warnings: Vec<String>,
}

/// A process of a container, a child of the caller.
#[derive(Debug)]
pub struct Child {
    /// Its pid as the caller counts. No other process gets it before the caller has taken the
    /// status: waitid(2).
    pub pid: i32,
    /// The terminal's master, if there is a terminal and nobody else got it.
    pub console: Option<OwnedFd>,
    /// What there was to say that is no error.
    pub warnings: Vec<String>,
}

impl Container {
    /// Creates a container; its process waits for [`Container::start`].
    ///
    /// # Errors
    /// Any step that fails; everything made before it is undone.
    pub fn create(root: &Path, options: &CreateOptions) -> Result<Container> {
        let options = CreateOptions {
            detach: true,
            ..options.clone()
        };
        let (container, child) = Self::create_child(root, &options)?;
        Ok(Container {
            warnings: child.warnings,
            ..container
        })
    }

    /// Creates a container for a caller that stays with its process: the parent of it, which
    /// takes its exit status. A terminal's master is returned where no socket is named for it.
    ///
    /// # Errors
    /// As [`Container::create`].
    pub fn create_child(root: &Path, options: &CreateOptions) -> Result<(Container, Child)> {
        let created = create::create(root, options, create::GateKind::Fifos)?;
        // By name: init has a copy of the descriptor until it has closed what is not its own.
        created.store.unlock();
        let container = Container {
            root: root.to_owned(),
            id: options.id.clone(),
            warnings: Vec::new(),
        };
        let child = Child {
            pid: created.record.pid,
            console: created.console,
            warnings: created.warnings,
        };
        Ok((container, child))
    }

    /// Finds a container by its id.
    ///
    /// # Errors
    /// `NotFound` ("container does not exist").
    pub fn load(root: &Path, id: &str) -> Result<Container> {
        match Store::open(root, id)? {
            Some(_) => Ok(Container {
                root: root.to_owned(),
                id: id.to_owned(),
                warnings: Vec::new(),
            }),
            None => Err(store::does_not_exist()),
        }
    }

    /// All containers, by id; one whose state is damaged with what is wrong with it.
    ///
    /// # Errors
    /// A root directory that cannot be read; a missing one is an empty list.
    pub fn list(root: &Path) -> Result<Vec<(String, Result<State>)>> {
        let state = |id: String| match Container::load(root, &id).and_then(|found| found.state()) {
            // Deleted since its name was read.
            Err(error) if error.kind() == Kind::NotFound => None,
            state => Some((id, state)),
        };
        Ok(Store::ids(root)?.into_iter().filter_map(state).collect())
    }

    /// The state as the specification defines it.
    ///
    /// # Errors
    /// `NotFound`, damaged state.
    pub fn state(&self) -> Result<State> {
        let (store, record) = self.open()?;
        let status = self.status(&store, &record)?;
        let pid = if status == Status::Stopped {
            0
        } else {
            record.pid
        };
        Ok(state_of(&record, status, pid))
    }

    /// Sends a signal to init, or to every process of the container.
    ///
    /// SIGKILL goes to every process also where init is no pid 1 of its own,
    /// because the kernel does not end the others with it then.
    ///
    /// # Errors
    /// `WrongState` ("container not running"), which `all` turns into success.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let signal = checked_signal(signal)?;
        let (_, record) = self.open()?;
        let everybody = all || (signal == Some(Signal::KILL) && !record.private_pid);
        let init = open_init(&record)?;
        let mut others = Ok(());
        if let (true, Some(signal)) = (everybody, signal) {
            let manager = self.manager(&record)?;
            others = manager.kill_all(signal.as_raw());
            // Init gets it once. Where it is in no cgroup that we know, it has not had it yet.
            let reached = signal != Signal::KILL
                && manager
                    .pids()
                    .is_ok_and(|pids| pids.contains(&record.pid.cast_unsigned()));
            if reached {
                return others;
            }
        }
        let Some(init) = init else {
            return if all {
                others
            } else {
                Err(Error::new(Kind::WrongState, "container not running"))
            };
        };
        let Some(signal) = signal else { return Ok(()) };
        match wait::signal(init.as_fd(), signal) {
            Ok(()) => others,
            // It has died of the signal already.
            Err(Errno::SRCH) if everybody => others,
            Err(Errno::SRCH) => Err(Error::new(Kind::WrongState, "container not running")),
            Err(errno) => Err(Error::system(
                format!("pidfd_send_signal({})", record.pid),
                errno,
            )),
        }
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// `WrongState` unless created or running; no cgroup to freeze.
    pub fn pause(&self) -> Result<()> {
        let (store, record) = self.open_locked()?;
        match self.status(&store, &record)? {
            Status::Created | Status::Running => self.manager(&record)?.freeze(),
            status => Err(wrong_state("pause", status)),
        }
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// `WrongState` unless paused.
    pub fn resume(&self) -> Result<()> {
        let (store, record) = self.open_locked()?;
        match self.status(&store, &record)? {
            Status::Paused => self.manager(&record)?.thaw(),
            status => Err(wrong_state("resume", status)),
        }
    }

    /// Changes limits; device rules are left alone.
    ///
    /// # Errors
    /// `WrongState` for a stopped container; values that cannot be set, the earlier ones are put back.
    pub fn update(
        &self,
        resources: &Resources<'_>,
        l3_cache: Option<&str>,
        mem_bw: Option<&str>,
    ) -> Result<()> {
        let (store, record) = self.open_locked()?;
        if self.status(&store, &record)? == Status::Stopped {
            return Err(Error::new(Kind::WrongState, "container not running"));
        }
        if l3_cache.is_some() || mem_bw.is_some() {
            let Some(rdt) = &record.rdt else {
                return Err(Error::new(
                    Kind::InvalidArgument,
                    "the container has no linux.intelRdt, so its schemata cannot be changed",
                ));
            };
            let resctrl = Resctrl::find(&ProcFs::open()?)?;
            let before = resctrl.update(rdt, l3_cache, mem_bw)?;
            let result = self.manager(&record)?.update(resources);
            if result.is_err() {
                resctrl.restore(rdt, &before);
            }
            return result;
        }
        self.manager(&record)?.update(resources)
    }

    /// Pids of all processes in the container, as the host sees them. Those of a container without a
    /// cgroup are found by its pid namespace.
    ///
    /// # Errors
    /// An unreadable cgroup; neither a cgroup nor a pid namespace of its own.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let (_, record) = self.open()?;
        let no_cgroup = record.cgroup.dirs.is_empty() && record.cgroup.unit.is_none();
        if no_cgroup && record.private_pid {
            return match is_alive(&record)? {
                true => proc::pids_with(record.pid),
                false => Ok(Vec::new()),
            };
        }
        self.manager(&record)?.pids()
    }

    /// The cgroup's figures, as `events --stats` prints them. A stopped container has its cgroup until
    /// it is deleted.
    ///
    /// # Errors
    /// An unreadable cgroup.
    pub fn stats(&self) -> Result<cgroup::Stats> {
        let (_, record) = self.open()?;
        self.manager(&record)?.stats()
    }

    fn open(&self) -> Result<(Store, Record)> {
        let store = Store::open(&self.root, &self.id)?.ok_or_else(store::does_not_exist)?;
        let record = self.read_record(&store)?;
        Ok((store, record))
    }

    fn open_locked(&self) -> Result<(Store, Record)> {
        let store = Store::open(&self.root, &self.id)?.ok_or_else(store::does_not_exist)?;
        store.lock()?;
        let record = self.read_record(&store)?;
        Ok((store, record))
    }

    fn read_record(&self, store: &Store) -> Result<Record> {
        let json = store.read(STATE)?.ok_or_else(store::does_not_exist)?;
        let mut record = Record::from_json(&self.id, &json)?;
        if !record.ready && !store.has(CONFIG) {
            // So far it has none: who is in the one that it will have is not the container's.
            record.cgroup = cgroup::Record::default();
        }
        Ok(record)
    }

    /// Where in its life the container is, as the kernel has it: nothing is believed that could be stale.
    fn status(&self, store: &Store, record: &Record) -> Result<Status> {
        if !record.ready {
            // Somebody who is not there any more left it half-made.
            return Ok(if store.is_locked() {
                Status::Creating
            } else {
                Status::Stopped
            });
        }
        if !is_alive(record)? {
            return Ok(Status::Stopped);
        }
        if self.manager(record)?.is_frozen()? {
            return Ok(Status::Paused);
        }
        // Somebody waits at the fifo until the program runs.
        let waits = store.open_fifo(START_FIFO, OFlags::WRONLY)?.is_some();
        Ok(if waits {
            Status::Created
        } else {
            Status::Running
        })
    }

    fn manager(&self, record: &Record) -> Result<Box<dyn cgroup::Manager>> {
        cgroup::from_record(&record.cgroup)
    }
}

fn wrong_state(verb: &str, status: Status) -> Error {
    if status == Status::Stopped {
        return Error::new(Kind::WrongState, "container not running");
    }
    Error::new(
        Kind::WrongState,
        format!("cannot {verb} a container in the {} state", status.as_str()),
    )
}

/// Signal 0 only asks whether the process is there.
fn checked_signal(signal: i32) -> Result<Option<Signal>> {
    if signal == 0 {
        return Ok(None);
    }
    crate::sys::process::signal(signal)
        .map(Some)
        .ok_or_else(|| {
            Error::new(
                Kind::InvalidArgument,
                format!("unknown signal {signal}: 1 to 64 exist"),
            )
        })
}

fn is_alive(record: &Record) -> Result<bool> {
    Ok(record.pid > 0
        && proc::identity(record.pid)?
            .is_some_and(|found| found.alive && found.start_time == record.start_time))
}

/// A descriptor for init; `None` where it has ended.
fn open_init(record: &Record) -> Result<Option<OwnedFd>> {
    if record.pid <= 0 {
        return Ok(None);
    }
    let pidfd = match wait::open(record.pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.errno() == Some(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Looked up after the descriptor was opened: if this is init, then so is the descriptor's process.
    Ok(is_alive(record)?.then_some(pidfd))
}

/// The state as others see it.
fn state_of(record: &Record, status: Status, pid: i32) -> State {
    State {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        pid,
        status,
        bundle: record.bundle.clone(),
        rootfs: record.rootfs.clone(),
        created: record.created.clone(),
        annotations: record.annotations.clone(),
        owner: proc::user_name(record.owner),
    }
}

/// Parses the stored configuration of a container.
fn config_of<'a>(id: &str, text: &'a [u8]) -> Result<Spec<'a>> {
    part_of(id, text)
}

/// Parses what `T` has of the stored configuration of a container.
fn part_of<'a, T: Deserialize<'a>>(id: &str, text: &'a [u8]) -> Result<T> {
    crate::spec::parse::parse(&format!("{id}/{CONFIG}"), text)
        .map_err(|error| error.with_kind(Kind::State))
        .context(|| "stored configuration")
}
