//! Sources of mounts that are opened before the container's process exists.
//!
//! Belongs here: what needs the host's privileges or user namespace. Does not:
//! sources that the container's process can open itself.

use std::os::fd::OwnedFd;

/// Detached mounts, made on the host's side.
#[derive(Debug, Default)]
pub struct HostSources {
    /// The root file system.
    pub(super) root: Option<OwnedFd>,
    /// One place for each of the plan's mounts; empty altogether where none is needed.
    pub(super) mounts: Vec<Option<OwnedFd>>,
}
