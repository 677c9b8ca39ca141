//! Starts a program in a way that a test asks for.
//!
//! usage: launch without CALL[=EPERM],... PROGRAM [ARG...]   system calls that fail, inherited
//!        launch traced PROGRAM [ARG...]                     the caller traces it: ptrace(2)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use knarr_integration::without;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let error = match args.as_slice() {
        ["without", calls, program, rest @ ..] => {
            without::exec(calls, Path::new(program), rest).to_string()
        }
        ["traced", program, rest @ ..] => match nix::sys::ptrace::traceme() {
            Ok(()) => Command::new(program).args(rest).exec().to_string(),
            Err(errno) => format!("ptrace: {errno}"),
        },
        _ => "usage: launch without CALL,... PROGRAM [ARG...] | launch traced PROGRAM [ARG...]"
            .to_owned(),
    };
    eprintln!("launch: {error}");
    ExitCode::from(127)
}
