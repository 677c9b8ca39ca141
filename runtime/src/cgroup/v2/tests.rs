//! cgroup v2: the walk down the tree, and the whole life where the host has v2 alone (needs root).

use super::super::testsuite;
use super::*;
use crate::cgroup::CgroupDriver;
use crate::cgroup::{Layout, manager};

fn have_v2() -> Option<testsuite::Sweep> {
    let usable = rustix::process::geteuid().is_root()
        && Layout::detect().is_ok_and(|layout| layout.v1.is_empty() && layout.unified.is_some());
    if !usable {
        crate::sys::testing::note_skip(format_args!("needs root and a host with cgroup v2 alone"));
    }
    usable.then_some(testsuite::Sweep)
}

#[test]
fn walks_down_to_the_parent() {
    let path = "/sys/fs/cgroup/a/b/c";
    let found: Vec<_> = ancestors(path, "/sys/fs/cgroup".len()).collect();
    assert_eq!(
        found,
        ["/sys/fs/cgroup", "/sys/fs/cgroup/a", "/sys/fs/cgroup/a/b"]
    );
}

#[test]
fn files_belong_to_controllers() {
    assert_eq!(controller_of("memory.high"), Some("memory"));
    assert_eq!(controller_of("hugetlb.2MB.max"), Some("hugetlb"));
    assert_eq!(controller_of("cgroup.max.depth"), None);
}

#[test]
fn behaves_as_every_manager() {
    if let Some(_sweep) = have_v2() {
        testsuite::run("v2", |path| {
            let annotations = std::collections::BTreeMap::new();
            manager(&testsuite::request(
                path,
                CgroupDriver::Cgroupfs,
                &annotations,
            ))
            .unwrap()
        });
    }
}

fn real(part: &str) -> V2 {
    let annotations = std::collections::BTreeMap::new();
    let path = format!("/knarr-test-{}/{part}", std::process::id());
    let request = testsuite::request(&path, CgroupDriver::Cgroupfs, &annotations);
    V2::new(&Layout::detect().unwrap().unified.unwrap(), &request)
}

fn parse(json: &str) -> Resources<'_> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn every_field_reaches_its_file() {
    let Some(_sweep) = have_v2() else {
        return;
    };
    let mut manager = real("values");
    manager
        .create(&parse(
            r#"{"cpu":{"shares":512,"quota":40000,"period":80000,"burst":10000,"cpus":"0","mems":"0"},
                "memory":{"limit":209715200,"swap":419430400,"reservation":104857600,
                          "disableOOMKiller":false},
                "blockIO":{"weight":500},"pids":{"limit":7},
                "hugepageLimits":[{"pageSize":"2MB","limit":4194304}],
                "unified":{"memory.high":"188743680","cgroup.max.depth":"3","pids.max":"9"}}"#,
        ))
        .unwrap();
    for (name, expected) in [
        ("cpu.weight", "59"),
        ("cpu.max", "40000 80000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("memory.max", "209715200"),
        ("memory.low", "104857600"),
        ("memory.high", "188743680"),
        ("cgroup.max.depth", "3"),
        ("hugetlb.2MB.max", "4194304"),
        ("pids.max", "9"),
    ] {
        assert_eq!(file::read(&manager.path, name).unwrap(), expected, "{name}");
    }
    // A period alone leaves the quota; a quota alone leaves the period.
    manager
        .update(&parse(r#"{"cpu":{"period":160000}}"#))
        .unwrap();
    assert_eq!(
        file::read(&manager.path, "cpu.max").unwrap(),
        "40000 160000"
    );
    manager
        .update(&parse(r#"{"cpu":{"quota":50000,"idle":1}}"#))
        .unwrap();
    assert_eq!(
        file::read(&manager.path, "cpu.max").unwrap(),
        "50000 160000"
    );
    assert_eq!(file::read(&manager.path, "cpu.idle").unwrap(), "1");
    for (json, field) in [
        (r#"{"unified":{"nosuch.max":"1"}}"#, "unified.nosuch.max"),
        (
            r#"{"unified":{"memory.nosuch":"1"}}"#,
            "unified.memory.nosuch",
        ),
        (r#"{"unified":{"pids.max":"oops"}}"#, "unified.pids.max"),
    ] {
        let error = manager.update(&parse(json)).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    manager.delete().unwrap();
}

#[test]
fn a_limit_below_the_usage_is_refused_where_asked() {
    let Some(_sweep) = have_v2() else {
        return;
    };
    let mut manager = real("check");
    manager.create(&parse("{}")).unwrap();
    let mut shell = testsuite::Shell::start();
    manager.attach(shell.pid()).unwrap();
    shell.ask("x=$(head -c 2000000 /dev/zero | tr '\\0' a); echo ${#x}");
    let error = manager
        .update(&parse(
            r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#,
        ))
        .unwrap_err();
    assert!(
        error.to_string().contains("linux.resources.memory.limit"),
        "{error}"
    );
    assert_eq!(shell.ask("echo alive"), "alive");
    shell.end();
    manager.delete().unwrap();
}

#[test]
fn a_further_process_goes_where_init_is() {
    let Some(_sweep) = have_v2() else {
        return;
    };
    let mut manager = real("split");
    manager.create(&parse("{}")).unwrap();
    let mut init = testsuite::Shell::start();
    manager.attach(init.pid()).unwrap();
    let path = manager.path.clone();
    // As systemd in a container does: into a child, and controllers enabled for children.
    assert_eq!(
        init.ask(&format!(
            "mkdir {path}/init && echo $$ > {path}/init/cgroup.procs && \
             echo +pids > {path}/cgroup.subtree_control && echo split"
        )),
        "split"
    );
    let mut second = testsuite::Shell::start();
    manager.attach_exec(second.pid(), &[], init.pid()).unwrap();
    let place = std::fs::read_to_string(format!("/proc/{}/cgroup", second.pid())).unwrap();
    assert!(place.trim_end().ends_with("/split/init"), "{place}");
    let fd = manager.clone_into_exec(&[], init.pid()).unwrap().unwrap();
    let link = std::fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fd)
    ));
    assert_eq!(link.unwrap().to_str().unwrap(), format!("{path}/init"));
    assert!(
        manager
            .clone_into_exec(&["cpu:init".to_owned()], init.pid())
            .is_err()
    );
    init.end();
    second.end();
    manager.delete().unwrap();
}

#[test]
fn gives_away_what_the_kernel_lists() {
    let Some(_sweep) = have_v2() else {
        return;
    };
    let mut manager = real("owner");
    manager.create(&parse("{}")).unwrap();
    manager.delegate(1234).unwrap();
    let owner = |name: &str| {
        let path = file::join(&manager.path, name);
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap())
    };
    for name in [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ] {
        assert_eq!(owner(name), 1234, "{name}");
    }
    for name in ["memory.max", "pids.max", "cgroup.kill"] {
        assert_eq!(owner(name), 0, "{name}");
    }
    manager.delete().unwrap();
}

#[test]
fn a_threaded_place_is_refused_clearly() {
    let Some(_sweep) = have_v2() else {
        return;
    };
    let mut parent = real("threads");
    file::make_dirs(&parent.path, parent.base, 1).unwrap();
    std::fs::create_dir(format!("{}/t", parent.path)).unwrap();
    file::write(&parent.path, "cgroup.type", "threaded").unwrap();
    let mut manager = real("threads/c");
    let mut shell = testsuite::Shell::start();
    let result = manager
        .create(&parse("{}"))
        .and_then(|()| manager.attach(shell.pid()));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("threaded"), "{error}");
    shell.end();
    manager.delete().unwrap();
    parent.made = 1;
    parent.delete().unwrap();
    let _ = std::fs::remove_dir(parent.path.rsplit_once('/').unwrap().0);
}

#[test]
fn rules_of_an_earlier_container_do_not_stay() {
    let Some(_sweep) = have_v2() else {
        return;
    };
    let mut first = real("again");
    first.create(&parse("{}")).unwrap();
    let mut second = real("again");
    second
        .create(&parse(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#))
        .unwrap();
    let mut shell = testsuite::Shell::start();
    second.attach(shell.pid()).unwrap();
    assert_eq!(shell.ask("(: < /dev/kmsg) && echo yes"), "yes");
    let dir = second.open("").unwrap();
    assert_eq!(
        crate::sys::bpf::device_filters(dir.as_fd()).unwrap().len(),
        1
    );
    shell.end();
    second.delete().unwrap();
    first.delete().unwrap();
}
