//! Figures of a container's cgroup, in the messages that daemons read: one for each version.

use std::collections::BTreeMap;

use knarr_proto::any;
use knarr_proto::cgroups::{v1, v2};
use knarr_proto::prost_types::Any;
use knarr_runtime::cgroup::Stats;
use knarr_runtime::cgroup::stats::{BlkioEntry, Psi, PsiLine, RdmaEntry, Usage};

/// Packs the figures for the version of this host's cgroups.
pub fn pack(stats: &Stats) -> Any {
    const CGROUP2: rustix::fs::FsWord = 0x6367_7270;
    match rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|stat| stat.f_type == CGROUP2) {
        true => any::pack(&unified(stats)),
        false => any::pack(&legacy(stats)),
    }
}

/// A figure of memory.stat.
fn raw<'a>(table: &'a BTreeMap<String, u64>) -> impl Fn(&str) -> u64 + 'a {
    |key| table.get(key).copied().unwrap_or(0)
}

fn legacy(stats: &Stats) -> v1::Metrics {
    let usage = |usage: &Usage| {
        Some(v1::MemoryEntry {
            limit: usage.limit,
            usage: usage.usage,
            max: usage.max,
            failcnt: usage.failcnt,
        })
    };
    let blkio = |entries: &[BlkioEntry]| {
        let entry = |entry: &BlkioEntry| v1::BlkIoEntry {
            op: entry.op.clone(),
            device: String::new(),
            major: entry.major,
            minor: entry.minor,
            value: entry.value,
        };
        entries.iter().map(entry).collect()
    };
    let memory = raw(&stats.memory.raw);
    let further = &stats.further;
    let oom = raw(&further.memory_events);
    let rdma = |entry: &RdmaEntry| v1::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.handles,
        hca_objects: entry.objects,
    };
    v1::Metrics {
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|(size, figures)| v1::HugetlbStat {
                usage: figures.usage,
                max: figures.max,
                failcnt: figures.failcnt,
                pagesize: size.clone(),
            })
            .collect(),
        pids: Some(v1::PidsStat {
            current: stats.pids.current,
            limit: stats.pids.limit,
        }),
        cpu: Some(v1::CpuStat {
            usage: Some(v1::CpuUsage {
                total: stats.cpu.usage.total,
                kernel: stats.cpu.usage.kernel,
                user: stats.cpu.usage.user,
                per_cpu: stats.cpu.usage.percpu.clone(),
            }),
            throttling: Some(v1::Throttle {
                periods: stats.cpu.throttling.periods,
                throttled_periods: stats.cpu.throttling.throttled_periods,
                throttled_time: stats.cpu.throttling.throttled_time,
            }),
        }),
        memory: Some(v1::MemoryStat {
            cache: memory("cache"),
            rss: memory("rss"),
            rss_huge: memory("rss_huge"),
            mapped_file: memory("mapped_file"),
            dirty: memory("dirty"),
            writeback: memory("writeback"),
            pg_pg_in: memory("pgpgin"),
            pg_pg_out: memory("pgpgout"),
            pg_fault: memory("pgfault"),
            pg_maj_fault: memory("pgmajfault"),
            inactive_anon: memory("inactive_anon"),
            active_anon: memory("active_anon"),
            inactive_file: memory("inactive_file"),
            active_file: memory("active_file"),
            unevictable: memory("unevictable"),
            hierarchical_memory_limit: memory("hierarchical_memory_limit"),
            hierarchical_swap_limit: memory("hierarchical_memsw_limit"),
            total_cache: memory("total_cache"),
            total_rss: memory("total_rss"),
            total_rss_huge: memory("total_rss_huge"),
            total_mapped_file: memory("total_mapped_file"),
            total_dirty: memory("total_dirty"),
            total_writeback: memory("total_writeback"),
            total_pg_pg_in: memory("total_pgpgin"),
            total_pg_pg_out: memory("total_pgpgout"),
            total_pg_fault: memory("total_pgfault"),
            total_pg_maj_fault: memory("total_pgmajfault"),
            total_inactive_anon: memory("total_inactive_anon"),
            total_active_anon: memory("total_active_anon"),
            total_inactive_file: memory("total_inactive_file"),
            total_active_file: memory("total_active_file"),
            total_unevictable: memory("total_unevictable"),
            usage: usage(&stats.memory.usage),
            swap: usage(&stats.memory.swap),
            kernel: usage(&stats.memory.kernel),
            kernel_tcp: usage(&stats.memory.kernel_tcp),
        }),
        blkio: Some(v1::BlkIoStat {
            io_service_bytes_recursive: blkio(&stats.blkio.io_service_bytes_recursive),
            io_serviced_recursive: blkio(&stats.blkio.io_serviced_recursive),
            io_queued_recursive: blkio(&stats.blkio.io_queued_recursive),
            io_service_time_recursive: blkio(&stats.blkio.io_service_time_recursive),
            io_wait_time_recursive: blkio(&stats.blkio.io_wait_time_recursive),
            io_merged_recursive: blkio(&stats.blkio.io_merged_recursive),
            io_time_recursive: blkio(&stats.blkio.io_time_recursive),
            sectors_recursive: blkio(&stats.blkio.sectors_recursive),
        }),
        rdma: Some(v1::RdmaStat {
            current: further.rdma_current.iter().map(rdma).collect(),
            limit: further.rdma_limit.iter().map(rdma).collect(),
        }),
        memory_oom_control: Some(v1::MemoryOomControl {
            oom_kill_disable: oom("oom_kill_disable"),
            under_oom: oom("under_oom"),
            oom_kill: oom("oom_kill"),
        }),
        ..v1::Metrics::default()
    }
}

fn unified(stats: &Stats) -> v2::Metrics {
    let memory = raw(&stats.memory.raw);
    // Nanoseconds there, microseconds here.
    let micros = |nanos: u64| nanos / 1000;
    // Memory and swap together there, swap alone here.
    let swap_only = |both: u64, memory: u64| match both {
        u64::MAX => u64::MAX,
        both => both.saturating_sub(memory),
    };
    let (used, swap) = (&stats.memory.usage, &stats.memory.swap);
    let further = &stats.further;
    let events = raw(&further.memory_events);
    let rdma = |entry: &RdmaEntry| v2::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.handles,
        hca_objects: entry.objects,
    };
    v2::Metrics {
        pids: Some(v2::PidsStat {
            current: stats.pids.current,
            // As the file's other limits are told, and not as version 1's.
            limit: match stats.pids.limit {
                0 => u64::MAX,
                limit => limit,
            },
        }),
        cpu: Some(v2::CpuStat {
            usage_usec: micros(stats.cpu.usage.total),
            user_usec: micros(stats.cpu.usage.user),
            system_usec: micros(stats.cpu.usage.kernel),
            nr_periods: stats.cpu.throttling.periods,
            nr_throttled: stats.cpu.throttling.throttled_periods,
            throttled_usec: micros(stats.cpu.throttling.throttled_time),
            psi: stats.cpu.psi.as_ref().map(psi),
            nr_bursts: further.bursts,
            burst_usec: micros(further.burst_time),
        }),
        memory: Some(v2::MemoryStat {
            anon: memory("anon"),
            file: memory("file"),
            kernel_stack: memory("kernel_stack"),
            slab: memory("slab"),
            sock: memory("sock"),
            shmem: memory("shmem"),
            file_mapped: memory("file_mapped"),
            file_dirty: memory("file_dirty"),
            file_writeback: memory("file_writeback"),
            anon_thp: memory("anon_thp"),
            inactive_anon: memory("inactive_anon"),
            active_anon: memory("active_anon"),
            inactive_file: memory("inactive_file"),
            active_file: memory("active_file"),
            unevictable: memory("unevictable"),
            slab_reclaimable: memory("slab_reclaimable"),
            slab_unreclaimable: memory("slab_unreclaimable"),
            pgfault: memory("pgfault"),
            pgmajfault: memory("pgmajfault"),
            workingset_refault: memory("workingset_refault"),
            workingset_activate: memory("workingset_activate"),
            workingset_nodereclaim: memory("workingset_nodereclaim"),
            pgrefill: memory("pgrefill"),
            pgscan: memory("pgscan"),
            pgsteal: memory("pgsteal"),
            pgactivate: memory("pgactivate"),
            pgdeactivate: memory("pgdeactivate"),
            pglazyfree: memory("pglazyfree"),
            pglazyfreed: memory("pglazyfreed"),
            thp_fault_alloc: memory("thp_fault_alloc"),
            thp_collapse_alloc: memory("thp_collapse_alloc"),
            usage: used.usage,
            usage_limit: used.limit,
            swap_usage: swap_only(swap.usage, used.usage),
            swap_limit: swap_only(swap.limit, used.limit),
            max_usage: used.max,
            swap_max_usage: swap.max,
            psi: stats.memory.psi.as_ref().map(psi),
        }),
        io: Some(io(stats)),
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|(size, figures)| v2::HugeTlbStat {
                current: figures.usage,
                max: further.hugetlb_limits.get(size).copied().unwrap_or(0),
                pagesize: size.clone(),
                failcnt: figures.failcnt,
            })
            .collect(),
        rdma: Some(v2::RdmaStat {
            current: further.rdma_current.iter().map(rdma).collect(),
            limit: further.rdma_limit.iter().map(rdma).collect(),
        }),
        memory_events: Some(v2::MemoryEvents {
            low: events("low"),
            high: events("high"),
            max: events("max"),
            oom: events("oom"),
            oom_kill: events("oom_kill"),
            oom_group_kill: events("oom_group_kill"),
        }),
        ..v2::Metrics::default()
    }
}

fn psi(psi: &Psi) -> v2::PsiStats {
    let line = |line: &PsiLine| {
        Some(v2::PsiData {
            avg10: line.avg10,
            avg60: line.avg60,
            avg300: line.avg300,
            total: line.total,
        })
    };
    v2::PsiStats {
        some: line(&psi.some),
        full: line(&psi.full),
    }
}

/// One entry for each device, of what the runtime has in lists for each figure.
fn io(stats: &Stats) -> v2::IoStat {
    let mut usage: BTreeMap<(u64, u64), v2::IoEntry> = BTreeMap::new();
    let lists = [
        &stats.blkio.io_service_bytes_recursive,
        &stats.blkio.io_serviced_recursive,
    ];
    for (bytes, list) in [true, false].into_iter().zip(lists) {
        for entry in list {
            let device = usage.entry((entry.major, entry.minor)).or_default();
            (device.major, device.minor) = (entry.major, entry.minor);
            match (bytes, entry.op.to_ascii_lowercase().as_str()) {
                (true, "read") => device.rbytes = entry.value,
                (true, "write") => device.wbytes = entry.value,
                (false, "read") => device.rios = entry.value,
                (false, "write") => device.wios = entry.value,
                _ => {}
            }
        }
    }
    v2::IoStat {
        usage: usage.into_values().collect(),
        psi: stats.blkio.psi.as_ref().map(psi),
    }
}
