//! The shim itself, under containerd: what it holds, what it leaves, and what it costs.
//!
//! What clients see of it is tested with the same tests as runc's shim, in `containerd.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::process::Stdio;

use knarr_integration::cgroup::Driver;
use knarr_integration::containerd::{self, Containerd, Events, SHIM};
use knarr_integration::daemon::PATIENCE;
use knarr_integration::peers::{self, Shared, Source};
use knarr_integration::{Value, cgroup, process, runtime, skip};

static NEWEST: Shared<Containerd> =
    Shared::new(Source::Newest, Driver::Cgroupfs, Containerd::with_shim);
static DEBIAN: Shared<Containerd> =
    Shared::new(Source::Debian, Driver::Cgroupfs, Containerd::with_shim);

fn on(daemon: &'static Shared<Containerd>, test: fn(&Containerd)) {
    if containerd::shim().is_none() {
        skip!("{SHIM} is not built: cargo build -p knarr-shim");
    }
    let missing = ["containerd", "ctr"]
        .into_iter()
        .find(|name| daemon.source.find(name).is_none());
    if let Some(name) = missing {
        let why = peers::missing(&format!("{name} ({:?})", daemon.source));
        skip!("{why}");
    }
    let it = daemon.get();
    let _watch = it.watch();
    test(it);
}

knarr_integration::both!(
    a_pod_has_one_shim,
    a_killed_shim_is_cleaned_up,
    nothing_is_left_of_a_container,
    created_and_never_started,
    a_client_that_goes_away,
    wrong_requests,
    idle_memory,
    execs_leave_nothing,
    figures_are_those_of_runcs_shim,
);

/// The shims of a container's group, as this process counts: by an argument of theirs.
fn shims(it: &Containerd, id: &str) -> Vec<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let inside = it.pen.run(&["readlink", "/proc/self/ns/mnt"]).ok();
    process_ids()
        .filter(|pid| {
            namespace(*pid).is_some_and(|found| found.as_os_str() == inside.text())
                && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
                    words
                        .first()
                        .is_some_and(|name| name.ends_with(SHIM.as_bytes()))
                        && words.contains(&id.as_bytes())
                })
        })
        .collect()
}

fn process_ids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn shim_of(it: &Containerd, id: &str) -> u32 {
    let found = shims(it, id);
    assert_eq!(found.len(), 1, "one shim of {id}: {found:?}");
    found[0]
}

fn a_pod_has_one_shim(it: &Containerd) {
    let group = "--annotation=io.kubernetes.cri.sandbox-id=pod1";
    let one = it.detached(&[group], "pod1", "sleep 600");
    let two = it.detached(
        &[group],
        "member",
        "trap 'exit 4' TERM; touch /tmp/up; while :; do sleep 0.05; done",
    );
    two.wait_until("test -e /tmp/up");
    let shim = shim_of(it, "pod1");
    assert_eq!(shims(it, "member"), [0; 0], "a shim of its own");
    one.exec(&[], "exit 5").exits(5);
    two.exec(&[], "exit 6").exits(6);
    it.ctr(&["task", "kill", "member"]).ok();
    two.becomes("STOPPED");
    two.delete();
    one.exec(&[], "exit 7").exits(7);
    assert_eq!(shim_of(it, "pod1"), shim);
    // The kernel ends it sooner than the daemon.
    let score = |pid: &str| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    assert_eq!(score(&shim.to_string()), (score("self") + 1).min(1000));
}

/// The daemon sees the shim end, and calls it to clean up.
fn a_killed_shim_is_cleaned_up(it: &Containerd) {
    let box_ = it.detached(&[], "orphan", "sleep 600");
    let shim = shim_of(it, "orphan");
    let kill = format!("-9 {shim}");
    assert!(
        std::process::Command::new("kill")
            .args(kill.split(' '))
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    assert!(
        process::eventually(PATIENCE, || cgroup::tree(&it.cgroup("orphan")).is_empty()),
        "the cgroup is left: {:?}",
        cgroup::tree(&it.cgroup("orphan"))
    );
    box_.delete();
    it.ctr(&["container", "rm", "orphan"]).ok();
    it.run(&[], "orphan", "exit 8").exits(8);
}

fn nothing_is_left_of_a_container(it: &Containerd) {
    it.run(&[], "gone", "echo; exit 9").exits(9);
    assert!(cgroup::tree(&it.cgroup("gone")).is_empty());
    assert!(process::eventually(PATIENCE, || shims(it, "gone").is_empty()));
    let left = it.pen.run(&[
        "sh",
        "-c",
        "find /run/containerd/knarr -name 'gone*'; grep gone /proc/self/mounts",
    ]);
    assert_eq!(left.stdout, "");
}

/// A container that is created and fails to start, and goes without having run.
fn created_and_never_started(it: &Containerd) {
    let mut args = it.run_args(&["--rm"], "wrong", "");
    args.truncate(args.len() - 3);
    args.push("/no/such/program".to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = it.ctr(&args).fails();
    assert!(out.stderr.contains("no such file or directory"), "{out:#?}");
    it.ctr(&["container", "rm", "wrong"]);
    assert!(process::eventually(PATIENCE, || shims(it, "wrong").is_empty()));
    assert!(cgroup::tree(&it.cgroup("wrong")).is_empty());
}

/// Writing when nobody reads any more waits, and does not end the container; and a reader gets all.
fn a_client_that_goes_away(it: &Containerd) {
    let box_ = it.detached(
        &[],
        "unread",
        "n=0; while [ $n -lt 200 ]; do n=$((n+1)); echo line $n; done; touch /tmp/up; sleep 600",
    );
    box_.wait_until("test -e /tmp/up");
    box_.becomes("RUNNING");
    let out = box_
        .exec(&[], "head -c 3000000 /dev/zero | tr '\\0' x")
        .ok();
    assert_eq!(out.stdout.len(), 3_000_000);
}

fn wrong_requests(it: &Containerd) {
    let box_ = it.detached(&[], "asked", "sleep 600");
    let again = it.run_args(&["-d"], "asked", "true");
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    it.ctr(&again).fails();
    let out = it.ctr(&["task", "rm", "asked"]).fails();
    assert!(out.stderr.contains("must be stopped"), "{out:#?}");
    let out = it.ctr(&["task", "resume", "asked"]).fails();
    assert!(
        out.stderr.contains("cannot resume a running process"),
        "{out:#?}"
    );
    let out = box_.exec(&[], "exec /no/such/program").exits(127);
    assert!(out.stderr.contains("not found"), "{out:#?}");
    let out = it.ctr(&["task", "exec", "--exec-id", "none", "asked", "/no/such"]);
    assert!(
        out.code != 0 && out.stderr.contains("no such file or directory"),
        "{out:#?}"
    );
    it.ctr(&["task", "kill", "--exec-id", "nobody", "asked"])
        .fails();
    let events = Events::listen(it);
    box_.exec(&[], "true").ok();
    events.wait("asked", "/tasks/exec-started");
}

/// The same figures are there, and those that nobody's work changes are equal.
fn figures_are_those_of_runcs_shim(it: &Containerd) {
    if it.source.find("containerd-shim-runc-v2").is_none() {
        skip!("no containerd-shim-runc-v2");
    }
    let limits = ["--memory-limit", "67108864"];
    let own = it.detached(&limits, "figures", "sleep 600");
    let mut args = it.run_args(&[&["-d"], &limits[..]].concat(), "figures2", "sleep 600");
    let runtime = args.iter().position(|word| word == "--runtime").unwrap();
    args.splice(
        runtime..runtime + 2,
        [
            "--runc-binary".to_owned(),
            runtime::path().display().to_string(),
        ],
    );
    it.ctr(&args.iter().map(String::as_str).collect::<Vec<_>>())
        .ok();
    let figures = |id: &str| {
        it.ctr(&["task", "metrics", "--format", "json", id])
            .ok()
            .json()
    };
    let (ours, theirs) = (figures("figures"), figures("figures2"));
    let mut wrong = Vec::new();
    compare("", &ours, &theirs, &mut wrong);
    it.ctr(&["task", "rm", "--force", "figures2"]).ok();
    it.ctr(&["container", "rm", "figures2"]).ok();
    drop(own);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn compare(path: &str, ours: &Value, theirs: &Value, wrong: &mut Vec<String>) {
    let fixed = ["limit", "max", "pagesize", "usage_limit", "swap_limit"];
    match (ours, theirs) {
        (Value::Object(one), Value::Object(other)) => {
            for (key, theirs) in other {
                // The addresses of devices' figures depend on what was read from which disk.
                if !["blkio", "io", "usage"].contains(&key.as_str()) || !theirs.is_array() {
                    compare(
                        &format!("{path}.{key}"),
                        one.get(key).unwrap_or(&Value::Null),
                        theirs,
                        wrong,
                    );
                }
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            if one.len() != other.len() {
                wrong.push(format!("{path}: {one:?}, but {other:?}"));
            }
            let sorted = |list: &[Value]| {
                let mut list = list.to_vec();
                list.sort_by_key(|one| one["pagesize"].to_string());
                list
            };
            for (one, other) in sorted(one).iter().zip(&sorted(other)) {
                compare(path, one, other, wrong);
            }
        }
        (Value::Number(one), Value::Number(other)) => {
            let last = path.rsplit('.').next().unwrap_or_default();
            if fixed.contains(&last) && one != other && !(last == "max" && path.contains("memory"))
            {
                wrong.push(format!("{path}: {one}, but {other}"));
            }
        }
        (one, other) => {
            if one != other && !(other.is_null() || other == &Value::from(0)) {
                wrong.push(format!("{path}: {one}, but {other}"));
            }
        }
    }
}

/// A line of /proc/PID/smaps_rollup, in kilobytes.
fn memory(pid: u32, name: &str) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse().unwrap()
}

/// Neither memory nor descriptors.
fn execs_leave_nothing(it: &Containerd) {
    let box_ = it.detached(&[], "execs", "sleep 600");
    let shim = shim_of(it, "execs");
    let rounds = |count: usize| {
        for _ in 0..count {
            box_.exec(&[], "exit 3").exits(3);
        }
        let fds = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
        (memory(shim, "Private_Dirty:"), fds)
    };
    let (before, after) = (rounds(20), rounds(60));
    assert!(after.0 <= before.0 + 4, "{before:?} {after:?}");
    // A connection of the daemon may have come or gone.
    assert!(after.1 <= before.1 + 1, "{before:?} {after:?}");
}

/// Twenty pods of one container that do nothing.
fn idle_memory(it: &Containerd) {
    const IDS: [&str; 20] = [
        "idle0", "idle1", "idle2", "idle3", "idle4", "idle5", "idle6", "idle7", "idle8", "idle9",
        "idle10", "idle11", "idle12", "idle13", "idle14", "idle15", "idle16", "idle17", "idle18",
        "idle19",
    ];
    let pods = IDS.map(|id| it.detached(&[], id, "sleep 600"));
    let figure = |name: &str| {
        let all = IDS.map(|id| memory(shim_of(it, id), name));
        all.iter().sum::<u64>() / 20
    };
    let (pss, private) = (figure("Pss:"), figure("Private_Dirty:"));
    eprintln!(
        "{:?}: an idle pod's shim: PSS {pss} kB, private dirty {private} kB",
        it.source
    );
    let threads = fs::read_dir(format!("/proc/{}/task", shim_of(it, "idle0"))).unwrap();
    assert_eq!(threads.count(), 1);
    // Of the program as it is installed; others are larger.
    let size = fs::metadata(containerd::shim().unwrap()).unwrap().len();
    if size < 3 << 20 {
        assert!(pss <= 512, "PSS {pss} kB");
        assert!(private <= 307, "private dirty {private} kB");
    }
    drop(pods);
}
