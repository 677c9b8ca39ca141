//! Everything that a process of a container gets before execve(2), one small module a thing.
//!
//! Belongs here: for each property a pure `plan`, which turns the configuration
//! into typed values and names what is wrong by its JSON path, and an `apply`,
//! which the process itself calls. Does not: the order in which they are
//! called, mounts, cgroups, seccomp.

pub mod affinity;
pub mod capabilities;
pub mod identity;
pub mod io_priority;
pub mod keyring;
pub mod list;
pub mod lsm;
pub mod memory_policy;
pub mod oom;
pub mod personality;
pub mod procfs;
pub mod program;
pub mod rlimits;
pub mod scheduler;
pub mod signals;
pub mod sysctl;
pub mod user;
