//! `validate`.

use std::path::Path;

use knarr_runtime::cgroup::CgroupDriver;
use knarr_runtime::error::{Error, Kind};
use knarr_runtime::spec::validate::{Finding, Severity, check_bundle};
use serde::Serialize;

use super::definition::flags;
use super::globals::Globals;
use super::parse::Matches;
use super::{Outcome, print, print_json};

/// A finding as programs read it.
#[derive(Serialize)]
struct Row<'a> {
    severity: String,
    path: &'a str,
    message: &'a str,
    clause: &'a str,
    help: &'a str,
}

/// `validate`
pub fn validate(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let json = super::wants_json(matches.text(&flags::TEXT_OR_JSON))?;
    let path = Path::new(matches.positionals.first().copied().unwrap_or(".".as_ref()));
    let findings = check_bundle(path, globals.cgroup == CgroupDriver::Systemd);
    let of = |severity| {
        let found = findings.iter().filter(|found| found.severity == severity);
        found.count()
    };
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let plural = |count| if count == 1 { "" } else { "s" };
    let summary = format!(
        "{}: {errors} error{}, {warnings} warning{}",
        path.display(),
        plural(errors),
        plural(warnings)
    );
    if json {
        print_json(&findings.iter().map(row).collect::<Vec<_>>(), true)?;
    } else {
        let mut text: String = findings.iter().map(paragraph).collect();
        if errors == 0 {
            text.push_str(&summary);
            text.push('\n');
        }
        print(&text)?;
    }
    if errors > 0 {
        return Err(Error::new(Kind::InvalidConfig, summary));
    }
    Ok(0)
}

fn row(finding: &Finding) -> Row<'_> {
    Row {
        severity: finding.severity.to_string(),
        path: &finding.path,
        message: &finding.message,
        clause: finding.clause,
        help: &finding.help,
    }
}

/// A finding as people read it: where and what, then what to do, then who says so.
fn paragraph(finding: &Finding) -> String {
    let mut text = finding.severity.to_string();
    for part in [&finding.path, &finding.message] {
        if !part.is_empty() {
            text.push_str(": ");
            text.push_str(part);
        }
    }
    if !finding.help.is_empty() {
        text.push_str("\n    ");
        text.push_str(&finding.help);
    }
    if !finding.clause.is_empty() {
        text.push_str("\n    see ");
        text.push_str(finding.clause);
    }
    text.push('\n');
    text
}
