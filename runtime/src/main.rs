//! knarr: the command line of the OCI runtime.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
