//! The compiled filter against a direct reading of the profile.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::interpret::{Call, run};
use super::super::table::{self, ARM, Abi, Family, PRIVATE, RISCV, X32_BIT, X86};
use super::super::{compile_for, profile};
use super::profiles;
use crate::spec::seccomp::{Seccomp, SyscallArg, SyscallRule};

fn value_of(action: &str, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(1);
    match action {
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | data,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        other => panic!("{other}"),
    }
}

fn holds(arg: &SyscallArg<'_>, args: &[u64; 6], wide: bool) -> bool {
    let register = args[arg.index as usize];
    let actual = if wide {
        register
    } else {
        register & 0xffff_ffff
    };
    match arg.op.as_str() {
        "SCMP_CMP_NE" => actual != arg.value,
        "SCMP_CMP_LT" => actual < arg.value,
        "SCMP_CMP_LE" => actual <= arg.value,
        "SCMP_CMP_EQ" => actual == arg.value,
        "SCMP_CMP_GE" => actual >= arg.value,
        "SCMP_CMP_GT" => actual > arg.value,
        _ => actual & arg.value == arg.value_two & arg.value,
    }
}

/// Whether the conditions of a rule hold: all of them, or one of them if two are on one argument.
fn applies(rule: &SyscallRule<'_>, args: &[u64; 6], wide: bool) -> bool {
    let mut holding = rule.args.iter().map(|arg| holds(arg, args, wide));
    let indices: HashSet<u32> = rule.args.iter().map(|arg| arg.index).collect();
    if indices.len() < rule.args.len() {
        holding.any(|holds| holds)
    } else {
        holding.all(|holds| holds)
    }
}

fn number(family: &Family, name: &str, column: usize) -> Option<u32> {
    match family.numbers(family.row(name)?)[column] {
        u16::MAX => None,
        number if number & PRIVATE != 0 => Some(0xf_0000 + u32::from(number & !PRIVATE)),
        number => Some(u32::from(number) + family.abis[column].base),
    }
}

/// What the documentation of the module says, rule by rule, without any cleverness.
fn expected(profile: &Seccomp<'_>, family: &Family, call: &Call) -> u32 {
    let enabled = |abi: &Abi| profile.architectures.iter().any(|name| *name == abi.name);
    let default = value_of(&profile.default_action, profile.default_errno_ret);
    let x86 = call.arch == table::AUDIT_X86_64;
    let is_x32 = x86 && call.number & X32_BIT != 0;
    let column = family
        .abis
        .iter()
        .position(|abi| abi.audit == call.arch && (abi.base == X32_BIT) == is_x32);
    // A call through a multiplexer names that too.
    let named = |column: usize| {
        let names = profile.syscalls.iter().flat_map(|rule| &rule.names);
        names.flat_map(move |name| {
            let multiplexed = family.abis[column].multiplexed.iter();
            let through = multiplexed
                .filter(move |(other, ..)| name == other)
                .filter_map(move |(_, through, _)| number(family, through, column));
            through.chain(number(family, name, column))
        })
    };
    let newest = |column: usize| {
        named(column)
            .filter(|number| *number & !X32_BIT < 0xf_0000)
            .max()
    };
    let permissive = matches!(
        &*profile.default_action,
        "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" | "SCMP_ACT_TRACE"
    );
    let stub = |column: usize| match newest(column) {
        _ if named(column).any(|number| number == call.number) => default,
        Some(newest) if !permissive && call.number > newest => 0x0005_0000 | 38,
        _ => default,
    };
    let Some(column) = column else { return 0 };
    let abi = &family.abis[column];
    if column != 0 && !enabled(abi) {
        // A tracer's -1 is not a call of x32.
        return if is_x32 && call.number == u32::MAX {
            default
        } else {
            0
        };
    }
    if x86 && call.number >= 0x8000_0000 && !is_x32 {
        let x32 = family
            .abis
            .iter()
            .position(|abi| abi.base == X32_BIT)
            .unwrap();
        if enabled(&family.abis[x32]) {
            // Above all calls of x32, hence newer than these.
            return stub(x32);
        }
        let stub = stub(0);
        return if stub == default { 0 } else { stub };
    }
    let matching = |rule: &&SyscallRule<'_>| {
        value_of(&rule.action, rule.errno_ret) != default
            && rule
                .names
                .iter()
                .any(|name| number(family, name, column) == Some(call.number))
    };
    let rules: Vec<_> = profile.syscalls.iter().filter(matching).collect();
    let value = |rule: &SyscallRule<'_>| value_of(&rule.action, rule.errno_ret);
    if let Some(rule) = rules.iter().find(|rule| rule.args.is_empty()) {
        return value(rule);
    }
    let conditional = rules
        .iter()
        .find(|rule| applies(rule, &call.args, abi.wide));
    if let Some(rule) = conditional {
        return value(rule);
    }
    for (name, through, selector) in abi.multiplexed {
        if number(family, through, column) != Some(call.number)
            || call.args[0] & 0xffff_ffff != u64::from(*selector)
        {
            continue;
        }
        let rules = profile
            .syscalls
            .iter()
            .filter(|rule| value(rule) != default && rule.names.iter().any(|n| n == name));
        let rules: Vec<_> = rules.collect();
        if let Some(rule) = rules.iter().find(|rule| rule.args.is_empty()) {
            return value(rule);
        }
        let forbids =
            |rule: &&&SyscallRule<'_>| !matches!(&*rule.action, "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG");
        if let Some(rule) = rules.iter().find(forbids) {
            return value(rule);
        }
    }
    stub(column)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decides_as_the_profile_says(profile in profiles::profile(), picks in prop::collection::vec(any::<[u64; 6]>(), 6)) {
        for family in [&X86, &ARM, &RISCV] {
            let filter = compile_for(&profile, family).unwrap().filter;
            for column in 0..family.abis.len() {
                for call in profiles::calls(&profile, family, column, &picks) {
                    let actual = run(&filter, &call);
                    let expected = expected(&profile, family, &call);
                    prop_assert_eq!(actual, Some(expected), "{:x?} of {}", call, family.abis[column].name);
                }
            }
            let foreign = Call { number: 1, arch: 8, args: [0; 6] };
            prop_assert_eq!(run(&filter, &foreign), Some(profile::RET_KILL_THREAD));
        }
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let arg = |index, value| SyscallArg {
        index,
        value,
        value_two: 0,
        op: "SCMP_CMP_EQ".into(),
    };
    let profile = |args| Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        syscalls: vec![SyscallRule {
            names: vec!["socket".into()],
            action: "SCMP_ACT_ERRNO".into(),
            args,
            ..SyscallRule::default()
        }],
        ..Seccomp::default()
    };
    let decide = |args: Vec<_>, first, second| {
        let call = Call {
            number: 41,
            arch: table::AUDIT_X86_64,
            args: [first, second, 0, 0, 0, 0],
        };
        let filter = compile_for(&profile(args), &X86).unwrap().filter;
        run(&filter, &call) == Some(0x0005_0001)
    };
    // On two arguments: both.
    let both = || vec![arg(0, 16), arg(1, 3)];
    assert!(decide(both(), 16, 3));
    assert!(!decide(both(), 16, 2));
    // On one argument: any, and then of all the conditions.
    let any = || vec![arg(0, 16), arg(0, 17), arg(1, 3)];
    assert!(decide(any(), 16, 0));
    assert!(decide(any(), 17, 0));
    assert!(decide(any(), 1, 3));
    assert!(!decide(any(), 1, 2));
}

#[test]
fn the_tables_agree_with_the_kernel_headers() {
    macro_rules! check {
        ($family:expr, $column:expr, $arch:ident, $renamed:expr) => {
            let mut count = 0;
            for call in syscalls::$arch::Sysno::iter() {
                let renamed: &[(&str, &str)] = $renamed;
                let name = call.name().trim_start_matches("r#");
                let name = renamed
                    .iter()
                    .find(|(from, _)| *from == name)
                    .map_or(name, |(_, to)| to);
                // The crate gives aarch64 the 64-bit time calls of 32-bit ABIs.
                if stringify!($arch) == "aarch64" && (403..=423).contains(&call.id()) {
                    continue;
                }
                let row = $family
                    .row(name)
                    .unwrap_or_else(|| panic!("{name} on {}", stringify!($arch)));
                assert_eq!(
                    i32::from($family.numbers(row)[$column]),
                    call.id(),
                    "{name}"
                );
                count += 1;
            }
            assert!(count > 300);
        };
    }
    check!(X86, 0, x86_64, &[]);
    check!(X86, 1, x86, &[]);
    check!(ARM, 0, aarch64, &[("fstatat", "newfstatat")]);
    check!(ARM, 1, arm, &[]);
    check!(RISCV, 0, riscv64, &[]);
    // x32 has the numbers of x86_64 up to 511, and from 512 on its own.
    for row in 0..X86.len() {
        let [x86_64, _, x32] = X86.numbers(row);
        assert!(x32 == u16::MAX || x32 == x86_64 || (512..548).contains(&x32));
    }
}

#[test]
fn a_profile_that_does_not_fit_is_refused() {
    let rule = |value| SyscallRule {
        names: vec!["read".into()],
        action: "SCMP_ACT_ALLOW".into(),
        args: vec![SyscallArg {
            index: 0,
            value,
            value_two: 0,
            op: "SCMP_CMP_EQ".into(),
        }],
        ..SyscallRule::default()
    };
    let profile = |rules: u64| Seccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        syscalls: (0..rules).map(rule).collect(),
        ..Seccomp::default()
    };
    let program = compile_for(&profile(3500), &X86).unwrap();
    assert!(program.filter.len() <= 4096);
    for (value, action) in [(0, 0x7fff_0000), (3499, 0x7fff_0000), (3500, 0x0005_0001)] {
        let call = Call {
            number: 0,
            arch: table::AUDIT_X86_64,
            args: [value, 0, 0, 0, 0, 0],
        };
        assert_eq!(run(&program.filter, &call), Some(action));
    }
    let error = compile_for(&profile(5000), &X86).unwrap_err().to_string();
    assert!(error.contains("4096 instructions"), "{error}");
    assert!(compile_for(&profile(200_000), &X86).is_err());
}

/// The default profile of Docker, as dockerd writes it for x86_64.
const DOCKER: &str = include_str!("docker.json");

#[test]
fn the_default_profile_of_docker_is_small_and_right() {
    let profile: Seccomp<'_> = serde_json::from_str(DOCKER).unwrap();
    let filter = compile_for(&profile, &X86).unwrap().filter;
    // Each instruction costs at load, when the kernel runs the filter once for each number.
    println!("{} instructions", filter.len());
    assert!(filter.len() <= 300, "{}", filter.len());
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        [
            state,
            state >> 7,
            state >> 14,
            state >> 21,
            state >> 28,
            state >> 35,
        ]
    };
    let picks: Vec<_> = (0..20).map(|_| next()).collect();
    for column in 0..3 {
        let base = X86.abis[column].base;
        for number in (0..700).map(|number| base + number) {
            for pick in &picks {
                let args = profiles::registers(&profile, pick);
                let call = Call {
                    number,
                    arch: X86.abis[column].audit,
                    args,
                };
                assert_eq!(
                    run(&filter, &call),
                    Some(expected(&profile, &X86, &call)),
                    "{call:x?}"
                );
            }
        }
    }
}
