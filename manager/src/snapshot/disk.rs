//! Directory trees on the disk: measured, copied and removed.
//!
//! The names in a tree are a stranger's. Every step is relative to an open directory and follows no
//! symbolic link.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::store::schema::Usage;

/// The deepest tree, in directories: each costs a descriptor and a frame of the stack.
const DEEPEST: usize = 512;

fn failed(path: &Path) -> impl Fn(Errno) -> Error {
    let path = path.display().to_string();
    move |errno| Error::io(&path, &errno.into())
}

/// Makes a directory of exactly this mode.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().mode(mode).create(path);
    made.map_err(|error| Error::io(path.display(), &error))?;
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::chmod(path, mode).map_err(failed(path))
}

/// Makes a directory and those above it, where they are not there.
pub(super) fn make_dirs(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().mode(mode).recursive(true).create(path);
    made.map_err(|error| Error::io(path.display(), &error))
}

/// Gives `to` the mode of `from`, and the owner that `shift` says for its owner. Without `from`, the
/// owner is root and the mode stays.
pub(super) fn own_alike(
    from: Option<&Path>,
    to: &Path,
    shift: impl Fn((u32, u32)) -> (u32, u32),
) -> Result<()> {
    let like = from
        .map(|from| fs::symlink_metadata(from).map_err(|error| Error::io(from.display(), &error)));
    let like = like.transpose()?;
    let owner = like
        .as_ref()
        .map_or((0, 0), |like| (like.uid(), like.gid()));
    let (uid, gid) = shift(owner);
    if like.is_some() || (uid, gid) != owner {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chown(to, owner.0, owner.1).map_err(failed(to))?;
    }
    let Some(like) = like else { return Ok(()) };
    let mode = Mode::from_raw_mode(like.mode() & 0o7777);
    rustix::fs::chmod(to, mode).map_err(failed(to))
}

/// Whether a directory has the mode it was made with, and root for an owner.
pub(super) fn is_as_made(path: &Path, mode: u32) -> Result<bool> {
    let found = fs::symlink_metadata(path).map_err(|error| Error::io(path.display(), &error))?;
    Ok((found.uid(), found.gid(), found.mode() & 0o7777) == (0, 0, mode))
}

/// The entries of a directory whose names are numbers.
pub(super) fn numbers(path: &Path) -> Result<Vec<u64>> {
    let broken = |error| Error::io(path.display(), &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(broken)? {
        let name = entry.map_err(broken)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(found)
}

/// Removes a tree, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path.display(), &error)),
        _ => Ok(()),
    }
}

/// What a tree takes on the disk. A file of several names counts once.
pub(super) fn usage(path: &Path) -> Result<Usage> {
    let root = open_tree(path)?;
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut count = |stat: &Stat| {
        if stat.st_nlink < 2 || is_dir(stat) || seen.insert((stat.st_dev, stat.st_ino)) {
            usage.size += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            usage.inodes += 1;
        }
    };
    count(&rustix::fs::fstat(&root).map_err(failed(path))?);
    walk(root.as_fd(), path, 0, &mut count)?;
    Ok(usage)
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn open_tree(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed(path))
}

fn open_at(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Shows what is in a directory: names, with the whole path for messages, and attributes. `depth` is
/// how many directories it is in.
fn entries(
    dir: BorrowedFd<'_>,
    path: &Path,
    depth: usize,
    mut see: impl FnMut(&CStr, &Path, &Stat) -> Result<()>,
) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::precondition(format!(
            "{} has more than {DEEPEST} directories in each other",
            path.display()
        )));
    }
    for entry in Dir::read_from(dir).map_err(failed(path))? {
        let entry = entry.map_err(failed(path))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let inner = path.join(OsStr::from_bytes(name.to_bytes()));
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        see(name, &inner, &stat.map_err(failed(&inner))?)?;
    }
    Ok(())
}

/// Shows everything below a directory.
fn walk(dir: BorrowedFd<'_>, path: &Path, depth: usize, see: &mut impl FnMut(&Stat)) -> Result<()> {
    entries(dir, path, depth, |name, inner, stat| {
        see(stat);
        if !is_dir(stat) {
            return Ok(());
        }
        let next = open_at(dir, name, OFlags::RDONLY | OFlags::DIRECTORY);
        let next = next.map_err(failed(inner))?;
        walk(next.as_fd(), inner, depth + 1, see)
    })
}

/// Copies a tree to a place where nothing is: owners, modes, times, extended attributes, devices,
/// hard links and holes.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    make_dir(to, 0o700)?;
    let (source, target) = (open_tree(from)?, open_tree(to)?);
    let mut copier = Copier::default();
    copier.contents(source.as_fd(), target.as_fd(), from, 0)?;
    let stat = rustix::fs::fstat(&source).map_err(failed(from))?;
    attributes(source.as_fd(), target.as_fd(), &stat).map_err(failed(to))
}

#[derive(Default)]
struct Copier {
    /// Where the files with several names have been put: directory and name.
    linked: HashMap<(u64, u64), (OwnedFd, std::ffi::CString)>,
}

impl Copier {
    fn contents(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<()> {
        entries(source, path, depth, |name, inner, stat| {
            if !is_dir(stat) {
                return self.one(source, target, name, stat).map_err(failed(inner));
            }
            let (below, made) = enter(source, target, name).map_err(failed(inner))?;
            self.contents(below.as_fd(), made.as_fd(), inner, depth + 1)?;
            attributes(below.as_fd(), made.as_fd(), stat).map_err(failed(inner))
        })
    }

    fn one(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let key = (stat.st_dev, stat.st_ino);
        if let Some((dir, first)) = self.linked.get(&key) {
            return rustix::fs::linkat(dir, first, target, name, AtFlags::empty());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => {
                let from = open_at(source, name, OFlags::RDONLY)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
                bytes(
                    from.as_fd(),
                    to.as_fd(),
                    u64::try_from(stat.st_size).unwrap_or(0),
                )?;
                attributes(from.as_fd(), to.as_fd(), stat)?;
            }
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(text, target, name)?;
                unopened(source, target, name, stat)?;
            }
            _ => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?;
                unopened(source, target, name, stat)?;
                rustix::fs::chmodat(target, name, mode, AtFlags::empty())?;
            }
        }
        if stat.st_nlink > 1 {
            let dir = rustix::io::fcntl_dupfd_cloexec(target, 0)?;
            self.linked.insert(key, (dir, name.to_owned()));
        }
        Ok(())
    }
}

fn enter(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &CStr,
) -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::fs::mkdirat(target, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    Ok((open_at(source, name, flags)?, open_at(target, name, flags)?))
}

/// Copies the bytes of a file and leaves its holes; shares its blocks where the file system can.
fn bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    if size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole follows.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        let (mut read, mut write) = (start, start);
        while read < end {
            let length = usize::try_from(end - read).unwrap_or(usize::MAX);
            let copied =
                rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), length)?;
            if copied == 0 {
                return Err(Errno::IO);
            }
        }
        at = end;
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
}

/// Gives an open file what another has. The owner first: it takes set-id bits and capabilities away.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(to, uid, gid)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let names = grow(|buffer| rustix::fs::flistxattr(from, buffer))?;
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let value = grow(|buffer| rustix::fs::fgetxattr(from, name, buffer))?;
        rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty())?;
    }
    rustix::fs::futimens(to, &times(stat))
}

/// The same for what can't be opened without consequences. Its extended attributes are named by a
/// path, whose directory is the open one.
fn unopened(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> Result<(), Errno> {
    let (uid, gid) = owner(stat);
    rustix::fs::chownat(target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    let path = |dir: BorrowedFd<'_>| {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        path
    };
    let (from, to) = (path(source), path(target));
    let names = grow(|buffer| rustix::fs::llistxattr(&*from, buffer))?;
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let value = grow(|buffer| rustix::fs::lgetxattr(&*from, name, buffer))?;
        rustix::fs::lsetxattr(&*to, name, &value, XattrFlags::empty())?;
    }
    rustix::fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Reads what has no length known before.
fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() <= 65536 => buffer.resize(buffer.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    }
}
