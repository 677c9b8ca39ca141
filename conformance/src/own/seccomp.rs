//! config-linux.md, seccomp: actions, operators, return values, architectures,
//! the listener protocol.

use super::{Bundle, Case, Ctx, Ended, Level, Row, rows, skip};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

const CLAUSE: &str = "config-linux.md#seccomp";

const TABLE: &[Row] = &[
    (
        "seccomp.allow",
        CLAUSE,
        Level::Must,
        "SCMP_ACT_ALLOW lets the system call through",
        allow,
    ),
    (
        "seccomp.errno",
        CLAUSE,
        Level::Must,
        "SCMP_ACT_ERRNO gives EPERM by default, errnoRet otherwise",
        errno,
    ),
    (
        "seccomp.errno-zero",
        CLAUSE,
        Level::Must,
        "errnoRet 0 makes the call succeed without effect",
        errno_zero,
    ),
    (
        "seccomp.default-errno",
        CLAUSE,
        Level::Must,
        "defaultErrnoRet is the default action's errno",
        default_errno,
    ),
    (
        "seccomp.kill-process",
        CLAUSE,
        Level::Must,
        "SCMP_ACT_KILL_PROCESS ends the process with SIGSYS",
        kill_process,
    ),
    (
        "seccomp.kill-thread",
        CLAUSE,
        Level::Must,
        "SCMP_ACT_KILL_THREAD and SCMP_ACT_KILL end the thread only",
        kill_thread,
    ),
    (
        "seccomp.trap",
        CLAUSE,
        Level::Must,
        "SCMP_ACT_TRAP sends SIGSYS",
        trap,
    ),
    (
        "seccomp.trace",
        CLAUSE,
        Level::Must,
        "SCMP_ACT_TRACE without a tracer gives ENOSYS",
        trace,
    ),
    (
        "seccomp.log",
        CLAUSE,
        Level::Must,
        "SCMP_ACT_LOG lets the system call through",
        log,
    ),
    (
        "seccomp.operators",
        CLAUSE,
        Level::Must,
        "each operator compares 64 bit values",
        operators,
    ),
    (
        "seccomp.args-and",
        CLAUSE,
        Level::Must,
        "all args of one entry must match",
        args_and,
    ),
    (
        "seccomp.entries-or",
        CLAUSE,
        Level::Must,
        "several entries for one system call each match on their own",
        entries_or,
    ),
    (
        "seccomp.flags",
        CLAUSE,
        Level::Must,
        "each flag of the list is accepted",
        flags,
    ),
    (
        "seccomp.flag-unknown",
        CLAUSE,
        Level::Must,
        "an unknown flag is an error",
        flag_unknown,
    ),
    (
        "seccomp.action-unknown",
        CLAUSE,
        Level::Must,
        "an unknown action is an error",
        action_unknown,
    ),
    (
        "seccomp.operator-unknown",
        CLAUSE,
        Level::Must,
        "an unknown operator is an error",
        operator_unknown,
    ),
    (
        "seccomp.architecture-unknown",
        CLAUSE,
        Level::Must,
        "an unknown architecture is an error",
        architecture_unknown,
    ),
    (
        "seccomp.names-empty",
        CLAUSE,
        Level::Must,
        "an entry without names is an error",
        names_empty,
    ),
    (
        "seccomp.names-unknown",
        CLAUSE,
        Level::Practice,
        "a system call name that is unknown is ignored",
        names_unknown,
    ),
    (
        "seccomp.errno-on-allow",
        CLAUSE,
        Level::Must,
        "errnoRet with an action that has none is an error",
        errno_on_allow,
    ),
    (
        "seccomp.default-errno-on-allow",
        CLAUSE,
        Level::Must,
        "defaultErrnoRet with an action that has none is an error",
        default_errno_on_allow,
    ),
    (
        "seccomp.architecture-foreign",
        CLAUSE,
        Level::Must,
        "the filter holds for a listed architecture that is not the native one",
        architecture_listed,
    ),
    (
        "seccomp.architecture-missing",
        CLAUSE,
        Level::Practice,
        "a system call of an architecture that is not listed does not pass",
        architecture_missing,
    ),
    (
        "seccomp.newer-than-profile",
        CLAUSE,
        Level::Practice,
        "a system call newer than every one the profile names gives ENOSYS",
        newer,
    ),
    (
        "seccomp.no-new-privileges",
        CLAUSE,
        Level::Must,
        "the filter is loaded without and with noNewPrivileges",
        no_new_privileges,
    ),
    (
        "seccomp.status",
        CLAUSE,
        Level::Must,
        "an empty profile that allows all still loads or is harmless",
        empty,
    ),
    (
        "seccomp.notify",
        "config-linux.md#the-container-process-state",
        Level::Must,
        "with SCMP_ACT_NOTIFY the listener gets one state and the descriptor, then the connection is closed",
        notify,
    ),
    (
        "seccomp.notify-answer",
        CLAUSE,
        Level::Must,
        "the listener's answer is the system call's result",
        notify_answer,
    ),
    (
        "seccomp.listener-ignored",
        CLAUSE,
        Level::Must,
        "listenerPath is ignored without SCMP_ACT_NOTIFY",
        listener_ignored,
    ),
    (
        "seccomp.listener-fails",
        CLAUSE,
        Level::Must,
        "a listener that cannot be reached is an error",
        listener_fails,
    ),
    (
        "seccomp.metadata-alone",
        CLAUSE,
        Level::Must,
        "listenerMetadata without listenerPath is an error",
        metadata_alone,
    ),
];

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    rows(TABLE)
}

fn profile(b: &mut Bundle, default: &str, syscalls: Value) {
    let native = format!("SCMP_ARCH_{}", std::env::consts::ARCH.to_ascii_uppercase());
    b.set(
        "/linux/seccomp",
        json!({ "defaultAction": default, "architectures": [native], "syscalls": syscalls }),
    );
}

/// A profile that allows all but one entry.
fn with(ctx: &Ctx, entry: Value, operations: &[&str]) -> Result<Ended> {
    let mut b = ctx.bundle()?;
    profile(&mut b, "SCMP_ACT_ALLOW", json!([entry]));
    b.probe(operations);
    ctx.run(&b)
}

fn allow(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ALLOW" }]),
    );
    b.probe(&["syscall:getpgid", "read:/proc/self/status"]);
    let end = ctx.run(&b)?;
    ctx.eq(end.errno(0)?, None, "getpgid succeeds");
    Ok(())
}

fn errno(ctx: &Ctx, _: &str) -> Result<()> {
    let end = with(
        ctx,
        json!({ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }),
        &["syscall:getpgid", "syscall:getppid"],
    )?;
    ctx.eq(
        end.errno(0)?,
        Some(i64::from(libc::EPERM)),
        "without errnoRet it is EPERM",
    );
    ctx.eq(end.errno(1)?, None, "another system call passes");
    let end = with(
        ctx,
        json!({ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }),
        &["syscall:getpgid"],
    )?;
    ctx.eq(end.errno(0)?, Some(77), "errnoRet 77");
    Ok(())
}

fn errno_zero(ctx: &Ctx, _: &str) -> Result<()> {
    let end = with(
        ctx,
        json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0 }),
        &["mkdir:/made", "stat:/made"],
    )?;
    ctx.eq(end.errno(0)?, None, "mkdir says it succeeded");
    ctx.eq(
        end.errno(1)?,
        Some(i64::from(libc::ENOENT)),
        "nothing was made",
    );
    Ok(())
}

/// Everything the probe and a runtime's last steps need; what is not named is
/// the default action's.
const NEEDED: &[&str] = &[
    "read",
    "write",
    "open",
    "openat",
    "close",
    "stat",
    "fstat",
    "lstat",
    "newfstatat",
    "statx",
    "lseek",
    "mmap",
    "mprotect",
    "munmap",
    "brk",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "ioctl",
    "pread64",
    "readv",
    "writev",
    "access",
    "faccessat",
    "pipe",
    "pipe2",
    "sched_yield",
    "madvise",
    "dup",
    "dup2",
    "dup3",
    "nanosleep",
    "clock_nanosleep",
    "getpid",
    "socket",
    "connect",
    "sendto",
    "sendmsg",
    "recvmsg",
    "recvfrom",
    "clone",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "wait4",
    "waitid",
    "kill",
    "tgkill",
    "tkill",
    "uname",
    "fcntl",
    "getcwd",
    "chdir",
    "fchdir",
    "getdents",
    "getdents64",
    "readlink",
    "readlinkat",
    "umask",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "setuid",
    "setgid",
    "setgroups",
    "setresuid",
    "setresgid",
    "capget",
    "capset",
    "prctl",
    "arch_prctl",
    "futex",
    "set_tid_address",
    "set_robust_list",
    "sigaltstack",
    "gettid",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "eventfd2",
    "poll",
    "ppoll",
    "sched_getaffinity",
    "getrandom",
    "prlimit64",
    "rseq",
    "clock_gettime",
    "gettimeofday",
    "mincore",
    "membarrier",
    "restart_syscall",
    "seccomp",
    "fstatfs",
    "statfs",
    "setsid",
    "setpgid",
    "close_range",
    "getrlimit",
    "setrlimit",
    "timer_create",
    "timer_settime",
    "timer_delete",
    "getppid",
    "accept",
    "accept4",
    "getsockname",
    "getpeername",
    "setsockopt",
    "getsockopt",
    "shutdown",
    "fchmod",
    "fchown",
    "unlink",
    "unlinkat",
    "faccessat2",
    "openat2",
    "getpgrp",
    "setresuid",
    "getresuid",
    "getresgid",
    "rt_sigtimedwait",
    "signalfd4",
    "pidfd_open",
    "pidfd_send_signal",
    "sysinfo",
    "sched_setaffinity",
    "getpriority",
    "setpriority",
    "ftruncate",
    "memfd_create",
];

fn default_errno(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ERRNO",
        json!([{ "names": NEEDED, "action": "SCMP_ACT_ALLOW" }]),
    );
    // The filter is loaded last then: fewer of the runtime's own calls meet it.
    b.set("/process/noNewPrivileges", json!(true));
    b.set("/linux/seccomp/defaultErrnoRet", json!(78))
        .probe(&["syscall:getpgid"]);
    ctx.eq(
        ctx.run(&b)?.errno(0)?,
        Some(78),
        "a system call that is not named gives errno 78",
    );
    b.unset("/linux/seccomp/defaultErrnoRet");
    ctx.eq(
        ctx.run(&b)?.errno(0)?,
        Some(i64::from(libc::EPERM)),
        "without defaultErrnoRet it is EPERM",
    );
    Ok(())
}

/// 128 + SIGSYS, for a program that is pid 1 and its signal seen from outside.
fn ended_by_sigsys(end: &Ended) -> bool {
    end.signal == Some(libc::SIGSYS) || end.code == Some(128 + libc::SIGSYS)
}

fn kill_process(ctx: &Ctx, _: &str) -> Result<()> {
    let end = with(
        ctx,
        json!({ "names": ["getpgid"], "action": "SCMP_ACT_KILL_PROCESS" }),
        &["thread-syscall:getpgid", "stat:/"],
    )?;
    ctx.ok(
        ended_by_sigsys(&end),
        &format!(
            "the process ends with SIGSYS ({:?}, {:?})",
            end.code, end.signal
        ),
    );
    ctx.ok(!end.stdout.contains("stat:/"), "nothing runs after it");
    Ok(())
}

fn kill_thread(ctx: &Ctx, _: &str) -> Result<()> {
    for action in ["SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL"] {
        let end = with(
            ctx,
            json!({ "names": ["getpgid"], "action": action }),
            &["thread-syscall:getpgid", "stat:/", "exit:9"],
        )?;
        ctx.eq(
            &end.result(0)?,
            &json!({ "died": true }),
            &format!("{action}: the thread ends"),
        );
        ctx.eq(
            end.errno(1)?,
            None,
            &format!("{action}: the process goes on"),
        );
    }
    Ok(())
}

fn trap(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_TRAP" }]),
    );
    b.probe(&["syscall:getpgid", "exit:9"]);
    let end = ctx.run(&b)?;
    ctx.ok(
        ended_by_sigsys(&end),
        &format!(
            "the process ends with SIGSYS ({:?}, {:?})",
            end.code, end.signal
        ),
    );
    Ok(())
}

fn trace(ctx: &Ctx, _: &str) -> Result<()> {
    let end = with(
        ctx,
        json!({ "names": ["getpgid"], "action": "SCMP_ACT_TRACE", "errnoRet": 5 }),
        &["syscall:getpgid"],
    )?;
    ctx.eq(
        end.errno(0)?,
        Some(i64::from(libc::ENOSYS)),
        "getpgid gives ENOSYS",
    );
    Ok(())
}

fn log(ctx: &Ctx, _: &str) -> Result<()> {
    let end = with(
        ctx,
        json!({ "names": ["getpgid"], "action": "SCMP_ACT_LOG" }),
        &["syscall:getpgid"],
    )?;
    ctx.eq(end.errno(0)?, None, "getpgid succeeds");
    Ok(())
}

fn operators(ctx: &Ctx, _: &str) -> Result<()> {
    // Around a value whose upper half decides, so that 32 bit comparisons show.
    const V: u64 = (5 << 32) + 7;
    let points = [3u64, 7, (4 << 32) + 9, V - 1, V, V + 1, (6 << 32) + 1];
    let mask = 0xf_0000_000f;
    type Test = fn(u64) -> bool;
    let table: [(&str, u64, Option<u64>, Test); 7] = [
        ("SCMP_CMP_EQ", V, None, |x| x == V),
        ("SCMP_CMP_NE", V, None, |x| x != V),
        ("SCMP_CMP_LT", V, None, |x| x < V),
        ("SCMP_CMP_LE", V, None, |x| x <= V),
        ("SCMP_CMP_GT", V, None, |x| x > V),
        ("SCMP_CMP_GE", V, None, |x| x >= V),
        ("SCMP_CMP_MASKED_EQ", mask, Some(V & mask), |x| {
            x & 0xf_0000_000f == V & 0xf_0000_000f
        }),
    ];
    for (name, value, two, matches) in table {
        let mut arg = json!({ "index": 1, "value": value, "op": name });
        if let Some(two) = two {
            arg["valueTwo"] = json!(two);
        }
        // Other lseeks (of the probe's start) have SEEK_CUR or small offsets: only SEEK_SET counts.
        let operations: Vec<String> = points.iter().map(|p| format!("lseek:{p}")).collect();
        let operations: Vec<&str> = operations.iter().map(String::as_str).collect();
        let end = with(
            ctx,
            json!({ "names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 79, "args": [arg] }),
            &operations,
        )?;
        let mut wrong = Vec::new();
        for (i, point) in points.iter().enumerate() {
            if (end.errno(i)? == Some(79)) != matches(*point) {
                wrong.push(*point);
            }
        }
        ctx.eq(
            wrong,
            Vec::<u64>::new(),
            &format!("{name}: values that are compared wrongly"),
        );
    }
    Ok(())
}

fn args_and(ctx: &Ctx, _: &str) -> Result<()> {
    let entry = |second: u64| {
        json!({ "names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 79, "args": [
        { "index": 1, "value": 100, "op": "SCMP_CMP_EQ" }, { "index": 2, "value": second, "op": "SCMP_CMP_EQ" },
    ] })
    };
    let end = with(ctx, entry(0), &["lseek:100", "lseek:101"])?;
    ctx.eq(end.errno(0)?, Some(79), "both match");
    ctx.eq(end.errno(1)?, None, "the first does not match");
    let end = with(ctx, entry(9), &["lseek:100"])?;
    ctx.eq(end.errno(0)?, None, "the second does not match");
    Ok(())
}

fn entries_or(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    let entry = |value: u64| {
        json!({ "names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 79,
        "args": [{ "index": 1, "value": value, "op": "SCMP_CMP_EQ" }] })
    };
    profile(&mut b, "SCMP_ACT_ALLOW", json!([entry(100), entry(200)]));
    b.probe(&["lseek:100", "lseek:200", "lseek:300"]);
    let end = ctx.run(&b)?;
    ctx.eq(
        [end.errno(0)?, end.errno(1)?, end.errno(2)?],
        [Some(79), Some(79), None],
        "100 and 200 match, 300 does not",
    );
    Ok(())
}

fn flags(ctx: &Ctx, _: &str) -> Result<()> {
    for flag in [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    ] {
        let mut b = ctx.bundle()?;
        profile(
            &mut b,
            "SCMP_ACT_ALLOW",
            json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
        );
        b.set("/linux/seccomp/flags", json!([flag]))
            .probe(&["syscall:getpgid"]);
        let errno = ctx.run(&b).and_then(|end| end.errno(0));
        let error = errno
            .as_ref()
            .err()
            .map_or(String::new(), |e| format!("{e:#}"));
        ctx.note(flag, matches!(errno, Ok(Some(1))), &[("error", &error)]);
    }
    Ok(())
}

fn flag_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
    );
    b.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_MAYBE"]));
    ctx.refused(&b, "SECCOMP_FILTER_FLAG_MAYBE is refused")
}

fn refused_profile(ctx: &Ctx, default: &str, entry: Value, what: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(&mut b, default, json!([entry]));
    ctx.refused(&b, what)
}

fn action_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    refused_profile(
        ctx,
        "SCMP_ACT_ALLOW",
        json!({ "names": ["getpgid"], "action": "SCMP_ACT_MAYBE" }),
        "SCMP_ACT_MAYBE is refused",
    )?;
    refused_profile(
        ctx,
        "SCMP_ACT_MAYBE",
        json!({ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }),
        "as default action too",
    )
}

fn operator_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let args = json!([{ "index": 0, "value": 1, "op": "SCMP_CMP_MAYBE" }]);
    refused_profile(
        ctx,
        "SCMP_ACT_ALLOW",
        json!({ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "args": args }),
        "SCMP_CMP_MAYBE is refused",
    )
}

fn architecture_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
    );
    b.set("/linux/seccomp/architectures", json!(["SCMP_ARCH_MAYBE"]));
    ctx.refused(&b, "SCMP_ARCH_MAYBE is refused")
}

fn names_empty(ctx: &Ctx, _: &str) -> Result<()> {
    refused_profile(
        ctx,
        "SCMP_ACT_ALLOW",
        json!({ "names": [], "action": "SCMP_ACT_ERRNO" }),
        "an empty names is refused",
    )
}

fn names_unknown(ctx: &Ctx, _: &str) -> Result<()> {
    let end = with(
        ctx,
        json!({ "names": ["no_such_call", "getpgid"], "action": "SCMP_ACT_ERRNO" }),
        &["syscall:getpgid"],
    )?;
    ctx.eq(
        end.errno(0)?,
        Some(i64::from(libc::EPERM)),
        "the known name beside it holds",
    );
    Ok(())
}

fn errno_on_allow(ctx: &Ctx, _: &str) -> Result<()> {
    for action in [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_LOG",
        "SCMP_ACT_TRAP",
    ] {
        refused_profile(
            ctx,
            "SCMP_ACT_ALLOW",
            json!({ "names": ["keyctl"], "action": action, "errnoRet": 5 }),
            &format!("errnoRet with {action} is refused"),
        )?;
    }
    Ok(())
}

fn default_errno_on_allow(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
    );
    b.set("/linux/seccomp/defaultErrnoRet", json!(5));
    ctx.refused(&b, "defaultErrnoRet with SCMP_ACT_ALLOW is refused")
}

/// What the 32 bit entry of the kernel does here without any filter.
fn i386_works(ctx: &Ctx) -> Result<bool> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok(false);
    }
    let mut b = ctx.bundle()?;
    b.probe(&["i386"]);
    Ok(ctx.run(&b)?.result(0).is_ok_and(|r| r.get("ok").is_some()))
}

fn i386(ctx: &Ctx, architectures: Value) -> Result<Ended> {
    if !i386_works(ctx)? {
        return skip("the machine has no second system call architecture to try");
    }
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 79 }]),
    );
    b.set("/linux/seccomp/architectures", architectures)
        .probe(&["thread-i386"]);
    ctx.run(&b)
}

fn architecture_listed(ctx: &Ctx, _: &str) -> Result<()> {
    let end = i386(ctx, json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]))?;
    ctx.eq(
        end.errno(0)?,
        Some(79),
        "getpid of i386 gives errno 79 like that of x86_64",
    );
    Ok(())
}

fn architecture_missing(ctx: &Ctx, _: &str) -> Result<()> {
    let end = i386(ctx, json!(["SCMP_ARCH_X86_64"]))?;
    let passed = end.result(0).is_ok_and(|r| r.get("ok").is_some());
    ctx.ok(!passed, "getpid of i386 does not pass");
    Ok(())
}

fn newer(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ERRNO",
        json!([{ "names": NEEDED, "action": "SCMP_ACT_ALLOW" }]),
    );
    // The filter is loaded last then: fewer of the runtime's own calls meet it.
    b.set("/process/noNewPrivileges", json!(true));
    b.probe(&["syscall:unassigned", "syscall:getpgid"]);
    let end = ctx.run(&b)?;
    ctx.eq(
        end.errno(0)?,
        Some(i64::from(libc::ENOSYS)),
        "a number beyond the profile gives ENOSYS",
    );
    ctx.eq(
        end.errno(1)?,
        Some(i64::from(libc::EPERM)),
        "an old system call that is not named gives EPERM",
    );
    Ok(())
}

fn no_new_privileges(ctx: &Ctx, _: &str) -> Result<()> {
    for set in [false, true] {
        let mut b = ctx.bundle()?;
        profile(
            &mut b,
            "SCMP_ACT_ALLOW",
            json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
        );
        b.set("/process/noNewPrivileges", json!(set));
        b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
        b.set("/process/capabilities", json!({}));
        b.probe(&["syscall:getpgid", "report"]);
        let end = ctx.run(&b)?;
        ctx.eq(
            end.errno(0)?,
            Some(i64::from(libc::EPERM)),
            &format!("the filter holds with noNewPrivileges {set}"),
        );
        let report = end.value(1)?;
        ctx.eq(
            report["status"]["Seccomp"].as_str(),
            Some("2"),
            &format!("Seccomp is 2 with noNewPrivileges {set}"),
        );
        ctx.eq(
            report["status"]["NoNewPrivs"].as_str(),
            Some(if set { "1" } else { "0" }),
            "NoNewPrivs is as configured",
        );
    }
    Ok(())
}

fn empty(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    b.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW" }),
    )
    .probe(&["syscall:getpgid"]);
    ctx.eq(ctx.run(&b)?.errno(0)?, None, "system calls pass");
    Ok(())
}

/// Creates a container whose getpgid is notified; accepts what the runtime sends.
fn notified(ctx: &Ctx) -> Result<(Bundle, Value, Vec<std::os::fd::OwnedFd>, bool)> {
    let mut b = ctx.bundle()?;
    let socket = ctx.work.join("seccomp.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_NOTIFY" }]),
    );
    b.set(
        "/linux/seccomp/listenerPath",
        json!(socket.display().to_string()),
    );
    b.set("/linux/seccomp/listenerMetadata", json!("some=data"));
    b.probe(&["syscall:getpgid"]);
    // The runtime may send at create or at start, and waits for nobody.
    let receiver = std::thread::spawn(
        move || -> Result<(Vec<u8>, Vec<std::os::fd::OwnedFd>, bool)> {
            let (stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let (mut data, fds) = super::fdpass::receive(&stream)?;
            let closed = loop {
                match super::fdpass::receive(&stream) {
                    Ok((more, _)) if more.is_empty() => break true,
                    Ok((more, _)) => data.extend(more),
                    Err(_) => break false,
                }
            };
            Ok((data, fds, closed))
        },
    );
    ctx.create(&b, "c")?;
    ctx.start("c")?;
    // A runtime that sends nothing must not block the test: unblock accept.
    if !ctx.until(|| receiver.is_finished()) {
        let _ = std::os::unix::net::UnixStream::connect(&socket);
    }
    let (data, fds, closed) = receiver
        .join()
        .map_err(|_| anyhow::anyhow!("the receiving thread failed"))?
        .context("receive from the runtime")?;
    let state = serde_json::from_slice(&data)
        .with_context(|| format!("the payload is no JSON: {}", String::from_utf8_lossy(&data)))?;
    Ok((b, state, fds, closed))
}

fn notify(ctx: &Ctx, _: &str) -> Result<()> {
    let (b, state, fds, closed) = notified(ctx)?;
    let pid = ctx.pid("c")?;
    ctx.eq(fds.len(), 1, "one descriptor came with the first message");
    ctx.eq(&state["fds"], &json!(["seccompFd"]), "fds names it");
    ctx.ok(closed, "the connection is closed after one state");
    ctx.ok(
        state["ociVersion"]
            .as_str()
            .is_some_and(|v| v.split('.').count() == 3 && v != "0.2.0"),
        "ociVersion is the specification's version",
    );
    ctx.eq(
        state["pid"].as_i64(),
        Some(i64::from(pid.as_raw())),
        "pid is the container process",
    );
    ctx.eq(
        state["metadata"].as_str(),
        Some("some=data"),
        "metadata is listenerMetadata",
    );
    ctx.eq(state["state"]["id"].as_str(), Some("c"), "state.id");
    ctx.eq(
        state["state"]["status"].as_str(),
        Some("creating"),
        "state.status",
    );
    ctx.eq(
        state["state"]["bundle"].as_str(),
        Some(b.dir.display().to_string().as_str()),
        "state.bundle",
    );
    Ok(())
}

fn notify_answer(ctx: &Ctx, _: &str) -> Result<()> {
    let (b, _, fds, _) = notified(ctx)?;
    let fd = fds.first().context("no descriptor")?;
    let (number, _, _) = crate::sys::answer_notification(fd.as_fd(), 79)?;
    ctx.eq(
        i64::from(number),
        libc::SYS_getpgid,
        "the notification is for getpgid",
    );
    let pid = ctx.pid("c")?;
    let end = ctx.finish(&b, "c", pid)?;
    ctx.eq(
        end.errno(0)?,
        Some(79),
        "the program gets the errno of the answer",
    );
    Ok(())
}

fn listener_ignored(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
    );
    b.set("/linux/seccomp/listenerPath", json!("/no/such/socket"))
        .probe(&["syscall:getpgid"]);
    ctx.eq(
        ctx.run(&b)?.errno(0)?,
        Some(i64::from(libc::EPERM)),
        "a path that leads nowhere does no harm",
    );
    Ok(())
}

fn listener_fails(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_NOTIFY" }]),
    );
    b.set("/linux/seccomp/listenerPath", json!("/no/such/socket"));
    ctx.refused(&b, "a listener that is not there is refused")
}

fn metadata_alone(ctx: &Ctx, _: &str) -> Result<()> {
    let mut b = ctx.bundle()?;
    profile(
        &mut b,
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["getpgid"], "action": "SCMP_ACT_ERRNO" }]),
    );
    b.set("/linux/seccomp/listenerMetadata", json!("data"));
    ctx.refused(&b, "listenerMetadata alone is refused")
}
