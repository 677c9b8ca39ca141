//! knarr: the command line of the OCI runtime.

mod cli;
#[cfg(no_backtraces)]
#[path = "sys/unwind.rs"]
mod unwind;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
