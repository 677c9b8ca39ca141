//! `list`.

use knarr_runtime::container::{Container, State};
use knarr_runtime::error::{Error, Kind, Result};

use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, print, print_json, table};

/// The forms of output of list and ps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `--format`
pub fn format(matches: &Matches<'_>) -> Result<Format> {
    match matches.text(&flags::FORMAT) {
        None | Some("table") => Ok(Format::Table),
        Some("json") => Ok(Format::Json),
        Some(other) => Err(Error::new(
            Kind::InvalidArgument,
            format!("invalid format option {other:?}; use table or json"),
        )),
    }
}

/// `list`
pub fn list(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let format = format(matches)?;
    let mut states = Vec::new();
    let mut damaged = Vec::new();
    for (id, state) in Container::list(&globals.root())? {
        match state {
            Ok(state) => states.push(state),
            Err(error) => damaged.push(format!("{id}: {error}")),
        }
    }
    super::warn(globals, &damaged);
    if matches.on(&flags::QUIET) {
        let ids: String = states
            .iter()
            .flat_map(|state| [state.id.as_str(), "\n"])
            .collect();
        print(&ids)?;
    } else if format == Format::Json {
        // An empty list is null in Go, and so for callers.
        print_json(&(!states.is_empty()).then_some(states), false)?;
    } else {
        print(&as_table(states))?;
    }
    Ok(0)
}

fn as_table(states: Vec<State>) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.into_iter().map(|state| {
        [
            state.id,
            state.pid.to_string(),
            state.status.as_str().to_owned(),
            state.bundle,
            state.created,
            state.owner,
        ]
    }));
    table::render(&rows)
}
