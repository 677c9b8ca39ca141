//! Cgroups: limits, the set of a container's processes, device rules, figures.
//!
//! Belongs here: the [`Manager`] trait and the choice of its implementation.
//! Does not: anything else about processes.
//!
//! # How it is used
//!
//! ```text
//! create:  manager(request) -> planned() -> create(resources) -> clone3 (clone_into) -> attach(pid) -> delegate(uid) -> record()
//! later:   from_record(record) -> update, freeze, thaw, pids, kill_all, stats, watch_oom
//! exec:    from_record(record) -> clone_into_exec(sub, init), or attach_exec(pid, sub, init)
//! delete:  from_record(record) -> delete
//! ```
//!
//! `create` validates everything and makes what can be made without a process.
//! systemd makes no scope without one, so there the unit starts and limits are
//! set in the first `attach`: take the record after that, and after any failure
//! call `delete`, which removes what this manager made and nothing else.
//!
//! Implementations: `v1` (with the unified hierarchy beside it on a hybrid
//! host), `v2`, `systemd` (a unit around one of the two) and `disabled`.

mod control;
mod delegate;
mod device_program;
mod devices;
mod disabled;
mod enter;
mod file;
mod hierarchy;
mod oom;
mod setting;
pub mod stats;
mod systemd;
#[cfg(test)]
mod testsuite;
mod v1;
mod v2;

pub use delegate::owner_changes;
pub use hierarchy::Layout;
pub use oom::{OomEvent, OomWatch};
pub use stats::Stats;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::spec::Text;
use crate::spec::resources::Resources;

/// Who manages cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Files of the cgroup file system, written directly.
    #[default]
    Cgroupfs,
    /// systemd, asked over D-Bus for a transient scope.
    Systemd,
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// What is asked of the cgroups of a new container.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The container's id.
    pub id: &'a str,
    /// `linux.cgroupsPath`; empty where it is absent.
    pub cgroups_path: &'a str,
    /// Who manages cgroups.
    pub driver: CgroupDriver,
    /// Whether the caller is unprivileged: hierarchies that are closed to it are done without.
    pub rootless: bool,
    /// The configuration's annotations; `org.systemd.property.NAME` sets a property of
    /// the systemd unit, the value as GVariant text.
    pub annotations: &'a BTreeMap<Text<'a>, Text<'a>>,
}

/// Where a container's cgroup is, before it is known below which mount point.
///
/// - An absolute `cgroupsPath` is below the mount point.
/// - A relative one too, so that the same value is the same place whoever asks;
///   an unprivileged caller, who cannot write there, gets it below its own cgroup.
/// - Without one, the id below the caller's own cgroup, so that the caller's limits hold.
///
/// `..` never leads out of the place.
#[derive(Debug)]
struct Place {
    path: String,
    in_own: bool,
}

impl Place {
    fn of(request: &Request<'_>) -> Place {
        let path = file::clean(request.cgroups_path);
        if path.is_empty() {
            return Place {
                path: request.id.to_owned(),
                in_own: true,
            };
        }
        Place {
            path,
            in_own: request.rootless && !request.cgroups_path.starts_with('/'),
        }
    }

    fn below(&self, mount_point: &str, own: &str) -> String {
        if self.in_own {
            file::join(&file::join(mount_point, own), &self.path)
        } else {
            file::join(mount_point, &self.path)
        }
    }
}

/// Version of the cgroup file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// No cgroups are managed.
    #[default]
    None,
    /// Controllers in hierarchies of their own.
    V1,
    /// One hierarchy.
    V2,
}

/// What later commands must know; part of the state on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Version of the cgroup file system.
    pub version: Version,
    /// The container's directories.
    pub dirs: Vec<RecordedDir>,
    /// Whether the container was made by an unprivileged caller.
    pub rootless: bool,
    /// The systemd unit that is the container's cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

impl Record {
    /// The container's directory on version 2, once it is known.
    pub(crate) fn unified_directory(&self) -> Option<PathBuf> {
        let dir = self.dirs.first().filter(|_| self.version == Version::V2);
        dir.map(|dir| PathBuf::from(&dir.path))
    }
}

/// A transient unit of systemd.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unit {
    /// Name, such as `knarr-x.scope`.
    pub name: String,
    /// Slice, such as `system.slice`.
    pub slice: String,
    /// Whether the user's own service manager has it.
    pub user: bool,
    /// Whether it has been started, and is ours to stop.
    pub started: bool,
    /// Before that: the description that it will have, by which it is known as ours where the
    /// runtime was killed meanwhile.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub planned: String,
}

/// A directory of a container in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecordedDir {
    /// Controllers, a list as in /proc/self/cgroup; `unified` for cgroup2.
    pub controllers: String,
    /// Absolute path.
    pub path: String,
    /// Length of the part of the path that is the mount point.
    pub base: usize,
    /// How many directories at the path's end were made for the container.
    pub made: usize,
}

/// The cgroups of one container.
pub trait Manager: std::fmt::Debug {
    /// Makes the cgroups and sets limits and device rules.
    ///
    /// # Errors
    /// Whatever fails; what was made before is removed.
    fn create(&mut self, resources: &Resources<'_>) -> Result<()>;

    /// Moves the container's first process into the cgroups.
    ///
    /// # Errors
    /// A refused write; a unit that systemd does not start.
    fn attach(&mut self, pid: u32) -> Result<()>;

    /// What was asked of `create` and the first `attach` and could not be had, because it is not
    /// delegated to an unprivileged caller. One text each; they are told once.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// The directory for CLONE_INTO_CGROUP of clone3(2), which is far cheaper
    /// than a later move; `None` where the kernel or the manager has no such way.
    /// [`Manager::attach`] need not be called for a process born there.
    ///
    /// # Errors
    /// A directory that cannot be opened.
    fn clone_into(&self) -> Result<Option<OwnedFd>> {
        Ok(None)
    }

    /// As [`Manager::clone_into`] for a further process, whose first is `init`;
    /// `sub` are the arguments of `exec --cgroup`.
    ///
    /// # Errors
    /// A cgroup that is not there or not within the container's.
    fn clone_into_exec(&self, _sub: &[String], _init: u32) -> Result<Option<OwnedFd>> {
        Ok(None)
    }

    /// Moves a further process into the cgroups. Where the container has split
    /// its own, the process goes where `init` is.
    ///
    /// # Errors
    /// As [`Manager::clone_into_exec`], and a refused write.
    fn attach_exec(&self, pid: u32, sub: &[String], init: u32) -> Result<()>;

    /// Gives the cgroup to a user of the host, as config-linux.md, Cgroup ownership, has it
    /// ([`owner_changes`] says when). Does nothing on v1, where that is not safe.
    ///
    /// # Errors
    /// A refused chown(2).
    fn delegate(&self, _uid: u32) -> Result<()> {
        Ok(())
    }

    /// Sets new limits; absent fields keep theirs, device rules are never touched.
    ///
    /// # Errors
    /// The first refused value; those written before it are put back as far as the kernel allows.
    fn update(&mut self, resources: &Resources<'_>) -> Result<()>;

    /// Stops all processes; returns when they stand still.
    ///
    /// # Errors
    /// No freezer, or processes that do not stop within seconds (they are thawed again).
    fn freeze(&self) -> Result<()>;

    /// Lets all processes go on.
    ///
    /// # Errors
    /// No freezer.
    fn thaw(&self) -> Result<()>;

    /// Whether the processes stand still because of [`Manager::freeze`].
    ///
    /// # Errors
    /// A cgroup that cannot be read; one that is gone is not frozen.
    fn is_frozen(&self) -> Result<bool>;

    /// Pids of all processes, those in cgroups below included.
    ///
    /// # Errors
    /// A cgroup that cannot be read; one that is gone has no processes.
    fn pids(&self) -> Result<Vec<u32>>;

    /// Sends a signal to every process, those that fork meanwhile included.
    /// SIGKILL also thaws.
    ///
    /// # Errors
    /// A refused signal.
    fn kill_all(&self, signal: i32) -> Result<()>;

    /// Usage figures.
    ///
    /// # Errors
    /// A cgroup that cannot be read.
    fn stats(&self) -> Result<Stats>;

    /// Watches for processes killed for want of memory.
    ///
    /// # Errors
    /// No memory controller.
    fn watch_oom(&self) -> Result<OomWatch>;

    /// Removes what was made, with cgroups that the container left below.
    ///
    /// # Errors
    /// A cgroup that stays busy.
    fn delete(&mut self) -> Result<()>;

    /// As [`Manager::record`], before [`Manager::create`]: with the directories that it will make,
    /// so that those can be removed whose maker was killed.
    fn planned(&self) -> Record {
        self.record()
    }

    /// What [`from_record`] needs.
    fn record(&self) -> Record;
}

/// Whether systemd answers: the system's manager or, with `user`, that of the user.
///
/// # Errors
/// No socket that answers, with what was tried.
pub(crate) fn systemd_answers(user: bool) -> Result<()> {
    systemd::answers(user)
}

/// The manager for a new container on this host.
///
/// # Errors
/// A host without cgroups; a `cgroupsPath` that makes no sense to the driver.
pub fn manager(request: &Request<'_>) -> Result<Box<dyn Manager>> {
    if request.driver == CgroupDriver::Disabled {
        return Ok(Box::new(disabled::Disabled::Chosen));
    }
    manager_in(&Layout::detect()?, request)
}

/// As [`manager`], on a host with the given hierarchies.
///
/// # Errors
/// As [`manager`].
pub fn manager_in(layout: &Layout, request: &Request<'_>) -> Result<Box<dyn Manager>> {
    match request.driver {
        CgroupDriver::Disabled => Ok(Box::new(disabled::Disabled::Chosen)),
        CgroupDriver::Systemd => Ok(Box::new(systemd::Systemd::new(layout, request)?)),
        CgroupDriver::Cgroupfs => match &layout.unified {
            _ if !layout.v1.is_empty() => Ok(Box::new(v1::V1::new(layout, request))),
            Some(unified) => Ok(Box::new(v2::V2::new(unified, request))),
            None => Err(Error::new(
                Kind::Unsupported,
                "no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup",
            )),
        },
    }
}

/// Removes the directories of a record made by [`Manager::planned`] whose maker did not come to the
/// end of [`Manager::create`]: as far as they are there, and empty.
pub(crate) fn remove_planned(record: &Record) {
    for dir in &record.dirs {
        file::remove_made(&dir.path, dir.made);
    }
}

/// The manager for a container that an earlier process made.
///
/// # Errors
/// A record that makes no sense.
pub fn from_record(record: &Record) -> Result<Box<dyn Manager>> {
    if let Some(unit) = &record.unit {
        return Ok(Box::new(systemd::Systemd::from_record(record, unit)?));
    }
    if record.version != Version::None && record.dirs.is_empty() {
        return Ok(Box::new(disabled::Disabled::NotDelegated));
    }
    Ok(match record.version {
        Version::V1 => Box::new(v1::V1::from_record(record)),
        Version::V2 => Box::new(v2::V2::from_record(record)?),
        Version::None => Box::new(disabled::Disabled::Chosen),
    })
}
