//! Compares container runtimes: every operation, all runtimes in turn, round by round.
//!
//! Belongs here: the command line and the order of measurements. `measure` times one call, `trace`
//! counts what it does, `bundles` makes what is run, `floor` the least that can be done, `density` runs many, `report` prints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bundles;
mod density;
mod floor;
mod measure;
mod report;
mod trace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use knarr_integration::{peers, runtime};

use bundles::Place;
use measure::{Op, Sample, Warmer};

/// Compares knarr with the runtimes that are installed.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; each runs every operation once on every runtime, hot and cold.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Which configuration.
    #[arg(long, value_enum, default_value_t = Which::Both)]
    bundle: Which,
    /// Programs to compare; by default knarr (KNARR_BIN), runc, crun, crun-new (peers/fetch brings them) and youki.
    #[arg(long = "runtime")]
    runtimes: Vec<PathBuf>,
    /// Only the hot figures.
    #[arg(long)]
    hot: bool,
    /// Seconds after which a runtime counts as hanging.
    #[arg(long, default_value_t = 5)]
    limit: u64,
    /// Leave the pass that counts system calls, forks and memory out.
    #[arg(long)]
    no_trace: bool,
    /// Instead: this many containers' lives, two at a time, and what they leave behind.
    #[arg(long)]
    density: Option<u32>,
    /// One of the two of --density.
    #[arg(long, hide = true)]
    lives: Option<u32>,
    /// Also write all figures to a file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Which configuration is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// What `runc spec` writes.
    Plain,
    /// What dockerd writes for a container with limits.
    Docker,
    /// One after the other.
    Both,
}

/// A runtime that takes part.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its name in the tables.
    pub name: String,
    /// Its program.
    pub path: PathBuf,
}

/// All figures of one bundle: by runtime, then operation.
pub type Figures = BTreeMap<String, BTreeMap<Op, Figure>>;

/// The figures of one operation of one runtime.
#[derive(Debug, Default)]
pub struct Figure {
    /// With the cgroup lock hot.
    pub hot: Vec<Sample>,
    /// With the cgroup lock cold.
    pub cold: Vec<Sample>,
    /// Calls that failed or hung.
    pub failed: u32,
    /// What the traced call did.
    pub trace: Option<trace::Counts>,
    /// Largest peak resident set, KiB.
    pub memory: Option<u64>,
}

fn main() {
    let args = Args::parse();
    assert!(
        rustix::process::geteuid().is_root(),
        "the benchmark needs root"
    );
    measure::LIMIT.store(args.limit, std::sync::atomic::Ordering::Relaxed);
    if args.density.is_some() {
        if std::env::var_os(density::BASE).is_none() {
            std::process::exit(density::isolate());
        }
        measure::private_proc();
    }
    let runtimes = runtimes(&args);
    measure::adopt_orphans();
    if let Some(count) = args.lives {
        std::process::exit(density::lives(&runtimes, count));
    }
    report::runtimes(&runtimes);
    hide_unified(&runtimes);
    if let Some(count) = args.density {
        density::compare(&runtimes, count);
        return;
    }
    seccomp(&runtimes);

    let mut all = Vec::new();
    for which in [Which::Plain, Which::Docker] {
        if args.bundle != which && args.bundle != Which::Both {
            continue;
        }
        let name = if which == Which::Plain {
            "plain"
        } else {
            "docker-like"
        };
        let figures = compare(&args, &runtimes, which);
        report::table(name, &figures, args.hot);
        all.push((name, figures));
    }
    if let Some(path) = &args.json {
        std::fs::write(path, report::json(&args.rounds, &all)).unwrap();
        println!("\nall figures: {}", path.display());
    }
}

/// crun 1.8 refuses a host where version 1 and 2 of cgroups are mounted side by side. So for all
/// runtimes alike, in a mount namespace of the benchmark's own, the version 2 tree goes.
fn hide_unified(runtimes: &[Runtime]) {
    use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
    let unified = "/sys/fs/cgroup/unified";
    if !runtimes
        .iter()
        .any(|runtime| runtime.name.starts_with("crun"))
        || knarr_integration::cgroup::unified()
        || !Path::new(unified).join("cgroup.procs").exists()
    {
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    unmount(unified, UnmountFlags::DETACH).unwrap();
    println!("hybrid cgroups: {unified} is hidden from all runtimes, because crun refuses it");
}

/// The program beside knarr that compiles a profile as knarr does.
fn seccomp_program(knarr: &Runtime) -> PathBuf {
    knarr.path.with_file_name("examples/seccomp_compile")
}

/// What knarr's seccomp filter costs: a program built like knarr says it, where there is one.
fn seccomp(runtimes: &[Runtime]) {
    let Some(knarr) = runtimes.iter().find(|runtime| runtime.name == "knarr") else {
        return;
    };
    let program = seccomp_program(knarr);
    if !program.exists() {
        println!("seccomp: not measured, there is no {}", program.display());
        return;
    }
    let place = Place::new(knarr, Which::Docker, None);
    let mut least = BTreeMap::<String, f64>::new();
    for _ in 0..20 {
        let Ok(output) = std::process::Command::new(&program)
            .arg(place.config())
            .output()
        else {
            break;
        };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let mut words = line.split(' ');
            if let (Some(name), Some(Ok(time))) = (words.next(), words.next().map(str::parse)) {
                let best = least.entry(name.to_owned()).or_insert(f64::MAX);
                *best = best.min(time);
            }
        }
    }
    let least: Vec<String> = least
        .iter()
        .map(|(name, time)| format!("{name} {time:.0}"))
        .collect();
    println!(
        "seccomp filter, us, minimum of 20 processes: {}",
        least.join(", ")
    );
}

/// The programs named, or those that are found.
fn runtimes(args: &Args) -> Vec<Runtime> {
    let named: Vec<PathBuf> = if args.runtimes.is_empty() {
        let own = (std::env::var_os("KNARR_BIN").is_some()).then(|| runtime::path().to_owned());
        own.into_iter()
            .chain(peers::runc())
            .chain(peers::cruns())
            .chain(["youki"].map(PathBuf::from))
            .collect()
    } else {
        args.runtimes.clone()
    };
    let mut found: Vec<Runtime> = named
        .iter()
        .filter_map(|name| {
            let path = runtime::find(name);
            if path.is_none() {
                println!("not installed: {}", name.display());
            }
            let path = path?;
            // peers/crun makes a directory that says which one it is.
            let named = path.parent().filter(|dir| dir.ends_with("crun-new"));
            let name = named.and_then(Path::file_name).or(path.file_name())?;
            Some(Runtime {
                name: name.to_string_lossy().into_owned(),
                path,
            })
        })
        .collect();
    let knarr = found.iter().find(|runtime| runtime.name == "knarr");
    if args.runtimes.is_empty()
        && args.density.is_none()
        && let Some(path) = floor::build(knarr)
    {
        found.push(Runtime {
            name: floor::NAME.to_owned(),
            path,
        });
    }
    found
}

/// One bundle on all runtimes.
fn compare(args: &Args, runtimes: &[Runtime], which: Which) -> Figures {
    let knarr = runtimes.iter().find(|runtime| runtime.name == "knarr");
    let mut places: Vec<Place> = runtimes
        .iter()
        // It knows one bundle only.
        .filter(|runtime| runtime.name != floor::NAME || which == Which::Docker)
        .map(|runtime| Place::new(runtime, which, knarr))
        .collect();
    let mut figures = Figures::new();
    let warmer = Warmer::new();
    // One round that nobody counts: page cache, dentries, the kernel's slabs.
    for round in 0..=args.rounds {
        for offset in 0..places.len() {
            let turn = (offset + round as usize) % places.len();
            let place = &mut places[turn];
            let row = figures.entry(place.runtime.name.clone()).or_default();
            for hot in [true, false] {
                if !hot && args.hot {
                    continue;
                }
                let samples = place.cycle(&warmer, hot);
                let six = |(op, sample): &(Op, Option<Sample>)| match op {
                    Op::Run => Some(Sample::default()),
                    _ => *sample,
                };
                let whole = samples
                    .iter()
                    .map(six)
                    .try_fold(Sample::default(), |sum, next| {
                        next.map(|next| Sample {
                            wall: sum.wall + next.wall,
                            cpu: sum.cpu + next.cpu,
                        })
                    });
                for (op, sample) in samples.into_iter().chain([(Op::Cycle, whole)]) {
                    let figure = row.entry(op).or_default();
                    match sample {
                        _ if round == 0 => {}
                        None => figure.failed += 1,
                        Some(sample) if hot => figure.hot.push(sample),
                        Some(sample) => figure.cold.push(sample),
                    }
                }
            }
        }
    }
    if !args.no_trace {
        for place in &mut places {
            let row = figures.entry(place.runtime.name.clone()).or_default();
            for (op, counts, memory) in place.traced() {
                let figure = row.entry(op).or_default();
                figure.trace = counts;
                figure.memory = memory;
            }
        }
    }
    figures
}
