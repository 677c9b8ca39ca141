//! Cgroups: limits, the set of a container's processes, device rules, figures.
//!
//! Belongs here: the [`Manager`] trait and the choice of its implementation.
//! Does not: anything else about processes.

mod devices;
mod file;
mod hierarchy;
mod setting;
mod v1;

pub use hierarchy::Layout;

use serde::{Deserialize, Serialize};

use crate::container::CgroupDriver;
use crate::error::{Error, Kind, Result};
use crate::spec::resources::Resources;

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

    /// Moves a process into the cgroups.
    ///
    /// # Errors
    /// A refused write.
    fn attach(&self, pid: u32) -> Result<()>;

    /// Pids of all processes, those in cgroups below included.
    ///
    /// # Errors
    /// A cgroup that cannot be read; one that is gone has no processes.
    fn pids(&self) -> Result<Vec<u32>>;

    /// Removes what was made, with cgroups that the container left below.
    ///
    /// # Errors
    /// A cgroup that stays busy.
    fn delete(&mut self) -> Result<()>;

    /// What [`from_record`] needs.
    fn record(&self) -> Record;
}

/// The manager for a new container on this host.
///
/// # Errors
/// A host without cgroups.
pub fn manager(request: &Request<'_>) -> Result<Box<dyn Manager>> {
    manager_in(&Layout::detect()?, request)
}

/// As [`manager`], on a host with the given hierarchies.
///
/// # Errors
/// A layout without cgroups.
pub fn manager_in(layout: &Layout, request: &Request<'_>) -> Result<Box<dyn Manager>> {
    if !layout.v1.is_empty() {
        return Ok(Box::new(v1::V1::new(layout, request)));
    }
    Err(Error::new(
        Kind::Unsupported,
        "no cgroup hierarchy is mounted",
    ))
}

/// The manager for a container that an earlier process made.
///
/// # Errors
/// A record that this build cannot read.
pub fn from_record(record: &Record) -> Result<Box<dyn Manager>> {
    match record.version {
        Version::V1 => Ok(Box::new(v1::V1::from_record(record))),
        Version::None => Err(Error::new(Kind::State, "no cgroup is recorded")),
    }
}
