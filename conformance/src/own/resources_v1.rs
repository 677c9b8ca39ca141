//! config-linux.md, cgroups: the path, and resources as cgroup v1 files.

use super::{Bundle, Case, Ctx, Level, Row, cgroups, rows, skip};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;

/// The path that containers of these tests get.
pub const PATH: &str = "/conformance-cg";

const TABLE: &[Row] = &[
    (
        "cgroup.path-absolute",
        "config-linux.md#cgroups-path",
        Level::Must,
        "an absolute cgroupsPath is relative to the mount point of the hierarchy",
        absolute,
    ),
    (
        "cgroup.path-relative",
        "config-linux.md#cgroups-path",
        Level::Must,
        "a relative cgroupsPath leads to the same place every time",
        relative,
    ),
    (
        "cgroup.path-unset",
        "config-linux.md#cgroups-path",
        Level::Must,
        "without cgroupsPath the container still runs",
        unset,
    ),
    (
        "cgroup.delete-removes",
        "runtime.md#delete",
        Level::Must,
        "delete removes the cgroups that create made",
        delete_removes,
    ),
    (
        "cgroup.delete-keeps",
        "runtime.md#delete",
        Level::Must,
        "delete keeps a cgroup that was there before",
        delete_keeps,
    ),
    (
        "cgroup.process-inside",
        "config-linux.md#control-groups",
        Level::Must,
        "the container's process is in its cgroup",
        inside,
    ),
    (
        "cgroup-v1.memory",
        "config-linux.md#memory",
        Level::Must,
        "memory limit, reservation and swap",
        memory,
    ),
    (
        "cgroup-v1.memory-unlimited",
        "config-linux.md#memory",
        Level::Must,
        "-1 is unlimited",
        memory_unlimited,
    ),
    (
        "cgroup-v1.memory-swappiness",
        "config-linux.md#memory",
        Level::Must,
        "swappiness, zero included",
        swappiness,
    ),
    (
        "cgroup-v1.memory-oom",
        "config-linux.md#memory",
        Level::Must,
        "disableOOMKiller",
        oom,
    ),
    (
        "cgroup-v1.memory-kernel-tcp",
        "config-linux.md#memory",
        Level::Must,
        "kernelTCP",
        kernel_tcp,
    ),
    (
        "cgroup-v1.cpu-shares",
        "config-linux.md#cpu",
        Level::Must,
        "cpu shares",
        shares,
    ),
    (
        "cgroup-v1.cpu-quota",
        "config-linux.md#cpu",
        Level::Must,
        "cpu quota and period",
        quota,
    ),
    (
        "cgroup-v1.cpu-burst",
        "config-linux.md#cpu",
        Level::Must,
        "cpu burst",
        burst,
    ),
    (
        "cgroup-v1.cpu-idle",
        "config-linux.md#cpu",
        Level::Must,
        "cpu idle",
        idle,
    ),
    (
        "cgroup-v1.cpu-realtime",
        "config-linux.md#cpu",
        Level::Must,
        "cpu realtimeRuntime and realtimePeriod",
        realtime,
    ),
    (
        "cgroup-v1.cpuset",
        "config-linux.md#cpu",
        Level::Must,
        "cpu cpus and mems",
        cpuset,
    ),
    (
        "cgroup-v1.pids",
        "config-linux.md#pids",
        Level::Must,
        "the pids limit",
        pids,
    ),
    (
        "cgroup-v1.pids-unlimited",
        "config-linux.md#pids",
        Level::Must,
        "a pids limit of -1 is max",
        pids_unlimited,
    ),
    (
        "cgroup-v1.block-throttle",
        "config-linux.md#block-io",
        Level::Must,
        "the four throttles of block IO",
        throttle,
    ),
    (
        "cgroup-v1.block-weight-missing",
        "config-linux.md#block-io",
        Level::Must,
        "a weight is set, or is an error where the kernel has no file for it",
        weight,
    ),
    (
        "cgroup-v1.hugetlb",
        "config-linux.md#huge-page-limits",
        Level::Must,
        "a huge page limit is set, wherever its controller is",
        hugetlb,
    ),
    (
        "cgroup-v1.hugetlb-unknown-size",
        "config-linux.md#huge-page-limits",
        Level::Must,
        "a page size that the kernel does not have is an error",
        hugetlb_unknown,
    ),
    (
        "cgroup-v1.network",
        "config-linux.md#network",
        Level::Must,
        "classID is set, or is an error where the controller is missing",
        network,
    ),
    (
        "cgroup-v1.rdma",
        "config-linux.md#rdma",
        Level::Must,
        "an rdma entry is set, or is an error where the controller is missing",
        rdma,
    ),
    (
        "cgroup-v1.unified",
        "config-linux.md#unified",
        Level::Must,
        "unified is an error where its controller is not in the unified hierarchy",
        unified,
    ),
    (
        "cgroup-v1.devices",
        "config-linux.md#allowed-device-list",
        Level::Must,
        "device rules hold in the listed order",
        devices,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    let mut all = rows(TABLE);
    for case in &mut all {
        case.realtime = case.id.ends_with("realtime");
    }
    all
}

fn bundle(ctx: &Ctx) -> Result<Bundle> {
    let mut b = ctx.bundle()?;
    b.set("/linux/cgroupsPath", json!(PATH));
    Ok(b)
}

/// Creates a container with these resources and reads files of its cgroup.
fn files(ctx: &Ctx, controller: &str, resources: Value, names: &[&str]) -> Result<Vec<String>> {
    let Some(dir) = cgroups::v1(controller, PATH) else {
        return skip(format!(
            "no cgroup v1 hierarchy has the controller {controller}"
        ));
    };
    let root = cgroups::v1(controller, "/").unwrap_or_default();
    // Files that the root does not have (limits) are not asked for there.
    let _ = root;
    let mut b = bundle(ctx)?;
    b.set("/linux/resources", resources);
    ctx.create(&b, "c")?;
    names
        .iter()
        .map(|n| {
            let path = dir.join(n);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(text.trim().to_owned())
        })
        .collect()
}

fn need_v1() -> Result<()> {
    match cgroups::mode() {
        "v1" | "hybrid" => Ok(()),
        mode => skip(format!("the host has cgroups {mode}, no v1")),
    }
}

fn absolute(ctx: &Ctx, _: &str) -> Result<()> {
    if cgroups::mode() == "none" {
        return skip("no cgroup hierarchy is mounted");
    }
    let b = bundle(ctx)?;
    ctx.create(&b, "c")?;
    ctx.ok(
        !cgroups::find(PATH).is_empty(),
        "the cgroup is below the mount point",
    );
    Ok(())
}

/// Where a process is: controller list -> path.
fn places(pid: nix::unistd::Pid) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(text
        .lines()
        .filter_map(|l| l.splitn(3, ':').nth(2))
        .map(str::to_owned)
        .collect())
}

fn relative(ctx: &Ctx, _: &str) -> Result<()> {
    if cgroups::mode() == "none" {
        return skip("no cgroup hierarchy is mounted");
    }
    let mut seen = Vec::new();
    for id in ["first", "second"] {
        let mut b = ctx.bundle()?;
        b.set("/linux/cgroupsPath", json!("relative/conformance"))
            .probe(&["exit:0"]);
        ctx.create(&b, id)?;
        let pid = ctx.pid(id)?;
        seen.push(places(pid)?);
        ctx.start(id)?;
        ctx.finish(&b, id, pid)?;
    }
    ctx.ok(
        seen.iter().flatten().any(|p| p.contains("conformance")),
        "the name is part of the path",
    );
    ctx.eq(
        seen.first(),
        seen.last(),
        "two containers got the same place",
    );
    Ok(())
}

fn unset(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["exit:0"]);
    ctx.eq(ctx.run(&b)?.code, Some(0), "the container runs");
    Ok(())
}

fn delete_removes(ctx: &Ctx, _: &str) -> Result<()> {
    if cgroups::mode() == "none" {
        return skip("no cgroup hierarchy is mounted");
    }
    let mut b = bundle(ctx)?;
    b.probe(&["exit:0"]);
    ctx.create(&b, "c")?;
    ctx.ok(!cgroups::find(PATH).is_empty(), "create makes the cgroup");
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.finish(&b, "c", pid)?;
    let left: Vec<String> = cgroups::find(PATH)
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    ctx.eq(
        left,
        Vec::<String>::new(),
        "delete removes it from every hierarchy",
    );
    Ok(())
}

fn delete_keeps(ctx: &Ctx, _: &str) -> Result<()> {
    let parent = "/conformance-parent";
    let Some(dir) = cgroups::v1("pids", parent).or_else(|| cgroups::v2(parent)) else {
        return skip("no cgroup hierarchy is mounted");
    };
    fs::create_dir_all(&dir)?;
    let mut b = ctx.bundle()?;
    b.set("/linux/cgroupsPath", json!(format!("{parent}/child")))
        .probe(&["exit:0"]);
    ctx.run(&b)?;
    ctx.ok(dir.is_dir(), "the parent, which was there before, is kept");
    ctx.ok(!dir.join("child").exists(), "the child is removed");
    cgroups::find(parent).iter().for_each(|d| {
        let _ = fs::remove_dir(d);
    });
    Ok(())
}

fn inside(ctx: &Ctx, _: &str) -> Result<()> {
    let b = bundle(ctx)?;
    ctx.create(&b, "c")?;
    let pid = ctx.pid("c")?;
    let dirs = cgroups::find(PATH);
    if dirs.is_empty() {
        return skip("no cgroup hierarchy is mounted");
    }
    for dir in dirs {
        let members = fs::read_to_string(dir.join("cgroup.procs"))?;
        let top = dir
            .parent()
            .and_then(|p| p.file_name())
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        ctx.ok(
            members.lines().any(|l| l == pid.to_string()),
            &format!("it is in the hierarchy {top}"),
        );
    }
    Ok(())
}

fn memory(ctx: &Ctx, _: &str) -> Result<()> {
    let (limit, low) = (64 << 20, 32 << 20);
    let got = files(
        ctx,
        "memory",
        json!({ "memory": { "limit": limit, "reservation": low, "swap": limit * 2 } }),
        &["memory.limit_in_bytes", "memory.soft_limit_in_bytes"],
    )?;
    ctx.eq(
        got,
        [limit.to_string(), low.to_string()],
        "limit and reservation",
    );
    let swap = cgroups::v1("memory", PATH)
        .unwrap_or_default()
        .join("memory.memsw.limit_in_bytes");
    match fs::read_to_string(swap) {
        Ok(text) => ctx.eq(
            text.trim(),
            (limit * 2).to_string().as_str(),
            "memory and swap",
        ),
        Err(_) => ctx.skipped("memory and swap", "the kernel does not account for swap"),
    }
    Ok(())
}

fn memory_unlimited(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "memory",
        json!({ "memory": { "limit": -1 } }),
        &["memory.limit_in_bytes"],
    )?;
    ctx.ok(
        got.iter().all(|v| v.len() > 18),
        "the limit is the kernel's maximum",
    );
    Ok(())
}

fn swappiness(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "memory",
        json!({ "memory": { "swappiness": 0 } }),
        &["memory.swappiness"],
    )?;
    ctx.eq(got, ["0"], "swappiness 0");
    Ok(())
}

fn oom(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "memory",
        json!({ "memory": { "disableOOMKiller": true } }),
        &["memory.oom_control"],
    )?;
    ctx.ok(
        got.iter().any(|t| t.starts_with("oom_kill_disable 1")),
        "oom_kill_disable is 1",
    );
    Ok(())
}

fn kernel_tcp(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "memory",
        json!({ "memory": { "kernelTCP": 50_593_792 } }),
        &["memory.kmem.tcp.limit_in_bytes"],
    )?;
    ctx.eq(got, ["50593792"], "kernelTCP");
    Ok(())
}

fn shares(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "cpu",
        json!({ "cpu": { "shares": 333 } }),
        &["cpu.shares"],
    )?;
    ctx.eq(got, ["333"], "cpu.shares");
    Ok(())
}

fn quota(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "cpu",
        json!({ "cpu": { "quota": 40_000, "period": 80_000 } }),
        &["cpu.cfs_quota_us", "cpu.cfs_period_us"],
    )?;
    ctx.eq(got, ["40000", "80000"], "quota and period");
    Ok(())
}

fn burst(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "cpu",
        json!({ "cpu": { "quota": 40_000, "period": 80_000, "burst": 20_000 } }),
        &["cpu.cfs_burst_us"],
    )?;
    ctx.eq(got, ["20000"], "burst");
    Ok(())
}

fn idle(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(ctx, "cpu", json!({ "cpu": { "idle": 1 } }), &["cpu.idle"])?;
    ctx.eq(got, ["1"], "idle");
    Ok(())
}

fn realtime(ctx: &Ctx, _: &str) -> Result<()> {
    if !cgroups::v1("cpu", "/").is_some_and(|d| d.join("cpu.rt_runtime_us").exists()) {
        return skip("the kernel has no realtime group scheduling in cgroup v1");
    }
    let got = files(
        ctx,
        "cpu",
        json!({ "cpu": { "realtimeRuntime": 50_000, "realtimePeriod": 1_000_000 } }),
        &["cpu.rt_runtime_us", "cpu.rt_period_us"],
    )?;
    ctx.eq(
        got,
        ["50000", "1000000"],
        "realtimeRuntime and realtimePeriod",
    );
    Ok(())
}

fn cpuset(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "cpuset",
        json!({ "cpu": { "cpus": "0", "mems": "0" } }),
        &["cpuset.cpus", "cpuset.mems"],
    )?;
    ctx.eq(got, ["0", "0"], "cpus and mems");
    Ok(())
}

fn pids(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "pids",
        json!({ "pids": { "limit": 1000 } }),
        &["pids.max"],
    )?;
    ctx.eq(got, ["1000"], "pids.max");
    Ok(())
}

fn pids_unlimited(ctx: &Ctx, _: &str) -> Result<()> {
    let got = files(
        ctx,
        "pids",
        json!({ "pids": { "limit": -1 } }),
        &["pids.max"],
    )?;
    ctx.eq(got, ["max"], "pids.max");
    Ok(())
}

/// Major and minor number of a whole disk.
pub fn disk() -> Option<(u64, u64)> {
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let text = fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        let size = fs::read_to_string(entry.path().join("size")).unwrap_or_default();
        if size.trim() != "0" {
            return Some((major.parse().ok()?, minor.parse().ok()?));
        }
    }
    None
}

fn throttle(ctx: &Ctx, _: &str) -> Result<()> {
    let Some((major, minor)) = disk() else {
        return skip("no block device");
    };
    let entry = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    let got = files(
        ctx,
        "blkio",
        json!({ "blockIO": {
        "throttleReadBpsDevice": entry(1_048_576), "throttleWriteBpsDevice": entry(2_097_152),
        "throttleReadIOPSDevice": entry(100), "throttleWriteIOPSDevice": entry(200),
    } }),
        &[
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
        ],
    )?;
    let expected: Vec<String> = [1_048_576, 2_097_152, 100, 200]
        .iter()
        .map(|r| format!("{major}:{minor} {r}"))
        .collect();
    ctx.eq(got, expected, "the four files");
    Ok(())
}

fn weight(ctx: &Ctx, _: &str) -> Result<()> {
    need_v1()?;
    for (field, files) in [
        ("weight", ["blkio.weight", "blkio.bfq.weight"]),
        ("leafWeight", ["blkio.leaf_weight", "-"]),
    ] {
        let mut b = bundle(ctx)?;
        b.set(&format!("/linux/resources/blockIO/{field}"), json!(300));
        let id = ctx.id();
        let created = ctx.create(&b, &id);
        let dir = cgroups::v1("blkio", PATH).unwrap_or_default();
        let value = files
            .iter()
            .find_map(|f| fs::read_to_string(dir.join(f)).ok());
        match (created, value) {
            (Ok(()), Some(text)) => ctx.ok(text.contains("300"), &format!("{field} is set")),
            (Ok(()), None) => ctx.ok(
                false,
                &format!("{field} without a file to set it in is an error"),
            ),
            (Err(_), _) => ctx.ok(
                true,
                &format!("{field} is refused: the kernel has no file for it"),
            ),
        }
        let _ = ctx.call(&["delete", "--force", &id]);
    }
    Ok(())
}

fn hugetlb(ctx: &Ctx, _: &str) -> Result<()> {
    need_v1()?;
    let (dir, file) = match cgroups::v1("hugetlb", PATH) {
        Some(dir) => (dir, "hugetlb.2MB.limit_in_bytes"),
        None if cgroups::v2_controller("hugetlb") => {
            (cgroups::v2(PATH).unwrap_or_default(), "hugetlb.2MB.max")
        }
        None => {
            let mut b = bundle(ctx)?;
            b.set(
                "/linux/resources/hugepageLimits",
                json!([{ "pageSize": "2MB", "limit": 4 << 20 }]),
            );
            return ctx.refused(&b, "a limit without its controller is refused");
        }
    };
    let mut b = bundle(ctx)?;
    b.set(
        "/linux/resources/hugepageLimits",
        json!([{ "pageSize": "2MB", "limit": 4 << 20 }]),
    );
    ctx.create(&b, "c")?;
    let read = |name: &str| {
        fs::read_to_string(dir.join(name))
            .map(|t| t.trim().to_owned())
            .ok()
    };
    ctx.eq(
        read(file),
        Some((4 << 20).to_string()),
        "the limit of page-fault accounting",
    );
    if let Some(reserved) = read(&file.replace("2MB.", "2MB.rsvd.")) {
        ctx.eq(
            reserved,
            (4 << 20).to_string(),
            "the limit of reservation accounting",
        );
    }
    Ok(())
}

fn hugetlb_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    need_v1()?;
    let mut b = bundle(ctx)?;
    b.set(
        "/linux/resources/hugepageLimits",
        json!([{ "pageSize": "3MB", "limit": 3 << 20 }]),
    );
    ctx.refused(&b, "the page size 3MB is refused")
}

fn network(ctx: &Ctx, _: &str) -> Result<()> {
    need_v1()?;
    let mut b = bundle(ctx)?;
    b.set("/linux/resources/network/classID", json!(0x10_0001));
    match cgroups::v1("net_cls", PATH) {
        None => ctx.refused(&b, "classID without the controller net_cls is refused"),
        Some(dir) => {
            ctx.create(&b, "c")?;
            ctx.eq(
                fs::read_to_string(dir.join("net_cls.classid"))?.trim(),
                "1048577",
                "net_cls.classid",
            );
            Ok(())
        }
    }
}

fn rdma(ctx: &Ctx, _: &str) -> Result<()> {
    need_v1()?;
    let mut b = bundle(ctx)?;
    b.set(
        "/linux/resources/rdma",
        json!({ "mlx5_0": { "hcaHandles": 3, "hcaObjects": 10 } }),
    );
    if cgroups::v1("rdma", "/").is_some() || cgroups::v2_controller("rdma") {
        return skip("the host has the controller, but its devices are not known");
    }
    ctx.refused(&b, "rdma without the controller is refused")
}

fn unified(ctx: &Ctx, _: &str) -> Result<()> {
    need_v1()?;
    let mut b = bundle(ctx)?;
    b.set(
        "/linux/resources/unified",
        json!({ "memory.high": "1048576" }),
    );
    ctx.refused(&b, "memory.high is refused while memory is a v1 controller")
}

fn devices(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = bundle(ctx)?;
    // loop-control (10:237) first denied, then allowed; 7:* stays denied.
    b.set(
        "/linux/resources/devices",
        json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 237, "access": "rwm" },
            { "allow": true, "type": "b", "major": 7, "access": "rwm" },
            { "allow": false, "type": "b", "major": 7, "access": "rwm" },
        ]),
    );
    b.set("/linux/devices", json!([]));
    b.probe(&[
        "mknod:/dev/allowed,c,10,237",
        "mknod:/dev/denied,b,7,0",
        "open:/dev/null",
    ]);
    let end = ctx.run(&b)?;
    ctx.eq(end.errno(0)?, None, "an allowed device can be made");
    // mknod itself is in the list that runtimes allow by default: opening is not.
    let mut b = bundle(ctx)?;
    b.set(
        "/linux/resources/devices",
        json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" },
        ]),
    );
    b.set(
        "/linux/devices",
        json!([
            { "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 },
            { "path": "/dev/mem", "type": "c", "major": 1, "minor": 1 },
        ]),
    );
    b.probe(&["read:/dev/mem", "write:/dev/kmsg=x"]);
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
    Ok(())
}
