//! root, default file systems, devices, links, masked and read-only paths.

use super::{Case, Ctx, Level, Row, rows};
use anyhow::Result;
use serde_json::json;
use std::fs;

const DEVICES: &str = "config-linux.md#devices";
const DEFAULT: &str = "config-linux.md#default-devices";

const TABLE: &[Row] = &[
    (
        "rootfs.readonly",
        "config.md#root",
        Level::Must,
        "root.readonly makes the root read-only inside, not outside",
        readonly,
    ),
    (
        "rootfs.readonly-false",
        "config.md#root",
        Level::Must,
        "without it the root can be written to",
        writable,
    ),
    (
        "rootfs.path-relative",
        "config.md#root",
        Level::Must,
        "root.path is relative to the bundle, or absolute",
        path,
    ),
    (
        "rootfs.path-missing",
        "config.md#root",
        Level::Must,
        "a root.path that does not exist is an error",
        path_missing,
    ),
    (
        "rootfs.no-escape",
        "config.md#root",
        Level::Must,
        "the host's root directory is out of reach",
        no_escape,
    ),
    (
        "rootfs.default-filesystems",
        "config-linux.md#default-filesystems",
        Level::Should,
        "/proc, /sys, /dev/pts and /dev/shm are what they should be",
        default_filesystems,
    ),
    (
        "rootfs.default-devices",
        DEFAULT,
        Level::Must,
        "the default devices are supplied and can be used",
        default_devices,
    ),
    (
        "rootfs.default-devices-despite-rules",
        DEFAULT,
        Level::Must,
        "the default devices can be used whatever the device rules say",
        default_despite_rules,
    ),
    (
        "rootfs.ptmx",
        DEFAULT,
        Level::Must,
        "/dev/ptmx is a bind mount or symbolic link to /dev/pts/ptmx",
        ptmx,
    ),
    (
        "rootfs.dev-symlinks",
        "runtime-linux.md#dev-symbolic-links",
        Level::Must,
        "/dev/fd, stdin, stdout and stderr are symbolic links",
        dev_symlinks,
    ),
    (
        "rootfs.devices",
        DEVICES,
        Level::Must,
        "character, block and FIFO devices are made as listed",
        devices,
    ),
    (
        "rootfs.devices-unbuffered",
        DEVICES,
        Level::Must,
        "the type u is a character device",
        devices_unbuffered,
    ),
    (
        "rootfs.devices-outside-dev",
        DEVICES,
        Level::Must,
        "a device may be outside /dev",
        devices_outside,
    ),
    (
        "rootfs.devices-mismatch",
        DEVICES,
        Level::Must,
        "a file in place of a device that does not match is an error",
        devices_mismatch,
    ),
    (
        "rootfs.devices-match",
        DEVICES,
        Level::Must,
        "a device that is there and matches is no error",
        devices_match,
    ),
    (
        "rootfs.devices-unknown-type",
        DEVICES,
        Level::Must,
        "an unknown device type is an error",
        devices_unknown,
    ),
    (
        "rootfs.devices-user-namespace",
        DEVICES,
        Level::Must,
        "uid and gid of a device are ids of the container's namespace",
        devices_user,
    ),
    (
        "rootfs.masked-paths",
        "config-linux.md#masked-paths",
        Level::Must,
        "masked files and directories cannot be read",
        masked,
    ),
    (
        "rootfs.masked-missing",
        "config-linux.md#masked-paths",
        Level::Practice,
        "a masked path that does not exist is skipped",
        masked_missing,
    ),
    (
        "rootfs.masked-relative",
        "config-linux.md#masked-paths",
        Level::Must,
        "a relative masked path is an error",
        masked_relative,
    ),
    (
        "rootfs.readonly-paths",
        "config-linux.md#readonly-paths",
        Level::Must,
        "read-only paths cannot be written to",
        readonly_paths,
    ),
    (
        "rootfs.readonly-missing",
        "config-linux.md#readonly-paths",
        Level::Practice,
        "a read-only path that does not exist is skipped",
        readonly_missing,
    ),
    (
        "rootfs.readonly-relative",
        "config-linux.md#readonly-paths",
        Level::Must,
        "a relative read-only path is an error",
        readonly_relative,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn readonly(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/root/readonly", json!(true))
        .probe(&["touch:/new", "touch:/dev/shm/new"]);
    let end = ctx.run(&b)?;
    ctx.eq(
        end.errno(0)?,
        Some(i64::from(libc::EROFS)),
        "writing to the root gives EROFS",
    );
    ctx.eq(end.errno(1)?, None, "mounts on it can be written to");
    ctx.ok(
        fs::write(b.rootfs().join("outside"), "").is_ok(),
        "writing outside works",
    );
    Ok(())
}

fn writable(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["touch:/new"]);
    ctx.eq(ctx.run(&b)?.errno(0)?, None, "writing to the root works");
    ctx.ok(b.rootfs().join("new").exists(), "and is seen in the bundle");
    Ok(())
}

fn path(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["exit:5"]);
    ctx.eq(ctx.run(&b)?.code, Some(5), "relative");
    b.set("/root/path", json!(b.rootfs().display().to_string()));
    ctx.eq(ctx.run(&b)?.code, Some(5), "absolute");
    Ok(())
}

fn path_missing(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/root/path", json!("nowhere"));
    ctx.refused(&b, "root.path `nowhere` is refused")
}

fn no_escape(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["ls:/../../../..", "stat:/", "stat:/.."]);
    let end = ctx.run(&b)?;
    ctx.ok(
        end.value(0)?
            .as_array()
            .is_some_and(|l| l.iter().any(|n| n == "probe")),
        "/../.. is the container's root",
    );
    ctx.eq(
        &end.value(1)?["ino"],
        &end.value(2)?["ino"],
        "the parent of the root is the root",
    );
    Ok(())
}

fn default_filesystems(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["read:/proc/self/mountinfo"]);
    let text = ctx.run(&b)?.value(0)?;
    for (point, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
    ] {
        let line = super::mounts::line_of(text.as_str().unwrap_or(""), point).unwrap_or_default();
        ctx.eq(line.kind.as_str(), kind, point);
    }
    Ok(())
}

const NODES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

fn default_devices(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let stats: Vec<String> = NODES
        .iter()
        .map(|(n, ..)| format!("stat:/dev/{n}"))
        .collect();
    let opens = ["null", "zero", "full", "random", "urandom"].map(|n| format!("open:/dev/{n}"));
    let operations: Vec<&str> = stats.iter().chain(&opens).map(String::as_str).collect();
    b.probe(&operations);
    let end = ctx.run(&b)?;
    for (i, (name, major, minor)) in NODES.iter().enumerate() {
        let s = end.value(i)?;
        ctx.eq(
            &json!([s["type"], s["major"], s["minor"]]),
            &json!(["c", major, minor]),
            &format!("/dev/{name}"),
        );
    }
    for (i, open) in opens.iter().enumerate() {
        ctx.eq(end.errno(NODES.len() + i)?, None, open);
    }
    Ok(())
}

fn default_despite_rules(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/resources/devices",
        json!([{ "allow": false, "access": "rwm" }]),
    );
    b.set("/linux/cgroupsPath", json!("/conformance-rules"));
    b.probe(&[
        "open:/dev/null",
        "open:/dev/zero",
        "open:/dev/urandom",
        "open:/dev/full",
    ]);
    let end = ctx.run(&b)?;
    for (i, name) in ["null", "zero", "urandom", "full"].iter().enumerate() {
        ctx.eq(
            end.errno(i)?,
            None,
            &format!("/dev/{name} opens after `deny all`"),
        );
    }
    Ok(())
}

fn ptmx(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["follow:/dev/ptmx", "follow:/dev/pts/ptmx"]);
    let end = ctx.run(&b)?;
    ctx.eq(
        &end.value(0)?["dev"],
        &end.value(1)?["dev"],
        "both are on the same file system",
    );
    ctx.eq(
        &end.value(0)?["ino"],
        &end.value(1)?["ino"],
        "both are the same file",
    );
    Ok(())
}

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

fn dev_symlinks(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&[
        "readlink:/dev/fd",
        "readlink:/dev/stdin",
        "readlink:/dev/stdout",
        "readlink:/dev/stderr",
    ]);
    let end = ctx.run(&b)?;
    for (i, (name, target)) in LINKS.iter().enumerate() {
        ctx.eq(
            end.value(i)?.as_str(),
            Some(*target),
            &format!("/dev/{name}"),
        );
    }
    Ok(())
}

fn devices(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/devices", json!([
        { "path": "/dev/own-c", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 11, "gid": 12 },
        { "path": "/dev/own-b", "type": "b", "major": 7, "minor": 99, "fileMode": 0o600, "uid": 0, "gid": 0 },
        { "path": "/dev/own-p", "type": "p", "fileMode": 0o622, "uid": 0, "gid": 5 },
        { "path": "/dev/sub/dir/own", "type": "c", "major": 1, "minor": 5 },
    ]));
    b.probe(&[
        "stat:/dev/own-c",
        "stat:/dev/own-b",
        "stat:/dev/own-p",
        "stat:/dev/sub/dir/own",
    ]);
    let end = ctx.run(&b)?;
    let all = |s: &serde_json::Value| {
        json!([
            s["type"], s["major"], s["minor"], s["mode"], s["uid"], s["gid"]
        ])
    };
    ctx.eq(
        all(&end.value(0)?),
        json!(["c", 1, 3, 0o640, 11, 12]),
        "a character device",
    );
    ctx.eq(
        all(&end.value(1)?),
        json!(["b", 7, 99, 0o600, 0, 0]),
        "a block device",
    );
    let fifo = end.value(2)?;
    ctx.eq(
        json!([fifo["type"], fifo["mode"], fifo["gid"]]),
        json!(["p", 0o622, 5]),
        "a FIFO without major and minor",
    );
    ctx.eq(
        end.value(3)?["minor"].as_u64(),
        Some(5),
        "a device in a directory that was missing",
    );
    Ok(())
}

fn devices_unbuffered(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/devices",
        json!([{ "path": "/dev/own-u", "type": "u", "major": 1, "minor": 3 }]),
    );
    b.probe(&["stat:/dev/own-u"]);
    ctx.eq(
        ctx.run(&b)?.value(0)?["type"].as_str(),
        Some("c"),
        "u is a character device",
    );
    Ok(())
}

fn devices_outside(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/devices",
        json!([{ "path": "/etc/zero", "type": "c", "major": 1, "minor": 5 }]),
    );
    b.probe(&["stat:/etc/zero"]);
    ctx.eq(
        ctx.run(&b)?.value(0)?["minor"].as_u64(),
        Some(5),
        "/etc/zero is there",
    );
    Ok(())
}

fn devices_mismatch(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    fs::write(b.rootfs().join("etc/device"), "a file")?;
    b.set(
        "/linux/devices",
        json!([{ "path": "/etc/device", "type": "c", "major": 1, "minor": 5 }]),
    );
    ctx.refused(&b, "a regular file in its place is refused")
}

fn devices_match(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let device = rustix::fs::makedev(1, 5);
    let path = b.rootfs().join("etc/device");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::CharacterDevice,
        mode,
        device,
    )?;
    b.set(
        "/linux/devices",
        json!([{ "path": "/etc/device", "type": "c", "major": 1, "minor": 5 }]),
    )
    .probe(&["exit:0"]);
    ctx.eq(ctx.run(&b)?.code, Some(0), "the container runs");
    Ok(())
}

fn devices_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/devices",
        json!([{ "path": "/dev/x", "type": "z", "major": 1, "minor": 5 }]),
    );
    ctx.refused(&b, "the type z is refused")
}

fn devices_user(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    super::namespaces::with_user(&mut b);
    b.set(
        "/linux/devices",
        json!([{ "path": "/dev/own", "type": "c", "major": 1, "minor": 3, "uid": 7, "gid": 8 }]),
    );
    b.probe(&["stat:/dev/own"]);
    let s = ctx.run(&b)?.value(0)?;
    ctx.eq(
        json!([s["uid"], s["gid"]]),
        json!([7, 8]),
        "owner and group inside are 7 and 8",
    );
    Ok(())
}

fn masked(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    fs::create_dir(b.rootfs().join("secret"))?;
    fs::write(b.rootfs().join("secret/key"), "x")?;
    fs::write(b.rootfs().join("etc/key"), "x")?;
    b.set(
        "/linux/maskedPaths",
        json!(["/secret", "/etc/key", "/proc/kcore"]),
    );
    b.probe(&[
        "ls:/secret",
        "read:/etc/key",
        "touch:/secret/new",
        "read:/proc/kcore",
    ]);
    let end = ctx.run(&b)?;
    ctx.eq(
        end.value(0).ok().unwrap_or(json!([])),
        json!([]),
        "a masked directory is empty",
    );
    ctx.eq(
        end.value(1).ok().unwrap_or(json!("")),
        json!(""),
        "a masked file is empty",
    );
    ctx.ok(
        end.errno(2)?.is_some(),
        "a masked directory cannot be written to",
    );
    ctx.eq(
        end.value(3).ok().unwrap_or(json!("")),
        json!(""),
        "a masked file of /proc is empty",
    );
    Ok(())
}

fn masked_missing(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/maskedPaths",
        json!(["/no/such/path", "/proc/no-such"]),
    )
    .probe(&["exit:0"]);
    ctx.eq(ctx.run(&b)?.code, Some(0), "the container runs");
    Ok(())
}

fn masked_relative(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/maskedPaths", json!(["etc"]));
    ctx.refused(&b, "the masked path `etc` is refused")
}

fn readonly_paths(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    fs::write(b.rootfs().join("etc/file"), "x")?;
    b.set(
        "/linux/readonlyPaths",
        json!(["/tmp", "/etc/file", "/proc/sys"]),
    );
    b.probe(&[
        "touch:/tmp/new",
        "write:/etc/file=y",
        "write:/proc/sys/kernel/domainname=x",
        "read:/etc/file",
    ]);
    let end = ctx.run(&b)?;
    for (i, what) in ["a directory", "a file", "a directory of /proc"]
        .iter()
        .enumerate()
    {
        ctx.eq(
            end.errno(i)?,
            Some(i64::from(libc::EROFS)),
            &format!("writing to {what} gives EROFS"),
        );
    }
    ctx.eq(end.value(3)?.as_str(), Some("x"), "it can be read");
    Ok(())
}

fn readonly_missing(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/readonlyPaths", json!(["/no/such/path"]))
        .probe(&["exit:0"]);
    ctx.eq(ctx.run(&b)?.code, Some(0), "the container runs");
    Ok(())
}

fn readonly_relative(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/readonlyPaths", json!(["etc"]));
    ctx.refused(&b, "the read-only path `etc` is refused")
}
