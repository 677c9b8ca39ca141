//! Variations of `mounts` and of what is done to paths.

use std::os::unix::fs::symlink;

use knarr_integration::{Value, bundle, json};

use super::Variation;
use crate::place::Place;

/// The variations.
pub const ALL: &[Variation] = &[
    ("bind directory", |c, p| bind(c, p, "/mnt/a", &["bind"])),
    ("bind recursive", |c, p| {
        bind(c, p, "/mnt/a", &["rbind", "rprivate"])
    }),
    ("bind ro", |c, p| bind(c, p, "/mnt/a", &["bind", "ro"])),
    ("bind ro flags", |c, p| {
        bind(
            c,
            p,
            "/mnt/a",
            &["rbind", "ro", "nosuid", "nodev", "noexec"],
        )
    }),
    ("bind rro", |c, p| bind(c, p, "/mnt/a", &["rbind", "rro"])),
    ("bind noatime", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "noatime", "nodiratime"])
    }),
    ("bind strictatime", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "strictatime"])
    }),
    ("bind relatime", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "relatime"])
    }),
    ("bind rnoatime", |c, p| {
        bind(c, p, "/mnt/a", &["rbind", "rnoatime"])
    }),
    ("bind rnosuid", |c, p| {
        bind(c, p, "/mnt/a", &["rbind", "rnosuid", "rnodev", "rnoexec"])
    }),
    ("bind nosymfollow", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "nosymfollow"])
    }),
    ("bind shared", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "shared"])
    }),
    ("bind slave", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "rslave"])
    }),
    ("bind private", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "private"])
    }),
    ("bind unbindable", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "unbindable"])
    }),
    ("bind to a new place", |c, p| {
        bind(c, p, "/made/on/the/way", &["bind"])
    }),
    ("bind relative destination", |c, p| {
        bind(c, p, "mnt/relative", &["bind"])
    }),
    ("bind over bind", |c, p| {
        bind(c, p, "/mnt/a", &["bind"]);
        bind(c, p, "/mnt/a", &["bind", "ro"]);
    }),
    ("bind below a link", |c, p| {
        let _ = symlink("/mnt", p.path("rootfs/link"));
        bind(c, p, "/link/a", &["bind"]);
    }),
    ("bind file", |c, p| {
        let source = p.file("a-file");
        mount(c, "/etc/a-file", "bind", source, &["bind", "ro"]);
    }),
    ("bind relative source", |c, p| {
        p.file("named");
        mount(c, "/etc/named", "bind", json!("named"), &["bind"]);
    }),
    ("bind device", |c, _| {
        mount(c, "/dev/given", "bind", json!("/dev/zero"), &["bind"])
    }),
    ("bind type none", |c, p| {
        let source = p.directory("source");
        mount(c, "/mnt/none", "none", source, &["rbind", "rw"]);
    }),
    ("bind without type", |c, p| {
        let source = p.directory("source");
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/mnt/a", "source": source, "options": ["bind"]}),
        );
    }),
    ("bind remount flags of proc", |c, _| {
        mount(c, "/mnt/sys", "bind", json!("/proc/sys"), &["bind", "ro"]);
    }),
    ("tmpfs", |c, _| {
        mount(
            c,
            "/mnt/t",
            "tmpfs",
            json!("tmpfs"),
            &["size=1m", "mode=700", "nosuid"],
        )
    }),
    ("tmpfs plain", |c, _| {
        mount(c, "/mnt/t", "tmpfs", json!("tmpfs"), &[])
    }),
    ("tmpfs ro", |c, _| {
        mount(c, "/mnt/t", "tmpfs", json!("tmpfs"), &["ro", "size=64k"])
    }),
    ("tmpfs uid", |c, _| {
        mount(
            c,
            "/mnt/t",
            "tmpfs",
            json!("x"),
            &["uid=1000", "gid=2000", "mode=0750"],
        )
    }),
    ("tmpfs over a mode", |c, p| {
        use std::os::unix::fs::PermissionsExt;
        p.inside("kept");
        let mode = std::fs::Permissions::from_mode(0o1770);
        std::fs::set_permissions(p.path("rootfs/kept"), mode).unwrap();
        mount(c, "/kept", "tmpfs", json!("tmpfs"), &[]);
    }),
    ("tmpfs copied up", |c, p| {
        p.inside("full/sub");
        std::fs::write(p.path("rootfs/full/file"), "x").unwrap();
        mount(c, "/full", "tmpfs", json!("tmpfs"), &["tmpcopyup"]);
    }),
    ("tmpfs lazytime", |c, _| {
        mount(c, "/mnt/t", "tmpfs", json!("tmpfs"), &["lazytime"])
    }),
    ("tmpfs silent", |c, _| {
        mount(c, "/mnt/t", "tmpfs", json!("tmpfs"), &["silent"])
    }),
    ("tmpfs sync", |c, _| {
        mount(
            c,
            "/mnt/t",
            "tmpfs",
            json!("tmpfs"),
            &["sync", "dirsync", "mand"],
        )
    }),
    ("tmpfs twice", |c, _| {
        mount(c, "/mnt/t", "tmpfs", json!("tmpfs"), &["size=1m"]);
        mount(c, "/mnt/t", "tmpfs", json!("tmpfs"), &["size=2m"]);
    }),
    ("proc options", |c, _| {
        options(c, "/proc", &["nosuid", "noexec", "nodev"])
    }),
    ("proc hidden", |c, _| options(c, "/proc", &["hidepid=2"])),
    ("proc readonly", |c, _| options(c, "/proc", &["ro"])),
    ("sys writable", |c, _| {
        options(c, "/sys", &["nosuid", "noexec", "nodev", "rw"])
    }),
    ("dev readonly", |c, _| {
        options(c, "/dev", &["nosuid", "mode=755", "ro"])
    }),
    ("dev without options", |c, _| options(c, "/dev", &[])),
    ("dev bound", |c, _| {
        drop_mount(c, "/dev/pts");
        drop_mount(c, "/dev/shm");
        drop_mount(c, "/dev/mqueue");
        drop_mount(c, "/dev");
        mount(c, "/dev", "bind", json!("/dev"), &["rbind"]);
    }),
    ("dev not mounted", |c, _| {
        drop_mount(c, "/dev/pts");
        drop_mount(c, "/dev/shm");
        drop_mount(c, "/dev/mqueue");
        drop_mount(c, "/dev");
    }),
    ("mounts none", |c, _| c["mounts"] = json!([])),
    ("cgroup", |c, _| {
        mount(
            c,
            "/sys/fs/cgroup",
            "cgroup",
            json!("cgroup"),
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        );
    }),
    ("cgroup writable", |c, _| {
        mount(
            c,
            "/sys/fs/cgroup",
            "cgroup",
            json!("cgroup"),
            &["nosuid", "noexec", "nodev", "relatime"],
        );
    }),
    ("cgroup elsewhere", |c, _| {
        mount(c, "/mnt/cgroup", "cgroup", json!("cgroup"), &["ro"])
    }),
    ("cgroup of the host", |c, _| {
        bundle::drop_namespace(c, "cgroup");
        mount(
            c,
            "/sys/fs/cgroup",
            "cgroup",
            json!("cgroup"),
            &["nosuid", "noexec", "nodev", "ro"],
        );
    }),
    ("masked directory and file", |c, p| {
        p.inside("secret/inner");
        std::fs::write(p.path("rootfs/etc/secret"), "x").unwrap();
        c["linux"]["maskedPaths"] = json!(["/secret", "/etc/secret", "/not/there"]);
    }),
    ("readonly directory and file", |c, p| {
        p.inside("kept/inner");
        std::fs::write(p.path("rootfs/etc/kept"), "x").unwrap();
        c["linux"]["readonlyPaths"] = json!(["/kept", "/etc/kept", "/not/there"]);
    }),
    ("readonly below a mount", |c, p| {
        bind(c, p, "/mnt/a", &["bind", "nosuid", "noexec"]);
        c["linux"]["readonlyPaths"] = json!(["/mnt/a"]);
    }),
    ("masked none", |c, _| {
        c["linux"]["maskedPaths"] = json!([]);
        c["linux"]["readonlyPaths"] = json!([]);
    }),
    ("propagation shared", |c, _| {
        c["linux"]["rootfsPropagation"] = json!("shared")
    }),
    ("propagation slave", |c, _| {
        c["linux"]["rootfsPropagation"] = json!("slave")
    }),
    ("propagation rslave", |c, _| {
        c["linux"]["rootfsPropagation"] = json!("rslave")
    }),
    ("propagation private", |c, _| {
        c["linux"]["rootfsPropagation"] = json!("private")
    }),
    ("propagation unbindable", |c, _| {
        c["linux"]["rootfsPropagation"] = json!("unbindable")
    }),
    ("idmap", |c, p| {
        let source = p.directory("source");
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        bundle::push(
            c,
            "/mounts",
            json!({"destination": "/mnt/a", "type": "bind", "source": source,
            "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map}),
        );
    }),
    ("devpts gid", |c, _| {
        options(
            c,
            "/dev/pts",
            &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )
    }),
    ("devpts of the host", |c, _| {
        options(c, "/dev/pts", &["nosuid", "noexec"])
    }),
];

fn mount(config: &mut Value, destination: &str, kind: &str, source: Value, options: &[&str]) {
    bundle::push(
        config,
        "/mounts",
        json!({"destination": destination, "type": kind, "source": source, "options": options}),
    );
}

fn bind(config: &mut Value, place: &Place, destination: &str, options: &[&str]) {
    let source = place.directory("source");
    place.file("source/content");
    mount(config, destination, "bind", source, options);
}

fn options(config: &mut Value, destination: &str, options: &[&str]) {
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == destination {
            mount["options"] = json!(options);
        }
    }
}

fn drop_mount(config: &mut Value, destination: &str) {
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != destination);
}
