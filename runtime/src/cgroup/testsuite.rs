//! What every manager must do, whatever it is built on: one suite for all of them.
//!
//! Runs on the real cgroups of the host, in places named `knarr-test-PID`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{Manager, Record, Request, from_record};
use crate::cgroup::CgroupDriver;
use crate::spec::Text;
use crate::spec::resources::Resources;

/// A request for one container of a test.
pub(super) fn request<'a>(
    path: &'a str,
    driver: CgroupDriver,
    annotations: &'a BTreeMap<Text<'a>, Text<'a>>,
) -> Request<'a> {
    Request {
        id: "knarr-test",
        cgroups_path: path,
        driver,
        rootless: false,
        annotations,
    }
}

/// Removes the tests' own top directory once it is empty. Tests at the same
/// time share it, and whoever did not make it does not remove it.
#[derive(Debug)]
pub(super) struct Sweep;

impl Drop for Sweep {
    fn drop(&mut self) {
        let layout = super::Layout::detect().unwrap();
        for hierarchy in layout.v1.iter().chain(&layout.unified) {
            let top = format!(
                "{}/knarr-test-{}",
                hierarchy.mount_point,
                std::process::id()
            );
            for part in ["errors", "v1", "v2", "basic"] {
                let _ = std::fs::remove_dir(format!("{top}/{part}"));
            }
            let _ = std::fs::remove_dir(top);
        }
    }
}

/// A process in the container's place, which does what it is told.
pub(super) struct Shell {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Shell {
    pub(super) fn start() -> Shell {
        let mut child = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Shell { child, output }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command that prints one line.
    pub(super) fn ask(&mut self, command: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Kills it, if nobody has yet, and returns the signal it died of.
    pub(super) fn end(&mut self) -> Option<i32> {
        let _ = self.child.kill();
        std::os::unix::process::ExitStatusExt::signal(&self.child.wait().unwrap())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resources(json: &str) -> Resources<'_> {
    serde_json::from_str(json).unwrap()
}

/// The manager that a later command would have.
fn again(manager: &dyn Manager) -> Box<dyn Manager> {
    let json = serde_json::to_string(&manager.record()).unwrap();
    from_record(&serde_json::from_str::<Record>(&json).unwrap()).unwrap()
}

fn left(record: &Record) -> Vec<&str> {
    record
        .dirs
        .iter()
        .map(|dir| dir.path.as_str())
        .filter(|path| std::path::Path::new(path).exists())
        .collect()
}

/// Runs the suite; `make` gives a manager for a cgroup path.
pub(super) fn run(name: &str, make: impl Fn(&str) -> Box<dyn Manager>) {
    let path = |part: &str| format!("/knarr-test-{}/{name}/{part}", std::process::id());
    lives_and_dies(make(&path("life")));
    blocks_devices(make(&path("devices")));
    updates(make(&path("update")));
    removes_what_the_container_left(make(&path("nested")));
    kills_a_frozen_container(make(&path("frozen")));
    fails_without_a_trace(make(&path("failing")));
    limits_to_no_task(make(&path("zero")));
}

fn lives_and_dies(mut manager: Box<dyn Manager>) {
    manager
        .create(&resources(
            r#"{"memory":{"limit":104857600},"cpu":{"shares":512,"quota":20000,"period":50000},
                "pids":{"limit":50}}"#,
        ))
        .unwrap();
    let mut shell = Shell::start();
    manager.attach(shell.pid()).unwrap();
    let mut manager = again(&*manager);
    assert_eq!(manager.pids().unwrap(), [shell.pid()]);
    let stats = manager.stats().unwrap();
    assert_eq!(stats.pids.limit, 50);
    assert_eq!(stats.pids.current, 1);
    assert_eq!(stats.memory.usage.limit, 104_857_600);
    assert!(!manager.is_frozen().unwrap());
    manager.freeze().unwrap();
    assert!(manager.is_frozen().unwrap());
    manager.thaw().unwrap();
    assert!(!manager.is_frozen().unwrap());
    assert_eq!(shell.ask("echo on"), "on");

    let mut second = Shell::start();
    manager.attach_exec(second.pid(), &[], shell.pid()).unwrap();
    let mut pids = manager.pids().unwrap();
    pids.sort_unstable();
    let mut expected = [shell.pid(), second.pid()];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    for bad in ["..", "../x", "no/such"] {
        let sub = [bad.to_owned()];
        assert!(
            manager
                .attach_exec(second.pid(), &sub, shell.pid())
                .is_err(),
            "{bad}"
        );
    }

    assert!(manager.watch_oom().is_ok());
    manager.kill_all(libc::SIGKILL).unwrap();
    assert_eq!(shell.end(), Some(libc::SIGKILL));
    assert_eq!(second.end(), Some(libc::SIGKILL));
    let record = manager.record();
    manager.delete().unwrap();
    assert_eq!(left(&record), Vec::<&str>::new());
    assert_eq!(again(&*manager).pids().unwrap(), Vec::<u32>::new());
    manager.delete().unwrap();
}

fn blocks_devices(mut manager: Box<dyn Manager>) {
    manager
        .create(&resources(
            r#"{"devices":[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#,
        ))
        .unwrap();
    let mut shell = Shell::start();
    manager.attach(shell.pid()).unwrap();
    assert_eq!(
        shell.ask("(: < /dev/null) && (: > /dev/null) && echo yes"),
        "yes"
    );
    assert_eq!(shell.ask("(: < /dev/kmsg) && echo yes"), "yes");
    assert_eq!(
        shell.ask("(: >> /dev/kmsg) 2>/dev/null || echo denied"),
        "denied"
    );
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let node = directory.path().join("node");
    let node = node.display();
    assert_eq!(
        shell.ask(&format!("mknod {node} c 1 4 && echo made")),
        "made"
    );
    assert_eq!(
        shell.ask(&format!("(: < {node}) 2>/dev/null || echo denied")),
        "denied"
    );
    // Device rules are no part of an update.
    manager
        .update(&resources(
            r#"{"devices":[{"allow":true,"access":"rwm"}],"pids":{"limit":9}}"#,
        ))
        .unwrap();
    assert_eq!(
        shell.ask(&format!("(: < {node}) 2>/dev/null || echo denied")),
        "denied"
    );
    shell.end();
    manager.delete().unwrap();
}

fn updates(mut manager: Box<dyn Manager>) {
    manager
        .create(&resources(
            r#"{"memory":{"limit":104857600},"pids":{"limit":20}}"#,
        ))
        .unwrap();
    let mut shell = Shell::start();
    manager.attach(shell.pid()).unwrap();
    // Both ways, for a limit of memory and swap below or above the present ones.
    for (json, limit) in [
        (
            r#"{"memory":{"limit":209715200,"swap":419430400}}"#,
            209_715_200,
        ),
        (
            r#"{"memory":{"limit":52428800,"swap":104857600}}"#,
            52_428_800,
        ),
        (
            r#"{"memory":{"limit":524288000,"swap":524288000}}"#,
            524_288_000,
        ),
    ] {
        manager.update(&resources(json)).unwrap();
        assert_eq!(manager.stats().unwrap().memory.usage.limit, limit);
    }
    for json in [
        r#"{"cpu":{"quota":50000,"period":100000}}"#,
        r#"{"cpu":{"quota":5000,"period":10000}}"#,
        r#"{"cpu":{"quota":500000,"period":1000000,"burst":1000}}"#,
        r#"{"cpu":{"quota":-1,"shares":2048}}"#,
    ] {
        manager.update(&resources(json)).unwrap();
    }
    let error = manager
        .update(&resources(
            r#"{"memory":{"limit":104857600,"swap":209715200},"pids":{"limit":33},
                "cpu":{"cpus":"4096"}}"#,
        ))
        .unwrap_err();
    assert!(
        error.to_string().contains("linux.resources.cpu.cpus"),
        "{error}"
    );
    let stats = manager.stats().unwrap();
    assert_eq!(
        (stats.memory.usage.limit, stats.pids.limit),
        (524_288_000, 20)
    );
    shell.end();
    manager.delete().unwrap();
}

fn removes_what_the_container_left(mut manager: Box<dyn Manager>) {
    manager.create(&resources("{}")).unwrap();
    let mut shell = Shell::start();
    manager.attach(shell.pid()).unwrap();
    let record = manager.record();
    for dir in &record.dirs {
        std::fs::create_dir_all(format!("{}/in/deeper", dir.path)).unwrap();
    }
    let mut second = Shell::start();
    // A cpuset of v1 takes no process before it has CPUs; the freezer has no such rule.
    let v1 = record.dirs.len() > 1;
    let sub = [if v1 {
        "freezer:/in/deeper"
    } else {
        "in/deeper"
    }
    .to_owned()];
    manager
        .attach_exec(second.pid(), &sub, shell.pid())
        .unwrap();
    let table = std::fs::read_to_string(format!("/proc/{}/cgroup", second.pid())).unwrap();
    assert_eq!(table.matches("/in/deeper").count(), 1, "{table}");
    shell.end();
    second.end();
    manager.delete().unwrap();
    assert_eq!(left(&record), Vec::<&str>::new());
}

fn kills_a_frozen_container(mut manager: Box<dyn Manager>) {
    manager.create(&resources("{}")).unwrap();
    let mut shell = Shell::start();
    manager.attach(shell.pid()).unwrap();
    manager.freeze().unwrap();
    manager.kill_all(libc::SIGTERM).unwrap();
    assert!(manager.is_frozen().unwrap());
    manager.kill_all(libc::SIGKILL).unwrap();
    // Dies without being told again: end() would hide a process that did not.
    let status = shell.child.wait().unwrap();
    assert!(matches!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(libc::SIGKILL | libc::SIGTERM)
    ));
    manager.delete().unwrap();
}

fn fails_without_a_trace(mut manager: Box<dyn Manager>) {
    let result = manager.create(&resources(r#"{"cpu":{"cpus":"4096"}}"#));
    // Where limits wait for a process, so does the failure.
    let error = match result {
        Err(error) => error,
        Ok(()) => {
            let shell = Shell::start();
            manager.attach(shell.pid()).unwrap_err()
        }
    };
    assert!(!error.to_string().is_empty());
    let record = manager.record();
    manager.delete().unwrap();
    assert_eq!(left(&record), Vec::<&str>::new());
}

fn limits_to_no_task(mut manager: Box<dyn Manager>) {
    manager
        .create(&resources(r#"{"pids":{"limit":0}}"#))
        .unwrap();
    let mut shell = Shell::start();
    manager.attach(shell.pid()).unwrap();
    assert_eq!(shell.ask("(true) 2>/dev/null; echo $?").as_str(), "");
    shell.end();
    manager.delete().unwrap();
}
