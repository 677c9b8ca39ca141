//! Help and version.

use std::ffi::OsStr;

use super::definition::commands::{self, ABOUT, ALL, DETAILS};
use super::definition::{Command, Flag, Kind, Positional, flags};
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
    let mut text = format!(
        "{ABOUT}\n\nUsage: {program} [OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]\n\nCommands:\n"
    );
    let commands = ALL
        .iter()
        .map(|command| (command.name.into(), command.about));
    columns(&mut text, commands.collect());
    options(&mut text, &flags::GLOBALS);
    details(&mut text, DETAILS);
    print(&text)?;
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
    let mut text = format!(
        "{}\n\nUsage: {program} {} [OPTIONS]",
        command.about, command.name
    );
    for positional in command.positionals {
        text.push(' ');
        text.push_str(&shown(positional));
    }
    text.push('\n');
    if !command.positionals.is_empty() {
        text.push_str("\nArguments:\n");
        let positionals = command.positionals.iter();
        columns(
            &mut text,
            positionals
                .map(|positional| (shown(positional), positional.help))
                .collect(),
        );
    }
    let flags: Vec<_> = command
        .flags
        .iter()
        .copied()
        .chain([&flags::HELP])
        .collect();
    options(&mut text, &flags);
    details(&mut text, command.details);
    print(&text)?;
    Ok(0)
}

/// A positional argument in a usage line.
fn shown(positional: &Positional) -> String {
    let (open, close) = if positional.required {
        ('<', '>')
    } else {
        ('[', ']')
    };
    let more = if positional.rest { "..." } else { "" };
    format!("{open}{}{close}{more}", positional.name)
}

fn options(text: &mut String, flags: &[&Flag]) {
    text.push_str("\nOptions:\n");
    let shown = flags.iter().filter(|flag| !flag.hidden).map(|flag| {
        let mut name = match flag.short {
            Some(short) => format!("-{short}, --{}", flag.long),
            None => format!("    --{}", flag.long),
        };
        if flag.kind != Kind::Switch {
            name.push_str(&format!(" <{}>", flag.value));
        }
        (name, flag.help)
    });
    columns(text, shown.collect());
}

/// A name and its description a line, the descriptions below each other.
fn columns(text: &mut String, lines: Vec<(String, &str)>) {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, help) in lines {
        text.push_str(&format!("  {name:width$}  {help}\n"));
    }
}

fn details(text: &mut String, details: &str) {
    if !details.is_empty() {
        text.push_str(&format!("\n{details}\n"));
    }
}

/// Prints the help of the command that a word names, or of the program.
pub fn topic(program: &'static str, word: Option<&OsStr>) -> Outcome {
    match word.map(find) {
        None => self::program(program),
        Some(Some((definition, _))) => command(program, definition),
        Some(None) => Err(super::unknown(program, word.unwrap_or_default())),
    }
}
