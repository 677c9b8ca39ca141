//! Docker with knarrd in containerd's place: containers, images, builds, and restarts of either daemon.
//!
//! The newest daemon keeps images and snapshots in knarrd; Debian's, containers alone. What is said of
//! the runtime below containerd (`docker`) is said here again as far as knarrd and its shim have a part in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

#[path = "docker/build.rs"]
#[allow(dead_code, reason = "compositions are no matter of knarrd")]
mod build;
#[path = "docker/confinement.rs"]
#[allow(dead_code, reason = "most of it is the runtime's alone")]
mod confinement;
#[path = "docker/life.rs"]
#[allow(dead_code, reason = "init is the runtime's alone")]
mod life;

use std::fs;

use knarr_integration::cgroup::Driver;
use knarr_integration::daemon::{PATIENCE, Pen};
use knarr_integration::docker::{Docker, IMAGE};
use knarr_integration::peers::{self, Shared, Source};
use knarr_integration::{containerd, process, skip};

use build::{build_classic, build_with_buildkit};
use confinement::{limits_and_update, out_of_memory};
use life::{
    attach_and_kill, detached_stop_start_restart, errors_reach_the_user, exec_variants,
    healthcheck, pause_and_unpause, restart_policy, run_gives_output_and_exit_code,
    run_interactive_on_a_terminal, top_stats_and_logs,
};

static NEWEST: Shared<Docker> = Shared::new(Source::Newest, Driver::Cgroupfs, Docker::on_knarrd);
static DEBIAN: Shared<Docker> = Shared::new(Source::Debian, Driver::Cgroupfs, Docker::on_knarrd);

/// What is missing for that daemon.
fn missing(source: Source) -> Option<String> {
    let names = ["dockerd", "docker-proxy"];
    let lacking = |name: &&str| source.find(name).is_none();
    let clients = ["docker", "docker-buildx"];
    let name = names.into_iter().find(lacking);
    let name = name.or_else(|| {
        clients
            .into_iter()
            .find(|name| peers::client(name).is_none())
    });
    if let Some(name) = name {
        return Some(peers::missing(&format!("{name} ({source:?})")));
    }
    if Source::Newest.find("ctr").is_none() {
        return Some(peers::missing("ctr"));
    }
    let built = containerd::shim();
    built
        .is_none()
        .then(|| "containerd-shim-knarr-v2 is not built: cargo build -p knarr-shim".to_owned())
}

fn on(daemon: &'static Shared<Docker>, test: fn(&Docker)) {
    if let Some(why) = missing(daemon.source) {
        skip!("{why}");
    }
    let it = daemon.get();
    let _watch = it.watch();
    test(it);
}

knarr_integration::with_daemon!(
    newest, NEWEST:
    nothing_but_our_shim_runs,
    events_are_told,
    run_gives_output_and_exit_code,
    run_interactive_on_a_terminal,
    detached_stop_start_restart,
    exec_variants,
    pause_and_unpause,
    limits_and_update,
    out_of_memory,
    healthcheck,
    errors_reach_the_user,
    top_stats_and_logs,
    attach_and_kill,
    restart_policy,
    build_classic,
    build_with_buildkit,
);

knarr_integration::with_daemon!(
    debian, DEBIAN:
    nothing_but_our_shim_runs,
    events_are_told,
    run_gives_output_and_exit_code,
    exec_variants,
    out_of_memory,
    attach_and_kill,
    build_classic,
);

/// With nothing said of runtimes; and its runtime's name by itself does it as well.
fn nothing_but_our_shim_runs(it: &Docker) {
    let box_ = it.detached(&[], "ours", "sleep 600");
    let id = box_.inspect("{{.Id}}");
    let shim = it.pen.run(&["pgrep", "-af", &id]).ok();
    assert_eq!(shim.lines().len(), 1, "{shim:#?}");
    assert!(shim.stdout.contains(containerd::SHIM), "{shim:#?}");
    if it.source == Source::Newest {
        let flags = ["--runtime", "io.containerd.knarr.v2"];
        it.sh(&flags, "exit 8").exits(8);
    }
    // The newest keeps them in knarrd.
    let snapshots = ["ctr", "-a", it.socket(), "-n", "moby", "snapshots", "ls"];
    let kept = it.pen.run(&snapshots).ok().stdout.contains(&id);
    assert_eq!(kept, it.source == Source::Newest);
}

fn events_are_told(it: &Docker) {
    let flags = ["--name", "told"];
    it.sh(&flags, "exit 3").exits(3);
    let filter = ["--filter", "container=told", "--format", "{{.Action}}"];
    let said = || {
        let since = ["events", "--since", "10m", "--until", "0s"];
        it.docker(&[&since[..], &filter].concat()).ok().stdout
    };
    assert!(process::eventually(PATIENCE, || said().contains("destroy")));
    let said = said();
    let own: Vec<&str> = said.lines().collect();
    for action in ["create", "start", "die", "destroy"] {
        let times = own.iter().filter(|line| **line == action).count();
        assert_eq!(times, 1, "{action}: {own:?}");
    }
}

/// Blobs that knarrd has of Docker's.
fn blobs(it: &Docker) -> String {
    let list = [
        "ctr",
        "-a",
        it.socket(),
        "-n",
        "moby",
        "content",
        "ls",
        "-q",
    ];
    it.pen.run(&list).ok().stdout
}

fn registry(pen: &Pen) {
    let config = pen.path("registry.yml");
    let text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:5000\n",
        pen.path("registry").display()
    );
    fs::write(&config, text).unwrap();
    pen.daemon(
        "registry",
        &["docker-registry", "serve", config.to_str().unwrap()],
    );
    let answers = || pen.run(&["bash", "-c", ": </dev/tcp/127.0.0.1/5000"]).code == 0;
    pen.wait_for("registry", answers);
}

#[test]
fn images_come_and_go() {
    if let Some(why) = missing(Source::Newest) {
        skip!("{why}");
    }
    if let Err(why) = peers::installed("docker-registry") {
        skip!("{why}");
    }
    let it = Docker::on_knarrd(Source::Newest, Driver::Cgroupfs);
    let _watch = it.watch();
    let has = |image: &str, script: &str| {
        let out = it.docker(&["run", "--rm", image, "sh", "-c", script]).ok();
        out.stdout
    };
    let box_ = it.detached(
        &[],
        "changed",
        "echo changed > /made; rm /etc/group; sleep 600",
    );
    box_.wait_until("test -e /made -a ! -e /etc/group");
    it.docker(&["commit", "changed", "made:1"]).ok();
    drop(box_);
    let changed = "cat /made; test -e /etc/group || echo gone";
    assert_eq!(has("made:1", changed), "changed\ngone\n");

    let tar = it.pen.path("saved.tar");
    let tar = tar.to_str().unwrap();
    it.docker(&["save", "-o", tar, "made:1"]).ok();
    it.docker(&["rmi", "made:1"]).ok();
    it.docker(&["run", "--rm", "--pull=never", "made:1", "true"])
        .exits(125);
    it.docker(&["load", "-i", tar]).ok();
    assert_eq!(has("made:1", changed), "changed\ngone\n");
    let rootfs = it.pen.path("image/layer.tar");
    it.docker(&["import", rootfs.to_str().unwrap(), "imported:1"])
        .ok();
    assert_eq!(has("imported:1", "echo it"), "it\n");

    registry(&it.pen);
    let there = "127.0.0.1:5000/a/made:2";
    it.docker(&["tag", "made:1", there]).ok();
    it.docker(&["push", there]).ok();
    it.docker(&["rmi", "-f", "made:1", there, "imported:1", IMAGE])
        .ok();
    let gone = process::eventually(PATIENCE, || blobs(&it).is_empty());
    assert!(gone, "{}", blobs(&it));
    it.docker(&["pull", there]).ok();
    assert_eq!(has(there, changed), "changed\ngone\n");
    it.docker(&["pull", "127.0.0.1:5000/a/none"])
        .fails_with("not found");
    it.docker(&["system", "prune", "-af"]).ok();
    let left = it.docker(&["image", "ls", "-aq"]).ok();
    assert_eq!(left.text(), "");
    let snapshots = ["ctr", "-a", it.socket(), "-n", "moby", "snapshots", "ls"];
    let empty = || blobs(&it).is_empty() && it.pen.run(&snapshots).ok().lines().len() == 1;
    assert!(process::eventually(PATIENCE, empty), "{}", blobs(&it));
}

/// Either daemon is killed and started again: containers go on, and what ends meanwhile is heard of.
#[test]
fn containers_outlive_both_daemons() {
    if let Some(why) = missing(Source::Newest) {
        skip!("{why}");
    }
    let it = Docker::on_knarrd(Source::Newest, Driver::Cgroupfs);
    let _watch = it.watch();
    let script = "trap 'exit 9' TERM; while :; do sleep 0.1; done";
    let [ends, stays] = ["ends", "stays"].map(|name| it.detached(&[], name, script));
    let pid = |of: &str| {
        it.docker(&["inspect", "-f", "{{.State.Pid}}", of])
            .ok()
            .text()
            .to_owned()
    };
    let pids = [pid("ends"), pid("stays")];
    let exec = it.spawn(&[
        "exec",
        "stays",
        "sh",
        "-c",
        "until test -e /tmp/go; do sleep 0.1; done; exit 5",
    ]);
    stays.wait_until("ps | grep -q '[g]o; do'");
    let kill = |name: &str| {
        it.pen
            .run(&["sh", "-c", &format!("kill -9 $(pidof {name})")])
            .ok();
        let ended = || it.pen.run(&["pidof", name]).code != 0;
        assert!(process::eventually(PATIENCE, ended));
    };
    kill("knarrd");
    it.pen.run(&["kill", "-TERM", &pids[0]]).ok();
    let go = format!("/proc/{}/root/tmp/go", pids[1]);
    it.pen.run(&["touch", &go]).ok();
    let gone = || it.pen.run(&["kill", "-0", &pids[0]]).code != 0;
    assert!(process::eventually(PATIENCE, gone));
    it.start_manager();
    ends.becomes("{{.State.Status}} {{.State.ExitCode}}", "exited 9");
    exec.wait().exits(5);
    assert_eq!(stays.status(), "running");
    stays.exec(&[], "exit 6").exits(6);
    it.docker(&["start", "ends"]).ok();
    assert_eq!(ends.status(), "running");

    kill("dockerd");
    it.pen.run(&["rm", "-f", "/run/docker.pid"]).ok();
    it.pen.run(&["kill", "-TERM", &pids[1]]).ok();
    it.start_dockerd();
    stays.becomes("{{.State.Status}} {{.State.ExitCode}}", "exited 9");
    assert_eq!(ends.status(), "running");
    ends.exec(&[], "exit 7").exits(7);
    it.docker(&["stop", "ends"]).ok();
    assert_eq!(ends.inspect("{{.State.ExitCode}}"), "9");
}
