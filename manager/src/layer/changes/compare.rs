//! Whether a file is what it was.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Found, failed, tree};
use crate::error::Result;

/// Whether two files of one path are the same. Bytes are compared only where times can't tell: an
/// archive that has no fractions of seconds may have made both.
pub fn same(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    old: &Found,
    new: &Found,
    path: &[u8],
) -> Result<bool> {
    if old.inode() == new.inode() {
        return Ok(true);
    }
    let (before, after) = (&old.stat, &new.stat);
    let attributes =
        |stat: &rustix::fs::Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    if attributes(before) != attributes(after) {
        return Ok(false);
    }
    if tree::xattrs(lower, path, old)? != tree::xattrs(upper, path, new)? {
        return Ok(false);
    }
    let kind = FileType::from_raw_mode(after.st_mode);
    if kind == FileType::Directory {
        return Ok(true);
    }
    let time = |stat: &rustix::fs::Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    if time(before) != time(after) {
        return Ok(false);
    }
    match kind {
        FileType::Symlink => {
            let text = |dir, found: &Found| {
                rustix::fs::readlinkat(dir, &*found.name, Vec::new()).map_err(failed(path))
            };
            Ok(text(lower, old)? == text(upper, new)?)
        }
        FileType::RegularFile if after.st_mtime_nsec == 0 && after.st_size > 0 => {
            same_bytes(lower, upper, old, path)
        }
        _ => Ok(true),
    }
}

fn same_bytes(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    found: &Found,
    path: &[u8],
) -> Result<bool> {
    let failed = failed(path);
    let open = |dir| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(dir, &*found.name, flags, Mode::empty()).map_err(&failed)
    };
    let files = [open(lower)?, open(upper)?];
    let mut buffers = [vec![0; 64 << 10], vec![0; 64 << 10]];
    let mut at = 0;
    loop {
        let mut lengths = [0, 0];
        for ((file, buffer), length) in files.iter().zip(&mut buffers).zip(&mut lengths) {
            while *length < buffer.len() {
                let offset = at + u64::try_from(*length).unwrap_or(0);
                match rustix::io::pread(file, &mut buffer[*length..], offset) {
                    Ok(0) => break,
                    Ok(read) => *length += read,
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(failed(errno)),
                }
            }
        }
        if lengths[0] != lengths[1] || buffers[0][..lengths[0]] != buffers[1][..lengths[1]] {
            return Ok(false);
        }
        if lengths[0] < buffers[0].len() {
            return Ok(true);
        }
        at += u64::try_from(lengths[0]).unwrap_or(0);
    }
}
