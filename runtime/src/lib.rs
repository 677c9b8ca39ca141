//! OCI low-level container runtime for Linux, as a library.
//!
//! [`spec`] reads and validates a configuration, [`container`] is the life cycle.
//! ARCHITECTURE.md draws how data flows.
//!
//! # Threads
//! What makes processes ([`container`]'s create, run, exec, checkpoint and restore) must be called
//! in a process of one thread: the new process goes on in ordinary code, and a lock that another
//! thread held at that moment, as the allocator's, would stay locked in it for ever. A program with
//! threads keeps one single-threaded process for these calls.

#[macro_use]
mod fault;

mod beneath;
pub mod cgroup;
pub mod console;
pub mod container;
mod criu;
pub mod doctor;
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
pub mod time;

pub use error::{Error, Kind, Result};
