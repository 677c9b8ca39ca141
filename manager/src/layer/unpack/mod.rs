//! Puts the entries of a layer below a directory. Image specification, layer.md.
//!
//! Every path is looked up below the directory's descriptor: `..` and links end at it, also where
//! the process is not shut in. What is there under an entry's own name is replaced, never followed.
//!
//! A directory gets its attributes at the end, when nothing is put into it any more.

pub(super) mod attributes;
mod lower;
mod tree;

use std::collections::HashSet;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tar::{Entry, Kind, Reader, Region};
use crate::error::{Code, Error, Result};
use attributes::Attributes;
use tree::{Dir, Parents, clean, split};
pub(super) use tree::{join, shown};

/// Where a layer is put.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub dir: OwnedFd,
    /// The layers below, as one tree, where they are not in `dir` itself.
    pub lower: Option<OwnedFd>,
    /// How a layer says that something of those is gone.
    pub whiteouts: Whiteouts,
    /// Whose files are whose.
    pub ids: Ids,
    /// Whether this process may give files to anybody and make devices. Where it may not, the files
    /// are its own, and devices are left out.
    pub privileged: bool,
}

/// How something is gone that a lower layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// It is removed.
    Remove,
    /// As overlayfs says it, with attributes of this prefix: the kernel's overlayfs.rst.
    Overlay(&'static str),
}

/// A range of users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first in a layer.
    pub inside: u32,
    /// The first on the disk.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Users and groups of a layer as those of the disk. Without ranges they are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub users: Vec<Range>,
    /// Groups.
    pub groups: Vec<Range>,
}

impl Ids {
    fn map(ranges: &[Range], id: u32) -> Result<u32> {
        Self::shift(
            ranges
                .iter()
                .map(|range| (range.inside, range.outside, range.count)),
            id,
        )
    }

    /// A user or group of a layer, from one of the disk.
    ///
    /// # Errors
    /// `InvalidArgument` for one that no layer has.
    pub(super) fn unmap(ranges: &[Range], id: u32) -> Result<u32> {
        Self::shift(
            ranges
                .iter()
                .map(|range| (range.outside, range.inside, range.count)),
            id,
        )
    }

    fn shift(ranges: impl Iterator<Item = (u32, u32, u32)>, id: u32) -> Result<u32> {
        let mut any = false;
        for (from, to, count) in ranges {
            any = true;
            let offset = id.checked_sub(from).filter(|offset| *offset < count);
            if let Some(mapped) = offset.and_then(|offset| to.checked_add(offset)) {
                return Ok(mapped);
            }
        }
        if !any {
            return Ok(id);
        }
        Err(Error::invalid(format!(
            "its owner {id} has no place in the user namespace"
        )))
    }
}

/// Makes files out of entries.
#[derive(Debug)]
pub struct Unpacker {
    place: Place,
    /// Whether all that is there comes from this layer.
    fresh: bool,
    /// Whether a new file is exactly as it was asked for, so that only what differs needs a call.
    exact: bool,
    me: (u32, u32),
    parents: Parents,
    /// Directories whose attributes are still to be set.
    pending: Vec<(Vec<u8>, Attributes)>,
    /// Where not all comes from this layer: what does, with the directories above.
    ours: HashSet<Vec<u8>>,
    /// Directories that hide what lower layers have in them.
    opaque: HashSet<Vec<u8>>,
    /// Bytes that are taken up by what is remembered.
    remembered: usize,
}

/// The most bytes that may be remembered of one layer.
const MEMORY: usize = 512 << 20;

/// What happened to an entry, in front of its name.
fn failed(errno: Errno) -> Error {
    match errno {
        Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::INVAL
        | Errno::FBIG
        | Errno::TOOBIG
        | Errno::RANGE => Error::invalid(std::io::Error::from(errno).to_string()),
        _ => {
            let error = std::io::Error::from(errno);
            Error::new(Error::io("", &error).code(), error.to_string())
        }
    }
}

impl Unpacker {
    /// One that unpacks there.
    ///
    /// # Errors
    /// Where the place can't be read.
    pub fn new(place: Place) -> Result<Self> {
        let fresh = tree::is_empty(place.dir.as_fd())?;
        let stat = rustix::fs::fstat(&place.dir).map_err(failed)?;
        let mut none = [0_u8; 0];
        let inherits =
            rustix::fs::fgetxattr(&place.dir, "system.posix_acl_default", &mut none).is_ok();
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Ok(Self {
            fresh: fresh || place.whiteouts != Whiteouts::Remove,
            exact: fresh && !inherits && stat.st_mode & 0o2000 == 0,
            me: (uid.as_raw(), gid.as_raw()),
            parents: Parents::default(),
            pending: Vec::new(),
            ours: HashSet::new(),
            opaque: HashSet::new(),
            remembered: 0,
            place,
        })
    }

    /// Puts all entries there.
    ///
    /// # Errors
    /// `InvalidArgument` for entries that make no sense, with their names; where the disk fails.
    pub fn unpack(mut self, archive: &mut Reader<impl BufRead>) -> Result<()> {
        while let Some(entry) = archive.next_entry()? {
            let put = self.entry(&entry, archive);
            put.map_err(|error| error.context(shown(&entry.name)))?;
        }
        self.settle()
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Reader<impl BufRead>) -> Result<()> {
        let path = clean(&entry.name)?;
        let Some((above, name)) = split(&path) else {
            // The root directory is as the snapshot has made it.
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(above, hidden);
        }
        let dir = self.parent(above)?;
        if !self.fresh {
            self.keep(&path);
            self.remember(path.len())?;
        }
        match entry.kind {
            Kind::Directory => self.directory(&dir, &path, name, entry),
            Kind::File => self.file(&dir, name, entry, archive),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(Error::invalid("a link to nowhere"));
                }
                self.replace(&dir, name, || {
                    rustix::fs::symlinkat(&*entry.link, &dir.fd, name)
                })?;
                self.dress(&dir, name, entry)
            }
            Kind::HardLink => self.link(&dir, &path, name, entry),
            Kind::Character | Kind::Block | Kind::Fifo => self.node(&dir, name, entry),
        }
    }

    /// Makes something under a name, in the place of what is there.
    fn replace<T>(
        &mut self,
        dir: &Dir,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                tree::remove(dir.fd.as_fd(), name)?;
                // It may have been on the way to others.
                self.parents.clear();
                make().map_err(failed)
            }
            made => made.map_err(failed),
        }
    }

    fn directory(&mut self, dir: &Rc<Dir>, path: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
        let make = || rustix::fs::mkdirat(&dir.fd, name, mode);
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW);
                let there = there.map_err(failed)?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    self.replace(dir, name, make)?;
                    self.hide_lower(dir, name)?;
                }
            }
            Err(errno) => return Err(failed(errno)),
        }
        let attributes = self.attributes(entry)?;
        self.pending.push((path.to_owned(), attributes));
        let xattrs = entry
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len());
        self.remember(path.len() + xattrs.sum::<usize>())
    }

    /// Counts what is kept until the end.
    fn remember(&mut self, bytes: usize) -> Result<()> {
        const EACH: usize = 200;
        self.remembered += bytes + EACH;
        if self.remembered > MEMORY {
            let what =
                "there is too much to remember of this layer: directories, opaque ones, names";
            return Err(Error::new(Code::ResourceExhausted, what));
        }
        Ok(())
    }

    fn file(
        &mut self,
        dir: &Rc<Dir>,
        name: &[u8],
        entry: &Entry,
        archive: &mut Reader<impl BufRead>,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self.replace(dir, name, || rustix::fs::openat(&dir.fd, name, flags, mode))?;
        match &entry.sparse {
            None => archive.data(|bytes| write_all(&file, bytes))?,
            Some(regions) => {
                let mut holes = Holes { regions, done: 0 };
                archive.data(|bytes| holes.write(&file, bytes))?;
                rustix::fs::ftruncate(&file, entry.size).map_err(failed)?;
            }
        }
        let attributes = self.attributes(entry)?;
        self.dress_open(file.as_fd(), &attributes, !self.exact)
    }

    fn node(&mut self, dir: &Rc<Dir>, name: &[u8], entry: &Entry) -> Result<()> {
        let kind = match entry.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        // What the kernel's own numbers have room for.
        if entry.major >= 1 << 12 || entry.minor >= 1 << 20 {
            let what = format!("there is no device {}:{}", entry.major, entry.minor);
            return Err(Error::invalid(what));
        }
        let device = rustix::fs::makedev(entry.major, entry.minor);
        let mode = Mode::from_raw_mode(entry.mode & 0o7777);
        let made = self.replace(dir, name, || {
            rustix::fs::mknodat(&dir.fd, name, kind, mode, device)
        });
        match made {
            // Without privileges there are no devices, and no need for them.
            Err(error) if error.code() == Code::PermissionDenied && !self.place.privileged => {
                Ok(())
            }
            made => made.and_then(|()| self.dress(dir, name, entry)),
        }
    }

    fn link(&mut self, dir: &Rc<Dir>, path: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        let target = clean(&entry.link)?;
        let missing = || {
            Error::invalid(format!(
                "a hard link to {}, which is not there",
                shown(&entry.link)
            ))
        };
        let (above, base) = split(&target).ok_or_else(missing)?;
        let found = match self.find(above)? {
            Some(found) if self.is_there(&found, base)? => found,
            _ => {
                self.copy_up(&target)?.then_some(()).ok_or_else(missing)?;
                self.find(above)?.ok_or_else(missing)?
            }
        };
        if target != path {
            let link = || rustix::fs::linkat(&found.fd, base, &dir.fd, name, AtFlags::empty());
            let linked = match self.replace(dir, name, link) {
                // What the kernel says of directories.
                Err(error) if error.code() == Code::PermissionDenied => {
                    Err(Error::invalid("it can't have another name"))
                }
                linked => linked,
            };
            linked
                .map_err(|error| error.context(format!("a hard link to {}", shown(&entry.link))))?;
        }
        self.dress_linked(dir, name, entry)
    }

    /// Whether there is something of that name, which is not gone.
    fn is_there(&self, dir: &Dir, name: &[u8]) -> Result<bool> {
        match rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                Ok(self.place.whiteouts == Whiteouts::Remove || !attributes::is_whiteout(&stat))
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Hides something that lower layers have: `hidden` in the directory `above`.
    fn whiteout(&mut self, above: &[u8], hidden: &[u8]) -> Result<()> {
        if hidden == b".wh..opq" {
            let there = match self.place.whiteouts {
                Whiteouts::Remove => self.find(above)?,
                Whiteouts::Overlay(_) => Some(self.parent(above)?),
            };
            return there.map_or(Ok(()), |dir| self.make_opaque(&dir, above));
        }
        // What aufs kept for itself.
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::invalid("a whiteout of nothing"));
        }
        let path = join(above, hidden);
        if self.place.whiteouts == Whiteouts::Remove {
            // What this layer has itself is not meant.
            let Some(dir) = self.find(above)?.filter(|_| !self.fresh) else {
                return Ok(());
            };
            if self.ours.contains(&path) {
                let below = self.find(&path)?;
                return below.map_or(Ok(()), |below| self.make_opaque(&below, &path));
            }
            tree::remove(dir.fd.as_fd(), hidden)?;
            self.parents.clear();
            return Ok(());
        }
        let dir = self.parent(above)?;
        let kind = FileType::CharacterDevice;
        match rustix::fs::mknodat(&dir.fd, hidden, kind, Mode::empty(), 0) {
            // A file of this layer hides what is below it anyway.
            Err(Errno::EXIST) => self.hide_lower(&dir, hidden),
            made => made.map_err(failed),
        }
    }

    /// If that is a directory: hides what lower layers have in it.
    fn hide_lower(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        let Whiteouts::Overlay(prefix) = self.place.whiteouts else {
            return Ok(());
        };
        match tree::open_dir(dir.fd.as_fd(), name) {
            Ok(found) => attributes::make_opaque(found.as_fd(), prefix),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The same for a directory that is open.
    fn make_opaque(&mut self, dir: &Dir, path: &[u8]) -> Result<()> {
        // Once is enough, however often a layer says so.
        if !self.opaque.insert(path.to_owned()) {
            return Ok(());
        }
        self.remember(path.len())?;
        match self.place.whiteouts {
            // Overlayfs takes no heed of it there.
            Whiteouts::Overlay(_) if path.is_empty() => {
                let below = self
                    .place
                    .lower
                    .as_ref()
                    .map(|lower| tree::names(lower.as_fd()));
                for name in below.transpose()?.unwrap_or_default() {
                    self.whiteout(b"", &name)?;
                }
                Ok(())
            }
            Whiteouts::Overlay(prefix) => attributes::make_opaque(dir.fd.as_fd(), prefix),
            Whiteouts::Remove if self.fresh => Ok(()),
            Whiteouts::Remove => {
                self.parents.clear();
                tree::remove_others(dir.fd.as_fd(), path, &self.ours)
            }
        }
    }

    /// Remembers that a path comes from this layer.
    fn keep(&mut self, path: &[u8]) {
        let mut path = path;
        while self.ours.insert(path.to_owned()) {
            match split(path) {
                Some((above, _)) if !above.is_empty() => path = above,
                _ => break,
            }
        }
    }

    /// Gives directories their attributes, those that are further in first.
    fn settle(&mut self) -> Result<()> {
        let mut done = HashSet::new();
        for (path, attributes) in std::mem::take(&mut self.pending).into_iter().rev() {
            // Where there are several the last one holds.
            if done.contains(&path) {
                continue;
            }
            match tree::open_beneath(self.place.dir.as_fd(), &path, OFlags::NOFOLLOW) {
                Ok(dir) => self
                    .dress_open(dir.as_fd(), &attributes, true)
                    .map_err(|error| error.context(shown(&path)))?,
                // Something else has taken its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(failed(errno).context(shown(&path))),
            }
            done.insert(path);
        }
        Ok(())
    }
}

/// Writes the bytes of a file with holes to their places.
struct Holes<'a> {
    regions: &'a [Region],
    /// Bytes of the first region that are written.
    done: u64,
}

impl Holes<'_> {
    fn write(&mut self, file: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(region) = self.regions.first() else {
                return Err(Error::invalid("more bytes than the map of its holes says"));
            };
            let room = usize::try_from(region.length - self.done).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            let mut at = region.start + self.done;
            let mut rest = now;
            while !rest.is_empty() {
                let written = match rustix::io::pwrite(file, rest, at) {
                    Err(Errno::INTR) => continue,
                    written => written.map_err(failed)?,
                };
                at += u64::try_from(written).unwrap_or(0);
                rest = &rest[written..];
            }
            self.done = at - region.start;
            if self.done == region.length {
                self.regions = &self.regions[1..];
                self.done = 0;
            }
            bytes = later;
        }
        Ok(())
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Err(Errno::INTR) => {}
            written => bytes = &bytes[written.map_err(failed)?..],
        }
    }
    Ok(())
}
