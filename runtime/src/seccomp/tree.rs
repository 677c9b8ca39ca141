//! From "which numbers lead where" to a search tree of few instructions.
//!
//! Belongs here: the shape of the tree. Does not: where the ranges come from.

use super::assemble::{Assembler, JEQ, JGE, Target};

/// A run of system call numbers with one outcome; it ends where the next begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// The first number.
    pub start: u32,
    /// Where they lead.
    pub target: Target,
}

/// Adds a range to a list that is sorted and has no equal neighbours.
pub(super) fn push_range(ranges: &mut Vec<Range>, start: u32, target: Target) {
    if let Some(last) = ranges.last()
        && last.start == start
    {
        ranges.pop();
    }
    if ranges.last().is_none_or(|last| last.target != target) {
        ranges.push(Range { start, target });
    }
}

/// Single numbers that a leaf of the tree compares with before it falls back on
/// one outcome for all others. More make the tree smaller and slower.
const EXCEPTIONS: usize = 2;

/// A leaf: ranges `first..end` of the list, all but the exceptions leading to `rest`.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    first: usize,
    end: usize,
    rest: Target,
}

/// Places the tree for `ranges`, which begin at 0; the number is in the accumulator.
///
/// `jge` divides at one border between ranges. `jeq` takes a single number out
/// of its surroundings, which removes two borders; so neighbouring ranges are
/// first collected into leaves, as few and cheap as possible (a shortest path
/// from the first range to the last), and a balanced tree is put on top.
pub(super) fn place(asm: &mut Assembler, ranges: &[Range]) -> Target {
    // best[j]: the cheapest cover of the ranges before j, and its last leaf.
    let mut best: Vec<(u32, Leaf)> = Vec::with_capacity(ranges.len() + 1);
    let none = Leaf {
        first: 0,
        end: 0,
        rest: Target::Return(0),
    };
    best.push((0, none));
    best.resize(ranges.len() + 1, (u32::MAX, none));
    for first in 0..ranges.len() {
        let Some(&(before, _)) = best.get(first) else {
            continue;
        };
        for candidate in [first, first + 1] {
            let Some(rest) = ranges.get(candidate).map(|range| range.target) else {
                continue;
            };
            let mut cost = before + 1;
            for (end, range) in ranges.iter().enumerate().skip(first) {
                if range.target != rest {
                    let single = ranges
                        .get(end + 1)
                        .is_some_and(|next| next.start - range.start == 1);
                    let exceptions = usize::try_from(cost - before - 1).unwrap_or(usize::MAX);
                    if !single || exceptions == EXCEPTIONS {
                        break;
                    }
                    cost += 1;
                }
                if let Some(entry) = best.get_mut(end + 1)
                    && cost < entry.0
                {
                    let end = end + 1;
                    *entry = (cost, Leaf { first, end, rest });
                }
            }
        }
    }
    let mut leaves = Vec::with_capacity(ranges.len());
    let mut end = ranges.len();
    while let Some(&(_, leaf)) = best.get(end)
        && leaf.end > leaf.first
    {
        leaves.push(leaf);
        end = leaf.first;
    }
    leaves.reverse();
    subtree(asm, ranges, &leaves)
}

fn subtree(asm: &mut Assembler, ranges: &[Range], leaves: &[Leaf]) -> Target {
    match leaves {
        [] => Target::Return(0),
        [leaf] => ranges
            .get(leaf.first..leaf.end)
            .unwrap_or_default()
            .iter()
            .rev()
            .filter(|range| range.target != leaf.rest)
            .fold(leaf.rest, |next, range| {
                asm.branch(JEQ, range.start, range.target, next)
            }),
        _ => {
            let (low, high) = leaves.split_at(leaves.len() / 2);
            let border = high
                .first()
                .and_then(|leaf| ranges.get(leaf.first))
                .map_or(0, |range| range.start);
            let high = subtree(asm, ranges, high);
            let low = subtree(asm, ranges, low);
            asm.branch(JGE, border, high, low)
        }
    }
}
