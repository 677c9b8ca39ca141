//! `process`: program, user, capabilities, limits, scheduling.

use super::{Quoted, Report};
use crate::spec::config::{Capabilities, IoPriority, Process, Rlimit, Scheduler, User};
use crate::spec::names::{
    CAPABILITIES, IO_CLASSES, RLIMITS, SCHEDULER_FLAGS, SCHEDULER_POLICIES, capability_number,
};
use crate::spec::ranges::ranges;

const PROCESS: &str = "config.md#process";
const POSIX: &str = "config.md#posix-process";
const LINUX: &str = "config.md#linux-process";
const USER: &str = "config.md#posix-platform-user";

pub(super) fn check(process: &Process<'_>, report: &mut Report) {
    report.absolute(format_args!("process.cwd"), &process.cwd, PROCESS);
    if process.args.is_empty() {
        report.error(
            format_args!("process.args"),
            format_args!("is missing or empty, there is no program to run"),
            PROCESS,
            "name the program and its arguments",
        );
    }
    for (at, arg) in process.args.iter().enumerate() {
        report.no_nul(format_args!("process.args[{at}]"), arg, PROCESS);
    }
    for (at, variable) in process.env.iter().enumerate() {
        report.no_nul(format_args!("process.env[{at}]"), variable, PROCESS);
        if variable.find('=').is_none_or(|at| at == 0) {
            report.error(
                format_args!("process.env[{at}]"),
                format_args!("{} is no variable of an environment", Quoted(variable)),
                PROCESS,
                "write NAME=value",
            );
        }
    }
    if let Some(size) = &process.console_size
        && process.terminal
        && (size.height > u64::from(u16::MAX) || size.width > u64::from(u16::MAX))
    {
        report.error(
            format_args!("process.consoleSize"),
            format_args!(
                "{} times {} characters: a terminal has at most 65535 rows and columns",
                size.height, size.width
            ),
            PROCESS,
            "write smaller numbers",
        );
    }
    user(&process.user, report);
    if let Some(sets) = &process.capabilities {
        capabilities(sets, report);
    }
    rlimits(&process.rlimits, report);
    report.no_nul(
        format_args!("process.apparmorProfile"),
        &process.apparmor_profile,
        LINUX,
    );
    report.no_nul(
        format_args!("process.selinuxLabel"),
        &process.selinux_label,
        LINUX,
    );
    if let Some(value) = process.oom_score_adj
        && !(-1000..=1000).contains(&value)
    {
        report.error(
            format_args!("process.oomScoreAdj"),
            format_args!("{value} is out of range"),
            LINUX,
            "write a number from -1000 to 1000",
        );
    }
    if let Some(value) = &process.scheduler {
        scheduler(value, report);
    }
    if let Some(value) = &process.io_priority {
        io_priority(value, report);
    }
    if let Some(affinity) = &process.exec_cpu_affinity {
        for (name, list) in [("initial", &affinity.initial), ("final", &affinity.after)] {
            if let Some(wrong) = ranges(list).find_map(Result::err) {
                report.error(
                    format_args!("process.execCPUAffinity.{name}"),
                    format_args!("{} is neither a CPU nor a range of CPUs", Quoted(wrong)),
                    LINUX,
                    "write a list such as 0-3,7",
                );
            }
        }
    }
}

fn user(user: &User, report: &mut Report) {
    // setuid(2) and its kin take -1 for "leave it": a user 4294967295 cannot be.
    let mut id = |path: std::fmt::Arguments<'_>, id: u32| {
        if id == u32::MAX {
            report.error(
                path,
                format_args!("4294967295 (-1) is no id: the kernel reserves it"),
                USER,
                "write an id up to 4294967294",
            );
        }
    };
    id(format_args!("process.user.uid"), user.uid);
    id(format_args!("process.user.gid"), user.gid);
    for (at, gid) in user.additional_gids.iter().enumerate() {
        id(format_args!("process.user.additionalGids[{at}]"), *gid);
    }
    // NGROUPS_MAX, setgroups(2).
    if user.additional_gids.len() > 65536 {
        report.error(
            format_args!("process.user.additionalGids"),
            format_args!(
                "{} groups: the kernel takes 65536",
                user.additional_gids.len()
            ),
            USER,
            "list fewer groups",
        );
    }
    if let Some(umask) = user.umask
        && umask > 0o777
    {
        report.error(
            format_args!("process.user.umask"),
            format_args!("{umask} (octal {umask:o}) has bits beyond octal 777"),
            USER,
            "write a decimal number up to 511",
        );
    }
}

fn capabilities(sets: &Capabilities<'_>, report: &mut Report) {
    let mut mask = |name: &str, set: &[crate::spec::Text<'_>]| {
        let mut mask = 0u64;
        for (at, capability) in set.iter().enumerate() {
            match capability_number(capability) {
                Some(number) => mask |= 1 << number,
                None => report.warn(
                    format_args!("process.capabilities.{name}[{at}]"),
                    format_args!(
                        "{} is no known capability and will not be granted",
                        Quoted(capability)
                    ),
                    LINUX,
                    "write a name of capabilities(7), such as CAP_KILL",
                ),
            }
        }
        mask
    };
    mask("bounding", &sets.bounding);
    let effective = mask("effective", &sets.effective);
    let inheritable = mask("inheritable", &sets.inheritable);
    let permitted = mask("permitted", &sets.permitted);
    let ambient = mask("ambient", &sets.ambient);
    let mut beyond = |name: &str, mask: u64, why: &str| {
        for (number, capability) in CAPABILITIES.iter().enumerate() {
            if mask & (1 << number) != 0 {
                report.warn(
                    format_args!("process.capabilities.{name}"),
                    format_args!("{capability} cannot be granted: it is not {why}"),
                    LINUX,
                    "add it there, or remove it here",
                );
            }
        }
    };
    beyond("effective", effective & !permitted, "permitted");
    beyond(
        "ambient",
        ambient & !(permitted & inheritable),
        "both permitted and inheritable",
    );
}

fn rlimits(limits: &[Rlimit<'_>], report: &mut Report) {
    let mut seen = 0u32;
    for (at, limit) in limits.iter().enumerate() {
        match RLIMITS.iter().position(|known| *known == &*limit.kind) {
            Some(number) => {
                if seen & (1 << number) != 0 {
                    report.error(
                        format_args!("process.rlimits[{at}].type"),
                        format_args!("{} is limited twice", limit.kind),
                        POSIX,
                        "keep one entry",
                    );
                }
                seen |= 1 << number;
            }
            None => {
                report.one_of(
                    format_args!("process.rlimits[{at}].type"),
                    &limit.kind,
                    &RLIMITS,
                    "resource limit of Linux",
                    POSIX,
                );
            }
        }
        if limit.soft > limit.hard {
            report.error(
                format_args!("process.rlimits[{at}].soft"),
                format_args!("{} is more than the hard limit {}", limit.soft, limit.hard),
                POSIX,
                "lower the soft or raise the hard limit",
            );
        }
    }
}

fn scheduler(scheduler: &Scheduler<'_>, report: &mut Report) {
    for (at, flag) in scheduler.flags.iter().enumerate() {
        report.one_of(
            format_args!("process.scheduler.flags[{at}]"),
            flag,
            &SCHEDULER_FLAGS,
            "flag of a scheduler",
            LINUX,
        );
    }
    let policy = &*scheduler.policy;
    if !report.one_of(
        format_args!("process.scheduler.policy"),
        policy,
        &SCHEDULER_POLICIES,
        "scheduling policy",
        LINUX,
    ) {
        return;
    }
    if policy == "SCHED_ISO" {
        report.warn(
            format_args!("process.scheduler.policy"),
            format_args!("SCHED_ISO is in no released kernel, which will refuse it"),
            LINUX,
            "use SCHED_IDLE or SCHED_BATCH",
        );
    }
    if matches!(policy, "SCHED_OTHER" | "SCHED_BATCH") && !(-20..=19).contains(&scheduler.nice) {
        report.error(
            format_args!("process.scheduler.nice"),
            format_args!("{} is out of range", scheduler.nice),
            LINUX,
            "write a number from -20 to 19",
        );
    }
    let real_time = matches!(policy, "SCHED_FIFO" | "SCHED_RR");
    if real_time && !(1..=99).contains(&scheduler.priority) {
        report.error(
            format_args!("process.scheduler.priority"),
            format_args!("{} is out of range for {policy}", scheduler.priority),
            LINUX,
            "write a number from 1 to 99",
        );
    } else if !real_time && scheduler.priority != 0 {
        report.error(
            format_args!("process.scheduler.priority"),
            format_args!("{policy} has no priority"),
            LINUX,
            "remove it, or use SCHED_FIFO or SCHED_RR",
        );
    }
    let (runtime, deadline, period) = (scheduler.runtime, scheduler.deadline, scheduler.period);
    if policy != "SCHED_DEADLINE" {
        if runtime != 0 || deadline != 0 || period != 0 {
            report.error(
                format_args!("process.scheduler"),
                format_args!("{policy} has no runtime, deadline or period"),
                LINUX,
                "remove them, or use SCHED_DEADLINE",
            );
        }
        return;
    }
    // sched_setattr(2): 1024 ns <= runtime <= deadline <= period (0: the deadline), all below 2^63.
    if runtime < 1024
        || runtime > deadline
        || period != 0 && deadline > period
        || deadline.max(period) >= 1 << 63
    {
        report.error(
            format_args!("process.scheduler"),
            format_args!(
                "SCHED_DEADLINE with runtime {runtime}, deadline {deadline} and period {period} ns is refused by the kernel"
            ),
            LINUX,
            "make 1024 <= runtime <= deadline <= period < 2^63",
        );
    }
}

fn io_priority(priority: &IoPriority<'_>, report: &mut Report) {
    report.one_of(
        format_args!("process.ioPriority.class"),
        &priority.class,
        &IO_CLASSES,
        "I/O scheduling class",
        LINUX,
    );
    if !(0..=7).contains(&priority.priority) {
        report.error(
            format_args!("process.ioPriority.priority"),
            format_args!("{} is out of range", priority.priority),
            LINUX,
            "write a number from 0 (highest) to 7",
        );
    }
}
