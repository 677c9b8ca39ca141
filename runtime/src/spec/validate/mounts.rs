//! `root` and `mounts`.

use super::namespaces::has;
use super::{Quoted, Report};
use crate::spec::Spec;
use crate::spec::config::{IdMapping, Mount};
use crate::spec::mount_options::is_data;

const ROOT: &str = "config.md#root";
const MOUNTS: &str = "config.md#mounts";
const OPTIONS: &str = "config.md#linux-mount-options";
const POSIX: &str = "config.md#posix-platform-mounts";

/// The kernel takes so many ranges in an id map, user_namespaces(7).
const MAX_RANGES: usize = 340;

pub(super) fn check(spec: &Spec<'_>, report: &mut Report) {
    match &spec.root {
        None => report.error(
            format_args!("root"),
            format_args!("is missing: every container on Linux has a root file system"),
            ROOT,
            "add root with a path",
        ),
        Some(root) if root.path.is_empty() => report.error(
            format_args!("root.path"),
            format_args!("is missing or empty"),
            ROOT,
            "write the path of the root file system, such as rootfs",
        ),
        Some(root) => report.no_nul(format_args!("root.path"), &root.path, ROOT),
    }
    for (at, mount) in spec.mounts.iter().enumerate() {
        one(spec, at, mount, report);
    }
    if !spec.mounts.is_empty() && !has(spec, "mount") {
        report.warn(
            format_args!("mounts"),
            format_args!("without a mount namespace, mounts are made on the host and stay there"),
            MOUNTS,
            "add the mount namespace to linux.namespaces",
        );
    }
}

fn one(spec: &Spec<'_>, at: usize, mount: &Mount<'_>, report: &mut Report) {
    if mount.destination.is_empty() {
        report.error(
            format_args!("mounts[{at}].destination"),
            format_args!("is missing or empty"),
            MOUNTS,
            "write the path in the container",
        );
    } else if !mount.destination.starts_with('/') {
        report.warn(
            format_args!("mounts[{at}].destination"),
            format_args!(
                "{} is relative, which is deprecated; it counts from /",
                Quoted(&mount.destination)
            ),
            MOUNTS,
            "write an absolute path",
        );
    }
    if !mount.destination.is_empty()
        && mount
            .destination
            .split('/')
            .all(|part| matches!(part, "" | "." | ".."))
    {
        report.error(
            format_args!("mounts[{at}].destination"),
            format_args!(
                "{} is the root file system itself",
                Quoted(&mount.destination)
            ),
            MOUNTS,
            "set root.path instead",
        );
    }
    report.no_nul(
        format_args!("mounts[{at}].destination"),
        &mount.destination,
        MOUNTS,
    );
    report.no_nul(format_args!("mounts[{at}].source"), &mount.source, MOUNTS);
    report.no_nul(format_args!("mounts[{at}].type"), &mount.kind, POSIX);

    let (mut bind, mut idmap, mut remount, mut copyup) = (false, false, false, false);
    let mut data = None;
    for (number, option) in mount.options.iter().enumerate() {
        report.no_nul(
            format_args!("mounts[{at}].options[{number}]"),
            option,
            OPTIONS,
        );
        match &**option {
            "bind" | "rbind" => bind = true,
            "idmap" | "ridmap" => idmap = true,
            "tmpcopyup" => copyup = true,
            "remount" => remount = true,
            option if data.is_none() && !option.is_empty() && is_data(option) => {
                data = Some(number);
            }
            _ => {}
        }
    }
    if !bind && !remount {
        let help = "name the file system, or add the option rbind";
        match &*mount.kind {
            // Nothing else can be meant.
            "bind" => {
                bind = true;
                report.warn(
                    format_args!("mounts[{at}].type"),
                    format_args!("says bind, but the options have neither bind nor rbind"),
                    POSIX,
                    "add the option bind",
                );
            }
            "" => report.error(
                format_args!("mounts[{at}].type"),
                format_args!("is missing or empty, and the options have neither bind nor rbind"),
                POSIX,
                help,
            ),
            "none" => report.error(
                format_args!("mounts[{at}].type"),
                format_args!("none is no file system, and the options have neither bind nor rbind"),
                POSIX,
                help,
            ),
            _ => {}
        }
    }
    if bind && !remount && mount.source.is_empty() {
        report.error(
            format_args!("mounts[{at}].source"),
            format_args!("is missing or empty: a bind mount needs the path to bind"),
            MOUNTS,
            "write the path of the file or directory",
        );
    }
    if bind
        && !remount
        && let Some((number, option)) =
            data.and_then(|number| Some((number, mount.options.get(number)?)))
    {
        report.error(
            format_args!("mounts[{at}].options[{number}]"),
            format_args!(
                "{} is no mount option, and a bind mount has no options of a file system",
                Quoted(option)
            ),
            OPTIONS,
            "correct or remove it",
        );
    }
    if copyup && (bind || mount.kind != "tmpfs") {
        report.warn(
            format_args!("mounts[{at}].options"),
            format_args!("tmpcopyup has an effect on a tmpfs only"),
            OPTIONS,
            "remove it",
        );
    }
    let mapped = idmap || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mapped && !bind {
        report.error(
            format_args!("mounts[{at}]"),
            format_args!("a mount with an id mapping must be a bind mount"),
            POSIX,
            "remove the mapping, or bind a directory that is mounted on the host",
        );
        return;
    }
    match (mount.uid_mappings.is_empty(), mount.gid_mappings.is_empty()) {
        (false, false) => {}
        (true, true) => {
            if idmap && !has(spec, "user") {
                report.error(
                    format_args!("mounts[{at}].options"),
                    format_args!("an id-mapped mount without uidMappings and gidMappings takes those of the container's user namespace, and there is none"),
                    OPTIONS,
                    "add both mappings to the mount",
                );
            }
        }
        (true, false) => missing_mapping(at, "uidMappings", "gidMappings", report),
        (false, true) => missing_mapping(at, "gidMappings", "uidMappings", report),
    }
    mappings(
        format_args!("mounts[{at}].uidMappings"),
        &mount.uid_mappings,
        POSIX,
        report,
    );
    mappings(
        format_args!("mounts[{at}].gidMappings"),
        &mount.gid_mappings,
        POSIX,
        report,
    );
}

fn missing_mapping(at: usize, missing: &str, present: &str, report: &mut Report) {
    report.error(
        format_args!("mounts[{at}].{missing}"),
        format_args!("is missing, but {present} is there: an id-mapped mount needs both"),
        POSIX,
        "add it",
    );
}

/// Rules of the kernel for an id map, user_namespaces(7).
pub(super) fn mappings(
    path: std::fmt::Arguments<'_>,
    mappings: &[IdMapping],
    clause: &'static str,
    report: &mut Report,
) {
    if mappings.len() > MAX_RANGES {
        report.error(
            path,
            format_args!("{} ranges: the kernel takes {MAX_RANGES}", mappings.len()),
            clause,
            "merge ranges that touch",
        );
        return;
    }
    for (at, mapping) in mappings.iter().enumerate() {
        if mapping.size == 0 {
            report.error(
                format_args!("{path}[{at}].size"),
                format_args!("0: a range holds at least one id"),
                clause,
                "write how many ids are mapped, or remove the range",
            );
        }
        // The last id of the 32 bits is reserved.
        if mapping.container_id.checked_add(mapping.size).is_none()
            || mapping.host_id.checked_add(mapping.size).is_none()
        {
            report.error(
                format_args!("{path}[{at}]"),
                format_args!(
                    "{} ids from {} and {} on are more than there are",
                    mapping.size, mapping.container_id, mapping.host_id
                ),
                clause,
                "write a smaller size",
            );
        }
        let before = mappings.get(..at).unwrap_or_default();
        if before.iter().any(|other| {
            overlap(
                other.container_id,
                other.size,
                mapping.container_id,
                mapping.size,
            ) || overlap(other.host_id, other.size, mapping.host_id, mapping.size)
        }) {
            report.error(
                format_args!("{path}[{at}]"),
                format_args!("overlaps another range: an id can be mapped once"),
                clause,
                "separate the ranges",
            );
        }
    }
}

fn overlap(first: u32, size: u32, other: u32, other_size: u32) -> bool {
    let (first, size, other, other_size) = (
        u64::from(first),
        u64::from(size),
        u64::from(other),
        u64::from(other_size),
    );
    first < other + other_size && other < first + size
}
