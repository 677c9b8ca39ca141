//! `linux.namespaces` and what depends on it: id mappings, time offsets, host and domain name.

use super::mounts::mappings;
use super::{Key, Quoted, Report};
use crate::spec::Spec;
use crate::spec::config::IdMapping;
use crate::spec::linux::{Linux, Namespace};
use crate::spec::names::NAMESPACES;

const CLAUSE: &str = "config-linux.md#namespaces";
const USER: &str = "config-linux.md#user-namespace-mappings";
const TIME: &str = "config-linux.md#offset-for-time-namespace";

/// The first entry of the type `kind`.
fn find<'a, 'b>(spec: &'b Spec<'a>, kind: &str) -> Option<&'b Namespace<'a>> {
    let linux = spec.linux.as_ref()?;
    linux
        .namespaces
        .iter()
        .find(|namespace| namespace.kind == kind)
}

/// Whether the container makes or joins a namespace of the type `kind`.
pub(super) fn has(spec: &Spec<'_>, kind: &str) -> bool {
    find(spec, kind).is_some()
}

/// Whether the container makes a namespace of the type `kind`.
pub(super) fn is_new(spec: &Spec<'_>, kind: &str) -> bool {
    find(spec, kind).is_some_and(|namespace| namespace.path.is_empty())
}

pub(super) fn check(spec: &Spec<'_>, report: &mut Report) {
    for (field, text, file) in [
        ("hostname", &spec.hostname, "config.md#hostname"),
        ("domainname", &spec.domainname, "config.md#domainname"),
    ] {
        if text.is_empty() {
            continue;
        }
        if !has(spec, "uts") {
            report.error(
                format_args!("{field}"),
                format_args!("without a UTS namespace this would change the name of the host"),
                file,
                "add the uts namespace to linux.namespaces, or remove the name",
            );
        }
        // __NEW_UTS_LEN, sethostname(2).
        if text.len() > 64 {
            report.error(
                format_args!("{field}"),
                format_args!(
                    "{} is longer than the 64 bytes that the kernel takes",
                    Quoted(text)
                ),
                file,
                "shorten it",
            );
        }
        report.no_nul(format_args!("{field}"), text, file);
    }
    let Some(linux) = &spec.linux else { return };
    let mut seen = 0u8;
    for (at, namespace) in linux.namespaces.iter().enumerate() {
        match NAMESPACES
            .iter()
            .position(|known| *known == &*namespace.kind)
        {
            Some(number) => {
                if seen & (1 << number) != 0 {
                    report.error(
                        format_args!("linux.namespaces[{at}].type"),
                        format_args!("{} is listed twice", namespace.kind),
                        CLAUSE,
                        "keep one entry",
                    );
                }
                seen |= 1 << number;
            }
            None => {
                report.one_of(
                    format_args!("linux.namespaces[{at}].type"),
                    &namespace.kind,
                    &NAMESPACES,
                    "type of namespace",
                    CLAUSE,
                );
            }
        }
        if !namespace.path.is_empty() {
            report.absolute(
                format_args!("linux.namespaces[{at}].path"),
                &namespace.path,
                CLAUSE,
            );
        }
    }
    user(spec, linux, report);
    time(spec, linux, report);
}

fn user(spec: &Spec<'_>, linux: &Linux<'_>, report: &mut Report) {
    for (field, list) in [
        ("uidMappings", &linux.uid_mappings),
        ("gidMappings", &linux.gid_mappings),
    ] {
        if list.is_empty() {
            if is_new(spec, "user") {
                report.error(
                    format_args!("linux.{field}"),
                    format_args!(
                        "is missing or empty: no id exists in a new user namespace without it"
                    ),
                    USER,
                    "map at least the ids of process.user",
                );
            }
            continue;
        }
        if !has(spec, "user") {
            // Other runtimes let it pass, and it does no harm.
            report.warn(
                format_args!("linux.{field}"),
                format_args!("without a user namespace there is nothing to map: it is ignored"),
                USER,
                "add the user namespace to linux.namespaces, or remove the mappings",
            );
        }
        mappings(format_args!("linux.{field}"), list, USER, report);
    }
    let Some(process) = &spec.process else { return };
    if !is_new(spec, "user") {
        return;
    }
    let user = &process.user;
    let mut mapped = |path: std::fmt::Arguments<'_>, id: u32, list: &[IdMapping], field: &str| {
        let inside = |mapping: &IdMapping| {
            id.checked_sub(mapping.container_id)
                .is_some_and(|distance| distance < mapping.size)
        };
        if !list.is_empty() && !list.iter().any(inside) {
            report.error(
                path,
                format_args!("{id} is not mapped in the user namespace"),
                USER,
                &format!("add it to linux.{field}"),
            );
        }
    };
    mapped(
        format_args!("process.user.uid"),
        user.uid,
        &linux.uid_mappings,
        "uidMappings",
    );
    mapped(
        format_args!("process.user.gid"),
        user.gid,
        &linux.gid_mappings,
        "gidMappings",
    );
    for (at, gid) in user.additional_gids.iter().enumerate() {
        mapped(
            format_args!("process.user.additionalGids[{at}]"),
            *gid,
            &linux.gid_mappings,
            "gidMappings",
        );
    }
}

fn time(spec: &Spec<'_>, linux: &Linux<'_>, report: &mut Report) {
    if linux.time_offsets.is_empty() {
        return;
    }
    if !is_new(spec, "time") {
        report.error(
            format_args!("linux.timeOffsets"),
            format_args!("offsets can be set in a new time namespace only"),
            TIME,
            "add the time namespace without a path to linux.namespaces, or remove the offsets",
        );
    }
    for (clock, offset) in &linux.time_offsets {
        let key = Key(clock);
        report.one_of(
            format_args!("linux.timeOffsets{key}"),
            clock,
            &["monotonic", "boottime"],
            "clock of a time namespace",
            TIME,
        );
        if offset.nanosecs >= 1_000_000_000 {
            report.error(
                format_args!("linux.timeOffsets{key}.nanosecs"),
                format_args!("{} is a second or more", offset.nanosecs),
                TIME,
                "move whole seconds to secs",
            );
        }
    }
}
