//! `linux.seccomp`.

use super::{Quoted, Report};
use crate::spec::names::{SECCOMP_ACTIONS, SECCOMP_ARCHS, SECCOMP_FLAGS, SECCOMP_OPERATORS};
use crate::spec::seccomp::Seccomp;

const CLAUSE: &str = "config-linux.md#seccomp";

/// `SCMP_ACT_ERRNO` returns at most this number (`MAX_ERRNO` of the kernel).
const MAX_ERRNO: u32 = 4095;
/// `SCMP_ACT_TRACE` hands 16 bits to the tracer.
const MAX_TRACE: u32 = 65535;

pub(super) fn check(seccomp: &Seccomp<'_>, report: &mut Report) {
    let path = format_args!("linux.seccomp.defaultAction");
    report.one_of(
        path,
        &seccomp.default_action,
        &SECCOMP_ACTIONS,
        "seccomp action",
        CLAUSE,
    );
    errno(
        format_args!("linux.seccomp.defaultErrnoRet"),
        &seccomp.default_action,
        seccomp.default_errno_ret,
        report,
    );
    for (at, arch) in seccomp.architectures.iter().enumerate() {
        let path = format_args!("linux.seccomp.architectures[{at}]");
        report.one_of(path, arch, &SECCOMP_ARCHS, "seccomp architecture", CLAUSE);
    }
    for (at, flag) in seccomp.flags.iter().flatten().enumerate() {
        let path = format_args!("linux.seccomp.flags[{at}]");
        report.one_of(path, flag, &SECCOMP_FLAGS, "seccomp flag", CLAUSE);
    }
    if seccomp.default_action == "SCMP_ACT_NOTIFY" {
        report.error(
            format_args!("linux.seccomp.defaultAction"),
            format_args!(
                "SCMP_ACT_NOTIFY would hold the system calls that hand the listener its descriptor"
            ),
            CLAUSE,
            "use it for single system calls",
        );
    }
    let mut notify = false;
    for (at, rule) in seccomp.syscalls.iter().enumerate() {
        if rule.names.is_empty() {
            report.error(
                format_args!("linux.seccomp.syscalls[{at}].names"),
                format_args!("is missing or empty"),
                CLAUSE,
                "name at least one system call, or remove the rule",
            );
        }
        for (number, name) in rule.names.iter().enumerate() {
            if name.is_empty() {
                report.error(
                    format_args!("linux.seccomp.syscalls[{at}].names[{number}]"),
                    format_args!("is empty"),
                    CLAUSE,
                    "write the name of a system call",
                );
            }
        }
        let path = format_args!("linux.seccomp.syscalls[{at}].action");
        report.one_of(
            path,
            &rule.action,
            &SECCOMP_ACTIONS,
            "seccomp action",
            CLAUSE,
        );
        notify |= rule.action == "SCMP_ACT_NOTIFY";
        errno(
            format_args!("linux.seccomp.syscalls[{at}].errnoRet"),
            &rule.action,
            rule.errno_ret,
            report,
        );
        for (number, arg) in rule.args.iter().enumerate() {
            if arg.index > 5 {
                report.error(
                    format_args!("linux.seccomp.syscalls[{at}].args[{number}].index"),
                    format_args!("{}: a system call has six arguments", arg.index),
                    CLAUSE,
                    "write a number from 0 to 5",
                );
            }
            let path = format_args!("linux.seccomp.syscalls[{at}].args[{number}].op");
            report.one_of(
                path,
                &arg.op,
                &SECCOMP_OPERATORS,
                "seccomp comparison",
                CLAUSE,
            );
        }
    }
    report.no_nul(
        format_args!("linux.seccomp.listenerPath"),
        &seccomp.listener_path,
        CLAUSE,
    );
    if !seccomp.listener_metadata.is_empty() && seccomp.listener_path.is_empty() {
        report.error(
            format_args!("linux.seccomp.listenerMetadata"),
            format_args!("is set, but listenerPath is not: there is nobody to send it to"),
            CLAUSE,
            "set listenerPath, or remove the metadata",
        );
    }
    if notify && seccomp.listener_path.is_empty() {
        report.error(
            format_args!("linux.seccomp.listenerPath"),
            format_args!("is missing: SCMP_ACT_NOTIFY needs a listener that answers"),
            CLAUSE,
            "set the path of the listener's socket, or use another action",
        );
    }
}

/// `errnoRet` of an action; "when the action doesn't support an errno, the runtime MUST fail".
fn errno(path: std::fmt::Arguments<'_>, action: &str, errno: Option<u32>, report: &mut Report) {
    let Some(errno) = errno else { return };
    let max = match action {
        "SCMP_ACT_ERRNO" => MAX_ERRNO,
        "SCMP_ACT_TRACE" => MAX_TRACE,
        _ => {
            report.error(
                path,
                format_args!("is set, but {} returns no errno", Quoted(action)),
                CLAUSE,
                "remove it, or use SCMP_ACT_ERRNO or SCMP_ACT_TRACE",
            );
            return;
        }
    };
    if errno > max {
        report.error(
            path,
            format_args!("{errno} is out of range for {action}"),
            CLAUSE,
            &format!("write a number up to {max}"),
        );
    }
}
