//! The command line: runc's commands and flags on top of the library.
//!
//! Belongs here: parsing, printing, exit codes; one file per command. Does
//! not: anything a user of the library could not do with the library alone.

mod checkpoint;
mod create;
mod definition;
mod delete;
mod doctor;
mod events;
mod exec;
mod features;
mod globals;
mod help;
mod kill;
mod list;
mod log;
mod parse;
mod ps;
mod signal;
mod simple;
mod spec;
mod table;
mod update;
mod validate;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;

use knarr_runtime::container::Container;
use knarr_runtime::error::{Context, Error, Kind, Result};

use knarr_runtime::sys::regex::Regex;

use definition::{Command, Positional, commands, flags};
use globals::{Globals, Next};
use log::Level;
use parse::{Matches, Order};

/// What a command returns: the process's exit code.
type Outcome = Result<u8>;

/// A command's code.
type Action = fn(&Globals, &Matches<'_>) -> Outcome;

/// Exit code of a failed `exec`, which callers tell apart from the process's own codes.
const EXEC_FAILED: u8 = 255;

/// Runs the program; returns its exit code.
#[must_use]
pub fn main(args: &[OsString]) -> u8 {
    let mut globals = Globals::default();
    let mut failure = 1;
    match run(args, &mut globals, &mut failure) {
        Ok(code) => code,
        Err(error) => {
            globals.log.write(Level::Error, &error.to_string());
            failure
        }
    }
}

fn run(args: &[OsString], globals: &mut Globals, failure: &mut u8) -> Outcome {
    let program = program_name(args.first());
    let args = args.get(1..).unwrap_or_default();
    let rest = match globals.read(args)? {
        Next::Help => return help::program(program),
        Next::Version => return help::version(program),
        Next::Command(used) => args.get(used..).unwrap_or_default(),
    };
    let Some((word, rest)) = rest.split_first() else {
        return help::program(program);
    };
    let Some((command, action)) = find(word) else {
        return Err(unknown(program, word));
    };
    let order = if takes_rest(command) {
        Order::FlagsFirst
    } else {
        Order::Mixed
    };
    let mut matches = Matches::default();
    let hint = |error: Error| {
        Error::new(
            error.kind(),
            format!("{error}; see \"{program} {} --help\"", command.name),
        )
    };
    let used = parse::parse(command.flags, order, rest, &mut matches).map_err(hint)?;
    if order == Order::FlagsFirst {
        matches
            .positionals
            .extend(rest[used..].iter().map(OsString::as_os_str));
    }
    if matches.on(&flags::HELP) {
        return help::command(program, command);
    }
    check_arity(program, command, matches.positionals.len()).map_err(hint)?;
    if std::ptr::eq(command, &commands::HELP_COMMAND) {
        return help::topic(program, matches.positionals.first().copied());
    }
    if std::ptr::eq(command, &commands::EXEC) {
        *failure = EXEC_FAILED;
    }
    if globals.log.enabled(Level::Debug) {
        let message = format!("{} below {}", command.name, globals.root().display());
        globals.log.write(Level::Debug, &message);
    }
    action(globals, &matches)
}

/// The name under which help and version speak: callers that were told to use
/// `runc` look for that word.
fn program_name(arg0: Option<&OsString>) -> &'static str {
    match arg0.and_then(|arg0| Path::new(arg0).file_name()) {
        Some(name) if name == "runc" => "runc",
        _ => "knarr",
    }
}

/// The command that a word names, and its code.
fn find(word: &OsStr) -> Option<(&'static Command, Action)> {
    Some(match word.to_str()? {
        "create" => (&commands::CREATE, create::create as Action),
        "run" => (&commands::RUN, create::run),
        "start" => (&commands::START, simple::start),
        "state" => (&commands::STATE, simple::state),
        "kill" => (&commands::KILL, kill::kill),
        "delete" => (&commands::DELETE, delete::delete),
        "list" => (&commands::LIST, list::list),
        "exec" => (&commands::EXEC, exec::exec),
        "ps" => (&commands::PS, ps::ps),
        "pause" => (&commands::PAUSE, simple::pause),
        "resume" => (&commands::RESUME, simple::resume),
        "update" => (&commands::UPDATE, update::update),
        "events" => (&commands::EVENTS, events::events),
        "spec" => (&commands::SPEC, spec::spec),
        "features" => (&commands::FEATURES, features::features),
        "checkpoint" => (&commands::CHECKPOINT, checkpoint::checkpoint),
        "restore" => (&commands::RESTORE, checkpoint::restore),
        "validate" => (&commands::VALIDATE, validate::validate),
        "doctor" => (&commands::DOCTOR, doctor::doctor),
        "help" | "h" => (&commands::HELP_COMMAND, |_, _| Ok(0)),
        _ => return None,
    })
}

fn unknown(program: &str, word: &OsStr) -> Error {
    Error::new(
        Kind::InvalidArgument,
        format!("unknown command {word:?}; \"{program} --help\" lists the commands"),
    )
}

/// Whether what follows the first positional argument belongs to another program.
fn takes_rest(command: &Command) -> bool {
    command.positionals.iter().any(|positional| positional.rest)
}

/// How few and how many positional arguments a command takes.
fn arity(command: &Command) -> (usize, usize) {
    let required = |positional: &&Positional| positional.required;
    let least = command.positionals.iter().filter(required).count();
    if takes_rest(command) {
        (least, usize::MAX)
    } else {
        (least, command.positionals.len())
    }
}

fn check_arity(program: &str, command: &Command, given: usize) -> Result<()> {
    let (least, most) = arity(command);
    if (least..=most).contains(&given) {
        return Ok(());
    }
    let (bound, number) = match (least == most, given < least) {
        (true, _) => ("exactly", least),
        (false, true) => ("a minimum of", least),
        (false, false) => ("a maximum of", most),
    };
    Err(Error::new(
        Kind::InvalidArgument,
        format!(
            "{program}: \"{}\" requires {bound} {number} argument(s)",
            command.name
        ),
    ))
}

/// The call site of the self-protection of the commands that let a process into
/// a container: before anything else that these commands do.
fn protect() -> Result<()> {
    knarr_runtime::protect::reexec()
}

/// Tells what the library had to say that is no error.
fn warn(globals: &Globals, warnings: &[String]) {
    for warning in warnings {
        globals.log.write(Level::Warning, warning);
    }
}

/// The exit code for what the library returns: a code from 0 to 255.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Applies `action` to every container whose id matches an extended regular
/// expression, all of them even where one fails; the last error is returned.
fn each_match(root: &Path, pattern: &str, action: impl Fn(&str) -> Result<()>) -> Outcome {
    let regex = Regex::new(pattern)?;
    let mut outcome = Ok(0);
    for (id, _) in Container::list(root)? {
        if regex.matches(&id)
            && let Err(error) = action(&id)
        {
            outcome = Err(error.context(id));
        }
    }
    outcome
}

/// Writes to standard output.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context(|| "write to standard output")
}

/// Whether `--format` asks for JSON in place of text.
fn wants_json(format: Option<&str>) -> Result<bool> {
    match format {
        None | Some("text") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Error::new(
            Kind::InvalidArgument,
            format!("invalid format option {other:?}; use text or json"),
        )),
    }
}

/// Writes a value as JSON to standard output.
fn print_json<T: serde::Serialize>(value: &T, pretty: bool) -> Result<()> {
    let text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    match text {
        Ok(mut text) => {
            text.push('\n');
            print(&text)
        }
        Err(error) => Err(Error::new(Kind::System, format!("write JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_code_and_every_flag_a_name_of_its_own() {
        for command in commands::ALL {
            let (found, _) = find(OsStr::new(command.name)).unwrap();
            assert!(std::ptr::eq(found, command), "{}", command.name);
            let mut names: Vec<String> = command
                .flags
                .iter()
                .flat_map(|flag| {
                    std::iter::once(flag.long.to_owned()).chain(flag.short.map(String::from))
                })
                .collect();
            names.sort();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{}", command.name);
        }
    }

    #[test]
    fn exit_codes_fit() {
        assert_eq!(exit_code(0), 0);
        assert_eq!(exit_code(137), 137);
        assert_eq!(exit_code(-1), 255);
    }
}
