//! `doctor`.

use knarr_runtime::doctor::{Check, State, examine};
use knarr_runtime::error::{Error, Kind};
use serde::Serialize;

use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, print, print_json};

/// A check as programs read it.
#[derive(Serialize)]
struct Row<'a> {
    area: &'a str,
    name: &'a str,
    state: &'a str,
    found: &'a str,
    effect: &'a str,
    help: &'a str,
}

/// `doctor`
pub fn doctor(_globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let json = super::wants_json(matches.text(&flags::TEXT_OR_JSON))?;
    let checks = examine();
    if json {
        print_json(&checks.iter().map(row).collect::<Vec<_>>(), true)?;
    } else {
        print(&report(&checks))?;
    }
    match checks.iter().find(|check| check.state == State::Fatal) {
        Some(check) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "no container can run here: {}: {}",
                check.name, check.effect
            ),
        )),
        None => Ok(0),
    }
}

fn row(check: &Check) -> Row<'_> {
    Row {
        area: check.area,
        name: &check.name,
        state: check.state.name(),
        found: &check.found,
        effect: check.effect,
        help: check.help,
    }
}

/// A line for each check below its area, and what follows from what is missing.
fn report(checks: &[Check]) -> String {
    let mut text = String::new();
    let mut area = "";
    for check in checks {
        if check.area != area {
            area = check.area;
            text.push_str(area);
            text.push('\n');
        }
        text.push_str(&format!("  {:<8} {}", check.state.name(), check.name));
        if !check.found.is_empty() {
            text.push_str(": ");
            text.push_str(&check.found);
        }
        text.push('\n');
        for (label, line) in [("without it", check.effect), ("to do", check.help)] {
            if !line.is_empty() {
                text.push_str(&format!("           {label}: {line}\n"));
            }
        }
    }
    let missing = checks
        .iter()
        .filter(|check| check.state != State::Present)
        .count();
    text.push_str(&format!("{} checks, {missing} missing\n", checks.len()));
    text
}
