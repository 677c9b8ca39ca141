//! Id maps of new user namespaces: which the caller may write, and the writing. user_namespaces(7).
//!
//! A process with CAP_SETUID and CAP_SETGID writes any ids of its own user namespace. Another one
//! writes a map of its own single id, and gives up setgroups(2) for that; for more it needs
//! newuidmap(1) and newgidmap(1), which ask /etc/subuid and /etc/subgid, subuid(5).

use std::path::PathBuf;
use std::process::Command;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::error::{Context, Error, Kind, Result};
use crate::host::{Host, read_small};
use crate::proc;
use crate::spec::config::IdMapping;

/// What differs between users and groups.
struct Ids {
    /// Field of the configuration.
    field: &'static str,
    /// File in /proc/PID.
    map: &'static str,
    /// Program that writes it for those who may not.
    helper: &'static str,
    /// File that says what the helper writes.
    ranges: &'static str,
    /// The caller's own id.
    own: u32,
}

fn uids() -> Ids {
    Ids {
        field: "linux.uidMappings",
        map: "uid_map",
        helper: "newuidmap",
        ranges: "/etc/subuid",
        own: rustix::process::geteuid().as_raw(),
    }
}

fn gids() -> Ids {
    Ids {
        field: "linux.gidMappings",
        map: "gid_map",
        helper: "newgidmap",
        ranges: "/etc/subgid",
        own: rustix::process::getegid().as_raw(),
    }
}

impl Ids {
    /// Whether the map has nobody but the caller: the one map that needs no privilege.
    fn is_own(&self, mappings: &[IdMapping]) -> bool {
        matches!(mappings, [mapping] if mapping.size == 1 && mapping.host_id == self.own)
    }
}

/// Something that keeps the caller from writing a map.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// JSON path of the mapping.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// Finds out what would keep the caller from writing these maps, before anything is made.
///
/// It cannot see everything: where other sources than /etc/subuid count (nsswitch.conf(5), `subid`),
/// only the helpers know.
pub(crate) fn check(host: &Host, uid_map: &[IdMapping], gid_map: &[IdMapping]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if host.euid() == 0 {
        if host.in_user_namespace() {
            found.extend(check_outer(&uids(), uid_map));
            found.extend(check_outer(&gids(), gid_map));
        }
        return found;
    }
    for (ids, map, capability) in [
        (uids(), uid_map, CapabilitySet::SETUID),
        (gids(), gid_map, CapabilitySet::SETGID),
    ] {
        if ids.is_own(map) || has_capability(capability) {
            continue;
        }
        found.extend(check_helper(&ids, map));
    }
    found
}

fn has_capability(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Ids that do not exist in the user namespace of the caller cannot be mapped.
fn check_outer(ids: &Ids, mappings: &[IdMapping]) -> Option<Obstacle> {
    let file = format!("/proc/self/{}", ids.map);
    let outer = read_small(&file).map(|text| parse_map(&text))?;
    let lacking = |mapping: &IdMapping| {
        // The kernel wants each in one piece of the outer map.
        !outer
            .iter()
            .any(|extent| contains(extent, mapping.host_id, mapping.size))
    };
    let at = mappings.iter().position(lacking)?;
    let mapping = mappings.get(at)?;
    Some(Obstacle {
        path: format!("{}[{at}]", ids.field),
        message: format!(
            "the ids {} do not exist in the user namespace of the caller, which has {}",
            span(mapping.host_id, mapping.size),
            list(
                outer
                    .iter()
                    .map(|extent| span(extent.container_id, extent.size))
            )
        ),
        help: format!("map ids of {file}, or give the caller's namespace more"),
    })
}

fn check_helper(ids: &Ids, mappings: &[IdMapping]) -> Option<Obstacle> {
    let first = || {
        mappings
            .iter()
            .position(|mapping| !(mapping.size == 1 && mapping.host_id == ids.own))
            .unwrap_or(0)
    };
    if find_helper(ids.helper).is_none() {
        return Some(Obstacle {
            path: format!("{}[{}]", ids.field, first()),
            message: format!(
                "user {} may map no other id than {} without {}, which is not installed",
                rustix::process::geteuid().as_raw(),
                ids.own,
                ids.helper
            ),
            help: format!(
                "install it (package uidmap or shadow-utils), or map the id {} alone",
                ids.own
            ),
        });
    }
    let uid = rustix::process::getuid().as_raw();
    let name = proc::user_name(uid);
    // Users that /etc/passwd does not know, and ranges that come from elsewhere, are the helper's affair.
    if name == uid.to_string() || ranges_come_from_elsewhere() {
        return None;
    }
    let granted = granted(ids.ranges, &name, uid);
    let lacking = |mapping: &IdMapping| {
        let own = mapping.size == 1 && mapping.host_id == ids.own;
        !own && !covers(&granted, mapping.host_id, mapping.size)
    };
    let at = mappings.iter().position(lacking)?;
    let mapping = mappings.get(at)?;
    let has = if granted.is_empty() {
        "nothing".to_owned()
    } else {
        list(granted.iter().map(|(start, count)| span64(*start, *count)))
    };
    Some(Obstacle {
        path: format!("{}[{at}]", ids.field),
        message: format!(
            "{} does not grant the {} ids from {} on to user {name}; it grants {has}",
            ids.ranges, mapping.size, mapping.host_id
        ),
        help: format!(
            "add the line {name}:{}:{} there, or map what is granted",
            mapping.host_id, mapping.size
        ),
    })
}

/// Whether `subid` in nsswitch.conf(5) names another source than files.
fn ranges_come_from_elsewhere() -> bool {
    read_small("/etc/nsswitch.conf").is_some_and(|text| {
        text.lines()
            .filter_map(|line| line.trim_start().strip_prefix("subid:"))
            .any(|sources| sources.split_whitespace().any(|source| source != "files"))
    })
}

/// Reads /proc/PID/uid_map; `host_id` is what the reader's namespace calls the ids.
fn parse_map(text: &str) -> Vec<IdMapping> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            Some(IdMapping {
                container_id: fields.next()?.parse().ok()?,
                host_id: fields.next()?.parse().ok()?,
                size: fields.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// Whether an extent has the ids from `start` on, counted on its inner side.
fn contains(extent: &IdMapping, start: u32, size: u32) -> bool {
    start
        .checked_sub(extent.container_id)
        .is_some_and(|at| u64::from(at) + u64::from(size) <= u64::from(extent.size))
}

/// What the user `uid` of this user namespace is called outside it; the same where nobody knows.
pub(crate) fn outside(uid: u32) -> u32 {
    let map = read_small("/proc/self/uid_map").unwrap_or_default();
    let extents = parse_map(&map);
    let extent = extents.iter().find(|extent| contains(extent, uid, 1));
    extent.map_or(uid, |extent| {
        extent
            .host_id
            .saturating_add(uid.saturating_sub(extent.container_id))
    })
}

/// Whether an id exists in the user namespace of the caller. Without /proc: yes.
pub(crate) fn exists(map: &'static str, id: u32) -> bool {
    read_small(&format!("/proc/self/{map}")).is_none_or(|text| {
        parse_map(&text)
            .iter()
            .any(|extent| contains(extent, id, 1))
    })
}

/// The ranges (first id, count) that `file` grants to a user, in order.
pub(crate) fn granted(file: &str, name: &str, uid: u32) -> Vec<(u64, u64)> {
    parse_ranges(&read_small(file).unwrap_or_default(), name, uid)
}

/// The ranges of a user in the text of subuid(5): lines of `owner:start:count`,
/// the owner a name or a number.
fn parse_ranges(text: &str, name: &str, uid: u32) -> Vec<(u64, u64)> {
    let number = uid.to_string();
    let mut ranges: Vec<(u64, u64)> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let owner = fields.next()?;
            let start = fields.next()?.trim().parse().ok()?;
            let count = fields.next()?.trim().parse().ok()?;
            (owner == name || owner == number).then_some((start, count))
        })
        .collect();
    ranges.sort_unstable();
    ranges
}

/// Whether sorted ranges, taken together, have all the ids.
fn covers(ranges: &[(u64, u64)], start: u32, size: u32) -> bool {
    let (mut next, end) = (u64::from(start), u64::from(start) + u64::from(size));
    for (first, count) in ranges {
        if *first <= next {
            next = next.max(first.saturating_add(*count));
        }
    }
    next >= end
}

fn span(start: u32, size: u32) -> String {
    span64(start.into(), size.into())
}

fn span64(start: u64, size: u64) -> String {
    match size {
        1 => start.to_string(),
        _ => format!("{start}-{}", start.saturating_add(size).saturating_sub(1)),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Writes the maps of the new user namespace of process `pid`.
///
/// # Errors
/// The kernel or a helper refuses them; a helper is missing.
pub(crate) fn write(pid: i32, uid_map: &[IdMapping], gid_map: &[IdMapping]) -> Result<()> {
    write_map(pid, &uids(), uid_map)?;
    let ids = gids();
    if !ids.is_own(gid_map) {
        return write_map(pid, &ids, gid_map);
    }
    // Whoever has the privilege keeps setgroups(2).
    if rustix::process::geteuid().is_root() {
        match write_map(pid, &ids, gid_map) {
            Err(error) if error.errno() == Some(Errno::PERM) => {}
            other => return other,
        }
    }
    let path = format!("/proc/{pid}/setgroups");
    std::fs::write(&path, "deny").context(|| format!("write({path}, \"deny\")"))?;
    write_map(pid, &ids, gid_map)
}

fn write_map(pid: i32, ids: &Ids, mappings: &[IdMapping]) -> Result<()> {
    if mappings.is_empty() {
        return Ok(());
    }
    let mut map = String::new();
    for mapping in mappings {
        use std::fmt::Write;
        let _ = writeln!(
            map,
            "{} {} {}",
            mapping.container_id, mapping.host_id, mapping.size
        );
    }
    let path = format!("/proc/{pid}/{}", ids.map);
    let Err(error) = std::fs::write(&path, &map) else {
        return Ok(());
    };
    let error = Err(error).context(|| format!("{}: write({path}, {map:?})", ids.field));
    if rustix::process::geteuid().is_root() || ids.is_own(mappings) {
        return error;
    }
    let Some(helper) = find_helper(ids.helper) else {
        return error;
    };
    let output = Command::new(&helper)
        .arg(pid.to_string())
        .args(map.split_ascii_whitespace())
        .output()
        .context(|| format!("{}: exec({})", ids.field, helper.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let reason = list(reason.lines().map(|line| line.trim().to_owned()));
    Err(Error::new(
        Kind::System,
        format!(
            "{}: {} refuses {:?}: {reason}; {} must grant these ids to user {}",
            ids.field,
            helper.display(),
            map.trim_end(),
            ids.ranges,
            proc::user_name(rustix::process::getuid().as_raw()),
        ),
    ))
}

/// Where a helper is: on the caller's PATH, or where distributions have it.
pub(crate) fn find_helper(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(["/usr/bin".into(), "/bin".into()])
        .map(|dir| dir.join(name))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_ranges_of_a_user() {
        let text =
            "me:300000:10\n# me:1:1\nother:1:1\nme:100000:65536\n1000:5:x\n1000:165536:4\nme::\n\n";
        assert_eq!(
            parse_ranges(text, "me", 1000),
            [(100_000, 65_536), (165_536, 4), (300_000, 10)]
        );
        assert_eq!(parse_ranges(text, "nobody", 65_534), []);
    }

    #[test]
    fn ranges_side_by_side_are_one() {
        let ranges = [(100, 10), (110, 5), (200, 1), (200, u64::MAX)];
        assert!(covers(&ranges, 100, 15) && covers(&ranges, 105, 1));
        assert!(!covers(&ranges, 100, 16) && !covers(&ranges, 99, 2));
        assert!(covers(&ranges, 4_000_000_000, 294_967_295));
        assert!(!covers(&[], 0, 1));
    }

    #[test]
    fn an_extent_has_its_ids_and_no_other() {
        let map = parse_map("         0       1000          1\n  1 100000 65536\nx\n");
        assert_eq!(map.len(), 2);
        assert!(contains(&map[0], 0, 1) && !contains(&map[0], 0, 2));
        assert!(contains(&map[1], 65_536, 1) && !contains(&map[1], 65_537, 1));
        assert!(contains(&parse_map("0 0 4294967295")[0], 4_294_967_294, 1));
        assert_eq!(outside(u32::MAX), u32::MAX);
        assert!(exists("uid_map", rustix::process::geteuid().as_raw()));
    }
}
