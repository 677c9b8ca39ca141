//! Paths of entries, and the directories that they lead to.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir as Listing, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Unpacker, Whiteouts, attributes, failed};
use crate::error::{Error, Result};

/// How many directories are kept open: entries mostly come in the order of the tree.
const OPEN: usize = 24;

/// How many links may be on the way to a file: as many as the kernel follows.
const LINKS: usize = 40;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    pub fd: OwnedFd,
}

/// The directories that entries were put into last, the very last first.
#[derive(Debug, Default)]
pub struct Parents(Vec<(Vec<u8>, Rc<Dir>)>);

impl Parents {
    fn get(&mut self, path: &[u8]) -> Option<Rc<Dir>> {
        let found = self.0.iter().position(|(known, _)| known == path)?;
        self.0[..=found].rotate_right(1);
        self.0.first().map(|(_, dir)| Rc::clone(dir))
    }

    fn put(&mut self, path: &[u8], dir: OwnedFd) -> Rc<Dir> {
        let dir = Rc::new(Dir { fd: dir });
        self.0.truncate(OPEN - 1);
        self.0.insert(0, (path.to_owned(), Rc::clone(&dir)));
        dir
    }

    /// Forgets all: something on the way to them has changed.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// A path without what leads nowhere: relative to the root, without `.` and `..`; empty for the
/// root itself.
pub fn clean(name: &[u8]) -> Result<Vec<u8>> {
    let mut path: Vec<u8> = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if path.is_empty() => {
                return Err(Error::invalid("its path leads out of the root directory"));
            }
            b".." => {
                let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                path.truncate(end);
            }
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path)
}

/// The directory that something is in, and its name there. Nothing for the root.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

pub fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() {
        return name.to_owned();
    }
    [above, b"/", name].concat()
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

pub fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// A directory below another one, which links on the way do not lead out of.
pub fn open_beneath(root: BorrowedFd<'_>, path: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile, wherever: the kernel was not sure.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

pub fn is_empty(dir: BorrowedFd<'_>) -> Result<bool> {
    for entry in Listing::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is in a directory.
pub fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Listing::read_from(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_bytes().to_owned();
        if !matches!(&*name, b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes what is there under a name, with all that is in it.
pub fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Both are said of directories.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let below = open_dir(dir, name).map_err(failed)?;
    for name in names(below.as_fd())? {
        remove(below.as_fd(), &name)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed)
}

/// Removes what is in a directory and not of `ours`, at any depth.
pub fn remove_others(dir: BorrowedFd<'_>, path: &[u8], ours: &HashSet<Vec<u8>>) -> Result<()> {
    for name in names(dir)? {
        let path = join(path, &name);
        if !ours.contains(&path) {
            remove(dir, &name)?;
            continue;
        }
        match open_dir(dir, &name) {
            Ok(below) => remove_others(below.as_fd(), &path, ours)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

impl Unpacker {
    /// The directory of a path, if it is there.
    pub fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        if let Some(known) = self.parents.get(path) {
            return Ok(Some(known));
        }
        match open_beneath(self.place.dir.as_fd(), path, OFlags::empty()) {
            Ok(dir) => Ok(Some(self.parents.put(path, dir))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The directory of a path, which is made where it is not there.
    pub fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        let made = self.make_parents(path)?;
        Ok(self.parents.put(path, made))
    }

    /// Walks along a path and makes what is missing, also where links lead.
    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path
                .split(|byte| *byte == b'/')
                .filter(|part| !matches!(**part, [] | [b'.']));
            parts.map(<[u8]>::to_owned).collect()
        };
        let mut rest = VecDeque::from(parts(path));
        let mut done: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                let end = done.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                done.truncate(end);
                continue;
            }
            // Every part of `done` was looked at: there is no link in it.
            let dir =
                open_beneath(self.place.dir.as_fd(), &done, OFlags::NOFOLLOW).map_err(failed)?;
            let next = join(&done, &name);
            let stat = match rustix::fs::statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(stat),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(failed(errno)),
            };
            match stat
                .as_ref()
                .map(|stat| FileType::from_raw_mode(stat.st_mode))
            {
                Some(FileType::Directory) => done = next,
                Some(FileType::Symlink) => {
                    links += 1;
                    if links > LINKS {
                        return Err(failed(Errno::LOOP));
                    }
                    let text = rustix::fs::readlinkat(&dir, &*name, Vec::new()).map_err(failed)?;
                    let text = text.to_bytes();
                    if text.starts_with(b"/") {
                        done.clear();
                    }
                    for part in parts(text).into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                kind => {
                    let gone = stat.as_ref().is_some_and(attributes::is_whiteout);
                    let overlay = matches!(self.place.whiteouts, Whiteouts::Overlay(_));
                    if kind.is_some() && !(gone && overlay) {
                        let what = format!("{} is not a directory", shown(&next));
                        return Err(Error::invalid(what));
                    }
                    if kind.is_some() {
                        remove(dir.as_fd(), &name)?;
                    }
                    rustix::fs::mkdirat(&dir, &*name, Mode::from_raw_mode(0o755))
                        .map_err(failed)?;
                    if let (true, Whiteouts::Overlay(prefix)) = (gone, self.place.whiteouts) {
                        let made = open_dir(dir.as_fd(), &name).map_err(failed)?;
                        attributes::make_opaque(made.as_fd(), prefix)?;
                    } else if let Some(alike) = self.lower_attributes(&next)? {
                        self.pending.push((next.clone(), alike));
                    }
                    if !self.fresh {
                        self.keep(&next);
                    }
                    done = next;
                }
            }
        }
        open_beneath(self.place.dir.as_fd(), &done, OFlags::NOFOLLOW).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_root() {
        for (name, path) in [
            ("a/b", "a/b"),
            ("/a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("a/../b", "b"),
            ("a/b/..", "a"),
            (".", ""),
            ("/", ""),
            ("a/..", ""),
        ] {
            assert_eq!(clean(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        for name in ["..", "../a", "a/../../b", "/.."] {
            assert!(clean(name.as_bytes()).is_err(), "{name}");
        }
    }
}
