//! tar archives, read and written as streams: POSIX's ustar and pax formats (IEEE Std 1003.1, pax),
//! and what GNU tar adds. Nothing here touches a file system.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{Limits, Reader};
pub use writer::Writer;

/// The unit of an archive, in bytes.
const BLOCK: usize = 512;

/// The same as a length in a stream.
const BLOCK_LENGTH: u64 = 512;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A file with bytes.
    #[default]
    File,
    /// Another name of a file that is there.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A device that is read and written as a stream.
    Character,
    /// A device that is read and written in blocks.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A time, to the nanosecond. Before 1970 the seconds are negative and the nanoseconds still add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Since 1970.
    pub seconds: i64,
    /// Less than a thousand million.
    pub nanoseconds: u32,
}

/// A part of a file that has bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// From here on.
    pub start: u64,
    /// So many.
    pub length: u64,
}

/// What an archive says of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Its path, as it stands there.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The text of a symbolic link; the path that a hard link is another name of.
    pub link: Vec<u8>,
    /// Permissions, set-id bits and the sticky bit.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The length of the file, holes included.
    pub size: u64,
    /// When it was changed.
    pub modified: Time,
    /// When it was read, where the archive says.
    pub accessed: Option<Time>,
    /// Of a device.
    pub major: u32,
    /// Of a device.
    pub minor: u32,
    /// Extended attributes, names without any prefix of the archive's.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where a file with holes has bytes, in order.
    pub sparse: Option<Vec<Region>>,
}
