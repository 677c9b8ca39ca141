//! config.md and config-linux.md: scheduler, ioPriority, execCPUAffinity and
//! memoryPolicy, the additions of 1.1 to 1.3 to the process.

use super::process::{report, status};
use super::{Case, Ctx, Level, Row, cgroups, rows, skip};
use anyhow::Result;
use serde_json::{Value, json};
use std::fs;

const LINUX: &str = "config.md#linux-process";

const TABLE: &[Row] = &[
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
    cgroups::v1("cpu", "/").is_some_and(|d| d.join("cpu.rt_runtime_us").exists())
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
        "runtime": 25_000_000, "deadline": 50_000_000, "period": 100_000_000 }),
    )?;
    ctx.eq(&s["policy"], &json!(6), "policy");
    ctx.eq(&s["runtime"], &json!(25_000_000), "runtime");
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
