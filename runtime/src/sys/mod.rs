//! The system call layer: the only place with `unsafe`.
//!
//! Belongs here: thin typed calls that rustix does not have, one file an area,
//! each call with its man page. Does not: decisions, paths, error texts beyond
//! the call itself.

pub mod bpf;
pub mod clone;
pub mod mount;
pub mod process;
pub mod signal;
