//! OCI low-level container runtime for Linux, as a library.
//!
//! [`spec`] reads and validates a configuration, [`container`] is the life cycle.
//! ARCHITECTURE.md draws how data flows.

#[macro_use]
mod fault;

pub mod cgroup;
pub mod console;
pub mod container;
mod criu;
pub mod error;
pub mod hooks;
pub mod host;
mod id_maps;
mod init;
pub mod intel_rdt;
mod namespaces;
pub mod network;
pub mod notify;
mod proc;
pub mod process;
pub mod protect;
pub mod rootfs;
pub mod seccomp;
pub mod spec;
pub mod sys;
mod time;

pub use error::{Error, Kind, Result};
