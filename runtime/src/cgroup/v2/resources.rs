//! `linux.resources` as values for the files of cgroup v2.
//!
//! Belongs here: what the fields, named after v1, come to on v2, and an error
//! for each that comes to nothing: config-linux.md, Unified: "If the conversion
//! is not possible the runtime MUST generate an error". Does not: writing.
//! File formats: Documentation/admin-guide/cgroup-v2.rst of the kernel.
//!
//! Fields that do nothing, on purpose: `memory.useHierarchy` (v2 is always
//! hierarchical), and values that mean "no limit" or "as it is" for something
//! that v2 does not have (`disableOOMKiller` false, `kernel` and `kernelTCP` -1).

use std::borrow::Cow;

use super::super::hierarchy::Controller;
use super::super::setting::Setting;
use super::super::v1::resources::{check_burst, limit_or_max, page_size, rdma_settings};
use crate::error::{Error, Result};
use crate::spec::resources::{BlockIo, Cpu, Memory, Resources};

const GROUP_CPU: u8 = 1;

fn set<'a>(
    file: impl Into<Cow<'a, str>>,
    value: impl Into<Cow<'a, str>>,
    field: impl Into<Cow<'a, str>>,
) -> Setting<'a> {
    Setting::new(Controller::Unified, file, value, field)
}

fn impossible<T>(field: &str, why: &str) -> Result<T> {
    Err(Error::unsupported(format!("linux.resources.{field}"), why))
}

/// All settings but device rules, `unified` last. `quota` is the one in force, as
/// cpu.max shows it, which a period alone must not change.
///
/// # Errors
/// A value outside its range, or a field that v2 has nothing for.
pub(in super::super) fn settings<'a>(
    resources: &'a Resources<'_>,
    quota: &str,
) -> Result<Vec<Setting<'a>>> {
    let mut list = Vec::with_capacity(16);
    if let Some(cpu) = &resources.cpu {
        cpu_settings(cpu, quota, &mut list)?;
    }
    if let Some(memory) = &resources.memory {
        memory_settings(memory, &mut list)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        list.push(set("pids.max", limit_or_max(limit), "pids.limit"));
    }
    if let Some(block_io) = &resources.block_io {
        block_io_settings(block_io, &mut list)?;
    }
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let size = page_size(&limit.page_size, index)?;
        let field = format!("hugepageLimits[{index}].limit");
        let value = limit.limit.to_string();
        list.push(set(
            format!("hugetlb.{size}.max"),
            value.clone(),
            field.clone(),
        ));
        list.push(set(format!("hugetlb.{size}.rsvd.max"), value, field).may_miss(true));
    }
    if let Some(network) = &resources.network {
        if network.class_id.is_some_and(|class| class != 0) {
            return impossible("network.classID", "cgroup v2 has no network classes");
        }
        if !network.priorities.is_empty() {
            return impossible("network.priorities", "cgroup v2 has no network priorities");
        }
    }
    rdma_settings(resources, &mut list)?;
    for setting in &mut list {
        setting.controller = Controller::Unified;
    }
    unified_settings(resources, &mut list)?;
    Ok(list)
}

/// Appends `unified`: files and contents as they are.
///
/// # Errors
/// A key that is no file name.
pub(in super::super) fn unified_settings<'a>(
    resources: &'a Resources<'_>,
    list: &mut Vec<Setting<'a>>,
) -> Result<()> {
    for (file, value) in &resources.unified {
        let field = format!("unified.{file}");
        if file.is_empty() || file.contains('/') || !file.contains('.') {
            return Err(Error::config(
                format!("linux.resources.{field}"),
                "the key is no file of a cgroup, such as memory.high",
            ));
        }
        if file.as_str() == "cgroup.procs" || file.as_str() == "cgroup.threads" {
            return Err(Error::config(
                format!("linux.resources.{field}"),
                "processes are not moved by a limit",
            ));
        }
        // Files such as io.max take one line a write.
        for line in value.split('\n').filter(|line| !line.is_empty()) {
            list.push(set(file.as_str(), line, field.clone()));
        }
    }
    Ok(())
}

/// `cpu.shares` (2 to 262144) as cpu.weight (1 to 10000): a curve through the
/// minima, the maxima and the defaults (1024, 100); 0 means unset.
pub(in super::super) fn weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        shares => {
            // Below 2^18, so that the conversions are exact.
            let log = f64::from(u32::try_from(shares).unwrap_or(262_144)).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            let weight = 10_f64.powf(exponent).ceil();
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the curve stays between 1 and 10000 for shares between 2 and 262144"
            )]
            let weight = weight as u64;
            weight.clamp(1, 10_000)
        }
    }
}

fn cpu_settings<'a>(cpu: &'a Cpu<'_>, now: &str, list: &mut Vec<Setting<'a>>) -> Result<()> {
    check_burst(cpu)?;
    for (given, field) in [
        (
            cpu.realtime_runtime.is_some_and(|time| time != 0),
            "cpu.realtimeRuntime",
        ),
        (
            cpu.realtime_period.is_some_and(|time| time != 0),
            "cpu.realtimePeriod",
        ),
    ] {
        if given {
            return impossible(field, "cgroup v2 has no limits for real-time tasks");
        }
    }
    if let Some(idle) = cpu.idle {
        list.push(set("cpu.idle", idle.to_string(), "cpu.idle"));
    }
    // An idle cgroup has the least weight there is, and the kernel refuses another.
    if let Some(shares) = cpu
        .shares
        .filter(|shares| *shares != 0 && cpu.idle != Some(1))
    {
        list.push(set("cpu.weight", weight(shares).to_string(), "cpu.shares"));
    }
    if let Some(burst) = cpu.burst {
        list.push(set("cpu.max.burst", burst.to_string(), "cpu.burst").group(GROUP_CPU));
    }
    if let Some(value) = cpu_max(cpu, now) {
        let field = if cpu.quota.is_some() {
            "cpu.quota"
        } else {
            "cpu.period"
        };
        list.push(set("cpu.max", value, field).group(GROUP_CPU));
    }
    for (file, value, field) in [
        ("cpuset.cpus", &cpu.cpus, "cpu.cpus"),
        ("cpuset.mems", &cpu.mems, "cpu.mems"),
    ] {
        if !value.is_empty() {
            list.push(set(file, value.as_str(), field));
        }
    }
    Ok(())
}

/// Quota and period as one line; the kernel keeps a period that is not written.
pub(in super::super) fn cpu_max(cpu: &Cpu<'_>, now: &str) -> Option<String> {
    let period = cpu.period.filter(|period| *period != 0);
    let quota = match cpu.quota.filter(|quota| *quota != 0) {
        Some(quota) => limit_or_max(quota),
        None => {
            period?;
            now.to_owned()
        }
    };
    Some(match period {
        Some(period) => format!("{quota} {period}"),
        None => quota,
    })
}

fn memory_settings(memory: &Memory, list: &mut Vec<Setting<'_>>) -> Result<()> {
    for (value, field) in [
        (memory.kernel, "memory.kernel"),
        (memory.kernel_tcp, "memory.kernelTCP"),
    ] {
        if value.is_some_and(|value| value > 0) {
            return impossible(field, "cgroup v2 counts kernel memory within memory.limit");
        }
    }
    if memory.swappiness.is_some() {
        return impossible(
            "memory.swappiness",
            "cgroup v2 has no swappiness of its own for a cgroup",
        );
    }
    if memory.disable_oom_killer == Some(true) {
        return impossible(
            "memory.disableOOMKiller",
            "cgroup v2 cannot disable the OOM killer",
        );
    }
    let swap = swap_max(memory)?;
    if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
        list.push(set("memory.max", limit_or_max(limit), "memory.limit"));
    }
    if let Some(swap) = swap {
        // Without swap accounting "0" and "max" come to the same as no file.
        let may_miss = swap == "max" || swap == "0";
        list.push(set("memory.swap.max", swap, "memory.swap").may_miss(may_miss));
    }
    if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
        list.push(set(
            "memory.low",
            limit_or_max(reservation),
            "memory.reservation",
        ));
    }
    Ok(())
}

/// memory.swap.max is swap alone; the specification's `swap` is memory and swap.
pub(in super::super) fn swap_max(memory: &Memory) -> Result<Option<String>> {
    let limit = memory.limit.filter(|limit| *limit != 0);
    let swap = memory.swap.filter(|swap| *swap != 0);
    let bad = |why: String| Err(Error::config("linux.resources.memory.swap", why));
    match (limit, swap) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some("max".to_owned())),
        (_, None) => Ok(None),
        (_, Some(swap)) if swap < 0 => bad(format!("{swap} is no amount (-1 means no limit)")),
        (Some(-1), Some(swap)) => Ok(Some(swap.to_string())),
        (None, Some(_)) => bad("memory and swap cannot be limited without memory.limit".to_owned()),
        (Some(limit), Some(swap)) if swap < limit => bad(format!(
            "{swap} is memory and swap, and less than memory.limit {limit}"
        )),
        (Some(limit), Some(swap)) => Ok(Some((swap - limit.max(0)).to_string())),
    }
}

fn block_io_settings(block_io: &BlockIo, list: &mut Vec<Setting<'_>>) -> Result<()> {
    if block_io.leaf_weight.is_some_and(|weight| weight != 0) {
        return impossible("blockIO.leafWeight", "cgroup v2 has no leaf weights");
    }
    if let Some(weight) = block_io.weight.filter(|weight| *weight != 0) {
        list.push(io_weight(weight.to_string(), "blockIO.weight".to_owned()));
    }
    for (index, device) in block_io.weight_device.iter().enumerate() {
        if device.leaf_weight.is_some_and(|weight| weight != 0) {
            return impossible(
                &format!("blockIO.weightDevice[{index}].leafWeight"),
                "cgroup v2 has no leaf weights",
            );
        }
        if let Some(weight) = device.weight {
            list.push(io_weight(
                format!("{}:{} {weight}", device.major, device.minor),
                format!("blockIO.weightDevice[{index}].weight"),
            ));
        }
    }
    for (key, name, devices) in [
        (
            "rbps",
            "throttleReadBpsDevice",
            &block_io.throttle_read_bps_device,
        ),
        (
            "wbps",
            "throttleWriteBpsDevice",
            &block_io.throttle_write_bps_device,
        ),
        (
            "riops",
            "throttleReadIOPSDevice",
            &block_io.throttle_read_iops_device,
        ),
        (
            "wiops",
            "throttleWriteIOPSDevice",
            &block_io.throttle_write_iops_device,
        ),
    ] {
        for (index, device) in devices.iter().enumerate() {
            // 0 ends a limit on v1.
            let rate = match device.rate {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            list.push(set(
                "io.max",
                format!("{}:{} {key}={rate}", device.major, device.minor),
                format!("blockIO.{name}[{index}]"),
            ));
        }
    }
    Ok(())
}

/// io.bfq.weight (10 to 1000) or, where that file is absent, io.weight (1 to
/// 10000); the number of a device before the weight is kept.
fn io_weight(bfq: String, field: String) -> Setting<'static> {
    let (device, weight) = match bfq.rsplit_once(' ') {
        Some((device, weight)) => (device, weight),
        None => ("default", bfq.as_str()),
    };
    let weight: u64 = weight.parse().unwrap_or(0);
    let weight = 1 + weight.saturating_sub(10) * 9999 / 990;
    let io = format!("{device} {weight}");
    Setting::new(Controller::Unified, "io.bfq.weight", bfq, field).or("io.weight", io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str) -> Result<Vec<(String, String)>> {
        let resources: Resources<'_> = serde_json::from_str(json).unwrap();
        Ok(settings(&resources, "max")?
            .into_iter()
            .map(|s| (s.file.into_owned(), s.value.into_owned()))
            .collect())
    }

    fn check(json: &str, expected: &[(&str, &str)]) {
        let list = list(json).unwrap();
        let list: Vec<_> = list.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(list, expected, "{json}");
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (102, 17),
            (512, 59),
            (1024, 100),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn cpu() {
        check(r#"{"cpu":{"quota":50000}}"#, &[("cpu.max", "50000")]);
        check(
            r#"{"cpu":{"quota":-1,"period":50000}}"#,
            &[("cpu.max", "max 50000")],
        );
        check(r#"{"cpu":{"shares":1024,"idle":1}}"#, &[("cpu.idle", "1")]);
        check(
            r#"{"cpu":{"burst":10,"quota":2000,"cpus":"0-1","mems":"0"}}"#,
            &[
                ("cpu.max.burst", "10"),
                ("cpu.max", "2000"),
                ("cpuset.cpus", "0-1"),
                ("cpuset.mems", "0"),
            ],
        );
    }

    #[test]
    fn memory() {
        check(
            r#"{"memory":{"limit":-1}}"#,
            &[("memory.max", "max"), ("memory.swap.max", "max")],
        );
        check(
            r#"{"memory":{"limit":1000,"swap":3000,"reservation":500}}"#,
            &[
                ("memory.max", "1000"),
                ("memory.swap.max", "2000"),
                ("memory.low", "500"),
            ],
        );
        check(
            r#"{"memory":{"limit":7,"swap":7}}"#,
            &[("memory.max", "7"), ("memory.swap.max", "0")],
        );
        check(
            r#"{"memory":{"limit":-1,"swap":9}}"#,
            &[("memory.max", "max"), ("memory.swap.max", "9")],
        );
        check(
            r#"{"memory":{"limit":5,"swap":-1}}"#,
            &[("memory.max", "5"), ("memory.swap.max", "max")],
        );
        check(
            r#"{"memory":{"disableOOMKiller":false,"kernel":-1,"useHierarchy":true}}"#,
            &[],
        );
    }

    #[test]
    fn the_rest() {
        check(r#"{"pids":{"limit":0}}"#, &[("pids.max", "0")]);
        check(r#"{"pids":{"limit":-1}}"#, &[("pids.max", "max")]);
        check(
            r#"{"blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#,
            &[
                ("io.bfq.weight", "500"),
                ("io.max", "8:0 rbps=600"),
                ("io.max", "8:16 wiops=max"),
            ],
        );
        check(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
            &[
                ("hugetlb.2MB.max", "4194304"),
                ("hugetlb.2MB.rsvd.max", "4194304"),
            ],
        );
        check(
            r#"{"rdma":{"m":{"hcaHandles":3,"hcaObjects":4}}}"#,
            &[("rdma.max", "m hca_handle=3 hca_object=4")],
        );
        check(
            r#"{"pids":{"limit":3},"unified":{"pids.max":"7","io.max":"8:0 rbps=1\n8:16 rbps=2"}}"#,
            &[
                ("pids.max", "3"),
                ("io.max", "8:0 rbps=1"),
                ("io.max", "8:16 rbps=2"),
                ("pids.max", "7"),
            ],
        );
        for (bfq, io) in [("10", "default 1"), ("8:0 1000", "8:0 10000")] {
            let setting = io_weight(bfq.to_owned(), String::new());
            assert_eq!(setting.instead.unwrap().1, io);
        }
    }

    #[test]
    fn names_the_field_that_v2_has_nothing_for() {
        for (json, field) in [
            (r#"{"memory":{"swap":5}}"#, "memory.swap"),
            (r#"{"memory":{"limit":9,"swap":5}}"#, "memory.swap"),
            (r#"{"memory":{"swappiness":60}}"#, "memory.swappiness"),
            (
                r#"{"memory":{"disableOOMKiller":true}}"#,
                "memory.disableOOMKiller",
            ),
            (r#"{"memory":{"kernel":5}}"#, "memory.kernel"),
            (r#"{"memory":{"kernelTCP":5}}"#, "memory.kernelTCP"),
            (r#"{"cpu":{"realtimeRuntime":5}}"#, "cpu.realtimeRuntime"),
            (r#"{"cpu":{"realtimePeriod":5}}"#, "cpu.realtimePeriod"),
            (r#"{"cpu":{"quota":5,"burst":6}}"#, "cpu.burst"),
            (r#"{"blockIO":{"leafWeight":5}}"#, "blockIO.leafWeight"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":5}]}}"#,
                "blockIO.weightDevice[0].leafWeight",
            ),
            (r#"{"network":{"classID":5}}"#, "network.classID"),
            (
                r#"{"network":{"priorities":[{"name":"a","priority":1}]}}"#,
                "network.priorities",
            ),
            (r#"{"rdma":{"m":{}}}"#, "rdma.m"),
            (
                r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#,
                "hugepageLimits[0].pageSize",
            ),
            (r#"{"unified":{"../x.y":"1"}}"#, "unified"),
            (r#"{"unified":{"cgroup.procs":"1"}}"#, "unified"),
        ] {
            let error = list(json).unwrap_err();
            assert!(error.to_string().starts_with("linux.resources."), "{error}");
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
