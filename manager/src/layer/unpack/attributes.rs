//! Owners, modes, times and extended attributes.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::tree::Dir;
use super::{Ids, Unpacker, failed};
use crate::error::{Error, Result};
use crate::layer::tar::{Entry, Kind, Time};

/// What overlayfs keeps for itself. A layer that could say this would decide what lower layers show.
const RESERVED: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// All that a file has beside its bytes, as it is to be on the disk.
#[derive(Debug, Clone)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub times: Timestamps,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Whether an attribute is overlayfs's own.
pub fn is_reserved(name: &[u8]) -> bool {
    RESERVED.iter().any(|reserved| name.starts_with(reserved))
}

/// Whether it is how overlayfs says that a name is gone.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory shows nothing of lower layers.
pub fn is_opaque(dir: BorrowedFd<'_>, prefix: &str) -> bool {
    let mut value = [0_u8; 4];
    let name = format!("{prefix}opaque");
    let read = rustix::fs::fgetxattr(dir, &*name, &mut value);
    read.is_ok_and(|length| value.get(..length) == Some(&b"y"[..]))
}

/// Says of a directory that it shows nothing of lower layers.
pub fn make_opaque(dir: BorrowedFd<'_>, prefix: &str) -> Result<()> {
    let name = format!("{prefix}opaque");
    rustix::fs::fsetxattr(dir, &*name, b"y", XattrFlags::empty()).map_err(failed)
}

fn timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    }
}

impl Unpacker {
    /// What an entry says, for the disk.
    pub fn attributes(&self, entry: &Entry) -> Result<Attributes> {
        let accessed = entry.accessed.unwrap_or(entry.modified).max(entry.modified);
        Ok(Attributes {
            mode: entry.mode,
            uid: Ids::map(&self.place.ids.users, entry.uid)?,
            gid: Ids::map(&self.place.ids.groups, entry.gid)?,
            times: Timestamps {
                last_access: timespec(accessed),
                last_modification: timespec(entry.modified),
            },
            xattrs: entry.xattrs.clone(),
        })
    }

    /// Whether a file that was just made belongs to somebody else than it should.
    fn is_foreign(&self, attributes: &Attributes) -> bool {
        (attributes.uid, attributes.gid) != self.me
    }

    /// Gives attributes to an open file or directory. With `all` those too that a new file has.
    pub fn dress_open(
        &self,
        file: BorrowedFd<'_>,
        attributes: &Attributes,
        all: bool,
    ) -> Result<()> {
        let Attributes { mode, uid, gid, .. } = *attributes;
        // The owner first: it takes set-id bits and capabilities away.
        if all || self.is_foreign(attributes) {
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            self.owned(rustix::fs::fchown(file, owner.0, owner.1), attributes)?;
        }
        if all || mode & 0o7000 != 0 {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(failed)?;
        }
        for (name, value) in &attributes.xattrs {
            self.attributed(name, || {
                rustix::fs::fsetxattr(file, &**name, value, XattrFlags::empty())
            })?;
        }
        rustix::fs::futimens(file, &attributes.times).map_err(failed)
    }

    /// The same for what can't be opened without consequences.
    pub fn dress(&self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<()> {
        let attributes = self.attributes(entry)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if !self.exact || self.is_foreign(&attributes) {
            let owner = (
                Some(Uid::from_raw(attributes.uid)),
                Some(Gid::from_raw(attributes.gid)),
            );
            self.owned(
                rustix::fs::chownat(&dir.fd, name, owner.0, owner.1, nofollow),
                &attributes,
            )?;
        }
        if entry.kind != Kind::Symlink && (!self.exact || entry.mode & 0o7000 != 0) {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(&dir.fd, name, mode, AtFlags::empty()).map_err(failed)?;
        }
        self.named_xattrs(dir, name, &attributes)?;
        rustix::fs::utimensat(&dir.fd, name, &attributes.times, nofollow).map_err(failed)
    }

    /// Gives another name's attributes to a file that has its own, where they are different.
    pub fn dress_linked(&self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&dir.fd, name, nofollow).map_err(failed)?;
        let attributes = self.attributes(entry)?;
        let owner = (
            Some(Uid::from_raw(attributes.uid)),
            Some(Gid::from_raw(attributes.gid)),
        );
        let foreign = (stat.st_uid, stat.st_gid) != (attributes.uid, attributes.gid);
        if foreign {
            self.owned(
                rustix::fs::chownat(&dir.fd, name, owner.0, owner.1, nofollow),
                &attributes,
            )?;
        }
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let mode = attributes.mode;
        if !is_link && (foreign || stat.st_mode & 0o7777 != mode) {
            rustix::fs::chmodat(&dir.fd, name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(failed)?;
        }
        self.named_xattrs(dir, name, &attributes)?;
        rustix::fs::utimensat(&dir.fd, name, &attributes.times, nofollow).map_err(failed)
    }

    /// Sets extended attributes by a name, which is looked up in the directory alone.
    fn named_xattrs(&self, dir: &Dir, name: &[u8], attributes: &Attributes) -> Result<()> {
        if attributes.xattrs.is_empty() {
            return Ok(());
        }
        rustix::process::fchdir(&dir.fd).map_err(failed)?;
        for (key, value) in &attributes.xattrs {
            self.attributed(key, || {
                rustix::fs::lsetxattr(name, &**key, value, XattrFlags::empty())
            })?;
        }
        Ok(())
    }

    fn attributed(&self, name: &[u8], set: impl Fn() -> Result<(), Errno>) -> Result<()> {
        if is_reserved(name) {
            return Ok(());
        }
        match set() {
            Ok(()) => Ok(()),
            // The file system has none of this kind, or not for this kind of file.
            Err(Errno::OPNOTSUPP) => Ok(()),
            Err(Errno::PERM | Errno::ACCESS)
                if !self.place.privileged || name.starts_with(b"user.") =>
            {
                Ok(())
            }
            Err(errno) => {
                let name = super::shown(name);
                Err(failed(errno).context(format!("its extended attribute {name}")))
            }
        }
    }

    fn owned(&self, changed: Result<(), Errno>, attributes: &Attributes) -> Result<()> {
        match changed {
            Err(Errno::PERM | Errno::INVAL) if !self.place.privileged => Ok(()),
            Err(Errno::INVAL) => Err(Error::invalid(format!(
                "its owner {}:{} has no place in the user namespace",
                attributes.uid, attributes.gid
            ))),
            changed => changed.map_err(failed),
        }
    }
}

impl Attributes {
    /// Those of a file that is there.
    pub fn of(file: impl AsFd, stat: &Stat) -> Result<Self> {
        let time = |seconds, nanoseconds| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
        };
        let file = file.as_fd();
        let mut xattrs = Vec::new();
        let names = grow(|buffer| rustix::fs::flistxattr(file, buffer)).map_err(failed)?;
        for name in names.split(|byte| *byte == 0) {
            if name.is_empty() || is_reserved(name) {
                continue;
            }
            let value = grow(|buffer| rustix::fs::fgetxattr(file, name, buffer)).map_err(failed)?;
            xattrs.push((name.to_owned(), value));
        }
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            times: Timestamps {
                last_access: time(stat.st_atime, stat.st_atime_nsec),
                last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
            },
            xattrs,
        })
    }
}

/// Reads what has no length known before.
pub fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
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
