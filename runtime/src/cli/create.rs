//! `create` and `run`.

use std::path::PathBuf;

use knarr_runtime::container::{Container, CreateOptions, RunOptions};
use knarr_runtime::error::Result;

use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, exit_code, protect};

/// What create, run and restore have in common.
pub fn options(globals: &Globals, matches: &Matches<'_>) -> Result<CreateOptions> {
    Ok(CreateOptions {
        id: matches.id()?.to_owned(),
        bundle: bundle(matches),
        config: matches.path(&flags::CONFIG),
        console_socket: matches.path(&flags::CONSOLE_SOCKET),
        pidfd_socket: matches.path(&flags::PIDFD_SOCKET),
        pid_file: matches.path(&flags::PID_FILE),
        no_pivot: matches.on(&flags::NO_PIVOT),
        no_new_keyring: matches.on(&flags::NO_NEW_KEYRING),
        preserve_fds: matches.narrow(&flags::PRESERVE_FDS)?.unwrap_or(0),
        cgroup: globals.cgroup,
        rootless: globals.rootless,
        detach: matches.on(&flags::DETACH),
    })
}

/// The bundle's directory: the current one unless chosen.
pub fn bundle(matches: &Matches<'_>) -> PathBuf {
    matches.path(&flags::BUNDLE).unwrap_or_else(|| ".".into())
}

/// How run and restore treat the running container.
pub fn run_options(matches: &Matches<'_>) -> RunOptions {
    RunOptions {
        detach: matches.on(&flags::DETACH),
        keep: matches.on(&flags::KEEP),
        no_subreaper: matches.on(&flags::NO_SUBREAPER),
    }
}

/// `create`
pub fn create(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    protect()?;
    let options = options(globals, matches)?;
    let container = Container::create(&globals.root_for_create()?, &options)?;
    super::warn(globals, &container.warnings);
    Ok(0)
}

/// `run`
pub fn run(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    protect()?;
    let options = options(globals, matches)?;
    let (code, warnings) =
        Container::run(&globals.root_for_create()?, &options, &run_options(matches))?;
    super::warn(globals, &warnings);
    Ok(exit_code(code))
}
