//! Makes a layer of what is different between two trees: the entries, in the order of their names,
//! with whiteouts for what is gone. Image specification, layer.md.
//!
//! Where the upper tree is overlayfs's own directory of changes, that is walked alone; else both
//! trees are walked side by side.

mod compare;
mod tree;

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::tar::{Entry, Kind, Time, Writer};
use super::unpack::{Ids, attributes, join, shown};
use crate::error::{Code, Error, Result};

/// The deepest tree, in directories: each costs two descriptors.
const DEEPEST: usize = 1024;

/// Trees that are compared.
#[derive(Debug)]
pub struct Trees {
    /// As it was; nothing where there was nothing.
    pub lower: Option<OwnedFd>,
    /// As it is.
    pub upper: OwnedFd,
    /// How overlayfs's names for its attributes begin where `upper` is its directory of changes.
    pub overlay: Option<&'static str>,
    /// Whose files are whose.
    pub ids: Ids,
}

/// Writes what has changed.
#[derive(Debug)]
pub struct Changes<W> {
    archive: Writer<W>,
    overlay: Option<&'static str>,
    ids: Ids,
    epoch: Option<Time>,
    /// Directories above the current one that have not been written.
    above: Vec<Option<Entry>>,
    /// Files of several names that were written, each with the first.
    written: HashMap<(u64, u64), Vec<u8>>,
    /// Files of several names that have not changed.
    unchanged: HashMap<(u64, u64), Vec<u8>>,
}

fn failed(path: &[u8]) -> impl Fn(Errno) -> Error {
    let path = shown(path);
    move |errno| {
        let error = std::io::Error::from(errno);
        Error::io(&path, &error)
    }
}

/// Something in a directory.
#[derive(Debug)]
struct Found {
    name: Vec<u8>,
    stat: Stat,
}

impl Found {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    fn inode(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }
}

impl<W: Write> Changes<W> {
    /// Writes the difference of two trees, no time of it later than `epoch`. The output.
    ///
    /// # Errors
    /// Where a tree can't be read; those of the output.
    pub fn write(trees: &Trees, epoch: Option<Time>, output: W) -> Result<W> {
        let mut changes = Self {
            archive: Writer::new(output),
            overlay: trees.overlay,
            ids: trees.ids.clone(),
            epoch,
            above: Vec::new(),
            written: HashMap::new(),
            unchanged: HashMap::new(),
        };
        let upper = trees.upper.as_fd();
        match &trees.lower {
            Some(lower) if trees.overlay.is_none() => changes.both(lower.as_fd(), upper, b"")?,
            _ => changes.added(upper, b"")?,
        }
        changes.archive.finish()
    }

    /// All that is in a directory, none of which was there before.
    fn added(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        for found in tree::list(dir, path)? {
            self.add(dir, &join(path, &found.name), &found)?;
        }
        Ok(())
    }

    fn add(&mut self, dir: BorrowedFd<'_>, path: &[u8], found: &Found) -> Result<()> {
        if self.overlay.is_some() && attributes::is_whiteout(&found.stat) {
            return self.gone(path);
        }
        if !found.is_dir() {
            return self.file(dir, path, found);
        }
        let below = tree::open(dir, path, &found.name)?;
        let entry = self.entry(dir, path, found)?;
        self.enter(Some(entry))?;
        self.flush()?;
        if let Some(prefix) = self.overlay
            && attributes::is_opaque(below.as_fd(), prefix)
        {
            self.whiteout(join(path, b".wh..wh..opq"))?;
        }
        self.added(below.as_fd(), path)?;
        self.above.pop();
        Ok(())
    }

    /// What is different between two directories.
    fn both(&mut self, lower: BorrowedFd<'_>, upper: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let mut before = tree::list(lower, path)?.into_iter().peekable();
        for found in tree::list(upper, path)? {
            while let Some(gone) = before.next_if(|old| old.name < found.name) {
                self.gone(&join(path, &gone.name))?;
            }
            let old = before.next_if(|old| old.name == found.name);
            let inner = join(path, &found.name);
            match old {
                Some(old) if old.is_dir() && found.is_dir() => {
                    let (below, above) = (
                        tree::open(lower, &inner, &old.name)?,
                        tree::open(upper, &inner, &found.name)?,
                    );
                    let same = compare::same(lower, upper, &old, &found, &inner)?;
                    let entry = self.entry(upper, &inner, &found)?;
                    self.enter(Some(entry))?;
                    if !same {
                        self.flush()?;
                    }
                    self.both(below.as_fd(), above.as_fd(), &inner)?;
                    self.above.pop();
                }
                Some(old) if compare::same(lower, upper, &old, &found, &inner)? => {
                    self.stays(upper, &inner, &found)?;
                }
                _ => self.add(upper, &inner, &found)?,
            }
        }
        for gone in before {
            self.gone(&join(path, &gone.name))?;
        }
        Ok(())
    }

    /// A file that has not changed; another name of it may have come.
    fn stays(&mut self, dir: BorrowedFd<'_>, path: &[u8], found: &Found) -> Result<()> {
        if found.stat.st_nlink > 1 && !found.is_dir() {
            if self.written.contains_key(&found.inode()) {
                return self.file(dir, path, found);
            }
            self.unchanged.insert(found.inode(), path.to_owned());
        }
        Ok(())
    }

    fn gone(&mut self, path: &[u8]) -> Result<()> {
        let name = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1);
        let (above, name) = path.split_at(name);
        self.whiteout([above, b".wh.", name].concat())
    }

    fn whiteout(&mut self, name: Vec<u8>) -> Result<()> {
        self.flush()?;
        let modified = self.epoch.unwrap_or_default();
        self.archive.entry(&Entry {
            name,
            modified,
            ..Entry::default()
        })
    }

    /// Writes anything but a directory.
    fn file(&mut self, dir: BorrowedFd<'_>, path: &[u8], found: &Found) -> Result<()> {
        // Sockets are nothing without who listens, and archives know none.
        if found.kind() == FileType::Socket {
            return Ok(());
        }
        self.flush()?;
        if found.stat.st_nlink > 1 {
            if let Some(first) = self.written.get(&found.inode()) {
                let mut entry = self.entry(dir, path, found)?;
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                entry.xattrs.clear();
                return self.archive.entry(&entry);
            }
            self.written.insert(found.inode(), path.to_owned());
        }
        let entry = self.entry(dir, path, found)?;
        if found.kind() == FileType::RegularFile {
            self.bytes(dir, path, found, &entry)?;
        } else {
            self.archive.entry(&entry)?;
        }
        // The other name, which has not changed, has to become one of the new file.
        if let Some(other) = self.unchanged.remove(&found.inode()) {
            let mut entry = self.entry(dir, path, found)?;
            entry.kind = Kind::HardLink;
            entry.link = path.to_owned();
            entry.name = other;
            entry.xattrs.clear();
            self.archive.entry(&entry)?;
        }
        Ok(())
    }

    fn bytes(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        found: &Found,
        entry: &Entry,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(dir, &*found.name, flags, Mode::empty()).map_err(failed(path))?;
        self.archive.entry(entry)?;
        let mut buffer = vec![0; 128 << 10];
        let mut left = entry.size;
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            match rustix::io::read(&file, &mut buffer[..most]) {
                // Somebody cut it meanwhile: the archive has said how long it is.
                Ok(0) => buffer.fill(0),
                Ok(length) => {
                    self.archive.data(&buffer[..length])?;
                    left -= u64::try_from(length).unwrap_or(left);
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed(path)(errno)),
            }
            self.archive.data(&buffer[..most])?;
            left -= u64::try_from(most).unwrap_or(left);
        }
        self.archive.pad(entry.size)
    }

    /// Remembers a directory until there is something in it to write.
    fn enter(&mut self, entry: Option<Entry>) -> Result<()> {
        self.above.push(entry);
        if self.above.len() > DEEPEST {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!("more than {DEEPEST} directories in each other"),
            ));
        }
        Ok(())
    }

    /// Writes the directories above what comes now.
    fn flush(&mut self) -> Result<()> {
        for entry in &mut self.above {
            if let Some(entry) = entry.take() {
                self.archive.entry(&entry)?;
            }
        }
        Ok(())
    }

    fn entry(&self, dir: BorrowedFd<'_>, path: &[u8], found: &Found) -> Result<Entry> {
        let stat = &found.stat;
        let device =
            found.kind() == FileType::CharacterDevice || found.kind() == FileType::BlockDevice;
        let kind = match found.kind() {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            _ => Kind::File,
        };
        let modified = Time {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        };
        let link = match kind {
            Kind::Symlink => rustix::fs::readlinkat(dir, &*found.name, Vec::new())
                .map_err(failed(path))?
                .into_bytes(),
            _ => Vec::new(),
        };
        Ok(Entry {
            name: path.to_owned(),
            kind,
            link,
            mode: stat.st_mode & 0o7777,
            uid: Ids::unmap(&self.ids.users, stat.st_uid)
                .map_err(|error| error.context(shown(path)))?,
            gid: Ids::unmap(&self.ids.groups, stat.st_gid)
                .map_err(|error| error.context(shown(path)))?,
            size: if kind == Kind::File {
                u64::try_from(stat.st_size).unwrap_or(0)
            } else {
                0
            },
            modified: self.epoch.map_or(modified, |epoch| modified.min(epoch)),
            major: if device {
                rustix::fs::major(stat.st_rdev)
            } else {
                0
            },
            minor: if device {
                rustix::fs::minor(stat.st_rdev)
            } else {
                0
            },
            xattrs: tree::xattrs(dir, path, found)?,
            ..Entry::default()
        })
    }
}

/// Whether overlayfs's directory of changes is not all that there is to know: files whose bytes are
/// still below, directories that were renamed.
///
/// # Errors
/// Where it can't be read.
pub fn refers_below(dir: BorrowedFd<'_>, prefix: &str, path: &[u8]) -> Result<bool> {
    for found in tree::list(dir, path)? {
        let inner = join(path, &found.name);
        let attribute = match found.kind() {
            FileType::Directory => "redirect",
            FileType::RegularFile => "metacopy",
            _ => continue,
        };
        if tree::has_xattr(dir, &found.name, &format!("{prefix}{attribute}"))? {
            return Ok(true);
        }
        if found.is_dir() {
            let below = tree::open(dir, &inner, &found.name)?;
            if refers_below(below.as_fd(), prefix, &inner)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
