//! What a unit is told: the limits once more, in systemd's terms.
//!
//! The values are also written to the cgroup's files directly. systemd writes
//! its own over them whenever it reloads its configuration or starts a
//! neighbour, so it must know the same ones.

use super::super::devices::{DeviceKind, MKNOD, Merged, READ, Rule, WRITE};
use super::super::file;
use super::super::v2::resources::{swap_max, weight};
use super::gvariant;
use super::wire::Value;
use crate::error::{Error, Result};
use crate::spec::Text;
use crate::spec::resources::Resources;

type Properties = Vec<(String, Value)>;

/// CPUWeight of an idle cgroup, and the version of systemd that has it.
const IDLE: u64 = 0;
const IDLE_SINCE: u32 = 252;
/// The version of systemd whose scopes have OOMPolicy and MemoryZSwapMax.
const OOM_POLICY_SINCE: u32 = 253;

fn amount(value: i64) -> Value {
    Value::U64(u64::try_from(value).unwrap_or(u64::MAX))
}

/// Properties for the limits of `linux.resources`; those that systemd has no
/// property for are left to the cgroup's files, which Delegate=yes leaves to us.
///
/// `version` asks for systemd's, where it matters.
///
/// # Errors
/// A CPU list that is none; those of `version`.
pub(super) fn limits(
    resources: &Resources<'_>,
    v2: bool,
    mut version: impl FnMut() -> Result<u32>,
) -> Result<Properties> {
    let mut list = Properties::new();
    let mut add = |name: &str, value: Value| list.push((name.to_owned(), value));
    if let Some(memory) = &resources.memory {
        if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
            add(if v2 { "MemoryMax" } else { "MemoryLimit" }, amount(limit));
        }
        if v2 {
            if let Some(low) = memory.reservation.filter(|value| *value != 0) {
                add("MemoryLow", amount(low));
            }
            if let Some(swap) = swap_max(memory)? {
                add(
                    "MemorySwapMax",
                    Value::U64(swap.parse().unwrap_or(u64::MAX)),
                );
            }
        }
    }
    if let Some(cpu) = &resources.cpu {
        if v2 && cpu.idle == Some(1) && version()? >= IDLE_SINCE {
            add("CPUWeight", Value::U64(IDLE));
        }
        // An idle cgroup has no weight to speak of.
        if let Some(shares) = cpu
            .shares
            .filter(|shares| *shares != 0 && cpu.idle != Some(1))
        {
            if v2 {
                add("CPUWeight", Value::U64(weight(shares)));
            } else {
                add("CPUShares", Value::U64(shares));
            }
        }
        let period = cpu.period.filter(|period| *period != 0);
        if let Some(period) = period {
            add("CPUQuotaPeriodUSec", Value::U64(period));
        }
        if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
            add(
                "CPUQuotaPerSecUSec",
                Value::U64(quota_per_second(quota, period.unwrap_or(100_000))),
            );
        }
        if v2 {
            for (name, text, field) in [
                ("AllowedCPUs", &cpu.cpus, "cpus"),
                ("AllowedMemoryNodes", &cpu.mems, "mems"),
            ] {
                if !text.is_empty() {
                    let mask = bit_mask(text).ok_or_else(|| {
                        Error::config(
                            format!("linux.resources.cpu.{field}"),
                            format!("{text:?} is no list such as 0-3,7"),
                        )
                    })?;
                    add(name, mask);
                }
            }
        }
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        // systemd refuses 0; the file gets it.
        add("TasksMax", amount(if limit == 0 { 1 } else { limit }));
    }
    if let Some(block_io) = &resources.block_io
        && let Some(weight) = block_io.weight.filter(|weight| *weight != 0)
        && !v2
    {
        add("BlockIOWeight", Value::U64(weight.into()));
    }
    unified(resources, version, &mut list)?;
    Ok(list)
}

/// IOWeight, which systemd writes into io.weight and, converted, into io.bfq.weight: what makes
/// it arrive at `weight` (10 to 1000) in the one that counts.
pub(super) fn io_weight(weight: u16, bfq: bool) -> (String, Value) {
    let weight = u64::from(weight);
    let value = match weight {
        _ if !bfq => 1 + weight.saturating_sub(10) * 9999 / 990,
        // 1 to 100 stay, and 1000 comes from 10000.
        0..=100 => weight,
        _ => 100 + (weight - 100) * 11,
    };
    ("IOWeight".to_owned(), Value::U64(value))
}

/// Keys of `unified` that have a property; a later value of the same property wins.
fn unified(
    resources: &Resources<'_>,
    mut version: impl FnMut() -> Result<u32>,
    list: &mut Properties,
) -> Result<()> {
    for (key, value) in &resources.unified {
        let number = || match value.trim() {
            "max" => Some(u64::MAX),
            text => text.parse().ok(),
        };
        let name = match key.as_str() {
            "memory.max" => "MemoryMax",
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.min" => "MemoryMin",
            "memory.swap.max" => "MemorySwapMax",
            "memory.zswap.max" if version()? >= OOM_POLICY_SINCE => "MemoryZSwapMax",
            "memory.oom.group" => {
                // The kernel's way to kill all; what systemd does then comes to the same.
                if value.trim() == "1" && version()? >= OOM_POLICY_SINCE {
                    list.push(("OOMPolicy".into(), Value::str("kill")));
                }
                continue;
            }
            "cpu.idle" => {
                if value.trim() == "1" && version()? >= IDLE_SINCE {
                    list.push(("CPUWeight".into(), Value::U64(IDLE)));
                }
                continue;
            }
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpu.max" => {
                let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
                if let (Ok(quota), Ok(period)) = (quota.parse(), period.trim().parse::<u64>())
                    && period != 0
                {
                    list.push(("CPUQuotaPeriodUSec".into(), Value::U64(period)));
                    list.push((
                        "CPUQuotaPerSecUSec".into(),
                        Value::U64(quota_per_second(quota, period)),
                    ));
                }
                continue;
            }
            "cpuset.cpus" | "cpuset.mems" => {
                let name = if key.as_str() == "cpuset.cpus" {
                    "AllowedCPUs"
                } else {
                    "AllowedMemoryNodes"
                };
                if let Some(mask) = bit_mask(value) {
                    list.push((name.into(), mask));
                }
                continue;
            }
            _ => continue,
        };
        if let Some(number) = number().filter(|number| *number != 0 || name != "TasksMax") {
            list.push((name.into(), Value::U64(number)));
        }
    }
    Ok(())
}

/// CPU time in a second, rounded up to the hundredths that systemd keeps.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    let Ok(quota) = u64::try_from(quota) else {
        return u64::MAX;
    };
    let usec = u128::from(quota) * 1_000_000 / u128::from(period.max(1));
    u64::try_from(usec.next_multiple_of(10_000)).unwrap_or(u64::MAX)
}

/// A list such as `0-3,7` as bytes of a bit mask, the lowest first.
fn bit_mask(list: &str) -> Option<Value> {
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last > 8191 {
            return None;
        }
        for bit in first..=last {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            *bytes.get_mut(bit / 8)? |= 1 << (bit % 8);
        }
    }
    Some(Value::Array(
        "y".into(),
        bytes.into_iter().map(Value::Byte).collect(),
    ))
}

/// Device rules as DevicePolicy and DeviceAllow. On v2 they stand beside our own
/// filter and may be wider than it; on v1 they replace ours when systemd reloads.
pub(super) fn devices(merged: &Merged, v2: bool) -> Properties {
    let mut entries = Vec::new();
    let policy = if merged.default_allow {
        "auto"
    } else {
        "strict"
    };
    if !merged.default_allow {
        let table = file::read_path("/proc/devices").unwrap_or_default();
        for rule in &merged.exceptions {
            if let Some(name) = device_name(rule, &table, v2) {
                let mut access = String::new();
                for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
                    if rule.access & bit != 0 {
                        access.push(letter);
                    }
                }
                entries.push(Value::Struct(vec![Value::str(name), Value::str(access)]));
            }
        }
    }
    vec![
        ("DevicePolicy".into(), Value::str(policy)),
        ("DeviceAllow".into(), Value::Array("(ss)".into(), entries)),
    ]
}

/// How systemd names the devices of a rule.
fn device_name(rule: &Rule, table: &str, wider: bool) -> Option<String> {
    let (kind, heading) = match rule.kind? {
        DeviceKind::Char => ("char", "Character devices:"),
        DeviceKind::Block => ("block", "Block devices:"),
    };
    let everything = format!("{kind}-*");
    match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (None, None) => Some(everything),
        (Some(major), None) => {
            let group = table
                .lines()
                .skip_while(|line| *line != heading)
                .skip(1)
                .take_while(|line| !line.is_empty())
                .filter_map(|line| line.trim().split_once(' '))
                .find(|(number, _)| number.parse() == Ok(major))
                .map(|(_, name)| format!("{kind}-{}", name.trim()));
            group.or(wider.then_some(everything))
        }
        (None, Some(_)) => wider.then_some(everything),
    }
}

/// The annotations `org.systemd.property.NAME`. Seconds in `XxxSec` become
/// microseconds in `XxxUSec`, the form that the bus knows.
///
/// # Errors
/// A name that is no property's, or a value that cannot be read.
pub(super) fn annotations<'a>(
    annotations: impl Iterator<Item = (&'a Text<'a>, &'a Text<'a>)>,
) -> Result<Properties> {
    let mut list = Properties::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix("org.systemd.property.") else {
            continue;
        };
        let bad = |why: String| Error::config(format!("annotations.{}", &**key), why);
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(bad(
                "the name of a unit's property has three letters or more and nothing else".into(),
            ));
        }
        let value = gvariant::parse(text).map_err(bad)?;
        // "USec" itself ends in "Sec".
        let seconds = name
            .strip_suffix("Sec")
            .filter(|stem| stem.ends_with(|letter: char| letter.is_ascii_lowercase()));
        match seconds {
            None => list.push((name.to_owned(), value)),
            Some(stem) => {
                let value =
                    microseconds(&value).ok_or_else(|| bad("not a number of seconds".into()))?;
                list.push((format!("{stem}USec"), Value::U64(value)));
            }
        }
    }
    Ok(list)
}

fn microseconds(value: &Value) -> Option<u64> {
    let whole: u64 = match value {
        Value::Byte(number) => (*number).into(),
        Value::U16(number) => (*number).into(),
        Value::U32(number) => (*number).into(),
        Value::U64(number) => *number,
        Value::I16(number) => u64::try_from(*number).ok()?,
        Value::I32(number) => u64::try_from(*number).ok()?,
        Value::I64(number) => u64::try_from(*number).ok()?,
        Value::Double(number) => {
            let duration = std::time::Duration::try_from_secs_f64(*number).ok()?;
            return u64::try_from(duration.as_micros()).ok();
        }
        _ => return None,
    };
    whole.checked_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::super::devices;
    use super::*;

    #[test]
    fn limits_of_both_versions() {
        let resources: Resources<'_> = serde_json::from_str(
            r#"{"memory":{"limit":1000,"swap":3000,"reservation":5},
                "cpu":{"shares":1024,"quota":25000,"period":50000,"cpus":"0-1,9"},"pids":{"limit":0}}"#,
        )
        .unwrap();
        let mask = Value::Array("y".into(), vec![Value::Byte(3), Value::Byte(2)]);
        let names = |list: &[(&str, Value)]| -> Properties {
            list.iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect()
        };
        assert_eq!(
            limits(&resources, true, || Ok(257)).unwrap(),
            names(&[
                ("MemoryMax", Value::U64(1000)),
                ("MemoryLow", Value::U64(5)),
                ("MemorySwapMax", Value::U64(2000)),
                ("CPUWeight", Value::U64(100)),
                ("CPUQuotaPeriodUSec", Value::U64(50_000)),
                ("CPUQuotaPerSecUSec", Value::U64(500_000)),
                ("AllowedCPUs", mask),
                ("TasksMax", Value::U64(1)),
            ])
        );
        assert_eq!(
            limits(&resources, false, || Ok(257))
                .unwrap()
                .first()
                .unwrap()
                .0,
            "MemoryLimit"
        );
        let idle: Resources<'_> = serde_json::from_str(
            r#"{"cpu":{"shares":512,"idle":1},"unified":{"memory.oom.group":"1"}}"#,
        )
        .unwrap();
        assert_eq!(
            limits(&idle, true, || Ok(257)).unwrap(),
            names(&[
                ("CPUWeight", Value::U64(0)),
                ("OOMPolicy", Value::str("kill"))
            ])
        );
        assert_eq!(limits(&idle, true, || Ok(251)).unwrap(), []);
        for (weight, bfq, expected) in [
            (10, true, 10),
            (100, true, 100),
            (321, true, 2531),
            (1000, true, 10_000),
            (10, false, 1),
            (1000, false, 10_000),
        ] {
            assert_eq!(io_weight(weight, bfq).1, Value::U64(expected), "{weight}");
        }
        assert_eq!(quota_per_second(33_333, 100_000), 340_000);
        assert_eq!(quota_per_second(-1, 100_000), u64::MAX);
    }

    #[test]
    fn names_devices_as_systemd_does() {
        let table = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  1 ramdisk\n";
        let name = |json: &str, wider| {
            let rules = devices::rules(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
            device_name(rules.first().unwrap(), table, wider)
        };
        let rule = |rest: &str| format!(r#"[{{"allow":true,"access":"r",{rest}}}]"#);
        for (rest, expected) in [
            (r#""type":"c","major":1,"minor":3"#, Some("/dev/char/1:3")),
            (r#""type":"b""#, Some("block-*")),
            (r#""type":"b","major":1"#, Some("block-ramdisk")),
            (r#""type":"c","major":136"#, Some("char-pts")),
            (r#""type":"c","major":77"#, None),
        ] {
            assert_eq!(name(&rule(rest), false).as_deref(), expected, "{rest}");
        }
        assert_eq!(
            name(&rule(r#""type":"c","major":77"#), true).as_deref(),
            Some("char-*")
        );
    }

    #[test]
    fn converts_seconds() {
        let text = |pairs: &[(&'static str, &'static str)]| -> Vec<(Text<'static>, Text<'static>)> {
            pairs
                .iter()
                .map(|(key, value)| (Text::from(*key), Text::from(*value)))
                .collect()
        };
        let pairs = text(&[
            ("org.systemd.property.TimeoutStopSec", "double 1.5"),
            ("org.systemd.property.RuntimeMaxUSec", "uint64 7"),
            ("org.systemd.property.CollectMode", "'inactive'"),
            ("other", "x"),
        ]);
        assert_eq!(
            annotations(pairs.iter().map(|(key, value)| (key, value))).unwrap(),
            [
                ("TimeoutStopUSec".to_owned(), Value::U64(1_500_000)),
                ("RuntimeMaxUSec".to_owned(), Value::U64(7)),
                ("CollectMode".to_owned(), Value::str("inactive")),
            ]
        );
        for (key, value) in [
            ("org.systemd.property.ab", "1"),
            ("org.systemd.property.A-b", "1"),
            ("org.systemd.property.Abc", "oops"),
            ("org.systemd.property.AbcSec", "'1'"),
        ] {
            let pairs = text(&[(key, value)]);
            assert!(
                annotations(pairs.iter().map(|(key, value)| (key, value))).is_err(),
                "{key}"
            );
        }
    }
}
