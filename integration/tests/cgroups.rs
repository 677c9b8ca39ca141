//! Resources, read back from the kernel; update, events, pausing's files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::time::Duration;

use knarr_integration::bundle::{drop_namespace, push, user_namespace};
use knarr_integration::{Sandbox, Value, cgroup, json, process};

/// Ends the test on hosts without that controller of version 1.
macro_rules! needs_v1 {
    ($name:expr) => {
        if !cgroup::v1_controller($name) {
            knarr_integration::skip!("no cgroup v1 controller {}", $name);
        }
    };
}

#[test]
fn v1_limits_are_written() {
    let sb = Sandbox::new();
    needs_v1!("memory");
    let c = sb.sleeper("limits", |c| {
        let r = &mut c["linux"]["resources"];
        r["memory"] = json!({"limit": 67_108_864, "reservation": 33_554_432, "swappiness": 10});
        r["cpu"] =
            json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"});
        r["pids"] = json!({"limit": 42});
    });
    let read = |controller: &str, file: &str| cgroup::read(controller, &c.bundle.cgroup, file);
    assert_eq!(read("memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(read("memory", "memory.soft_limit_in_bytes"), "33554432");
    assert_eq!(read("memory", "memory.swappiness"), "10");
    assert_eq!(read("cpu", "cpu.shares"), "512");
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(read("cpu", "cpu.cfs_period_us"), "100000");
    assert_eq!(read("cpuset", "cpuset.cpus"), "0");
    assert_eq!(read("cpuset", "cpuset.mems"), "0");
    assert_eq!(read("pids", "pids.max"), "42");
    for controller in [
        "memory", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "pids",
    ] {
        let own =
            fs::read_to_string(cgroup::dir(controller, &c.bundle.cgroup).join("cgroup.procs"))
                .unwrap();
        assert_eq!(own.trim(), c.pid.to_string(), "{controller}");
    }
    sb.finish("limits");
    assert!(!cgroup::dir("memory", &c.bundle.cgroup).exists());
}

#[test]
fn memory_limit_kills() {
    let sb = Sandbox::new();
    let out = sb.sh(
        "dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived",
        |c| {
            c["linux"]["resources"]["memory"] = json!({"limit": 16_777_216, "swap": 16_777_216});
        },
    );
    assert!(
        out.stdout.is_empty() || out.stderr.contains("Killed") || out.code == 137,
        "{out:?}"
    );
}

#[test]
fn pids_limit_holds() {
    let sb = Sandbox::new();
    let out = sb.sh("for i in 1 2 3 4 5 6; do sleep 1 & done; wait", |c| {
        c["linux"]["resources"]["pids"] = json!({"limit": 4});
    });
    assert!(out.stderr.contains("can't fork"), "{out:?}");
}

#[test]
fn case_46_cgroups_path_decides_the_place() {
    let sb = Sandbox::new();
    for _ in 0..2 {
        let c = sb.sleeper("place", |c| {
            c["linux"]["cgroupsPath"] = json!(format!("{}/same", sb.cgroup()))
        });
        assert!(cgroup::processes(&format!("{}/same", sb.cgroup())).contains(&c.pid));
        sb.finish("place");
    }
    // A relative path goes to a place of the runtime's choosing, the same each time.
    let relative = format!("{}/relative", sb.cgroup().trim_start_matches('/'));
    let mut places = Vec::new();
    for _ in 0..2 {
        let c = sb.sleeper("relative", |c| c["linux"]["cgroupsPath"] = json!(relative));
        places.push(fs::read_to_string(format!("/proc/{}/cgroup", c.pid)).unwrap());
        sb.finish("relative");
    }
    assert_eq!(places[0], places[1]);
    let before = sb.look();
    let bundle = sb
        .bundle(|c| c["linux"]["cgroupsPath"] = json!(format!("{}/../../../escape", sb.cgroup())));
    let _ = sb.create("dots", &bundle);
    sb.finish("dots");
    sb.same_as(&before);
}

#[test]
fn case_47_device_rules_apply_in_order() {
    let sb = Sandbox::new();
    let nodes = json!([
        {"path": "/dev/fuse0", "type": "c", "major": 10, "minor": 229, "fileMode": 438},
        {"path": "/dev/kmsg0", "type": "c", "major": 1, "minor": 11, "fileMode": 438},
    ]);
    let probe = |rules: Value| {
        let out = sb.sh("cat </dev/kmsg0 >/dev/null & sleep 0.1; kill $! 2>/dev/null && echo kmsg; for d in null zero full random urandom tty; do [ $d = tty ] || head -c 1 /dev/$d >/dev/null && echo $d; done", |c| {
            c["linux"]["devices"] = nodes.clone();
            c["linux"]["resources"]["devices"] = rules;
        });
        out.stdout
    };
    let all = "null\nzero\nfull\nrandom\nurandom\ntty\n";
    assert_eq!(probe(json!([{"allow": false, "access": "rwm"}])), all);
    assert_eq!(
        probe(
            json!([{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}, {"allow": false, "access": "rwm"}])
        ),
        all,
        "the later rule wins"
    );
    let out = probe(
        json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"}]),
    );
    assert!(out.ends_with(all), "{out}");
    needs_v1!("devices");
    let c = sb.sleeper("list", |c| {
        c["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 7, "access": "r"},
        ]);
    });
    let list = cgroup::read("devices", &c.bundle.cgroup, "devices.list");
    for rule in [
        "b 7:* r",
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 5:2 rwm",
        "c 136:* rwm",
    ] {
        assert!(list.lines().any(|line| line == rule), "{rule}:\n{list}");
    }
}

#[test]
fn case_48_v1_cgroups_are_never_handed_over() {
    let sb = Sandbox::new();
    needs_v1!("memory");
    let c = sb.sleeper("owner", |c| {
        user_namespace(c);
        push(c, "/mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}));
    });
    let meta = fs::metadata(cgroup::dir("memory", &c.bundle.cgroup)).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 0);
}

#[test]
fn case_49_frozen_or_populated_cgroup_errors() {
    let sb = Sandbox::new();
    needs_v1!("freezer");
    let bundle = sb.bundle(|_| {});
    let dir = cgroup::dir("freezer", &bundle.cgroup);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("freezer.state"), "FROZEN").unwrap();
    let out = sb.create("frozen", &bundle);
    fs::write(dir.join("freezer.state"), "THAWED").unwrap();
    out.fails();
    sb.rt(&["state", "frozen"]).fails_with("does not exist");
    // A populated cgroup may be refused; it must not be emptied.
    let other = sb.sleeper("other", |_| {});
    let same = sb.bundle(|c| c["linux"]["cgroupsPath"] = json!(other.bundle.cgroup));
    let _ = sb.create("second", &same);
    sb.finish("second");
    assert!(process::alive(other.pid));
    assert_eq!(sb.status("other"), "running");
    assert!(cgroup::processes(&other.bundle.cgroup).contains(&other.pid));
}

#[test]
fn case_50_minus_one_is_unlimited() {
    let sb = Sandbox::new();
    needs_v1!("memory");
    let c = sb.sleeper("free", |c| {
        let r = &mut c["linux"]["resources"];
        r["memory"] = json!({"limit": -1, "reservation": -1});
        r["pids"] = json!({"limit": -1});
        r["cpu"] = json!({"quota": -1});
    });
    let read = |controller: &str, file: &str| cgroup::read(controller, &c.bundle.cgroup, file);
    assert!(
        read("memory", "memory.limit_in_bytes")
            .parse::<u64>()
            .unwrap()
            > 1 << 60
    );
    assert_eq!(read("pids", "pids.max"), "max");
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "-1");
}

#[test]
fn case_50_swap_counts_memory_too() {
    let sb = Sandbox::new();
    needs_v1!("memory");
    let parent = cgroup::dir("memory", "/");
    if !parent.join("memory.memsw.limit_in_bytes").exists() {
        knarr_integration::skip!("no swap accounting");
    }
    let c = sb.sleeper("swap", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 67_108_864});
    });
    assert_eq!(
        cgroup::read("memory", &c.bundle.cgroup, "memory.memsw.limit_in_bytes"),
        "67108864"
    );
    let before = sb.look();
    let bundle = sb.bundle(|c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 67_108_864, "swap": 33_554_432})
    });
    sb.create("less", &bundle).fails();
    sb.same_as(&before);
}

#[test]
fn case_51_zero_pids_is_a_limit() {
    let sb = Sandbox::new();
    needs_v1!("pids");
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        c["linux"]["resources"]["pids"] = json!({"limit": 0});
    });
    let c = sb.started("zero", &bundle);
    let max = cgroup::read("pids", &c.bundle.cgroup, "pids.max");
    assert!(max == "0" || max == "1", "{max}");
}

#[test]
fn case_53_burst_is_at_most_the_quota() {
    let sb = Sandbox::new();
    needs_v1!("cpu");
    if !cgroup::dir("cpu", "/").join("cpu.shares").exists() {
        knarr_integration::skip!("no cpu controller");
    }
    let c = sb.sleeper("burst", |c| {
        c["linux"]["resources"]["cpu"] =
            json!({"quota": 50_000, "period": 100_000, "burst": 20_000});
    });
    assert_eq!(
        cgroup::read("cpu", &c.bundle.cgroup, "cpu.cfs_burst_us"),
        "20000"
    );
    let before = sb.look();
    let bundle = sb.bundle(|c| {
        c["linux"]["resources"]["cpu"] =
            json!({"quota": 50_000, "period": 100_000, "burst": 60_000});
    });
    sb.create("more", &bundle).fails();
    sb.same_as(&before);
}

#[test]
fn case_54_check_before_update() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle(
        "dd if=/dev/zero of=/dev/shm/fill bs=1M count=20; exec sleep 600",
        |c| {
            c["linux"]["resources"]["memory"] = json!({"limit": 104_857_600});
            for mount in c["mounts"].as_array_mut().unwrap() {
                if mount["destination"] == "/dev/shm" {
                    mount["options"] = json!(["size=64m"]);
                }
            }
        },
    );
    let c = sb.started("check", &bundle);
    needs_v1!("memory");
    let usage = || {
        cgroup::read("memory", &c.bundle.cgroup, "memory.usage_in_bytes")
            .parse::<u64>()
            .unwrap()
    };
    assert!(process::eventually(Duration::from_secs(5), || usage() > 20 << 20));
    let out = sb.rt_stdin(
        &["update", "--resources=-", "check"],
        "{\"memory\": {\"limit\": 10485760, \"checkBeforeUpdate\": true}}",
    );
    out.fails();
    assert_eq!(
        cgroup::read("memory", &c.bundle.cgroup, "memory.limit_in_bytes"),
        "104857600"
    );
}

#[test]
fn case_55_hugetlb_is_written_or_refused() {
    let sb = Sandbox::new();
    let before = sb.look();
    let bundle = sb.bundle(|c| {
        c["linux"]["resources"]["hugepageLimits"] =
            json!([{"pageSize": "2MB", "limit": 2_097_152}]);
    });
    let out = sb.create("huge", &bundle);
    if out.code == 0 {
        assert!(
            cgroup::v1_controller("hugetlb")
                || cgroup::tree(&bundle.cgroup)
                    .iter()
                    .any(|d| d.join("hugetlb.2MB.max").exists()),
            "silently ignored"
        );
        sb.finish("huge");
    } else {
        assert!(out.fails().stderr.to_lowercase().contains("huge"));
        sb.same_as(&before);
    }
    let bad = sb.bundle(|c| {
        c["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "3MB", "limit": 1}])
    });
    sb.create("bad", &bad).fails();
    sb.same_as(&before);
}

#[test]
fn case_56_unified_needs_version_2() {
    let sb = Sandbox::new();
    if cgroup::unified() {
        let c = sb.sleeper("unified", |c| {
            c["linux"]["resources"]["unified"] = json!({"memory.high": "50000000"})
        });
        assert!(cgroup::read("memory", &c.bundle.cgroup, "memory.high").starts_with("4"));
        return;
    }
    let before = sb.look();
    let bundle =
        sb.bundle(|c| c["linux"]["resources"]["unified"] = json!({"memory.high": "50000000"}));
    sb.create("unified", &bundle).fails_with("unified");
    sb.same_as(&before);
}

#[test]
fn case_58_rdma_entry_must_limit_something() {
    let sb = Sandbox::new();
    let before = sb.look();
    let bundle = sb.bundle(|c| c["linux"]["resources"]["rdma"] = json!({"mlx5_0": {}}));
    sb.create("rdma", &bundle).fails_with("rdma");
    sb.same_as(&before);
}

#[test]
fn case_59_weight_device_needs_a_weight() {
    let sb = Sandbox::new();
    let before = sb.look();
    let bundle = sb.bundle(|c| {
        c["linux"]["resources"]["blockIO"] = json!({"weightDevice": [{"major": 8, "minor": 0}]});
    });
    sb.create("weight", &bundle).fails_with("weight");
    sb.same_as(&before);
}

#[test]
fn case_60_intel_rdt_without_resctrl_errors() {
    let sb = Sandbox::new();
    if fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(" - resctrl ")
    {
        knarr_integration::skip!("resctrl is mounted here; it is left alone");
    }
    let before = sb.look();
    for rdt in [
        json!({"closID": "x"}),
        json!({"l3CacheSchema": "L3:0=f"}),
        json!({"schemata": ["L3:0=f"]}),
        json!({"enableMonitoring": true}),
    ] {
        let bundle = sb.bundle(|c| c["linux"]["intelRdt"] = rdt.clone());
        sb.create("rdt", &bundle).fails();
        sb.same_as(&before);
    }
    for bad in ["a/b", ".", ".."] {
        let bundle = sb.bundle(|c| c["linux"]["intelRdt"] = json!({"closID": bad}));
        sb.create("rdt", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn block_io_throttles() {
    let sb = Sandbox::new();
    needs_v1!("blkio");
    if !cgroup::dir("blkio", "/")
        .join("blkio.throttle.read_bps_device")
        .exists()
    {
        knarr_integration::skip!("no blkio throttling");
    }
    let rdev = fs::read_dir("/sys/dev/block")
        .unwrap()
        .flatten()
        .find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (major, minor) = name.split_once(':')?;
            (!entry.path().join("partition").exists())
                .then(|| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)))?
        });
    let Some((major, minor)) = rdev else {
        knarr_integration::skip!("no block device");
    };
    let c = sb.sleeper("io", |c| {
        c["linux"]["resources"]["blockIO"] = json!({
            "throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1_000_000}],
            "throttleWriteIOPSDevice": [{"major": major, "minor": minor, "rate": 77}],
        });
    });
    let read = |file: &str| cgroup::read("blkio", &c.bundle.cgroup, file);
    assert_eq!(
        read("blkio.throttle.read_bps_device"),
        format!("{major}:{minor} 1000000")
    );
    assert_eq!(
        read("blkio.throttle.write_iops_device"),
        format!("{major}:{minor} 77")
    );
}

#[test]
fn values_that_do_not_fit_error() {
    let sb = Sandbox::new();
    let before = sb.look();
    for (part, value) in [
        ("memory", json!({"limit": "1g"})),
        ("memory", json!({"limit": 1.5})),
        ("memory", json!({"swappiness": 101})),
        ("cpu", json!({"cpus": "x"})),
        ("cpu", json!({"period": 1})),
        ("cpu", json!({"shares": -1})),
        ("pids", json!({"limit": "many"})),
        (
            "devices",
            json!([{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "x"}]),
        ),
        (
            "devices",
            json!([{"allow": true, "type": "q", "access": "r"}]),
        ),
    ] {
        let bundle = sb.bundle(|c| c["linux"]["resources"][part] = value.clone());
        assert_ne!(
            sb.create("bad", &bundle).code,
            0,
            "{part} {value} was taken"
        );
        sb.same_as(&before);
    }
}

#[test]
fn update_changes_limits_only() {
    let sb = Sandbox::new();
    needs_v1!("memory");
    let c = sb.sleeper("up", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
        c["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let read = |controller: &str, file: &str| cgroup::read(controller, &c.bundle.cgroup, file);
    let devices = read("devices", "devices.list");
    sb.rt(&[
        "update",
        "--memory",
        "33554432",
        "--cpu-share",
        "256",
        "--cpu-quota",
        "20000",
        "--cpu-period",
        "50000",
        "up",
    ])
    .ok();
    assert_eq!(read("memory", "memory.limit_in_bytes"), "33554432");
    assert_eq!(read("cpu", "cpu.shares"), "256");
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(read("cpu", "cpu.cfs_period_us"), "50000");
    assert_eq!(read("pids", "pids.max"), "50", "what is not named stays");
    sb.rt(&["update", "--pids-limit", "60", "--cpuset-cpus", "0", "up"])
        .ok();
    assert_eq!(read("pids", "pids.max"), "60");
    assert_eq!(read("cpuset", "cpuset.cpus"), "0");
    sb.rt_stdin(&["update", "--resources", "-", "up"], "{\"memory\": {\"reservation\": 16777216}, \"devices\": [{\"allow\": false, \"access\": \"rwm\"}]}").ok();
    assert_eq!(read("memory", "memory.soft_limit_in_bytes"), "16777216");
    assert_eq!(
        read("devices", "devices.list"),
        devices,
        "update leaves device rules alone"
    );
    let file = sb.path("resources.json");
    fs::write(&file, "{\"pids\": {\"limit\": 70}}").unwrap();
    sb.rt(&["update", "-r", file.to_str().unwrap(), "up"]).ok();
    assert_eq!(read("pids", "pids.max"), "70");
    sb.rt_stdin(&["update", "--resources=-", "up"], "not JSON")
        .fails();
    sb.rt(&["update", "--memory", "lots", "up"]).fails();
    sb.rt(&["update", "--memory", "33554432", "nobody"])
        .fails_with("does not exist");
    sb.rt(&["kill", "up", "KILL"]).ok();
    sb.wait_status("up", "stopped");
    sb.rt(&["update", "--memory", "33554432", "up"]).fails();
}

#[test]
fn events_print_statistics() {
    let sb = Sandbox::new();
    sb.sleeper("ev", |c| {
        c["linux"]["resources"]["pids"] = json!({"limit": 50})
    });
    let out = sb.rt(&["events", "--stats", "ev"]).ok();
    assert_eq!(out.stdout.lines().count(), 1);
    let event = out.json();
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], "ev");
    assert_eq!(event["data"]["pids"]["current"], 1);
    assert_eq!(event["data"]["pids"]["limit"], 50);
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    let running = sb.spawn(sb.command(&["events", "--interval", "100ms", "ev"]));
    assert!(process::eventually(Duration::from_secs(5), || running
        .stdout_now()
        .lines()
        .count()
        >= 3));
    sb.finish("ev");
    running.wait().ok();
    sb.rt(&["events", "--stats", "nobody"])
        .fails_with("does not exist");
}

#[test]
fn cgroup_mount_without_a_namespace_shows_the_hosts() {
    if !cgroup::unified() {
        knarr_integration::skip!("on cgroup v1 the mount shows the container's own cgroups");
    }
    let sb = Sandbox::new();
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "ro"]});
    let script =
        "cat /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/pids.max; mkdir /sys/fs/cgroup/x 2>&1";
    let out = sb.sh(script, |c| {
        drop_namespace(c, "cgroup");
        push(c, "/mounts", mount.clone());
        c["linux"]["resources"]["pids"] = json!({"limit": 42});
    });
    assert!(out.stdout.starts_with("42\n"), "{out:?}");
    assert!(out.stdout.contains("Read-only file system"), "{out:?}");
    // In a user namespace there is no business with the host's.
    let out = sb.sh("cat /sys/fs/cgroup/pids.max", |c| {
        drop_namespace(c, "cgroup");
        user_namespace(c);
        push(c, "/mounts", mount);
        c["linux"]["resources"]["pids"] = json!({"limit": 42});
    });
    assert_eq!(out.text(), "42", "{out:?}");
}

#[test]
fn events_tell_of_a_kill_however_often_figures_are_asked_for() {
    let sb = Sandbox::new();
    if !cgroup::unified() {
        needs_v1!("memory");
    }
    sb.sleeper("oom", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 20_971_520, "swap": 20_971_520});
    });
    let events = sb.spawn(sb.command(&["events", "--interval=1us", "oom"]));
    let shows = |text: &str| {
        process::eventually(Duration::from_secs(60), || {
            events.stdout_now().contains(text)
        })
    };
    assert!(shows("stats"));
    let hungry = "dd if=/dev/zero of=/dev/null bs=40M count=1; exit 7";
    sb.rt(&["exec", "oom", "/bin/sh", "-c", hungry]);
    assert!(shows(r#""type":"oom""#));
    sb.finish("oom");
    events.wait().ok();
}

/// A cgroup namespace begins somewhere; the container's user namespace has to own it to see that. On version 2
/// the container's own cgroup is shown instead, and no more.
#[test]
fn cgroup_mount_in_a_namespace_of_others() {
    let sb = Sandbox::new();
    let base = sb.sleeper("base", |_| {});
    let bundle = sb.sh_bundle(
        "cat /sys/fs/cgroup/cgroup.procs; ls -d /sys/fs/cgroup/*/; mkdir /sys/fs/cgroup/x",
        |c| {
            user_namespace(c);
            let path = process::namespace_path(base.pid, "cgroup");
            drop_namespace(c, "cgroup");
            push(
                c,
                "/linux/namespaces",
                json!({"type": "cgroup", "path": path}),
            );
            push(
                c,
                "/mounts",
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "ro"]}),
            );
        },
    );
    let before = sb.look();
    let out = sb.run(&bundle);
    if cgroup::unified() {
        // The shell and cat; no cgroup below.
        assert_eq!(out.stdout.lines().count(), 2, "{out:?}");
        assert!(out.stderr.contains("No such file"), "{out:?}");
        assert!(out.stderr.contains("Read-only file system"), "{out:?}");
        sb.same_as(&before);
        return;
    }
    let out = out.fails_with("belongs to another user namespace");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
    sb.same_as(&before);
}

/// With either version, and with systemd where it makes the cgroups.
#[test]
fn a_read_only_tree_is_refused() {
    for driver in [cgroup::Driver::Cgroupfs, cgroup::Driver::Systemd] {
        if driver == cgroup::Driver::Systemd && driver.missing().is_some() {
            continue;
        }
        let sb = Sandbox::with(driver);
        let bundle = sb.sh_bundle("exec sleep 600", |c| {
            c["linux"]["resources"]["pids"] = json!({"limit": 9});
        });
        let before = sb.look();
        let read_only = "while read -r _ at kind _; do case $kind in cgroup*) \
            mount -o remount,bind,ro $at || exit ;; esac; done </proc/self/mounts";
        let create = ["create", "--bundle", bundle.arg(), "ro"];
        let out = sb
            .elsewhere(read_only, &[], &create)
            .fails_with("read-only");
        assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
        sb.rt(&["state", "ro"]).fails_with("does not exist");
        sb.same_as(&before);
        sb.started("ro", &bundle);
        for command in [
            &["update", "--pids-limit", "20", "ro"][..],
            &["pause", "ro"],
        ] {
            sb.elsewhere(read_only, &[], command)
                .fails_with("read-only");
        }
        assert_eq!(sb.status("ro"), "running");
        sb.finish("ro");
    }
}

#[test]
fn cgroup_mount_shows_the_containers_own() {
    let sb = Sandbox::new();
    let out = sb.sh("cat /proc/self/cgroup; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; mkdir /sys/fs/cgroup/pids/x /sys/fs/cgroup/x 2>&1", |c| {
        push(c, "/mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "ro"]}));
        c["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
    });
    assert!(out.stdout.contains("67108864"), "{out:?}");
    assert!(
        !out.stdout.contains(sb.cgroup()),
        "the host's path shows: {out:?}"
    );
    assert!(out.stdout.contains("Read-only file system"), "{out:?}");
}
