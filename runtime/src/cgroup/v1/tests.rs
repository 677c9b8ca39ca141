//! cgroup v1 on the host's real hierarchies (needs root), under a place of the tests' own.

use std::collections::BTreeMap;

use super::super::testsuite;
use super::*;
use crate::cgroup::{from_record, manager};
use crate::container::CgroupDriver;

fn have_v1() -> bool {
    let usable = rustix::process::geteuid().is_root()
        && Layout::detect().is_ok_and(|layout| layout.v1.len() >= 8);
    if !usable {
        eprintln!("skipped: needs root and the controllers of cgroup v1");
    }
    usable
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
    if !have_v1() {
        return;
    }
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
    if have_v1() {
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
