//! Snapshots for user namespaces: their owners are shifted by the mount, and not on the disk.
//!
//! A client labels a snapshot with the ids of the container (`CONTAINER:HOST:COUNT`, several with
//! commas between). The mount says the same as its options `uidmap` and `gidmap`, and whoever mounts
//! it gives the layers below these ids by idmapped mounts. What is written belongs to host ids.

use std::path::Path;

use crate::error::{Error, Result};
use crate::store::name::Labels;

const USERS: &str = "containerd.io/snapshot/uidmapping";
const GROUPS: &str = "containerd.io/snapshot/gidmapping";

/// The first kernel whose overlayfs takes layers from idmapped mounts. overlayfs.rst.
const KERNEL: (u32, u32) = (5, 19);

/// File systems whose mounts can be idmapped, by statfs(2), with the kernel since which they can.
/// mount_setattr(2).
const FILE_SYSTEMS: [(u64, (u32, u32)); 6] = [
    (0xEF53, KERNEL),       // ext4
    (0x5846_5342, KERNEL),  // XFS
    (0x9123_683E, KERNEL),  // btrfs
    (0xF2F5_2010, KERNEL),  // F2FS
    (0x0102_1994, (6, 3)),  // tmpfs
    (0xCA45_1A4E, (6, 15)), // bcachefs
];

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

/// Which ids of a container are which of the host, as the labels of a snapshot say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdMaps {
    users: Vec<Range>,
    groups: Vec<Range>,
    /// The options of a mount.
    pub(super) options: [String; 2],
}

impl IdMaps {
    /// What the labels ask for, if they ask for anything.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are no ranges, or one without the other.
    pub(super) fn of(labels: &Labels) -> Result<Option<Self>> {
        let (users, groups) = (labels.get(USERS), labels.get(GROUPS));
        if users.is_none() && groups.is_none() {
            return Ok(None);
        }
        let text = |label: Option<&String>| label.map_or("", String::as_str).to_owned();
        let (users, groups) = (text(users), text(groups));
        let maps = Self {
            users: ranges(USERS, &users)?,
            groups: ranges(GROUPS, &groups)?,
            options: [format!("uidmap={users}"), format!("gidmap={groups}")],
        };
        maps.outside(0, 0).ok_or_else(|| {
            Error::invalid("failed to find root pair: container ID 0 cannot be mapped to a host ID")
        })?;
        Ok(Some(maps))
    }

    /// A user and a group of a container as the host's.
    pub(super) fn outside(&self, user: u32, group: u32) -> Option<(u32, u32)> {
        let map = |ranges: &[Range], id: u32| {
            ranges.iter().find_map(|range| {
                let offset = id.checked_sub(range.inside)?;
                let found = (offset < range.count).then_some(offset)?;
                range.outside.checked_add(found)
            })
        };
        Some((map(&self.users, user)?, map(&self.groups, group)?))
    }
}

fn ranges(label: &str, text: &str) -> Result<Vec<Range>> {
    let range = |part: &str| {
        let mut numbers = part.split(':').map(|number| number.parse::<u32>().ok());
        match (
            numbers.next().flatten(),
            numbers.next().flatten(),
            numbers.next().flatten(),
            numbers.next(),
        ) {
            (Some(inside), Some(outside), Some(count), None) if count > 0 => Some(Range {
                inside,
                outside,
                count,
            }),
            _ => None,
        }
    };
    let all: Option<Vec<Range>> = text.split(',').map(range).collect();
    all.ok_or_else(|| {
        let form = "ranges CONTAINER:HOST:COUNT with commas between are expected";
        Error::invalid(format!("label {label}={text:?}: {form}"))
    })
}

/// Whether an overlay of layers below `dir` can be idmapped.
pub(super) fn is_possible(dir: &Path) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let Ok(found) = rustix::fs::statfs(dir) else {
        return false;
    };
    let magic = u64::try_from(found.f_type).unwrap_or(0) & u64::from(u32::MAX);
    let mut known = FILE_SYSTEMS.iter();
    known.any(|(kind, since)| *kind == magic && kernel >= *since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(users: &str, groups: &str) -> Labels {
        [(USERS, users), (GROUPS, groups)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn owners_are_shifted_by_the_range_they_are_in() {
        assert_eq!(IdMaps::of(&Labels::new()).unwrap(), None);
        let maps = IdMaps::of(&labels("0:1000:10,10:5000:5", "0:2000:10")).unwrap();
        let maps = maps.unwrap();
        assert_eq!(maps.options[0], "uidmap=0:1000:10,10:5000:5");
        assert_eq!(maps.outside(0, 9), Some((1000, 2009)));
        assert_eq!(maps.outside(14, 0), Some((5004, 2000)));
        assert_eq!(maps.outside(15, 0), None);
        assert_eq!(maps.outside(0, 10), None);
    }

    #[test]
    fn labels_that_are_no_ranges_are_refused() {
        for (users, groups) in [
            ("", "0:1:1"),
            ("0:1:1", "0:1"),
            ("0:1:1:1", "0:1:1"),
            ("0:1:0", "0:1:1"),
            ("0:-1:1", "0:1:1"),
            ("0:1:1,", "0:1:1"),
            ("5:1:1", "0:1:1"),
        ] {
            let error = IdMaps::of(&labels(users, groups)).unwrap_err();
            assert_eq!(error.code(), crate::error::Code::InvalidArgument, "{error}");
        }
        let one = labels("0:1:1", "").into_iter().take(1).collect();
        IdMaps::of(&one).unwrap_err();
    }
}
