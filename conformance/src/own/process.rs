//! config.md, process: identity, limits, capabilities, scheduling, terminal.

use super::{Bundle, Case, Ctx, Level, Row, rows, skip};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const POSIX: &str = "config.md#posix-process";
const LINUX: &str = "config.md#linux-process";
const USER: &str = "config.md#posix-platform-user";
const PROCESS: &str = "config.md#process";

const TABLE: &[Row] = &[
    (
        "process.cwd",
        PROCESS,
        Level::Must,
        "cwd is the working directory of the program",
        cwd,
    ),
    (
        "process.cwd-absolute",
        PROCESS,
        Level::Must,
        "a relative cwd is an error",
        cwd_absolute,
    ),
    (
        "process.args",
        PROCESS,
        Level::Must,
        "args are the program's arguments",
        args,
    ),
    (
        "process.args-empty",
        PROCESS,
        Level::Must,
        "args without an entry are an error",
        args_empty,
    ),
    (
        "process.args-path",
        PROCESS,
        Level::Must,
        "args[0] without a slash is searched for in the container's PATH",
        args_path,
    ),
    (
        "process.args-interpreter",
        PROCESS,
        Level::Must,
        "a file that cannot be executed is an error",
        args_not_executable,
    ),
    (
        "process.env",
        PROCESS,
        Level::Must,
        "env is the program's environment",
        env,
    ),
    (
        "process.open-files",
        "runtime-linux.md#file-descriptors",
        Level::Must,
        "only the standard streams are open by default",
        open_files,
    ),
    (
        "process.user",
        USER,
        Level::Must,
        "uid, gid and additionalGids are the program's",
        user,
    ),
    (
        "process.user-groups-root",
        USER,
        Level::Must,
        "additionalGids hold for uid 0 too, and no others",
        groups_root,
    ),
    ("process.umask", USER, Level::Must, "umask is set", umask),
    (
        "process.umask-unset",
        USER,
        Level::Should,
        "without umask the caller's umask is kept",
        umask_unset,
    ),
    (
        "process.rlimits",
        POSIX,
        Level::Must,
        "soft and hard limits are the configured values",
        rlimits,
    ),
    (
        "process.rlimits-duplicate",
        POSIX,
        Level::Must,
        "two rlimits of one type are an error",
        rlimits_duplicate,
    ),
    (
        "process.rlimits-unknown",
        POSIX,
        Level::Must,
        "an unknown rlimit type is an error",
        rlimits_unknown,
    ),
    (
        "process.rlimits-soft-over-hard",
        POSIX,
        Level::Must,
        "a soft limit above the hard one is an error",
        rlimits_inverted,
    ),
    (
        "process.rlimits-64bit",
        POSIX,
        Level::Must,
        "a limit uses all 64 bits",
        rlimits_wide,
    ),
    (
        "process.capabilities",
        LINUX,
        Level::Must,
        "each capability set is the configured one",
        capabilities,
    ),
    (
        "process.capabilities-empty",
        LINUX,
        Level::Must,
        "empty sets leave no capability",
        capabilities_empty,
    ),
    (
        "process.capabilities-unknown",
        LINUX,
        Level::Should,
        "a capability that is unknown or cannot be granted is a warning, not an error",
        capabilities_unknown,
    ),
    (
        "process.capabilities-user",
        LINUX,
        Level::Must,
        "ambient capabilities reach a program that is not root",
        capabilities_user,
    ),
    (
        "process.no-new-privileges",
        LINUX,
        Level::Must,
        "noNewPrivileges sets no_new_privs",
        no_new_privileges,
    ),
    (
        "process.no-new-privileges-unset",
        LINUX,
        Level::Must,
        "without it no_new_privs is clear",
        no_new_privileges_unset,
    ),
    (
        "process.oom-score-adj",
        LINUX,
        Level::Must,
        "oomScoreAdj is written",
        oom_score_adj,
    ),
    (
        "process.oom-score-adj-unset",
        LINUX,
        Level::Must,
        "without oomScoreAdj the value is not changed",
        oom_unset,
    ),
    (
        "process.scheduler-other",
        LINUX,
        Level::Must,
        "scheduler: SCHED_OTHER with a nice value",
        scheduler_other,
    ),
    (
        "process.scheduler-batch",
        LINUX,
        Level::Must,
        "scheduler: SCHED_BATCH",
        scheduler_batch,
    ),
    (
        "process.scheduler-idle",
        LINUX,
        Level::Must,
        "scheduler: SCHED_IDLE",
        scheduler_idle,
    ),
    (
        "process.scheduler-fifo",
        LINUX,
        Level::Must,
        "scheduler: SCHED_FIFO with priority and reset-on-fork",
        scheduler_fifo,
    ),
    (
        "process.scheduler-deadline",
        LINUX,
        Level::Must,
        "scheduler: SCHED_DEADLINE with its times",
        scheduler_deadline,
    ),
    (
        "process.scheduler-invalid",
        LINUX,
        Level::Must,
        "an unknown policy or flag is an error",
        scheduler_invalid,
    ),
    (
        "process.io-priority",
        LINUX,
        Level::Must,
        "ioPriority: class and priority are set",
        io_priority,
    ),
    (
        "process.io-priority-invalid",
        LINUX,
        Level::Must,
        "an unknown class or a priority outside 0 to 7 is an error",
        io_invalid,
    ),
    (
        "process.exec-cpu-affinity-init",
        LINUX,
        Level::Must,
        "execCPUAffinity does not apply to the container's first process",
        affinity_init,
    ),
    (
        "process.exec-cpu-affinity",
        LINUX,
        Level::Must,
        "execCPUAffinity applies to processes that join later",
        affinity_exec,
    ),
    (
        "process.personality",
        "config-linux.md#personality",
        Level::Must,
        "personality: the domain is set",
        personality,
    ),
    (
        "process.personality-invalid",
        "config-linux.md#personality",
        Level::Must,
        "an unknown domain is an error",
        personality_invalid,
    ),
    (
        "process.console-size-without-terminal",
        PROCESS,
        Level::Must,
        "consoleSize is ignored without a terminal",
        console_size_ignored,
    ),
    (
        "process.terminal",
        PROCESS,
        Level::Must,
        "with terminal the standard streams are a terminal of the configured size",
        terminal,
    ),
    (
        "process.memory-policy",
        "config-linux.md#memory-policy",
        Level::Must,
        "memoryPolicy: mode and nodes are set",
        memory_policy,
    ),
    (
        "process.memory-policy-invalid",
        "config-linux.md#memory-policy",
        Level::Must,
        "an unknown mode, or nodes with a mode that takes none, is an error",
        memory_policy_invalid,
    ),
    (
        "process.hostname",
        "config.md#hostname",
        Level::Must,
        "hostname is set",
        hostname,
    ),
    (
        "process.domainname",
        "config.md#domainname",
        Level::Must,
        "domainname is set",
        domainname,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    let mut all = rows(TABLE);
    for case in &mut all {
        // Realtime policies need budget in a v1 cgroup.
        case.realtime = case.id.ends_with("scheduler-fifo");
    }
    all
}

/// The probe's report for this configuration.
pub fn report(ctx: &Ctx, b: &mut Bundle) -> Result<Value> {
    b.probe(&["report"]);
    ctx.run(b)?.value(0)
}

fn status<'a>(report: &'a Value, key: &str) -> &'a str {
    report["status"][key].as_str().unwrap_or("")
}

fn cwd(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/cwd", json!("/mnt"));
    let r = report(ctx, &mut b)?;
    ctx.eq(r["cwd"].as_str(), Some("/mnt"), "the program is in /mnt");
    Ok(())
}

fn cwd_absolute(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/cwd", json!("mnt"));
    ctx.refused(&b, "a relative cwd is refused")
}

fn args(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.probe(&["report", "stat:/a b", "stat:/\u{e9}"]);
    let r = ctx.run(&b)?.value(0)?;
    ctx.eq(
        &r["args"],
        &json!(["/probe", "probe", "report", "stat:/a b", "stat:/\u{e9}"]),
        "blanks and UTF-8 survive",
    );
    Ok(())
}

fn args_empty(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/args", json!([]));
    ctx.refused(&b, "an empty args is refused")
}

fn args_path(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    fs::create_dir(b.rootfs().join("own-bin"))?;
    fs::rename(b.rootfs().join("probe"), b.rootfs().join("own-bin/tool"))?;
    b.set(
        "/process/env",
        json!(["PATH=/nowhere:/own-bin", "LD_LIBRARY_PATH=/lib64"]),
    );
    b.set("/process/args", json!(["tool", "probe", "exit:7"]));
    ctx.eq(
        ctx.run(&b)?.code,
        Some(7),
        "the program is found in the second directory of PATH",
    );
    b.set("/process/args", json!(["no-such-tool"]));
    ctx.refused(&b, "a name that is not in PATH is an error")
}

fn args_not_executable(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    fs::write(b.rootfs().join("text"), "text")?;
    fs::set_permissions(b.rootfs().join("text"), fs::Permissions::from_mode(0o644))?;
    b.set("/process/args", json!(["/text"]));
    ctx.refused(&b, "a file without execute permission is refused")
}

fn env(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/env",
        json!(["PATH=/bin", "LD_LIBRARY_PATH=/lib64", "A=1=2", "EMPTY="]),
    );
    let r = report(ctx, &mut b)?;
    ctx.eq(
        r["env"]["A"].as_str(),
        Some("1=2"),
        "a value with an equals sign",
    );
    ctx.eq(r["env"]["EMPTY"].as_str(), Some(""), "an empty value");
    ctx.ok(
        r["env"].get("RUNTIME").is_none(),
        "nothing of the caller's environment leaks",
    );
    Ok(())
}

fn open_files(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let r = report(ctx, &mut b)?;
    let fds: Vec<&str> = r["fds"]
        .as_object()
        .map(|o| o.keys().map(String::as_str).collect())
        .unwrap_or_default();
    ctx.eq(fds, ["0", "1", "2"], "open files are 0, 1 and 2");
    Ok(())
}

fn user(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/user",
        json!({ "uid": 1234, "gid": 5678, "additionalGids": [5678, 42, 7] }),
    );
    let r = report(ctx, &mut b)?;
    ctx.eq(status(&r, "Uid"), "1234\t1234\t1234\t1234", "all four uids");
    ctx.eq(status(&r, "Gid"), "5678\t5678\t5678\t5678", "all four gids");
    let mut groups: Vec<&str> = status(&r, "Groups").split_whitespace().collect();
    groups.sort_unstable();
    ctx.eq(groups, ["42", "5678", "7"], "the additional groups");
    Ok(())
}

fn groups_root(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/user",
        json!({ "uid": 0, "gid": 0, "additionalGids": [42] }),
    );
    let r = report(ctx, &mut b)?;
    ctx.eq(
        status(&r, "Groups").trim(),
        "42",
        "the additional group of root",
    );
    b.set("/process/user", json!({ "uid": 0, "gid": 0 }));
    let r = report(ctx, &mut b)?;
    ctx.eq(
        status(&r, "Groups").trim(),
        "",
        "no group without additionalGids",
    );
    Ok(())
}

fn umask(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/user/umask", json!(0o27));
    let r = report(ctx, &mut b)?;
    ctx.eq(status(&r, "Umask"), "0027", "the umask is 027");
    Ok(())
}

fn umask_unset(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o15));
    let r = report(ctx, &mut b);
    rustix::process::umask(before);
    ctx.eq(
        status(&r?, "Umask"),
        "0015",
        "the umask is the caller's 015",
    );
    Ok(())
}

fn rlimits(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let all = [
        ("RLIMIT_NOFILE", "Max open files", 512u64, 1024),
        ("RLIMIT_CORE", "Max core file size", 0, 4096),
        ("RLIMIT_STACK", "Max stack size", 4 << 20, 8 << 20),
        ("RLIMIT_CPU", "Max cpu time", 60, 120),
        ("RLIMIT_FSIZE", "Max file size", 1 << 30, 2u64 << 30),
        ("RLIMIT_AS", "Max address space", 4u64 << 30, 5u64 << 30),
        ("RLIMIT_NPROC", "Max processes", 100, 200),
        ("RLIMIT_LOCKS", "Max file locks", 10, 20),
        ("RLIMIT_SIGPENDING", "Max pending signals", 100, 200),
        ("RLIMIT_MSGQUEUE", "Max msgqueue size", 4096, 8192),
        ("RLIMIT_NICE", "Max nice priority", 0, 0),
        ("RLIMIT_RTPRIO", "Max realtime priority", 0, 0),
        ("RLIMIT_RTTIME", "Max realtime timeout", 1000, 2000),
        ("RLIMIT_MEMLOCK", "Max locked memory", 4096, 8192),
        ("RLIMIT_DATA", "Max data size", 1 << 30, 2u64 << 30),
        ("RLIMIT_RSS", "Max resident set", 1 << 30, 2u64 << 30),
    ];
    for (kind, _, soft, hard) in all {
        b.set(
            "/process/rlimits/-",
            json!({ "type": kind, "soft": soft, "hard": hard }),
        );
    }
    let r = report(ctx, &mut b)?;
    for (kind, name, soft, hard) in all {
        ctx.eq(
            &r["rlimits"][name],
            &json!([soft.to_string(), hard.to_string()]),
            kind,
        );
    }
    Ok(())
}

fn rlimits_duplicate(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/rlimits",
        json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
        ]),
    );
    ctx.refused(&b, "RLIMIT_NOFILE twice is refused")
}

fn rlimits_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_TEST", "soft": 1, "hard": 1 }]),
    );
    ctx.refused(&b, "RLIMIT_TEST is refused")
}

fn rlimits_inverted(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }]),
    );
    ctx.refused(&b, "soft 2 with hard 1 is refused")
}

fn rlimits_wide(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let wide = (1u64 << 63) + 5;
    b.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_CORE", "soft": wide, "hard": wide }]),
    );
    let r = report(ctx, &mut b)?;
    ctx.eq(
        &r["rlimits"]["Max core file size"],
        &json!([wide.to_string(), wide.to_string()]),
        "2^63 + 5",
    );
    Ok(())
}

/// Bit masks of /proc/self/status, from the numbers of capabilities.
fn mask(numbers: &[u32]) -> String {
    format!("{:016x}", numbers.iter().fold(0u64, |m, n| m | 1 << n))
}

fn capabilities(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/capabilities",
        json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SETPCAP"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        }),
    );
    // Root regains its permitted set by execve; another user shows what was set.
    b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let r = report(ctx, &mut b)?;
    ctx.eq(
        status(&r, "CapBnd"),
        mask(&[0, 5, 27, 8]).as_str(),
        "bounding",
    );
    ctx.eq(status(&r, "CapInh"), mask(&[5]).as_str(), "inheritable");
    ctx.eq(status(&r, "CapAmb"), mask(&[5]).as_str(), "ambient");
    ctx.eq(
        status(&r, "CapPrm"),
        mask(&[5]).as_str(),
        "permitted after execve of another user is the ambient set",
    );
    ctx.eq(
        status(&r, "CapEff"),
        mask(&[5]).as_str(),
        "effective after execve of another user is the ambient set",
    );
    b.set("/process/user", json!({ "uid": 0, "gid": 0 }));
    let r = report(ctx, &mut b)?;
    ctx.eq(
        status(&r, "CapBnd"),
        mask(&[0, 5, 27, 8]).as_str(),
        "bounding of root",
    );
    ctx.eq(
        status(&r, "CapPrm"),
        mask(&[0, 5, 27, 8]).as_str(),
        "permitted of root after execve is inheritable or bounding",
    );
    Ok(())
}

fn capabilities_empty(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/capabilities", json!({}));
    let r = report(ctx, &mut b)?;
    for set in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        ctx.eq(status(&r, set), mask(&[]).as_str(), set);
    }
    Ok(())
}

fn capabilities_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/capabilities/bounding/-", json!("CAP_TEST"))
        .probe(&["exit:0"]);
    ctx.eq(
        ctx.run(&b)?.code,
        Some(0),
        "the container runs with CAP_TEST in the bounding set",
    );
    Ok(())
}

fn capabilities_user(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let set = json!(["CAP_CHOWN"]);
    b.set(
        "/process/capabilities",
        json!({
            "bounding": set, "permitted": set, "effective": set, "inheritable": set, "ambient": set,
        }),
    );
    b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let r = report(ctx, &mut b)?;
    ctx.eq(
        status(&r, "CapEff"),
        mask(&[0]).as_str(),
        "CAP_CHOWN is effective for uid 1000",
    );
    Ok(())
}

fn no_new_privileges(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/noNewPrivileges", json!(true));
    ctx.eq(
        status(&report(ctx, &mut b)?, "NoNewPrivs"),
        "1",
        "NoNewPrivs is 1",
    );
    Ok(())
}

fn no_new_privileges_unset(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    ctx.eq(
        status(&report(ctx, &mut b)?, "NoNewPrivs"),
        "0",
        "NoNewPrivs is 0",
    );
    Ok(())
}

fn oom_score_adj(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/oomScoreAdj", json!(137));
    ctx.eq(
        report(ctx, &mut b)?["oom_score_adj"].as_str(),
        Some("137"),
        "oom_score_adj is 137",
    );
    Ok(())
}

fn oom_unset(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let before = fs::read_to_string("/proc/self/oom_score_adj")?;
    fs::write("/proc/self/oom_score_adj", "73").context("raise the own oom_score_adj")?;
    let r = report(ctx, &mut b);
    let _ = fs::write("/proc/self/oom_score_adj", before.trim());
    ctx.eq(
        r?["oom_score_adj"].as_str(),
        Some("73"),
        "oom_score_adj is the caller's 73",
    );
    Ok(())
}

fn scheduled(ctx: &Ctx, scheduler: Value) -> Result<Value> {
    let mut b = ctx.bundle()?;
    b.set("/process/scheduler", scheduler);
    Ok(report(ctx, &mut b)?["scheduler"].clone())
}

fn scheduler_other(ctx: &Ctx, _: &str) -> Result<()> {
    let s = scheduled(ctx, json!({ "policy": "SCHED_OTHER", "nice": 7 }))?;
    ctx.eq(&s["policy"], &json!(0), "policy");
    ctx.eq(&s["nice"], &json!(7), "nice");
    Ok(())
}

fn scheduler_batch(ctx: &Ctx, _: &str) -> Result<()> {
    let s = scheduled(ctx, json!({ "policy": "SCHED_BATCH" }))?;
    ctx.eq(&s["policy"], &json!(3), "policy");
    ctx.eq(&s["nice"], &json!(0), "an unset nice is 0");
    Ok(())
}

fn scheduler_idle(ctx: &Ctx, _: &str) -> Result<()> {
    let s = scheduled(ctx, json!({ "policy": "SCHED_IDLE" }))?;
    ctx.eq(&s["policy"], &json!(5), "policy");
    Ok(())
}

/// A realtime thread needs budget of its cgroup where realtime is grouped.
fn no_budget() -> bool {
    super::cgroups::v1("cpu", "/").is_some_and(|d| d.join("cpu.rt_runtime_us").exists())
}

fn scheduler_fifo(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/process/scheduler",
        json!({ "policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"] }),
    );
    if no_budget() {
        b.set("/linux/cgroupsPath", json!("/conformance-fifo"));
        b.set(
            "/linux/resources/cpu",
            json!({ "realtimeRuntime": 100_000, "realtimePeriod": 1_000_000 }),
        );
    }
    let s = report(ctx, &mut b)?["scheduler"].clone();
    ctx.eq(&s["policy"], &json!(1), "policy");
    ctx.eq(&s["priority"], &json!(10), "priority");
    ctx.eq(&s["flags"], &json!(1), "flags");
    Ok(())
}

fn scheduler_deadline(ctx: &Ctx, _: &str) -> Result<()> {
    let s = scheduled(
        ctx,
        json!({ "policy": "SCHED_DEADLINE",
        "runtime": 1_000_000, "deadline": 50_000_000, "period": 100_000_000 }),
    )?;
    ctx.eq(&s["policy"], &json!(6), "policy");
    ctx.eq(&s["runtime"], &json!(1_000_000), "runtime");
    ctx.eq(&s["deadline"], &json!(50_000_000), "deadline");
    ctx.eq(&s["period"], &json!(100_000_000), "period");
    Ok(())
}

fn scheduler_invalid(ctx: &Ctx, _: &str) -> Result<()> {
    for value in [
        json!({ "policy": "SCHED_MAYBE" }),
        json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_MAYBE"] }),
        json!({ "nice": 1 }),
    ] {
        let mut b = ctx.bundle()?;
        b.set("/process/scheduler", value.clone());
        ctx.refused(&b, &format!("{value} is refused"))?;
    }
    Ok(())
}

fn io_priority(ctx: &Ctx, _: &str) -> Result<()> {
    for (class, priority, number) in [
        ("IOPRIO_CLASS_BE", 3, 2 << 13 | 3),
        ("IOPRIO_CLASS_RT", 0, 1 << 13),
        ("IOPRIO_CLASS_IDLE", 0, 3 << 13),
    ] {
        let mut b = ctx.bundle()?;
        b.set(
            "/process/ioPriority",
            json!({ "class": class, "priority": priority }),
        );
        ctx.eq(report(ctx, &mut b)?["ioprio"].as_i64(), Some(number), class);
    }
    Ok(())
}

fn io_invalid(ctx: &Ctx, _: &str) -> Result<()> {
    for value in [
        json!({ "class": "IOPRIO_CLASS_MAYBE", "priority": 1 }),
        json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }),
        json!({ "class": "IOPRIO_CLASS_BE", "priority": -1 }),
    ] {
        let mut b = ctx.bundle()?;
        b.set("/process/ioPriority", value.clone());
        ctx.refused(&b, &format!("{value} is refused"))?;
    }
    Ok(())
}

fn one_cpu(ctx: &Ctx) -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or("")
        .trim()
        .to_owned();
    if list.bytes().all(|c| c.is_ascii_digit()) {
        return skip("needs two processors");
    }
    let _ = ctx;
    // The last one, which nobody has by accident.
    Ok(list.rsplit([',', '-']).next().unwrap_or("0").to_owned())
}

fn affinity_init(ctx: &Ctx, _: &str) -> Result<()> {
    let cpu = one_cpu(ctx)?;
    let mut b = ctx.bundle()?;
    b.set(
        "/process/execCPUAffinity",
        json!({ "initial": cpu, "final": cpu }),
    );
    let r = report(ctx, &mut b)?;
    ctx.ok(
        status(&r, "Cpus_allowed_list") != cpu,
        "the first process may use all processors",
    );
    Ok(())
}

fn affinity_exec(ctx: &Ctx, _: &str) -> Result<()> {
    let cpu = one_cpu(ctx)?;
    let mut b = ctx.bundle()?;
    b.set(
        "/process/execCPUAffinity",
        json!({ "initial": cpu, "final": cpu }),
    )
    .probe(&["await:/go"]);
    ctx.create(&b, "c")?;
    ctx.start("c")?;
    let output = match ctx.call(&["exec", "c", "/probe", "probe", "report"]) {
        Ok(text) => text,
        Err(e) => {
            return skip(format!(
                "no operation of the specification adds a process, and `exec` fails: {e}"
            ));
        }
    };
    let line: Value = serde_json::from_str(output.lines().next().unwrap_or(""))?;
    ctx.eq(
        status(&line["result"]["ok"], "Cpus_allowed_list"),
        cpu.as_str(),
        "the process is on the final processor",
    );
    Ok(())
}

fn personality(ctx: &Ctx, _: &str) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        return skip("LINUX32 changes what uname says on x86_64 only");
    }
    let mut b = ctx.bundle()?;
    b.set("/linux/personality", json!({ "domain": "LINUX32" }));
    ctx.eq(
        report(ctx, &mut b)?["machine"].as_str(),
        Some("i686"),
        "LINUX32: uname says i686",
    );
    b.set("/linux/personality", json!({ "domain": "LINUX" }));
    ctx.eq(
        report(ctx, &mut b)?["machine"].as_str(),
        Some("x86_64"),
        "LINUX: uname says x86_64",
    );
    Ok(())
}

fn personality_invalid(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/linux/personality", json!({ "domain": "MINIX" }));
    ctx.refused(&b, "the domain MINIX is refused")
}

fn console_size_ignored(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/consoleSize", json!({ "height": 10, "width": 20 }));
    let r = report(ctx, &mut b)?;
    ctx.ok(r["tty"].is_null(), "standard output is no terminal");
    Ok(())
}

fn terminal(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({ "height": 33, "width": 77 }))
        .probe(&["report", "stat:/dev/console"]);
    let socket = ctx.work.join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    ctx.create_with(
        &b,
        "c",
        &["--console-socket", &socket.display().to_string()],
    )?;
    let (stream, _) = listener.accept()?;
    let (_, mut fds) = super::fdpass::receive(&stream)?;
    let master = fds.pop().context("the runtime sent no terminal")?;
    let pid = ctx.pid("c")?;
    ctx.start("c")?;
    ctx.wait(pid)?;
    // After the end every read gives what is left, then EIO.
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    while let Ok(n) = rustix::io::read(&master, &mut buffer) {
        if n == 0 {
            break;
        }
        text.extend_from_slice(buffer.get(..n).unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<Value> = text
        .lines()
        .filter_map(|l| serde_json::from_str(l.trim()).ok())
        .collect();
    let r = lines
        .first()
        .context("the probe wrote nothing to the terminal")?["result"]["ok"]
        .clone();
    ctx.eq(
        &r["tty"],
        &json!({ "rows": 33, "columns": 77 }),
        "the terminal has the configured size",
    );
    let console = lines
        .get(1)
        .map(|l| l["result"]["ok"]["type"].clone())
        .unwrap_or_default();
    ctx.eq(
        console.as_str(),
        Some("c"),
        "/dev/console is a character device",
    );
    Ok(())
}

fn memory_policy(ctx: &Ctx, _: &str) -> Result<()> {
    // numaif.h: MPOL_PREFERRED 1, MPOL_BIND 2, MPOL_INTERLEAVE 3, MPOL_LOCAL 4
    for (mode, number) in [
        ("MPOL_BIND", 2),
        ("MPOL_INTERLEAVE", 3),
        ("MPOL_PREFERRED", 1),
    ] {
        let mut b = ctx.bundle()?;
        b.set(
            "/linux/memoryPolicy",
            json!({ "mode": mode, "nodes": "0", "flags": [] }),
        );
        ctx.eq(
            &report(ctx, &mut b)?["mempolicy"],
            &json!([number, 1]),
            mode,
        );
    }
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/memoryPolicy",
        json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }),
    );
    ctx.eq(
        &report(ctx, &mut b)?["mempolicy"][0],
        &json!(2 | 1 << 15),
        "MPOL_BIND with MPOL_F_STATIC_NODES",
    );
    Ok(())
}

fn memory_policy_invalid(ctx: &Ctx, _: &str) -> Result<()> {
    for value in [
        json!({ "mode": "MPOL_MAYBE", "nodes": "0" }),
        json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_MAYBE"] }),
        json!({ "mode": "MPOL_BIND", "nodes": "x" }),
        json!({ "mode": "MPOL_DEFAULT", "nodes": "0" }),
    ] {
        let mut b = ctx.bundle()?;
        b.set("/linux/memoryPolicy", value.clone());
        ctx.refused(&b, &format!("{value} is refused"))?;
    }
    Ok(())
}

fn hostname(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/hostname", json!("a-name"));
    ctx.eq(
        report(ctx, &mut b)?["hostname"].as_str(),
        Some("a-name"),
        "hostname",
    );
    Ok(())
}

fn domainname(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set("/domainname", json!("a.domain"));
    ctx.eq(
        report(ctx, &mut b)?["domainname"].as_str(),
        Some("a.domain"),
        "domainname",
    );
    Ok(())
}
