//! `features`.

use knarr_runtime::error::Error;

use super::Outcome;
use super::globals::Globals;
use super::parse::Matches;

/// `features`
pub fn features(_globals: &Globals, _matches: &Matches<'_>) -> Outcome {
    Err(Error::unsupported("features", "not built yet"))
}
