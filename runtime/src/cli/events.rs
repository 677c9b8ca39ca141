//! `events`.

use std::time::{Duration, Instant};

use knarr_runtime::cgroup::OomEvent;
use knarr_runtime::container::{Container, Status};
use knarr_runtime::error::{Error, Kind, Result};
use serde::Serialize;

use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, print_json};

/// Time between statistics unless chosen.
const INTERVAL: Duration = Duration::from_secs(5);

/// A line of output.
#[derive(Serialize)]
struct Event<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

/// `events`
pub fn events(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let interval = matches.duration(&flags::INTERVAL).unwrap_or(INTERVAL);
    if interval.is_zero() {
        return Err(Error::new(
            Kind::InvalidArgument,
            "duration interval must be greater than 0",
        ));
    }
    let container = Container::load(&globals.root(), matches.id()?)?;
    if matches.on(&flags::STATS) {
        stats(&container)?;
    } else {
        follow(&container, interval)?;
    }
    Ok(0)
}

fn stats(container: &Container) -> Result<()> {
    if container.state()?.status == Status::Stopped {
        return Err(Error::new(Kind::WrongState, "container not running"));
    }
    let event = Event {
        kind: "stats",
        id: &container.id,
        data: Some(container.stats()?),
    };
    print_json(&event, false)
}

fn has_ended(container: &Container) -> bool {
    match container.state() {
        Ok(state) => state.status == Status::Stopped,
        Err(error) => error.kind() == Kind::NotFound,
    }
}

/// How long is listened for events before the next figures, however short the interval.
const SHORTEST: Duration = Duration::from_millis(1);

/// Prints what happens until the container ends.
fn follow(container: &Container, interval: Duration) -> Result<()> {
    let mut watch = match container.watch_oom() {
        Ok(watch) => Some(watch),
        // Without a memory controller there are still statistics.
        Err(error) if error.kind() == Kind::Unsupported => None,
        Err(error) => return Err(error),
    };
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            match stats(container) {
                // From now on: on a host that is slow beside the interval there would be no time for
                // anything else.
                Ok(()) => next = Instant::now() + interval.max(SHORTEST),
                // Its files may go while they are read.
                Err(error) => {
                    return if has_ended(container) {
                        Ok(())
                    } else {
                        Err(error)
                    };
                }
            }
            continue;
        }
        let Some(watch) = &mut watch else {
            std::thread::sleep(left);
            continue;
        };
        // Rounded up, so that no time is spent on waits of zero milliseconds.
        match watch.wait(i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX))? {
            OomEvent::Oom => {
                let event = Event {
                    kind: "oom",
                    id: &container.id,
                    data: None::<()>,
                };
                print_json(&event, false)?;
            }
            OomEvent::Gone => return Ok(()),
            OomEvent::Nothing => {}
        }
    }
}
