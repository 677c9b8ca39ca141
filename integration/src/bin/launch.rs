//! Starts a program in a way that a test asks for.
//!
//! usage: launch without CALL[=EPERM],... PROGRAM [ARG...]   system calls that fail, inherited
//!        launch traced PROGRAM [ARG...]                     the caller traces it: ptrace(2)
//!        launch measured FILE PROGRAM [ARG...]              its largest resident set, in KiB, goes to FILE
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use knarr_integration::without;
use nix::sys::resource::{UsageWho, getrusage};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let error = match args.as_slice() {
        ["measured", file, program, rest @ ..] => match measured(file, program, rest) {
            Ok(code) => return code,
            Err(error) => error.to_string(),
        },
        ["without", calls, program, rest @ ..] => {
            without::exec(calls, Path::new(program), rest).to_string()
        }
        ["traced", program, rest @ ..] => match nix::sys::ptrace::traceme() {
            Ok(()) => Command::new(program).args(rest).exec().to_string(),
            Err(errno) => format!("ptrace: {errno}"),
        },
        _ => "usage: launch without CALL,... | traced | measured FILE  PROGRAM [ARG...]".to_owned(),
    };
    eprintln!("launch: {error}");
    ExitCode::from(127)
}

/// Runs a program to its end and writes the largest peak among it and what it waited for: getrusage(2).
///
/// A program inherits the peak of whoever executes it. So this process does nothing before, and a child
/// by fork(2), which an id for the child makes the standard library use, has few of its pages; one by
/// vfork(2) would have them all.
fn measured(file: &str, program: &str, rest: &[&str]) -> std::io::Result<ExitCode> {
    let own = rustix::process::geteuid().as_raw();
    let status = Command::new(program).args(rest).uid(own).status()?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    std::fs::write(file, usage.max_rss().to_string())?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(128)))
}
