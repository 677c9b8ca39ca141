//! Namespaces made, joined and inherited; user namespaces, time offsets, network devices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use knarr_integration::bundle::{drop_namespace, namespace, push, user_namespace};
use knarr_integration::{Sandbox, Value, json, process};

/// Type in the configuration and name in /proc/PID/ns.
const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

#[test]
fn case_16_duplicate_namespace_errors() {
    let sb = Sandbox::new();
    let before = sb.look();
    for kind in ["pid", "network", "mount", "uts", "ipc", "cgroup"] {
        let bundle = sb.bundle(|c| push(c, "/linux/namespaces", json!({"type": kind})));
        sb.create("sixteen", &bundle).fails_with("namespace");
        sb.same_as(&before);
    }
}

#[test]
fn case_17_path_of_another_type_errors() {
    let sb = Sandbox::new();
    let holder = sb.sleeper("holder", |_| {});
    let before = sb.look();
    for (kind, wrong) in [
        ("network", "uts"),
        ("uts", "net"),
        ("ipc", "pid"),
        ("pid", "ipc"),
        ("cgroup", "mnt"),
    ] {
        let bundle = sb.bundle(|c| {
            namespace(c, kind)["path"] = json!(process::namespace_path(holder.pid, wrong));
        });
        sb.create("seventeen", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn case_17_path_that_is_no_namespace_errors() {
    let sb = Sandbox::new();
    let before = sb.look();
    for path in ["/nonexistent/ns", "/etc/passwd", "/", "/proc/0/ns/net", ""] {
        let bundle = sb.bundle(|c| namespace(c, "network")["path"] = json!(path));
        if path.is_empty() {
            // An empty path is no path: a new namespace, or an error, but never the host's.
            let host = process::namespace(std::process::id(), "net");
            let out = sb.create("empty", &bundle);
            if out.code == 0 {
                let pid = sb.state("empty")["pid"].as_u64().unwrap();
                assert_ne!(process::namespace(u32::try_from(pid).unwrap(), "net"), host);
            }
            sb.finish("empty");
            continue;
        }
        sb.create("no-ns", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn case_18_absent_is_inherited_and_present_is_new() {
    let sb = Sandbox::new();
    let own = |kind: &str| process::namespace(std::process::id(), kind);
    let all = sb.sleeper("all", |_| {});
    for (_, name) in KINDS {
        assert_ne!(
            process::namespace(all.pid, name),
            own(name),
            "{name} should be new"
        );
    }
    assert_eq!(process::namespace(all.pid, "user"), own("user"));
    for (kind, name) in [
        ("network", "net"),
        ("ipc", "ipc"),
        ("cgroup", "cgroup"),
        ("pid", "pid"),
    ] {
        let c = sb.sleeper(&format!("no-{kind}"), |c| {
            drop_namespace(c, kind);
            if kind == "network" {
                // sysfs of a network namespace that is not ours to mount.
                c["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|m| m["type"] != "sysfs");
            }
            if kind == "ipc" {
                c["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|m| m["type"] != "mqueue");
            }
        });
        assert_eq!(
            process::namespace(c.pid, name),
            own(name),
            "{kind} should be inherited"
        );
    }
}

#[test]
fn case_19_namespace_path_must_be_absolute() {
    let sb = Sandbox::new();
    let before = sb.look();
    for path in ["proc/self/ns/net", "./ns", "net"] {
        let bundle = sb.bundle(|c| namespace(c, "network")["path"] = json!(path));
        sb.create("relative", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn unknown_namespace_type_errors() {
    let sb = Sandbox::new();
    let before = sb.look();
    for kind in ["net", "PID", "", "no-such"] {
        let bundle = sb.bundle(|c| push(c, "/linux/namespaces", json!({"type": kind})));
        sb.create("unknown", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn case_20_joins_every_namespace_of_another_container() {
    let sb = Sandbox::new();
    let holder = sb.sleeper("holder", |_| {});
    let guest = sb.sleeper("guest", |c| {
        for (kind, name) in KINDS.into_iter().filter(|(kind, _)| *kind != "mount") {
            namespace(c, kind)["path"] = json!(process::namespace_path(holder.pid, name));
        }
        c.as_object_mut().unwrap().remove("hostname");
    });
    for (kind, name) in KINDS {
        let same = process::namespace(holder.pid, name) == process::namespace(guest.pid, name);
        assert_eq!(same, kind != "mount", "{kind}");
    }
    let seen = sb.rt(&["exec", "holder", "ps"]).ok();
    assert_eq!(seen.stdout.matches("sleep 600").count(), 2, "{seen:?}");
}

#[test]
fn case_20_time_offsets_apply() {
    let sb = Sandbox::new();
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        knarr_integration::skip!("this kernel has no time namespaces");
    }
    let host: f64 = fs::read_to_string("/proc/uptime")
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let edit = |c: &mut Value| {
        push(c, "/linux/namespaces", json!({"type": "time"}));
        c["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 7}});
    };
    let out = sb
        .sh("cat /proc/uptime; cat /proc/self/timens_offsets", edit)
        .ok();
    let inside: f64 = out.stdout.split(' ').next().unwrap().parse().unwrap();
    assert!(
        (inside - host - 1e6).abs() < 100.0,
        "{inside} against {host}"
    );
    assert!(
        out.stdout.contains("boottime") && out.stdout.contains("1000000"),
        "{out:?}"
    );
    let c = sb.sleeper("time", edit);
    assert_ne!(
        process::namespace(c.pid, "time"),
        process::namespace(std::process::id(), "time")
    );
    let inside = sb.rt(&["exec", "time", "cat", "/proc/uptime"]).ok();
    assert!(
        inside
            .stdout
            .split('.')
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 1_000_000
    );
    let joined = sb.sleeper("joined", |config| {
        push(
            config,
            "/linux/namespaces",
            json!({"type": "time", "path": process::namespace_path(c.pid, "time")}),
        );
    });
    assert_eq!(
        process::namespace(c.pid, "time"),
        process::namespace(joined.pid, "time")
    );
}

#[test]
fn time_offsets_need_a_new_time_namespace() {
    let sb = Sandbox::new();
    let before = sb.look();
    let bundle = sb.bundle(|c| c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 5}}));
    sb.create("no-timens", &bundle).fails_with("time");
    sb.same_as(&before);
}

#[test]
fn hostname_and_domainname_are_set() {
    let sb = Sandbox::new();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let out = sb
        .sh("hostname; cat /proc/sys/kernel/domainname", |c| {
            c["hostname"] = json!("ship");
            c["domainname"] = json!("sea.example");
        })
        .ok();
    assert_eq!(out.stdout, "ship\nsea.example\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        host
    );
    let before = sb.look();
    for field in ["hostname", "domainname"] {
        let bundle = sb.bundle(|c| {
            drop_namespace(c, "uts");
            c.as_object_mut().unwrap().remove("hostname");
            c[field] = json!("stolen");
        });
        sb.create("no-uts", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn user_namespace_maps_ids() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle(
        "id -u; cat /proc/self/uid_map; echo made >/tmp/file; sleep 600",
        user_namespace,
    );
    // The container's root must own what it writes to.
    for dir in ["", "tmp", "dev", "proc", "sys", "etc"] {
        rustix::fs::chown(
            bundle.rootfs().join(dir),
            Some(rustix::fs::Uid::from_raw(100_000)),
            Some(rustix::fs::Gid::from_raw(100_000)),
        )
        .unwrap();
    }
    let c = sb.started("user", &bundle);
    assert!(process::eventually(
        std::time::Duration::from_secs(5),
        || bundle.rootfs().join("tmp/file").exists()
    ));
    let said = c.created.stdout_now();
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536"]);
    assert_ne!(
        process::namespace(c.pid, "user"),
        process::namespace(std::process::id(), "user")
    );
    assert!(process::status_field(c.pid, "Uid").starts_with("100000"));
    let meta = fs::metadata(bundle.rootfs().join("tmp/file")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 100_000);
    assert_eq!(
        sb.rt(&["exec", "--user", "1000", "user", "id", "-u"])
            .ok()
            .text(),
        "1000"
    );
    let joined = sb.bundle(|config| {
        user_namespace(config);
        namespace(config, "user")["path"] = json!(process::namespace_path(c.pid, "user"));
        config["linux"]
            .as_object_mut()
            .unwrap()
            .remove("uidMappings");
        config["linux"]
            .as_object_mut()
            .unwrap()
            .remove("gidMappings");
        config["process"]["args"] = json!(["/bin/sleep", "600"]);
    });
    let joined = sb.started("joined", &joined);
    assert_eq!(
        process::namespace(c.pid, "user"),
        process::namespace(joined.pid, "user")
    );
}

#[test]
fn user_namespace_without_mappings_errors() {
    let sb = Sandbox::new();
    let before = sb.look();
    let none = sb.bundle(|c| push(c, "/linux/namespaces", json!({"type": "user"})));
    let big = sb.bundle(|c| {
        user_namespace(c);
        c["linux"]["uidMappings"] =
            json!([{"containerID": 0, "hostID": 4_294_967_295_u32, "size": 10}]);
    });
    let overlap = sb.bundle(|c| {
        user_namespace(c);
        push(
            c,
            "/linux/uidMappings",
            json!({"containerID": 5, "hostID": 300_000, "size": 10}),
        );
    });
    for bundle in [none, big, overlap] {
        sb.create("maps", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn loopback_is_up_in_a_new_network() {
    let sb = Sandbox::new();
    let out = sb.sh("ip -o addr; ls /sys/class/net", |_| {}).ok();
    assert!(out.stdout.contains("127.0.0.1/8"), "{out:?}");
    assert!(out.stdout.ends_with("\nlo\n"), "nothing but lo: {out:?}");
}

/// Directories that are for their owner alone: where the runtime is called, and where something is mounted.
#[test]
fn private_directories_do_not_hinder_a_user_namespace() {
    let sb = Sandbox::new();
    let private = sb.path("private");
    let bundle = sb.sh_bundle("grep -c ' /closed tmpfs ' /proc/self/mounts", |c| {
        user_namespace(c);
        push(
            c,
            "/mounts",
            json!({"destination": "/closed", "type": "tmpfs", "source": "tmpfs"}),
        );
    });
    for dir in [&private, &bundle.rootfs().join("closed")] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let mut command = sb.command(&["run", "--bundle", bundle.arg(), "private"]);
    command.current_dir(&private);
    assert_eq!(sb.spawn(command).wait().ok().text(), "1");
}

/// A network device for a test, gone with it.
struct Link(String);

impl Link {
    /// Number `n` of this process: other tests may have their own at the same time.
    fn new(n: u32) -> Option<Self> {
        let name = format!("kni{}x{n}", std::process::id() % 1_000_000);
        let status = Command::new("ip")
            .args([
                "link",
                "add",
                &name,
                "type",
                "veth",
                "peer",
                "name",
                &format!("{name}p"),
            ])
            .status();
        status
            .is_ok_and(|status| status.success())
            .then_some(Self(name))
    }

    fn ip(args: &[&str]) {
        assert!(
            Command::new("ip").args(args).status().unwrap().success(),
            "ip {args:?}"
        );
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "del", &self.0])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

#[test]
fn case_45_network_device_moves_with_its_addresses() {
    let sb = Sandbox::new();
    let Some(link) = Link::new(0) else {
        knarr_integration::skip!("this kernel has no veth devices, or ip(8) is missing");
    };
    Link::ip(&["addr", "add", "192.0.2.7/24", "dev", &link.0]);
    let bundle = sb.sh_bundle("ip -o addr show eth9; cat /sys/class/net/eth9/operstate /sys/class/net/eth9/flags; sleep 600", |c| {
        c["linux"]["netDevices"] = json!({&link.0: {"name": "eth9"}});
    });
    let c = sb.started("net", &bundle);
    assert!(
        !std::path::Path::new("/sys/class/net")
            .join(&link.0)
            .exists()
    );
    assert!(process::eventually(
        std::time::Duration::from_secs(5),
        || c.created.stdout_now().contains("0x")
    ));
    let said = c.created.stdout_now();
    assert!(said.contains("192.0.2.7/24"), "{said}");
    let flags = u32::from_str_radix(said.trim().rsplit("0x").next().unwrap(), 16).unwrap();
    assert_eq!(flags & 1, 1, "up: {said}");
    sb.finish("net");
    assert!(
        !std::path::Path::new("/sys/class/net/eth9").exists(),
        "it must not come back"
    );
}

#[test]
fn case_45_name_collision_errors_and_gives_the_device_back() {
    let sb = Sandbox::new();
    let Some(link) = Link::new(1) else {
        knarr_integration::skip!("this kernel has no veth devices, or ip(8) is missing");
    };
    let bundle = sb.bundle(|c| c["linux"]["netDevices"] = json!({&link.0: {"name": "lo"}}));
    let before = sb.look();
    sb.create("collide", &bundle).fails();
    assert!(
        std::path::Path::new("/sys/class/net")
            .join(&link.0)
            .exists()
    );
    sb.same_as(&before);
    let absent = sb.bundle(|c| c["linux"]["netDevices"] = json!({"knim9": {}}));
    sb.create("absent", &absent).fails();
    let template = sb.bundle(|c| {
        c["linux"]["netDevices"] = json!({&link.0: {"name": "kni%d"}});
        c["process"]["args"] = json!(["/bin/ls", "/sys/class/net"]);
    });
    let out = sb.run(&template).ok();
    assert!(out.stdout.contains("kni0"), "{out:?}");
}

#[test]
fn sysctls_are_set_in_their_namespaces_only() {
    let sb = Sandbox::new();
    let host = fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
    let out = sb
        .sh(
            "cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward",
            |c| {
                c["linux"]["sysctl"] = json!({"kernel.shmmni": "77", "net/ipv4/ip_forward": "1"});
            },
        )
        .ok();
    assert_eq!(out.stdout, "77\n1\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), host);
    let before = sb.look();
    for (key, without) in [
        ("kernel.shmmni", "ipc"),
        ("net.ipv4.ip_forward", "network"),
        ("kernel.panic", ""),
        ("kernel.hostname", ""),
    ] {
        let bundle = sb.bundle(|c| {
            if !without.is_empty() {
                drop_namespace(c, without);
            }
            c["linux"]["sysctl"] = json!({key: "1"});
        });
        sb.create("sysctl", &bundle).fails();
        sb.same_as(&before);
    }
}

/// Whoever makes an IPC namespace owns the root of its message queues.
#[test]
fn message_queues_belong_to_the_containers_root() {
    let sb = Sandbox::new();
    let script = "stat -c 'owner %u' /dev/mqueue";
    let out = sb.sh(script, user_namespace).ok().stdout;
    assert!(out.contains("owner 0"), "{out}");
}

/// They have no meaning then, and callers that leave them in exist.
#[test]
fn mappings_without_a_user_namespace_are_ignored() {
    let sb = Sandbox::new();
    let out = sb.sh("cat /proc/self/uid_map", |c| {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
    });
    assert!(out.ok().stdout.contains("4294967295"));
}
