//! Device rules as a program for cgroup v2 (`BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! Belongs here: the assembler and the attaching. Does not: bpf(2) itself (`sys::bpf`).
//!
//! The kernel calls the program with a device's kind, numbers and the wanted
//! access, and lets the access pass when it returns 1. For each wanted bit the
//! last rule that matches decides, so the program walks the rules backwards,
//! crosses out what a rule allows, returns 0 at the first bit denied and 1 when
//! nothing is left. Documentation: linux/bpf.h, `struct bpf_cgroup_dev_ctx`.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;

use super::devices::{ALL, DeviceKind, MKNOD, READ, Rule, WRITE};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf::{self, Instruction};

// linux/bpf.h
const BPF_DEVCG_DEV_BLOCK: i32 = 1;
const BPF_DEVCG_DEV_CHAR: i32 = 2;
const BPF_DEVCG_ACC_MKNOD: i32 = 1;
const BPF_DEVCG_ACC_READ: i32 = 2;
const BPF_DEVCG_ACC_WRITE: i32 = 4;
const ACCESS_ALL: i32 = BPF_DEVCG_ACC_MKNOD | BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE;

/// Registers: what the kernel passes (1), and what is kept of it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 6;
const ACCESS: u8 = 7;
const MAJOR: u8 = 8;
const MINOR: u8 = 9;

// Operations on the low 32 bits: class, source of the operand (constant), operation.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const EXIT: u8 = 0x95;
const JUMP_IF_NOT_EQUAL: u8 = 0x56;
const JUMP_IF_BIT_SET: u8 = 0x46;
const JUMP: u8 = 0x05;

fn op(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

fn load(to: u8, offset: i16) -> Instruction {
    op(LOAD_WORD, to | CONTEXT << 4, offset, 0)
}

fn returns(value: i32) -> [Instruction; 2] {
    [op(MOVE, RESULT, 0, value), op(EXIT, 0, 0, 0)]
}

/// The program for a list of rules.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, 0),
        op(MOVE_REGISTER, ACCESS | KIND << 4, 0, 0),
        op(AND, KIND, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        if rule_program(rule, &mut program) {
            // Nothing gets past this rule, and the verifier refuses code that nothing reaches.
            return program;
        }
    }
    program.extend(returns(0));
    program
}

/// Appends one rule; tells whether it decides everything that reaches it.
fn rule_program(rule: &Rule, program: &mut Vec<Instruction>) -> bool {
    let kind = rule.kind.map(|kind| match kind {
        DeviceKind::Block => BPF_DEVCG_DEV_BLOCK,
        DeviceKind::Char => BPF_DEVCG_DEV_CHAR,
    });
    let mut bits = 0;
    for (ours, kernels) in [
        (READ, BPF_DEVCG_ACC_READ),
        (WRITE, BPF_DEVCG_ACC_WRITE),
        (MKNOD, BPF_DEVCG_ACC_MKNOD),
    ] {
        if rule.access & ours != 0 {
            bits |= kernels;
        }
    }
    let mut verdict = Vec::with_capacity(4);
    match (rule.allow, rule.access == ALL) {
        (allow, true) => verdict.extend(returns(i32::from(allow))),
        (true, false) => {
            verdict.push(op(AND, ACCESS, 0, ACCESS_ALL & !bits));
            verdict.push(op(JUMP_IF_NOT_EQUAL, ACCESS, 2, 0));
            verdict.extend(returns(1));
        }
        (false, false) => {
            verdict.push(op(JUMP_IF_BIT_SET, ACCESS, 1, bits));
            verdict.push(op(JUMP, 0, 2, 0));
            verdict.extend(returns(0));
        }
    }
    let mut conditions = Vec::with_capacity(3);
    for (register, value) in [
        (KIND, kind),
        (MAJOR, rule.major.map(u32::cast_signed)),
        (MINOR, rule.minor.map(u32::cast_signed)),
    ] {
        if let Some(value) = value {
            conditions.push((register, value));
        }
    }
    let length = conditions.len() + verdict.len();
    for (at, (register, value)) in conditions.iter().enumerate() {
        // Past the rest of this rule: at most seven instructions away.
        let distance = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        program.push(op(JUMP_IF_NOT_EQUAL, *register, distance, *value));
    }
    program.append(&mut verdict);
    conditions.is_empty() && rule.access == ALL
}

/// Puts the rules on a cgroup, in place of those an earlier container left there.
///
/// # Errors
/// A kernel without device filters, or a caller without the capability.
pub(super) fn attach(cgroup: BorrowedFd<'_>, rules: &[Rule], fresh: bool) -> Result<()> {
    let program =
        bpf::load_device_filter(&assemble(rules)).map_err(|errno| explain(errno, "load"))?;
    let earlier = if fresh {
        Vec::new()
    } else {
        bpf::device_filters(cgroup).map_err(|errno| explain(errno, "query"))?
    };
    bpf::attach_device_filter(cgroup, program.as_fd()).map_err(|errno| explain(errno, "attach"))?;
    for old in &earlier {
        bpf::detach_device_filter(cgroup, old.as_fd())
            .context(|| "bpf(BPF_PROG_DETACH)")
            .context(|| "linux.resources.devices")?;
    }
    Ok(())
}

fn explain(errno: Errno, step: &str) -> Error {
    let error = Error::system(format!("bpf({step} a device filter)"), errno)
        .context("linux.resources.devices");
    match errno {
        Errno::NOSYS | Errno::INVAL if step == "load" => error.with_kind(Kind::Unsupported),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::{Rule, rules};
    use super::*;

    /// Runs a program as the kernel does, for the few operations that occur.
    fn run(program: &[Instruction], kind: i32, access: i32, major: u32, minor: u32) -> i32 {
        let context = [
            kind | access << 16,
            major.cast_signed(),
            minor.cast_signed(),
        ];
        let mut registers = [0_i32; 10];
        let mut at = 0_usize;
        loop {
            let instruction = program[at];
            let to = usize::from(instruction.registers & 15);
            let from = usize::from(instruction.registers >> 4);
            let value = instruction.immediate;
            let jump = usize::try_from(instruction.offset).unwrap();
            at += 1;
            match instruction.code {
                LOAD_WORD => registers[to] = context[jump / 4],
                MOVE => registers[to] = value,
                MOVE_REGISTER => registers[to] = registers[from],
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                JUMP => at += jump,
                JUMP_IF_NOT_EQUAL if registers[to] != value => at += jump,
                JUMP_IF_BIT_SET if registers[to] & value != 0 => at += jump,
                JUMP_IF_NOT_EQUAL | JUMP_IF_BIT_SET => {}
                EXIT => return registers[0],
                other => panic!("operation {other:#x}"),
            }
        }
    }

    /// What the specification says, rule by rule in the listed order.
    fn verdict(rules: &[Rule], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let mut allowed = 0;
        for rule in rules {
            let same_kind = match rule.kind {
                None => true,
                Some(DeviceKind::Block) => kind == BPF_DEVCG_DEV_BLOCK,
                Some(DeviceKind::Char) => kind == BPF_DEVCG_DEV_CHAR,
            };
            if !same_kind
                || rule.major.is_some_and(|number| number != major)
                || rule.minor.is_some_and(|number| number != minor)
            {
                continue;
            }
            let mut bits = 0;
            for (ours, theirs) in [(READ, 2), (WRITE, 4), (MKNOD, 1)] {
                if rule.access & ours != 0 {
                    bits |= theirs;
                }
            }
            if rule.allow {
                allowed |= bits;
            } else {
                allowed &= !bits;
            }
        }
        access & !allowed == 0
    }

    fn same_for_all(json: &str) {
        let rules = rules(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        let program = assemble(&rules);
        for kind in [1, 2] {
            for access in 1..8 {
                for major in [0, 1, 4, 5, 8, 10, 136, u32::MAX] {
                    for minor in [0, 3, 5, 200, u32::MAX] {
                        assert_eq!(
                            run(&program, kind, access, major, minor) == 1,
                            verdict(&rules, kind, access, major, minor),
                            "{json}: {kind} {major}:{minor} access {access}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn decides_as_the_rules_do() {
        for json in [
            "[]",
            r#"[{"allow":false,"access":"rwm"}]"#,
            r#"[{"allow":true,"access":"rwm"}]"#,
            r#"[{"allow":true,"access":"r"},{"allow":false,"type":"b","access":"w"}]"#,
            r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":4,"access":"w"},
                {"allow":true,"type":"c","major":4,"minor":5,"access":"rw"}]"#,
            r#"[{"allow":true,"type":"c","major":4,"access":"rwm"},
                {"allow":false,"type":"c","major":4,"minor":5,"access":"w"},
                {"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}]"#,
            r#"[{"allow":true,"type":"b","major":4294967295,"minor":4294967295,"access":"r"}]"#,
        ] {
            same_for_all(json);
        }
    }

    #[test]
    fn the_kernel_takes_the_programs() {
        if !rustix::process::geteuid().is_root() {
            crate::sys::testing::note_skip(format_args!("needs root"));
            return;
        }
        for json in [
            "[]",
            r#"[{"allow":true,"access":"rwm"}]"#,
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":4,"access":"r"},
                {"allow":false,"access":"w"}]"#,
        ] {
            let rules = rules(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
            bpf::load_device_filter(&assemble(&rules)).unwrap();
        }
        // A rule after the last that lets anything past would be unreachable code.
        bpf::load_device_filter(&assemble(&[
            Rule {
                allow: true,
                kind: None,
                major: None,
                minor: None,
                access: READ,
            },
            Rule {
                allow: false,
                kind: None,
                major: None,
                minor: None,
                access: ALL,
            },
        ]))
        .unwrap();
    }
}
