//! config-linux.md: namespaces, mappings, time offsets, sysctl.

use super::process::report;
use super::{Bundle, Case, Ctx, Level, Row, rows, skip};
use anyhow::Result;
use serde_json::{Value, json};
use std::fs;

const CLAUSE: &str = "config-linux.md#namespaces";

const TABLE: &[Row] = &[
    (
        "namespaces.duplicate",
        CLAUSE,
        Level::Must,
        "two entries of one type are an error",
        duplicate,
    ),
    (
        "namespaces.unknown-type",
        CLAUSE,
        Level::Must,
        "an unknown type is an error",
        unknown_type,
    ),
    (
        "namespaces.relative-path",
        CLAUSE,
        Level::Must,
        "a relative path is an error",
        relative_path,
    ),
    (
        "namespaces.path-of-other-type",
        CLAUSE,
        Level::Must,
        "a path that is a namespace of another type, or none, is an error",
        other_type,
    ),
    (
        "namespaces.new",
        CLAUSE,
        Level::Must,
        "a type without a path is a new namespace",
        new,
    ),
    (
        "namespaces.inherited",
        CLAUSE,
        Level::Must,
        "a type that is absent is inherited",
        inherited,
    ),
    (
        "namespaces.joined",
        CLAUSE,
        Level::Must,
        "a type with a path is that namespace",
        joined,
    ),
    (
        "namespaces.cgroup-root",
        CLAUSE,
        Level::Must,
        "in a new cgroup namespace the container's cgroup is the root",
        cgroup_root,
    ),
    (
        "namespaces.user-mappings",
        "config-linux.md#user-namespace-mappings",
        Level::Must,
        "uidMappings and gidMappings are the namespace's",
        user_mappings,
    ),
    (
        "namespaces.user-ids",
        "config-linux.md#user-namespace-mappings",
        Level::Must,
        "uid and gid of the process are those of the container's namespace",
        user_ids,
    ),
    (
        "namespaces.user-no-chown",
        "config-linux.md#user-namespace-mappings",
        Level::Should,
        "the ownership of the root file system is not changed",
        user_no_chown,
    ),
    (
        "namespaces.time-offsets",
        "config-linux.md#offset-for-time-namespace",
        Level::Must,
        "timeOffsets move the monotonic and boot-time clocks",
        time_offsets,
    ),
    (
        "namespaces.time-offsets-need-namespace",
        "config-linux.md#offset-for-time-namespace",
        Level::Must,
        "timeOffsets without a new time namespace are an error",
        time_without,
    ),
    (
        "namespaces.time-join",
        "config-linux.md#offset-for-time-namespace",
        Level::Must,
        "a time namespace can be joined",
        time_join,
    ),
    (
        "namespaces.pid-join",
        CLAUSE,
        Level::Must,
        "a pid namespace can be joined",
        pid_join,
    ),
    (
        "namespaces.loopback",
        CLAUSE,
        Level::Practice,
        "the loopback device of a new network namespace is up",
        loopback,
    ),
    (
        "namespaces.sysctl",
        "config-linux.md#sysctl",
        Level::Must,
        "sysctl sets parameters of the container's namespaces, with dots and slashes",
        sysctl,
    ),
    (
        "namespaces.sysctl-unknown",
        "config-linux.md#sysctl",
        Level::Must,
        "a parameter that does not exist is an error",
        sysctl_unknown,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .map(|p| p.display().to_string())
        .unwrap_or_default()
}

/// Adds a namespace of a new user namespace with identity-like mappings.
pub fn with_user(b: &mut Bundle) -> &mut Bundle {
    b.set("/linux/namespaces/-", json!({ "type": "user" }))
        .set(
            "/linux/uidMappings",
            json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]),
        )
        .set(
            "/linux/gidMappings",
            json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]),
        )
}

fn duplicate(ctx: &Ctx, _: &str) -> Result<()> {
    for kind in ["pid", "uts", "mount"] {
        let mut b = ctx.bundle()?;
        b.set("/linux/namespaces/-", json!({ "type": kind }));
        ctx.refused(&b, &format!("{kind} twice is refused"))?;
    }
    Ok(())
}

fn unknown_type(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/namespaces/-", json!({ "type": "planet" }));
    ctx.refused(&b, "the type planet is refused")
}

fn relative_path(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.without_namespace("uts").unset("/hostname");
    b.set(
        "/linux/namespaces/-",
        json!({ "type": "uts", "path": "proc/self/ns/uts" }),
    );
    ctx.refused(&b, "a relative path is refused")
}

fn other_type(ctx: &Ctx, _: &str) -> Result<()> {
    for path in [
        format!("/proc/{}/ns/net", std::process::id()),
        "/etc/passwd".to_owned(),
        "/no/such/path".to_owned(),
    ] {
        let mut b = ctx.bundle()?;
        b.without_namespace("ipc");
        b.set(
            "/linux/namespaces/-",
            json!({ "type": "ipc", "path": path }),
        );
        ctx.refused(&b, &format!("an ipc namespace at {path} is refused"))?;
    }
    Ok(())
}

const TYPES: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

fn new(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/namespaces/-", json!({ "type": "cgroup" }));
    b.set("/linux/namespaces/-", json!({ "type": "time" }));
    with_user(&mut b);
    let r = report(ctx, &mut b)?;
    for (kind, link) in TYPES.iter().chain([&("user", "user")]) {
        let seen = r["namespaces"][*link].as_str().unwrap_or("").to_owned();
        ctx.ok(
            !seen.is_empty() && seen != own(link),
            &format!("the {kind} namespace is new"),
        );
    }
    Ok(())
}

fn inherited(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    for kind in ["network", "ipc", "uts", "pid"] {
        b.without_namespace(kind);
    }
    b.unset("/hostname");
    let r = report(ctx, &mut b)?;
    for link in ["pid", "net", "ipc", "uts", "cgroup", "user", "time"] {
        ctx.eq(
            r["namespaces"][link].as_str(),
            Some(own(link).as_str()),
            &format!("the {link} namespace is the runtime's"),
        );
    }
    Ok(())
}

/// A container whose namespaces others join; returns its process.
fn holder(ctx: &Ctx, change: impl FnOnce(&mut Bundle)) -> Result<nix::unistd::Pid> {
    let mut b = ctx.bundle()?;
    change(&mut b);
    b.probe(&["sleep:20000"]);
    ctx.create(&b, "holder")?;
    ctx.start("holder")?;
    ctx.pid("holder")
}

fn joined(ctx: &Ctx, _: &str) -> Result<()> {
    let pid = holder(ctx, |_| {})?;
    let mut b = ctx.bundle()?;
    let joined = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    for (kind, link) in joined {
        b.without_namespace(kind);
        b.set(
            "/linux/namespaces/-",
            json!({ "type": kind, "path": format!("/proc/{pid}/ns/{link}") }),
        );
    }
    b.unset("/hostname");
    let r = report(ctx, &mut b)?;
    for (kind, link) in joined {
        let expected = fs::read_link(format!("/proc/{pid}/ns/{link}"))?
            .display()
            .to_string();
        ctx.eq(
            r["namespaces"][link].as_str(),
            Some(expected.as_str()),
            &format!("the {kind} namespace is the one of the path"),
        );
    }
    Ok(())
}

fn cgroup_root(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/namespaces/-", json!({ "type": "cgroup" }))
        .set("/linux/cgroupsPath", json!("/conformance-ns"));
    let r = report(ctx, &mut b)?;
    let text = r["cgroup"].as_str().unwrap_or("").to_owned();
    let outside: Vec<&str> = text.lines().filter(|l| !l.ends_with(":/")).collect();
    ctx.eq(
        outside,
        Vec::<&str>::new(),
        "every line of /proc/self/cgroup ends with the root",
    );
    Ok(())
}

fn user_mappings(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/namespaces/-", json!({ "type": "user" }));
    b.set("/linux/uidMappings", json!([
        { "containerID": 0, "hostID": 100_000, "size": 1000 }, { "containerID": 5000, "hostID": 300_000, "size": 10 },
    ]));
    b.set(
        "/linux/gidMappings",
        json!([{ "containerID": 0, "hostID": 200_000, "size": 1000 }]),
    );
    let r = report(ctx, &mut b)?;
    let words = |key: &str| -> Vec<Vec<String>> {
        let text = r[key].as_str().unwrap_or("");
        text.lines()
            .map(|l| l.split_whitespace().map(str::to_owned).collect())
            .collect()
    };
    ctx.eq(
        words("uid_map"),
        vec![vec!["0", "100000", "1000"], vec!["5000", "300000", "10"]],
        "uid_map",
    );
    ctx.eq(
        words("gid_map"),
        vec![vec!["0", "200000", "1000"]],
        "gid_map",
    );
    Ok(())
}

fn user_ids(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    with_user(&mut b)
        .set("/process/user", json!({ "uid": 10, "gid": 20 }))
        .probe(&["report", "await:/tmp/go"]);
    ctx.create(&b, "c")?;
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    let inside = ctx.until(|| ctx.output(&b).0.lines().count() > 0);
    ctx.ok(inside, "the program runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ctx.ok(
        status.contains("Uid:\t100010\t"),
        "uid 10 is 100010 outside",
    );
    ctx.ok(
        status.contains("Gid:\t200020\t"),
        "gid 20 is 200020 outside",
    );
    fs::write(b.rootfs().join("tmp/go"), "")?;
    let r = ctx.finish(&b, "c", pid)?.value(0)?;
    ctx.eq(
        r["status"]["Uid"].as_str(),
        Some("10\t10\t10\t10"),
        "and 10 inside",
    );
    Ok(())
}

fn user_no_chown(ctx: &Ctx, _: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let mut b = ctx.bundle()?;
    with_user(&mut b).probe(&["stat:/probe"]);
    let end = ctx.run(&b)?;
    ctx.eq(
        fs::metadata(b.rootfs().join("probe"))?.uid(),
        0,
        "the program still belongs to the host's root",
    );
    ctx.eq(
        end.value(0)?["uid"].as_u64(),
        Some(65534),
        "inside it belongs to the overflow id",
    );
    Ok(())
}

fn time_offsets(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/namespaces/-", json!({ "type": "time" }));
    b.set("/linux/timeOffsets", json!({
        "monotonic": { "secs": 172_800, "nanosecs": 500_000_000 }, "boottime": { "secs": 604_800 },
    }));
    let r = report(ctx, &mut b)?;
    let here = |id| rustix::time::clock_gettime(id).tv_sec;
    let near =
        |seen: &Value, expected: i64| seen.as_i64().is_some_and(|s| (s - expected).abs() < 30);
    ctx.ok(
        near(
            &r["monotonic"],
            here(rustix::time::ClockId::Monotonic) + 172_800,
        ),
        "the monotonic clock is two days ahead",
    );
    ctx.ok(
        near(
            &r["boottime"],
            here(rustix::time::ClockId::Boottime) + 604_800,
        ),
        "the boot-time clock is seven days ahead",
    );
    let text = r["timens_offsets"]
        .as_str()
        .unwrap_or("")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    ctx.eq(
        text.as_str(),
        "monotonic 172800 500000000 boottime 604800 0",
        "timens_offsets",
    );
    Ok(())
}

fn time_without(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/timeOffsets", json!({ "monotonic": { "secs": 1 } }));
    ctx.refused(
        &b,
        "timeOffsets in the runtime's time namespace are refused",
    )
}

fn time_join(ctx: &Ctx, _: &str) -> Result<()> {
    let pid = holder(ctx, |b| {
        b.set("/linux/namespaces/-", json!({ "type": "time" }));
        b.set(
            "/linux/timeOffsets",
            json!({ "boottime": { "secs": 86_400 } }),
        );
    })?;
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/namespaces/-",
        json!({ "type": "time", "path": format!("/proc/{pid}/ns/time") }),
    );
    let r = report(ctx, &mut b)?;
    let here = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let seen = r["boottime"].as_i64().unwrap_or(0);
    ctx.ok(
        (seen - here - 86_400).abs() < 30,
        "the boot-time clock is one day ahead",
    );
    Ok(())
}

fn pid_join(ctx: &Ctx, _: &str) -> Result<()> {
    let pid = holder(ctx, |_| {})?;
    let mut b = ctx.bundle()?;
    b.without_namespace("pid");
    b.set(
        "/linux/namespaces/-",
        json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }),
    );
    let r = report(ctx, &mut b)?;
    let expected = fs::read_link(format!("/proc/{pid}/ns/pid"))?
        .display()
        .to_string();
    ctx.eq(
        r["namespaces"]["pid"].as_str(),
        Some(expected.as_str()),
        "the program is in the joined namespace",
    );
    ctx.ok(
        r["pid"].as_u64().is_some_and(|p| p > 1),
        "it is not its first process",
    );
    Ok(())
}

fn loopback(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["read:/sys/class/net/lo/flags"]);
    let flags = ctx.run(&b)?.value(0)?;
    let flags = flags.as_str().unwrap_or("").trim().trim_start_matches("0x");
    ctx.eq(
        u32::from_str_radix(flags, 16).unwrap_or(0) & 1,
        1,
        "IFF_UP is set",
    );
    Ok(())
}

fn sysctl(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/sysctl",
        json!({ "net.ipv4.ip_unprivileged_port_start": "77", "kernel/msgmax": "8000" }),
    );
    b.probe(&[
        "read:/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "read:/proc/sys/kernel/msgmax",
    ]);
    let end = ctx.run(&b)?;
    ctx.eq(
        end.value(0)?.as_str().map(str::trim),
        Some("77"),
        "a parameter of the network namespace, with dots",
    );
    ctx.eq(
        end.value(1)?.as_str().map(str::trim),
        Some("8000"),
        "a parameter of the IPC namespace, with slashes",
    );
    let mut b = ctx.bundle()?;
    b.set("/linux/sysctl", json!({ "kernel/domainname": "by-sysctl" }));
    match ctx.run(b.probe(&["report"])) {
        Ok(end) => ctx.eq(
            end.value(0)?["domainname"].as_str(),
            Some("by-sysctl"),
            "a parameter of the UTS namespace",
        ),
        Err(e) => return skip(format!("kernel.domainname: {e:#}")),
    }
    Ok(())
}

fn sysctl_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/sysctl",
        json!({ "net.ipv4.no_such_parameter": "1" }),
    );
    ctx.refused(&b, "net.ipv4.no_such_parameter is refused")
}
