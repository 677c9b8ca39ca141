//! `linux.devices`, and the device rules of the cgroup.

use super::{Quoted, Report};
use crate::spec::linux::{Device, Linux};
use crate::spec::resources::DeviceRule;

const DEVICES: &str = "config-linux.md#devices";
const RULES: &str = "config-linux.md#allowed-device-list";

/// Device numbers have 12 bits (major) and 20 bits (minor), mknod(2).
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

pub(super) fn check(linux: &Linux<'_>, report: &mut Report) {
    for (at, device) in linux.devices.iter().enumerate() {
        one(at, device, report);
    }
    if linux.devices.len() > 1 {
        twice(&linux.devices, report);
    }
}

fn one(at: usize, device: &Device<'_>, report: &mut Report) {
    report.absolute(
        format_args!("linux.devices[{at}].path"),
        &device.path,
        DEVICES,
    );
    let known = report.one_of(
        format_args!("linux.devices[{at}].type"),
        &device.kind,
        &["c", "b", "u", "p"],
        "type of device",
        DEVICES,
    );
    if known && device.kind != "p" {
        for (name, number, max) in [
            ("major", device.major, MAX_MAJOR),
            ("minor", device.minor, MAX_MINOR),
        ] {
            match number {
                None => report.error(
                    format_args!("linux.devices[{at}].{name}"),
                    format_args!("is missing: a device of type {} needs it", device.kind),
                    DEVICES,
                    "write the number, see ls -l of the device on the host",
                ),
                Some(number) if !(0..=max).contains(&number) => report.error(
                    format_args!("linux.devices[{at}].{name}"),
                    format_args!("{number} is out of range"),
                    DEVICES,
                    &format!("write a number from 0 to {max}"),
                ),
                Some(_) => {}
            }
        }
    }
    // Callers copy st_mode, so the type of the file may stand in it.
    if let Some(mode) = device.file_mode
        && mode & !0o177_777 != 0
    {
        report.error(
            format_args!("linux.devices[{at}].fileMode"),
            format_args!("{mode} (octal {mode:o}) is no file mode"),
            DEVICES,
            "write the permission bits as a decimal number, such as 438 for octal 666",
        );
    }
    for (name, id) in [("uid", device.uid), ("gid", device.gid)] {
        if id == Some(u32::MAX) {
            report.error(
                format_args!("linux.devices[{at}].{name}"),
                format_args!("4294967295 (-1) is no id: the kernel reserves it"),
                DEVICES,
                "write an id up to 4294967294",
            );
        }
    }
}

/// Two devices at one path, and one device at two paths.
fn twice(devices: &[Device<'_>], report: &mut Report) {
    let identity = |device: &Device<'_>| {
        // "u" is another word for "c".
        let block = device.kind == "b";
        (device.kind != "p").then_some((block, device.major, device.minor))
    };
    let mut order: Vec<(usize, &Device<'_>)> = devices.iter().enumerate().collect();
    order.sort_by(|(_, one), (_, other)| one.path.cmp(&other.path));
    for pair in order.windows(2) {
        if let [(first, one), (second, other)] = pair
            && one.path == other.path
            && identity(one) != identity(other)
        {
            report.error(
                format_args!("linux.devices[{second}].path"),
                format_args!(
                    "{} is also the path of another device, linux.devices[{first}]",
                    Quoted(&other.path)
                ),
                DEVICES,
                "keep one of them",
            );
        }
    }
    order.sort_by_key(|(at, device)| (identity(device), *at));
    for pair in order.windows(2) {
        if let [(first, one), (second, other)] = pair
            && one.path != other.path
            && identity(one).is_some()
            && identity(one) == identity(other)
        {
            report.warn(
                format_args!("linux.devices[{second}]"),
                format_args!("the same device is also linux.devices[{first}]"),
                DEVICES,
                "keep one of them",
            );
        }
    }
}

pub(super) fn check_rules(rules: &[DeviceRule<'_>], report: &mut Report) {
    for (at, rule) in rules.iter().enumerate() {
        let all = matches!(&*rule.kind, "" | "a");
        if !all && rule.kind != "c" && rule.kind != "b" {
            report.one_of(
                format_args!("linux.resources.devices[{at}].type"),
                &rule.kind,
                &["a", "b", "c"],
                "type of device",
                RULES,
            );
        }
        for (name, number) in [("major", rule.major), ("minor", rule.minor)] {
            if let Some(number) = number
                && !(-1..=i64::from(u32::MAX)).contains(&number)
            {
                report.error(
                    format_args!("linux.resources.devices[{at}].{name}"),
                    format_args!("{number} is no device number"),
                    RULES,
                    "write the number, or -1 for all",
                );
            }
        }
        if rule
            .access
            .bytes()
            .any(|byte| !matches!(byte, b'r' | b'w' | b'm'))
        {
            report.error(
                format_args!("linux.resources.devices[{at}].access"),
                format_args!("{} is not made of r, w and m", Quoted(&rule.access)),
                RULES,
                "write some of r (read), w (write) and m (mknod)",
            );
        }
        // A rule for all devices means all access too. Elsewhere the
        // specification gives no meaning to a missing access.
        if rule.access.is_empty() && !(all && rule.major.is_none() && rule.minor.is_none()) {
            report.error(
                format_args!("linux.resources.devices[{at}].access"),
                format_args!("is missing or empty: the rule would have no effect"),
                RULES,
                "write some of r (read), w (write) and m (mknod)",
            );
        }
    }
}
