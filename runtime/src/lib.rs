//! OCI low-level container runtime for Linux, as a library.
//!
//! [`spec`] reads and validates a configuration. ARCHITECTURE.md draws how data flows.

pub mod cgroup;
pub mod container;
pub mod error;
pub mod protect;
pub mod spec;
pub mod sys;

pub use error::{Error, Kind, Result};
