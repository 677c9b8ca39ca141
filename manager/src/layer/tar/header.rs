//! The block that every entry begins with.

use super::{BLOCK, Time};
use crate::error::{Error, Result};

/// One header, in its place. The fields are those of POSIX's ustar; GNU's differ behind the magic.
#[derive(Debug)]
pub struct Header<'a>(pub &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Whether the sum over the block is what it says. Old programs added bytes with a sign.
    pub fn is_sound(&self) -> bool {
        let (mut plain, mut with_sign) = (0_i64, 0_i64);
        for (index, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&index) {
                b' '
            } else {
                *byte
            };
            plain += i64::from(byte);
            with_sign += i64::from(i8::from_ne_bytes([byte]));
        }
        number(&self.0[148..156]).is_ok_and(|said| said == plain || said == with_sign)
    }

    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    fn is_posix(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    /// Whether GNU tar wrote it, which keeps other things where POSIX has a prefix of the name.
    pub fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    pub fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        if !self.is_posix() {
            return name.to_owned();
        }
        // star keeps times at the end of the prefix.
        let end = if &self.0[508..] == b"tar\0" { 476 } else { 500 };
        match text(&self.0[345..end]) {
            b"" => name.to_owned(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    pub fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub fn mode(&self) -> Result<i64> {
        self.number(100..108, "mode")
    }

    pub fn uid(&self) -> Result<i64> {
        self.number(108..116, "uid")
    }

    pub fn gid(&self) -> Result<i64> {
        self.number(116..124, "gid")
    }

    pub fn size(&self) -> Result<i64> {
        self.number(124..136, "size")
    }

    pub fn modified(&self) -> Result<Time> {
        let seconds = self.number(136..148, "mtime")?;
        Ok(Time {
            seconds,
            nanoseconds: 0,
        })
    }

    pub fn major(&self) -> Result<i64> {
        self.number(329..337, "devmajor")
    }

    pub fn minor(&self) -> Result<i64> {
        self.number(337..345, "devminor")
    }

    fn number(&self, field: std::ops::Range<usize>, name: &str) -> Result<i64> {
        number(&self.0[field]).map_err(|()| Error::invalid(format!("its {name} is no number")))
    }
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// A number: octal digits, or where the first bit is set GNU's two's complement.
pub fn number(field: &[u8]) -> Result<i64, ()> {
    match field {
        [first @ (0x80..=0xff), rest @ ..] => {
            // The bit after the mark is the sign.
            let mut value = if first & 0x40 == 0 {
                i64::from(first & 0x3f)
            } else {
                i64::from(first & 0x7f) - 0x80
            };
            for byte in rest {
                value = value
                    .checked_mul(256)
                    .and_then(|high| high.checked_add(i64::from(*byte)))
                    .ok_or(())?;
            }
            Ok(value)
        }
        _ => {
            let trimmed = text(field.trim_ascii_start()).trim_ascii();
            let mut value = 0_i64;
            for byte in trimmed {
                let digit = match byte {
                    b'0'..=b'7' => i64::from(byte - b'0'),
                    _ => return Err(()),
                };
                value = value
                    .checked_mul(8)
                    .and_then(|high| high.checked_add(digit))
                    .ok_or(())?;
            }
            Ok(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_their_forms() {
        for (field, value) in [
            (&b"0000644\0"[..], Ok(0o644)),
            (b"  644 \0 ", Ok(0o644)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"        ", Ok(0)),
            (b"77777777777 ", Ok(0o77_777_777_777)),
            (b"\x80\0\0\0\0\0\x01\0", Ok(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Ok(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe\0\0\0\0", Ok(-(2 << 32))),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(())),
            (b"0000689\0", Err(())),
            (b"-0000001", Err(())),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
