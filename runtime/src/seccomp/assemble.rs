//! Instructions of classic BPF, assembled from the end to the start.
//!
//! Belongs here: placing instructions and keeping jumps within reach. Does
//! not: what is compared with what.
//!
//! A classic BPF program jumps forward only, and a conditional jump reaches
//! 255 instructions. Built backwards, every target is known when the jump to
//! it is placed; one that is too far gets a copy (of a return) or an
//! unconditional jump nearby.

use libc::sock_filter;

/// The most instructions that the kernel takes: `BPF_MAXINSNS` of linux/bpf_common.h.
pub(super) const MAX_LEN: usize = 4096;

/// `ld [k]`
pub(super) const LD: u16 = 0x20;
/// `ja k`
pub(super) const JA: u16 = 0x05;
/// `jeq #k`
pub(super) const JEQ: u16 = 0x15;
/// `jgt #k`, unsigned
pub(super) const JGT: u16 = 0x25;
/// `jge #k`, unsigned
pub(super) const JGE: u16 = 0x35;
/// `and #k`
pub(super) const AND: u16 = 0x54;
/// `ret #k`
pub(super) const RET: u16 = 0x06;

/// Where a jump goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// The filter ends with this value.
    Return(u32),
    /// An instruction, counted from the end of the program.
    At(u32),
}

impl Target {
    #[inline(always)]
    fn bits(self) -> u64 {
        match self {
            Target::Return(value) => u64::from(value),
            Target::At(at) => 1 << 32 | u64::from(at),
        }
    }
}

// Compared thousands of times, in a program that is built for size.
impl PartialEq for Target {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

/// A program under construction; its first element is its last instruction.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<sock_filter>,
    /// The nearest place that stands for a target.
    near: Vec<(Target, u32)>,
}

impl Assembler {
    pub fn new() -> Assembler {
        Assembler {
            code: Vec::with_capacity(512),
            near: Vec::with_capacity(16),
        }
    }

    /// Whether the program is longer than the kernel takes; it will not get shorter.
    pub fn is_too_long(&self) -> bool {
        self.code.len() > MAX_LEN
    }

    /// Places an instruction that goes on to the one placed before it.
    pub fn push(&mut self, code: u16, k: u32) -> Target {
        self.code.push(sock_filter {
            code,
            jt: 0,
            jf: 0,
            k,
        });
        self.last()
    }

    /// The instruction placed last.
    fn last(&self) -> Target {
        Target::At(self.len() - 1)
    }

    /// How many instructions there are; far fewer than fit.
    fn len(&self) -> u32 {
        u32::try_from(self.code.len()).unwrap_or(u32::MAX)
    }

    /// Places a conditional jump, unless both ways lead to the same place.
    pub fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        loop {
            // Placing something near for one may move the other out of reach.
            let (Some(jt), Some(jf)) = (self.reach(yes), self.reach(no)) else {
                continue;
            };
            self.code.push(sock_filter { code, jt, jf, k });
            return self.last();
        }
    }

    /// Makes `target` the instruction that whatever is placed next goes on to.
    pub fn continue_at(&mut self, target: Target) {
        match target {
            Target::At(at) if at + 1 == self.len() => {}
            Target::At(at) => {
                let distance = self.len() - at - 1;
                self.push(JA, distance);
            }
            Target::Return(value) => {
                self.push(RET, value);
            }
        }
    }

    /// The offset to `target` for a jump placed now; `None` after a stand-in was placed.
    fn reach(&mut self, target: Target) -> Option<u8> {
        let known = self.near.iter().position(|(known, _)| *known == target);
        let place = match (known.and_then(|index| self.near.get(index)), target) {
            (Some((_, place)), _) => Some(*place),
            (None, Target::At(at)) => Some(at),
            (None, Target::Return(_)) => None,
        };
        if let Some(place) = place
            && let Ok(offset) = u8::try_from(self.len() - place - 1)
        {
            return Some(offset);
        }
        let stand_in = self.len();
        match target {
            Target::Return(value) => self.push(RET, value),
            Target::At(at) => self.push(JA, stand_in - at - 1),
        };
        match known.and_then(|index| self.near.get_mut(index)) {
            Some(entry) => entry.1 = stand_in,
            None => self.near.push((target, stand_in)),
        }
        None
    }

    /// The program, first instruction first.
    pub fn finish(self) -> Vec<sock_filter> {
        let mut code = self.code;
        code.reverse();
        code
    }
}
