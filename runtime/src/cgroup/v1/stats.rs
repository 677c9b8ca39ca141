//! Usage figures from the files of cgroup v1.

use super::super::file;
use super::super::hierarchy::Controller;
use super::super::stats::{
    BlkioEntry, CpusetStats, HugetlbStats, Stats, Usage, number, page_sizes, psi, rdma, table,
};
use super::super::v2::stats::hugetlb;
use super::V1;

/// Ticks of cpuacct.stat in a second; the kernel's interface fixes it.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// All figures; a controller that is missing leaves zeros.
pub(super) fn read(manager: &V1) -> Stats {
    let mut stats = Stats::default();
    if let Some(dir) = manager.path(Controller::Cpuacct) {
        let usage = &mut stats.cpu.usage;
        usage.total = number(dir, "cpuacct.usage");
        for line in file::read(dir, "cpuacct.usage_all")
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            let mut fields = line
                .split(' ')
                .map(|word| word.parse::<u64>().unwrap_or(0))
                .skip(1);
            usage.percpu_user.push(fields.next().unwrap_or(0));
            usage.percpu_kernel.push(fields.next().unwrap_or(0));
        }
        usage.percpu = file::read(dir, "cpuacct.usage_percpu")
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let ticks = table(dir, "cpuacct.stat");
        let time = |key: &str| {
            ticks
                .get(key)
                .copied()
                .unwrap_or(0)
                .saturating_mul(NANOSECONDS_PER_TICK)
        };
        usage.user = time("user");
        usage.kernel = time("system");
    }
    if let Some(dir) = manager.path(Controller::Cpu) {
        let table = table(dir, "cpu.stat");
        let value = |key: &str| table.get(key).copied().unwrap_or(0);
        stats.cpu.throttling.periods = value("nr_periods");
        stats.cpu.throttling.throttled_periods = value("nr_throttled");
        stats.cpu.throttling.throttled_time = value("throttled_time");
    }
    if let Some(dir) = manager.path(Controller::Rdma) {
        stats.further.rdma_current = rdma(dir, "rdma.current");
        stats.further.rdma_limit = rdma(dir, "rdma.max");
    }
    if let Some(dir) = manager.path(Controller::Cpuset) {
        stats.cpuset = cpuset(dir);
    }
    if let Some(dir) = manager.path(Controller::Memory) {
        let memory = &mut stats.memory;
        memory.raw = table(dir, "memory.stat");
        stats.further.memory_events = table(dir, "memory.oom_control");
        memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
        memory.usage = usage(dir, "memory");
        memory.swap = usage(dir, "memory.memsw");
        memory.kernel = usage(dir, "memory.kmem");
        memory.kernel_tcp = usage(dir, "memory.kmem.tcp");
    }
    if let Some(dir) = manager.path(Controller::Pids) {
        stats.pids.current = number(dir, "pids.current");
        stats.pids.limit = match number(dir, "pids.max") {
            u64::MAX => 0,
            limit => limit,
        };
    }
    if let Some(dir) = manager.path(Controller::Blkio) {
        blkio(dir, &mut stats);
    }
    if let Some(dir) = manager.path(Controller::Hugetlb) {
        for size in page_sizes() {
            let prefix = format!("hugetlb.{size}");
            let figures = HugetlbStats {
                usage: number(dir, &format!("{prefix}.usage_in_bytes")),
                max: number(dir, &format!("{prefix}.max_usage_in_bytes")),
                failcnt: number(dir, &format!("{prefix}.failcnt")),
            };
            stats.hugetlb.insert(size, figures);
        }
    }
    if manager.path(Controller::Hugetlb).is_none()
        && let Some(dir) = manager.path(Controller::Unified)
    {
        for size in page_sizes() {
            stats.hugetlb.extend(hugetlb(dir, size));
        }
    }
    // A hybrid host has pressure figures in the unified hierarchy.
    if let Some(dir) = manager.path(Controller::Unified) {
        stats.cpu.psi = psi(dir, "cpu.pressure");
        stats.memory.psi = psi(dir, "memory.pressure");
        stats.blkio.psi = psi(dir, "io.pressure");
    }
    stats
}

fn usage(dir: &str, prefix: &str) -> Usage {
    Usage {
        limit: number(dir, &format!("{prefix}.limit_in_bytes")),
        usage: number(dir, &format!("{prefix}.usage_in_bytes")),
        max: number(dir, &format!("{prefix}.max_usage_in_bytes")),
        failcnt: number(dir, &format!("{prefix}.failcnt")),
    }
}

fn cpuset(dir: &str) -> CpusetStats {
    let list = |name: &str| numbers(&file::read(dir, name).unwrap_or_default());
    let value = |name: &str| number(dir, &format!("cpuset.{name}"));
    CpusetStats {
        cpus: list("cpuset.cpus"),
        cpu_exclusive: value("cpu_exclusive"),
        mems: list("cpuset.mems"),
        mem_hardwall: value("mem_hardwall"),
        mem_exclusive: value("mem_exclusive"),
        memory_migrate: value("memory_migrate"),
        memory_spread_page: value("memory_spread_page"),
        memory_spread_slab: value("memory_spread_slab"),
        memory_pressure: value("memory_pressure"),
        sched_load_balance: value("sched_load_balance"),
        sched_relax_domain_level: file::read(dir, "cpuset.sched_relax_domain_level")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
    }
}

/// The numbers of a list such as `0-2,7`.
fn numbers(list: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            all.extend(first..=last);
        }
    }
    all
}

/// Figures of BFQ where it counts, else those of the throttling layer, as runc reports them.
fn blkio(dir: &str, stats: &mut Stats) {
    let entries = |names: &[&str]| {
        names
            .iter()
            .map(|name| blkio_file(dir, name))
            .find(|entries| !entries.is_empty())
            .unwrap_or_default()
    };
    stats.blkio.io_service_bytes_recursive = entries(&[
        "blkio.bfq.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes",
    ]);
    stats.blkio.io_serviced_recursive = entries(&[
        "blkio.bfq.io_serviced_recursive",
        "blkio.throttle.io_serviced_recursive",
        "blkio.throttle.io_serviced",
    ]);
    stats.blkio.io_queued_recursive = entries(&["blkio.bfq.io_queued_recursive"]);
    stats.blkio.io_service_time_recursive = entries(&["blkio.bfq.io_service_time_recursive"]);
    stats.blkio.io_wait_time_recursive = entries(&["blkio.bfq.io_wait_time_recursive"]);
    stats.blkio.io_merged_recursive = entries(&["blkio.bfq.io_merged_recursive"]);
    stats.blkio.io_time_recursive = entries(&["blkio.bfq.time_recursive"]);
    stats.blkio.sectors_recursive = entries(&["blkio.bfq.sectors_recursive"]);
}

/// Lines `major:minor [op] value`; the line `Total value` at the end is left out.
fn blkio_file(dir: &str, name: &str) -> Vec<BlkioEntry> {
    let text = file::read(dir, name).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (op, value) = match (words.next()?, words.next()) {
                (op, Some(value)) => (op, value),
                (value, None) => ("", value),
            };
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: op.to_owned(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}
