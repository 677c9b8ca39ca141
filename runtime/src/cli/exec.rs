//! `exec`.

use std::fs::File;
use std::path::Path;

use knarr_runtime::container::{Container, ExecOptions, User};
use knarr_runtime::error::{Context, Error, Kind, Result};
use knarr_runtime::spec::config::Process;
use knarr_runtime::spec::parse::{parse, read_all};

use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, exit_code, protect};

/// `exec`
pub fn exec(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    run(globals, matches).map_err(|error| error.context("exec failed"))
}

fn run(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    protect()?;
    let container = Container::load(&globals.root(), matches.id()?)?;
    let file = matches.path(&flags::PROCESS);
    let text = file.as_deref().map(read).transpose()?;
    let process: Option<Process<'_>> = match (&file, &text) {
        (Some(file), Some(text)) => Some(parse(&file.to_string_lossy(), text)?),
        _ => None,
    };
    let args = (1..matches.positionals.len())
        .map(|index| matches.positional(index, "argument").map(str::to_owned))
        .collect::<Result<Vec<_>>>()?;
    if args.is_empty() && process.is_none() {
        return Err(Error::new(
            Kind::InvalidArgument,
            "process args cannot be empty; name a command or use --process",
        ));
    }
    let (code, warnings) = container.exec(&ExecOptions {
        process,
        args,
        cwd: matches.filled(&flags::CWD),
        env: matches.texts(&flags::ENV),
        tty: matches.on(&flags::TTY),
        user: matches.filled(&flags::USER).map(User),
        additional_gids: matches.numbers(&flags::ADDITIONAL_GIDS)?,
        capabilities: matches.texts(&flags::CAP),
        no_new_privileges: matches.on(&flags::NO_NEW_PRIVS),
        apparmor: matches.filled(&flags::APPARMOR),
        process_label: matches.filled(&flags::PROCESS_LABEL),
        detach: matches.on(&flags::DETACH),
        pid_file: matches.path(&flags::PID_FILE),
        console_socket: matches.path(&flags::CONSOLE_SOCKET),
        pidfd_socket: matches.path(&flags::PIDFD_SOCKET),
        preserve_fds: matches.narrow(&flags::PRESERVE_FDS)?.unwrap_or(0),
        cgroups: matches.texts(&flags::CGROUP),
        ignore_paused: matches.on(&flags::IGNORE_PAUSED),
    })?;
    super::warn(globals, &warnings);
    Ok(exit_code(code))
}

/// Reads a JSON file, or standard input for `-`. Pipes are welcome: shells make them for `<(command)`.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        return read_all(std::io::stdin(), Path::new("standard input"), 0);
    }
    let file = File::open(path).context(|| format!("open {}", path.display()))?;
    read_all(file, path, 0)
}
