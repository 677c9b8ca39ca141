//! `tmpcopyup`: a copy of the directory that a tmpfs is about to hide.
//!
//! Belongs here: copying a tree from one descriptor to another. Does not:
//! deciding that it is copied.
//!
//! What is copied comes from the image, so nothing is followed and every step
//! is taken from a descriptor. Modes and owners are kept, extended attributes
//! and times are not. Other mounts below stay out.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::error::{Context, Error, Result};

/// How deep directories may be nested; each level holds descriptors.
const MAX_DEPTH: u32 = 128;

/// Copies the contents of the directory `from` into `to`, and mode and owner too.
pub(super) fn copy_contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let from = open_directory(from, c".")?;
    let to = open_directory(to, c".")?;
    let stat = fs::fstat(&from).context(|| "fstat")?;
    copy_directory(from, &to, &stat, stat.st_dev, 0)
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
        .context(|| format!("openat({name:?}, O_DIRECTORY)"))
}

fn copy_directory(from: OwnedFd, to: &OwnedFd, stat: &Stat, device: u64, depth: u32) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::system(
            "tmpcopyup: nested too deep",
            Errno::NAMETOOLONG,
        ));
    }
    let entries = Dir::read_from(&from).context(|| "getdents")?;
    for entry in entries {
        let entry = entry.context(|| "getdents")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from.as_fd(), to.as_fd(), name, device, depth)
                .context(|| format!("tmpcopyup of {name:?}"))?;
        }
    }
    fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
    .context(|| "fchown")?;
    fs::fchmod(to, mode(stat)).context(|| "fchmod")
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    device: u64,
    depth: u32,
) -> Result<()> {
    let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "fstatat")?;
    if stat.st_dev != device {
        return Ok(());
    }
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            fs::mkdirat(to, name, Mode::RWXU).context(|| "mkdirat")?;
            let below = open_directory(from, name)?;
            let target = open_directory(to, name)?;
            return copy_directory(below, &target, &stat, device, depth + 1);
        }
        FileType::RegularFile => return copy_file(from, to, name, device),
        FileType::Symlink => {
            let target = fs::readlinkat(from, name, Vec::new()).context(|| "readlinkat")?;
            fs::symlinkat(&*target, to, name).context(|| "symlinkat")?;
        }
        // A socket's file is of no use to anybody but its maker.
        FileType::Socket | FileType::Unknown => return Ok(()),
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            fs::mknodat(to, name, kind, mode(&stat), stat.st_rdev).context(|| "mknodat")?;
        }
    }
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    fs::chownat(to, name, Some(owner.0), Some(owner.1), flags).context(|| "fchownat")
}

/// Copies a regular file; what has become something else meanwhile stays out.
fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, device: u64) -> Result<()> {
    // If it has become a FIFO, its other end is not waited for; if a terminal, it is not ours.
    let read =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let source = fs::openat(from, name, read, Mode::empty()).context(|| "openat")?;
    let stat = fs::fstat(&source).context(|| "fstat")?;
    // The runtime may read devices that the container must not, a disk of the host for one.
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_dev != device {
        return Ok(());
    }
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = fs::openat(to, name, write, Mode::RUSR | Mode::WUSR).context(|| "openat")?;
    let mut target = File::from(target);
    std::io::copy(&mut File::from(source), &mut target).context(|| "copy")?;
    fs::fchown(
        &target,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
    .context(|| "fchown")?;
    // After the owner: a change of it takes set-user-ID bits away.
    fs::fchmod(&target, mode(&stat)).context(|| "fchmod")
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}
