//! `validate`.

use knarr_runtime::error::Error;

use super::Outcome;
use super::globals::Globals;
use super::parse::Matches;

/// `validate`
pub fn validate(_globals: &Globals, _matches: &Matches<'_>) -> Outcome {
    Err(Error::unsupported("validate", "not built yet"))
}
