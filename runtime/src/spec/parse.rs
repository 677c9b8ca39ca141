//! Reading JSON documents, bounded in size and depth, with errors that name the place.

use serde::Deserialize;

use crate::error::{Error, Kind, Result};

/// The largest config.json that is read, in bytes.
pub const MAX_CONFIG: usize = 16 << 20;

/// Parses `text`, the contents of the file `name`.
///
/// # Errors
/// `InvalidConfig` with the place and the reason.
pub fn parse<'a, T: Deserialize<'a>>(name: &str, text: &'a [u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| Error::new(Kind::InvalidConfig, format!("{name}: {error}")))
}
