//! OCI low-level container runtime for Linux, as a library.
//!
//! [`spec`] reads and validates a configuration. ARCHITECTURE.md draws how data flows.

pub mod console;
pub mod container;
pub mod error;
pub mod hooks;
pub mod intel_rdt;
pub mod network;
pub mod notify;
pub mod process;
pub mod spec;
pub mod sys;

pub use error::{Error, Kind, Result};
