//! `features`.

use super::Outcome;
use super::globals::Globals;
use super::parse::Matches;

/// `features`
pub fn features(_globals: &Globals, _matches: &Matches<'_>) -> Outcome {
    super::print_json(&knarr_runtime::spec::features::features(), true)?;
    Ok(0)
}
