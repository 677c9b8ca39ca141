//! `events`.

use std::time::Duration;

use knarr_runtime::error::{Error, Kind};

use super::Outcome;
use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use knarr_runtime::container::Container;

/// Time between statistics unless chosen.
const INTERVAL: Duration = Duration::from_secs(5);

/// `events`
pub fn events(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let interval = matches.duration(&flags::INTERVAL).unwrap_or(INTERVAL);
    if interval.is_zero() {
        return Err(Error::new(
            Kind::InvalidArgument,
            "duration interval must be greater than 0",
        ));
    }
    let _container = Container::load(&globals.root(), matches.id()?)?;
    let _once = matches.on(&flags::STATS);
    Err(Error::unsupported("events", "not built yet"))
}
