//! Instructions for rules with conditions on arguments.
//!
//! Belongs here: comparing 64-bit arguments with 32-bit instructions. Does
//! not: which rules apply to which system call.

use super::assemble::{AND, Assembler, JEQ, JGE, JGT, LD, Target};
use super::profile::{Condition, Conditional, Op};

/// Places `rules`, of which the first that matches decides, else `otherwise`.
///
/// `wide` is whether all 64 bits of the arguments count. If not, the high half
/// is zero whatever the register held.
pub(super) fn place(
    asm: &mut Assembler,
    rules: &[&Conditional],
    wide: bool,
    otherwise: Target,
) -> Target {
    if let Some(index) = simple(rules) {
        let low = place_simple(asm, rules, index, otherwise);
        if !wide {
            return low;
        }
        // What happens when the argument does not fit in 32 bits is the same for all such values.
        let high = rules
            .iter()
            .find(|rule| {
                rule.conditions
                    .iter()
                    .all(|&condition| holds_above(condition))
            })
            .map_or(otherwise, |rule| Target::Return(rule.action));
        asm.branch(JEQ, 0, low, high);
        return asm.push(LD, word(index, true));
    }
    rules.iter().rev().fold(otherwise, |next, rule| {
        rule.conditions
            .iter()
            .rev()
            .fold(Target::Return(rule.action), |yes, &condition| {
                if asm.is_too_long() {
                    yes
                } else if wide {
                    place_wide(asm, condition, yes, next)
                } else {
                    place_narrow(asm, condition, true, yes, next)
                }
            })
    })
}

/// The argument's index if all conditions are on it, compare with 32-bit values and use no mask.
fn simple(rules: &[&Conditional]) -> Option<u32> {
    let mut conditions = rules.iter().flat_map(|rule| &rule.conditions);
    let index = conditions.clone().next()?.index;
    conditions
        .all(|condition| {
            condition.index == index
                && condition.op != Op::MaskedEq
                && condition.value <= u64::from(u32::MAX)
        })
        .then_some(index)
}

/// Whether a condition with a 32-bit value holds for arguments above 32 bits.
fn holds_above(condition: Condition) -> bool {
    matches!(condition.op, Op::Ne | Op::Gt | Op::Ge)
}

/// Rules that are [`simple`], for an argument that fits in 32 bits: it is loaded once.
fn place_simple(
    asm: &mut Assembler,
    rules: &[&Conditional],
    index: u32,
    otherwise: Target,
) -> Target {
    let entry = rules.iter().rev().fold(otherwise, |next, rule| {
        rule.conditions
            .iter()
            .rev()
            .fold(Target::Return(rule.action), |yes, &condition| {
                if asm.is_too_long() {
                    yes
                } else {
                    place_narrow(asm, condition, false, yes, next)
                }
            })
    });
    asm.continue_at(entry);
    asm.push(LD, word(index, false))
}

/// A condition on an argument whose high half counts as zero.
fn place_narrow(
    asm: &mut Assembler,
    condition: Condition,
    load: bool,
    yes: Target,
    no: Target,
) -> Target {
    let value = low(condition.value);
    if high(condition.value) != 0 {
        // The argument is smaller than the value. (The mask does not matter: the
        // masked high half is zero, and that of the value is not.)
        return match condition.op {
            Op::Ne | Op::Lt | Op::Le => yes,
            Op::Eq | Op::Ge | Op::Gt | Op::MaskedEq => no,
        };
    }
    let entry = match condition.op {
        Op::Eq => asm.branch(JEQ, value, yes, no),
        Op::Ne => asm.branch(JEQ, value, no, yes),
        Op::Gt => asm.branch(JGT, value, yes, no),
        Op::Le => asm.branch(JGT, value, no, yes),
        Op::Ge => asm.branch(JGE, value, yes, no),
        Op::Lt => asm.branch(JGE, value, no, yes),
        Op::MaskedEq => masked(asm, condition, false, yes, no),
    };
    if load && condition.op != Op::MaskedEq && yes != no {
        return asm.push(LD, word(condition.index, false));
    }
    entry
}

/// A condition on a 64-bit argument.
fn place_wide(asm: &mut Assembler, condition: Condition, yes: Target, no: Target) -> Target {
    if yes == no {
        return yes;
    }
    let (above, value) = (high(condition.value), low(condition.value));
    // Where to go for: a larger high half, a smaller one; and how to compare the low half.
    let (code, larger, smaller, then, other) = match condition.op {
        Op::MaskedEq => {
            let entry = masked(asm, condition, false, yes, no);
            return match high(condition.mask) {
                0 => entry,
                _ => masked(asm, condition, true, entry, no),
            };
        }
        Op::Eq => (JEQ, no, no, yes, no),
        Op::Ne => (JEQ, yes, yes, no, yes),
        Op::Gt => (JGT, yes, no, yes, no),
        Op::Le => (JGT, no, yes, no, yes),
        Op::Ge => (JGE, yes, no, yes, no),
        Op::Lt => (JGE, no, yes, no, yes),
    };
    asm.branch(code, value, then, other);
    let equal = asm.push(LD, word(condition.index, false));
    let unequal = asm.branch(JGT, above, larger, smaller);
    asm.branch(JEQ, above, equal, unequal);
    asm.push(LD, word(condition.index, true))
}

/// Load one half, mask, compare.
fn masked(
    asm: &mut Assembler,
    condition: Condition,
    upper: bool,
    yes: Target,
    no: Target,
) -> Target {
    let half = if upper { high } else { low };
    let mask = half(condition.mask);
    if mask == 0 || yes == no {
        return yes;
    }
    asm.branch(JEQ, half(condition.value), yes, no);
    asm.push(AND, mask);
    asm.push(LD, word(condition.index, upper))
}

/// Offset of half an argument in `struct seccomp_data`.
fn word(index: u32, upper: bool) -> u32 {
    let upper = upper != cfg!(target_endian = "big");
    16 + 8 * index + if upper { 4 } else { 0 }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX)
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}
