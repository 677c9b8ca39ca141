//! Runs the same configurations under several runtimes and compares everything that can be seen.
//!
//! Belongs here: the command line, the runtimes, and the order of things. `configs` has what is run,
//! `run` runs one under one runtime, `look` makes what is seen comparable, `compare` compares, and
//! `known` has the list of differences that are explained.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod compare;
mod configs;
mod known;
mod look;
mod place;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use knarr_integration::{Sandbox, Value, json, peers, runtime};
use nix::sched::CloneFlags;

use compare::Difference;
use configs::Case;
use place::Place;

/// Runs the same configurations under several runtimes and compares everything that can be seen.
#[derive(Debug, Parser)]
struct Args {
    /// Programs to compare with; by default runc, crun where installed, and the newest crun (peers/fetch).
    #[arg(long = "runtime")]
    runtimes: Vec<PathBuf>,
    /// The probe: a static oci-conformance; by default the newest below target/.
    #[arg(long)]
    probe: Option<PathBuf>,
    /// Only configurations whose name has this in it; nothing is stale then.
    #[arg(long)]
    only: Vec<String>,
    /// Of all but the basic ones and those of linux only every so many-th; nothing is stale then.
    #[arg(long, default_value_t = 1)]
    step: usize,
    /// Configurations at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// After so many seconds no further configuration is begun; nothing is stale then.
    #[arg(long, default_value_t = u64::MAX)]
    limit: u64,
    /// Write all reports to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Compare the reports that --json wrote to this file, and run nothing.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Print differences one by one, with explained ones too.
    #[arg(long)]
    all: bool,
    /// Print what runtimes say on standard error.
    #[arg(long)]
    messages: bool,
    /// Print the page for operators and end.
    #[arg(long)]
    page: bool,
    /// Print the configurations' names and end.
    #[arg(long)]
    list: bool,
}

/// A runtime that takes part.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its program.
    pub path: PathBuf,
    /// Name and version, `crun 1.8.1`.
    label: String,
    old: bool,
}

impl Runtime {
    /// Asks the program who it is.
    fn new(path: PathBuf) -> Option<Self> {
        let output = Command::new(&path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.lines().next()?.split_whitespace();
        let (name, version) = (words.next()?, words.nth(1)?);
        Some(Self {
            path,
            label: format!("{name} {version}"),
            old: false,
        })
    }

    /// The ociVersion it gets instead of 1.3.0, where it refuses that.
    pub fn version_wanted(&self) -> Option<&'static str> {
        self.old.then_some("1.0.2")
    }
}

/// More configurations than these are not run again.
const MOST_AGAIN: usize = 20;

/// The label of the runtime under test, whatever its version.
const OURS: &str = "knarr";

/// What was seen, by configuration and runtime.
type Results = BTreeMap<String, BTreeMap<String, Value>>;

/// Where all of it lies.
struct Bench {
    dir: tempfile::TempDir,
    probe: PathBuf,
}

impl Bench {
    fn run(&self, case: &Case, number: usize, runtime: &Runtime, message: &mut String) -> Value {
        // The same length for all runtimes: paths show.
        let name = format!("p{number:04}");
        let cgroup = format!("/{}differ-{}/{name}", Sandbox::PREFIX, std::process::id());
        let place = Place::new(self.dir.path(), &self.probe, &name, cgroup);
        run::run(case, runtime, &place, message)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let known = known::read();
    if args.page {
        print!("{}", known::page(&known));
        return ExitCode::SUCCESS;
    }
    let mut cases = configs::all();
    let whole = args.only.is_empty() && args.step <= 1;
    let all = cases.len();
    let parts = &args.only;
    cases.retain(|case| parts.is_empty() || parts.iter().any(|part| case.name.contains(part)));
    let mut others = 0;
    cases.retain(|case| {
        let basic = ["base/", "linux/"]
            .iter()
            .any(|area| case.name.starts_with(area));
        others += usize::from(!basic);
        basic || others % args.step.max(1) == 0
    });
    if args.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    }
    if !whole {
        println!(
            "a part of the list: {} of {all} configurations",
            cases.len()
        );
    }
    let results = match &args.from {
        Some(file) => saved(file),
        None => match run_here(&args, &cases) {
            Some(results) => results,
            None => return ExitCode::SUCCESS,
        },
    };
    if let Some(path) = &args.json {
        fs::write(path, json!(results).to_string()).unwrap();
    }
    let mut found = Vec::new();
    let mut peers = BTreeSet::new();
    for case in &cases {
        let Some(reports) = results.get(&case.name) else {
            continue;
        };
        found.extend(differences(&case.name, reports));
        peers.extend(reports.keys().filter(|label| *label != OURS).cloned());
    }
    let peers: Vec<String> = peers.into_iter().collect();
    if args.all {
        print(&found);
    }
    if results.len() < cases.len() {
        println!(
            "{} configurations were not run for lack of time",
            cases.len() - results.len()
        );
    }
    let whole = whole && results.len() == cases.len();
    let verdict = known::judge(&known, &found, cgroups(&results), &peers, whole);
    if !args.all {
        print(&verdict.unexplained);
    }
    for entry in &verdict.stale {
        println!("stale: {entry} explains nothing: take it off the list");
    }
    println!(
        "{} configurations, {} differences: {} explained, {} not; {} stale entries",
        results.len(),
        found.len(),
        verdict.explained,
        verdict.unexplained.len(),
        verdict.stale.len()
    );
    ExitCode::from(u8::from(
        !verdict.unexplained.is_empty() || !verdict.stale.is_empty(),
    ))
}

/// All differences of one configuration.
fn differences(case: &str, reports: &BTreeMap<String, Value>) -> Vec<Difference> {
    reports
        .iter()
        .filter(|(label, _)| *label != OURS)
        .flat_map(|(label, report)| compare::compare(case, label, &reports[OURS], report))
        .collect()
}

/// Runs all cases; `None` where no peer can be used.
fn run_here(args: &Args, cases: &[Case]) -> Option<Results> {
    assert!(rustix::process::geteuid().is_root(), "differ needs root");
    let dir = tempfile::Builder::new()
        .prefix(Sandbox::PREFIX)
        .tempdir()
        .unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let probe = dir.path().join("probe");
    fs::copy(args.probe.clone().unwrap_or_else(find_probe), &probe).unwrap();
    own_surroundings(dir.path());
    let bench = Bench { dir, probe };

    let mut ours =
        Runtime::new(runtime::path().to_owned()).expect("the runtime under test says who it is");
    ours.label = OURS.to_owned();
    let mut runtimes = vec![ours];
    runtimes.extend(usable_peers(args, &bench));
    if runtimes.len() == 1 {
        println!("skipped: neither runc nor crun can be used here");
        return None;
    }
    let labels: Vec<&str> = runtimes
        .iter()
        .map(|runtime| runtime.label.as_str())
        .collect();
    println!("{} configurations under {}", cases.len(), labels.join(", "));

    let _options = HostOptions::read();
    let mut results = run_all(&bench, cases, &runtimes, args);
    // What is not explained gets a second chance: a machine that is short of time shows much.
    let entries = known::read();
    let version = cgroups(&results);
    let again: Vec<Case> = cases
        .iter()
        .filter(|case| {
            let found = results
                .get(&case.name)
                .map(|reports| differences(&case.name, reports));
            let verdict = known::judge(&entries, &found.unwrap_or_default(), version, &[], false);
            !verdict.unexplained.is_empty()
        })
        .cloned()
        .collect();
    if again.len() <= MOST_AGAIN {
        results.extend(run_all(&bench, &again, &runtimes, args));
    }
    knarr_integration::cgroup::remove(&format!(
        "/{}differ-{}",
        Sandbox::PREFIX,
        std::process::id()
    ));
    Some(results)
}

/// The options of the host's version 2 tree, put back in the end: a runtime that mounts it anew changes
/// them for the whole host.
struct HostOptions(Option<String>);

impl HostOptions {
    const TREE: &str = "/sys/fs/cgroup";

    fn read() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let tree = mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - cgroup2 ")?;
            (left.split(' ').nth(4)? == Self::TREE).then_some(right)
        });
        let options = tree.and_then(|right| right.split(' ').nth(1));
        Self(options.map(|options| options.trim_start_matches("rw,").to_owned()))
    }
}

impl Drop for HostOptions {
    fn drop(&mut self) {
        use rustix::mount::{MountFlags, mount_remount};
        let Some(options) = &self.0 else { return };
        if let Err(error) = mount_remount(Self::TREE, MountFlags::empty(), options.as_str()) {
            println!("the host's cgroup tree had the options {options}: {error}");
        }
    }
}

/// The version of cgroups where the reports were made: 2 has one hierarchy, at /sys/fs/cgroup itself.
fn cgroups(results: &Results) -> u64 {
    let mut reports = results.values().flat_map(BTreeMap::values);
    let unified = reports.any(|report| report["cgroup"]["cgroup"].is_object());
    if unified { 2 } else { 1 }
}

/// Reports that `--json` wrote.
fn saved(file: &Path) -> Results {
    let text = fs::read(file).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Namespaces of our own for whatever a runtime might change on the host by mistake. The version 2 tree
/// beside version 1 goes: crun refuses such hosts, and all runtimes are to see the same. /dev/null is
/// covered by one below `dir`: crun gives it to users of containers. What else a host has mounted below
/// /sys (tracefs and the like) goes, too: a configuration that binds /sys shows it, or not.
fn own_surroundings(dir: &Path) {
    use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
    nix::sched::unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET,
    )
    .unwrap();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    let null = dir.join("null");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let kind = rustix::fs::FileType::CharacterDevice;
    let number = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, &null, kind, mode, number).unwrap();
    fs::set_permissions(&null, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    rustix::mount::mount_bind(&null, "/dev/null").unwrap();
    // A descriptor that every runtime inherits and no container may have.
    let leak = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR,
        rustix::fs::Mode::empty(),
    );
    std::mem::forget(leak.unwrap());
    let unified = "/sys/fs/cgroup/unified";
    if Path::new(unified).join("cgroup.procs").exists() {
        unmount(unified, UnmountFlags::DETACH).unwrap();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        if point.starts_with("/sys/") && !point.starts_with("/sys/fs/cgroup") {
            // Gone with one that it was in.
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}

/// The peers that can be used here, each with the ociVersion it takes.
fn usable_peers(args: &Args, bench: &Bench) -> Vec<Runtime> {
    let named = if args.runtimes.is_empty() {
        let (runc, cruns) = (peers::runc(), peers::cruns());
        for (name, none) in [("runc", runc.is_none()), ("crun", cruns.is_empty())] {
            if none {
                println!("{}", peers::missing(name));
            }
        }
        runc.into_iter().chain(cruns).collect()
    } else {
        args.runtimes.clone()
    };
    let all = configs::all();
    let least = all.iter().find(|case| case.name == "base/least").unwrap();
    let mut found: Vec<Runtime> = Vec::new();
    for (number, name) in named.iter().enumerate() {
        let Some(mut peer) = runtime::find(name).and_then(Runtime::new) else {
            println!("not installed: {}", name.display());
            continue;
        };
        if found.iter().any(|other| other.label == peer.label) {
            continue;
        }
        let mut message = String::new();
        let mut usable = false;
        for old in [false, true] {
            peer.old = old;
            let report = bench.run(least, 9000 + number, &peer, &mut message);
            if report["accepted"] == "yes" {
                usable = true;
                break;
            }
        }
        if usable {
            found.push(peer);
        } else {
            println!("not usable here: {} ({message})", name.display());
            assert!(!peers::needed(), "{} is needed", name.display());
        }
    }
    found
}

/// The newest static oci-conformance that cargo built here.
fn find_probe() -> PathBuf {
    if let Some(path) = std::env::var_os("KNARR_PROBE_BIN") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let mut found = Vec::new();
    for triple in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"] {
        for profile in ["release", "debug"] {
            let path = target.join(triple).join(profile).join("oci-conformance");
            if let Ok(meta) = fs::metadata(&path) {
                found.push((meta.modified().unwrap(), path));
            }
        }
    }
    // Where both were carried to another machine, it is beside this program.
    let beside = std::env::current_exe()
        .unwrap()
        .with_file_name("oci-conformance");
    let newest = found.into_iter().max().map(|(_, path)| path);
    newest
        .or_else(|| beside.exists().then_some(beside))
        .expect("no static oci-conformance below target/: run `make` first")
}

/// Every case under every runtime, a few cases at a time.
fn run_all(bench: &Bench, cases: &[Case], runtimes: &[Runtime], args: &Args) -> Results {
    let (jobs, messages) = (args.jobs, args.messages);
    let begin = std::time::Instant::now();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Results::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else {
                        return;
                    };
                    if begin.elapsed().as_secs() >= args.limit {
                        return;
                    }
                    let mut reports = BTreeMap::new();
                    for runtime in runtimes {
                        let mut message = String::new();
                        let report = bench.run(case, number, runtime, &mut message);
                        if messages && !message.is_empty() {
                            println!("{}: {}: {message}", case.name, runtime.label);
                        }
                        reports.insert(runtime.label.clone(), report);
                    }
                    results.lock().unwrap().insert(case.name.clone(), reports);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

/// Differences, those that are alike together.
fn print(found: &[Difference]) {
    let mut alike: BTreeMap<(&str, &str, &str, &str), Vec<&str>> = BTreeMap::new();
    for difference in found {
        alike
            .entry((
                &difference.path,
                &difference.peer,
                &difference.ours,
                &difference.theirs,
            ))
            .or_default()
            .push(&difference.case);
    }
    for ((path, peer, ours, theirs), cases) in alike {
        println!("{path}\n    knarr {ours}\n    {peer} {theirs}");
        let more = if cases.len() > 4 {
            format!(" and {} more", cases.len() - 4)
        } else {
            String::new()
        };
        println!("    in {}{more}", cases[..cases.len().min(4)].join("; "));
    }
}
