//! The system call layer: the only place with `unsafe`.
//!
//! Belongs here: thin typed calls that rustix does not have, one file an area,
//! each call with its man page. Does not: decisions, paths, error texts beyond
//! the call itself.

pub mod bpf;
pub mod clone;
pub mod exec;
pub mod fds;
pub mod heap;
pub mod keyring;
pub mod mount;
pub mod netdev;
pub mod probe;
pub mod process;
pub mod regex;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod spawn;

#[cfg(test)]
pub(crate) mod testing;

use rustix::io::Errno;

/// Why the raw system call before failed.
fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}
