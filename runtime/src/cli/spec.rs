//! `spec`.

use knarr_runtime::error::Error;

use super::Outcome;
use super::globals::Globals;
use super::parse::Matches;

/// `spec`
pub fn spec(_globals: &Globals, _matches: &Matches<'_>) -> Outcome {
    Err(Error::unsupported("spec", "not built yet"))
}
