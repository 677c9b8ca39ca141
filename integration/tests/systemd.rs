//! The units that systemd makes for containers: names, properties, what is left by crashes, and
//! hosts where systemd cannot be reached.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use knarr_integration::bundle::{drop_namespace, push};
use knarr_integration::{Container, Outcome, Sandbox, Value, cgroup, json, process, runtime};

const WAIT: Duration = Duration::from_secs(60);

/// A sandbox with systemd's cgroups; ends the test where there are none.
macro_rules! sandbox {
    () => {{
        let driver = cgroup::Driver::Systemd;
        if let Some(why) = driver.missing() {
            knarr_integration::skip!("{why}");
        }
        Sandbox::with(driver)
    }};
}

fn systemctl(arguments: &[&str]) -> String {
    let out = Command::new("systemctl").args(arguments).output().unwrap();
    assert!(out.status.success(), "systemctl {arguments:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn unit(c: &Container) -> &str {
    c.bundle.cgroup.rsplit_once('/').unwrap().1
}

/// The number of systemd's version.
fn version() -> u32 {
    let text = systemctl(&["show", "--property", "Version", "--value"]);
    let digits = text.split(|letter: char| !letter.is_ascii_digit()).next();
    digits.unwrap().parse().unwrap()
}

/// A property of a unit as `systemctl show` prints it.
fn property(unit: &str, name: &str) -> String {
    let shown = systemctl(&["show", "--property", name, "--value", unit]);
    shown.trim_end().to_owned()
}

#[track_caller]
fn shows(unit: &str, expected: &[(&str, &str)]) {
    let shown = systemctl(&["show", unit]);
    for (name, value) in expected {
        let line = format!("{name}={value}");
        let seen = shown
            .lines()
            .find(|seen| seen.starts_with(&format!("{name}=")));
        assert_eq!(seen, Some(line.as_str()));
    }
}

fn exists(unit: &str) -> bool {
    property(unit, "LoadState") == "loaded" && property(unit, "ActiveState") != "inactive"
}

fn read(c: &Container, file: &str) -> String {
    cgroup::read("", &c.bundle.cgroup, file)
}

fn place(pid: u32) -> String {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    table.trim().trim_start_matches("0::").to_owned()
}

fn update(sb: &Sandbox, id: &str, resources: &Value) -> Outcome {
    sb.rt_stdin(&["update", "--resources=-", id], &resources.to_string())
}

#[test]
fn the_path_names_slice_and_unit() {
    let sb = sandbox!();
    let stem = sb
        .cgroup()
        .trim_matches('/')
        .trim_end_matches(".slice")
        .to_owned();
    for (path, expected) in [
        (String::new(), format!("/system.slice/knarr-{stem}.scope")),
        (
            format!(":docker:{stem}"),
            format!("/system.slice/docker-{stem}.scope"),
        ),
        (format!("::{stem}"), format!("/system.slice/{stem}.scope")),
        (
            format!("{stem}-a-b.slice:cri-containerd:{stem}"),
            format!("/{stem}.slice/{stem}-a.slice/{stem}-a-b.slice/cri-containerd-{stem}.scope"),
        ),
    ] {
        let bundle = sb.sh_bundle("exec sleep 600", |c| {
            c["linux"]["cgroupsPath"] = json!(path)
        });
        let c = sb.started(&stem, &bundle);
        assert_eq!(place(c.pid), expected, "{path:?}");
        let out = sb
            .rt(&["exec", &stem, "/bin/cat", "/proc/self/cgroup"])
            .ok();
        assert_eq!(out.text(), "0::/", "{path:?}");
        sb.finish(&stem);
        assert!(!cgroup::dir("", &expected).exists());
    }
    let before = sb.look();
    for bad in [
        "/a/b",
        "a:b",
        "a.slice:b:",
        "noslice:b:c",
        "a/b.slice:c:d",
        "a.slice:b:c:d",
        "a.slice:b:../c",
        "a.slice:b:c.slice",
        "-.slice.slice:b:c",
        "a--b.slice:b:c",
    ] {
        let bundle = sb.bundle(|c| c["linux"]["cgroupsPath"] = json!(bad));
        sb.create("bad", &bundle).fails();
        sb.rt(&["state", "bad"]).fails_with("does not exist");
    }
    sb.same_as(&before);
}

#[test]
fn limits_are_properties() {
    let sb = sandbox!();
    let c = sb.sleeper("limits", |c| {
        let r = &mut c["linux"]["resources"];
        r["memory"] =
            json!({"limit": 209_715_200, "swap": 419_430_400, "reservation": 104_857_600});
        r["cpu"] =
            json!({"shares": 512, "quota": 40_000, "period": 80_000, "cpus": "0", "mems": "0"});
        r["pids"] = json!({"limit": 77});
        r["blockIO"] = json!({"weight": 505});
        r["unified"] =
            json!({"memory.high": "188743680", "memory.min": "1048576", "memory.oom.group": "1"});
    });
    let name = unit(&c);
    let expected = [
        ("MemoryMax", "209715200"),
        ("MemoryLow", "104857600"),
        ("MemorySwapMax", "209715200"),
        ("MemoryHigh", "188743680"),
        ("MemoryMin", "1048576"),
        ("CPUWeight", "59"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("CPUQuotaPeriodUSec", "80ms"),
        ("AllowedCPUs", "0"),
        ("AllowedMemoryNodes", "0"),
        ("TasksMax", "77"),
        ("DevicePolicy", "strict"),
        ("Delegate", "yes"),
        ("CollectMode", "inactive-or-failed"),
        ("Slice", sb.cgroup().trim_start_matches('/')),
        ("Description", "container limits"),
    ];
    shows(name, &expected);
    let files = || -> Vec<(String, String)> {
        let names = "cpu.weight cpu.max cpu.idle cpuset.cpus cpuset.mems memory.max memory.low memory.min \
            memory.high memory.swap.max pids.max io.weight";
        // Scopes have OOMPolicy since 253; an older systemd resets the file.
        let group = (version() >= 253).then_some("memory.oom.group");
        let values = names.split_whitespace().chain(group);
        values
            .map(|name| (name.to_owned(), read(&c, name)))
            .collect()
    };
    let before = files();
    systemctl(&["daemon-reload"]);
    assert_eq!(files(), before, "after a reload");
    // Each of these makes systemd write all files of a controller.
    for change in [
        "CPUWeight=59",
        "MemoryLow=104857600",
        "TasksMax=77",
        "IOWeight=5000",
        "AllowedCPUs=0",
    ] {
        systemctl(&["set-property", "--runtime", name, change]);
        assert_eq!(files(), before, "after {change}");
    }
    assert_eq!(
        read(&c, "memory.oom.group"),
        if version() >= 253 { "1" } else { "0" }
    );
    update(&sb, "limits", &json!({"memory": {"limit": 104_857_600, "swap": 104_857_600}, "cpu": {"shares": 1024, "quota": -1},
        "pids": {"limit": -1}, "blockIO": {"weight": 10}, "unified": {"memory.high": "max"}}))
    .ok();
    let changed = [
        ("MemoryMax", "104857600"),
        ("MemorySwapMax", "0"),
        ("MemoryHigh", "infinity"),
        ("CPUWeight", "100"),
        ("CPUQuotaPerSecUSec", "infinity"),
        ("TasksMax", "infinity"),
    ];
    shows(name, &changed);
    let before = files();
    systemctl(&["daemon-reload"]);
    assert_eq!(files(), before, "after update and a reload");
}

#[test]
fn an_idle_unit_stays_idle() {
    let sb = sandbox!();
    if version() < 252 {
        knarr_integration::skip!("systemd {} knows no idle units", version());
    }
    let c = sb.sleeper("idle", |c| {
        c["linux"]["resources"]["cpu"] = json!({"idle": 1, "shares": 512})
    });
    assert_eq!(property(unit(&c), "CPUWeight"), "idle");
    systemctl(&["daemon-reload"]);
    systemctl(&["set-property", "--runtime", unit(&c), "CPUQuota=50%"]);
    assert_eq!(read(&c, "cpu.idle"), "1");
    sb.rt(&["update", "--cpu-idle", "0", "idle"]).ok();
    systemctl(&["set-property", "--runtime", unit(&c), "CPUQuota=60%"]);
    assert_eq!(
        (read(&c, "cpu.idle"), read(&c, "cpu.weight")),
        ("0".to_owned(), "100".to_owned())
    );
}

/// What systemd refuses or rounds is in the file all the same: see docs/cgroups.md.
#[test]
fn what_systemd_refuses_is_written() {
    let sb = sandbox!();
    let c = sb.sleeper("zero", |c| {
        c["linux"]["resources"]["pids"] = json!({"limit": 0});
        c["linux"]["resources"]["cpu"] = json!({"quota": 33_333, "burst": 1000});
    });
    assert_eq!(property(unit(&c), "TasksMax"), "1");
    assert_eq!(read(&c, "pids.max"), "0");
    assert_eq!(property(unit(&c), "CPUQuotaPerSecUSec"), "340ms");
    assert_eq!(read(&c, "cpu.max"), "33333 100000");
    update(&sb, "zero", &json!({"memory": {"limit": 104_857_600}})).ok();
    assert_eq!(read(&c, "pids.max"), "0");
    assert_eq!(read(&c, "cpu.max"), "33333 100000");
    assert_eq!(read(&c, "cpu.max.burst"), "1000");
}

#[test]
fn annotations_set_properties() {
    let sb = sandbox!();
    let c = sb.sleeper("notes", |c| {
        c["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "uint64 7",
            "org.systemd.property.RuntimeMaxUSec": "uint64 3600000000",
            "org.systemd.property.CollectMode": "'inactive'",
            "org.systemd.property.SendSIGHUP": "true",
            "org.systemd.property.KillSignal": "int32 2",
            "org.systemd.property.After": "['dbus.service', 'basic.target']",
            "org.systemd.property.Documentation": "['https://example.org/x']",
            "org.systemd.property.IOReadBandwidthMax": "@a(st) []",
            "org.systemd.property.Description": "'it\\'s mine'",
            "org.systemd.property.MemoryHigh": "@t 104857600",
            "org.other": "none of systemd's",
        });
    });
    shows(
        unit(&c),
        &[
            ("TimeoutStopUSec", "7s"),
            ("RuntimeMaxUSec", "1h"),
            ("CollectMode", "inactive"),
            ("SendSIGHUP", "yes"),
            ("KillSignal", "2"),
            ("Documentation", "https://example.org/x"),
            ("Description", "it's mine"),
            ("MemoryHigh", "104857600"),
        ],
    );
    let after = property(unit(&c), "After");
    assert!(
        after.contains("dbus.service") && after.contains("basic.target"),
        "{after}"
    );
    let before = sb.look();
    for (name, value, message) in [
        ("NoSuchThing", "true", "NoSuchThing"),
        ("CPUWeight", "'much'", "systemd"),
        ("CPUWeight", "uint64 70000", "systemd"),
        (
            "TimeoutStopSec",
            "'soon'",
            "annotations.org.systemd.property.TimeoutStopSec",
        ),
        ("Abc", "nonsense", "annotations.org.systemd.property.Abc"),
        ("A-b", "1", "annotations.org.systemd.property.A-b"),
    ] {
        let bundle = sb.bundle(|c| {
            c["annotations"] = json!({format!("org.systemd.property.{name}"): value});
        });
        sb.create("bad", &bundle).fails_with(message);
        sb.rt(&["state", "bad"]).fails_with("does not exist");
    }
    sb.same_as(&before);
}

/// Forgets a container as if the runtime and its state had gone with a crash; init goes too where asked.
fn forget(sb: &Sandbox, c: &Container, kill: bool) {
    fs::remove_dir_all(sb.root().join(&c.id)).unwrap();
    if kill {
        process::kill(c.pid, 9);
    }
}

#[test]
fn a_unit_left_by_a_crash_is_no_hindrance() {
    let sb = sandbox!();
    let bundle = sb.sh_bundle("exec sleep 600", |_| {});
    // Dead a moment ago: systemd may not have seen it yet.
    for _ in 0..5 {
        let c = sb.started("crash", &bundle);
        forget(&sb, &c, true);
        assert!(process::eventually(WAIT, || !process::alive(c.pid)));
    }
    sb.started("crash", &bundle);
    sb.finish("crash");
    // Failed, and kept by systemd.
    let failing = sb.sh_bundle("exec sleep 600", |c| {
        c["annotations"] = json!({"org.systemd.property.CollectMode": "'inactive'",
            "org.systemd.property.RuntimeMaxUSec": "uint64 1000000",
            "org.systemd.property.TimeoutStopUSec": "uint64 1000000"});
    });
    let c = sb.started("failed", &failing);
    let name = unit(&c).to_owned();
    assert!(process::eventually(WAIT, || property(&name, "ActiveState") == "failed"));
    forget(&sb, &c, false);
    let c = sb.started("failed", &failing);
    assert_eq!(place(c.pid), failing.cgroup);
    sb.finish("failed");
}

#[test]
fn a_unit_in_use_is_left_alone() {
    let sb = sandbox!();
    let first = sb.sleeper("first", |_| {});
    let path = format!(
        "{}:{}",
        sb.cgroup().trim_start_matches('/'),
        unit(&first)
            .trim_end_matches(".scope")
            .replacen('-', ":", 1)
    );
    let same = sb.bundle(|c| c["linux"]["cgroupsPath"] = json!(path));
    for _ in 0..2 {
        sb.create("second", &same).fails_with("in use");
        sb.rt(&["state", "second"]).fails_with("does not exist");
    }
    assert_eq!(sb.status("first"), "running");
    assert_eq!(place(first.pid), first.bundle.cgroup);
    // Also when nobody knows the container any more.
    forget(&sb, &first, false);
    sb.create("second", &same).fails_with("in use");
    assert!(process::alive(first.pid));
    process::kill(first.pid, 9);
    sb.create("second", &same).ok();
}

/// Killed at any moment, create leaves what `delete --force` removes, and the name is free.
#[test]
fn a_killed_create_leaves_no_unit() {
    let sb = sandbox!();
    let bundle = sb.sh_bundle("exec sleep 600", |c| drop_namespace(c, "pid"));
    let name = bundle.cgroup.rsplit_once('/').unwrap().1;
    for step in 0..25 {
        let mut running = sb.spawn(sb.command(&["create", "--bundle", bundle.arg(), "killed"]));
        std::thread::sleep(Duration::from_millis(step * 8));
        running.kill();
        let _ = running.wait();
        sb.rt(&["delete", "--force", "killed"]).ok();
        assert!(
            process::eventually(WAIT, || !exists(name)),
            "a unit is left after {step} steps"
        );
        assert!(process::eventually(WAIT, || !cgroup::dir(
            "",
            &bundle.cgroup
        )
        .exists()));
    }
    sb.started("killed", &bundle);
}

/// A container whose record is damaged is found by its configuration.
#[test]
fn a_damaged_record_does_not_keep_the_unit() {
    let sb = sandbox!();
    let c = sb.sleeper("damaged", |_| {});
    fs::write(sb.root().join("damaged/state.json"), "{").unwrap();
    sb.rt(&["delete", "--force", "damaged"]).ok();
    assert!(process::eventually(WAIT, || !process::alive(c.pid)));
    assert!(!exists(unit(&c)));
}

#[test]
fn without_a_bus_systemd_is_asked_directly() {
    let sb = sandbox!();
    let bundle = sb.sh_bundle("exec sleep 600", |_| {});
    let no_bus = "mount -t tmpfs none /run/dbus";
    sb.elsewhere(no_bus, &[], &["create", "--bundle", bundle.arg(), "direct"])
        .ok();
    let pid = sb.state("direct")["pid"].as_u64().unwrap();
    assert_eq!(place(u32::try_from(pid).unwrap()), bundle.cgroup);
    sb.elsewhere(no_bus, &[], &["update", "--pids-limit", "20", "direct"])
        .ok();
    assert_eq!(cgroup::read("", &bundle.cgroup, "pids.max"), "20");
    sb.elsewhere(no_bus, &[], &["delete", "--force", "direct"])
        .ok();
    assert!(!cgroup::dir("", &bundle.cgroup).exists());
}

#[test]
fn without_systemd_there_is_one_clear_error() {
    let sb = sandbox!();
    let none = "mount -t tmpfs none /run/dbus && mount -t tmpfs none /run/systemd";
    let bundle = sb.sh_bundle("exec sleep 600", |_| {});
    let before = sb.look();
    let out = sb
        .elsewhere(none, &[], &["create", "--bundle", bundle.arg(), "alone"])
        .fails_with("cannot reach systemd");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
    sb.rt(&["state", "alone"]).fails_with("does not exist");
    sb.same_as(&before);
    // What it does not take systemd for still goes.
    let c = sb.started("alone", &bundle);
    let limit = read(&c, "pids.max");
    sb.elsewhere(none, &[], &["update", "--pids-limit", "20", "alone"])
        .fails_with("cannot reach systemd");
    assert_eq!(read(&c, "pids.max"), limit, "nothing is changed by half");
    sb.elsewhere(none, &[], &["exec", "alone", "/bin/true"])
        .ok();
    sb.elsewhere(none, &[], &["pause", "alone"]).ok();
    sb.elsewhere(none, &[], &["resume", "alone"]).ok();
}

/// A bus on which nobody is systemd refuses: the files are then as before.
#[test]
fn a_refusal_by_the_bus_undoes_the_files() {
    let sb = sandbox!();
    let c = sb.sleeper("undo", |c| {
        c["linux"]["resources"]["pids"] = json!({"limit": 50})
    });
    let socket = sb.path("bus");
    let address = format!("unix:path={}", socket.display());
    let mut bus = match Command::new("dbus-daemon")
        .args([
            "--session",
            "--nofork",
            "--nopidfile",
            "--address",
            &address,
        ])
        .spawn()
    {
        Ok(bus) => bus,
        Err(error) => knarr_integration::skip!("dbus-daemon: {error}"),
    };
    assert!(process::eventually(WAIT, || socket.exists()));
    let variables = [("DBUS_SYSTEM_BUS_ADDRESS", address.as_str())];
    let out = sb.elsewhere(
        "true",
        &variables,
        &["update", "--pids-limit", "20", "undo"],
    );
    let bundle = sb.bundle(|_| {});
    let made = sb.elsewhere(
        "true",
        &variables,
        &["create", "--bundle", bundle.arg(), "none"],
    );
    bus.kill().unwrap();
    bus.wait().unwrap();
    out.fails_with("systemd");
    assert_eq!(read(&c, "pids.max"), "50");
    made.fails_with("systemd");
    sb.rt(&["state", "none"]).fails_with("does not exist");
}

#[test]
fn without_systemd_on_this_host_create_is_refused() {
    if std::path::Path::new("/run/systemd/system").exists() {
        knarr_integration::skip!("this host runs systemd");
    }
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["linux"]["cgroupsPath"] = json!("system.slice:knarr:none"));
    let before = sb.look();
    let out = sb
        .rt(&[
            "--systemd-cgroup",
            "create",
            "--bundle",
            bundle.arg(),
            "none",
        ])
        .fails_with("cannot reach systemd");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
    sb.same_as(&before);
}

/// The unprivileged user whose service manager runs: id and runtime directory.
fn user_with_a_manager() -> Option<(u32, String)> {
    fs::read_dir("/run/user").ok()?.flatten().find_map(|entry| {
        let uid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let dir = entry.path();
        let runs = uid != 0 && dir.join("systemd/private").exists();
        runs.then(|| (uid, dir.display().to_string()))
    })
}

/// The runtime as that user, with the user's own systemd; `bus` is the address of the session bus.
fn as_user(sb: &Sandbox, user: &(u32, String), bus: Option<&str>, args: &[&str]) -> Outcome {
    let mut command = Command::new("setpriv");
    let id = user.0.to_string();
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
        .arg(runtime::path())
        .arg("--root")
        .arg(sb.path("user-state"))
        .arg("--systemd-cgroup")
        .args(args)
        .env("XDG_RUNTIME_DIR", &user.1)
        .env("KNARR_SANDBOX", sb.cgroup())
        .env_remove("DBUS_SESSION_BUS_ADDRESS");
    if let Some(bus) = bus {
        command.env("DBUS_SESSION_BUS_ADDRESS", bus);
    }
    sb.spawn(command).wait()
}

#[test]
fn a_users_own_manager_makes_the_scope() {
    let sb = sandbox!();
    let Some(user) = user_with_a_manager() else {
        knarr_integration::skip!("no unprivileged user has a service manager");
    };
    let (uid, dir) = &user;
    fs::create_dir(sb.path("user-state")).unwrap();
    for path in ["user-state", "io"] {
        chown(sb.path(path), Some(*uid), Some(*uid)).unwrap();
    }
    let name = format!("knarr-user{}.scope", std::process::id());
    let map = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    let script = "cd /sys/fs/cgroup && mkdir init && echo 1 >init/cgroup.procs && echo +pids >cgroup.subtree_control; \
        exec sleep 600";
    let make = |script: &str| {
        let bundle = sb.sh_bundle(script, |c| {
            push(c, "/linux/namespaces", json!({"type": "user"}));
            c["linux"]["uidMappings"] = map.clone();
            c["linux"]["gidMappings"] = map.clone();
            c["linux"]["cgroupsPath"] = json!(format!("user.slice:knarr:user{}", std::process::id()));
            c["linux"]["resources"] = json!({"memory": {"limit": 104_857_600}, "pids": {"limit": 33},
                "cpu": {"shares": 512}});
            // Without further ids there is no group for terminals.
            c["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
            push(
                c,
                "/mounts",
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}),
            );
        });
        Command::new("chown")
            .args(["-R", &uid.to_string()])
            .arg(&bundle.dir)
            .status()
            .unwrap();
        fs::set_permissions(&bundle.dir, fs::Permissions::from_mode(0o755)).unwrap();
        bundle
    };
    let address = format!("unix:path={dir}/bus");
    for (bus, bundle) in [
        (None, make("exec sleep 600")),
        (Some(address.as_str()), make(script)),
    ] {
        let knarr = |args: &[&str]| as_user(&sb, &user, bus, args);
        knarr(&["create", "--bundle", bundle.arg(), "user"]).ok();
        knarr(&["start", "user"]).ok();
        let pid = knarr(&["state", "user"]).ok().json()["pid"]
            .as_u64()
            .unwrap();
        let pid = u32::try_from(pid).unwrap();
        let split = bus.is_some();
        assert!(process::eventually(WAIT, || place(pid).ends_with("/init") == split));
        let scope = place(pid).trim_end_matches("/init").to_owned();
        let manager = format!("user@{uid}.service/user.slice/{name}");
        assert!(scope.ends_with(&manager), "{scope}");
        for (file, value) in [
            ("memory.max", "104857600"),
            ("pids.max", "33"),
            ("cpu.weight", "59"),
        ] {
            assert_eq!(cgroup::read("", &scope, file), value, "{file}");
        }
        let pid_file = sb.path("user-state/pid");
        let pid_file = pid_file.to_str().unwrap();
        knarr(&[
            "exec",
            "--detach",
            "--pid-file",
            pid_file,
            "user",
            "/bin/sleep",
            "600",
        ])
        .ok();
        let second: u32 = fs::read_to_string(pid_file).unwrap().parse().unwrap();
        assert_eq!(place(second), place(pid), "exec joins init");
        knarr(&["update", "--pids-limit", "44", "user"]).ok();
        assert_eq!(cgroup::read("", &scope, "pids.max"), "44");
        knarr(&["pause", "user"]).ok();
        assert_eq!(knarr(&["state", "user"]).ok().json()["status"], "paused");
        knarr(&["resume", "user"]).ok();
        knarr(&["kill", "user", "KILL"]).ok();
        knarr(&["delete", "--force", "user"]).ok();
        assert!(!process::alive(second));
        assert!(process::eventually(WAIT, || !cgroup::dir("", &scope).exists()));
    }
    let bundle = make("exec sleep 600");
    let nowhere = as_user(
        &sb,
        &(*uid, "/nowhere".to_owned()),
        None,
        &["create", "--bundle", bundle.arg(), "user"],
    );
    nowhere.fails_with("cannot reach systemd");
}
