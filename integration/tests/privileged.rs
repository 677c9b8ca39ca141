//! What only a caller with CAP_SYS_RESOURCE can grant; the virtual machine's root has it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;

use knarr_integration::{Sandbox, json};

/// Whether this process has CAP_SYS_RESOURCE, capabilities(7).
fn may_raise() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & (1 << 24) != 0
}

#[test]
fn hard_limits_are_raised_beyond_the_callers() {
    if !may_raise() {
        knarr_integration::skip!("no CAP_SYS_RESOURCE to raise hard limits with");
    }
    let sb = Sandbox::new();
    let out = sb
        .sh("ulimit -H -c; ulimit -S -c; ulimit -H -n", |c| {
            c["process"]["rlimits"] = json!([
                {"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": 4096},
                {"type": "RLIMIT_NOFILE", "hard": 1_048_000, "soft": 1024},
            ]);
        })
        .ok();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!(lines, ["unlimited", "8", "1048000"]);
}

#[test]
fn oom_score_is_lowered_below_the_callers() {
    if !may_raise() {
        knarr_integration::skip!("no CAP_SYS_RESOURCE to lower oom_score_adj with");
    }
    let sb = Sandbox::new();
    let out = sb
        .sh("cat /proc/self/oom_score_adj", |c| {
            c["process"]["oomScoreAdj"] = json!(-500);
        })
        .ok();
    assert_eq!(out.text(), "-500");
}
