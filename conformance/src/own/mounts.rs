//! config.md, mounts: order, destinations, binds, id maps, propagation.
//! The option strings are in `options.rs`.

use super::namespaces::with_user;
use super::{Bundle, Case, Ctx, Level, Row, rows, skip};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;

const CLAUSE: &str = "config.md#mounts";

const TABLE: &[Row] = &[
    (
        "mounts.order",
        CLAUSE,
        Level::Must,
        "mounts are made in the listed order",
        order,
    ),
    (
        "mounts.relative-destination",
        CLAUSE,
        Level::Should,
        "a relative destination is taken as relative to /",
        relative,
    ),
    (
        "mounts.missing-destination",
        CLAUSE,
        Level::Practice,
        "a missing mount point is made",
        missing,
    ),
    (
        "mounts.bind-type-is-dummy",
        CLAUSE,
        Level::Must,
        "a bind mount is told by its options, whatever type says",
        bind_dummy,
    ),
    (
        "mounts.bind-file",
        CLAUSE,
        Level::Must,
        "a file can be bound",
        bind_file,
    ),
    (
        "mounts.bind-relative-source",
        CLAUSE,
        Level::Must,
        "a relative bind source is relative to the bundle",
        relative_source,
    ),
    (
        "mounts.bind-ro",
        CLAUSE,
        Level::Must,
        "a bind mount with ro is read-only and its source is not",
        bind_ro,
    ),
    (
        "mounts.bind-missing-source",
        CLAUSE,
        Level::Must,
        "a bind source that does not exist is an error",
        missing_source,
    ),
    (
        "mounts.data-options",
        "config.md#linux-mount-options",
        Level::Should,
        "options that are not in the table go to the file system",
        data_options,
    ),
    (
        "mounts.data-options-invalid",
        "config.md#linux-mount-options",
        Level::Must,
        "an option that the file system refuses is an error",
        data_invalid,
    ),
    (
        "mounts.unknown-type",
        CLAUSE,
        Level::Must,
        "an unknown file system type is an error",
        unknown_type,
    ),
    (
        "mounts.symlink-destination",
        CLAUSE,
        Level::Must,
        "a destination through a symbolic link stays inside the root file system",
        symlink_inside,
    ),
    (
        "mounts.idmap",
        "config.md#posix-platform-mounts",
        Level::Should,
        "uidMappings and gidMappings with idmap change the owners seen inside",
        idmap,
    ),
    (
        "mounts.ridmap",
        "config.md#posix-platform-mounts",
        Level::Should,
        "ridmap maps the mounts below as well, idmap does not",
        ridmap,
    ),
    (
        "mounts.idmap-implied",
        "config.md#posix-platform-mounts",
        Level::Practice,
        "mappings without the option are applied",
        idmap_implied,
    ),
    (
        "mounts.idmap-half",
        "config.md#posix-platform-mounts",
        Level::Must,
        "uidMappings without gidMappings are an error",
        idmap_half,
    ),
    (
        "mounts.idmap-without-mappings",
        "config.md#posix-platform-mounts",
        Level::Must,
        "idmap without any mapping is an error where there is no user namespace",
        idmap_without,
    ),
    (
        "mounts.rootfs-propagation",
        "config-linux.md#rootfs-mount-propagation",
        Level::Must,
        "rootfsPropagation sets the propagation of the root mount",
        propagation,
    ),
    (
        "mounts.cgroup",
        "config.md#mounts",
        Level::Practice,
        "a mount of type cgroup shows the container's cgroups",
        cgroup_mount,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

/// One line of mountinfo: options of the mount, of the superblock, propagation.
#[derive(Debug, Default, Clone)]
pub struct MountLine {
    /// Per-mount options.
    pub options: Vec<String>,
    /// Options of the superblock.
    pub superblock: Vec<String>,
    /// `shared:N`, `master:N`, `unbindable`.
    pub propagation: Vec<String>,
    /// File system type.
    pub kind: String,
}

/// The topmost mount at `point` in a mountinfo text.
pub fn line_of(mountinfo: &str, point: &str) -> Option<MountLine> {
    let line = mountinfo
        .lines()
        .rfind(|l| l.split(' ').nth(4) == Some(point))?;
    let (left, right) = line.split_once(" - ")?;
    let list = |text: Option<&str>| {
        text.unwrap_or("")
            .split(',')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let left: Vec<&str> = left.split(' ').collect();
    Some(MountLine {
        options: list(left.get(5).copied()),
        propagation: left.iter().skip(6).map(|s| (*s).to_owned()).collect(),
        kind: right.split(' ').next().unwrap_or("").to_owned(),
        superblock: list(right.split(' ').nth(2)),
    })
}

/// Adds a mount; runs the probe with `operations`.
pub fn add(b: &mut Bundle, destination: &str, kind: &str, source: &str, options: &[&str]) {
    b.set(
        "/mounts/-",
        json!({ "destination": destination, "type": kind, "source": source, "options": options }),
    );
}

/// A directory outside the container with one file.
pub fn source(ctx: &Ctx, name: &str) -> Result<std::path::PathBuf> {
    let dir = ctx.work.join(name);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("file"), "content")?;
    Ok(dir)
}

fn order(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "/mnt", "tmpfs", "one", &[]);
    add(&mut b, "/mnt/below", "tmpfs", "two", &[]);
    add(&mut b, "/mnt/below", "tmpfs", "three", &["ro"]);
    b.probe(&["read:/proc/self/mountinfo"]);
    let text = ctx.run(&b)?.value(0)?;
    let text = text.as_str().unwrap_or("");
    let seen: Vec<&str> = text
        .lines()
        .filter(|l| l.contains(" /mnt"))
        .filter_map(|l| l.split_once(" - tmpfs ")?.1.split(' ').next())
        .collect();
    ctx.eq(
        seen,
        ["one", "two", "three"],
        "the mounts lie on each other as listed",
    );
    Ok(())
}

fn relative(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "mnt", "tmpfs", "t", &[]);
    b.probe(&["read:/proc/self/mountinfo"]);
    let text = ctx.run(&b)?.value(0)?;
    ctx.ok(
        line_of(text.as_str().unwrap_or(""), "/mnt").is_some(),
        "the destination `mnt` is /mnt",
    );
    Ok(())
}

fn missing(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let dir = source(ctx, "src")?;
    add(&mut b, "/a/b/c", "tmpfs", "t", &[]);
    add(
        &mut b,
        "/x/y/file",
        "none",
        &dir.join("file").display().to_string(),
        &["bind"],
    );
    b.probe(&["stat:/a/b/c", "read:/x/y/file"]);
    let end = ctx.run(&b)?;
    ctx.eq(
        end.value(0)?["type"].as_str(),
        Some("d"),
        "a directory for a file system",
    );
    ctx.eq(
        end.value(1)?.as_str(),
        Some("content"),
        "a file for a bound file",
    );
    Ok(())
}

fn bind_dummy(ctx: &Ctx, _: &str) -> Result<()> {
    let dir = source(ctx, "src")?;
    for kind in ["none", "bind", "ext4", "tmpfs"] {
        let mut b = ctx.bundle()?;
        add(&mut b, "/mnt", kind, &dir.display().to_string(), &["bind"]);
        b.probe(&["read:/mnt/file"]);
        ctx.eq(
            ctx.run(&b)?.value(0)?.as_str(),
            Some("content"),
            &format!("type {kind:?} with the option bind"),
        );
    }
    let mut b = ctx.bundle()?;
    b.set(
        "/mounts/-",
        json!({ "destination": "/mnt", "source": dir.display().to_string(), "options": ["rbind"] }),
    );
    b.probe(&["read:/mnt/file"]);
    ctx.eq(
        ctx.run(&b)?.value(0)?.as_str(),
        Some("content"),
        "no type with the option rbind",
    );
    Ok(())
}

fn bind_file(ctx: &Ctx, _: &str) -> Result<()> {
    let dir = source(ctx, "src")?;
    let mut b = ctx.bundle()?;
    fs::write(b.rootfs().join("etc/target"), "covered")?;
    add(
        &mut b,
        "/etc/target",
        "bind",
        &dir.join("file").display().to_string(),
        &["bind"],
    );
    b.probe(&["read:/etc/target"]);
    ctx.eq(
        ctx.run(&b)?.value(0)?.as_str(),
        Some("content"),
        "the bound file is seen",
    );
    Ok(())
}

fn relative_source(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    fs::create_dir(b.dir.join("volume"))?;
    fs::write(b.dir.join("volume/file"), "in the bundle")?;
    add(&mut b, "/mnt", "bind", "volume", &["bind"]);
    b.probe(&["read:/mnt/file"]);
    ctx.eq(
        ctx.run(&b)?.value(0)?.as_str(),
        Some("in the bundle"),
        "the source `volume` is in the bundle",
    );
    Ok(())
}

fn bind_ro(ctx: &Ctx, _: &str) -> Result<()> {
    let dir = source(ctx, "src")?;
    let mut b = ctx.bundle()?;
    add(
        &mut b,
        "/mnt",
        "bind",
        &dir.display().to_string(),
        &["rbind", "ro"],
    );
    b.probe(&["touch:/mnt/new"]);
    ctx.eq(
        ctx.run(&b)?.errno(0)?,
        Some(i64::from(libc::EROFS)),
        "writing inside gives EROFS",
    );
    ctx.ok(
        fs::write(dir.join("outside"), "").is_ok(),
        "writing outside works",
    );
    Ok(())
}

fn missing_source(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "/mnt", "bind", "/no/such/source", &["bind"]);
    ctx.refused(&b, "a source that does not exist is refused")
}

fn data_options(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(
        &mut b,
        "/mnt",
        "tmpfs",
        "t",
        &["nosuid", "size=1m", "mode=0751"],
    );
    b.probe(&["read:/proc/self/mountinfo", "stat:/mnt"]);
    let end = ctx.run(&b)?;
    let text = end.value(0)?;
    let line = line_of(text.as_str().unwrap_or(""), "/mnt").context("no mount at /mnt")?;
    ctx.ok(
        line.superblock.iter().any(|o| o == "size=1024k"),
        "size=1m reaches tmpfs",
    );
    ctx.ok(
        line.options.iter().any(|o| o == "nosuid"),
        "nosuid beside it holds",
    );
    ctx.eq(
        end.value(1)?["mode"].as_u64(),
        Some(0o751),
        "mode=0751 reaches tmpfs",
    );
    Ok(())
}

fn data_invalid(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "/mnt", "tmpfs", "t", &["no-such-option=1"]);
    ctx.refused(&b, "tmpfs with no-such-option is refused")
}

fn unknown_type(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    add(&mut b, "/mnt", "no-such-fs", "t", &[]);
    ctx.refused(&b, "the type no-such-fs is refused")
}

fn symlink_inside(ctx: &Ctx, _: &str) -> Result<()> {
    let outside = ctx.work.join("outside");
    fs::create_dir_all(&outside)?;
    for (name, target) in [
        ("absolute", "/mnt".to_owned()),
        ("climbing", "../../../../../../mnt".to_owned()),
    ] {
        let mut b = ctx.bundle()?;
        std::os::unix::fs::symlink(&target, b.rootfs().join("link"))?;
        add(&mut b, "/link", "tmpfs", "linked", &[]);
        b.probe(&["read:/proc/self/mountinfo"]);
        match ctx.run(&b) {
            Ok(end) => {
                let text = end.value(0)?;
                ctx.ok(
                    line_of(text.as_str().unwrap_or(""), "/mnt").is_some(),
                    &format!("{name} link: mounted on /mnt inside"),
                );
            }
            // Refusing is safe as well.
            Err(e) => ctx.note(
                &format!("{name} link: refused"),
                e.to_string().starts_with("create"),
                &[],
            ),
        }
    }
    let host = fs::read_to_string("/proc/self/mountinfo")?;
    ctx.ok(!host.contains("linked"), "nothing is mounted outside");
    Ok(())
}

/// A source directory whose file belongs to 100000:200000, on a tmpfs of its own
/// where id-mapped mounts work if the kernel has them.
fn mapped_source(ctx: &Ctx) -> Result<std::path::PathBuf> {
    let dir = source(ctx, "owned")?;
    for path in [dir.clone(), dir.join("file")] {
        std::os::unix::fs::chown(path, Some(100_000), Some(200_000))?;
    }
    Ok(dir)
}

fn mappings() -> (Value, Value) {
    (
        json!([{ "containerID": 100_000, "hostID": 0, "size": 65536 }]),
        json!([{ "containerID": 200_000, "hostID": 0, "size": 65536 }]),
    )
}

fn idmap_with(ctx: &Ctx, options: &[&str], operations: &[&str]) -> Result<super::Ended> {
    let dir = mapped_source(ctx)?;
    let below = dir.join("below");
    fs::create_dir_all(&below)?;
    nix::mount::mount(
        Some("t"),
        &below,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )?;
    fs::write(below.join("file"), "")?;
    std::os::unix::fs::chown(below.join("file"), Some(100_000), Some(200_000))?;
    let mut b = ctx.bundle()?;
    let (uids, gids) = mappings();
    b.set("/mounts/-", json!({
        "destination": "/mnt", "type": "none", "source": dir.display().to_string(), "options": options,
        "uidMappings": uids, "gidMappings": gids,
    }));
    b.probe(operations);
    let end = ctx.run(&b);
    let _ = nix::mount::umount2(&below, nix::mount::MntFlags::MNT_DETACH);
    end
}

fn idmap(ctx: &Ctx, _: &str) -> Result<()> {
    let end = idmap_with(ctx, &["bind", "idmap"], &["stat:/mnt/file"])?;
    ctx.eq(
        end.value(0)?["uid"].as_u64(),
        Some(0),
        "uid 100000 of the source is 0 inside",
    );
    ctx.eq(
        end.value(0)?["gid"].as_u64(),
        Some(0),
        "gid 200000 of the source is 0 inside",
    );
    Ok(())
}

fn ridmap(ctx: &Ctx, _: &str) -> Result<()> {
    let end = idmap_with(
        ctx,
        &["rbind", "ridmap"],
        &["stat:/mnt/file", "stat:/mnt/below/file"],
    )?;
    ctx.eq(
        end.value(0)?["uid"].as_u64(),
        Some(0),
        "ridmap: the mount itself is mapped",
    );
    ctx.eq(
        end.value(1)?["uid"].as_u64(),
        Some(0),
        "ridmap: the mount below is mapped",
    );
    let end = idmap_with(
        ctx,
        &["rbind", "idmap"],
        &["stat:/mnt/file", "stat:/mnt/below/file"],
    )?;
    ctx.eq(
        end.value(0)?["uid"].as_u64(),
        Some(0),
        "idmap: the mount itself is mapped",
    );
    ctx.eq(
        end.value(1)?["uid"].as_u64(),
        Some(100_000),
        "idmap: the mount below is not",
    );
    Ok(())
}

fn idmap_implied(ctx: &Ctx, _: &str) -> Result<()> {
    let end = idmap_with(ctx, &["bind"], &["stat:/mnt/file"])?;
    ctx.eq(
        end.value(0)?["uid"].as_u64(),
        Some(0),
        "uid 100000 of the source is 0 inside",
    );
    Ok(())
}

fn idmap_half(ctx: &Ctx, _: &str) -> Result<()> {
    let dir = mapped_source(ctx)?;
    let mut b = ctx.bundle()?;
    b.set("/mounts/-", json!({
        "destination": "/mnt", "type": "none", "source": dir.display().to_string(), "options": ["bind", "idmap"],
        "uidMappings": mappings().0,
    }));
    ctx.refused(&b, "uidMappings alone are refused")
}

fn idmap_without(ctx: &Ctx, _: &str) -> Result<()> {
    let dir = mapped_source(ctx)?;
    let mut b = ctx.bundle()?;
    add(
        &mut b,
        "/mnt",
        "none",
        &dir.display().to_string(),
        &["bind", "idmap"],
    );
    ctx.refused(
        &b,
        "idmap without mappings and without a user namespace is refused",
    )?;
    let mut b = ctx.bundle()?;
    with_user(&mut b);
    add(
        &mut b,
        "/mnt",
        "none",
        &dir.display().to_string(),
        &["bind", "idmap"],
    );
    b.probe(&["stat:/mnt/file"]);
    // MAY use the container's mapping, otherwise an error.
    match ctx.run(&b) {
        Ok(end) => ctx.ok(
            end.value(0)?["uid"].as_u64() != Some(0) || end.value(0)?["gid"].as_u64() != Some(1),
            "with a user namespace its mapping is used",
        ),
        Err(_) => ctx.ok(true, "with a user namespace it is refused as well"),
    }
    Ok(())
}

fn propagation(ctx: &Ctx, _: &str) -> Result<()> {
    for (value, expected) in [
        ("private", None),
        ("slave", None),
        ("shared", Some("shared:")),
        ("unbindable", Some("unbindable")),
    ] {
        let mut b = ctx.bundle()?;
        b.set("/linux/rootfsPropagation", json!(value))
            .probe(&["read:/proc/self/mountinfo"]);
        let end = match ctx.run(&b) {
            Ok(end) => end,
            Err(e) => {
                ctx.note(
                    &format!("{value} is set"),
                    false,
                    &[("error", &format!("{e:#}"))],
                );
                continue;
            }
        };
        let text = end.value(0)?;
        let line = line_of(text.as_str().unwrap_or(""), "/").context("no root mount")?;
        let holds = match expected {
            Some(word) => line.propagation.iter().any(|p| p.starts_with(word)),
            None => !line
                .propagation
                .iter()
                .any(|p| p.starts_with("shared:") || p == "unbindable"),
        };
        ctx.note(
            &format!("{value} is set"),
            holds,
            &[("propagation", &line.propagation.join(" "))],
        );
    }
    Ok(())
}

fn cgroup_mount(ctx: &Ctx, _: &str) -> Result<()> {
    if super::cgroups::mode() == "none" {
        return skip("no cgroup hierarchy is mounted");
    }
    let mut b = ctx.bundle()?;
    b.set("/linux/namespaces/-", json!({ "type": "cgroup" }));
    add(
        &mut b,
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    );
    b.probe(&["ls:/sys/fs/cgroup"]);
    let end = ctx.run(&b)?;
    ctx.ok(
        end.value(0)?.as_array().is_some_and(|l| !l.is_empty()),
        "something is mounted there",
    );
    Ok(())
}
