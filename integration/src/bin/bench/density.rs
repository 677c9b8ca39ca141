//! Many containers, two at a time: how fast, and what is left of them.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use knarr_integration::process;

use crate::bundles::Place;
use crate::{Runtime, Which};

/// How long the kernel may take to clean up behind the last container.
const SETTLE: Duration = Duration::from_secs(30);

/// What containers could leave on the host, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Host {
    mounts: usize,
    cgroups: u64,
    processes: usize,
    network_namespaces: u64,
}

impl Host {
    fn look() -> Self {
        let lines = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cgroups = lines("/proc/cgroups")
            .lines()
            .filter_map(|line| line.split('\t').nth(2)?.parse::<u64>().ok())
            .sum();
        let network_namespaces = lines("/proc/slabinfo")
            .lines()
            .find_map(|line| {
                line.strip_prefix("net_namespace ")?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let processes = fs::read_dir("/proc").map_or(0, |dir| {
            dir.flatten()
                .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
                .count()
        });
        Self {
            mounts: lines("/proc/self/mountinfo").lines().count(),
            cgroups,
            processes,
            network_namespaces,
        }
    }
}

/// Figures of /proc/meminfo that containers could leave something in, KiB.
const MEMORY: [&str; 4] = ["MemAvailable", "Slab", "SUnreclaim", "Percpu"];

fn memory() -> [i64; 4] {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    MEMORY.map(|name| {
        text.lines()
            .find_map(|line| {
                let value = line.strip_prefix(name)?.strip_prefix(':')?;
                value.split_whitespace().next()?.parse().ok()
            })
            .unwrap_or(0)
    })
}

/// The work of one of the two: exit code 0 where all lives succeeded and nothing is left.
pub fn lives(runtimes: &[Runtime], count: u32) -> i32 {
    let [runtime] = runtimes else { return 2 };
    let mut place = Place::new(runtime, Which::Docker);
    let failed = (0..count).filter(|_| !place.live()).count();
    let left = place.left();
    if failed > 0 || !left.is_empty() {
        println!(
            "{}: {failed} of {count} lives failed; left: {left:?}",
            runtime.name
        );
    }
    i32::from(failed > 0 || !left.is_empty())
}

/// All runtimes, one after the other.
pub fn compare(runtimes: &[Runtime], count: u32) {
    let program = std::env::current_exe().unwrap();
    println!(
        "{count} containers created, started, exec'ed into, killed and deleted, two at a time"
    );
    for runtime in runtimes {
        let run = |count: u32| {
            let workers: Vec<_> = [count.div_ceil(2), count / 2]
                .iter()
                .map(|count| {
                    Command::new(&program)
                        .args(["--lives", &count.to_string(), "--runtime"])
                        .arg(&runtime.path)
                        .stdin(Stdio::null())
                        .spawn()
                        .unwrap()
                })
                .collect();
            workers
                .into_iter()
                .map(|mut worker| worker.wait().is_ok_and(|status| status.success()))
                .fold(true, |all, one| all & one)
        };
        // What is allocated once stays: that is not what containers leave.
        run(10);
        std::thread::sleep(Duration::from_secs(2));
        let (host, before) = (Host::look(), memory());
        let begin = Instant::now();
        let good = run(count);
        let took = begin.elapsed();
        let mut after = Host::look();
        process::eventually(SETTLE, || {
            after = Host::look();
            after.mounts <= host.mounts
                && after.cgroups <= host.cgroups
                && after.processes <= host.processes
                && after.network_namespaces <= host.network_namespaces
        });
        std::thread::sleep(Duration::from_secs(2));
        let now = memory();
        let changes: Vec<String> = MEMORY
            .iter()
            .zip(before.iter().zip(now))
            .map(|(name, (before, now))| format!("{name} {:+} KiB", now - before))
            .collect();
        println!(
            "{:9} {:6.1} containers/s, {:5.1} s{}; {}",
            runtime.name,
            f64::from(count) / took.as_secs_f64(),
            took.as_secs_f64(),
            if good { "" } else { ", SOME FAILED" },
            changes.join(", "),
        );
        println!("{:9} before {host:?}\n{:9} after  {after:?}", "", "");
    }
}
