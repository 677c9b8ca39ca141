//! The life cycle: create, start, exec, kill, delete, pause, update and the rest.
//!
//! Belongs here: the order of the steps on the host's side, the state on disk,
//! locks and roll-back. Does not: how a single step is done (`init`, `rootfs`,
//! `cgroup`, `seccomp`), and nothing about command lines.

pub mod checkpoint;
mod events;
pub mod options;
pub mod state;

pub use options::{CgroupDriver, CreateOptions, ExecOptions, RunOptions, User};
pub use state::{State, Status};

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::spec::resources::Resources;

/// A container that exists on disk below a root directory.
#[derive(Debug)]
pub struct Container {
    /// Directory that holds the state of all containers.
    pub root: PathBuf,
    /// The container's id.
    pub id: String,
}

fn unfinished<T>() -> Result<T> {
    Err(Error::new(Kind::Unsupported, "not built yet"))
}

impl Container {
    /// Creates a container; its process waits for [`Container::start`].
    ///
    /// # Errors
    /// Any step that fails; everything made before it is undone.
    pub fn create(_root: &Path, _options: &CreateOptions) -> Result<Container> {
        unfinished()
    }

    /// Creates and starts a container; waits for its end unless detached.
    /// Returns the exit code of the process (128 + signal where one ended it), 0 when detached.
    ///
    /// # Errors
    /// As [`Container::create`] and [`Container::start`].
    pub fn run(_root: &Path, _options: &CreateOptions, _run: &RunOptions) -> Result<i32> {
        unfinished()
    }

    /// Finds a container by its id.
    ///
    /// # Errors
    /// `NotFound` ("container does not exist") and damaged state.
    pub fn load(_root: &Path, _id: &str) -> Result<Container> {
        unfinished()
    }

    /// All containers, by id.
    ///
    /// # Errors
    /// A root directory that cannot be read; a missing one is an empty list.
    pub fn list(_root: &Path) -> Result<Vec<State>> {
        unfinished()
    }

    /// The state as the specification defines it.
    ///
    /// # Errors
    /// Damaged state.
    pub fn state(&self) -> Result<State> {
        unfinished()
    }

    /// Starts the program of a created container.
    ///
    /// # Errors
    /// `WrongState`, failed hooks, a program that cannot be executed.
    pub fn start(&self) -> Result<()> {
        unfinished()
    }

    /// Sends a signal to init, or to every process of the container.
    ///
    /// # Errors
    /// `WrongState` ("container not running").
    pub fn kill(&self, _signal: i32, _all: bool) -> Result<()> {
        unfinished()
    }

    /// Removes a stopped container; with `force` kills it first.
    ///
    /// # Errors
    /// `WrongState` and whatever could not be removed.
    pub fn delete(&self, _force: bool) -> Result<()> {
        unfinished()
    }

    /// Removes whatever is there under an id, a half-made container too; nothing there is no error.
    ///
    /// # Errors
    /// Whatever could not be removed.
    pub fn force_delete(_root: &Path, _id: &str) -> Result<()> {
        unfinished()
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// `WrongState`, no freezer.
    pub fn pause(&self) -> Result<()> {
        unfinished()
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// `WrongState`, no freezer.
    pub fn resume(&self) -> Result<()> {
        unfinished()
    }

    /// Changes limits; device rules are left alone.
    ///
    /// # Errors
    /// Values that cannot be set; the earlier ones are put back.
    pub fn update(
        &self,
        _resources: &Resources<'_>,
        _l3_cache: Option<&str>,
        _mem_bw: Option<&str>,
    ) -> Result<()> {
        unfinished()
    }

    /// Pids of all processes in the container, as the host sees them.
    ///
    /// # Errors
    /// An unreadable cgroup.
    pub fn pids(&self) -> Result<Vec<u32>> {
        unfinished()
    }

    /// Runs a further process in the container. Returns its exit code, 0 when detached.
    ///
    /// # Errors
    /// `WrongState`, a program that cannot be executed.
    pub fn exec(&self, _options: &ExecOptions<'_>) -> Result<i32> {
        unfinished()
    }
}
