//! config-linux.md, netDevices. The test's network namespace is its own; the
//! devices in it are veth pairs made with the `ip` program.

use super::{Case, Ctx, Level, Row, rows, skip};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::process::Command;

const CLAUSE: &str = "config-linux.md#network-devices";

const TABLE: &[Row] = &[
    (
        "netdevices.moved",
        CLAUSE,
        Level::Must,
        "a device is moved into the container's namespace and set up",
        moved,
    ),
    (
        "netdevices.renamed",
        CLAUSE,
        Level::Must,
        "name is the device's name inside",
        renamed,
    ),
    (
        "netdevices.addresses",
        CLAUSE,
        Level::Must,
        "permanent addresses of global scope are kept",
        addresses,
    ),
    (
        "netdevices.template",
        CLAUSE,
        Level::Must,
        "a name that ends in %d is completed by the kernel",
        template,
    ),
    (
        "netdevices.collision",
        CLAUSE,
        Level::Must,
        "a name that is taken inside is an error",
        collision,
    ),
    (
        "netdevices.missing",
        CLAUSE,
        Level::Must,
        "a device that does not exist is an error",
        missing,
    ),
    (
        "netdevices.failure-leaves-device",
        "runtime.md#errors",
        Level::Must,
        "a create that fails leaves the device where it was",
        failure_leaves,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn ip(arguments: &[&str]) -> Result<String> {
    let output = match Command::new("ip").args(arguments).output() {
        Ok(output) => output,
        Err(_) => return skip("the program `ip` (iproute2) is not on PATH"),
    };
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn veth(name: &str) -> Result<()> {
    match ip(&[
        "link",
        "add",
        name,
        "type",
        "veth",
        "peer",
        "name",
        &format!("{name}p"),
    ]) {
        Err(e) if e.to_string().contains("not supported") => skip("the kernel has no veth devices"),
        other => other.map(drop),
    }
}

fn exists(name: &str) -> bool {
    ip(&["link", "show", name]).is_ok()
}

/// Interfaces that the container sees.
fn inside(ctx: &Ctx, devices: serde_json::Value) -> Result<Vec<String>> {
    let mut b = ctx.bundle()?;
    b.set("/linux/netDevices", devices)
        .probe(&["ls:/sys/class/net"]);
    let names = ctx.run(&b)?.value(0)?;
    serde_json::from_value(names).context("no list of interfaces")
}

fn has(list: &[String], name: &str) -> bool {
    list.iter().any(|n| n == name)
}

fn moved(ctx: &Ctx, _: &str) -> Result<()> {
    veth("own0")?;
    let mut b = ctx.bundle()?;
    b.set("/linux/netDevices", json!({ "own0": {} }))
        .probe(&["ls:/sys/class/net", "read:/sys/class/net/own0/flags"]);
    let end = ctx.run(&b)?;
    ctx.ok(
        end.value(0)?
            .as_array()
            .is_some_and(|l| l.iter().any(|n| n == "own0")),
        "own0 is inside",
    );
    let flags = end.value(1)?;
    let flags = u32::from_str_radix(
        flags.as_str().unwrap_or("").trim().trim_start_matches("0x"),
        16,
    )
    .unwrap_or(0);
    ctx.eq(flags & 1, 1, "own0 is up");
    Ok(())
}

fn renamed(ctx: &Ctx, _: &str) -> Result<()> {
    veth("own0")?;
    let list = inside(ctx, json!({ "own0": { "name": "eth7" } }))?;
    ctx.ok(has(&list, "eth7"), "it is eth7 inside");
    ctx.ok(!has(&list, "own0"), "there is no own0 inside");
    Ok(())
}

fn addresses(ctx: &Ctx, _: &str) -> Result<()> {
    veth("own0")?;
    ip(&["addr", "add", "192.0.2.7/24", "dev", "own0"])?;
    let v6 = ip(&["addr", "add", "2001:db8::7/64", "dev", "own0", "nodad"]).is_ok();
    let mut b = ctx.bundle()?;
    b.set("/linux/netDevices", json!({ "own0": {} }))
        .probe(&["read:/proc/net/fib_trie", "read:/proc/net/if_inet6"]);
    let end = ctx.run(&b)?;
    ctx.ok(
        end.value(0)?
            .as_str()
            .is_some_and(|t| t.contains("192.0.2.7")),
        "the IPv4 address is inside",
    );
    if v6 {
        let text = end
            .value(1)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default();
        ctx.ok(
            text.contains("20010db8000000000000000000000007"),
            "the IPv6 address is inside",
        );
    } else {
        ctx.skipped("the IPv6 address is inside", "the host has no IPv6");
    }
    Ok(())
}

fn template(ctx: &Ctx, _: &str) -> Result<()> {
    veth("own0")?;
    let list = inside(ctx, json!({ "own0": { "name": "web%d" } }))?;
    // A container of its own network namespace may have fall-back devices too.
    ctx.ok(list.len() > 1, "the move is allowed");
    ctx.ok(has(&list, "web0"), "it is web0 inside");
    Ok(())
}

fn collision(ctx: &Ctx, _: &str) -> Result<()> {
    veth("own0")?;
    let mut b = ctx.bundle()?;
    b.set("/linux/netDevices", json!({ "own0": { "name": "lo" } }));
    ctx.refused(&b, "the name lo is refused")?;
    ctx.ok(exists("own0"), "own0 is where it was");
    Ok(())
}

fn missing(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/netDevices", json!({ "no-such-dev": {} }));
    ctx.refused(&b, "a device that does not exist is refused")
}

fn failure_leaves(ctx: &Ctx, _: &str) -> Result<()> {
    veth("own0")?;
    let mut b = ctx.bundle()?;
    b.set("/linux/netDevices", json!({ "own0": {} }));
    b.set(
        "/mounts/-",
        json!({ "destination": "/mnt", "type": "no-such-fs", "source": "x" }),
    );
    let id = ctx.id();
    ctx.ok(ctx.create(&b, &id).is_err(), "create fails");
    ctx.ok(exists("own0"), "own0 is where it was");
    Ok(())
}
