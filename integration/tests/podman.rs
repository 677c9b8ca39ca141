//! Podman with the runtime under test in crun's place: rootful, rootless, both cgroup managers.
//!
//! Skipped where Podman is not installed. What one run can show is asked of one run: each takes
//! seconds in an emulated machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use knarr_integration::podman::{self, IMAGE, LIMIT, Podman};
use knarr_integration::{Value, cgroup, peers, process, runtime, skip};

/// The Podman of these tests, or a skip.
macro_rules! podman {
    () => {
        match podman::get() {
            Some(podman) => podman,
            None => skip!("{}", peers::missing("podman or conmon")),
        }
    };
}

macro_rules! need {
    ($what:expr, $($reason:tt)*) => {
        if !$what {
            skip!($($reason)*);
        }
    };
}

/// A script in a container without a network, with those options.
#[track_caller]
fn sh(podman: &Podman, options: &str, script: &str) -> runtime::Outcome {
    let line = format!("run --rm --network none {options} bb sh -c");
    podman.run(&line, &[script])
}

/// A container that stays until it is removed, and ends at SIGTERM with code 9.
#[track_caller]
fn stays(podman: &Podman, name: &str, options: &str) {
    let network = if options.contains("--pod ") {
        ""
    } else {
        "--network none"
    };
    let line = format!("run -d --name {name} {network} {options} bb sh -c");
    let script = "trap 'exit 9' TERM; echo begun; while :; do sleep 1; done";
    podman.run(&line, &[script]).ok();
}

#[track_caller]
fn remove(podman: &Podman, name: &str) {
    podman.run("rm -f -t 0", &[name]).ok();
}

#[test]
fn the_runtime_is_the_one_under_test() {
    let podman = podman!();
    let info = podman.run("info --format {{.Host.OCIRuntime.Path}}", &[]);
    assert_eq!(Path::new(info.ok().text()), runtime::path());
    let path = runtime::path().to_str().unwrap();
    let out = podman.run(
        &format!("--runtime {path} run --rm --network none bb echo"),
        &["by path"],
    );
    assert_eq!(out.ok().text(), "by path");
}

#[test]
fn exit_codes_tell_what_happened() {
    let podman = podman!();
    let out = sh(podman, "", "echo out; echo err >&2; exit 7").exits(7);
    assert_eq!(out.text(), "out");
    assert_eq!(out.stderr.trim(), "err");
    let run = |program: &str| podman.run("run --rm --network none bb", &[program]);
    let out = run("/nowhere").exits(127);
    assert!(
        out.stderr
            .to_lowercase()
            .contains("no such file or directory"),
        "{out:?}"
    );
    let out = run("nowhere").exits(127);
    assert!(out.stderr.contains("not found in $PATH"), "{out:?}");
    run("/etc/passwd").exits(126);
    run("/etc").exits(126);
}

#[test]
fn options_arrive() {
    let podman = podman!();
    let dir = podman.fresh("volume");
    fs::write(dir.join("file"), "from the host\n").unwrap();
    let volume = format!("{}:/v:ro", dir.display());
    let out = sh(
        podman,
        &format!("--cap-add NET_ADMIN --cap-drop CHOWN --read-only --tmpfs /t:size=1m --volume {volume} --device /dev/null:/dev/mine --hostname named --workdir /tmp --env A=b --ulimit nofile=100:200 --ulimit nproc=4000:4000 --security-opt no-new-privileges --shm-size 2m --umask 0027 --oom-score-adj 500 --sysctl net.ipv4.ip_unprivileged_port_start=7"),
        "grep -E 'CapEff|NoNewPrivs|^Seccomp:' /proc/self/status | cut -f 2
         touch /x 2>&1; touch /t/x && echo t; cat /v/file; touch /v/x 2>&1; echo >/dev/mine && echo mine
         hostname; pwd; echo $A; ulimit -n; df -k /dev/shm | tail -n 1 | awk '{print $2}'
         umask; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start",
    )
    .ok();
    let got = out.lines();
    let capabilities = u64::from_str_radix(got[0], 16).unwrap();
    assert_eq!(capabilities >> 12 & 1, 1, "CAP_NET_ADMIN was added");
    assert_eq!(capabilities & 1, 0, "CAP_CHOWN was dropped");
    assert_eq!(
        got[1..],
        [
            "1",
            "2",
            "touch: /x: Read-only file system",
            "t",
            "from the host",
            "touch: /v/x: Read-only file system",
            "mine",
            "named",
            "/tmp",
            "b",
            "100",
            "2048",
            "0027",
            "500",
            "7",
        ]
    );
}

#[test]
fn security_options_arrive() {
    let podman = podman!();
    let out = sh(
        podman,
        "--user 1000:1000 --security-opt seccomp=unconfined --pid host --group-add 2000 --group-add 2001",
        "id -u; id -g; id -G; grep ^Seccomp: /proc/self/status | cut -f 2; readlink /proc/self/ns/pid",
    )
    .ok();
    let pid = process::namespace(std::process::id(), "pid");
    assert_eq!(
        out.lines(),
        ["1000", "1000", "1000 2000 2001", "0", pid.as_str()]
    );
    let out = sh(
        podman,
        "--init --security-opt mask=/proc/uptime --security-opt unmask=/proc/kcore",
        "cat /proc/1/comm; cat /proc/uptime; awk '$5 == \"/proc/kcore\"' /proc/self/mountinfo",
    )
    .ok();
    assert!(
        ["catatonit", "podman-init"].contains(&out.text()),
        "{out:?}"
    );
}

#[test]
fn privileged_gets_everything() {
    let podman = podman!();
    let out = sh(
        podman,
        "--privileged",
        "grep -E 'CapEff|^Seccomp:' /proc/self/status | cut -f 2
         mount -t tmpfs x /tmp && echo mounted; awk '$5 == \"/proc/kcore\"' /proc/self/mountinfo; ls /dev | wc -l",
    )
    .ok();
    let got = out.lines();
    let capabilities = u64::from_str_radix(got[0], 16).unwrap();
    assert_eq!(capabilities >> 21 & 1, 1, "CAP_SYS_ADMIN");
    assert_eq!(got[1..3], ["0", "mounted"]);
    // The host's devices, and no masks.
    assert!(got[3].parse::<u32>().unwrap() > 15, "{got:?}");
}

#[test]
fn a_container_lives_through_its_commands() {
    let podman = podman!();
    stays(podman, "life", "--env FOO=bar --stop-timeout 60");
    let out = podman
        .run("exec life sh -c", &["echo $FOO; id -u; exit 4"])
        .exits(4);
    assert_eq!(out.lines(), ["bar", "0"]);
    let out = podman.run(
        "exec -u 1000 -w /tmp -e X=y life sh -c",
        &["id -u; pwd; echo $X"],
    );
    assert_eq!(out.ok().lines(), ["1000", "/tmp", "y"]);
    podman.run("exec life /nowhere", &[]).exits(127);
    podman.run("exec life /etc/passwd", &[]).exits(126);
    podman.run("exec -d life touch /made", &[]).ok();
    let top = podman.run("top life pid args", &[]).ok();
    assert!(top.stdout.contains("trap"), "{top:?}");
    podman.run("kill -s WINCH life", &[]).ok();
    podman.run("stop life", &[]).ok();
    assert_eq!(podman.inspect("life", ".State.ExitCode"), "9");
    podman.run("restart life", &[]).ok();
    let out = podman.run("exec life ls /made", &[]);
    assert_eq!(out.ok().text(), "/made");
    podman.run("kill -s KILL life", &[]).ok();
    assert_eq!(podman.run("wait life", &[]).ok().text(), "137");
    assert_eq!(podman.run("logs life", &[]).ok().text(), "begun\nbegun");
    podman.run("rm life", &[]).ok();
}

#[test]
fn a_created_container_waits_for_start() {
    let podman = podman!();
    podman
        .run(
            "create --name later --network none bb sh -c",
            &["echo now; exit 5"],
        )
        .ok();
    podman.run("init later", &[]).ok();
    assert_eq!(podman.inspect("later", ".State.Status"), "initialized");
    let out = podman.run("start --attach later", &[]).exits(5);
    assert_eq!(out.text(), "now");
    // A second life.
    let out = podman.run("start --attach later", &[]).exits(5);
    assert_eq!(out.text(), "now");
    podman.run("init later", &[]).ok();
    remove(podman, "later");
}

#[test]
fn terminals_work() {
    let podman = podman!();
    let out = podman
        .on_terminal(
            "run --rm --network none -it bb sh -c",
            &["tty; stty size; read word; echo got $word; exit 3"],
            &[("/dev/pts/0", "hello\r")],
        )
        .exits(3);
    assert!(out.stdout.contains("got hello"), "{out:?}");
    stays(podman, "tty2", "");
    let out = podman
        .on_terminal(
            "exec -it tty2 sh -c",
            &["tty; read word; echo got $word; exit 6"],
            &[("/dev/pts/", "there\r")],
        )
        .exits(6);
    assert!(out.stdout.contains("got there"), "{out:?}");
    remove(podman, "tty2");
}

#[test]
fn a_paused_container_stands_still() {
    let podman = podman!();
    need!(
        !cgroup::v1_controller("memory") || podman.is_root(),
        "no freezer"
    );
    stays(podman, "paused", "");
    podman.run("pause paused", &[]).ok();
    assert_eq!(podman.inspect("paused", ".State.Status"), "paused");
    let out = podman.run("exec paused true", &[]);
    assert_ne!(out.code, 0, "{out:?}");
    podman.run("unpause paused", &[]).ok();
    podman.run("exec paused true", &[]).ok();
    podman.run("pause paused", &[]).ok();
    remove(podman, "paused");
}

/// What the files of limits say on either version: memory, processes, quota and period.
const LIMITS: &str = "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max pids.max cpu.max; \
    else cat memory/memory.limit_in_bytes pids/pids.max; \
    echo $(cat cpu/cpu.cfs_quota_us) $(cat cpu/cpu.cfs_period_us); fi";

#[test]
fn limits_are_set_and_updated() {
    let podman = podman!();
    let limits = "--memory 64m --pids-limit 50 --cpus 0.5";
    let out = sh(podman, limits, LIMITS).ok();
    assert_eq!(out.lines(), ["67108864", "50", "50000 100000"]);
    stays(podman, "limits", limits);
    podman
        .run("update --memory 96m --cpus 0.25 limits", &[])
        .ok();
    let out = podman.run("exec limits sh -c", &[LIMITS]).ok();
    let got = out.lines();
    assert_eq!((got[0], got[2]), ("100663296", "25000 100000"));
    let out = podman
        .run("stats --no-stream --format {{.PIDS}} limits", &[])
        .ok();
    assert!(out.text().parse::<u32>().unwrap() > 0, "{out:?}");
    remove(podman, "limits");
}

#[test]
fn unified_keys_and_weights_are_set() {
    let podman = podman!();
    need!(cgroup::unified(), "only cgroup v2 has unified keys");
    let out = sh(
        podman,
        "--cgroup-conf memory.high=33554432 --cpu-shares 512 --cpuset-cpus 0",
        "cd /sys/fs/cgroup; cat memory.high cpu.weight cpuset.cpus",
    )
    .ok();
    assert_eq!(out.lines()[0], "33554432");
    assert_eq!(out.lines()[2], "0");
    let weight: u32 = out.lines()[1].parse().unwrap();
    assert!((20..100).contains(&weight), "{weight}");
}

#[test]
fn a_container_killed_for_memory_says_so() {
    let podman = podman!();
    // conmon may hear of the end before it hears of its reason: then it says nothing of that.
    let mut last = Value::Null;
    for _ in 0..5 {
        let out = podman.run(
            "run --name oom --network none --memory 32m --memory-swap 32m bb sh -c",
            &["x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"],
        );
        out.exits(137);
        last = podman.inspect_all("oom")["State"].clone();
        remove(podman, "oom");
        // With cgroup v1 beside v2, conmon looks for it in neither.
        if !cgroup::unified() || last["OOMKilled"] == true {
            return;
        }
    }
    panic!("no kill for memory was told: {last}");
}

#[test]
fn a_health_check_runs_inside() {
    let podman = podman!();
    stays(
        podman,
        "health",
        "--health-interval disable --health-cmd /probe",
    );
    podman.run("healthcheck run health", &[]).exits(1);
    let probe = "printf '#!/bin/sh\\n' >/probe; chmod +x /probe";
    podman.run("exec health sh -c", &[probe]).ok();
    podman.run("healthcheck run health", &[]).ok();
    remove(podman, "health");
}

#[test]
fn networks_are_as_asked_for() {
    let podman = podman!();
    let out = sh(podman, "", "ls /sys/class/net");
    assert_eq!(out.ok().text(), "lo");
    let out = podman
        .run("run --rm --network host bb readlink /proc/self/ns/net", &[])
        .ok();
    let host = podman.spawn({
        let mut command = podman.around("readlink");
        command.arg("/proc/self/ns/net");
        command
    });
    assert_eq!(out.text(), host.wait().text());
    stays(podman, "server", "");
    let out = podman
        .run(
            "run --rm --network container:server bb readlink /proc/self/ns/net",
            &[],
        )
        .ok();
    let other = podman
        .run("exec server readlink /proc/self/ns/net", &[])
        .ok();
    assert_eq!(out.text(), other.text());
    remove(podman, "server");
    if !podman.is_root() && runtime::find("slirp4netns".as_ref()).is_some() {
        // Podman sets it up in the namespace that the runtime has made.
        let out = podman.run("run --rm --network slirp4netns bb ls /sys/class/net", &[]);
        assert_eq!(out.ok().lines(), ["lo", "tap0"]);
    }
}

#[test]
fn a_bridge_connects() {
    let podman = podman!();
    need!(
        podman.is_root(),
        "without a network card rootless bridges have nowhere to go"
    );
    // Firewalls need what not every kernel has: only the bridge is of interest.
    let made = podman.run(
        "network create --disable-dns --subnet 10.90.0.0/24 between",
        &[],
    );
    need!(made.code == 0, "no networks: {}", made.stderr.trim());
    podman
        .run(
            "run -d --name bridged --network between --ip 10.90.0.7 bb sh -c",
            &["while :; do echo hello | nc -l -p 80; done"],
        )
        .ok();
    let out = podman.run(
        "run --rm --network between bb sh -c",
        &["until nc 10.90.0.7 80 </dev/null; do sleep 0.1; done"],
    );
    assert_eq!(out.ok().text(), "hello");
    remove(podman, "bridged");
}

#[test]
fn containers_of_a_pod_share() {
    let podman = podman!();
    podman
        .run(
            "pod create --name pod --network none --hostname shared",
            &[],
        )
        .ok();
    stays(podman, "member", "--pod pod");
    let look = "hostname; for ns in net ipc pid; do readlink /proc/self/ns/$ns; done";
    let first = podman.run("exec member sh -c", &[look]).ok();
    let out = podman
        .run(
            "run --rm --pod pod --pid container:member bb sh -c",
            &[look],
        )
        .ok();
    assert_eq!(out.lines(), first.lines());
    assert_eq!(out.lines()[0], "shared");
    podman.run("pod stop -t 60 pod", &[]).ok();
    assert_eq!(podman.inspect("member", ".State.ExitCode"), "9");
    podman.run("pod rm -f -t 0 pod", &[]).ok();
}

#[test]
fn images_are_built() {
    let podman = podman!();
    let dir = podman.fresh("build");
    fs::write(
        dir.join("Containerfile"),
        format!("FROM {IMAGE}\nENV A=b\nRUN echo $A $(id -u) >/made && mkdir /new\nUSER 1000\nWORKDIR /new\nRUN id -u >/tmp/who\nCMD [\"cat\", \"/made\", \"/tmp/who\"]\n"),
    )
    .unwrap();
    let log = dir.join("log");
    podman
        .run(
            "build --isolation oci --network none -t built --runtime-flag debug --runtime-flag",
            &[&format!("log={}", log.display()), dir.to_str().unwrap()],
        )
        .ok();
    assert!(
        fs::metadata(log).is_ok_and(|log| log.len() > 0),
        "the runtime under test was not asked"
    );
    let out = podman.run("run --rm --network none built", &[]).ok();
    assert_eq!(out.lines(), ["b 0", "1000"]);
}

#[test]
fn kubernetes_pods_are_played() {
    let podman = podman!();
    let dir = podman.fresh("kube");
    let file = dir.join("pod.yaml");
    fs::write(
        &file,
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: kube\nspec:\n  containers:\n  - name: one\n    image: {IMAGE}\n    \
             imagePullPolicy: Never\n    command: [sh, -c, 'echo played; sleep 1000']\n    resources:\n      limits:\n        memory: 64Mi\n    \
             securityContext:\n      capabilities:\n        drop: [ALL]\n"
        ),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    podman.run("kube play --network none", &[file]).ok();
    assert_eq!(podman.run("logs kube-one", &[]).ok().text(), "played");
    let out = podman
        .run("exec kube-one grep CapEff /proc/self/status", &[])
        .ok();
    assert!(out.text().ends_with("0000000000000000"), "{out:?}");
    podman.run("kube down", &[file]).ok();
}

#[test]
fn secrets_are_mounted() {
    let podman = podman!();
    let dir = podman.fresh("secret");
    fs::write(dir.join("s"), "hush").unwrap();
    podman
        .run("secret create hush", &[dir.join("s").to_str().unwrap()])
        .ok();
    let out = sh(
        podman,
        "--secret hush --secret hush,type=env,target=S",
        "cat /run/secrets/hush; echo -$S",
    );
    assert_eq!(out.ok().text(), "hush-hush");
}

#[test]
fn ids_are_mapped() {
    let podman = podman!();
    let map = "cat /proc/self/uid_map; id -u; touch /tmp/x && stat -c %u /tmp/x";
    if podman.is_root() {
        let out = sh(podman, "--uidmap 0:100000:5000 --gidmap 0:200000:5000", map).ok();
        assert_eq!(
            out.lines()[0].split_whitespace().collect::<Vec<_>>(),
            ["0", "100000", "5000"]
        );
        assert_eq!(out.lines()[1..], ["0", "0"]);
        let subuid = fs::read_to_string("/etc/subuid").unwrap_or_default();
        need!(
            subuid.contains("containers:"),
            "no subordinate ids of `containers` for --userns=auto"
        );
        let out = sh(podman, "--userns auto:size=3000", map).ok();
        assert_eq!(out.lines()[0].split_whitespace().nth(2), Some("3000"));
    } else {
        let me = rustix::process::geteuid().as_raw().to_string();
        let out = sh(
            podman,
            "--userns keep-id",
            "id -u; touch /tmp/x && stat -c %u /tmp/x",
        )
        .ok();
        assert_eq!(out.lines(), [me.as_str(), &me]);
        let out = sh(podman, "--userns nomap", map).ok();
        assert_eq!(out.lines().last(), Some(&"0"));
    }
}

#[test]
fn the_callers_groups_can_stay() {
    let podman = podman!();
    need!(!podman.is_root(), "only unprivileged users keep groups");
    let out = sh(podman, "--group-add keep-groups", "id -u");
    assert_eq!(out.ok().text(), "0");
}

#[test]
fn volumes_can_be_idmapped_or_overlaid() {
    let podman = podman!();
    let dir = podman.fresh("mapped");
    fs::write(dir.join("f"), "").unwrap();
    let dir = dir.display();
    let out = sh(
        podman,
        &format!("--volume {dir}:/o:O --mount type=tmpfs,dst=/etc,tmpfs-size=1m"),
        "touch /o/new && ls /o; ls /etc",
    )
    .ok();
    // A tmpfs begins with what it hides.
    assert_eq!(out.lines()[..2], ["f", "new"]);
    assert!(out.lines().contains(&"passwd"), "{out:?}");
    assert!(!Path::new(&format!("{dir}/new")).exists());
    need!(
        podman.is_root(),
        "mapped mounts of the host's file systems need root"
    );
    let out = sh(
        podman,
        &format!("--uidmap 0:100000:5000 --gidmap 0:100000:5000 --volume {dir}:/i:idmap"),
        "stat -c %u /i/f",
    )
    .ok();
    assert_eq!(out.text(), "0");
}

#[test]
fn containers_can_do_without_a_cgroup() {
    let podman = podman!();
    let own = "cat /proc/self/cgroup";
    let out = sh(podman, "--cgroups disabled --cgroupns host", own).ok();
    assert!(!out.stdout.contains("libpod-"), "{out:?}");
    let out = sh(podman, "--cgroups no-conmon --cgroupns host", own).ok();
    assert!(out.stdout.contains("libpod-"), "{out:?}");
}

#[test]
fn the_other_cgroup_manager_works() {
    let podman = podman!();
    need!(
        podman::systemd(),
        "no systemd: the only cgroup manager is in use already"
    );
    let out = podman.run(
        "--cgroup-manager cgroupfs run --rm --network none --cgroupns host --memory 64m bb sh -c",
        &["cat /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/memory.max"],
    );
    if podman.is_root() {
        assert_eq!(out.ok().text(), "67108864");
    } else {
        // Rootless Podman runs without limits then, and says so.
        assert!(out.code == 0 || out.stderr.contains("cgroup"), "{out:?}");
    }
}

#[test]
fn cgroups_can_be_split_from_a_units() {
    let podman = podman!();
    need!(podman::systemd(), "splitting needs a unit of systemd");
    let mut command = podman.around("systemd-run");
    if !podman.is_root() {
        command.arg("--user");
    }
    command.args([
        "--quiet",
        "--wait",
        "--pipe",
        "--collect",
        "-p",
        "Delegate=yes",
        "-E",
        "CONTAINERS_CONF",
    ]);
    if podman.is_root() {
        // The unit is not in the tests' namespaces: podman joins them there.
        command.args(podman.enter());
    }
    command.args(podman.words());
    command.args([
        "run",
        "--rm",
        "--network",
        "none",
        "--cgroups",
        "split",
        "--cgroupns",
        "host",
        IMAGE,
        "cat",
        "/proc/self/cgroup",
    ]);
    let out = podman.spawn(command).wait_within(LIMIT).ok();
    assert!(out.stdout.contains("/libpod-payload-"), "{out:?}");
}

#[test]
fn systemd_boots_in_a_container() {
    let podman = podman!();
    need!(
        podman::systemd() && podman.is_root() && cgroup::unified(),
        "takes the machine's own systemd as an image"
    );
    need!(
        Path::new("/usr/local/sbin/vm-agent").exists(),
        "only in a throw-away machine: all of / is the image"
    );
    podman.run("run -d --name sd --network none --systemd always --rootfs /:O /lib/systemd/systemd --unit=basic.target", &[])
        .ok();
    let booted = process::eventually(LIMIT, || {
        podman
            .run("exec sd systemctl is-active basic.target", &[])
            .text()
            == "active"
    });
    assert!(booted, "{}", podman.run("logs sd", &[]).stdout);
    // systemd has made cgroups below: an exec joins its own.
    let out = podman
        .run("exec sd cat /proc/self/cgroup /proc/1/cgroup", &[])
        .ok();
    assert!(out.stdout.contains("init.scope"), "{out:?}");
    podman
        .run("exec sd systemd-run --wait --quiet true", &[])
        .ok();
    podman.run("stop -t 60 sd", &[]).ok();
    remove(podman, "sd");
}

#[test]
fn a_container_tells_that_it_is_ready() {
    let podman = podman!();
    need!(
        runtime::find("systemd-notify".as_ref()).is_some(),
        "no systemd-notify to mount"
    );
    let dir = podman.fresh("notify");
    let socket = knarr_integration::socket::Notify::bind(dir.join("socket"));
    let mut command = podman.command("run -d --name ready --network none --sdnotify container --security-opt label=disable -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro bb sh -c", &["/usr/bin/systemd-notify --ready --status=well; while :; do sleep 1; done"]);
    command.env("NOTIFY_SOCKET", socket.path());
    podman.spawn(command).wait_within(LIMIT).ok();
    let mut said = String::new();
    while !said.contains("READY=1") {
        said += &socket.next();
    }
    assert!(said.contains("MAINPID="), "{said}");
    remove(podman, "ready");
}

#[test]
fn an_apparmor_profile_applies() {
    let podman = podman!();
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|on| on.trim() == "Y");
    need!(
        on && podman.is_root(),
        "no AppArmor, or no right to load profiles"
    );
    let out = sh(podman, "", "cat /proc/self/attr/current").ok();
    assert!(
        out.text().starts_with("containers-default-") && out.text().ends_with("(enforce)"),
        "{out:?}"
    );
    let out = sh(
        podman,
        "--security-opt apparmor=unconfined",
        "cat /proc/self/attr/current",
    )
    .ok();
    assert_eq!(out.text(), "unconfined");
    let out = sh(podman, "--security-opt apparmor=no-such-profile", "true");
    assert_ne!(out.code, 0);
}

#[test]
fn a_container_is_saved_and_goes_on() {
    let podman = podman!();
    let help = std::process::Command::new(runtime::path())
        .args(["checkpoint", "--help"])
        .output();
    need!(
        podman.is_root() && help.is_ok_and(|help| help.status.success()),
        "criu does not work here"
    );
    let dir = podman.fresh("saved");
    let count = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done";
    podman
        .run("run -d --name saved --network none bb sh -c", &[count])
        .ok();
    let last = || -> u32 {
        let logs = podman.run("logs --tail 1 saved", &[]).ok();
        logs.text().parse().unwrap_or(0)
    };
    assert!(process::eventually(Duration::from_secs(30), || last() > 1));
    podman.run("container checkpoint saved", &[]).ok();
    let saved = last();
    podman.run("container restore saved", &[]).ok();
    assert!(process::eventually(Duration::from_secs(30), || last() > saved));
    let file = dir.join("saved.tar.gz");
    podman
        .run(
            "container checkpoint --export",
            &[file.to_str().unwrap(), "saved"],
        )
        .ok();
    remove(podman, "saved");
    podman
        .run(
            "container restore --import",
            &[file.to_str().unwrap(), "--name", "again"],
        )
        .ok();
    assert_eq!(podman.inspect("again", ".State.Status"), "running");
    podman.run("exec again true", &[]).ok();
    remove(podman, "again");
}
