//! config-linux.md, cgroups: resources as cgroup v2 files, with the conversions
//! from v1 values. Skipped on hosts whose controllers are in v1 hierarchies.

use super::resources_v1::{PATH, disk};
use super::{Case, Ctx, Level, Row, cgroups, rows, skip};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;

const UNIFIED: &str = "config-linux.md#unified";
const MEMORY: &str = "config-linux.md#memory";
const CPU: &str = "config-linux.md#cpu";

const TABLE: &[Row] = &[
    (
        "cgroup-v2.memory",
        MEMORY,
        Level::Must,
        "limit is memory.max, reservation memory.low",
        memory,
    ),
    (
        "cgroup-v2.memory-swap",
        MEMORY,
        Level::Must,
        "swap is memory and swap together: memory.swap.max is the difference",
        swap,
    ),
    (
        "cgroup-v2.memory-swap-below",
        MEMORY,
        Level::Must,
        "a swap below the limit is an error",
        swap_below,
    ),
    (
        "cgroup-v2.memory-unlimited",
        MEMORY,
        Level::Must,
        "-1 is max",
        memory_unlimited,
    ),
    (
        "cgroup-v2.memory-swappiness",
        UNIFIED,
        Level::Must,
        "swappiness cannot be converted: an error",
        swappiness,
    ),
    (
        "cgroup-v2.memory-oom-default",
        MEMORY,
        Level::Must,
        "disableOOMKiller false is the default and accepted",
        oom_default,
    ),
    (
        "cgroup-v2.cpu-weight",
        CPU,
        Level::Should,
        "shares become a weight: 2 is 1, 1024 is 100, 262144 is 10000",
        weight,
    ),
    (
        "cgroup-v2.cpu-max",
        CPU,
        Level::Must,
        "quota and period are cpu.max",
        cpu_max,
    ),
    (
        "cgroup-v2.cpu-burst",
        CPU,
        Level::Must,
        "burst is cpu.max.burst",
        burst,
    ),
    (
        "cgroup-v2.cpu-idle",
        CPU,
        Level::Must,
        "idle is cpu.idle",
        idle,
    ),
    (
        "cgroup-v2.cpu-idle-shares",
        CPU,
        Level::Practice,
        "idle wins over shares, which the kernel refuses beside it",
        idle_shares,
    ),
    (
        "cgroup-v2.cpu-realtime",
        UNIFIED,
        Level::Must,
        "realtimeRuntime cannot be converted: an error",
        realtime,
    ),
    (
        "cgroup-v2.cpuset",
        CPU,
        Level::Must,
        "cpus and mems",
        cpuset,
    ),
    (
        "cgroup-v2.pids",
        "config-linux.md#pids",
        Level::Must,
        "the pids limit",
        pids,
    ),
    (
        "cgroup-v2.io-max",
        "config-linux.md#block-io",
        Level::Must,
        "throttles are io.max",
        io_max,
    ),
    (
        "cgroup-v2.hugetlb",
        "config-linux.md#huge-page-limits",
        Level::Must,
        "hugetlb .max and .rsvd.max",
        hugetlb,
    ),
    (
        "cgroup-v2.network",
        UNIFIED,
        Level::Must,
        "classID cannot be converted: an error",
        network,
    ),
    (
        "cgroup-v2.unified",
        UNIFIED,
        Level::Must,
        "unified writes each key to its file",
        unified,
    ),
    (
        "cgroup-v2.unified-last",
        UNIFIED,
        Level::Practice,
        "unified is written after the other resources",
        unified_last,
    ),
    (
        "cgroup-v2.unified-unknown",
        UNIFIED,
        Level::Must,
        "a key whose controller does not exist is an error",
        unified_unknown,
    ),
    (
        "cgroup-v2.devices",
        "config-linux.md#allowed-device-list",
        Level::Must,
        "device rules hold",
        devices,
    ),
    (
        "cgroup-v2.ownership",
        "config-linux.md#cgroup-ownership",
        Level::Should,
        "with cgroup and user namespaces and a writable mount the delegated files belong to the container's root",
        ownership,
    ),
    (
        "cgroup-v2.ownership-readonly",
        "config-linux.md#cgroup-ownership",
        Level::Should,
        "with a read-only cgroup mount no owner is changed",
        ownership_readonly,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn need(controller: &str) -> Result<()> {
    if cgroups::mode() != "v2" {
        return skip(format!("the host has cgroups {}, not v2", cgroups::mode()));
    }
    if !cgroups::v2_controller(controller) {
        return skip(format!("the controller {controller} is not available"));
    }
    Ok(())
}

fn values(ctx: &Ctx, controller: &str, resources: Value, names: &[&str]) -> Result<Vec<String>> {
    need(controller)?;
    let mut b = ctx.bundle()?;
    b.set("/linux/cgroupsPath", json!(PATH))
        .set("/linux/resources", resources);
    let id = ctx.id();
    ctx.create(&b, &id)?;
    let dir = cgroups::v2(PATH).unwrap_or_default();
    let found = names
        .iter()
        .map(|n| {
            let path = dir.join(n);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(text.trim().to_owned())
        })
        .collect();
    let _ = ctx.call(&["delete", "--force", &id]);
    found
}

fn refused(ctx: &Ctx, controller: &str, resources: Value, what: &str) -> Result<()> {
    need(controller)?;
    let mut b = ctx.bundle()?;
    b.set("/linux/cgroupsPath", json!(PATH))
        .set("/linux/resources", resources);
    ctx.refused(&b, what)
}

fn memory(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "memory",
        json!({ "memory": { "limit": 64 << 20, "reservation": 32 << 20 } }),
        &["memory.max", "memory.low"],
    )?;
    ctx.eq(
        got,
        [(64 << 20).to_string(), (32 << 20).to_string()],
        "memory.max and memory.low",
    );
    Ok(())
}

fn swap(ctx: &Ctx, _: &str) -> Result<()> {
    need("memory")?;
    for (limit, swap, expected) in [
        (64 << 20, 96 << 20, (32 << 20).to_string()),
        (64 << 20, 64 << 20, "0".to_owned()),
        (64 << 20, -1, "max".to_owned()),
    ] {
        match values(
            ctx,
            "memory",
            json!({ "memory": { "limit": limit, "swap": swap } }),
            &["memory.swap.max"],
        ) {
            Ok(got) => ctx.eq(got, [expected], &format!("limit {limit}, swap {swap}")),
            Err(e) if e.to_string().contains("memory.swap.max") => {
                return skip("the kernel does not account for swap");
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn swap_below(ctx: &Ctx, _: &str) -> Result<()> {
    refused(
        ctx,
        "memory",
        json!({ "memory": { "limit": 64 << 20, "swap": 32 << 20 } }),
        "swap below limit is refused",
    )
}

fn memory_unlimited(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "memory",
        json!({ "memory": { "limit": -1 } }),
        &["memory.max"],
    )?;
    ctx.eq(got, ["max"], "memory.max");
    Ok(())
}

fn swappiness(ctx: &Ctx, _: &str) -> Result<()> {
    refused(
        ctx,
        "memory",
        json!({ "memory": { "swappiness": 10 } }),
        "swappiness is refused",
    )
}

fn oom_default(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "memory",
        json!({ "memory": { "disableOOMKiller": false, "limit": 64 << 20 } }),
        &["memory.max"],
    )?;
    ctx.eq(got, [(64 << 20).to_string()], "the container is created");
    Ok(())
}

fn weight(ctx: &Ctx, _: &str) -> Result<()> {
    for (shares, expected) in [(2, "1"), (1024, "100"), (262_144, "10000")] {
        let got = values(
            ctx,
            "cpu",
            json!({ "cpu": { "shares": shares } }),
            &["cpu.weight"],
        )?;
        ctx.eq(got, [expected], &format!("shares {shares}"));
    }
    Ok(())
}

fn cpu_max(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "cpu",
        json!({ "cpu": { "quota": 40_000, "period": 80_000 } }),
        &["cpu.max"],
    )?;
    ctx.eq(got, ["40000 80000"], "quota and period");
    let got = values(
        ctx,
        "cpu",
        json!({ "cpu": { "period": 80_000 } }),
        &["cpu.max"],
    )?;
    ctx.eq(got, ["max 80000"], "period alone");
    let got = values(ctx, "cpu", json!({ "cpu": { "quota": -1 } }), &["cpu.max"])?;
    ctx.eq(got, ["max 100000"], "quota -1");
    Ok(())
}

fn burst(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "cpu",
        json!({ "cpu": { "quota": 40_000, "period": 80_000, "burst": 20_000 } }),
        &["cpu.max.burst"],
    )?;
    ctx.eq(got, ["20000"], "cpu.max.burst");
    Ok(())
}

fn idle(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(ctx, "cpu", json!({ "cpu": { "idle": 1 } }), &["cpu.idle"])?;
    ctx.eq(got, ["1"], "cpu.idle");
    Ok(())
}

fn idle_shares(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "cpu",
        json!({ "cpu": { "idle": 1, "shares": 1024 } }),
        &["cpu.idle"],
    )?;
    ctx.eq(got, ["1"], "cpu.idle beside shares");
    Ok(())
}

fn realtime(ctx: &Ctx, _: &str) -> Result<()> {
    refused(
        ctx,
        "cpu",
        json!({ "cpu": { "realtimeRuntime": 1000, "realtimePeriod": 100_000 } }),
        "realtimeRuntime is refused",
    )
}

fn cpuset(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "cpuset",
        json!({ "cpu": { "cpus": "0", "mems": "0" } }),
        &["cpuset.cpus", "cpuset.mems"],
    )?;
    ctx.eq(got, ["0", "0"], "cpus and mems");
    Ok(())
}

fn pids(ctx: &Ctx, _: &str) -> Result<()> {
    for (limit, expected) in [(1000, "1000"), (-1, "max")] {
        let got = values(
            ctx,
            "pids",
            json!({ "pids": { "limit": limit } }),
            &["pids.max"],
        )?;
        ctx.eq(got, [expected], &format!("limit {limit}"));
    }
    Ok(())
}

fn io_max(ctx: &Ctx, _: &str) -> Result<()> {
    let Some((major, minor)) = disk() else {
        return skip("no block device");
    };
    let entry = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    let got = values(
        ctx,
        "io",
        json!({ "blockIO": {
        "throttleReadBpsDevice": entry(1_048_576), "throttleWriteIOPSDevice": entry(200),
    } }),
        &["io.max"],
    )?;
    ctx.eq(
        got,
        [format!(
            "{major}:{minor} rbps=1048576 wbps=max riops=max wiops=200"
        )],
        "io.max",
    );
    Ok(())
}

fn hugetlb(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "hugetlb",
        json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] }),
        &["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"],
    )?;
    ctx.eq(
        got,
        [(4 << 20).to_string(), (4 << 20).to_string()],
        "both kinds of accounting",
    );
    Ok(())
}

fn network(ctx: &Ctx, _: &str) -> Result<()> {
    refused(
        ctx,
        "pids",
        json!({ "network": { "classID": 7 } }),
        "classID is refused",
    )
}

fn unified(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "memory",
        json!({ "unified": { "memory.high": "67108864", "pids.max": "77" } }),
        &["memory.high", "pids.max"],
    )?;
    ctx.eq(got, ["67108864", "77"], "memory.high and pids.max");
    Ok(())
}

fn unified_last(ctx: &Ctx, _: &str) -> Result<()> {
    let got = values(
        ctx,
        "pids",
        json!({ "pids": { "limit": 5000 }, "unified": { "pids.max": "77" } }),
        &["pids.max"],
    )?;
    ctx.eq(got, ["77"], "unified wins over pids.limit");
    Ok(())
}

fn unified_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    refused(
        ctx,
        "pids",
        json!({ "unified": { "no-such.max": "1" } }),
        "no-such.max is refused",
    )
}

fn devices(ctx: &Ctx, _: &str) -> Result<()> {
    need("pids")?;
    let mut b = ctx.bundle()?;
    b.set("/linux/cgroupsPath", json!(PATH));
    b.set("/linux/resources/devices", json!([
        { "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" },
    ]));
    b.set("/linux/devices", json!([
        { "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }, { "path": "/dev/mem", "type": "c", "major": 1, "minor": 1 },
    ]));
    b.probe(&["read:/dev/mem", "write:/dev/kmsg=x", "open:/dev/null"]);
    let end = ctx.run(&b)?;
    ctx.eq(
        end.errno(0)?,
        Some(i64::from(libc::EPERM)),
        "reading a denied device gives EPERM",
    );
    ctx.eq(
        end.errno(1)?,
        Some(i64::from(libc::EPERM)),
        "writing to a device allowed for reading gives EPERM",
    );
    ctx.eq(end.errno(2)?, None, "/dev/null opens");
    Ok(())
}

/// Owner of the container's cgroup directory, with a cgroup mount of these options.
fn owner(ctx: &Ctx, options: &[&str]) -> Result<u32> {
    use std::os::unix::fs::MetadataExt;
    need("pids")?;
    let mut b = ctx.bundle()?;
    super::namespaces::with_user(&mut b);
    b.set("/linux/namespaces/-", json!({ "type": "cgroup" }))
        .set("/linux/cgroupsPath", json!(PATH));
    b.set("/mounts/-", json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options }));
    ctx.create(&b, "c")?;
    Ok(fs::metadata(cgroups::v2(PATH).unwrap_or_default())?.uid())
}

fn ownership(ctx: &Ctx, _: &str) -> Result<()> {
    ctx.eq(
        owner(ctx, &["nosuid", "nodev", "noexec"])?,
        100_000,
        "the directory belongs to the container's root",
    );
    Ok(())
}

fn ownership_readonly(ctx: &Ctx, _: &str) -> Result<()> {
    ctx.eq(
        owner(ctx, &["nosuid", "nodev", "noexec", "ro"])?,
        0,
        "the directory belongs to the host's root",
    );
    Ok(())
}
