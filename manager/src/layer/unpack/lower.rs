//! What a layer takes from the layers below it, where these are not in the directory it is put into.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;

use super::attributes::Attributes;
use super::tree::{open_beneath, split};
use super::{Unpacker, failed};
use crate::error::{Error, Result};

impl Unpacker {
    /// The attributes of a directory in lower layers.
    pub fn lower_attributes(&self, path: &[u8]) -> Result<Option<Attributes>> {
        let Some(lower) = &self.place.lower else {
            return Ok(None);
        };
        match open_beneath(lower.as_fd(), path, OFlags::empty()) {
            Ok(dir) => {
                let stat = rustix::fs::fstat(&dir).map_err(failed)?;
                Attributes::of(&dir, &stat).map(Some)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Copies a file of a lower layer to its place in this one, to give it another name there: as
    /// overlayfs does. Whether it is there.
    pub fn copy_up(&mut self, path: &[u8]) -> Result<bool> {
        let Some(lower) = &self.place.lower else {
            return Ok(false);
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let from = match rustix::fs::openat2(lower, path, flags, Mode::empty(), resolve) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = rustix::fs::fstat(&from).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::invalid("a hard link to no file of a lower layer"));
        }
        let Some((above, name)) = split(path) else {
            return Ok(false);
        };
        let dir = self.parent(above)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let to = self.replace(&dir, name, || {
            rustix::fs::openat(&dir.fd, name, flags, mode)
        })?;
        copy(&from, &to, u64::try_from(stat.st_size).unwrap_or(0)).map_err(failed)?;
        self.dress_open(to.as_fd(), &Attributes::of(&from, &stat)?, true)?;
        Ok(true)
    }
}

/// Copies the bytes of a file and leaves its holes.
fn copy(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
    rustix::fs::ftruncate(to, size)?;
    let mut buffer = vec![0; 128 << 10];
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole follows.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        let mut done = start;
        while done < end {
            let most = usize::try_from(end - done)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let piece = match rustix::io::pread(from, &mut buffer[..most], done)? {
                0 => return Err(Errno::IO),
                length => &buffer[..length],
            };
            let mut rest = piece;
            while !rest.is_empty() {
                let written = rustix::io::pwrite(to, rest, done)?;
                done += u64::try_from(written).unwrap_or(0);
                rest = &rest[written..];
            }
        }
        at = end;
    }
    Ok(())
}
