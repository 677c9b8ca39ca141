//! `linux.resources` and `linux.cgroupsPath`.

use super::devices::check_rules;
use super::{Context, Key, Quoted, Report};
use crate::spec::linux::Linux;
use crate::spec::ranges::ranges;
use crate::spec::resources::{BlockIo, Cpu, Memory, Resources};

const PATH: &str = "config-linux.md#cgroups-path";
const MEMORY: &str = "config-linux.md#memory";
const CPU: &str = "config-linux.md#cpu";
const BLOCK: &str = "config-linux.md#block-io";
const HUGE: &str = "config-linux.md#huge-page-limits";
const NETWORK: &str = "config-linux.md#network";
const PIDS: &str = "config-linux.md#pids";
const RDMA: &str = "config-linux.md#rdma";
const UNIFIED: &str = "config-linux.md#unified";

pub(super) fn check_path(linux: &Linux<'_>, context: &Context<'_>, report: &mut Report) {
    let path = &*linux.cgroups_path;
    if path.is_empty() {
        return;
    }
    report.no_nul(format_args!("linux.cgroupsPath"), path, PATH);
    if path.contains('\n') {
        report.error(
            format_args!("linux.cgroupsPath"),
            format_args!(
                "{} contains a line break, which the kernel refuses",
                Quoted(path)
            ),
            PATH,
            "remove it",
        );
    }
    if context.systemd_cgroup {
        if path.split(':').count() != 3 {
            report.error(
                format_args!("linux.cgroupsPath"),
                format_args!(
                    "{} is not made of three parts, as systemd's cgroups need",
                    Quoted(path)
                ),
                PATH,
                "write slice:prefix:name",
            );
        }
    } else if path.split('/').any(|part| part == "..") {
        report.error(
            format_args!("linux.cgroupsPath"),
            format_args!(
                "{} contains .., which could lead out of the cgroup tree",
                Quoted(path)
            ),
            PATH,
            "write the path without ..",
        );
    }
}

pub(super) fn check(resources: &Resources<'_>, report: &mut Report) {
    check_rules(&resources.devices, report);
    if let Some(value) = &resources.memory {
        memory(value, report);
    }
    if let Some(value) = &resources.cpu {
        cpu(value, report);
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit)
        && limit < -1
    {
        report.error(
            format_args!("linux.resources.pids.limit"),
            format_args!("{limit} is no number of tasks"),
            PIDS,
            "write a number from 0 on, or -1 for no limit",
        );
    }
    if let Some(value) = &resources.block_io {
        block_io(value, report);
    }
    for (at, limit) in resources.hugepage_limits.iter().enumerate() {
        if !is_page_size(&limit.page_size) {
            report.error(
                format_args!("linux.resources.hugepageLimits[{at}].pageSize"),
                format_args!("{} is no size of a page", Quoted(&limit.page_size)),
                HUGE,
                "write a number and KB, MB or GB, such as 2MB",
            );
        }
    }
    if let Some(network) = &resources.network {
        for (at, priority) in network.priorities.iter().enumerate() {
            let name = &priority.name;
            if name.is_empty() || name.contains(char::is_whitespace) {
                report.error(
                    format_args!("linux.resources.network.priorities[{at}].name"),
                    format_args!("{} cannot be the name of an interface", Quoted(name)),
                    NETWORK,
                    "write the interface's name on the host",
                );
            }
        }
    }
    for (device, limits) in &resources.rdma {
        let key = Key(device);
        if device.is_empty() || device.contains(char::is_whitespace) || device.contains('\0') {
            report.error(
                format_args!("linux.resources.rdma{key}"),
                format_args!("{} cannot be the name of an RDMA device", Quoted(device)),
                RDMA,
                "write the device's name, such as mlx5_1",
            );
        }
        if limits.hca_handles.is_none() && limits.hca_objects.is_none() {
            report.error(
                format_args!("linux.resources.rdma{key}"),
                format_args!("has neither hcaHandles nor hcaObjects"),
                RDMA,
                "set at least one of them",
            );
        }
    }
    for (file, value) in &resources.unified {
        let key = Key(file);
        // Every file of a cgroup has the name of its controller before a dot.
        if !file.contains('.') || file.contains(['/', '\0', '\n']) || matches!(&**file, "." | "..")
        {
            report.error(
                format_args!("linux.resources.unified{key}"),
                format_args!("{} is not the name of a file in a cgroup", Quoted(file)),
                UNIFIED,
                "write the file's name alone, such as memory.high",
            );
        }
        if matches!(&**file, "cgroup.procs" | "cgroup.threads") {
            report.error(
                format_args!("linux.resources.unified{key}"),
                format_args!("moves processes, and is no limit"),
                UNIFIED,
                "remove it",
            );
        }
        report.no_nul(format_args!("linux.resources.unified{key}"), value, UNIFIED);
    }
}

fn memory(memory: &Memory, report: &mut Report) {
    for (name, value) in [
        ("limit", memory.limit),
        ("reservation", memory.reservation),
        ("swap", memory.swap),
        ("kernel", memory.kernel),
        ("kernelTCP", memory.kernel_tcp),
    ] {
        if let Some(value) = value
            && value < -1
        {
            report.error(
                format_args!("linux.resources.memory.{name}"),
                format_args!("{value} is no number of bytes"),
                MEMORY,
                "write the bytes, or -1 for no limit",
            );
        }
    }
    if let (Some(limit), Some(swap)) = (memory.limit, memory.swap)
        && swap > 0
        && limit > swap
    {
        report.error(
            format_args!("linux.resources.memory.swap"),
            format_args!(
                "{swap} is less than the limit {limit}: it limits memory and swap together"
            ),
            MEMORY,
            "write a value from the limit on, or -1 for no limit",
        );
    }
    if let Some(swappiness) = memory.swappiness
        && swappiness > 100
    {
        report.error(
            format_args!("linux.resources.memory.swappiness"),
            format_args!("{swappiness} is out of range"),
            MEMORY,
            "write a number from 0 to 100",
        );
    }
}

fn cpu(cpu: &Cpu<'_>, report: &mut Report) {
    // The kernel takes periods from 1 ms to 1 s; 0 counts as unset.
    if let Some(period) = cpu.period
        && period != 0
        && !(1000..=1_000_000).contains(&period)
    {
        report.error(
            format_args!("linux.resources.cpu.period"),
            format_args!("{period} microseconds are refused by the kernel"),
            CPU,
            "write a number from 1000 to 1000000",
        );
    }
    if let Some(quota) = cpu.quota {
        if (1..1000).contains(&quota) {
            report.error(
                format_args!("linux.resources.cpu.quota"),
                format_args!("{quota} microseconds are refused by the kernel"),
                CPU,
                "write a number from 1000 on, or -1 for no limit",
            );
        }
        if let (Some(burst), Ok(limit)) = (cpu.burst, u64::try_from(quota))
            && limit != 0
            && burst > limit
        {
            report.error(
                format_args!("linux.resources.cpu.burst"),
                format_args!("{burst} is more than the quota {quota}"),
                CPU,
                "write a number up to the quota",
            );
        }
    }
    if let (Some(runtime), Some(period)) = (cpu.realtime_runtime, cpu.realtime_period)
        && period != 0
        && u64::try_from(runtime).is_ok_and(|runtime| runtime > period)
    {
        report.error(
            format_args!("linux.resources.cpu.realtimeRuntime"),
            format_args!("{runtime} is more than the period {period}"),
            CPU,
            "write a number up to realtimePeriod",
        );
    }
    if let Some(idle) = cpu.idle
        && idle != 0
        && idle != 1
    {
        report.error(
            format_args!("linux.resources.cpu.idle"),
            format_args!("{idle} is neither 0 nor 1"),
            CPU,
            "write 1 for SCHED_IDLE, 0 otherwise",
        );
    }
    for (name, list, what) in [
        ("cpus", &cpu.cpus, "CPU"),
        ("mems", &cpu.mems, "memory node"),
    ] {
        if let Some(wrong) = ranges(list).find_map(Result::err) {
            report.error(
                format_args!("linux.resources.cpu.{name}"),
                format_args!("{} is neither a {what} nor a range of them", Quoted(wrong)),
                CPU,
                "write a list such as 0-3,7",
            );
        }
    }
}

fn block_io(block: &BlockIo, report: &mut Report) {
    let mut weight = |path: std::fmt::Arguments<'_>, weight: Option<u16>| {
        // 0 counts as unset.
        if let Some(weight) = weight
            && weight != 0
            && !(10..=1000).contains(&weight)
        {
            report.error(
                path,
                format_args!("{weight} is out of range"),
                BLOCK,
                "write a number from 10 to 1000",
            );
        }
    };
    weight(format_args!("linux.resources.blockIO.weight"), block.weight);
    weight(
        format_args!("linux.resources.blockIO.leafWeight"),
        block.leaf_weight,
    );
    for (at, device) in block.weight_device.iter().enumerate() {
        weight(
            format_args!("linux.resources.blockIO.weightDevice[{at}].weight"),
            device.weight,
        );
        weight(
            format_args!("linux.resources.blockIO.weightDevice[{at}].leafWeight"),
            device.leaf_weight,
        );
    }
    for (at, device) in block.weight_device.iter().enumerate() {
        if device.weight.is_none() && device.leaf_weight.is_none() {
            report.error(
                format_args!("linux.resources.blockIO.weightDevice[{at}]"),
                format_args!("has neither weight nor leafWeight"),
                BLOCK,
                "set at least one of them",
            );
        }
        number(
            format_args!("linux.resources.blockIO.weightDevice[{at}]"),
            device.major,
            device.minor,
            report,
        );
    }
    for (name, list) in [
        ("throttleReadBpsDevice", &block.throttle_read_bps_device),
        ("throttleWriteBpsDevice", &block.throttle_write_bps_device),
        ("throttleReadIOPSDevice", &block.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", &block.throttle_write_iops_device),
    ] {
        for (at, device) in list.iter().enumerate() {
            number(
                format_args!("linux.resources.blockIO.{name}[{at}]"),
                device.major,
                device.minor,
                report,
            );
        }
    }
}

fn number(path: std::fmt::Arguments<'_>, major: i64, minor: i64, report: &mut Report) {
    if major < 0 || minor < 0 || major > i64::from(u32::MAX) || minor > i64::from(u32::MAX) {
        report.error(
            path,
            format_args!("{major}:{minor} is no block device"),
            BLOCK,
            "write the numbers that ls -l shows for the device",
        );
    }
}

/// `[1-9][0-9]*[KMG]B`.
fn is_page_size(text: &str) -> bool {
    let number = text
        .strip_suffix('B')
        .and_then(|text| text.strip_suffix(['K', 'M', 'G']));
    number.is_some_and(|number| {
        !number.is_empty()
            && !number.starts_with('0')
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
