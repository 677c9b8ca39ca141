//! `linux.resources` as values for the files of cgroup v1.
//!
//! Belongs here: file names, units and limits of v1. Does not: device rules
//! (`devices`) and writing. File formats: Documentation/admin-guide/cgroup-v1
//! of the kernel.
//!
//! Two fields do nothing, on purpose: `memory.useHierarchy` (since Linux 5.11
//! every cgroup is hierarchical and the kernel refuses `false`) and
//! `memory.checkBeforeUpdate` (the v1 kernel always checks).

use super::super::hierarchy::Controller;
use super::super::setting::Setting;
use crate::error::{Error, Result};
use crate::spec::resources::{BlockIo, Cpu, Memory, Network, Resources, ThrottleDevice};

/// Range of `cpu.shares`; the kernel would silently move a value into it.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

const GROUP_RT: u8 = 1;
const GROUP_CFS: u8 = 2;
const GROUP_IDLE: u8 = 3;
const GROUP_MEMORY: u8 = 4;

/// All settings but device rules, in the order in which they are written.
/// `fresh` says that the cgroup was just made, so that defaults need not be written.
///
/// # Errors
/// A value outside its range, with its JSON path.
pub(in super::super) fn settings<'a>(
    resources: &'a Resources<'_>,
    fresh: bool,
) -> Result<Vec<Setting<'a>>> {
    let mut list = Vec::with_capacity(16);
    if let Some(cpu) = &resources.cpu {
        cpu_settings(cpu, &mut list)?;
    }
    if let Some(memory) = &resources.memory {
        memory_settings(memory, fresh, &mut list)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        list.push(Setting::new(
            Controller::Pids,
            "pids.max",
            limit_or_max(limit),
            "pids.limit",
        ));
    }
    if let Some(block_io) = &resources.block_io {
        block_io_settings(block_io, &mut list);
    }
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let size = page_size(&limit.page_size, index)?;
        let field = format!("hugepageLimits[{index}].limit");
        let value = limit.limit.to_string();
        for (file, may_miss) in [
            (format!("hugetlb.{size}.limit_in_bytes"), false),
            // Accounting of reservations exists since Linux 5.7.
            (format!("hugetlb.{size}.rsvd.limit_in_bytes"), true),
        ] {
            list.push(
                Setting::new(Controller::Hugetlb, file, value.clone(), field.clone())
                    .may_miss(may_miss),
            );
        }
    }
    if let Some(network) = &resources.network {
        network_settings(network, &mut list)?;
    }
    rdma_settings(resources, &mut list)?;
    Ok(list)
}

/// A number as decimal text, with every negative one as `max`.
pub(in super::super) fn limit_or_max(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

/// A page size that may stand in a file name.
///
/// # Errors
/// Anything but a number and a unit: a slash would reach other files.
pub(in super::super) fn page_size<'a>(size: &'a str, index: usize) -> Result<&'a str> {
    let digits = size.trim_start_matches(|c: char| c.is_ascii_digit());
    if digits.len() < size.len() && matches!(digits, "KB" | "MB" | "GB" | "TB" | "PB" | "EB") {
        Ok(size)
    } else {
        Err(Error::config(
            format!("linux.resources.hugepageLimits[{index}].pageSize"),
            format!("{size:?} is not of the form 64KB, 2MB or 1GB"),
        ))
    }
}

fn cpu_settings<'a>(cpu: &'a Cpu<'_>, list: &mut Vec<Setting<'a>>) -> Result<()> {
    let mut add = |file: &'static str, value: String, field: &'static str, group: u8| {
        list.push(Setting::new(Controller::Cpu, file, value, field).group(group));
    };
    check_burst(cpu)?;
    if let Some(period) = cpu.realtime_period.filter(|period| *period != 0) {
        add(
            "cpu.rt_period_us",
            period.to_string(),
            "cpu.realtimePeriod",
            GROUP_RT,
        );
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|runtime| *runtime != 0) {
        add(
            "cpu.rt_runtime_us",
            runtime.to_string(),
            "cpu.realtimeRuntime",
            GROUP_RT,
        );
    }
    if let Some(burst) = cpu.burst {
        add(
            "cpu.cfs_burst_us",
            burst.to_string(),
            "cpu.burst",
            GROUP_CFS,
        );
    }
    if let Some(period) = cpu.period.filter(|period| *period != 0) {
        add(
            "cpu.cfs_period_us",
            period.to_string(),
            "cpu.period",
            GROUP_CFS,
        );
    }
    if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
        let quota = quota.max(-1);
        add(
            "cpu.cfs_quota_us",
            quota.to_string(),
            "cpu.quota",
            GROUP_CFS,
        );
    }
    if let Some(idle) = cpu.idle {
        add("cpu.idle", idle.to_string(), "cpu.idle", GROUP_IDLE);
    }
    // An idle cgroup has the least weight there is, and the kernel refuses another.
    if let Some(shares) = cpu
        .shares
        .filter(|shares| *shares != 0 && cpu.idle != Some(1))
    {
        if !SHARES.contains(&shares) {
            return Err(Error::config(
                "linux.resources.cpu.shares",
                format!(
                    "{shares} is outside of {} to {}",
                    SHARES.start(),
                    SHARES.end()
                ),
            ));
        }
        add("cpu.shares", shares.to_string(), "cpu.shares", GROUP_IDLE);
    }
    for (file, value, field) in [
        ("cpuset.cpus", &cpu.cpus, "cpu.cpus"),
        ("cpuset.mems", &cpu.mems, "cpu.mems"),
    ] {
        if !value.is_empty() {
            list.push(Setting::new(
                Controller::Cpuset,
                file,
                value.as_str(),
                field,
            ));
        }
    }
    Ok(())
}

/// config-linux.md, CPU: "this value MUST be no larger than any positive `quota`".
pub(in super::super) fn check_burst(cpu: &Cpu<'_>) -> Result<()> {
    if let (Some(burst), Some(quota)) = (cpu.burst, cpu.quota)
        && u64::try_from(quota).is_ok_and(|quota| quota > 0 && burst > quota)
    {
        return Err(Error::config(
            "linux.resources.cpu.burst",
            format!("{burst} is larger than the quota {quota}"),
        ));
    }
    Ok(())
}

fn memory_settings(memory: &Memory, fresh: bool, list: &mut Vec<Setting<'_>>) -> Result<()> {
    let mut add = |file: &'static str, value: String, field: &'static str, group: u8| {
        list.push(Setting::new(Controller::Memory, file, value, field).group(group));
    };
    let limit = memory.limit.filter(|limit| *limit != 0);
    // Without a limit of memory none of memory and swap can be meant.
    let swap = memory
        .swap
        .filter(|swap| *swap != 0)
        .or_else(|| limit.filter(|limit| *limit == -1 && !fresh));
    if let Some(limit) = limit {
        add(
            "memory.limit_in_bytes",
            limit.to_string(),
            "memory.limit",
            GROUP_MEMORY,
        );
    }
    if let Some(swap) = swap {
        add(
            "memory.memsw.limit_in_bytes",
            swap.to_string(),
            "memory.swap",
            GROUP_MEMORY,
        );
    }
    if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
        add(
            "memory.soft_limit_in_bytes",
            reservation.to_string(),
            "memory.reservation",
            0,
        );
    }
    // Linux 5.16 and newer take the value and limit nothing by it.
    if let Some(kernel) = memory.kernel.filter(|value| *value != 0) {
        add(
            "memory.kmem.limit_in_bytes",
            kernel.to_string(),
            "memory.kernel",
            0,
        );
    }
    if let Some(tcp) = memory.kernel_tcp.filter(|value| *value != 0) {
        add(
            "memory.kmem.tcp.limit_in_bytes",
            tcp.to_string(),
            "memory.kernelTCP",
            0,
        );
    }
    if let Some(disable) = memory.disable_oom_killer
        && (disable || !fresh)
    {
        add(
            "memory.oom_control",
            u8::from(disable).to_string(),
            "memory.disableOOMKiller",
            0,
        );
    }
    if let Some(swappiness) = memory.swappiness {
        if swappiness > 100 {
            return Err(Error::config(
                "linux.resources.memory.swappiness",
                format!("{swappiness} is not between 0 and 100"),
            ));
        }
        add(
            "memory.swappiness",
            swappiness.to_string(),
            "memory.swappiness",
            0,
        );
    }
    Ok(())
}

fn block_io_settings(block_io: &BlockIo, list: &mut Vec<Setting<'_>>) {
    // BFQ has files of its own; only the CFQ scheduler of old kernels had leaf weights.
    let mut add =
        |file: &'static str, instead: Option<&'static str>, value: String, field: String| {
            let setting = Setting::new(Controller::Blkio, file, value, field);
            list.push(match instead {
                Some(instead) => {
                    let value = setting.value.clone();
                    setting.or(instead, value)
                }
                None => setting,
            });
        };
    if let Some(weight) = block_io.weight.filter(|weight| *weight != 0) {
        add(
            "blkio.weight",
            Some("blkio.bfq.weight"),
            weight.to_string(),
            "blockIO.weight".to_owned(),
        );
    }
    if let Some(weight) = block_io.leaf_weight.filter(|weight| *weight != 0) {
        add(
            "blkio.leaf_weight",
            None,
            weight.to_string(),
            "blockIO.leafWeight".to_owned(),
        );
    }
    for (index, device) in block_io.weight_device.iter().enumerate() {
        let field = |name: &str| format!("blockIO.weightDevice[{index}].{name}");
        let number = format!("{}:{}", device.major, device.minor);
        if let Some(weight) = device.weight {
            add(
                "blkio.weight_device",
                Some("blkio.bfq.weight_device"),
                format!("{number} {weight}"),
                field("weight"),
            );
        }
        if let Some(weight) = device.leaf_weight {
            add(
                "blkio.leaf_weight_device",
                None,
                format!("{number} {weight}"),
                field("leafWeight"),
            );
        }
    }
    for (file, name, devices) in throttles(block_io) {
        for (index, device) in devices.iter().enumerate() {
            add(
                file,
                None,
                format!("{}:{} {}", device.major, device.minor, device.rate),
                format!("blockIO.{name}[{index}]"),
            );
        }
    }
}

type Throttle<'a> = (&'static str, &'static str, &'a [ThrottleDevice]);

fn throttles(block_io: &BlockIo) -> [Throttle<'_>; 4] {
    [
        (
            "blkio.throttle.read_bps_device",
            "throttleReadBpsDevice",
            &block_io.throttle_read_bps_device,
        ),
        (
            "blkio.throttle.write_bps_device",
            "throttleWriteBpsDevice",
            &block_io.throttle_write_bps_device,
        ),
        (
            "blkio.throttle.read_iops_device",
            "throttleReadIOPSDevice",
            &block_io.throttle_read_iops_device,
        ),
        (
            "blkio.throttle.write_iops_device",
            "throttleWriteIOPSDevice",
            &block_io.throttle_write_iops_device,
        ),
    ]
}

fn network_settings<'a>(network: &'a Network<'_>, list: &mut Vec<Setting<'a>>) -> Result<()> {
    if let Some(class) = network.class_id.filter(|class| *class != 0) {
        list.push(Setting::new(
            Controller::NetCls,
            "net_cls.classid",
            class.to_string(),
            "network.classID",
        ));
    }
    for (index, priority) in network.priorities.iter().enumerate() {
        let field = format!("network.priorities[{index}]");
        if priority.name.is_empty() || priority.name.contains(char::is_whitespace) {
            return Err(Error::config(
                format!("linux.resources.{field}.name"),
                format!("{:?} is no interface name", priority.name),
            ));
        }
        list.push(Setting::new(
            Controller::NetPrio,
            "net_prio.ifpriomap",
            format!("{} {}", priority.name, priority.priority),
            field,
        ));
    }
    Ok(())
}

/// rdma.max has the same form in both versions.
///
/// # Errors
/// An entry that limits nothing, or a name that would break the line.
pub(in super::super) fn rdma_settings<'a>(
    resources: &'a Resources<'_>,
    list: &mut Vec<Setting<'a>>,
) -> Result<()> {
    for (device, limits) in &resources.rdma {
        let field = format!("rdma.{device}");
        if device.is_empty() || device.contains(char::is_whitespace) {
            return Err(Error::config(
                format!("linux.resources.{field}"),
                "the key is no device name",
            ));
        }
        let mut value = device.as_str().to_owned();
        for (name, limit) in [
            ("hca_handle", limits.hca_handles),
            ("hca_object", limits.hca_objects),
        ] {
            if let Some(limit) = limit {
                value.push_str(&format!(" {name}={limit}"));
            }
        }
        if value.len() == device.len() {
            return Err(Error::config(
                format!("linux.resources.{field}"),
                "neither hcaHandles nor hcaObjects is given",
            ));
        }
        list.push(Setting::new(Controller::Rdma, "rdma.max", value, field));
    }
    Ok(())
}
