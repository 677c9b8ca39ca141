//! The compiled filter against those of libseccomp and of seccompiler.
//!
//! libseccomp is used through a small C program, built for the test; where
//! there is no compiler or no libseccomp-dev the test says so and passes.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use libc::sock_filter;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::super::compile_for;
use super::super::interpret::{Call, run};
use super::super::profile;
use super::super::table::{AUDIT_I386, AUDIT_X86_64, X32_BIT, X86};
use super::profiles;
use crate::spec::seccomp::{Seccomp, SyscallRule};

/// Reads lines `default ACTION`, `arch TOKEN`, `rule ACTION NAME (INDEX OP A B)*`;
/// writes the filter. Exits with 3 if a rule is refused.
const EXPORTER: &str = r#"
#include <seccomp.h>
#include <stdio.h>
int main(void) {
    static char line[4096];
    scmp_filter_ctx filter = 0;
    while (fgets(line, sizeof line, stdin)) {
        unsigned action, index, op;
        unsigned long long a, b;
        char name[64];
        int at, used, count = 0;
        struct scmp_arg_cmp args[6];
        if (sscanf(line, "default %x", &action) == 1) {
            filter = seccomp_init(action);
        } else if (sscanf(line, "arch %x", &action) == 1) {
            if (seccomp_arch_add(filter, action)) return 2;
        } else if (sscanf(line, "rule %x %63s %n", &action, name, &at) == 2) {
            while (count < 6 && sscanf(line + at, "%u %u %llu %llu %n", &index, &op, &a, &b, &used) == 4) {
                args[count].arg = index;
                args[count].op = op;
                args[count].datum_a = a;
                args[count++].datum_b = b;
                at += used;
            }
            int number = seccomp_syscall_resolve_name(name);
            if (number == __NR_SCMP_ERROR) continue;
            if (seccomp_rule_add_array(filter, action, number, count, args)) return 3;
        }
    }
    return seccomp_export_bpf(filter, 1) ? 1 : 0;
}
"#;

fn exporter(dir: &Path) -> Result<std::path::PathBuf, String> {
    let (source, program) = (dir.join("export.c"), dir.join("export"));
    std::fs::write(&source, EXPORTER).unwrap();
    let output = Command::new("cc")
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .arg("-lseccomp")
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(program),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("cc: {error}")),
    }
}

fn action(rule: &SyscallRule<'_>) -> u32 {
    let profile = Seccomp {
        default_action: rule.action.clone(),
        default_errno_ret: rule.errno_ret,
        ..Seccomp::default()
    };
    profile::read(&profile, &X86).unwrap().default_action
}

/// libseccomp's filter for a profile; `None` if it refuses one of the rules.
fn export(program: &Path, profile: &Seccomp<'_>) -> Option<Vec<sock_filter>> {
    let default = SyscallRule {
        action: profile.default_action.clone(),
        errno_ret: profile.default_errno_ret,
        ..SyscallRule::default()
    };
    let default = action(&default);
    let mut text = format!("default {default:x}\n");
    for name in &profile.architectures {
        match name.as_str() {
            "SCMP_ARCH_X86" => text.push_str("arch 40000003\n"),
            "SCMP_ARCH_X32" => text.push_str("arch 4000003e\n"),
            _ => {}
        }
    }
    for rule in &profile.syscalls {
        let action = action(rule);
        if action == default {
            continue;
        }
        let mut args = String::new();
        for arg in &rule.args {
            // The order of enum scmp_compare.
            let op = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
                .iter()
                .position(|op| arg.op.as_str() == format!("SCMP_CMP_{op}"))
                .unwrap();
            args.push_str(&format!(
                " {} {} {} {}",
                arg.index,
                op + 1,
                arg.value,
                arg.value_two
            ));
        }
        for name in &rule.names {
            text.push_str(&format!("rule {action:x} {name}{args} \n"));
        }
    }
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(3) {
        return None;
    }
    assert!(output.status.success(), "{text}");
    let insns = output.stdout.chunks_exact(8).map(|bytes| sock_filter {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    });
    Some(insns.collect())
}

/// Takes out of a profile what libseccomp cannot express or decides by the
/// shape of its own tree.
///
/// That is: several conditions on one argument; for one call, rules with
/// conditions and different actions, or on different arguments (its tree does
/// not come back from a branch that failed); and, with x32, calls that x86_64
/// does not have (version 2.5 then compares the wrong word).
fn expressible(profile: &mut Seccomp<'_>) {
    let x32 = profile
        .architectures
        .iter()
        .any(|name| *name == "SCMP_ARCH_X32");
    let native = |name: &str| {
        X86.row(name)
            .is_some_and(|row| X86.numbers(row)[0] != 0xffff)
    };
    let mut first: BTreeMap<String, (String, Option<u32>, usize)> = BTreeMap::new();
    for (index, rule) in profile.syscalls.iter_mut().enumerate() {
        // Newer than the libseccomp of many distributions.
        rule.names.retain(|name| *name != "file_setattr");
        rule.names.retain(|name| !x32 || native(name));
        let mut seen = HashSet::new();
        rule.args.retain(|arg| seen.insert(arg.index));
        let shape = match rule.args.as_slice() {
            [] => continue,
            [arg] => arg.index.try_into().unwrap(),
            _ => 6 + index,
        };
        let this = (rule.action.to_string(), rule.errno_ret, shape);
        rule.names.retain(|name| {
            *first
                .entry(name.to_string())
                .or_insert_with(|| this.clone())
                == this
        });
    }
    profile.syscalls.retain(|rule| !rule.names.is_empty());
}

#[test]
fn decides_as_libseccomp() {
    let dir = tempfile::tempdir().unwrap();
    let program = match exporter(dir.path()) {
        Ok(program) => program,
        Err(why) => {
            crate::sys::testing::note_skip(format_args!("no libseccomp to compare with: {why}"));
            return;
        }
    };
    let compared = std::cell::Cell::new(0);
    // Always the same profiles: what libseccomp gets wrong in others must not fail here.
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let input = (
        profiles::profile(),
        prop::collection::vec(any::<[u64; 6]>(), 6),
    );
    runner
        .run(&input, |(mut profile, picks)| {
            expressible(&mut profile);
            let Some(theirs) = export(&program, &profile) else {
                return Ok(());
            };
            let ours = compile_for(&profile, &X86).unwrap().filter;
            for column in 0..3 {
                for mut call in profiles::calls(&profile, &X86, column, &picks) {
                    if !comparable(&profile, &mut call, &ours) {
                        continue;
                    }
                    compared.set(compared.get() + 1);
                    prop_assert_eq!(run(&ours, &call), run(&theirs, &call), "{:x?}", call);
                }
            }
            Ok(())
        })
        .unwrap();
    println!("{} calls compared", compared.get());
    assert!(compared.get() > 10_000);
}

/// Whether both decide this call by the same rules.
fn comparable(profile: &Seccomp<'_>, call: &mut Call, ours: &[sock_filter]) -> bool {
    let number =
        |name: &str, column: usize| X86.row(name).map(|row| u32::from(X86.numbers(row)[column]));
    // The rule for new calls is not libseccomp's.
    if run(ours, call) == Some(profile::RET_ERRNO | 38) {
        return false;
    }
    // libseccomp looks at the low half of x32 arguments only; whole registers count.
    if call.arch == AUDIT_X86_64 && call.number & X32_BIT != 0 {
        call.args = call.args.map(|arg| arg & 0xffff_ffff);
        if profile.syscalls.iter().any(|rule| !rule.args.is_empty()) && big(profile) {
            return false;
        }
    }
    if call.arch == AUDIT_I386 {
        // It cuts the profile's values to 32 bits on 32-bit ABIs.
        if big(profile) {
            return false;
        }
        // It compares pointers where the arguments of socketcall and ipc would be.
        if ["socketcall", "ipc"]
            .iter()
            .any(|name| number(name, 1) == Some(call.number))
        {
            let multiplexed = profile.syscalls.iter().filter(|rule| {
                rule.names.iter().any(|name| {
                    X86.abis[1]
                        .multiplexed
                        .iter()
                        .any(|(other, ..)| name == other)
                })
            });
            return multiplexed.count() == 0;
        }
    }
    true
}

fn big(profile: &Seccomp<'_>) -> bool {
    let mut args = profile.syscalls.iter().flat_map(|rule| &rule.args);
    args.any(|arg| arg.value > 0xffff_ffff || arg.value_two > 0xffff_ffff)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// seccompiler has one action for all rules, and x86_64 without x32.
    #[test]
    fn decides_as_seccompiler(profile in profiles::profile(), picks in prop::collection::vec(any::<[u64; 6]>(), 6)) {
        let mut profile = profile;
        profile.default_action = "SCMP_ACT_ALLOW".into();
        profile.default_errno_ret = None;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let mut always = HashSet::new();
        for rule in &mut profile.syscalls {
            // On one argument seccompiler wants all, and this compiler one of the conditions.
            let mut seen = HashSet::new();
            rule.args.retain(|arg| seen.insert(arg.index));
            rule.action = "SCMP_ACT_ERRNO".into();
            rule.errno_ret = Some(13);
            for row in rule.names.iter().filter_map(|name| X86.row(name)) {
                let number = i64::from(X86.numbers(row)[0]);
                if number == 0xffff {
                    continue;
                }
                let entry = rules.entry(number).or_default();
                if rule.args.is_empty() {
                    always.insert(number);
                } else {
                    entry.push(SeccompRule::new(rule.args.iter().map(|arg| {
                        let (op, value) = match arg.op.as_str() {
                            "SCMP_CMP_NE" => (SeccompCmpOp::Ne, arg.value),
                            "SCMP_CMP_LT" => (SeccompCmpOp::Lt, arg.value),
                            "SCMP_CMP_LE" => (SeccompCmpOp::Le, arg.value),
                            "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, arg.value),
                            "SCMP_CMP_GE" => (SeccompCmpOp::Ge, arg.value),
                            "SCMP_CMP_GT" => (SeccompCmpOp::Gt, arg.value),
                            _ => (SeccompCmpOp::MaskedEq(arg.value), arg.value_two & arg.value),
                        };
                        let index = u8::try_from(arg.index).unwrap();
                        SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, value).unwrap()
                    }).collect()).unwrap());
                }
            }
        }
        for number in always {
            rules.insert(number, Vec::new());
        }
        let theirs = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(13), TargetArch::x86_64).unwrap();
        let theirs: BpfProgram = theirs.try_into().unwrap();
        let theirs: Vec<_> = theirs.iter().map(|insn| sock_filter { code: insn.code, jt: insn.jt, jf: insn.jf, k: insn.k }).collect();
        let ours = compile_for(&profile, &X86).unwrap().filter;
        for call in profiles::calls(&profile, &X86, 0, &picks) {
            if call.number < X32_BIT {
                prop_assert_eq!(run(&ours, &call), run(&theirs, &call), "{:x?}", call);
            }
        }
    }
}
