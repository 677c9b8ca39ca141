//! `linux.netDevices`.

use super::namespaces::has;
use super::{Key, Quoted, Report};
use crate::spec::Spec;
use crate::spec::linux::Linux;

const CLAUSE: &str = "config-linux.md#network-devices";

pub(super) fn check(spec: &Spec<'_>, linux: &Linux<'_>, report: &mut Report) {
    if linux.net_devices.is_empty() {
        return;
    }
    if !has(spec, "network") {
        report.error(
            format_args!("linux.netDevices"),
            format_args!("without a network namespace there is nowhere to move a device"),
            CLAUSE,
            "add the network namespace to linux.namespaces",
        );
    }
    for (outside, device) in &linux.net_devices {
        let key = Key(outside);
        if !is_name(outside) || outside.contains('%') {
            report.error(
                format_args!("linux.netDevices{key}"),
                format_args!("{} cannot be the name of a network device", Quoted(outside)),
                CLAUSE,
                "write the device's name on the host, 1 to 15 bytes",
            );
        }
        let inside = &device.name;
        if inside.is_empty() {
            continue;
        }
        // The kernel takes one %d; it stands for the first free number.
        let template = inside.contains('%');
        if !is_name(inside) || template && inside.split('%').skip(1).ne(["d"]) {
            report.error(
                format_args!("linux.netDevices{key}.name"),
                format_args!("{} cannot be the name of a network device", Quoted(inside)),
                CLAUSE,
                "write 1 to 15 bytes without /, : and spaces; %d may stand at the end",
            );
        }
        let twin = linux.net_devices.iter().find(|(other, twin)| {
            let name = if twin.name.is_empty() {
                other
            } else {
                &twin.name
            };
            *other != outside && name == inside
        });
        if let Some((other, _)) = twin
            && !template
        {
            report.error(
                format_args!("linux.netDevices{key}.name"),
                format_args!(
                    "{} is also the name of the device {}",
                    Quoted(inside),
                    Quoted(other)
                ),
                CLAUSE,
                "choose another name, or end it in %d",
            );
        }
    }
}

/// The kernel's rule for names of network devices (`dev_valid_name`).
fn is_name(name: &str) -> bool {
    (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name
            .bytes()
            .any(|byte| matches!(byte, b'/' | b':' | 0 | 0x0b) || byte.is_ascii_whitespace())
}
