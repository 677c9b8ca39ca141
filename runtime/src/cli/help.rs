//! Help and version.

use std::ffi::OsStr;

use super::definition::{Command, commands, render};
use super::{Outcome, checkpoint, find, print};

/// The version of the specification that is implemented.
const SPEC_VERSION: &str = "1.3.0";

/// The revision this was built from, where the build said so.
const COMMIT: Option<&str> = option_env!("KNARR_COMMIT");

/// Prints the version. dockerd reads `WORD version X` and `commit: `, containerd's
/// client lines that begin with `runc version `, `commit: ` and `spec: `.
pub fn version(program: &str) -> Outcome {
    let mut text = format!("{program} version {}\n", env!("CARGO_PKG_VERSION"));
    if let Some(commit) = COMMIT {
        text.push_str(&format!("commit: {commit}\n"));
    }
    text.push_str(&format!("spec: {SPEC_VERSION}\n"));
    print(&text)?;
    Ok(0)
}

/// Prints the help of the program.
pub fn program(program: &'static str) -> Outcome {
    print(&render::program(program).render_help().to_string())?;
    Ok(0)
}

/// Prints the help of a command.
///
/// Callers ask for the help of checkpoint and restore to learn whether these
/// work here, so these two fail where criu is missing or does not.
pub fn command(program: &str, command: &'static Command) -> Outcome {
    if std::ptr::eq(command, &commands::CHECKPOINT) || std::ptr::eq(command, &commands::RESTORE) {
        checkpoint::probe()?;
    }
    let text = render::command(command, Some(program)).render_help();
    print(&text.to_string())?;
    Ok(0)
}

/// Prints the help of the command that a word names, or of the program.
pub fn topic(program: &'static str, word: Option<&OsStr>) -> Outcome {
    match word.map(find) {
        None => self::program(program),
        Some(Some((definition, _))) => command(program, definition),
        Some(None) => Err(super::unknown(program, word.unwrap_or_default())),
    }
}
