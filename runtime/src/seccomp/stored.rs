//! A filter as text: kept in the container's record, so that nobody compiles it again for an exec.
//!
//! Hexadecimal, eight digits with the flags, then sixteen for each instruction: code, jt, jf, k as in
//! linux/filter.h.

use std::fmt::Write as _;

use libc::sock_filter;

use super::Program;

/// Digits of the flags.
const FLAGS: usize = 8;

/// Digits of an instruction.
const INSTRUCTION: usize = 16;

impl Program {
    /// The filter as text; `None` for one with notifications, whose listener only the profile names.
    pub(crate) fn to_text(&self) -> Option<String> {
        if self.notify {
            return None;
        }
        let mut text = String::with_capacity(FLAGS + INSTRUCTION * self.filter.len());
        // Writing to a string does not fail.
        let _ = write!(text, "{:08x}", self.flags);
        for sock_filter { code, jt, jf, k } in &self.filter {
            let _ = write!(text, "{code:04x}{jt:02x}{jf:02x}{k:08x}");
        }
        Some(text)
    }

    /// The filter that was made a text of; `None` where this is none.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (flags, instructions) = text.split_at_checked(FLAGS)?;
        let (instructions, []) = instructions.as_bytes().as_chunks::<INSTRUCTION>() else {
            return None;
        };
        let filter = instructions.iter().map(instruction);
        Some(Self {
            filter: filter.collect::<Option<Vec<_>>>()?,
            flags: u32::from_str_radix(flags, 16).ok()?,
            notify: false,
        })
    }
}

fn instruction(digits: &[u8; INSTRUCTION]) -> Option<sock_filter> {
    let bits = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    let [c0, c1, jt, jf, k @ ..] = bits.to_be_bytes();
    Some(sock_filter {
        code: u16::from_be_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_be_bytes(k),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_comes_back_as_it_was() {
        let program = Program {
            filter: vec![
                sock_filter {
                    code: 0x20,
                    jt: 0,
                    jf: 255,
                    k: u32::MAX,
                },
                sock_filter {
                    code: u16::MAX,
                    jt: 7,
                    jf: 1,
                    k: 1,
                },
            ],
            flags: 0x8000_0004,
            notify: false,
        };
        let text = program.to_text().unwrap();
        let back = Program::from_text(&text).unwrap();
        assert_eq!(back.to_text().unwrap(), text);
        let same = |a: &sock_filter, b: &sock_filter| {
            (a.code, a.jt, a.jf, a.k) == (b.code, b.jt, b.jf, b.k)
        };
        assert!(
            program
                .filter
                .iter()
                .zip(&back.filter)
                .all(|(a, b)| same(a, b))
        );
        assert_eq!(back.flags, program.flags);
    }

    #[test]
    fn other_texts_are_none() {
        for text in [
            "",
            "0",
            "0000000ä",
            "0000000400000000000000",
            "00000004000000000000000g",
        ] {
            assert!(Program::from_text(text).is_none(), "{text}");
        }
        let waits = Program {
            filter: Vec::new(),
            flags: 0,
            notify: true,
        };
        assert!(waits.to_text().is_none());
    }
}
