//! From the rules by name to the filter for the ABIs of one kernel.
//!
//! Belongs here: which number leads where on which ABI. Does not: reading the
//! profile, the shape of trees and chains.
//!
//! The filter looks at the architecture, then searches the system call number
//! in a tree, then compares arguments where a rule asks for it. x32 shares the
//! architecture of x86_64, and hence its tree: its numbers have bit 30 set.

use libc::sock_filter;

use crate::error::{Error, Kind, Result};

use super::assemble::{Assembler, JEQ, LD, MAX_LEN, Target};
use super::profile::{
    Condition, Conditional, Op, RET_ALLOW, RET_ERRNO, RET_KILL_THREAD, RET_LOG, RET_TRACE, Rules,
    Verdict,
};
use super::table::{AUDIT_X86_64, Abi, Family, NONE, PRIVATE, X32_BIT};
use super::tree::{self, Range, push_range};

/// Offsets in `struct seccomp_data` of linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// Where the private system calls of ARM begin.
const PRIVATE_BASE: u32 = 0xf_0000;

/// A call on an architecture that the profile does not name. libseccomp and
/// with it the other runtimes kill the thread, whatever the default action.
const BAD_ARCH: u32 = RET_KILL_THREAD;

/// Compiles `rules` for the ABIs of `family` for which `enabled` says so; the native one always is.
pub(super) fn filter(
    rules: &Rules,
    family: &Family,
    enabled: impl Fn(&Abi) -> bool,
) -> Result<Vec<sock_filter>> {
    let mut asm = Assembler::new();
    let mut done = Chains {
        rules,
        shared: Vec::new(),
    };
    // Backwards, so that the native ABI stands first in the program.
    let mut blocks: Vec<(u32, Target)> = Vec::new();
    for (column, abi) in family.abis.iter().enumerate().rev() {
        if abi.base != 0 || !(column == 0 || enabled(abi)) {
            continue;
        }
        let mut ranges = Vec::with_capacity(512);
        numbers(&mut asm, &mut done, family, column, &mut ranges)?;
        if abi.audit == AUDIT_X86_64 {
            let x32 = family.abis.iter().position(|abi| abi.base == X32_BIT);
            match x32.filter(|&x32| family.abis.get(x32).is_some_and(&enabled)) {
                Some(x32) => numbers(&mut asm, &mut done, family, x32, &mut ranges)?,
                None => without_x32(&mut ranges, rules.default_action),
            }
        }
        let block = match tree::place(&mut asm, &ranges) {
            // All calls lead to the same end: the number does not matter.
            Target::Return(action) => Target::Return(action),
            tree => {
                asm.continue_at(tree);
                asm.push(LD, NUMBER)
            }
        };
        blocks.push((abi.audit, block));
        check_length(&asm)?;
    }
    let entry = blocks
        .iter()
        .fold(Target::Return(BAD_ARCH), |next, &(audit, block)| {
            asm.branch(JEQ, audit, block, next)
        });
    asm.continue_at(entry);
    asm.push(LD, ARCH);
    check_length(&asm)?;
    Ok(asm.finish())
}

fn check_length(asm: &Assembler) -> Result<()> {
    if asm.is_too_long() {
        return Err(Error::new(
            Kind::InvalidConfig,
            format!(
                "linux.seccomp: the filter would have more than the {MAX_LEN} instructions that \
                 the kernel takes; use fewer rules with conditions on arguments"
            ),
        ));
    }
    Ok(())
}

/// Adds the numbers of one ABI to `ranges`.
///
/// System calls newer than all that the profile names fail with ENOSYS, unless
/// the default lets them through: the author of the profile could not know
/// them, and a C library that gets EPERM does not fall back to an older call.
/// The private calls of ARM say nothing about age.
fn numbers(
    asm: &mut Assembler,
    done: &mut Chains<'_>,
    family: &Family,
    column: usize,
    ranges: &mut Vec<Range>,
) -> Result<()> {
    let Some(abi) = family.abis.get(column) else {
        return Ok(());
    };
    let rules = done.rules;
    let default = Target::Return(rules.default_action);
    let mut calls: Vec<Target> = vec![default; 512];
    let mut private: Vec<(u32, Target)> = Vec::new();
    let mut newest = None;
    let rows = rules.verdicts.iter().zip(&rules.mentioned);
    for ((&verdict, &mentioned), numbers) in rows.zip(family.rows()) {
        let number = match numbers.get(column) {
            Some(&number) if mentioned && number != NONE => number,
            _ => continue,
        };
        let target = match verdict {
            Verdict::Default => default,
            Verdict::Action(action) => Target::Return(action),
            Verdict::Chain(chain) => done.place(asm, chain, abi.wide, &[]),
        };
        if number & PRIVATE != 0 {
            private.push((PRIVATE_BASE + u32::from(number & !PRIVATE), target));
            continue;
        }
        newest = newest.max(Some(number));
        let number = usize::from(number);
        if calls.len() <= number {
            calls.resize(number + 1, default);
        }
        if let Some(call) = calls.get_mut(number).filter(|call| **call == default) {
            *call = target;
        }
        if asm.is_too_long() {
            return check_length(asm);
        }
    }
    for multiplexer in ["socketcall", "ipc"] {
        let number = multiplexed(asm, done, family, column, multiplexer, &mut calls);
        newest = newest.max(number);
    }
    let permissive = matches!(
        rules.default_action & 0xffff_0000,
        RET_ALLOW | RET_LOG | RET_TRACE
    );
    let unknown = match newest {
        Some(_) if !permissive => Target::Return(RET_ERRNO | ENOSYS),
        _ => default,
    };
    let known = newest.map_or(0, |newest| u32::from(newest) + 1);
    let mut before = None;
    for (number, &target) in (0..known).zip(&calls) {
        if before != Some(target) {
            push_range(ranges, abi.base + number, target);
            before = Some(target);
        }
    }
    push_range(ranges, abi.base + known, unknown);
    private.sort_unstable_by_key(|(number, _)| *number);
    for (number, target) in private {
        push_range(ranges, number, target);
        push_range(ranges, number + 1, unknown);
    }
    Ok(())
}

/// `ENOSYS` of asm-generic/errno.h.
const ENOSYS: u32 = 38;

/// All that has bit 30 set is the other architecture's, except -1, which is what
/// a tracer sets to skip a call.
fn without_x32(ranges: &mut Vec<Range>, default_action: u32) {
    let Some(unknown) = ranges.last().map(|range| range.target) else {
        return;
    };
    let bad = Target::Return(BAD_ARCH);
    let default = Target::Return(default_action);
    push_range(ranges, X32_BIT, bad);
    if unknown != default {
        push_range(ranges, 0x8000_0000, unknown);
        push_range(ranges, 0x8000_0000 | X32_BIT, bad);
    }
    push_range(ranges, u32::MAX, default);
}

/// Extends rules for `socket` and its like to `socketcall`, which does the same.
///
/// The arguments are behind a pointer there and cannot be checked. So a rule
/// with conditions counts as matching if it forbids, and as not matching if it
/// permits.
///
/// Returns the number of the multiplexer if the profile names a call that goes through it.
fn multiplexed(
    asm: &mut Assembler,
    done: &mut Chains<'_>,
    family: &Family,
    column: usize,
    multiplexer: &str,
    calls: &mut [Target],
) -> Option<u16> {
    let abi = family.abis.get(column)?;
    let rules = done.rules;
    let number = *family.numbers(family.row(multiplexer)?).get(column)?;
    let names = abi.multiplexed.iter();
    let names = names.filter(|(_, through, _)| *through == multiplexer);
    let mentioned = |name: &str| {
        let row = family.row(name);
        row.and_then(|row| rules.mentioned.get(row)) == Some(&true)
    };
    if !names.clone().any(|(name, ..)| mentioned(name)) {
        return None;
    }
    let verdict_of = |name: &str| {
        let row = family.row(name);
        row.and_then(|row| rules.verdicts.get(row)).copied()
    };
    let through: Vec<Conditional> = names
        .filter_map(|&(name, _, selector)| {
            let action = match verdict_of(name)? {
                Verdict::Default => return None,
                Verdict::Action(action) => action,
                Verdict::Chain(chain) => done.forbidding(chain)?,
            };
            Some(Conditional {
                action,
                conditions: vec![Condition {
                    index: 0,
                    op: Op::Eq,
                    value: u64::from(selector),
                    mask: u64::MAX,
                }],
            })
        })
        .collect();
    let call = calls.get_mut(usize::from(number))?;
    match verdict_of(multiplexer) {
        _ if through.is_empty() => {}
        Some(Verdict::Chain(chain)) => *call = done.place(asm, chain, abi.wide, &through),
        Some(Verdict::Default) => {
            let through: Vec<_> = through.iter().collect();
            let default = Target::Return(rules.default_action);
            *call = super::chain::place(asm, &through, abi.wide, default);
        }
        Some(Verdict::Action(_)) | None => {}
    }
    Some(number)
}

/// The chains that are placed already: equal ones are shared between calls and ABIs.
struct Chains<'a> {
    rules: &'a Rules,
    shared: Vec<(usize, bool, Target)>,
}

impl Chains<'_> {
    /// Places a chain, followed by `more`.
    fn place(
        &mut self,
        asm: &mut Assembler,
        chain: usize,
        wide: bool,
        more: &[Conditional],
    ) -> Target {
        let Some(indices) = self.rules.chains.get(chain) else {
            return Target::Return(self.rules.default_action);
        };
        if more.is_empty()
            && let Some((_, _, target)) = self.shared.iter().find(|(other, other_wide, _)| {
                *other_wide == wide && self.rules.chains.get(*other) == Some(indices)
            })
        {
            return *target;
        }
        let conditionals: Vec<&Conditional> = indices
            .iter()
            .filter_map(|&index| self.rules.conditionals.get(index))
            .chain(more)
            .collect();
        let default = Target::Return(self.rules.default_action);
        let target = super::chain::place(asm, &conditionals, wide, default);
        if more.is_empty() {
            self.shared.push((chain, wide, target));
        }
        target
    }

    /// The first action of a chain that does not let the call through.
    fn forbidding(&self, chain: usize) -> Option<u32> {
        let actions = self.rules.chains.get(chain)?.iter();
        actions
            .filter_map(|&index| self.rules.conditionals.get(index))
            .map(|rule| rule.action)
            .find(|action| !matches!(*action, RET_ALLOW | RET_LOG))
    }
}
