//! Writes archives: ustar, with a pax header in front of what does not fit into it.

use std::io::Write;

use super::{BLOCK, BLOCK_LENGTH, Entry, Kind, Time};
use crate::error::{Error, Result};

/// An archive that is being written.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `output`.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// Begins an entry. For a file [`Writer::data`] has to write as many bytes as it says.
    ///
    /// # Errors
    /// Those of the output.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        let mut records = Vec::new();
        let mut header = Header::new(entry.kind);
        let mut name = entry.name.clone();
        if entry.kind == Kind::Directory {
            name.push(b'/');
        }
        if !header.name(&name) {
            record(&mut records, b"path", &name);
        }
        if !header.bytes(157, 100, &entry.link) {
            record(&mut records, b"linkpath", &entry.link);
        }
        let size = if entry.kind == Kind::File {
            entry.size
        } else {
            0
        };
        header.number(100, 8, u64::from(entry.mode));
        for (at, width, value, key) in [
            (108, 8, u64::from(entry.uid), &b"uid"[..]),
            (116, 8, u64::from(entry.gid), b"gid"),
            (124, 12, size, b"size"),
        ] {
            if !header.number(at, width, value) {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        let Time {
            seconds,
            nanoseconds,
        } = entry.modified;
        let fits = u64::try_from(seconds).is_ok_and(|seconds| header.number(136, 12, seconds));
        if !fits || nanoseconds != 0 {
            record(&mut records, b"mtime", decimal(entry.modified).as_bytes());
        }
        if matches!(entry.kind, Kind::Character | Kind::Block) {
            // Seven octal digits are more than the kernel's numbers have.
            header.number(329, 8, u64::from(entry.major));
            header.number(337, 8, u64::from(entry.minor));
        }
        for (name, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !records.is_empty() {
            let mut extended = Header::new(Kind::File);
            extended.0[156] = b'x';
            let base = entry
                .name
                .rsplit(|byte| *byte == b'/')
                .next()
                .unwrap_or_default();
            let base = &base[..base.len().min(80)];
            extended.name(&[b"PaxHeaders.0/", base].concat());
            extended.number(124, 12, u64::try_from(records.len()).unwrap_or(u64::MAX));
            self.write(&extended.finish())?;
            self.write(&records)?;
            self.pad(u64::try_from(records.len()).unwrap_or(0))?;
        }
        self.write(&header.finish())
    }

    /// Writes bytes of the file.
    ///
    /// # Errors
    /// Those of the output.
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }

    /// Fills up the last block of a file of `size` bytes.
    ///
    /// # Errors
    /// Those of the output.
    pub fn pad(&mut self, size: u64) -> Result<()> {
        let rest = (BLOCK_LENGTH - size % BLOCK_LENGTH) % BLOCK_LENGTH;
        self.write(&[0; BLOCK][..usize::try_from(rest).unwrap_or(0)])
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.output)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.output.write_all(bytes);
        written.map_err(|error| Error::io("the new layer", &error))
    }
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(kind: Kind) -> Self {
        let mut block = [0; BLOCK];
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[156] = match kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Character => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        };
        Self(block)
    }

    /// Puts in as much as there is room for. Whether that is all.
    fn bytes(&mut self, at: usize, width: usize, bytes: &[u8]) -> bool {
        let length = bytes.len().min(width);
        self.0[at..at + length].copy_from_slice(&bytes[..length]);
        length == bytes.len()
    }

    fn name(&mut self, name: &[u8]) -> bool {
        // Two parts, with a slash between them that is in neither.
        let split = name.iter().enumerate().position(|(at, byte)| {
            *byte == b'/'
                && at > 0
                && at <= 155
                && name.len() - at - 1 <= 100
                && at + 1 < name.len()
        });
        match split {
            Some(at) if name.len() > 100 => {
                self.bytes(345, 155, &name[..at]) && self.bytes(0, 100, &name[at + 1..])
            }
            _ => self.bytes(0, 100, name),
        }
    }

    /// Octal digits with a NUL behind them. Whether the number fits.
    fn number(&mut self, at: usize, width: usize, value: u64) -> bool {
        let digits = format!("{value:0width$o}", width = width - 1);
        let fits = digits.len() == width - 1;
        if fits {
            self.0[at..at + width - 1].copy_from_slice(digits.as_bytes());
        } else {
            self.0[at..at + width - 1].fill(b'0');
        }
        fits
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.number(148, 7, sum);
        self.0
    }
}

/// A record, whose length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    for part in [&b" "[..], key, b"=", value, b"\n"] {
        records.extend_from_slice(part);
    }
}

fn decimal(time: Time) -> String {
    let Time {
        seconds,
        nanoseconds,
    } = time;
    let (sign, whole, fraction) = if seconds < 0 && nanoseconds > 0 {
        (
            "-",
            (seconds + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds,
        )
    } else if seconds < 0 {
        ("-", seconds.unsigned_abs(), 0)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}
