//! config-linux.md, intelRdt. Where the host has no resctrl file system only
//! the refusals can be seen.

use super::{Case, Ctx, Level, Row, rows, skip};
use anyhow::Result;
use serde_json::json;
use std::fs;
use std::path::Path;

const CLAUSE: &str = "config-linux.md#intelrdt";
const ROOT: &str = "/sys/fs/resctrl";

const TABLE: &[Row] = &[
    (
        "rdt.no-resctrl",
        CLAUSE,
        Level::Must,
        "intelRdt is an error where resctrl is not mounted",
        no_resctrl,
    ),
    (
        "rdt.clos-id-path",
        CLAUSE,
        Level::Must,
        "a closID that is a path is an error",
        clos_id_path,
    ),
    (
        "rdt.own-group",
        CLAUSE,
        Level::Must,
        "without closID a group named by the container is made and removed",
        own_group,
    ),
    (
        "rdt.existing-group",
        CLAUSE,
        Level::Must,
        "an existing closID gets the container's process and is kept",
        existing_group,
    ),
    (
        "rdt.missing-group",
        CLAUSE,
        Level::Must,
        "a closID without schema whose group is missing is an error",
        missing_group,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn mounted() -> bool {
    Path::new(ROOT).join("schemata").exists()
}

fn need() -> Result<()> {
    if mounted() {
        Ok(())
    } else {
        skip("no resctrl file system is mounted")
    }
}

fn no_resctrl(ctx: &Ctx, _: &str) -> Result<()> {
    if mounted() {
        return skip("a resctrl file system is mounted");
    }
    let mut b = ctx.bundle()?;
    b.set("/linux/intelRdt", json!({ "closID": "conformance" }));
    ctx.refused(&b, "closID is refused")?;
    b.set("/linux/intelRdt", json!({ "l3CacheSchema": "L3:0=f" }));
    ctx.refused(&b, "l3CacheSchema is refused")?;
    b.set("/linux/intelRdt", json!({ "schemata": ["L3:0=f"] }));
    ctx.refused(&b, "schemata is refused")?;
    b.set("/linux/intelRdt", json!({ "enableMonitoring": true }));
    ctx.refused(&b, "enableMonitoring is refused")
}

fn clos_id_path(ctx: &Ctx, _: &str) -> Result<()> {
    for id in ["..", ".", "a/b"] {
        let mut b = ctx.bundle()?;
        b.set("/linux/intelRdt", json!({ "closID": id }));
        ctx.refused(&b, &format!("closID {id:?} is refused"))?;
    }
    Ok(())
}

fn own_group(ctx: &Ctx, _: &str) -> Result<()> {
    need()?;
    let schema = fs::read_to_string(Path::new(ROOT).join("schemata"))?;
    let Some(l3) = schema.lines().map(str::trim).find(|l| l.starts_with("L3:")) else {
        return skip("no L3 allocation");
    };
    let mut b = ctx.bundle()?;
    b.set("/linux/intelRdt", json!({ "l3CacheSchema": l3 }))
        .probe(&["exit:0"]);
    ctx.create(&b, "conformance-rdt")?;
    let group = Path::new(ROOT).join("conformance-rdt");
    let pid = ctx.pid("conformance-rdt")?;
    let tasks = fs::read_to_string(group.join("tasks")).unwrap_or_default();
    ctx.ok(
        tasks.lines().any(|l| l == pid.to_string()),
        "the process is in the group",
    );
    ctx.start("conformance-rdt")?;
    ctx.finish(&b, "conformance-rdt", pid)?;
    ctx.ok(!group.exists(), "delete removes the group");
    Ok(())
}

fn existing_group(ctx: &Ctx, _: &str) -> Result<()> {
    need()?;
    let group = Path::new(ROOT).join("conformance-made");
    fs::create_dir_all(&group)?;
    let mut b = ctx.bundle()?;
    b.set("/linux/intelRdt", json!({ "closID": "conformance-made" }))
        .probe(&["exit:0"]);
    let end = ctx.run(&b);
    let kept = group.exists();
    let _ = fs::remove_dir(&group);
    ctx.eq(end?.code, Some(0), "the container runs");
    ctx.ok(kept, "delete keeps the group");
    Ok(())
}

fn missing_group(ctx: &Ctx, _: &str) -> Result<()> {
    need()?;
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/intelRdt",
        json!({ "closID": "conformance-missing" }),
    );
    ctx.refused(&b, "a group that does not exist is refused")
}
