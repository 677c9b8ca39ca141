//! knarr: the command line of the OCI runtime.
#![cfg_attr(not(test), no_main)]

mod cli;
#[cfg(early_entry)]
#[path = "sys/entry.rs"]
mod entry;
#[cfg(not(test))]
#[path = "sys/start.rs"]
mod start;
#[cfg(no_backtraces)]
#[path = "sys/unwind.rs"]
mod unwind;

use knarr_runtime::sys::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap::new();

/// Unit tests come with a harness that wants the usual beginning.
#[cfg(test)]
fn main() -> std::process::ExitCode {
    cli::main(&std::env::args_os().collect::<Vec<_>>()).into()
}
