//! Usage figures of a container, in the form of runc's `events --stats`.
//!
//! Belongs here: the types and the small parsers both versions share. Does
//! not: which files the figures come from. Names and units are runc's, which
//! differ from the kernel's in places: times are nanoseconds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::file;

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `data` of a `stats` event.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// CPU time.
    pub cpu: CpuStats,
    /// CPU sets (v1).
    pub cpuset: CpusetStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block devices.
    pub blkio: BlkioStats,
    /// Huge pages, by page size such as `2MB`.
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// Intel RDT; filled by whoever manages that.
    pub intel_rdt: BTreeMap<String, serde_json::Value>,
    /// Always `null`: a runtime makes no network interfaces.
    pub network_interfaces: Option<()>,
    /// What those events do not have.
    #[serde(skip)]
    pub further: Further,
}

/// Figures for callers of the library alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Further {
    /// memory.events (v2) or memory.oom_control (v1).
    pub memory_events: BTreeMap<String, u64>,
    /// How often the processor was used beyond the quota (v2).
    pub bursts: u64,
    /// The time of that in nanoseconds (v2).
    pub burst_time: u64,
    /// Limits of huge pages in bytes, by page size (v2).
    pub hugetlb_limits: BTreeMap<String, u64>,
    /// Remote memory access: in use.
    pub rdma_current: Vec<RdmaEntry>,
    /// Remote memory access: the limits.
    pub rdma_limit: Vec<RdmaEntry>,
}

/// A line of rdma.current or rdma.max; `u32::MAX` where there is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// Name of the device.
    pub device: String,
    /// Handles.
    pub handles: u32,
    /// Objects.
    pub objects: u32,
}

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuStats {
    /// Time used.
    pub usage: CpuUsage,
    /// How often the quota was used up.
    #[serde(skip_serializing_if = "is_default")]
    pub throttling: Throttling,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// `cpu.usage`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// Altogether.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// By CPU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// In the kernel, by CPU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// In programs, by CPU.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// `cpu.throttling`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods in which there was something to run.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Periods in which the quota was used up.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// Time that processes waited, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Pressure stall information, Documentation/accounting/psi.rst.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Psi {
    /// Some task waited.
    pub some: PsiLine,
    /// All tasks waited.
    pub full: PsiLine,
}

/// One line of a pressure file: percentages, and microseconds in total.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PsiLine {
    /// Over 10 s.
    pub avg10: f64,
    /// Over 60 s.
    pub avg60: f64,
    /// Over 300 s.
    pub avg300: f64,
    /// Altogether.
    pub total: u64,
}

/// `cpuset` (v1).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are those of the files cpuset.NAME")]
pub struct CpusetStats {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// `memory`, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryStats {
    /// Page cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// Memory.
    pub usage: Usage,
    /// Memory and swap together.
    pub swap: Usage,
    /// Kernel memory (v1).
    pub kernel: Usage,
    /// Kernel TCP buffers (v1).
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Usage,
    /// memory.stat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// A limited amount.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Usage {
    /// The limit.
    pub limit: u64,
    /// In use now.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// Most ever in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// `pids`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PidsStats {
    /// Tasks now.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// The limit; absent where there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// `blkio`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the files blkio.NAME")]
pub struct BlkioStats {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// A figure of one block device.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BlkioEntry {
    /// Major number.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// Minor number.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// `Read`, `Write` and others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The figure.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HugetlbStats {
    /// In use now.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// Most ever in use (v1).
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

/// The number in a file; `max` is the largest, and 0 stands for a file that is missing or reads otherwise.
pub(super) fn number(dir: &str, name: &str) -> u64 {
    match file::read(dir, name) {
        Ok(text) if text == "max" => u64::MAX,
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// The lines `key number` of a file.
pub(super) fn table(dir: &str, name: &str) -> BTreeMap<String, u64> {
    let text = file::read(dir, name).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// The lines `mlx4_0 hca_handle=2 hca_object=max` of a file.
pub(super) fn rdma(dir: &str, name: &str) -> Vec<RdmaEntry> {
    let number = |text: &str| match text {
        "max" => u32::MAX,
        text => text.parse().unwrap_or(0),
    };
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let mut entry = RdmaEntry {
            device: words.next().filter(|name| !name.is_empty())?.to_owned(),
            ..RdmaEntry::default()
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "hca_handle" => entry.handles = number(value),
                "hca_object" => entry.objects = number(value),
                _ => {}
            }
        }
        Some(entry)
    };
    let text = file::read(dir, name).unwrap_or_default();
    text.lines().filter_map(entry).collect()
}

/// A pressure file, where there is one and the kernel counts.
pub(super) fn psi(dir: &str, name: &str) -> Option<Psi> {
    let text = file::read(dir, name).ok()?;
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let target = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for word in words {
            match word.split_once('=') {
                Some(("avg10", value)) => target.avg10 = value.parse().unwrap_or(0.0),
                Some(("avg60", value)) => target.avg60 = value.parse().unwrap_or(0.0),
                Some(("avg300", value)) => target.avg300 = value.parse().unwrap_or(0.0),
                Some(("total", value)) => target.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    Some(psi)
}

/// Page sizes for which a directory has files, such as `2MB`.
pub(super) fn page_sizes() -> Vec<String> {
    let names = file::subdirs("/sys/kernel/mm/hugepages").unwrap_or_default();
    let size = |name: &String| {
        let kilobytes: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        Some(match kilobytes {
            n if n >= 1 << 20 => format!("{}GB", n >> 20),
            n if n >= 1 << 10 => format!("{}MB", n >> 10),
            n => format!("{n}KB"),
        })
    };
    names.iter().filter_map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_runc_does() {
        let json = serde_json::to_value(Stats::default()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "cpu": {"usage": {"kernel": 0, "user": 0}},
                "cpuset": {"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,
                    "memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,
                    "sched_load_balance":0,"sched_relax_domain_level":0},
                "memory": {"usage":{"limit":0,"failcnt":0},"swap":{"limit":0,"failcnt":0},
                    "kernel":{"limit":0,"failcnt":0},"kernelTCP":{"limit":0,"failcnt":0}},
                "pids": {}, "blkio": {}, "hugetlb": {}, "intel_rdt": {}, "network_interfaces": null
            })
        );
    }

    #[test]
    fn reads_pressure() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("cpu.pressure"),
            "some avg10=1.50 avg60=0.00 avg300=0.25 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        )
        .unwrap();
        let psi = psi(dir.path().to_str().unwrap(), "cpu.pressure").unwrap();
        assert_eq!(
            (psi.some.avg10, psi.some.total, psi.full.total),
            (1.5, 42, 7)
        );
    }
}
