//! Compares container runtimes: every operation, all runtimes in turn, round by round.
//!
//! Belongs here: the command line and the order of measurements. `measure` times one call, `trace`
//! counts what it does, `bundles` makes what is run, `report` prints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bundles;
mod measure;
mod report;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use knarr_integration::runtime;

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
    /// Programs to compare; by default knarr (KNARR_BIN), runc, crun and youki.
    #[arg(long = "runtime")]
    runtimes: Vec<PathBuf>,
    /// Only the hot figures.
    #[arg(long)]
    hot: bool,
    /// Leave the pass that counts system calls, forks and memory out.
    #[arg(long)]
    no_trace: bool,
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
    let runtimes = runtimes(&args);
    report::runtimes(&runtimes);
    hide_unified(&runtimes);
    measure::adopt_orphans();

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
    if !runtimes.iter().any(|runtime| runtime.name == "crun")
        || knarr_integration::cgroup::unified()
        || !std::path::Path::new(unified).join("cgroup.procs").exists()
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

/// The programs named, or those that are found.
fn runtimes(args: &Args) -> Vec<Runtime> {
    let named: Vec<PathBuf> = if args.runtimes.is_empty() {
        let own = (std::env::var_os("KNARR_BIN").is_some()).then(|| runtime::path().to_owned());
        own.into_iter()
            .chain(["runc", "crun", "youki"].map(PathBuf::from))
            .collect()
    } else {
        args.runtimes.clone()
    };
    named
        .iter()
        .filter_map(|name| {
            let path = runtime::find(name);
            if path.is_none() {
                println!("not installed: {}", name.display());
            }
            let path = path?;
            Some(Runtime {
                name: path.file_name()?.to_string_lossy().into_owned(),
                path,
            })
        })
        .collect()
}

/// One bundle on all runtimes.
fn compare(args: &Args, runtimes: &[Runtime], which: Which) -> Figures {
    let mut places: Vec<Place> = runtimes
        .iter()
        .map(|runtime| Place::new(runtime, which))
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
                for (op, sample) in place.cycle(&warmer, hot) {
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
