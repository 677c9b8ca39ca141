//! Usage figures from the files of cgroup v2, in the shape that v1 gave them.

use std::collections::BTreeMap;

use super::super::file;
use super::super::stats::{
    BlkioEntry, HugetlbStats, Stats, Usage, number, page_sizes, psi, rdma, table,
};
use crate::error::Result;

/// All figures; a controller that is not enabled leaves zeros.
///
/// # Errors
/// A cgroup that is gone.
pub(super) fn read(dir: &str) -> Result<Stats> {
    file::read_text(dir, "cgroup.procs")?;
    let mut stats = Stats::default();
    let cpu = table(dir, "cpu.stat");
    let nanoseconds = |key: &str| cpu.get(key).copied().unwrap_or(0).saturating_mul(1000);
    stats.cpu.usage.total = nanoseconds("usage_usec");
    stats.cpu.usage.user = nanoseconds("user_usec");
    stats.cpu.usage.kernel = nanoseconds("system_usec");
    stats.cpu.throttling.periods = cpu.get("nr_periods").copied().unwrap_or(0);
    stats.cpu.throttling.throttled_periods = cpu.get("nr_throttled").copied().unwrap_or(0);
    stats.cpu.throttling.throttled_time = nanoseconds("throttled_usec");
    stats.cpu.psi = psi(dir, "cpu.pressure");
    stats.further.bursts = cpu.get("nr_bursts").copied().unwrap_or(0);
    stats.further.burst_time = nanoseconds("burst_usec");

    let memory = &mut stats.memory;
    memory.raw = table(dir, "memory.stat");
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    let events = table(dir, "memory.events");
    memory.usage = Usage {
        limit: number(dir, "memory.max"),
        usage: number(dir, "memory.current"),
        max: number(dir, "memory.peak"),
        failcnt: events.get("max").copied().unwrap_or(0),
    };
    // Memory and swap together, as v1 counted them.
    let swap_limit = number(dir, "memory.swap.max");
    memory.swap = Usage {
        limit: swap_limit.saturating_add(memory.usage.limit),
        usage: number(dir, "memory.swap.current").saturating_add(memory.usage.usage),
        max: 0,
        failcnt: table(dir, "memory.swap.events")
            .get("max")
            .copied()
            .unwrap_or(0),
    };
    memory.psi = psi(dir, "memory.pressure");
    stats.further.memory_events = events;

    stats.pids.current = number(dir, "pids.current");
    stats.pids.limit = match number(dir, "pids.max") {
        u64::MAX => 0,
        limit => limit,
    };
    let io = file::read(dir, "io.stat").unwrap_or_default();
    for line in io.lines() {
        io_line(line, &mut stats);
    }
    stats.blkio.psi = psi(dir, "io.pressure");
    for size in page_sizes() {
        let limit = number(dir, &format!("hugetlb.{size}.max"));
        stats.further.hugetlb_limits.insert(size.clone(), limit);
        stats.hugetlb.extend(hugetlb(dir, size));
    }
    stats.further.rdma_current = rdma(dir, "rdma.current");
    stats.further.rdma_limit = rdma(dir, "rdma.max");
    Ok(stats)
}

/// A line of io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn io_line(line: &str, stats: &mut Stats) {
    let mut words = line.split(' ');
    let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else {
        return;
    };
    let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
        return;
    };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let Ok(value) = value.parse() else { continue };
        let (list, op) = match key {
            "rbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Read"),
            "wbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Write"),
            "dbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Discard"),
            "rios" => (&mut stats.blkio.io_serviced_recursive, "Read"),
            "wios" => (&mut stats.blkio.io_serviced_recursive, "Write"),
            "dios" => (&mut stats.blkio.io_serviced_recursive, "Discard"),
            _ => continue,
        };
        list.push(BlkioEntry {
            major,
            minor,
            op: op.to_owned(),
            value,
        });
    }
}

/// Reservations where the kernel counts them, page faults elsewhere.
pub(in super::super) fn hugetlb(dir: &str, size: String) -> BTreeMap<String, HugetlbStats> {
    let usage = ["rsvd.current", "current"]
        .iter()
        .find_map(|name| file::read(dir, &format!("hugetlb.{size}.{name}")).ok());
    let Some(usage) = usage else {
        return BTreeMap::new();
    };
    let events = table(dir, &format!("hugetlb.{size}.events"));
    let figures = HugetlbStats {
        usage: usage.parse().unwrap_or(0),
        max: 0,
        failcnt: events.get("max").copied().unwrap_or(0),
    };
    BTreeMap::from([(size, figures)])
}
