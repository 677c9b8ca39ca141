//! Random profiles and calls that are likely to hit their corners.

use proptest::prelude::*;
use proptest::sample::select;

use super::super::interpret::Call;
use super::super::table::{Family, PRIVATE};
use crate::spec::seccomp::{Seccomp, SyscallArg, SyscallRule};

/// Names of all kinds: old, new, on some ABIs only, multiplexed, private, unknown.
pub const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "getpid",
    "clone",
    "clone3",
    "socket",
    "accept",
    "recv",
    "socketcall",
    "ipc",
    "semop",
    "semget",
    "shmat",
    "rt_sigaction",
    "ioctl",
    "execveat",
    "openat2",
    "faccessat2",
    "arch_prctl",
    "uselib",
    "waitpid",
    "breakpoint",
    "set_tls",
    "personality",
    "file_setattr",
    "no_such_call",
];

const OPERATORS: &[&str] = &[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

/// Numbers around the borders of words and halves.
pub fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => select(vec![0, 1, 2, 4, 5, 6, 0xff, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff]),
        3 => select(vec![
            1 << 32, (1 << 32) + 5, (5 << 32) + 4, (5 << 32) + 5, (6 << 32) + 5, u64::MAX,
            u64::MAX - 1, 0xffff_ffff_0000_0000,
        ]),
        1 => any::<u64>(),
    ]
}

fn argument() -> impl Strategy<Value = SyscallArg<'static>> {
    (0..6u32, value(), value(), select(OPERATORS)).prop_map(|(index, value, value_two, op)| {
        SyscallArg {
            index: index / 2,
            value,
            value_two,
            op: op.into(),
        }
    })
}

fn action() -> impl Strategy<Value = (&'static str, Option<u32>)> {
    select(vec![
        ("SCMP_ACT_ALLOW", None),
        ("SCMP_ACT_ALLOW", None),
        ("SCMP_ACT_ERRNO", None),
        ("SCMP_ACT_ERRNO", Some(13)),
        ("SCMP_ACT_ERRNO", Some(38)),
        ("SCMP_ACT_KILL", None),
        ("SCMP_ACT_KILL_PROCESS", None),
        ("SCMP_ACT_TRAP", None),
        ("SCMP_ACT_TRACE", Some(7)),
        ("SCMP_ACT_LOG", None),
    ])
}

fn rule() -> impl Strategy<Value = SyscallRule<'static>> {
    let args = prop_oneof![
        1 => Just(Vec::new()),
        2 => prop::collection::vec(argument(), 1..4),
    ];
    (prop::collection::vec(select(NAMES), 1..5), action(), args).prop_map(
        |(names, (action, errno_ret), args)| SyscallRule {
            names: names.into_iter().map(Into::into).collect(),
            action: action.into(),
            errno_ret,
            args,
        },
    )
}

/// A valid profile.
pub fn profile() -> impl Strategy<Value = Seccomp<'static>> {
    let architectures = prop::sample::subsequence(
        vec![
            "SCMP_ARCH_X86_64",
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_ARM",
            "SCMP_ARCH_MIPS",
        ],
        0..=5,
    );
    (
        action(),
        architectures,
        prop::collection::vec(rule(), 0..10),
    )
        .prop_map(
            |((default_action, default_errno_ret), architectures, syscalls)| Seccomp {
                default_action: default_action.into(),
                default_errno_ret,
                architectures: architectures.into_iter().map(Into::into).collect(),
                syscalls,
                ..Seccomp::default()
            },
        )
}

/// Numbers worth trying on an ABI: those of [`NAMES`], their neighbours, and borders.
pub fn numbers(family: &Family, column: usize) -> Vec<u32> {
    let base = family.abis[column].base;
    let mut numbers = vec![
        0,
        600,
        0x3fff_ffff,
        0x4000_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xbfff_ffff,
        0xc000_0000,
        u32::MAX - 1,
        u32::MAX,
    ];
    for name in NAMES {
        let Some(row) = family.row(name) else {
            continue;
        };
        let number = family.numbers(row)[column];
        if number == u16::MAX {
            continue;
        }
        let number = match number & PRIVATE {
            0 => u32::from(number),
            _ => 0xf_0000 + u32::from(number & !PRIVATE),
        };
        numbers.extend([
            base + number.saturating_sub(1),
            base + number,
            base + number + 1,
        ]);
    }
    numbers
}

/// Registers: some of what the profile compares with, and its neighbours.
pub fn registers(profile: &Seccomp<'_>, picks: &[u64; 6]) -> [u64; 6] {
    let mut values = vec![0, 1, 5, u64::MAX];
    for arg in profile.syscalls.iter().flat_map(|rule| &rule.args) {
        for value in [arg.value, arg.value_two, arg.value & arg.value_two] {
            values.extend([
                value,
                value.wrapping_sub(1),
                value.wrapping_add(1),
                value & 0xffff_ffff,
                value | 1 << 32,
            ]);
        }
    }
    picks.map(|pick| values[usize::try_from(pick % values.len() as u64).unwrap()])
}

/// All calls to try with a profile on one ABI.
pub fn calls(
    profile: &Seccomp<'_>,
    family: &Family,
    column: usize,
    picks: &[[u64; 6]],
) -> Vec<Call> {
    let mut calls = Vec::new();
    for number in numbers(family, column) {
        for pick in picks {
            let args = registers(profile, pick);
            calls.push(Call {
                number,
                arch: family.abis[column].audit,
                args,
            });
        }
    }
    calls
}
