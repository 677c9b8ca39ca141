//! What is in a directory.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::{Found, failed};
use crate::error::Result;
use crate::layer::unpack::attributes::{grow, is_reserved};

/// The entries of a directory, by name.
pub fn list(dir: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Found>> {
    let failed = failed(path);
    let mut all = Vec::new();
    for entry in Dir::read_from(dir).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => all.push(Found {
                name: name.to_bytes().to_owned(),
                stat,
            }),
            // The container runs on: it has gone meanwhile.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

pub fn open(dir: BorrowedFd<'_>, path: &[u8], name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(failed(path))
}

/// The extended attributes that belong into a layer: what users have set, capabilities and access
/// lists. Labels of security modules are the host's, as is what is trusted.
pub fn xattrs(dir: BorrowedFd<'_>, path: &[u8], found: &Found) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let failed = failed(path);
    rustix::process::fchdir(dir).map_err(&failed)?;
    let names = grow(|buffer| rustix::fs::llistxattr(&*found.name, buffer));
    let names = match names {
        Ok(names) => names,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(failed(errno)),
    };
    let mut names: Vec<&[u8]> = names.split(|byte| *byte == 0).collect();
    names.sort_unstable();
    let mut all = Vec::new();
    for name in names {
        let belongs = name.starts_with(b"user.")
            || name == b"security.capability"
            || name.starts_with(b"system.posix_acl_");
        if belongs && !is_reserved(name) {
            let value = grow(|buffer| rustix::fs::lgetxattr(&*found.name, name, buffer));
            match value {
                Ok(value) => all.push((name.to_owned(), value)),
                Err(Errno::NODATA) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
    Ok(all)
}

pub fn has_xattr(dir: BorrowedFd<'_>, name: &[u8], attribute: &str) -> Result<bool> {
    rustix::process::fchdir(dir).map_err(failed(name))?;
    let mut none = [0_u8; 0];
    match rustix::fs::lgetxattr(name, attribute, &mut none) {
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(name)(errno)),
    }
}
