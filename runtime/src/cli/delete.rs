//! `delete`.

use std::path::Path;

use knarr_runtime::container::Container;
use knarr_runtime::error::Result;

use super::Outcome;
use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;

/// `delete`
pub fn delete(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let id = matches.id()?;
    let root = globals.root();
    let force = matches.on(&flags::FORCE);
    if matches.on(&flags::REGEX) {
        return super::each_match(&root, id, |id| one(globals, &root, id, force));
    }
    one(globals, &root, id, force)?;
    Ok(0)
}

fn one(globals: &Globals, root: &Path, id: &str, force: bool) -> Result<()> {
    let warnings = if force {
        // Also what a killed create left half-made, which cannot be loaded.
        Container::force_delete(root, id)?
    } else {
        Container::load(root, id)?.delete(false)?
    };
    super::warn(globals, &warnings);
    Ok(())
}
