//! Cgroups of users without privileges: none, a delegated one, and units with user namespaces of their own.
//!
//! What is about a delegated cgroup runs where the tests are started by an ordinary user of a systemd
//! session; as root, once more as such a user, where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use knarr_integration::bundle::{drop_namespace, push};
use knarr_integration::user::{
    self, Ground, MANY, Session, is_root, map, map_ranges, nested, no_user_namespace,
};
use knarr_integration::{Value, json, process, runtime, skip};

#[test]
fn without_a_delegated_cgroup_limits_are_warned_of() {
    if !is_root() && user::delegated().is_some() {
        skip!("this user has a delegated cgroup");
    }
    let ground = Ground::new();
    let limits = |config: &mut Value| {
        config["linux"]["resources"] = json!({
            "memory": {"limit": 100_000_000}, "pids": {"limit": 50},
            "devices": [{"allow": false, "access": "rwm"}],
        });
    };
    let seen = ground.sh("true", limits).ok();
    for word in [
        "level=warning",
        "linux.resources.memory.limit",
        "linux.resources.pids.limit",
        "delegate",
    ] {
        assert!(seen.stderr.contains(word), "{word}: {seen:#?}");
    }
    assert_eq!(seen.stderr.lines().count(), 1, "{seen:#?}");
    // Callers find one line or none in the log.
    let bundle = ground.bundle("true", limits);
    let log = ground.path("run/log.json");
    ground
        .rt(&[
            "--log",
            log.to_str().unwrap(),
            "--log-format",
            "json",
            "run",
            "--bundle",
            bundle.arg(),
            "logged",
        ])
        .ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
    // The device rules of every configuration are no limit to warn of.
    let seen = ground
        .sh("true", |config| {
            config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
        })
        .ok();
    assert_eq!(seen.stderr, "");
    // A path that cannot be had is no different.
    let seen = ground
        .sh("true", |config| {
            limits(config);
            config["linux"]["cgroupsPath"] = json!("/knarr-not-delegated/x");
        })
        .ok();
    assert!(
        seen.stderr.contains("linux.resources.memory.limit"),
        "{seen:#?}"
    );
    let bundle = ground.bundle("true", limits);
    let refused = ground.rt(&[
        "--rootless",
        "false",
        "run",
        "--bundle",
        bundle.arg(),
        "strict",
    ]);
    let _ = refused.fails_with("cgroup");
    assert!(ground.ids().is_empty());
}

#[test]
fn without_a_cgroup_the_commands_that_need_one_say_so() {
    if !is_root() && user::delegated().is_some() {
        skip!("this user has a delegated cgroup");
    }
    let ground = Ground::new();
    let pid = ground.sleeper("bare", |_| {});
    for args in [
        &["pause", "bare"][..],
        &["update", "--memory", "100000000", "bare"],
        &["events", "--stats", "bare"],
    ] {
        let outcome = ground.rt(args).fails_with("no cgroup");
        assert!(outcome.stderr.contains("delegate"), "{outcome:#?}");
    }
    ground
        .rt(&["exec", "--detach", "bare", "sleep", "600"])
        .ok();
    let pids = ground.rt(&["ps", "--format", "json", "bare"]).ok().json();
    let pids = pids.as_array().unwrap();
    assert!(pids.len() == 2 && pids.contains(&json!(pid)), "{pids:?}");
    ground.rt(&["kill", "--all", "bare", "KILL"]).ok();
    assert!(process::eventually(Duration::from_secs(10), || {
        !process::alive(pid)
    }));
    ground.rt(&["delete", "bare"]).ok();
}

#[test]
fn cgroups_disabled_is_a_choice() {
    let ground = Ground::new();
    let bundle = ground.bundle("exec sleep 600", |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 100_000_000}});
    });
    let created = ground
        .rt(&[
            "--cgroup-manager",
            "disabled",
            "run",
            "--detach",
            "--bundle",
            bundle.arg(),
            "free",
        ])
        .ok();
    assert_eq!(created.stderr, "");
    ground.rt(&["exec", "free", "true"]).ok();
    ground.rt(&["delete", "--force", "free"]).ok();
}

#[test]
fn systemd_that_is_not_there_is_one_clear_error() {
    let ground = Ground::new();
    let bundle = ground.bundle("true", |_| {});
    let mut command =
        ground.command(&["--systemd-cgroup", "run", "--bundle", bundle.arg(), "unit"]);
    command.env_remove("DBUS_SESSION_BUS_ADDRESS");
    ground.finish(command).fails_with("systemd");
    assert!(ground.ids().is_empty());
}

// ---- a delegated cgroup ----

/// Goes on only as a user with a delegated cgroup; as root, the test runs once more as one.
macro_rules! delegated {
    ($name:literal) => {
        match user::session($name) {
            Session::Here => {}
            Session::Done => return,
            Session::None(why) => skip!("{why}"),
        }
    };
}

fn cgroup_of(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap();
    Path::new("/sys/fs/cgroup").join(path)
}

fn value(cgroup: &Path, file: &str) -> String {
    let path = cgroup.join(file);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

fn limits(config: &mut Value) {
    config["linux"]["resources"] = json!({
        "memory": {"limit": 100_000_000},
        "pids": {"limit": 50},
        "cpu": {"quota": 50_000, "period": 100_000},
        "devices": [{"allow": false, "access": "rwm"}],
    });
}

/// Leaves the place of the cgroup to the runtime.
fn no_path(config: &mut Value) {
    let linux = config["linux"].as_object_mut().unwrap();
    linux.remove("cgroupsPath");
}

/// What a delegated cgroup gives, with the manager that `flags` choose.
fn limited_life(ground: &Ground, flags: &[&str], edit: impl Fn(&mut Value)) {
    let rt = |args: &[&str]| ground.rt(&[flags, args].concat());
    let bundle = ground.bundle("exec sleep 600", |config| {
        limits(config);
        edit(config);
    });
    let created = rt(&["create", "--bundle", bundle.arg(), "limited"]).ok();
    assert_eq!(created.stderr, "");
    rt(&["start", "limited"]).ok();
    let pid = ground.pid("limited");
    let cgroup = cgroup_of(pid);
    let own = cgroup_of(std::process::id());
    assert_ne!(cgroup, own);
    assert_eq!(value(&cgroup, "memory.max"), "99999744");
    assert_eq!(value(&cgroup, "pids.max"), "50");
    assert_eq!(value(&cgroup, "cpu.max"), "50000 100000");
    rt(&[
        "exec",
        "--detach",
        "--pid-file",
        ground.path("run/pid").to_str().unwrap(),
        "limited",
        "sleep",
        "600",
    ])
    .ok();
    let further: u32 = fs::read_to_string(ground.path("run/pid"))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(cgroup_of(further), cgroup);
    let pids = rt(&["ps", "--format", "json", "limited"]).ok().json();
    let pids = pids.as_array().unwrap();
    assert!(
        pids.len() == 2 && pids.contains(&json!(further)),
        "{pids:?}"
    );
    rt(&["pause", "limited"]).ok();
    assert_eq!(rt(&["state", "limited"]).ok().json()["status"], "paused");
    assert!(value(&cgroup, "cgroup.events").contains("frozen 1"));
    let _ = rt(&["exec", "limited", "true"]).exits(255);
    rt(&["resume", "limited"]).ok();
    assert_eq!(rt(&["state", "limited"]).ok().json()["status"], "running");
    rt(&[
        "update",
        "--memory",
        "200000000",
        "--pids-limit",
        "60",
        "limited",
    ])
    .ok();
    assert_eq!(value(&cgroup, "memory.max"), "199999488");
    assert_eq!(value(&cgroup, "pids.max"), "60");
    let stats = rt(&["events", "--stats", "limited"]).ok().json();
    assert_eq!(stats["data"]["pids"]["limit"], 60, "{stats}");
    assert_eq!(stats["data"]["pids"]["current"], 2, "{stats}");
    rt(&["kill", "limited", "KILL"]).ok();
    assert!(process::eventually(Duration::from_secs(20), || {
        !process::alive(pid)
    }));
    rt(&["delete", "limited"]).ok();
    assert!(
        process::eventually(Duration::from_secs(20), || !cgroup.exists()),
        "{}",
        cgroup.display()
    );
}

#[test]
fn delegated_limits_and_pause() {
    delegated!("delegated_limits_and_pause");
    let ground = Ground::new();
    limited_life(&ground, &[], no_path);
    limited_life(&ground, &["--cgroup-manager", "cgroupfs"], |config| {
        config["linux"]["cgroupsPath"] = json!("named/by/config");
    });
    assert!(!user::delegated().unwrap().join("named").exists());
}

/// A ground that reaches the user's own systemd.
fn with_session() -> Ground {
    let mut ground = Ground::new();
    ground.keep_session();
    ground
}

#[test]
fn delegated_limits_and_pause_through_systemd() {
    delegated!("delegated_limits_and_pause_through_systemd");
    let ground = with_session();
    limited_life(&ground, &["--systemd-cgroup"], no_path);
    limited_life(&ground, &["--systemd-cgroup"], |config| {
        config["linux"]["cgroupsPath"] = json!("app.slice:knarr-test:unit");
        config["annotations"] = json!({"org.systemd.property.CollectMode": "'inactive-or-failed'"});
    });
}

#[test]
fn delegated_to_root_of_a_user_namespace() {
    delegated!("delegated_to_root_of_a_user_namespace");
    let (mut ground, _holder) = match nested(60_000) {
        Ok(made) => made,
        Err(why) => skip!("{why}"),
    };
    limited_life(&ground, &[], no_user_namespace);
    ground.keep_session();
    limited_life(&ground, &["--systemd-cgroup"], |config| {
        no_user_namespace(config);
        no_path(config);
    });
    // The user's systemd is found without the variables too.
    let bundle = ground.bundle("true", |config| {
        no_user_namespace(config);
        no_path(config);
    });
    let mut command =
        ground.command(&["--systemd-cgroup", "run", "--bundle", bundle.arg(), "bare"]);
    command
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("DBUS_SESSION_BUS_ADDRESS");
    ground.finish(command).ok();
    limited_life(&ground, &["--systemd-cgroup"], |config| {
        no_path(config);
        config["linux"]["uidMappings"] = map(&[(0, 1, 30_000)]);
        config["linux"]["gidMappings"] = map(&[(0, 1, 30_000)]);
    });
}

#[test]
fn delegated_controllers_that_are_missing_are_warned_of() {
    delegated!("delegated_controllers_that_are_missing_are_warned_of");
    let ground = with_session();
    for flags in [&[][..], &["--systemd-cgroup"]] {
        let bundle = ground.bundle("true", |config| {
            no_path(config);
            limits(config);
            config["linux"]["resources"]["rdma"] = json!({"mlx5_0": {"hcaHandles": 3}});
            config["linux"]["resources"]["unified"] = json!({"misc.max": "res_a 1"});
        });
        let outcome = ground
            .rt(&[flags, &["run", "--bundle", bundle.arg(), "some"]].concat())
            .ok();
        let warned = outcome.stderr.contains("level=warning")
            && outcome.stderr.contains("linux.resources.rdma")
            && !outcome.stderr.contains("memory");
        assert!(warned, "{outcome:#?}");
    }
}

#[test]
fn delegated_cgroup_is_seen_in_the_container() {
    delegated!("delegated_cgroup_is_seen_in_the_container");
    let mut ground = Ground::new();
    let ranges = match ground.subids(MANY) {
        Ok(ranges) => ranges,
        Err(why) => skip!("{why}"),
    };
    let mount = |options: &[&str]| json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options});
    // With a cgroup namespace it is the root of what is seen; the container's user owns it.
    let all = "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/x && echo made; echo 0 > /sys/fs/cgroup/x/cgroup.procs && echo moved";
    let seen = ground
        .sh(all, |config| {
            map_ranges(config, &ground, ranges);
            push(config, "/mounts", mount(&["rw", "nosuid"]));
        })
        .ok();
    assert_eq!((&*seen.stdout, &*seen.stderr), ("0::/\nmade\nmoved\n", ""));
    // The user may not give it to another of its ids: the one thing that needs root.
    let seen = ground.sh(all, |config| {
        map_ranges(config, &ground, ranges);
        config["process"]["user"] = json!({"uid": 1000, "gid": 0});
        push(config, "/mounts", mount(&["rw", "nosuid"]));
    });
    assert!(seen.stdout.starts_with("0::/\n"), "{seen:#?}");
    assert!(
        seen.stderr.contains("level=warning") && seen.stderr.contains("process.user.uid"),
        "{seen:#?}"
    );
    // Without one nothing of the user's other cgroups is in sight, and read-only is read-only.
    let seen = ground.sh(
        "ls -d /sys/fs/cgroup/*.slice /sys/fs/cgroup/*.service; echo 0 > /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x; true",
        |config| {
            drop_namespace(config, "cgroup");
            push(config, "/mounts", mount(&["ro", "nosuid"]));
        },
    );
    assert_eq!(seen.ok().stdout, "");
}

#[test]
fn delegated_cgroups_outside_the_container_cannot_be_changed() {
    delegated!("delegated_cgroups_outside_the_container_cannot_be_changed");
    let (ground, _holder) = nested(1).unwrap();
    let others = user::delegated().unwrap();
    // Without a cgroup namespace, and with a mount that asks to be writable.
    let script = format!(
        "test -e {0} && ls -d {0}; mkdir {0}/attack /sys/fs/cgroup/attack; true",
        others.display()
    );
    for own_user_namespace in [false, true] {
        let seen = ground
            .sh(&script, |config| {
                if !own_user_namespace {
                    no_user_namespace(config);
                } else {
                    config["linux"]["uidMappings"] = map(&[(0, 0, 1)]);
                    config["linux"]["gidMappings"] = map(&[(0, 0, 1)]);
                }
                drop_namespace(config, "cgroup");
                push(
                    config,
                    "/mounts",
                    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}),
                );
            })
            .ok();
        assert!(seen.stderr.contains("Read-only"), "{seen:#?}");
        assert!(!others.join("attack").exists());
    }
}

// ---- systemd's own user namespaces ----

#[test]
fn a_unit_with_private_users_runs_containers() {
    if !is_root() {
        skip!("needs root, to start a system unit");
    }
    let version = Command::new("systemctl").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = version.unwrap_or_default();
    let version = version
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse::<u32>().ok());
    let running = Path::new("/run/systemd/private").exists();
    // Both map each id to itself: "full" all of them, so that the map looks like that of the host.
    let how = match version.filter(|_| running) {
        Some(260..) => "full",
        Some(257..) => "identity",
        other => skip!("needs systemd 257 or newer as init, has {other:?}"),
    };
    let ground = Ground::new();
    let script = ground.path("script");
    for user_namespace in [false, true] {
        let bundle = ground.bundle("id -u; exec sleep 600", |config| {
            limits(config);
            if user_namespace {
                config["linux"]["uidMappings"] = map(&[(0, 1000, 30_000)]);
                config["linux"]["gidMappings"] = map(&[(0, 1000, 30_000)]);
            } else {
                no_user_namespace(config);
            }
        });
        let _ = Command::new("chown")
            .args([
                "-R",
                if user_namespace { "1000:1000" } else { "0:0" },
                bundle.arg(),
            ])
            .status();
        let knarr = runtime::path().display();
        let root = ground.path("root");
        let rt = format!("{knarr} --root {}", root.display());
        let bundle = bundle.arg();
        fs::write(
            &script,
            format!(
                "set -ex; cat /proc/self/uid_map; readlink /proc/self/ns/user
                {rt} create --bundle {bundle} unit </dev/null >/dev/null; {rt} exec unit id -u; {rt} start unit
                {rt} exec unit sh -c 'stat -c %t:%T /dev/null; echo > /dev/null; hostname'
                {rt} pause unit; {rt} state unit | grep paused; {rt} resume unit
                {rt} kill unit KILL; sleep 1; {rt} delete unit; {rt} list -q; echo finished"
            ),
        )
        .unwrap();
        let output = Command::new("systemd-run")
            .args([
                "--quiet",
                "--wait",
                "--pipe",
                "--collect",
                "-p",
                "Delegate=yes",
                "-p",
            ])
            .arg(format!("PrivateUsers={how}"))
            .args(["sh"])
            .arg(&script)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{log}");
        assert!(
            text.contains("\n0\n1:3\nknarr-test\n") && text.ends_with("finished\n"),
            "{text}\n{log}"
        );
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        assert!(!text.contains(own.to_str().unwrap()), "{text}");
    }
}
