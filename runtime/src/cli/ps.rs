//! `ps`.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use knarr_runtime::container::Container;
use knarr_runtime::error::{Context, Error, Kind, Result};

use super::globals::Globals;
use super::list::{Format, format};
use super::parse::Matches;
use super::{Outcome, print, print_json};

/// `ps`
pub fn ps(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let container = Container::load(&globals.root(), matches.id()?)?;
    let format = format(matches)?;
    let pids = container.pids()?;
    if format == Format::Json {
        // As in list: an empty list is null in Go.
        print_json(&(!pids.is_empty()).then_some(pids), false)?;
        return Ok(0);
    }
    let options = match matches.positionals.get(1..) {
        None | Some([]) => &[OsStr::new("-ef")],
        Some(options) => options,
    };
    let output = Command::new("ps")
        .args(options)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context(|| "run ps (needed for the table; --format json does without)")?;
    if !output.status.success() {
        return Err(Error::new(Kind::System, format!("ps: {}", output.status)));
    }
    print(&select(&String::from_utf8_lossy(&output.stdout), &pids)?)?;
    Ok(0)
}

/// The header and the lines of those pids.
fn select(table: &str, pids: &[u32]) -> Result<String> {
    let column = table
        .lines()
        .next()
        .and_then(|header| header.split_whitespace().position(|name| name == "PID"))
        .ok_or_else(|| {
            Error::new(
                Kind::InvalidArgument,
                "the output of ps has no column PID; choose other options for ps",
            )
        })?;
    let wanted = |line: &str| {
        line.split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    Ok(table
        .lines()
        .enumerate()
        .filter(|(index, line)| *index == 0 || wanted(line))
        .flat_map(|(_, line)| [line, "\n"])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_header_and_the_lines_of_the_pids() {
        let table = "UID  PID CMD\nroot   1 init 7\nroot  17 x\nroot   7 PID\n";
        assert_eq!(select(table, &[7]).unwrap(), "UID  PID CMD\nroot   7 PID\n");
        assert!(select("UID CMD\n", &[7]).is_err());
        assert!(select("", &[7]).is_err());
    }
}
