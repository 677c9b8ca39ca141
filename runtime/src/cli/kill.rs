//! `kill`.

use std::path::Path;

use knarr_runtime::container::Container;
use knarr_runtime::error::{Kind, Result};

use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, signal};

/// `kill`
pub fn kill(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let id = matches.id()?;
    let root = globals.root();
    let number = if matches.positionals.len() > 1 {
        signal::parse(matches.positional(1, "signal")?)
    } else {
        signal::parse("TERM")
    };
    let all = matches.on(&flags::KILL_ALL);
    if matches.on(&flags::REGEX) {
        let number = number?;
        return super::each_match(&root, id, |id| one(&root, id, number, all));
    }
    // A container that does not exist is the more telling error, and callers wait for it.
    let container = Container::load(&root, id)?;
    tolerate(container.kill(number?, all), all)?;
    Ok(0)
}

fn one(root: &Path, id: &str, number: i32, all: bool) -> Result<()> {
    tolerate(Container::load(root, id)?.kill(number, all), all)
}

/// With `--all` a container that does not run is no error.
fn tolerate(result: Result<()>, all: bool) -> Result<()> {
    match result {
        Err(error) if all && error.kind() == Kind::WrongState => Ok(()),
        other => other,
    }
}
