//! `start`, `state`, `pause`, `resume`: a container's id and one call.

use knarr_runtime::container::Container;

use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, print_json};

/// `start`
pub fn start(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    Container::load(&globals.root(), matches.id()?)?.start()?;
    Ok(0)
}

/// `state`
pub fn state(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let state = Container::load(&globals.root(), matches.id()?)?.state()?;
    print_json(&state, true)?;
    Ok(0)
}

/// `pause`
pub fn pause(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    Container::load(&globals.root(), matches.id()?)?.pause()?;
    Ok(0)
}

/// `resume`
pub fn resume(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    Container::load(&globals.root(), matches.id()?)?.resume()?;
    Ok(0)
}
