//! What is refused, with which words, and what the flags come to.

use super::super::{compile, compile_for, table};
use crate::spec::seccomp::Seccomp;

fn error(json: &str) -> String {
    let profile: Seccomp<'_> = serde_json::from_str(json).unwrap();
    compile(&profile).unwrap_err().to_string()
}

#[test]
fn refusals_name_the_place() {
    for (json, start) in [
        (
            r#"{"defaultAction":""}"#,
            "linux.seccomp.defaultAction: must be set",
        ),
        (
            r#"{"defaultAction":"ALLOW"}"#,
            "linux.seccomp.defaultAction: \"ALLOW\" is not an action",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}"#,
            "linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW takes no errno",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#,
            "linux.seccomp.defaultErrnoRet: 4096 is too large",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_TRACE","defaultErrnoRet":65536}"#,
            "linux.seccomp.defaultErrnoRet: 65536 is too large",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/x"}"#,
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default action",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","PDP11"]}"#,
            "linux.seccomp.architectures[1]: \"PDP11\"",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#,
            "linux.seccomp.flags[0]:",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}"#,
            "linux.seccomp.listenerMetadata: must not be set",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_KILL"}]}"#,
            "linux.seccomp.syscalls[0].names: must name",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","errnoRet":1}]}"#,
            "linux.seccomp.syscalls[0].errnoRet: SCMP_ACT_KILL takes no errno",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"x"}]}"#,
            "linux.seccomp.syscalls[0].action: \"x\" is not an action",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "linux.seccomp.listenerPath: must be set",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x","syscalls":[{"names":["read","write"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "linux.seccomp.syscalls[0].names[1]: SCMP_ACT_NOTIFY cannot be used for write",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
            "linux.seccomp.syscalls[0].args[0].index: 6",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":0,"value":1,"op":"=="}]}]}"#,
            "linux.seccomp.syscalls[0].args[0].op: \"==\"",
        ),
    ] {
        let error = error(json);
        assert!(error.starts_with(start), "{json}\n{error}");
    }
}

#[test]
fn flags_are_what_the_profile_says() {
    let flags = |json: &str| {
        let profile: Seccomp<'_> = serde_json::from_str(json).unwrap();
        compile(&profile).unwrap().flags
    };
    assert_eq!(flags(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#), 4);
    assert_eq!(flags(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":[]}"#), 0);
    assert_eq!(
        flags(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC"]}"#
        ),
        3
    );
    // Without notifications there is nothing to wait for.
    assert_eq!(
        flags(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#
        ),
        0
    );
    assert_eq!(
        flags(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"syscalls":[{"names":["getpid"],"action":"SCMP_ACT_NOTIFY"}]}"#
        ),
        32
    );
}

#[test]
fn all_architectures_are_accepted_and_foreign_ones_change_nothing() {
    let profile = |architectures: &[&'static str]| Seccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        architectures: architectures.iter().map(|&name| name.into()).collect(),
        ..Seccomp::default()
    };
    for name in crate::spec::names::SECCOMP_ARCHS {
        let known = table::X86.abis.iter().any(|abi| abi.name == name);
        let plain = compile_for(&profile(&[]), &table::X86)
            .unwrap()
            .filter
            .len();
        let with = compile_for(&profile(&[name]), &table::X86)
            .unwrap()
            .filter
            .len();
        assert!(known || plain == with, "{name}");
    }
}
