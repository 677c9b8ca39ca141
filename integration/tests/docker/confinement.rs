//! What a container may do and use: limits, capabilities, devices, security options.

use std::fs;

use knarr_integration::docker::Docker;
use knarr_integration::peers::Source;
use knarr_integration::runtime::Outcome;
use knarr_integration::{json, skip};

pub fn limits_and_update(it: &Docker) {
    let box_ = it.detached(
        &[
            "--memory",
            "64m",
            "--memory-swap",
            "64m",
            "--memory-reservation",
            "32m",
            "--cpus",
            "0.5",
            "--cpu-shares",
            "512",
            "--cpuset-cpus",
            "0",
            "--pids-limit",
            "20",
        ],
        "limits",
        "sleep 600",
    );
    let memory = || box_.figure("memory", "memory.limit_in_bytes", "memory.max");
    let quota = || {
        let text = box_.figure("cpu", "cpu.cfs_quota_us", "cpu.max");
        text.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(memory(), "67108864");
    assert_eq!(quota(), "50000");
    assert_eq!(box_.figure("pids", "pids.max", "pids.max"), "20");
    assert_eq!(box_.figure("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(
        box_.figure("memory", "memory.soft_limit_in_bytes", "memory.low"),
        "33554432"
    );
    // The limit of processes is felt.
    let out = box_.exec(&[], "for n in $(seq 40); do sleep 5 & done; wait");
    assert!(out.stderr.contains("fork"), "{out:#?}");
    it.docker(&[
        "update",
        "--memory",
        "128m",
        "--memory-swap",
        "256m",
        "--cpus",
        "0.25",
        "--pids-limit",
        "50",
        "limits",
    ])
    .ok();
    assert_eq!(memory(), "134217728");
    assert_eq!(quota(), "25000");
    assert_eq!(box_.figure("pids", "pids.max", "pids.max"), "50");
    // Devices stay usable.
    box_.exec(&[], "echo > /dev/null").ok();
}

pub fn out_of_memory(it: &Docker) {
    let box_ = it.detached(
        &["--memory", "16m", "--memory-swap", "16m"],
        "greedy",
        "exec tail /dev/zero",
    );
    box_.becomes("{{.State.Status}}", "exited");
    assert_eq!(box_.inspect("{{.State.ExitCode}}"), "137");
    box_.becomes("{{.State.OOMKilled}}", "true");
}

/// A set of capabilities, as /proc shows it.
fn capability_set(out: &Outcome, name: &str) -> u64 {
    let line = out
        .stdout
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

pub fn capabilities(it: &Docker) {
    let status = "grep ^Cap /proc/self/status";
    let plain = it.sh(&[], status).ok();
    assert_eq!(capability_set(&plain, "CapEff"), 0xa804_25fb);
    assert_eq!(capability_set(&plain, "CapBnd"), 0xa804_25fb);
    assert_eq!(capability_set(&plain, "CapInh"), 0);
    let out = it
        .sh(&["--cap-add", "SYS_TIME", "--cap-drop", "CHOWN"], status)
        .ok();
    assert_eq!(capability_set(&out, "CapEff"), 0xa804_25fb & !1 | 1 << 25);
    let out = it.sh(&["--cap-drop", "ALL"], status).ok();
    assert_eq!(capability_set(&out, "CapBnd"), 0);
    let out = it.sh(&["--cap-drop", "ALL"], "chown 1 /tmp");
    assert_ne!(out.code, 0);
    let out = it
        .sh(&["--cap-add", "ALL", "--cap-drop", "MKNOD"], status)
        .ok();
    assert_eq!(capability_set(&out, "CapBnd") >> 27 & 1, 0);
}

pub fn privileged(it: &Docker) {
    let out = it
        .sh(
            &["--privileged"],
            "mount -t tmpfs none /tmp && echo mounted; grep -E '^(Seccomp|CapEff):' /proc/self/status; \
             echo x > /proc/sys/kernel/domainname && echo writable; ls /dev | wc -l; touch /sys/fs/cgroup/x 2>/dev/null; mount | grep -E 'on /sys '",
        )
        .exits(0);
    assert!(out.stdout.contains("mounted\n"), "{out:#?}");
    assert!(out.stdout.contains("Seccomp:\t0"), "{out:#?}");
    assert!(out.stdout.contains("writable"), "{out:#?}");
    assert!(out.stdout.contains("on /sys type sysfs (rw"), "{out:#?}");
    let all = capability_set(&out, "CapEff");
    let own = it.pen.run(&["grep", "CapBnd", "/proc/self/status"]).ok();
    // Debian's knows the capabilities of its time.
    if it.source == Source::Newest {
        assert_eq!(all, capability_set(&own, "CapBnd"));
    }
    assert!(all >> 21 & 1 == 1, "CAP_SYS_ADMIN: {all:x}");
}

pub fn read_only_and_user(it: &Docker) {
    let out = it
        .sh(
            &["--read-only", "--tmpfs", "/scratch"],
            "touch /x || echo refused; touch /scratch/x && echo kept; echo > /dev/null && echo dev",
        )
        .ok();
    assert_eq!(out.lines(), ["refused", "kept", "dev"]);
    let out = it
        .sh(
            &["--user", "worker", "--group-add", "3000"],
            "id -u; id -g; id -G; touch /x || echo refused",
        )
        .ok();
    assert_eq!(out.lines()[..2], ["1000", "1000"]);
    for group in ["1000", "2000", "3000"] {
        assert!(out.lines()[2].contains(group), "{out:#?}");
    }
    assert_eq!(out.lines()[3], "refused");
    it.sh(
        &["--user", "1234:5678"],
        "test $(id -u):$(id -g) = 1234:5678",
    )
    .ok();
}

pub fn devices(it: &Docker) {
    let out = it
        .sh(&[], "ls /dev; mknod /tmp/null c 1 3 && echo > /tmp/null && echo null; mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg || echo refused")
        .ok();
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd",
        "stdin",
    ] {
        assert!(out.lines().contains(&name), "{name}: {out:#?}");
    }
    assert!(out.lines().contains(&"refused"), "{out:#?}");
    let out = it.sh(&["--device", "/dev/kmsg:/dev/log0:r"], "ls -l /dev/log0; head -c 1 /dev/log0 >/dev/null && echo reads; echo x > /dev/log0 || echo no-writing").ok();
    assert!(out.stdout.starts_with("crw"), "{out:#?}");
    assert!(out.stdout.contains("no-writing"), "{out:#?}");
    // Refused by the device rules, or let through to where there may be no such device.
    let open = "mknod /tmp/l c 10 237; (: < /tmp/l) 2>&1 | grep -c 'not permitted'";
    assert_eq!(it.sh(&[], open).text(), "1");
    let rule = ["--device-cgroup-rule", "c 10:237 r"];
    assert_eq!(it.sh(&rule, open).text(), "0");
}

pub fn security_options(it: &Docker) {
    let status = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status";
    let out = it.sh(&[], status).ok();
    assert!(
        out.stdout.contains("Seccomp:\t2") && out.stdout.contains("NoNewPrivs:\t0"),
        "{out:#?}"
    );
    it.sh(
        &[],
        "unshare -U true 2>/dev/null; mkdir /tmp/d && mount -t tmpfs none /tmp/d",
    )
    .exits(1)
    .stdout
    .clear();
    let out = it
        .sh(&["--security-opt", "seccomp=unconfined"], status)
        .ok();
    assert!(out.stdout.contains("Seccomp:\t0"), "{out:#?}");
    let profile = it.pen.path("profile.json");
    let text = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    fs::write(&profile, text.to_string()).unwrap();
    let option = format!("seccomp={}", profile.display());
    let out = it.sh(&["--security-opt", &option], "mkdir /tmp/x").exits(1);
    assert!(out.stderr.contains("No space left"), "{out:#?}");
    for option in ["no-new-privileges", "no-new-privileges:true"] {
        let out = it.sh(&["--security-opt", option], status).ok();
        assert!(out.stdout.contains("NoNewPrivs:\t1"), "{out:#?}");
    }
    let out = it
        .sh(
            &["--security-opt", "systempaths=unconfined"],
            "echo x > /proc/sys/kernel/domainname && echo open",
        )
        .ok();
    assert_eq!(out.text(), "open");
    let out = it.sh(&[], "cat /proc/kcore | head -c 1 | wc -c; (echo x > /proc/sys/kernel/domainname) 2>/dev/null || echo closed; ls /sys/firmware | wc -l").ok();
    assert_eq!(out.lines(), ["0", "closed", "0"]);
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'))
    {
        let out = it.sh(&[], "cat /proc/self/attr/current").ok();
        assert!(out.stdout.starts_with("docker-default"), "{out:#?}");
        let out = it
            .sh(
                &["--security-opt", "apparmor=unconfined"],
                "cat /proc/self/attr/current",
            )
            .ok();
        assert!(out.stdout.starts_with("unconfined"), "{out:#?}");
    } else {
        skip!("the last part: this kernel has no AppArmor");
    }
}

pub fn ulimits_sysctls_and_friends(it: &Docker) {
    let out = it
        .sh(
            &[
                "--ulimit", "nofile=100:200", "--sysctl", "net.ipv4.ip_forward=0", "--shm-size", "2m",
                "--oom-score-adj", "500", "--hostname", "inside", "--workdir", "/made/here", "--env", "A=b",
                "--label", "x=y", "--cgroupns", "private", "--stop-signal", "USR1",
            ],
            "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward; df -k /dev/shm | tail -n 1 | awk '{print $2}'; \
             cat /proc/self/oom_score_adj; hostname; pwd; echo $A; umask",
        )
        .ok();
    assert_eq!(
        out.lines(),
        [
            "100",
            "200",
            "0",
            "2048",
            "500",
            "inside",
            "/made/here",
            "b",
            "0022"
        ]
    );
}
