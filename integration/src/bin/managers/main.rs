//! Compares knarrd with containerd: runs, execs, pulls, many containers, long lists, memory.
//!
//! Belongs here: the command line and the order of measurements. `daemons` starts and watches the two,
//! `image` makes what is pulled, `api` measures what ctr's own start would hide, `report` prints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod daemons;
mod image;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use knarr_integration::cgroup::Driver;
use knarr_integration::daemon::Pen;
use knarr_integration::{bundle, peers};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use api::Api;
use daemons::{Daemon, Kind};
use report::Report;

/// The image of the containers.
const IMAGE: &str = "knarr.test/box:1";

/// Compares knarrd with containerd and runc.
#[derive(Debug, Parser)]
struct Args {
    /// How often `ctr run` and an exec are measured on each.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How often each image is pulled, by each into a file system made for it.
    #[arg(long, default_value_t = 3)]
    pulls: usize,
    /// How many containers are started at once.
    #[arg(long, default_value_t = 200)]
    containers: usize,
    /// How many records the long lists have.
    #[arg(long, default_value_t = 10_000)]
    records: usize,
    /// Only these.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Also write all figures to a file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the image that is pulled is kept; made where it is missing.
    #[arg(long, default_value = "target/bench-image")]
    image: PathBuf,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Memory of the daemons, idle and with 20 containers.
    Memory,
    /// `ctr run --rm` of `true`.
    Run,
    /// An exec of `true` through the API.
    Exec,
    /// Many containers, started at once; and a restart of the daemon under them.
    Many,
    /// Lists of many records.
    Lists,
    /// Pull and unpack of an image of 570 MB.
    Pull,
}

fn main() {
    let args = Args::parse();
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut path = peers::Source::Newest.path();
    path.extend(peers::runc().and_then(|runc| Some(runc.parent()?.to_owned())));
    let pen = Pen::new(&path, Driver::Cgroupfs);
    daemons::provide_shim(&pen);
    let mut report = Report::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();

    if [Part::Memory, Part::Run, Part::Exec, Part::Many, Part::Lists]
        .into_iter()
        .any(wanted)
    {
        let file = pen.path("box.tar");
        bundle::image(&pen.path("image"), &file, IMAGE, &["/bin/sh"]);
        let mut both = Kind::ALL.map(|kind| Daemon::start(&pen, kind, "root"));
        for daemon in &mut both {
            daemon.ctr(&["image", "import", file.to_str().unwrap()]);
            // As operators have it: not just after an import.
            daemon.restart();
        }
        if wanted(Part::Memory) {
            memory(&mut report, &both);
        }
        if wanted(Part::Run) {
            runs(&mut report, &both, args.rounds);
        }
        for daemon in &mut both {
            let mut api = runtime.block_on(Api::connect(daemon));
            if wanted(Part::Run) {
                runtime.block_on(api.runs(daemon, &mut report, args.rounds));
            }
            if wanted(Part::Exec) {
                runtime.block_on(api.execs(daemon, &mut report, args.rounds * 10));
            }
            if wanted(Part::Many) {
                runtime.block_on(api.many(daemon, &mut report, args.containers));
            }
            if wanted(Part::Lists) {
                runtime.block_on(api.lists(daemon, &mut report, args.records));
            }
        }
    }
    if wanted(Part::Pull) {
        pulls(&mut report, &pen, &args);
    }
    report.print();
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()).unwrap();
    }
}

/// Memory of the daemon alone: idle, and while it looks after 20 containers.
fn memory(report: &mut Report, both: &[Daemon<'_>]) {
    for daemon in both {
        std::thread::sleep(Duration::from_secs(5));
        report.add("memory idle, MB", daemon, daemon.memory());
        for index in 0..20 {
            daemon.run(&["-d"], &format!("m{index}"), &["sleep", "1000"]);
        }
        std::thread::sleep(Duration::from_secs(5));
        report.add("memory with 20 containers, MB", daemon, daemon.memory());
        report.add(
            "memory of one container's shim, MB",
            daemon,
            daemon.shim_memory() / 20.0,
        );
        for index in 0..20 {
            daemon.remove(&format!("m{index}"));
        }
    }
}

/// `ctr run --rm`: the time that its user waits, and the CPU time of all but the client and the
/// container.
fn runs(report: &mut Report, both: &[Daemon<'_>], rounds: usize) {
    for round in 0..=rounds {
        for daemon in both {
            let (cpu, own, start) = (daemon.cpu(), clients(), Instant::now());
            daemon.run(&["--rm"], &format!("r{round}"), &["true"]);
            let (wall, own) = (start.elapsed(), clients() - own);
            // What is tidied up after the answer counts as well.
            std::thread::sleep(Duration::from_millis(100));
            // The first one fills caches.
            if round > 0 {
                report.add("ctr run --rm true, ms", daemon, millis(wall));
                report.add("ctr's own CPU of that, ms", daemon, millis(own));
                report.add(
                    "ctr run --rm true, CPU ms",
                    daemon,
                    millis(daemon.cpu() - cpu),
                );
            }
        }
    }
}

/// The CPU time of the programs that this one has run to their ends.
fn clients() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let times = [usage.user_time(), usage.system_time()];
    let micros: i64 = times.iter().map(|time| time.num_microseconds()).sum();
    Duration::from_micros(u64::try_from(micros).unwrap())
}

/// Pulls, each into a file system that was never used: ext4 with a journal, in memory.
fn pulls(report: &mut Report, pen: &Pen, args: &Args) {
    let store = image::make(&args.image);
    image::serve(pen, &store);
    for _ in 0..args.pulls {
        for compression in image::COMPRESSIONS {
            for kind in Kind::ALL {
                let disk = image::Disk::new(pen);
                let daemon = Daemon::start(pen, kind, disk.name());
                let (cpu, start) = (daemon.cpu(), Instant::now());
                let name = image::reference(compression);
                daemon.ctr(&["image", "pull", "--plain-http", &name]);
                let wall = start.elapsed();
                report.add(
                    &format!("pull and unpack, {compression}, s"),
                    &daemon,
                    wall.as_secs_f64(),
                );
                report.add(
                    &format!("pull and unpack, {compression}, CPU s"),
                    &daemon,
                    (daemon.cpu() - cpu).as_secs_f64(),
                );
                image::check(&daemon, &name);
                drop(daemon);
            }
        }
    }
}

/// Milliseconds.
fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
