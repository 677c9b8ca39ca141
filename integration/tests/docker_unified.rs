//! Docker with the runtime under test where cgroup v2, systemd and AppArmor are: in the virtual
//! machine. What does not depend on those is in `docker`.
//!
//! The newest daemon with both drivers for cgroups, and the machine's own; everything is slow there,
//! so a test asks one container for much, and gives it a network only where that matters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::path::Path;

use knarr_integration::cgroup::{self, Driver};
use knarr_integration::daemon::PATIENCE;
use knarr_integration::docker::Docker;
use knarr_integration::peers::{self, Shared, Source};
use knarr_integration::{process, skip};

static SYSTEMD: Shared<Docker> = Shared::new(Source::Newest, Driver::Systemd, Docker::new);
static CGROUPFS: Shared<Docker> = Shared::new(Source::Newest, Driver::Cgroupfs, Docker::new);
static DEBIAN: Shared<Docker> = Shared::new(Source::Debian, Driver::Systemd, Docker::new);

fn on(daemon: &'static Shared<Docker>, test: fn(&Docker)) {
    if let Some(why) = daemon.driver.missing() {
        skip!("{why}");
    }
    let source = daemon.source;
    let lacking = ["containerd", "ctr", "containerd-shim-runc-v2", "dockerd"]
        .into_iter()
        .find(|name| source.find(name).is_none())
        .or_else(|| peers::client("docker").is_none().then_some("docker"));
    if let Some(name) = lacking {
        let why = peers::missing(&format!("{name} ({source:?})"));
        skip!("{why}");
    }
    let it = daemon.get();
    let _watch = it.watch();
    test(it);
}

knarr_integration::with_daemon!(systemd, SYSTEMD:
    limits_updates_and_pauses,
    out_of_memory,
    cgroup_namespaces,
    privileged,
    devices_and_processes,
    apparmor,
    checkpoint,
);
knarr_integration::with_daemon!(cgroupfs, CGROUPFS:
    limits_updates_and_pauses,
    out_of_memory,
);
knarr_integration::with_daemon!(debian, DEBIAN:
    limits_updates_and_pauses,
    apparmor,
    checkpoint,
);

/// Without a network, which costs the most time.
const ALONE: [&str; 2] = ["--network", "none"];

/// What systemd says of a unit's properties, a line each.
fn show(it: &Docker, unit: &str, properties: &str) -> String {
    it.pen
        .run(&["systemctl", "show", "-p", properties, unit])
        .ok()
        .stdout
}

fn limits_updates_and_pauses(it: &Docker) {
    let limits = "--memory=64m --memory-swap=96m --memory-reservation=32m --cpus=0.5 \
        --cpuset-cpus=0 --pids-limit=20";
    let flags: Vec<&str> = ALONE.into_iter().chain(limits.split(' ')).collect();
    let box_ = it.detached(&flags, "limits", "while :; do sleep 0.1; done");
    let group = box_.cgroup();
    let unit = Path::new(&group)
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let files = || {
        [
            "memory.max",
            "memory.swap.max",
            "memory.low",
            "cpu.max",
            "cpuset.cpus",
            "pids.max",
        ]
        .map(|file| cgroup::read("", &group, file))
    };
    assert_eq!(
        files(),
        [
            "67108864",
            "33554432",
            "33554432",
            "50000 100000",
            "0",
            "20"
        ]
    );
    it.docker(&[
        "update",
        "--memory=128m",
        "--memory-swap=256m",
        "--cpus=0.25",
        "--pids-limit=50",
        "limits",
    ])
    .ok();
    let updated = [
        "134217728",
        "134217728",
        "33554432",
        "25000 100000",
        "0",
        "50",
    ];
    assert_eq!(files(), updated);

    if it.driver == Driver::Systemd {
        let shown = show(
            it,
            &unit,
            "Slice,MemoryMax,CPUQuotaPerSecUSec,TasksMax,AllowedCPUs,Delegate",
        );
        let slice = format!("Slice={}", it.pen.cgroup().trim_start_matches('/'));
        for wanted in [
            slice.as_str(),
            "MemoryMax=134217728",
            "CPUQuotaPerSecUSec=250ms",
            "TasksMax=50",
            "AllowedCPUs=0",
            "Delegate=yes",
        ] {
            assert!(
                shown.lines().any(|line| line == wanted),
                "{wanted}: {shown}"
            );
        }
        it.pen.run(&["systemctl", "daemon-reload"]).ok();
        assert_eq!(files(), updated);
    }
    // Where the init is, and with its devices.
    let before = cgroup::processes(&group).len();
    it.docker(&["exec", "-d", "limits", "sleep", "600"]).ok();
    assert!(process::eventually(PATIENCE, || {
        cgroup::processes(&group).len() > before
    }));
    let script = "echo > /dev/null && mknod /tmp/k c 1 11 && head -c 1 /tmp/k || echo refused";
    assert_eq!(box_.exec(&[], script).ok().text(), "refused");

    it.docker(&["pause", "limits"]).ok();
    assert_eq!(cgroup::read("", &group, "cgroup.freeze"), "1");
    assert_eq!(box_.status(), "paused");
    it.docker(&["unpause", "limits"]).ok();
    assert_eq!(cgroup::read("", &group, "cgroup.freeze"), "0");
    let stats = it
        .docker(&["stats", "--no-stream", "--format", "{{json .}}", "limits"])
        .ok()
        .json();
    let memory = stats["MemUsage"].as_str().unwrap();
    assert!(memory.ends_with(" / 128MiB"), "{stats}");
    assert!(!memory.starts_with("0B"), "{stats}");

    it.docker(&["stop", "-t", "1", "limits"]).ok();
    assert_eq!(box_.inspect("{{.State.ExitCode}}"), "137");
    assert!(cgroup::tree(&group).is_empty(), "a cgroup is left");
    if it.driver == Driver::Systemd {
        assert_eq!(show(it, &unit, "LoadState"), "LoadState=not-found\n");
    }
    it.docker(&["start", "limits"]).ok();
    assert_eq!(files(), updated);
}

fn out_of_memory(it: &Docker) {
    let limits = ["--memory=16m", "--memory-swap=16m"];
    let flags = [&ALONE[..], &limits].concat();
    // systemd takes the cgroup away as its last process ends, now and then before the daemon's containerd
    // has read what happened there.
    let (script, code) = match it.driver {
        Driver::Cgroupfs => ("exec tail /dev/zero", "137"),
        Driver::Systemd => ("tail /dev/zero; sleep 1; exit 9", "9"),
    };
    let box_ = it.detached(&flags, "greedy", script);
    box_.becomes("{{.State.Status}} {{.State.OOMKilled}}", "exited true");
    assert_eq!(box_.inspect("{{.State.ExitCode}}"), code);
}

fn cgroup_namespaces(it: &Docker) {
    let script =
        "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only; sleep 600";
    let said = |name: &'static str, flag: &str| {
        let flags = [&ALONE[..], &[flag]].concat();
        let box_ = it.detached(&flags, name, script);
        let out = || it.docker(&["logs", name]).ok().stdout;
        assert!(process::eventually(PATIENCE, || out().contains("only")));
        (out(), box_.cgroup())
    };
    let (out, _) = said("nsprivate", "--cgroupns=private");
    assert_eq!(out, "0::/\nread-only\n");
    let (out, group) = said("nshost", "--cgroupns=host");
    assert_eq!(out, format!("0::{group}\nread-only\n"));
}

fn privileged(it: &Docker) {
    let flags = [&ALONE[..], &["--privileged"]].concat();
    let script = "cat /proc/self/attr/current; mkdir /sys/fs/cgroup/x && echo cgroup; \
        mount -t tmpfs none /tmp && echo mount; head -c 1 /dev/kmsg >/dev/null && echo device; \
        grep Seccomp: /proc/self/status";
    let out = it.sh(&flags, script).ok();
    let wanted = ["unconfined", "cgroup", "mount", "device", "Seccomp:\t0"];
    assert_eq!(out.lines(), wanted);
}

fn devices_and_processes(it: &Docker) {
    let rule = ["--device-cgroup-rule", "c 10:237 r", "--pids-limit", "5"];
    let device = ["--device", "/dev/kmsg:/dev/log0:r", "--cap-add", "SYSLOG"];
    let flags = [&ALONE[..], &device, &rule].concat();
    // Refused by the rules, or let through to where there may be no such device.
    let script = "head -c 1 /dev/log0 >/dev/null && echo reads; \
        (echo x > /dev/log0) 2>/dev/null || echo no-writing; \
        mknod /tmp/a c 10 237; (: < /tmp/a) 2>&1 | grep -c 'not permitted'; \
        mknod /tmp/b c 10 236; (: < /tmp/b) 2>&1 | grep -c 'not permitted'; \
        (for n in 1 2 3 4 5 6; do sleep 2 & done; wait) 2>&1 | grep -o -m 1 \"can't fork\"";
    let out = it.sh(&flags, script).ok();
    assert_eq!(out.lines(), ["reads", "no-writing", "0", "1", "can't fork"]);
}

fn apparmor(it: &Docker) {
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !on.is_ok_and(|on| on.starts_with('Y')) {
        skip!("this kernel has no AppArmor");
    }
    let show = "cat /proc/self/attr/current";
    let run = |option: &str| it.sh(&[&ALONE[..], &["--security-opt", option]].concat(), show);
    let out = it.sh(&ALONE, show).ok();
    assert_eq!(out.text(), "docker-default (enforce)");
    assert_eq!(run("apparmor=unconfined").ok().text(), "unconfined");

    let name = format!("knarr-it-{}", it.pen.cgroup().trim_start_matches('/'));
    let profile = it.pen.path("profile");
    let text = format!(
        "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n\
         file, signal, unix, capability, network, ptrace,\ndeny /secret r,\n}}\n"
    );
    fs::write(&profile, text).unwrap();
    let profile = profile.to_str().unwrap();
    let option = format!("apparmor={name}");
    let out = run(&option).exits(125);
    let wanted = format!("process.apparmorProfile: \"{name}\" is not loaded on this host");
    assert_eq!(out.stderr.matches(&wanted).count(), 1, "{out:#?}");

    it.pen
        .run(&["apparmor_parser", "--replace", "--skip-cache", profile])
        .ok();
    let flags = [&ALONE[..], &["--security-opt", &option]].concat();
    let script = "echo told > /secret; sleep 600";
    let box_ = it.detached(&flags, "profiled", script);
    box_.wait_until("test -s /secret");
    let out = box_.exec(
        &[],
        &format!("{show}; cat /proc/1/attr/current; cat /secret || echo refused"),
    );
    let enforced = format!("{name} (enforce)");
    assert_eq!(out.ok().lines(), [&enforced, &enforced, "refused"]);
    drop(box_);
    it.pen
        .run(&["apparmor_parser", "--remove", "--skip-cache", profile])
        .ok();
}

fn checkpoint(it: &Docker) {
    // The newest daemon wants to see the network of a process that is yet to be restored (/proc/0/ns/net),
    // whatever the runtime.
    let own_network = it.source == Source::Debian;
    let flags: &[&str] = if own_network {
        &[]
    } else {
        &["--network", "host"]
    };
    let script =
        "n=0; while :; do n=$((n+1)); echo $n > /tmp/n; mv /tmp/n /tmp/count; sleep 0.1; done";
    let box_ = it.detached(flags, "saved", script);
    box_.wait_until("test $(cat /tmp/count) -gt 3");
    it.docker(&["checkpoint", "create", "saved", "first"]).ok();
    box_.becomes("{{.State.Status}}", "exited");
    assert!(cgroup::tree(&box_.cgroup()).is_empty(), "a cgroup is left");
    // The daemon packs the images again, and fails where that gives the same archive as before.
    let images = format!(
        "data/containers/{}/checkpoints/first",
        box_.inspect("{{.Id}}")
    );
    fs::write(it.pen.path(&images).join("changed"), "").unwrap();
    it.docker(&["start", "--checkpoint", "first", "saved"]).ok();
    assert_eq!(box_.status(), "running");
    let count = || {
        let out = box_.exec(&[], "cat /tmp/count").ok();
        out.text().parse::<u64>().unwrap()
    };
    let first = count();
    assert!(first > 3, "begun anew: {first}");
    assert!(process::eventually(PATIENCE, || count() > first));
    assert!(!cgroup::processes(&box_.cgroup()).is_empty());
    if own_network {
        // The daemon has connected it anew.
        let address = box_.inspect("{{.NetworkSettings.Networks.bridge.IPAddress}}");
        let out = box_.exec(&[], "ip addr show eth0; ip addr show lo").ok();
        assert!(out.stdout.contains(&format!("inet {address}/")), "{out:#?}");
        assert!(out.stdout.contains("LOOPBACK,UP"), "{out:#?}");
    }
}
