//! An interpreter for filters: what the kernel would decide.
//!
//! Belongs here: the instructions that seccomp filters consist of. It exists
//! for tests and fuzzing; the runtime itself has no use for it.

use libc::sock_filter;

/// A system call as a filter sees it: `struct seccomp_data` of linux/seccomp.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The number.
    pub number: u32,
    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub arch: u32,
    /// The registers.
    pub args: [u64; 6],
}

/// The value that `filter` returns for `call`; `None` if the kernel would have
/// refused to load it (an unknown instruction, a jump past the end, no return).
#[must_use]
pub fn run(filter: &[sock_filter], call: &Call) -> Option<u32> {
    let mut accumulator = 0u32;
    let mut at = 0usize;
    // Jumps go forward only, so this ends.
    loop {
        let insn = filter.get(at)?;
        at += 1;
        let taken = match insn.code {
            0x20 => {
                accumulator = load(call, insn.k)?;
                continue;
            }
            0x54 => {
                accumulator &= insn.k;
                continue;
            }
            0x05 => {
                at = at.checked_add(usize::try_from(insn.k).ok()?)?;
                continue;
            }
            0x06 => return Some(insn.k),
            0x15 => accumulator == insn.k,
            0x25 => accumulator > insn.k,
            0x35 => accumulator >= insn.k,
            0x45 => accumulator & insn.k != 0,
            _ => return None,
        };
        at += usize::from(if taken { insn.jt } else { insn.jf });
    }
}

fn load(call: &Call, offset: u32) -> Option<u32> {
    let arg = |index: usize| call.args.get(index).map(|arg| arg.to_ne_bytes());
    let word = |bytes: [u8; 8], half: usize| {
        let half = bytes.get(half * 4..half * 4 + 4)?;
        Some(u32::from_ne_bytes(half.try_into().ok()?))
    };
    match offset {
        0 => Some(call.number),
        4 => Some(call.arch),
        // The instruction pointer.
        8 | 12 => Some(0),
        16..64 if offset.is_multiple_of(4) => {
            let index = usize::try_from(offset - 16).ok()?;
            word(arg(index / 8)?, index / 4 % 2)
        }
        _ => None,
    }
}
