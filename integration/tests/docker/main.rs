//! Docker with the runtime under test in runc's place: the newest daemon and Debian's.
//!
//! One daemon of each for the whole file, in namespaces of its own; tests keep apart by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod build;
mod confinement;
mod life;
mod surroundings;

use knarr_integration::cgroup::Driver;
use knarr_integration::daemon::PATIENCE;
use knarr_integration::docker::{Docker, RUNTIME};
use knarr_integration::peers::{self, Shared, Source};
use knarr_integration::{process, skip};

use build::{build_classic, build_with_buildkit, compose_up_and_down};
use confinement::{
    capabilities, devices, limits_and_update, out_of_memory, privileged, read_only_and_user,
    security_options, ulimits_sysctls_and_friends,
};
use life::{
    attach_and_kill, detached_stop_start_restart, errors_reach_the_user, exec_variants,
    healthcheck, init_reaps, pause_and_unpause, restart_policy, run_gives_output_and_exit_code,
    run_interactive_on_a_terminal, top_stats_and_logs,
};
use surroundings::{
    namespaces_of_another_container, networks, process_namespace_of_the_host, published_ports,
    volumes_and_tmpfs,
};

static NEWEST: Shared<Docker> = Shared::new(Source::Newest, Driver::Cgroupfs, Docker::new);
static DEBIAN: Shared<Docker> = Shared::new(Source::Debian, Driver::Cgroupfs, Docker::new);

/// What is missing for that daemon.
fn missing(source: Source) -> Option<String> {
    let names = [
        "containerd",
        "ctr",
        "containerd-shim-runc-v2",
        "dockerd",
        "docker-proxy",
    ];
    let daemons = names.into_iter().find(|name| source.find(name).is_none());
    let clients = ["docker", "docker-compose", "docker-buildx"];
    let name = daemons.or_else(|| {
        clients
            .into_iter()
            .find(|name| peers::client(name).is_none())
    })?;
    Some(peers::missing(&format!("{name} ({source:?})")))
}

fn on(daemon: &'static Shared<Docker>, test: fn(&Docker)) {
    if let Some(why) = missing(daemon.source) {
        skip!("{why}");
    }
    let it = daemon.get();
    let _watch = it.watch();
    test(it);
}

knarr_integration::both!(
    the_daemon_knows_the_runtime,
    run_gives_output_and_exit_code,
    run_interactive_on_a_terminal,
    detached_stop_start_restart,
    exec_variants,
    pause_and_unpause,
    limits_and_update,
    out_of_memory,
    capabilities,
    privileged,
    read_only_and_user,
    init_reaps,
    process_namespace_of_the_host,
    namespaces_of_another_container,
    networks,
    published_ports,
    volumes_and_tmpfs,
    devices,
    security_options,
    ulimits_sysctls_and_friends,
    healthcheck,
    errors_reach_the_user,
    top_stats_and_logs,
    attach_and_kill,
    restart_policy,
    build_classic,
    build_with_buildkit,
    compose_up_and_down,
    as_runc,
);

fn the_daemon_knows_the_runtime(it: &Docker) {
    let info = it.docker(&["info", "--format", "{{json .}}"]).ok().json();
    assert_eq!(info["DefaultRuntime"], RUNTIME);
    assert!(!info["Runtimes"][RUNTIME].is_null(), "{info}");
    let box_ = it.detached(&[], "knows", "sleep 600");
    assert_eq!(box_.inspect("{{.HostConfig.Runtime}}"), RUNTIME);
    // Where it keeps its state is the caller's choice, and nobody else's.
    let id = box_.inspect("{{.Id}}");
    let found = it
        .pen
        .run(&["find", "/run/docker", "-name", &id, "-path", "*runtime-*"])
        .ok();
    assert!(!found.text().is_empty(), "no state of it below /run/docker");
}

/// Dropped in as `runc`, with nothing configured.
fn as_runc(it: &Docker) {
    let box_ = it.detached(&["--runtime", "runc"], "asrunc", "sleep 600");
    assert_eq!(box_.inspect("{{.HostConfig.Runtime}}"), "runc");
    box_.exec(&[], "exit 13").exits(13);
    it.docker(&["pause", "asrunc"]).ok();
    it.docker(&["unpause", "asrunc"]).ok();
    it.docker(&["update", "--memory", "64m", "--memory-swap", "-1", "asrunc"])
        .ok();
    it.docker(&["stop", "-t", "1", "asrunc"]).ok();
    it.docker(&["start", "asrunc"]).ok();
    it.docker(&["rm", "-f", "asrunc"]).ok();
    it.detached(&[], "asrunc", "true");
    // Callers ask for its version under that name.
    let version = it.pen.run(&["runc", "--version"]).ok();
    assert!(version.stdout.contains(" version "), "{version:#?}");
}

/// dockerd and its containerd are killed and started again: containers go on, and answer.
#[test]
fn containers_outlive_the_daemon() {
    if let Some(why) = missing(Source::Newest) {
        skip!("{why}");
    }
    let it = Docker::new(Source::Newest, Driver::Cgroupfs);
    let _watch = it.watch();
    let box_ = it.detached(&[], "outlives", "while :; do sleep 0.1; done");
    let pid = box_.inspect("{{.State.Pid}}");
    it.pen
        .run(&["sh", "-c", "kill -9 $(pidof dockerd containerd)"])
        .ok();
    assert!(process::eventually(PATIENCE, || it
        .pen
        .run(&["pidof", "dockerd"])
        .code
        != 0));
    it.pen.run(&["rm", "-f", "/run/docker.pid"]).ok();
    it.start();
    assert_eq!(box_.inspect("{{.State.Pid}}"), pid);
    assert_eq!(box_.status(), "running");
    box_.exec(&[], "exit 6").exits(6);
    it.docker(&["stop", "-t", "1", "outlives"]).ok();
    assert_eq!(box_.inspect("{{.State.ExitCode}}"), "137");
}
