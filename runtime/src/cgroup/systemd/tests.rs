//! systemd: names of units, and the whole life where the host runs systemd (needs root).

use std::collections::BTreeMap;

use super::super::testsuite;
use super::*;
use crate::cgroup::CgroupDriver;
use crate::cgroup::manager;

fn have_systemd() -> bool {
    let usable = rustix::process::geteuid().is_root()
        && std::path::Path::new("/run/systemd/system").exists();
    if !usable {
        crate::sys::testing::note_skip(format_args!("needs root and a host that runs systemd"));
    }
    usable
}

fn name(path: &str) -> Result<(String, String)> {
    let annotations = BTreeMap::new();
    unit_of(&testsuite::request(
        path,
        CgroupDriver::Systemd,
        &annotations,
    ))
}

#[test]
fn names_units() {
    for (path, slice, unit) in [
        ("", "system.slice", "knarr-knarr-test.scope"),
        ("a.slice:docker:x", "a.slice", "docker-x.scope"),
        (":cri:x", "system.slice", "cri-x.scope"),
        ("a-b.slice::x", "a-b.slice", "x.scope"),
    ] {
        assert_eq!(
            name(path).unwrap(),
            (slice.to_owned(), unit.to_owned()),
            "{path}"
        );
    }
    for path in [
        "/a/b",
        "a:b",
        "a.slice:b:",
        "a:b:c",
        "a/b.slice:c:d",
        "a.slice:b:c:d",
        "a.slice:b:../c",
    ] {
        assert_eq!(
            name(path).unwrap_err().kind(),
            Kind::InvalidConfig,
            "{path}"
        );
    }
}

#[test]
fn behaves_as_every_manager() {
    if !have_systemd() {
        return;
    }
    testsuite::run("systemd", |path| {
        let annotations = BTreeMap::new();
        let path = format!(":knarr:{}", path.trim_matches('/').replace('/', "-"));
        manager(&testsuite::request(
            &path,
            CgroupDriver::Systemd,
            &annotations,
        ))
        .unwrap()
    });
}

fn systemctl(arguments: &[&str]) -> String {
    let output = std::process::Command::new("systemctl")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn device_rules_and_limits_survive_a_reload() {
    if !have_systemd() {
        return;
    }
    let annotations = BTreeMap::from([
        (
            "org.systemd.property.TimeoutStopSec".into(),
            "uint64 7".into(),
        ),
        ("org.systemd.property.Description".into(), "'a test'".into()),
    ]);
    let path = format!(":knarr:reload-{}", std::process::id());
    let mut manager = manager(&testsuite::request(
        &path,
        CgroupDriver::Systemd,
        &annotations,
    ))
    .unwrap();
    let resources: Resources<'_> = serde_json::from_str(
        r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":104857600},
            "cpu":{"shares":512,"quota":20000,"period":100000},"pids":{"limit":77}}"#,
    )
    .unwrap();
    manager.create(&resources).unwrap();
    let mut shell = testsuite::Shell::start();
    manager.attach(shell.pid()).unwrap();
    let unit = manager.record().unit.unwrap().name;
    systemctl(&["daemon-reload"]);
    let limits = if Layout::detect().unwrap().v1.is_empty() {
        ["MemoryMax=104857600", "CPUWeight=59"]
    } else {
        ["MemoryLimit=104857600", "CPUShares=512"]
    };
    let shown = systemctl(&["show", &unit]);
    let others = [
        "TasksMax=77",
        "DevicePolicy=strict",
        "TimeoutStopUSec=7s",
        "Description=a test",
    ];
    for line in limits.iter().chain(&others) {
        assert!(shown.lines().any(|shown| shown == *line), "{line}: {shown}");
    }
    assert_eq!(shell.ask("cat /dev/null && echo yes"), "yes");
    assert_eq!(
        shell.ask("(: < /dev/kmsg) 2>/dev/null || echo denied"),
        "denied"
    );
    assert_eq!(manager.stats().unwrap().pids.limit, 77);

    // The name is taken while the container lives.
    let mut second = super::super::manager(&testsuite::request(
        &path,
        CgroupDriver::Systemd,
        &annotations,
    ))
    .unwrap();
    second.create(&resources).unwrap();
    let mut other = testsuite::Shell::start();
    assert_eq!(second.attach(other.pid()).unwrap_err().kind(), Kind::Exists);
    second.delete().unwrap();
    assert_eq!(shell.ask("echo alive"), "alive");
    other.end();

    manager.kill_all(libc::SIGKILL).unwrap();
    shell.end();
    manager.delete().unwrap();
    assert!(
        !manager
            .record()
            .dirs
            .iter()
            .any(|dir| std::path::Path::new(&dir.path).exists())
    );
}

/// The life of a container of an unprivileged user, in a cgroup the user was given.
fn rootless(driver: CgroupDriver, path: &str) {
    let annotations = BTreeMap::new();
    let request = Request {
        rootless: true,
        ..testsuite::request(path, driver, &annotations)
    };
    let mut manager = manager(&request).unwrap();
    let resources: Resources<'_> = serde_json::from_str(
        r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":104857600},"pids":{"limit":7}}"#,
    )
    .unwrap();
    manager.create(&resources).unwrap();
    let mut shell = testsuite::Shell::start();
    manager.attach(shell.pid()).unwrap();
    let mut second = testsuite::Shell::start();
    manager.attach_exec(second.pid(), &[], shell.pid()).unwrap();
    assert_eq!(manager.pids().unwrap().len(), 2);
    let stats = manager.stats().unwrap();
    assert_eq!(
        (stats.pids.limit, stats.memory.usage.limit),
        (7, 104_857_600)
    );
    manager
        .update(&serde_json::from_str(r#"{"pids":{"limit":9}}"#).unwrap())
        .unwrap();
    assert_eq!(manager.stats().unwrap().pids.limit, 9);
    manager.kill_all(libc::SIGKILL).unwrap();
    shell.end();
    second.end();
    manager.delete().unwrap();
    assert!(
        !manager
            .record()
            .dirs
            .iter()
            .any(|dir| std::path::Path::new(&dir.path).exists())
    );
}

#[test]
fn an_unprivileged_user_has_cgroups_too() {
    if rustix::process::geteuid().is_root()
        || !std::path::Path::new("/run/systemd/system").exists()
        || std::env::var_os("XDG_RUNTIME_DIR").is_none()
    {
        crate::sys::testing::note_skip(format_args!(
            "needs an unprivileged user with a service manager of systemd"
        ));
        return;
    }
    rootless(
        CgroupDriver::Systemd,
        &format!(":knarr:user-{}", std::process::id()),
    );
    rootless(CgroupDriver::Cgroupfs, "");
}
