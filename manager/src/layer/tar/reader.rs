//! Reads an archive, an entry at a time, and hands out the bytes of files where they lie.

use std::io::BufRead;

use super::header::{self, Header};
use super::pax::Records;
use super::sparse::{self, Lines};
use super::{BLOCK, BLOCK_LENGTH, Entry, Kind, Region};
use crate::error::{Code, Error, Result};

/// How much an archive may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of the extended headers and long names of one entry.
    pub header: u64,
    /// Bytes of a path.
    pub path: usize,
    /// Parts of a file with holes.
    pub regions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4 << 20,
            header: 1 << 20,
            // PATH_MAX without the NUL.
            path: 4095,
            regions: 1 << 16,
        }
    }
}

/// An archive that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    limits: Limits,
    entries: u64,
    /// Bytes of the file that were not read yet.
    data: u64,
    /// Bytes after them, up to the next header.
    padding: u64,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// The archive that `input` is.
    pub fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            entries: 0,
            data: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next entry; none at the end.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no archive, `ResourceExhausted` where a limit is passed; what
    /// reading the input fails with.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_rest()?;
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        let mut spent = 0;
        while !self.ended {
            let Some(block) = self.header()? else { break };
            let header = Header(&block);
            let stored = u64::try_from(header.size()?)
                .map_err(|_| Error::invalid("an entry has a negative size"))?;
            let kind = header.kind();
            if !matches!(kind, b'x' | b'X' | b'g' | b'L' | b'K') {
                self.entries += 1;
                if self.entries > self.limits.entries {
                    return Err(
                        self.exhausted(format!("more than {} entries", self.limits.entries))
                    );
                }
                return self
                    .entry(&header, stored, records, long_name, long_link)
                    .map(Some);
            }
            spent += stored;
            if spent > self.limits.header {
                return Err(self.exhausted(format!(
                    "an entry with more than {} bytes of headers",
                    self.limits.header
                )));
            }
            self.expect(stored);
            let mut text = Vec::new();
            self.data(|bytes| {
                text.extend_from_slice(bytes);
                Ok(())
            })?;
            self.skip_rest()?;
            match kind {
                b'x' | b'X' => records.read(&text)?,
                b'L' => long_name = Some(before_nul(text)),
                b'K' => long_link = Some(before_nul(text)),
                // What a header says of the whole archive is of no use to a layer.
                _ => {}
            }
        }
        if records.path.is_some() || long_name.is_some() || long_link.is_some() {
            return Err(early());
        }
        Ok(None)
    }

    /// Hands out the bytes of the current file, in pieces, as they are stored: those of holes are
    /// left out.
    ///
    /// # Errors
    /// Those of `take`; `InvalidArgument` where the archive ends early.
    pub fn data(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.data > 0 {
            let bytes = fill(&mut self.input)?;
            let most = usize::try_from(self.data).unwrap_or(usize::MAX);
            let bytes = &bytes[..bytes.len().min(most)];
            if bytes.is_empty() {
                return Err(early());
            }
            take(bytes)?;
            let length = bytes.len();
            self.input.consume(length);
            self.data -= u64::try_from(length).unwrap_or(0);
        }
        Ok(())
    }

    /// Reads what follows the archive, which belongs to the layer and not to any file.
    ///
    /// # Errors
    /// What reading the input fails with.
    pub fn finish(mut self) -> Result<()> {
        loop {
            match fill(&mut self.input)?.len() {
                0 => return Ok(()),
                length => self.input.consume(length),
            }
        }
    }

    fn exhausted(&self, what: String) -> Error {
        Error::new(Code::ResourceExhausted, format!("the layer has {what}"))
    }

    /// Sets what follows a header.
    fn expect(&mut self, stored: u64) {
        self.data = stored;
        self.padding = (BLOCK_LENGTH - stored % BLOCK_LENGTH) % BLOCK_LENGTH;
    }

    fn skip_rest(&mut self) -> Result<()> {
        self.data(|_| Ok(()))?;
        self.data = std::mem::take(&mut self.padding);
        self.data(|_| Ok(()))
    }

    /// The next block; none where the input ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = fill(&mut self.input)?;
            let length = bytes.len().min(BLOCK - filled);
            if length == 0 {
                return if filled == 0 { Ok(None) } else { Err(early()) };
            }
            block[filled..filled + length].copy_from_slice(&bytes[..length]);
            self.input.consume(length);
            filled += length;
        }
        Ok(Some(block))
    }

    /// The next header; none at the end, which two blocks of zeros are.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let next = self.block()?;
        if let Some(block) = next
            && block != [0; BLOCK]
        {
            return if Header(&block).is_sound() {
                Ok(next)
            } else {
                Err(no_archive())
            };
        }
        if next.is_some() && self.block()?.is_some_and(|second| second != [0; BLOCK]) {
            return Err(no_archive());
        }
        self.ended = true;
        Ok(None)
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        stored: u64,
        records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let name = records.sparse_name.or(records.path).or(long_name);
        let name = name.unwrap_or_else(|| header.name());
        let named = |error: Error| error.context(shown(&name));
        if name.len() > self.limits.path || name.contains(&0) {
            let what = format!("a path of {} bytes", name.len());
            return Err(named(Error::invalid(what)));
        }
        let link = records
            .link
            .or(long_link)
            .unwrap_or_else(|| header.link().to_owned());
        if link.len() > self.limits.path || link.contains(&0) {
            let what = format!("a link to a path of {} bytes", link.len());
            return Err(named(Error::invalid(what)));
        }
        let kind = match header.kind() {
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let what = format!("an entry of the unknown type {:?}", char::from(other));
                return Err(named(Error::invalid(what)));
            }
        };
        let id = |from_records: Option<i64>, from_header: Result<i64>, what| {
            let value = from_records.map_or(from_header, Ok)?;
            u32::try_from(value).map_err(|_| Error::invalid(format!("its {what} is {value}")))
        };
        let device = matches!(kind, Kind::Character | Kind::Block);
        let number = |value: Result<i64>, what| if device { id(None, value, what) } else { Ok(0) };
        let mut entry = Entry {
            kind,
            link,
            mode: u32::try_from(header.mode().map_err(named)? & 0o7777).unwrap_or(0),
            uid: id(records.uid, header.uid(), "uid").map_err(named)?,
            gid: id(records.gid, header.gid(), "gid").map_err(named)?,
            modified: records
                .modified
                .map_or_else(|| header.modified(), Ok)
                .map_err(named)?,
            accessed: records.accessed,
            major: number(header.major(), "major number").map_err(named)?,
            minor: number(header.minor(), "minor number").map_err(named)?,
            xattrs: records.xattrs,
            ..Entry::default()
        };
        if kind != Kind::File {
            // Old programs wrote the size of the file that a link is to.
            self.expect(if header.kind() == b'D' { stored } else { 0 });
            entry.name = name;
            return Ok(entry);
        }
        let size =
            |value: i64| u64::try_from(value).map_err(|_| Error::invalid("its size is negative"));
        let stored = records.size.map_or(Ok(stored), size).map_err(named)?;
        self.expect(stored);
        entry.size = stored;
        if header.kind() == b'S' {
            let regions = self.old_map(header).map_err(named)?;
            let real = header::number(&header.0[483..495]);
            let real = real
                .map_err(|()| Error::invalid("its size is no number"))
                .and_then(size);
            entry.size = real.map_err(named)?;
            entry.sparse = Some(regions);
        } else if records.sparse_version == (1, 0) {
            entry.sparse = Some(self.map_in_front().map_err(named)?);
        } else {
            entry.sparse = records.sparse;
        }
        if let Some(regions) = &entry.sparse {
            if regions.len() > self.limits.regions {
                return Err(named(sparse::too_many(self.limits.regions)));
            }
            if let Some(real) = records.sparse_size {
                entry.size = size(real).map_err(named)?;
            }
            sparse::check(regions, entry.size, self.data).map_err(named)?;
        }
        if i64::try_from(entry.size).is_err() {
            return Err(named(Error::invalid("it is too large")));
        }
        entry.name = name;
        Ok(entry)
    }

    /// The map of GNU's old format: in the header, and in blocks after it.
    fn old_map(&mut self, header: &Header<'_>) -> Result<Vec<Region>> {
        if !header.is_gnu() {
            return Err(Error::invalid(
                "a file with holes in an archive not of GNU tar",
            ));
        }
        let mut regions = Vec::new();
        old_regions(&header.0[386..482], &mut regions)?;
        let mut more = header.0[482] != 0;
        while more {
            let block = self.block()?.ok_or_else(early)?;
            old_regions(&block[..504], &mut regions)?;
            if regions.len() > self.limits.regions {
                return Err(sparse::too_many(self.limits.regions));
            }
            more = block[504] != 0 && block[0] != 0;
        }
        Ok(regions)
    }

    /// The map of the format 1.0.
    fn map_in_front(&mut self) -> Result<Vec<Region>> {
        let mut lines = Lines::default();
        loop {
            if self.data < BLOCK_LENGTH {
                return Err(Error::invalid("the map of a file with holes is cut short"));
            }
            let block = self.block()?.ok_or_else(early)?;
            self.data -= BLOCK_LENGTH;
            if lines.block(&block, self.limits.regions)? {
                return Ok(lines.regions);
            }
        }
    }
}

/// Starts and lengths, twelve bytes each, up to the first that is not used.
fn old_regions(fields: &[u8], regions: &mut Vec<Region>) -> Result<()> {
    for field in fields.chunks_exact(24).take_while(|field| field[0] != 0) {
        let number = |text| {
            let number = header::number(text)
                .ok()
                .and_then(|number| u64::try_from(number).ok());
            number.ok_or_else(|| Error::invalid("the map of a file with holes is broken"))
        };
        regions.push(Region {
            start: number(&field[..12])?,
            length: number(&field[12..])?,
        });
    }
    Ok(())
}

fn before_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

/// A path for people.
pub fn shown(path: &[u8]) -> String {
    const MOST: usize = 300;
    let text = path[..path.len().min(MOST)].escape_ascii().to_string();
    if path.len() > MOST {
        format!("{text}…")
    } else {
        text
    }
}

fn early() -> Error {
    Error::invalid("the layer ends in the middle of an archive: unexpected EOF")
}

fn no_archive() -> Error {
    Error::invalid("the layer is no tar archive: a header has a wrong checksum")
}

fn fill<R: BufRead>(input: &mut R) -> Result<&[u8]> {
    // The error is one of the stream's; see `pipeline`.
    input
        .fill_buf()
        .map_err(|error| match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::io("the layer", &error),
        })
}
