//! Containers of a user without privileges: with one id and with many, and with a user namespace
//! already in place. As root the tests become such a user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use knarr_integration::bundle::{drop_namespace, namespace, push};
use knarr_integration::socket::Receiver;
use knarr_integration::user::{Ground, MANY, is_root, map, map_ranges, nested, no_user_namespace};
use knarr_integration::{Value, json, process, runtime, skip};

// ---- one id ----

#[test]
fn runs_with_one_id() {
    let ground = Ground::new();
    let seen = ground
        .sh(
            "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; id -u; id -g; hostname; \
             stat -c '%n %F %t:%T' /dev/null /dev/tty /dev/urandom; echo x > /dev/null; \
             mount | grep -E ' (/sys|/dev/mqueue|/dev/pts|/proc) ' | cut -d' ' -f3,5; exit 7",
            |_| {},
        )
        .exits(7);
    let words: Vec<&str> = seen.stdout.split_whitespace().collect();
    let (uid, gid) = (ground.uid.to_string(), ground.gid.to_string());
    assert_eq!(
        words,
        [
            "0",
            &uid,
            "1",
            "0",
            &gid,
            "1",
            "deny",
            "0",
            "0",
            "knarr-test",
            "/dev/null",
            "character",
            "special",
            "file",
            "1:3",
            "/dev/tty",
            "character",
            "special",
            "file",
            "5:0",
            "/dev/urandom",
            "character",
            "special",
            "file",
            "1:9",
            "/proc",
            "proc",
            "/dev/pts",
            "devpts",
            "/dev/mqueue",
            "mqueue",
            "/sys",
            "sysfs",
        ],
        "{seen:#?}"
    );
    assert!(seen.stderr.is_empty(), "{seen:#?}");
    assert!(ground.ids().is_empty());
}

#[test]
fn the_default_root_is_the_users_and_sticky() {
    let ground = Ground::new();
    ground.sleeper("mine", |_| {});
    let root = ground.runtime_dir().join(runtime::name());
    let meta = fs::metadata(&root).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o1700);
    assert_eq!(meta.uid(), ground.uid);
    assert_eq!(ground.ids(), ["mine"]);
    let listed = ground.rt(&["list", "--format", "json"]).ok().json();
    assert_eq!(listed[0]["id"], "mine");
    assert!(!listed[0]["owner"].as_str().unwrap().is_empty());
    ground.rt(&["delete", "--force", "mine"]).ok();
    assert!(ground.ids().is_empty());
}

#[test]
fn a_root_that_cannot_be_made_is_said_with_what_to_do() {
    let ground = Ground::new();
    let bundle = ground.bundle("true", |_| {});
    let mut command = ground.command(&["run", "--bundle", bundle.arg(), "x"]);
    command.env_remove("XDG_RUNTIME_DIR");
    if is_root() || rustix::fs::access("/run", rustix::fs::Access::WRITE_OK).is_err() {
        ground.finish(command).fails_with("XDG_RUNTIME_DIR");
    }
    let mut command = ground.command(&["run", "--bundle", bundle.arg(), "x"]);
    command.env("XDG_RUNTIME_DIR", "/sys/nothing");
    ground.finish(command).fails_with("XDG_RUNTIME_DIR");
}

#[test]
fn the_whole_life() {
    let ground = Ground::new();
    let bundle = ground.bundle("touch /tmp/runs; exec sleep 600", |_| {});
    ground
        .rt(&["create", "--bundle", bundle.arg(), "life"])
        .ok();
    let state = ground.rt(&["state", "life"]).ok().json();
    assert_eq!(state["status"], "created");
    // A process may come before the program, too.
    let before = ground
        .rt(&["exec", "life", "sh", "-c", "id -u; ls /tmp"])
        .ok();
    assert_eq!(before.text(), "0");
    ground.rt(&["start", "life"]).ok();
    let pid = ground.pid("life");
    assert!(process::eventually(Duration::from_secs(10), || {
        bundle.rootfs().join("tmp/runs").exists()
    }));
    let inside = ground
        .rt(&[
            "exec",
            "life",
            "sh",
            "-c",
            "id -u; readlink /proc/self/ns/user; exit 5",
        ])
        .exits(5);
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    assert!(inside.stdout.starts_with("0\nuser:["), "{inside:#?}");
    assert!(
        !inside.stdout.contains(own.to_str().unwrap()),
        "{inside:#?}"
    );
    ground
        .rt(&[
            "exec",
            "--detach",
            "--pid-file",
            "/proc/self/cwd/nowhere/x",
            "life",
            "sleep",
            "600",
        ])
        .exits(255);
    let pids = ground.rt(&["ps", "--format", "json", "life"]).ok().json();
    assert_eq!(pids, json!([pid]));
    ground.rt(&["kill", "life", "KILL"]).ok();
    assert!(process::eventually(Duration::from_secs(10), || {
        !process::alive(pid)
    }));
    ground.rt(&["delete", "life"]).ok();
    assert!(ground.ids().is_empty());
}

#[test]
fn exec_enters_with_terminal_and_pidfd() {
    let ground = Ground::new();
    ground.sleeper("tty", |_| {});
    let console = Receiver::bind(ground.path("console"));
    let pidfd = Receiver::bind(ground.path("pidfd"));
    for path in ["console", "pidfd"] {
        fs::set_permissions(ground.path(path), fs::Permissions::from_mode(0o777)).unwrap();
    }
    ground
        .rt(&[
            "exec",
            "--detach",
            "--tty",
            "--console-socket",
            console.arg(),
            "--pidfd-socket",
            pidfd.arg(),
            "tty",
            "sh",
            "-c",
            "tty > /tmp/tty; stat -c %u $(tty) >> /tmp/tty",
        ])
        .ok();
    let (_master, _) = console.descriptor();
    let (_pidfd, _) = pidfd.descriptor();
    let seen = ground.path("bundle0/rootfs/tmp/tty");
    assert!(process::eventually(Duration::from_secs(10), || {
        fs::read_to_string(&seen).is_ok_and(|text| text == "/dev/pts/0\n0\n")
    }));
}

#[test]
fn the_template_runs_as_it_is() {
    let ground = Ground::new();
    let dir = ground.path("template");
    fs::create_dir(&dir).unwrap();
    knarr_integration::bundle::rootfs(&dir.join("rootfs"));
    ground.give(&dir);
    let arg = dir.to_str().unwrap();
    ground.rt(&["spec", "--rootless", "--bundle", arg]).ok();
    let console = Receiver::bind(ground.path("console"));
    fs::set_permissions(ground.path("console"), fs::Permissions::from_mode(0o777)).unwrap();
    ground
        .rt(&[
            "run",
            "--detach",
            "--bundle",
            arg,
            "--console-socket",
            console.arg(),
            "template",
        ])
        .ok();
    let (_master, _) = console.descriptor();
    // Whatever of the host's cgroups belongs to the user, the container cannot change it.
    let tried = ground
        .rt(&["exec", "template", "sh", "-c",
            "for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo 0 > $f && echo wrote $f; done; true"])
        .ok();
    assert_eq!(tried.text(), "", "{tried:#?}");
    ground.rt(&["delete", "--force", "template"]).ok();
}

#[test]
fn mounts_of_the_host_serve_where_the_kernel_makes_none() {
    let ground = Ground::new();
    let queues = fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .contains(" /dev/mqueue mqueue ");
    // The network and the message queues of the host: neither sysfs nor mqueue can be mounted.
    let seen = ground
        .sh("mount | grep -E ' (/sys|/dev/mqueue) ' | cut -d' ' -f3,5; touch /sys/x 2>&1; ls /sys/class | grep -c net", |config| {
            drop_namespace(config, "network");
            if queues {
                drop_namespace(config, "ipc");
            }
        })
        .ok();
    assert!(seen.stdout.contains("/sys sysfs"), "{seen:#?}");
    if queues {
        assert!(seen.stdout.contains("/dev/mqueue"), "{seen:#?}");
    }
    assert!(seen.stdout.ends_with("1\n"), "{seen:#?}");
}

#[test]
fn bind_mounts_keep_what_the_kernel_has_locked() {
    if !is_root() {
        skip!("needs root, to make the file system that is bound");
    }
    let ground = Ground::new();
    let source = ground.path("source");
    fs::create_dir(&source).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "nosuid,nodev,noatime", "x"])
        .arg(&source)
        .status();
    assert!(mounted.unwrap().success());
    let read_only = ground.path("ro");
    fs::create_dir(&read_only).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "ro,nodev", "x"])
        .arg(&read_only)
        .status();
    assert!(mounted.unwrap().success());
    let bind = |from: &Path, to: &str, options: &[&str]| json!({"destination": to, "type": "bind", "source": from, "options": options});
    let outcome = ground.sh(
        "grep -E ' /(a|b|c|d) ' /proc/self/mounts | cut -d' ' -f2,4",
        |config| {
            for mount in [
                bind(&source, "/a", &["rbind", "rw"]),
                bind(&source, "/b", &["bind", "ro"]),
                bind(&source, "/c", &["rbind", "rprivate", "nosuid", "noexec"]),
                bind(&read_only, "/d", &["rbind", "rw"]),
            ] {
                push(config, "/mounts", mount);
            }
        },
    );
    for dir in [&source, &read_only] {
        let _ = Command::new("umount").arg("-l").arg(dir).status();
    }
    let text = outcome.ok().stdout;
    let options: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split([' ', ',']).collect())
        .collect();
    let has = |at: usize, wanted: &[&str]| {
        assert!(
            wanted.iter().all(|option| options[at].contains(option)),
            "{text}"
        );
    };
    has(0, &["/a", "rw", "nosuid", "nodev", "noatime"]);
    has(1, &["/b", "ro", "nosuid", "nodev", "noatime"]);
    has(2, &["/c", "rw", "nosuid", "nodev", "noexec", "noatime"]);
    has(3, &["/d", "ro", "nodev"]);
}

#[test]
fn devices_are_the_hosts_nodes() {
    let ground = Ground::new();
    if !Path::new("/dev/fuse").exists() {
        skip!("the host has no /dev/fuse");
    }
    let stat = fs::metadata("/dev/fuse").unwrap();
    let device = |path: &str, minor: u64| json!({"path": path, "type": "c", "major": 10, "minor": minor, "fileMode": 438});
    let minor = stat.rdev() & 0xff;
    let seen = ground
        .sh("stat -c %F /dev/fuse", |config| {
            push(config, "/linux/devices", device("/dev/fuse", minor))
        })
        .ok();
    assert_eq!(seen.text(), "character special file");
    // Another device than the one at that path would be something else than what was asked for.
    let _ = ground
        .sh("true", |config| {
            push(config, "/linux/devices", device("/dev/fuse", minor - 1))
        })
        .fails_with("user namespace");
    let _ = ground
        .sh("true", |config| {
            push(config, "/linux/devices", device("/dev/nothing", minor))
        })
        .fails_with("/dev/nothing");
}

#[test]
fn a_group_of_the_terminals_that_is_not_mapped_is_left_out() {
    let ground = Ground::new();
    let seen = ground
        .sh("grep ' /dev/pts ' /proc/self/mounts", |_| {})
        .ok();
    assert!(
        seen.stdout.contains("mode=620") && !seen.stdout.contains("gid="),
        "{seen:#?}"
    );
}

#[test]
fn seccomp_notifications_reach_their_agent() {
    let ground = Ground::new();
    let receiver = Receiver::bind(ground.path("agent"));
    fs::set_permissions(ground.path("agent"), fs::Permissions::from_mode(0o777)).unwrap();
    let bundle = ground.bundle("exec sleep 600", |config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": receiver.arg(),
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    ground
        .rt(&["create", "--bundle", bundle.arg(), "agent"])
        .ok();
    let (_listener, state) = receiver.descriptor();
    let state: Value = serde_json_from(&state);
    assert_eq!(state["state"]["id"], "agent");
}

fn serde_json_from(text: &[u8]) -> Value {
    String::from_utf8_lossy(text).parse().unwrap()
}

// ---- what cannot be had ----

#[test]
fn groups_beyond_the_own_need_setgroups() {
    let ground = Ground::new();
    // The group that the process has anyway.
    let seen = ground
        .sh("id -G", |config| {
            config["process"]["user"]["additionalGids"] = json!([0])
        })
        .ok();
    assert!(seen.stdout.starts_with('0'), "{seen:#?}");
    let outcome = ground
        .sh("id -G", |config| {
            config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [0, 1]});
            config["linux"]["gidMappings"] = map(&[(1, ground.gid, 1)]);
            config["process"]["user"]["gid"] = json!(1);
            config["process"]["user"]["additionalGids"] = json!([1, 7]);
        })
        .fails_with("process.user.additionalGids");
    assert!(outcome.stderr.contains('7'), "{outcome:#?}");
}

#[test]
fn a_lower_oom_score_is_refused_clearly_and_a_higher_one_set() {
    let ground = Ground::new();
    let seen = ground
        .sh("cat /proc/self/oom_score_adj", |config| {
            config["process"]["oomScoreAdj"] = json!(700)
        })
        .ok();
    assert_eq!(seen.text(), "700");
    let _ = ground
        .sh("true", |config| {
            config["process"]["oomScoreAdj"] = json!(-900)
        })
        .fails_with("CAP_SYS_RESOURCE");
}

#[test]
fn without_a_user_namespace_there_is_one_clear_error() {
    let ground = Ground::new();
    let _ = ground
        .sh("true", no_user_namespace)
        .fails_with("user namespace");
    assert!(ground.ids().is_empty());
}

#[test]
fn id_mappings_of_mounts_are_refused_clearly() {
    let ground = Ground::new();
    let outcome = ground
        .sh("true", |config| {
            push(config, "/mounts", json!({
                "destination": "/mnt", "source": "/tmp", "options": ["bind", "idmap"],
                "uidMappings": map(&[(0, ground.uid, 1)]), "gidMappings": map(&[(0, ground.gid, 1)]),
            }));
        })
        .fails_with("mounts[");
    assert!(
        outcome.stderr.contains("id mapping") && outcome.stderr.contains("privilege"),
        "{outcome:#?}"
    );
}

// ---- /etc/subuid ----

#[test]
fn many_ids_come_from_subuid() {
    let mut ground = Ground::new();
    let ranges = match ground.subids(MANY) {
        Ok(ranges) => ranges,
        Err(why) => skip!("{why}"),
    };
    let edit = |config: &mut Value| {
        map_ranges(config, &ground, ranges);
        push(
            config,
            "/mounts",
            json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["uid=1000", "gid=1000"]}),
        );
    };
    let seen = ground
        .sh("cat /proc/self/uid_map /proc/self/setgroups; touch /tmp/f; chown 5:6 /tmp/f; stat -c %u:%g /tmp/f /run; id", |config| {
            edit(config);
            config["process"]["user"]["additionalGids"] = json!([7, 2000]);
        })
        .ok();
    assert!(seen.stdout.contains("allow"), "{seen:#?}");
    assert!(seen.stdout.contains("\n5:6\n1000:1000\n"), "{seen:#?}");
    assert!(
        seen.stdout.contains("groups=") && seen.stdout.contains("2000"),
        "{seen:#?}"
    );
    let file = fs::metadata(ground.path("bundle0/rootfs/tmp/f")).unwrap();
    assert_eq!(
        (file.uid(), file.gid()),
        (ranges.0.start + 4, ranges.1.start + 5)
    );
}

#[test]
fn another_user_of_the_container_is_reached_and_ended() {
    let mut ground = Ground::new();
    let ranges = match ground.subids(MANY) {
        Ok(ranges) => ranges,
        Err(why) => skip!("{why}"),
    };
    let pid = ground.sleeper("worker", |config| {
        map_ranges(config, &ground, ranges);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    assert_eq!(
        process::status_field(pid, "Uid").split_whitespace().next(),
        Some(&*(ranges.0.start + 999).to_string())
    );
    let seen = ground.rt(&["exec", "worker", "id"]).ok();
    assert!(seen.stdout.contains("uid=1000"), "{seen:#?}");
    let seen = ground
        .rt(&[
            "exec",
            "--user",
            "5:6",
            "--additional-gids",
            "9",
            "worker",
            "id",
        ])
        .ok();
    assert!(
        seen.stdout.contains("uid=5 gid=6 groups=") && seen.stdout.contains('9'),
        "{seen:#?}"
    );
    let _ = ground
        .rt(&["exec", "--user", "70000:0", "worker", "id"])
        .exits(255);
    assert_eq!(
        ground.rt(&["ps", "--format", "json", "worker"]).ok().json(),
        json!([pid])
    );
    ground.rt(&["kill", "worker", "TERM"]).ok();
    ground.rt(&["kill", "worker", "KILL"]).ok();
    assert!(process::eventually(Duration::from_secs(10), || {
        !process::alive(pid)
    }));
    ground.rt(&["delete", "worker"]).ok();
}

#[test]
fn a_range_that_is_missing_or_too_small_is_named_before_anything_is_made() {
    if !is_root() {
        skip!("needs root, to say what /etc/subuid has");
    }
    let mut ground = Ground::new();
    if runtime::find("newuidmap".as_ref()).is_none() || !Path::new("/etc/subuid").exists() {
        skip!("newuidmap is not installed (Debian package uidmap)");
    }
    let wide = format!("stranger:{}:{}\n", MANY.start, MANY.count);
    let small = format!("stranger:{}:{}\n", MANY.start, MANY.count - 1);
    let cases = [
        // subuid, subgid, what the message names
        ("", &*wide, "/etc/subuid", "uidMappings"),
        (&*small, &*wide, "/etc/subuid", "uidMappings"),
        (&*wide, "", "/etc/subgid", "gidMappings"),
        ("other:200000:65536\n", &*wide, "/etc/subuid", "uidMappings"),
        (
            "stranger:300000:65536\nnonsense\n::\nstranger:x:y\n",
            &*wide,
            "/etc/subuid",
            "uidMappings",
        ),
    ];
    for (subuid, subgid, file, field) in cases {
        ground.id_files(subuid, subgid);
        let outcome = ground
            .sh("true", |config| map_ranges(config, &ground, (MANY, MANY)))
            .fails();
        let message = &outcome.stderr;
        assert!(
            message.contains(file)
                && message.contains(field)
                && message.contains("200000")
                && message.contains("65536"),
            "{subuid:?} {subgid:?}: {message}"
        );
        assert!(ground.ids().is_empty(), "something was made");
    }
    // Several ranges side by side make one; the owner may be a number.
    let split = format!("stranger:200000:1000\n{}:201000:64536\n", ground.uid);
    ground.id_files(&split, &wide);
    ground
        .sh("true", |config| map_ranges(config, &ground, (MANY, MANY)))
        .ok();
}

#[test]
fn missing_helpers_are_named() {
    let ground = Ground::new();
    if is_root() && runtime::find("newuidmap".as_ref()).is_some() {
        // An empty directory over the one with the helpers would hide everything else too: hide them alone.
        let bundle = ground.bundle("true", |config| map_ranges(config, &ground, (MANY, MANY)));
        let hide = "for p in newuidmap newgidmap; do mount --bind /dev/null $(command -v $p); done; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", hide, "sh"]);
        let inner = ground.command(&["run", "--bundle", bundle.arg(), "x"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.env("XDG_RUNTIME_DIR", ground.runtime_dir());
        let outcome = ground.finish(command).fails();
        assert!(outcome.stderr.contains("newuidmap"), "{outcome:#?}");
        return;
    }
    if runtime::find("newuidmap".as_ref()).is_some() {
        skip!("newuidmap is installed, and only root can hide it");
    }
    let _ = ground
        .sh("true", |config| map_ranges(config, &ground, (MANY, MANY)))
        .fails_with("newuidmap");
}

// ---- a user namespace already in place ----

fn whole_life_inside(ground: &Ground, edit: impl Fn(&mut Value)) {
    let bundle = ground.bundle("exec sleep 600", &edit);
    ground
        .rt(&["create", "--bundle", bundle.arg(), "inside"])
        .ok();
    let early = ground.rt(&["exec", "inside", "id", "-u"]).ok();
    assert_eq!(early.text(), "0");
    ground.rt(&["start", "inside"]).ok();
    let pid = ground.pid("inside");
    let seen = ground
        .rt(&["exec", "inside", "sh", "-c", "id -u; exit 3"])
        .exits(3);
    assert_eq!(seen.text(), "0");
    assert_eq!(
        ground.rt(&["ps", "--format", "json", "inside"]).ok().json(),
        json!([pid])
    );
    ground.rt(&["kill", "inside", "KILL"]).ok();
    assert!(process::eventually(Duration::from_secs(10), || {
        !process::alive(pid)
    }));
    ground.rt(&["delete", "inside"]).ok();
    assert!(ground.ids().is_empty());
}

#[test]
fn root_of_one_id_needs_no_other_user_namespace() {
    let (ground, _holder) = nested(1).unwrap();
    whole_life_inside(&ground, no_user_namespace);
    // Images bring the groups of root along, Podman passes on those that exist.
    let seen = ground
        .sh(
            "id -G; stat -c %t:%T /dev/null; cat /proc/self/uid_map",
            |config| {
                no_user_namespace(config);
                config["process"]["user"]["additionalGids"] = json!([0]);
            },
        )
        .ok();
    assert!(seen.stdout.contains("1:3"), "{seen:#?}");
    assert!(seen.stderr.is_empty(), "{seen:#?}");
}

#[test]
fn root_of_one_id_makes_a_namespace_below() {
    let (ground, _holder) = nested(1).unwrap();
    whole_life_inside(&ground, |config| {
        config["linux"]["uidMappings"] = map(&[(0, 0, 1)]);
        config["linux"]["gidMappings"] = map(&[(0, 0, 1)]);
    });
}

#[test]
fn root_of_many_ids_needs_no_other_user_namespace() {
    let (ground, _holder) = match nested(60_000) {
        Ok(made) => made,
        Err(why) => skip!("{why}"),
    };
    whole_life_inside(&ground, no_user_namespace);
    let seen = ground
        .sh("id; grep ' /dev/pts ' /proc/self/mounts", |config| {
            no_user_namespace(config);
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
        })
        .ok();
    assert!(
        seen.stdout.contains("uid=1000") && seen.stdout.contains('7'),
        "{seen:#?}"
    );
    assert!(seen.stdout.contains("gid="), "{seen:#?}");
}

#[test]
fn root_of_many_ids_makes_a_namespace_below() {
    let (ground, _holder) = match nested(60_000) {
        Ok(made) => made,
        Err(why) => skip!("{why}"),
    };
    whole_life_inside(&ground, |config| {
        config["linux"]["uidMappings"] = map(&[(0, 1, 30_000)]);
        config["linux"]["gidMappings"] = map(&[(0, 1, 30_000)]);
        config["root"]["readonly"] = json!(true);
    });
}

#[test]
fn ids_that_the_outer_namespace_lacks_are_named_before_anything_is_made() {
    let (ground, _holder) = nested(1).unwrap();
    let outcome = ground
        .sh("true", |config| {
            config["linux"]["uidMappings"] = map(&[(0, 0, 1), (1, 100_000, 65_536)]);
            config["linux"]["gidMappings"] = map(&[(0, 0, 1)]);
        })
        .fails_with("linux.uidMappings[1]");
    assert!(outcome.stderr.contains("100000"), "{outcome:#?}");
    let outcome = ground
        .sh("true", |config| {
            no_user_namespace(config);
            config["process"]["user"]["uid"] = json!(1000);
        })
        .fails_with("process.user.uid");
    assert!(
        outcome.stderr.contains("1000 is not mapped"),
        "{outcome:#?}"
    );
    assert!(ground.ids().is_empty());
}

#[test]
fn a_user_namespace_is_joined_by_its_path() {
    let ground = Ground::new();
    let pid = ground.sleeper("first", |_| {});
    let path = process::namespace_path(pid, "user");
    let joined = |config: &mut Value| {
        namespace(config, "user")["path"] = json!(path);
        let linux = config["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
    };
    let other = ground.sleeper("second", |config| {
        joined(config);
        config["process"]["oomScoreAdj"] = json!(500);
    });
    let score = fs::read_to_string(format!("/proc/{other}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "500");
    let inside = ground
        .rt(&["exec", "second", "readlink", "/proc/self/ns/user"])
        .ok();
    let first = ground
        .rt(&["exec", "first", "readlink", "/proc/self/ns/user"])
        .ok();
    assert_eq!(inside.text(), first.text());
}

#[test]
fn a_pod_shares_namespaces_by_their_paths() {
    let ground = Ground::new();
    let pid = ground.sleeper("pause", |_| {});
    let shared = ["user", "network", "ipc", "uts"];
    let join = |config: &mut Value| {
        for (kind, name) in shared.into_iter().zip(["user", "net", "ipc", "uts"]) {
            namespace(config, kind)["path"] = json!(process::namespace_path(pid, name));
        }
        let config = config.as_object_mut().unwrap();
        config.remove("hostname");
        let linux = config["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
    };
    let other = ground.sleeper("member", join);
    for name in ["user", "net", "ipc", "uts"] {
        assert_eq!(
            process::namespace(other, name),
            process::namespace(pid, name),
            "{name}"
        );
    }
    for name in ["pid", "mnt", "cgroup"] {
        assert_ne!(
            process::namespace(other, name),
            process::namespace(pid, name),
            "{name}"
        );
    }
    assert_eq!(
        ground.rt(&["exec", "member", "hostname"]).ok().text(),
        "knarr-test"
    );
}

#[test]
fn a_pod_in_a_user_namespace_shares_its_network() {
    let (ground, _holder) = nested(1).unwrap();
    let pid = ground.sleeper("pause", no_user_namespace);
    let other = ground.sleeper("member", |config| {
        no_user_namespace(config);
        namespace(config, "network")["path"] = json!(process::namespace_path(pid, "net"));
        config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 100_000}});
        push(config, "/linux/namespaces", json!({"type": "time"}));
    });
    assert_eq!(
        process::namespace(other, "net"),
        process::namespace(pid, "net")
    );
    let up = ground
        .rt(&["exec", "member", "cut", "-d.", "-f1", "/proc/uptime"])
        .ok();
    assert!(up.text().parse::<u64>().unwrap() > 100_000, "{up:#?}");
    assert_eq!(
        ground
            .rt(&["exec", "member", "sh", "-c", "ls /sys/class/net"])
            .ok()
            .text(),
        "lo"
    );
}
