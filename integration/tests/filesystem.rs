//! Mounts, devices, masks and the root file system, as seen from inside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::symlink;

use knarr_integration::bundle::{drop_namespace, push, user_namespace};
use knarr_integration::{Sandbox, Value, json, process, runtime, without};

/// Adds a mount.
fn mount(c: &mut Value, destination: &str, kind: &str, source: &str, options: &[&str]) {
    push(
        c,
        "/mounts",
        json!({"destination": destination, "type": kind, "source": source, "options": options}),
    );
}

/// The options of the mount at `point` in a mountinfo: those of the mount, then those of the file system.
fn options(mountinfo: &str, point: &str) -> Vec<String> {
    let line = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(point))
        .unwrap_or_else(|| panic!("no mount at {point}:\n{mountinfo}"));
    let (left, right) = line.split_once(" - ").unwrap();
    let mut all: Vec<String> = left
        .split(' ')
        .nth(5)
        .unwrap()
        .split(',')
        .map(str::to_owned)
        .collect();
    all.extend(left.split(' ').skip(6).map(str::to_owned));
    all.extend(
        right
            .split(' ')
            .nth(2)
            .unwrap()
            .split(',')
            .map(str::to_owned),
    );
    all
}

#[test]
fn case_31_mounts_are_made_in_order() {
    let sb = Sandbox::new();
    let out = sb
        .sh("cat /mnt/file /mnt/sub/file", |c| {
            let dir = sb.path("src");
            fs::create_dir_all(dir.join("sub")).unwrap();
            fs::write(dir.join("file"), "outer\n").unwrap();
            fs::create_dir(sb.path("inner")).unwrap();
            fs::write(sb.path("inner/file"), "inner\n").unwrap();
            mount(
                c,
                "/mnt",
                "bind",
                sb.path("gone").to_str().unwrap_or(""),
                &["bind"],
            );
            c["mounts"].as_array_mut().unwrap().pop();
            mount(c, "/mnt", "tmpfs", "tmpfs", &[]);
            mount(c, "/mnt", "bind", dir.to_str().unwrap(), &["bind"]);
            mount(
                c,
                "/mnt/sub",
                "bind",
                sb.path("inner").to_str().unwrap(),
                &["bind"],
            );
        })
        .ok();
    assert_eq!(out.stdout, "outer\ninner\n");
}

#[test]
fn case_32_relative_destination_starts_at_the_root() {
    let sb = Sandbox::new();
    let out = sb
        .sh("cat /proc/self/mountinfo", |c| {
            mount(c, "data/deep", "tmpfs", "tmpfs", &[])
        })
        .ok();
    options(&out.stdout, "/data/deep");
}

#[test]
fn case_33_bind_is_decided_by_options() {
    let sb = Sandbox::new();
    fs::write(sb.path("file"), "bound\n").unwrap();
    for kind in ["none", "tmpfs", "no-such-fs", ""] {
        for option in ["bind", "rbind"] {
            let out = sb
                .sh("cat /bound", |c| {
                    mount(
                        c,
                        "/bound",
                        kind,
                        sb.path("file").to_str().unwrap(),
                        &[option],
                    );
                })
                .ok();
            assert_eq!(out.stdout, "bound\n", "{kind} {option}");
        }
    }
    // A relative source starts at the bundle.
    let bundle = sb.sh_bundle("cat /bound", |c| {
        mount(c, "/bound", "bind", "near", &["bind"])
    });
    fs::write(bundle.dir.join("near"), "near\n").unwrap();
    assert_eq!(sb.run(&bundle).ok().stdout, "near\n");
}

#[test]
fn case_34_must_options_are_known() {
    let sb = Sandbox::new();
    for option in [
        "lazytime",
        "nolazytime",
        "iversion",
        "noiversion",
        "silent",
        "loud",
    ] {
        let out = sb
            .sh("cat /proc/self/mountinfo", |c| {
                mount(c, "/mnt", "tmpfs", "tmpfs", &[option])
            })
            .ok();
        if option == "lazytime" {
            assert!(
                options(&out.stdout, "/mnt").contains(&"lazytime".to_owned()),
                "{out:?}"
            );
        }
    }
}

#[test]
fn case_35_unknown_options_are_data_of_the_file_system() {
    let sb = Sandbox::new();
    let out = sb
        .sh("cat /proc/self/mountinfo", |c| {
            mount(
                c,
                "/mnt",
                "tmpfs",
                "tmpfs",
                &["size=64k", "mode=711", "nr_inodes=16"],
            );
        })
        .ok();
    let all = options(&out.stdout, "/mnt");
    for wanted in ["size=64k", "mode=711", "nr_inodes=16"] {
        assert!(all.contains(&wanted.to_owned()), "{wanted}: {all:?}");
    }
    let before = sb.look();
    let bundle = sb.bundle(|c| mount(c, "/mnt", "tmpfs", "tmpfs", &["no-such-option=1"]));
    sb.create("data", &bundle).fails();
    sb.same_as(&before);
}

#[test]
fn mount_flags_take_effect() {
    let sb = Sandbox::new();
    let dir = sb.path("src");
    fs::create_dir(&dir).unwrap();
    for (option, shown) in [
        ("ro", "ro"),
        ("nosuid", "nosuid"),
        ("nodev", "nodev"),
        ("noexec", "noexec"),
        ("noatime", "noatime"),
        ("nodiratime", "nodiratime"),
        ("relatime", "relatime"),
        ("nosymfollow", "nosymfollow"),
        ("sync", "sync"),
    ] {
        let out = sb
            .sh("cat /proc/self/mountinfo", |c| {
                mount(c, "/mnt", "tmpfs", "tmpfs", &[option])
            })
            .ok();
        assert!(
            options(&out.stdout, "/mnt").contains(&shown.to_owned()),
            "tmpfs {option}: {out:?}"
        );
        if option == "sync" {
            continue;
        }
        let out = sb
            .sh("cat /proc/self/mountinfo", |c| {
                mount(c, "/mnt", "bind", dir.to_str().unwrap(), &["rbind", option]);
            })
            .ok();
        assert!(
            options(&out.stdout, "/mnt").contains(&shown.to_owned()),
            "bind {option}: {out:?}"
        );
    }
    for (option, shown) in [
        ("rshared", "shared:"),
        ("rslave", "master:"),
        ("unbindable", "unbindable"),
    ] {
        let out = sb
            .sh("cat /proc/self/mountinfo", |c| {
                mount(c, "/mnt", "tmpfs", "tmpfs", &[option])
            })
            .ok();
        let all = options(&out.stdout, "/mnt");
        assert!(
            option == "rslave" || all.iter().any(|o| o.starts_with(shown)),
            "{option}: {all:?}"
        );
    }
}

#[test]
fn case_36_id_mapped_mounts() {
    let sb = Sandbox::new();
    let dir = sb.path("src");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 1000}]);
    let out = sb.sh("stat -c %u /mnt/file", |c| {
        push(
            c,
            "/mounts",
            json!({"destination": "/mnt", "type": "bind", "source": dir,
            "options": ["rbind", "idmap"], "uidMappings": map, "gidMappings": map}),
        );
    });
    if out.stderr.to_lowercase().contains("invalid argument") {
        knarr_integration::skip!("the file system of {} cannot be id-mapped", dir.display());
    }
    assert_eq!(out.ok().text(), "5000");
    let before = sb.look();
    for entry in [
        json!({"destination": "/mnt", "type": "bind", "source": dir, "options": ["rbind", "idmap"], "uidMappings": map}),
        json!({"destination": "/mnt", "type": "bind", "source": dir, "options": ["rbind", "idmap"], "gidMappings": map}),
        json!({"destination": "/mnt", "type": "bind", "source": dir, "options": ["rbind", "idmap"]}),
    ] {
        let bundle = sb.bundle(|c| push(c, "/mounts", entry.clone()));
        sb.create("idmap", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn case_37_recursive_options_reach_every_mount() {
    let sb = Sandbox::new();
    let dir = sb.path("src");
    fs::create_dir_all(dir.join("sub")).unwrap();
    // Mounts of the host for the test's time, below its own directory.
    let tmpfs = |point: &std::path::Path| {
        rustix::mount::mount(
            "tmpfs",
            point,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
    };
    tmpfs(&dir.join("sub"));
    for (option, shown) in [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ] {
        let out = sb
            .sh("cat /proc/self/mountinfo", |c| {
                mount(c, "/mnt", "bind", dir.to_str().unwrap(), &["rbind", option]);
            })
            .ok();
        for point in ["/mnt", "/mnt/sub"] {
            assert!(
                options(&out.stdout, point).contains(&shown.to_owned()),
                "{option} at {point}: {out:?}"
            );
        }
    }
    let out = sb
        .sh("cat /proc/self/mountinfo", |c| {
            mount(
                c,
                "/mnt",
                "bind",
                dir.to_str().unwrap(),
                &["rbind", "rstrictatime"],
            );
        })
        .ok();
    for point in ["/mnt", "/mnt/sub"] {
        let all = options(&out.stdout, point);
        assert!(
            !all.contains(&"relatime".to_owned()) && !all.contains(&"noatime".to_owned()),
            "{all:?}"
        );
    }
    // Without the r only the top changes.
    let out = sb
        .sh("cat /proc/self/mountinfo", |c| {
            mount(c, "/mnt", "bind", dir.to_str().unwrap(), &["rbind", "ro"]);
        })
        .ok();
    assert!(options(&out.stdout, "/mnt").contains(&"ro".to_owned()));
    assert!(options(&out.stdout, "/mnt/sub").contains(&"rw".to_owned()));
}

#[test]
fn case_38_read_only_bind_keeps_locked_flags_in_a_user_namespace() {
    let sb = Sandbox::new();
    let dir = sb.path("locked");
    fs::create_dir(&dir).unwrap();
    let flags = rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", &dir, "tmpfs", flags, None).unwrap();
    let out = sb
        .sh("cat /proc/self/mountinfo", |c| {
            user_namespace(c);
            mount(c, "/tmp", "bind", dir.to_str().unwrap(), &["bind", "ro"]);
        })
        .ok();
    let all = options(&out.stdout, "/tmp");
    for flag in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(all.contains(&flag.to_owned()), "{flag}: {all:?}");
    }
}

#[test]
fn case_39_rootfs_propagation() {
    let sb = Sandbox::new();
    for (value, shown) in [
        ("shared", "shared:"),
        ("slave", "master:"),
        ("private", ""),
        ("unbindable", "unbindable"),
        ("rslave", "master:"),
    ] {
        let out = sb
            .sh("cat /proc/self/mountinfo", |c| {
                c["linux"]["rootfsPropagation"] = json!(value)
            })
            .ok();
        let all = options(&out.stdout, "/");
        let marks: Vec<_> = all
            .iter()
            .filter(|o| o.contains(':') || *o == "unbindable")
            .collect();
        match value {
            // A slave of nothing shared is private.
            "slave" | "rslave" => {}
            "private" => assert!(marks.is_empty(), "{value}: {all:?}"),
            _ => assert!(
                marks.iter().any(|o| o.starts_with(shown)),
                "{value}: {all:?}"
            ),
        }
    }
    let before = sb.look();
    let bundle = sb.bundle(|c| c["linux"]["rootfsPropagation"] = json!("sideways"));
    sb.create("prop", &bundle).fails();
    sb.same_as(&before);
}

#[test]
fn case_40_masked_and_readonly_paths() {
    let sb = Sandbox::new();
    let out = sb.sh("cat /etc/secret | wc -c; ls /hidden | wc -l; touch /frozen/x; echo 1 >/proc/sys/kernel/shmmni; ls /proc/self >/dev/null && echo proc", |c| {
        c["linux"]["maskedPaths"] = json!(["/etc/secret", "/hidden", "/not/there"]);
        c["linux"]["readonlyPaths"] = json!(["/frozen", "/proc/sys", "/not/there"]);
        mount(c, "/hidden", "tmpfs", "tmpfs", &[]);
        mount(c, "/frozen", "tmpfs", "tmpfs", &[]);
        fs::write(sb.path("secret"), "secret").unwrap();
        mount(c, "/etc/secret", "bind", sb.path("secret").to_str().unwrap(), &["bind"]);
    });
    assert_eq!(out.stdout, "0\n0\nproc\n");
    assert_eq!(
        out.stderr.matches("Read-only file system").count(),
        2,
        "{out:?}"
    );
    let before = sb.look();
    for field in ["maskedPaths", "readonlyPaths"] {
        let bundle = sb.bundle(|c| c["linux"][field] = json!(["proc/relative"]));
        sb.create("mask", &bundle).fails_with(field);
        sb.same_as(&before);
    }
}

#[test]
fn case_41_default_file_systems() {
    let sb = Sandbox::new();
    let out = sb.sh("cat /proc/self/mountinfo", |_| {}).ok();
    for (point, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
    ] {
        let line = out
            .stdout
            .lines()
            .find(|line| line.split(' ').nth(4) == Some(point))
            .unwrap();
        assert!(line.contains(&format!(" - {kind} ")), "{line}");
    }
}

#[test]
fn case_42_devices() {
    let sb = Sandbox::new();
    let out = sb.sh("stat -c '%F %t %T %a %u %g' /dev/chr /dev/blk /dev/fifo /outside", |c| {
        c["linux"]["devices"] = json!([
            {"path": "/dev/chr", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 1, "gid": 2},
            {"path": "/dev/blk", "type": "b", "major": 7, "minor": 200, "fileMode": 384},
            {"path": "/dev/fifo", "type": "p", "fileMode": 420},
            {"path": "/outside", "type": "u", "major": 1, "minor": 3},
        ]);
    }).ok();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!(lines[0], "character special file a e5 666 1 2");
    assert_eq!(lines[1], "block special file 7 c8 600 0 0");
    assert!(lines[2].starts_with("fifo 0 0 644"), "{lines:?}");
    assert!(
        lines[3].starts_with("character special file 1 3"),
        "{lines:?}"
    );
    let before = sb.look();
    for device in [
        json!({"path": "/dev/x", "type": "z", "major": 1, "minor": 3}),
        json!({"path": "/dev/x", "type": "c"}),
        json!({"type": "c", "major": 1, "minor": 3}),
        json!({"path": "dev/x", "type": "c", "major": 1, "minor": 3}),
    ] {
        let bundle = sb.bundle(|c| c["linux"]["devices"] = json!([device]));
        assert_ne!(sb.create("dev", &bundle).code, 0, "{device} was taken");
        sb.same_as(&before);
    }
}

#[test]
fn case_42_existing_node_that_differs_errors() {
    let sb = Sandbox::new();
    let before = sb.look();
    let bundle = sb.bundle(|c| {
        c["linux"]["devices"] = json!([{"path": "/here", "type": "c", "major": 1, "minor": 3}]);
    });
    fs::write(bundle.rootfs().join("here"), "an ordinary file").unwrap();
    sb.create("dev", &bundle).fails_with("/here");
    sb.same_as(&before);
    assert_eq!(
        fs::read_to_string(bundle.rootfs().join("here")).unwrap(),
        "an ordinary file"
    );
}

#[test]
fn case_42_device_owners_are_the_containers_ids() {
    let sb = Sandbox::new();
    let out = sb.sh("stat -c '%u %g' /dev/zeroed", |c| {
        user_namespace(c);
        c["linux"]["devices"] = json!([{"path": "/dev/zeroed", "type": "c", "major": 1, "minor": 5, "uid": 3, "gid": 4}]);
    });
    // Without the newer mount calls there is no way to bring in a node that the host lacks.
    let promised = runtime::name() == "knarr" && std::env::var_os(without::VARIABLE).is_none();
    if out.code != 0 && !promised {
        assert!(
            out.stderr.contains("/dev/zeroed"),
            "a refusal names the device: {out:?}"
        );
        return;
    }
    assert_eq!(out.ok().text(), "3 4");
}

#[test]
fn case_43_default_devices_and_links() {
    let sb = Sandbox::new();
    let out = sb.sh(
        "for d in null zero full random urandom tty; do [ -c /dev/$d ] && stat -c '%n %a' /dev/$d; done; \
         for l in fd stdin stdout stderr ptmx; do echo $l $(readlink /dev/$l); done; \
         echo x >/dev/null && head -c 1 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c",
        |_| {},
    ).ok();
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        assert!(
            out.stdout.contains(&format!("/dev/{device} 666")),
            "{device}: {out:?}"
        );
    }
    for link in [
        "fd /proc/self/fd",
        "stdin /proc/self/fd/0",
        "stdout /proc/self/fd/1",
        "stderr /proc/self/fd/2",
    ] {
        assert!(out.stdout.contains(link), "{link}: {out:?}");
    }
    assert!(
        out.stdout.contains("ptmx pts/ptmx") || out.stdout.contains("ptmx /dev/pts/ptmx"),
        "{out:?}"
    );
    assert!(out.stdout.ends_with("1\n4\n"), "{out:?}");
}

#[test]
fn case_44_read_only_root() {
    let sb = Sandbox::new();
    let out = sb
        .sh("touch /x; touch /dev/shm/y && echo shm", |c| {
            c["root"]["readonly"] = json!(true)
        })
        .ok();
    assert!(
        out.stderr.contains("Read-only file system") && out.text() == "shm",
        "{out:?}"
    );
    let out = sb
        .sh("touch /x && echo written", |c| {
            c["root"]["readonly"] = json!(false)
        })
        .ok();
    assert_eq!(out.text(), "written");
}

#[test]
fn one_static_binary_is_root_file_system_enough() {
    let sb = Sandbox::new();
    for mounts in [true, false] {
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = json!(["/busybox", "echo", "alone"]);
            if !mounts {
                c["mounts"] = json!([]);
                c["linux"].as_object_mut().unwrap().remove("maskedPaths");
                c["linux"].as_object_mut().unwrap().remove("readonlyPaths");
            }
        });
        fs::remove_dir_all(bundle.rootfs()).unwrap();
        fs::create_dir(bundle.rootfs()).unwrap();
        fs::copy(
            knarr_integration::bundle::BUSYBOX,
            bundle.rootfs().join("busybox"),
        )
        .unwrap();
        assert_eq!(sb.run(&bundle).ok().text(), "alone");
    }
}

#[test]
fn the_host_is_out_of_sight() {
    let sb = Sandbox::new();
    let out = sb
        .sh("cat /proc/self/mountinfo; ls -a /; ls /..", |_| {})
        .ok();
    assert!(
        !out.stdout.contains("/.old") && !out.stdout.contains("pivot"),
        "{out:?}"
    );
    let dir = sb.dir().to_str().unwrap();
    let points: Vec<_> = out
        .stdout
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    assert!(
        !points.iter().any(|point| point.starts_with(dir)),
        "{out:?}"
    );
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !before.contains(&format!("{dir}/bundle0/rootfs")),
        "nothing mounted on the host"
    );
}

#[test]
fn symbolic_links_in_the_root_do_not_lead_out() {
    let sb = Sandbox::new();
    let target = sb.path("target");
    fs::create_dir(&target).unwrap();
    let up = format!("{}{}", "../".repeat(20), target.display());
    for (link, destination) in [
        ("evil", "/evil/data"),
        ("evil", "/evil"),
        ("tmp2", "/tmp2/../evil/x"),
    ] {
        for to in [target.to_str().unwrap(), up.as_str()] {
            let bundle = sb.bundle(|c| mount(c, destination, "tmpfs", "tmpfs", &[]));
            symlink(to, bundle.rootfs().join(link)).unwrap();
            let _ = sb.run(&bundle);
            assert_eq!(
                fs::read_dir(&target).unwrap().count(),
                0,
                "{destination} got out"
            );
        }
    }
    for standard in ["proc", "sys", "dev"] {
        let bundle = sb.bundle(|_| {});
        fs::remove_dir(bundle.rootfs().join(standard)).unwrap();
        symlink(&target, bundle.rootfs().join(standard)).unwrap();
        let _ = sb.run(&bundle);
        assert_eq!(
            fs::read_dir(&target).unwrap().count(),
            0,
            "{standard} got out"
        );
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(target.to_str().unwrap()), "{mounts}");
}

#[test]
fn root_file_system_that_is_none() {
    let sb = Sandbox::new();
    let before = sb.look();
    for edit in [
        |c: &mut Value| c["root"]["path"] = json!("absent"),
        |c: &mut Value| c["root"]["path"] = json!("config.json"),
        |c: &mut Value| c["root"]["path"] = json!(""),
        |c: &mut Value| {
            c.as_object_mut().unwrap().remove("root");
        },
    ] {
        let bundle = sb.bundle(edit);
        sb.create("root", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn masks_need_a_mount_namespace() {
    let sb = Sandbox::new();
    let before = sb.look();
    let bundle = sb.bundle(|c| drop_namespace(c, "mount"));
    sb.create("nomnt", &bundle).fails();
    sb.same_as(&before);
}

#[test]
fn no_pivot_works() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle(
        "ls / | grep -c busybox; ls /bin | grep -c '^busybox$'",
        |_| {},
    );
    let out = sb.rt(&["run", "--no-pivot", "--bundle", bundle.arg(), "np"]);
    assert_eq!(out.stdout, "0\n1\n", "{out:?}");
    assert!(process::alive(std::process::id()));
}

#[test]
fn copy_up_fills_a_tmpfs() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle(
        "cat /etc/passwd | wc -l; touch /etc/new && echo written",
        |c| {
            mount(c, "/etc", "tmpfs", "tmpfs", &["tmpcopyup"]);
        },
    );
    assert_eq!(sb.run(&bundle).ok().stdout, "2\nwritten\n");
    assert!(!bundle.rootfs().join("etc/new").exists());
}
