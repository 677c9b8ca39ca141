//! cgroup v1 on the host's real hierarchies (needs root), under a place of the tests' own.

use std::collections::BTreeMap;

use super::super::testsuite;
use super::*;
use crate::cgroup::CgroupDriver;
use crate::cgroup::{from_record, manager};

fn have_v1() -> Option<testsuite::Sweep> {
    let usable = rustix::process::geteuid().is_root()
        && Layout::detect().is_ok_and(|layout| layout.v1.len() >= 8);
    if !usable {
        crate::sys::testing::note_skip(format_args!("needs root and the controllers of cgroup v1"));
    }
    usable.then_some(testsuite::Sweep)
}

fn value(record: &Record, controller: &str, name: &str) -> String {
    let dir = record
        .dirs
        .iter()
        .find(|dir| dir.controllers.split(',').any(|c| c == controller))
        .unwrap();
    file::read(&dir.path, name).unwrap()
}

#[test]
fn creates_limits_attaches_and_deletes() {
    let Some(_sweep) = have_v1() else {
        return;
    };
    let path = format!("/knarr-test-{}/basic/x", std::process::id());
    let resources: Resources<'_> = serde_json::from_str(
        r#"{"devices":[{"allow":false,"access":"rwm"},
                       {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}],
            "memory":{"limit":209715200,"reservation":104857600,"swap":419430400,"disableOOMKiller":false},
            "cpu":{"shares":512,"quota":50000,"period":100000},
            "pids":{"limit":100},"blockIO":{}}"#,
    )
    .unwrap();
    let annotations = BTreeMap::new();
    let request = testsuite::request(&path, CgroupDriver::Cgroupfs, &annotations);
    let mut manager = manager(&request).unwrap();
    manager.create(&resources).unwrap();
    let record = manager.record();
    assert_eq!(
        value(&record, "memory", "memory.limit_in_bytes"),
        "209715200"
    );
    assert_eq!(
        value(&record, "memory", "memory.soft_limit_in_bytes"),
        "104857600"
    );
    assert_eq!(
        value(&record, "memory", "memory.memsw.limit_in_bytes"),
        "419430400"
    );
    assert_eq!(value(&record, "cpu", "cpu.shares"), "512");
    assert_eq!(value(&record, "cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(value(&record, "pids", "pids.max"), "100");
    assert!(!value(&record, "cpuset", "cpuset.cpus").is_empty());
    let devices = value(&record, "devices", "devices.list");
    assert!(devices.contains("c 10:229 rw\n"), "{devices}");
    assert!(devices.contains("c 1:3 rwm\n"), "{devices}");
    assert!(!devices.contains("a *:* rwm"), "{devices}");

    let mut child = std::process::Command::new("sleep")
        .arg("100")
        .spawn()
        .unwrap();
    manager.attach(child.id()).unwrap();
    assert_eq!(manager.pids().unwrap(), [child.id()]);
    let places = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    for dir in &record.dirs {
        assert!(dir.made > 0, "{dir:?}");
    }
    assert_eq!(
        places.matches(&path).count(),
        places.lines().count(),
        "{places}"
    );

    child.kill().unwrap();
    child.wait().unwrap();
    let json = serde_json::to_string(&record).unwrap();
    let record: Record = serde_json::from_str(&json).unwrap();
    let mut manager = from_record(&record).unwrap();
    manager.delete().unwrap();
    for dir in &record.dirs {
        let parent = std::path::Path::new(&dir.path).parent().unwrap();
        assert!(!parent.exists(), "{}", parent.display());
    }
}

#[test]
fn behaves_as_every_manager() {
    if let Some(_sweep) = have_v1() {
        testsuite::run("v1", |path| {
            let annotations = BTreeMap::new();
            manager(&testsuite::request(
                path,
                CgroupDriver::Cgroupfs,
                &annotations,
            ))
            .unwrap()
        });
    }
}

fn real(part: &str) -> Box<dyn Manager> {
    at(&format!("/knarr-test-{}/{part}", std::process::id()))
}

fn at(path: &str) -> Box<dyn Manager> {
    let annotations = BTreeMap::new();
    manager(&testsuite::request(
        path,
        CgroupDriver::Cgroupfs,
        &annotations,
    ))
    .unwrap()
}

fn parse(json: &str) -> Resources<'_> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn every_field_reaches_its_file() {
    let Some(_sweep) = have_v1() else {
        return;
    };
    let mut manager = real("values");
    manager
        .create(&parse(
            r#"{"cpu":{"shares":300,"quota":40000,"period":80000,"burst":10000,"cpus":"0","mems":"0"},
                "memory":{"limit":209715200,"swap":209715200,"reservation":104857600,"kernelTCP":4194304,
                          "swappiness":30,"disableOOMKiller":true,"useHierarchy":true,"checkBeforeUpdate":true},
                "blockIO":{"weight":250},"pids":{"limit":-1}}"#,
        ))
        .unwrap();
    let record = manager.record();
    for (controller, name, expected) in [
        ("cpu", "cpu.shares", "300"),
        ("cpu", "cpu.cfs_quota_us", "40000"),
        ("cpu", "cpu.cfs_period_us", "80000"),
        ("cpu", "cpu.cfs_burst_us", "10000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("memory", "memory.limit_in_bytes", "209715200"),
        ("memory", "memory.memsw.limit_in_bytes", "209715200"),
        ("memory", "memory.soft_limit_in_bytes", "104857600"),
        ("memory", "memory.kmem.tcp.limit_in_bytes", "4194304"),
        ("memory", "memory.swappiness", "30"),
        ("blkio", "blkio.bfq.weight", "250"),
        ("pids", "pids.max", "max"),
    ] {
        assert_eq!(value(&record, controller, name), expected, "{name}");
    }
    assert!(value(&record, "memory", "memory.oom_control").starts_with("oom_kill_disable 1"));
    manager
        .update(&parse(r#"{"cpu":{"idle":1,"shares":300}}"#))
        .unwrap();
    assert_eq!(value(&record, "cpu", "cpu.idle"), "1");
    manager
        .update(&parse(
            r#"{"cpu":{"idle":0,"shares":500},"memory":{"limit":-1}}"#,
        ))
        .unwrap();
    assert_eq!(value(&record, "cpu", "cpu.shares"), "500");
    let unlimited = value(&record, "memory", "memory.memsw.limit_in_bytes");
    assert_eq!(value(&record, "memory", "memory.limit_in_bytes"), unlimited);
    manager.delete().unwrap();
}

#[test]
fn huge_pages_are_limited_in_the_unified_hierarchy() {
    let Some(_sweep) = have_v1() else {
        return;
    };
    let hybrid = Layout::detect().unwrap().unified.is_some_and(|unified| {
        file::read(&unified.mount_point, "cgroup.controllers").is_ok_and(|c| c.contains("hugetlb"))
    });
    if !hybrid {
        crate::sys::testing::note_skip(format_args!(
            "no hybrid host with hugetlb in the unified hierarchy"
        ));
        return;
    }
    // The controller stays enabled for good, as neighbours may have begun to
    // rely on it: the test puts the host back as it was.
    let root = Layout::detect().unwrap().unified.unwrap().mount_point;
    let before = file::read(&root, "cgroup.subtree_control").unwrap();
    let path = format!("/knarr-test-{}-huge", std::process::id());
    let mut manager = at(&path);
    manager
        .create(&parse(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}],
                "unified":{"cgroup.max.descendants":"7","hugetlb.1GB.max":"1073741824"}}"#,
        ))
        .unwrap();
    let record = manager.record();
    assert_eq!(value(&record, "unified", "hugetlb.2MB.max"), "4194304");
    assert_eq!(value(&record, "unified", "hugetlb.2MB.rsvd.max"), "4194304");
    assert_eq!(value(&record, "unified", "hugetlb.1GB.max"), "1073741824");
    assert_eq!(value(&record, "unified", "cgroup.max.descendants"), "7");
    assert!(manager.stats().unwrap().hugetlb.contains_key("2MB"));
    manager.delete().unwrap();
    let error = at(&path)
        .create(&parse(r#"{"unified":{"memory.high":"1"}}"#))
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("unified.memory.high"), "{error}");
    if !before.contains("hugetlb") {
        file::write(&root, "cgroup.subtree_control", "-hugetlb").unwrap();
    }
}

#[test]
fn names_the_field_and_leaves_nothing() {
    let Some(_sweep) = have_v1() else {
        return;
    };
    for (json, field) in [
        (r#"{"cpu":{"shares":1}}"#, "cpu.shares"),
        (r#"{"cpu":{"quota":10,"period":100000}}"#, "cpu.quota"),
        (r#"{"cpu":{"quota":5000,"burst":6000}}"#, "cpu.burst"),
        (r#"{"cpu":{"cpus":"x"}}"#, "cpu.cpus"),
        (r#"{"memory":{"swappiness":101}}"#, "memory.swappiness"),
        (r#"{"memory":{"limit":2000000,"swap":1000000}}"#, "memory."),
        (r#"{"blockIO":{"leafWeight":100}}"#, "blockIO.leafWeight"),
        (r#"{"blockIO":{"weight":5000}}"#, "blockIO.weight"),
        (r#"{"network":{"classID":1}}"#, "network.classID"),
        (
            r#"{"network":{"priorities":[{"name":"lo","priority":1}]}}"#,
            "network.priorities[0]",
        ),
        (r#"{"rdma":{"x":{"hcaHandles":1}}}"#, "rdma.x"),
        (
            r#"{"hugepageLimits":[{"pageSize":"3MB","limit":1}]}"#,
            "hugepageLimits[0]",
        ),
        (
            r#"{"devices":[{"allow":true,"type":"z","access":"r"}]}"#,
            "devices[0].type",
        ),
    ] {
        let mut manager = real("errors/one");
        let error = manager.create(&parse(json)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("linux.resources.{field}")),
            "{json}: {error}"
        );
        for dir in manager.record().dirs {
            assert!(
                !std::path::Path::new(&dir.path).exists(),
                "{json}: {}",
                dir.path
            );
        }
    }
}

#[test]
fn a_cgroup_in_use_is_refused_and_stays() {
    let Some(_sweep) = have_v1() else {
        return;
    };
    let mut first = real("used");
    first.create(&parse("{}")).unwrap();
    let mut shell = testsuite::Shell::start();
    first.attach(shell.pid()).unwrap();
    let mut second = real("used");
    assert_eq!(
        second.create(&parse("{}")).unwrap_err().kind(),
        Kind::WrongState
    );
    second.delete().unwrap();
    assert_eq!(first.pids().unwrap(), [shell.pid()]);
    shell.end();
    // Empty, it may be used, and stays when its user goes: someone else made it.
    let mut third = real("used");
    third.create(&parse(r#"{"pids":{"limit":3}}"#)).unwrap();
    third.delete().unwrap();
    let record = first.record();
    assert_eq!(value(&record, "pids", "pids.max"), "3");
    first.delete().unwrap();
}

#[test]
fn the_place_follows_from_the_path() {
    let layout = Layout::parse(
        "1 1 1:1 / /c/memory rw - cgroup cgroup rw,memory\n",
        "4:memory:/own/place\n",
    );
    let annotations = BTreeMap::new();
    for (path, rootless, expected) in [
        ("/a/b", false, "/c/memory/a/b"),
        ("/../../a", false, "/c/memory/a"),
        ("a/../../b", false, "/c/memory/b"),
        ("a", true, "/c/memory/own/place/a"),
        ("", false, "/c/memory/own/place/knarr-test"),
        ("/", false, "/c/memory/own/place/knarr-test"),
    ] {
        let request = Request {
            rootless,
            ..testsuite::request(path, CgroupDriver::Cgroupfs, &annotations)
        };
        let manager = V1::new(&layout, &request);
        assert_eq!(manager.path(Controller::Memory), Some(expected), "{path}");
    }
}

/// net_cls, net_prio and rdma are seldom compiled in or mounted on v1: ordinary
/// directories with files of the same names stand in for them.
#[test]
fn writes_network_and_rdma_values_to_a_stand_in() {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path().to_str().unwrap();
    let mut mounts = String::new();
    for (controller, files) in [
        ("net_cls", &["net_cls.classid"][..]),
        ("net_prio", &["net_prio.ifpriomap"]),
        ("rdma", &["rdma.max"]),
        (
            "hugetlb",
            &[
                "hugetlb.2MB.limit_in_bytes",
                "hugetlb.2MB.rsvd.limit_in_bytes",
            ],
        ),
        ("devices", &["devices.allow", "devices.deny"]),
    ] {
        let dir = format!("{root}/{controller}");
        std::fs::create_dir_all(format!("{dir}/x")).unwrap();
        for name in files.iter().chain(&["cgroup.procs"]) {
            std::fs::write(format!("{dir}/x/{name}"), "").unwrap();
        }
        mounts += &format!("1 1 1:1 / {dir} rw - cgroup cgroup rw,{controller}\n");
    }
    let layout = Layout::parse(&mounts, "");
    let annotations = BTreeMap::new();
    let request = testsuite::request("/x", CgroupDriver::Cgroupfs, &annotations);
    let mut manager = V1::new(&layout, &request);
    manager
        .create(&parse(
            r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]},
                "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000}},
                "hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
        ))
        .unwrap();
    let record = manager.record();
    for (controller, name, expected) in [
        ("net_cls", "net_cls.classid", "1048577"),
        ("net_prio", "net_prio.ifpriomap", "eth0 5"),
        ("rdma", "rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
        ("hugetlb", "hugetlb.2MB.limit_in_bytes", "4194304"),
        ("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
    ] {
        assert_eq!(value(&record, controller, name), expected);
    }
}

#[test]
fn tells_of_a_process_killed_for_want_of_memory() {
    let Some(_sweep) = have_v1() else {
        return;
    };
    let mut manager = real("oom");
    manager
        .create(&parse(r#"{"memory":{"limit":8388608,"swap":8388608}}"#))
        .unwrap();
    let mut shell = testsuite::Shell::start();
    manager.attach(shell.pid()).unwrap();
    let mut watch = manager.watch_oom().unwrap();
    assert_eq!(watch.wait(0).unwrap(), super::super::OomEvent::Nothing);
    shell.ask("(x=a; while :; do x=$x$x; done) 2>/dev/null; echo over");
    assert_eq!(watch.wait(10_000).unwrap(), super::super::OomEvent::Oom);
    shell.end();
    manager.delete().unwrap();
    assert_eq!(watch.wait(10_000).unwrap(), super::super::OomEvent::Gone);
}
