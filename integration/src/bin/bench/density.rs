//! Many containers, two at a time: how fast, and what is left of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use knarr_integration::{cgroup, process};

use crate::bundles::Place;
use crate::{Runtime, Which};

/// How long the kernel may take to clean up behind the last container.
const SETTLE: Duration = Duration::from_secs(30);

/// What containers could leave, counted: only of this run, which has mount and pid namespaces and a
/// cgroup of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Own {
    mounts: usize,
    cgroups: usize,
    /// Removed and not gone yet, where the kernel says so (version 2).
    dying_cgroups: u64,
    processes: usize,
    network_namespaces: usize,
}

impl Own {
    fn look(base: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let pids: Vec<PathBuf> = fs::read_dir("/proc").map_or_else(
            |_| Vec::new(),
            |dir| {
                dir.flatten()
                    .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
                    .map(|entry| entry.path())
                    .collect()
            },
        );
        // What keeps a network namespace: a process in it, a descriptor, a mount.
        let links = pids.iter().flat_map(|pid| {
            let fds = fs::read_dir(pid.join("fd"));
            let fds = fds.into_iter().flatten().flatten().map(|fd| fd.path());
            fds.chain([pid.join("ns/net")]).collect::<Vec<_>>()
        });
        let mut namespaces: BTreeSet<String> = links
            .filter_map(|link| Some(fs::read_link(link).ok()?.to_string_lossy().into_owned()))
            .collect();
        namespaces.extend(
            mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(3).map(str::to_owned)),
        );
        Self {
            mounts: mounts.lines().count(),
            cgroups: roots(base).iter().map(|root| below(root)).sum(),
            dying_cgroups: roots(base)
                .iter()
                .filter_map(|root| fs::read_to_string(root.join("cgroup.stat")).ok())
                .filter_map(|text| field(&text, "nr_dying_descendants"))
                .sum(),
            processes: pids.len(),
            network_namespaces: namespaces
                .iter()
                .filter(|name| name.starts_with("net:["))
                .count(),
        }
    }
}

/// The run's own cgroup in every hierarchy.
fn roots(base: &str) -> Vec<PathBuf> {
    cgroup::hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(base.trim_start_matches('/')))
        .filter(|root| root.exists())
        .collect()
}

fn below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| 1 + below(&entry.path()))
        .sum()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// The kernel's memory that is charged to the run's own cgroup and to what was below it, KiB.
fn memory(base: &str) -> Option<u64> {
    roots(base)
        .iter()
        .find_map(|root| {
            let version_1 = fs::read_to_string(root.join("memory.kmem.usage_in_bytes"))
                .ok()
                .and_then(|text| text.trim().parse().ok());
            version_1.or_else(|| {
                field(
                    &fs::read_to_string(root.join("memory.stat")).ok()?,
                    "kernel ",
                )
            })
        })
        .map(|bytes: u64| bytes / 1024)
}

/// Does the rest in namespaces of its own; returns its exit code.
pub fn isolate() -> i32 {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(BASE, format!("/knarr-density-{}", std::process::id()))
        .status()
        .unwrap();
    status.code().unwrap_or(1)
}

/// The variable that names the run's own cgroup, where it is in its own namespaces.
pub const BASE: &str = "KNARR_BENCH_CGROUP";

/// Makes the run's own cgroup, with one for the workers in it.
fn make(base: &str) {
    for hierarchy in cgroup::hierarchies() {
        for dir in [base.to_owned(), format!("{base}/workers")] {
            let dir = hierarchy.join(dir.trim_start_matches('/'));
            fs::create_dir(&dir).unwrap();
            for name in ["cpuset.cpus", "cpuset.mems"] {
                // On version 2 they are inherited, and may be missing.
                if let Ok(value) = fs::read_to_string(hierarchy.join(name)) {
                    let _ = fs::write(dir.join(name), value);
                }
            }
        }
    }
}

/// The work of one of the two: exit code 0 where all lives succeeded and nothing is left.
pub fn lives(runtimes: &[Runtime], count: u32) -> i32 {
    let [runtime] = runtimes else { return 2 };
    if let Ok(base) = std::env::var(BASE) {
        for root in roots(&base) {
            fs::write(root.join("workers/cgroup.procs"), "0").unwrap();
        }
    }
    let mut place = Place::new(runtime, Which::Docker, None);
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
    let base = std::env::var(BASE).unwrap();
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
        make(&base);
        // What is allocated once stays: that is not what containers leave.
        run(10);
        std::thread::sleep(Duration::from_secs(2));
        let (before, memory_before) = (Own::look(&base), memory(&base));
        let begin = Instant::now();
        let good = run(count);
        let took = begin.elapsed();
        let mut after = Own::look(&base);
        process::eventually(SETTLE, || {
            after = Own::look(&base);
            after == before
        });
        std::thread::sleep(Duration::from_secs(2));
        let kept = match (memory_before, memory(&base)) {
            (Some(before), Some(after)) => {
                format!("{before} -> {after} KiB of the kernel charged")
            }
            _ => "the kernel's memory is not charged here".to_owned(),
        };
        println!(
            "{:9} {:6.1} containers/s, {:5.1} s{}; {kept}",
            runtime.name,
            f64::from(count) / took.as_secs_f64(),
            took.as_secs_f64(),
            if good { "" } else { ", SOME FAILED" },
        );
        println!("{:9} before {before:?}\n{:9} after  {after:?}", "", "");
        cgroup::remove(&format!("{base}/workers"));
        cgroup::remove(&base);
    }
}
