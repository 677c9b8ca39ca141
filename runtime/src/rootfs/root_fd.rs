//! [`RootFd`]: the only way to reach anything below the container's root.
//!
//! Belongs here: resolving, opening and creating below the root. Does not:
//! what is mounted or created, and why.
//!
//! The image below the root is hostile: any component may be a symbolic link
//! that points outside, and a process that shares a volume may exchange one
//! while we look. So a path is never given to the kernel but together with the
//! descriptor of the root, and openat2(2) with `RESOLVE_IN_ROOT` resolves it as
//! if the root were `/`. What comes out is a descriptor; creating, mounting and
//! checking happen on descriptors only, so that there is no second look-up
//! that could find something else (CVE-2019-18837, CVE-2021-30465,
//! CVE-2024-45310, CVE-2026-41579).

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::fds::Batch;

/// How often a look-up is tried again that a rename elsewhere has disturbed.
const MAX_RETRIES: u32 = 128;

/// How many symbolic links a path may pass, as in the kernel.
const MAX_LINKS: u32 = 40;

/// How many components a path may have, links resolved.
const MAX_COMPONENTS: usize = 4096;

/// What happens to symbolic links on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are followed, inside the root.
    Follow,
    /// They are an error, wherever in the path they are.
    Refuse,
}

/// What [`RootFd::make`] makes where the path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// A directory.
    Directory,
    /// An empty regular file.
    File,
}

/// An object below the root.
#[derive(Debug)]
pub struct Found {
    /// A descriptor to mount upon: `O_PATH`, or `O_RDONLY` of a file made just now.
    pub fd: OwnedFd,
    /// Whether it was made just now.
    pub created: bool,
}

/// A directory that is the root for everything resolved through it.
#[derive(Debug)]
pub struct RootFd {
    fd: OwnedFd,
    spent: RefCell<Batch>,
}

impl AsFd for RootFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for RootFd {
    fn from(directory: OwnedFd) -> RootFd {
        RootFd {
            fd: directory,
            spent: RefCell::default(),
        }
    }
}

impl RootFd {
    /// Takes over a descriptor that is done with: dozens are, one after the other, and
    /// closing each by itself takes as many calls.
    pub(crate) fn done(&self, fd: OwnedFd) {
        self.spent.borrow_mut().push(fd);
    }

    /// Resolves `path` to an `O_PATH` descriptor; a last component that is a link is followed too.
    ///
    /// # Errors
    /// openat2(2); `ELOOP` for links that `links` refuses and for magic links.
    pub fn resolve(&self, path: &str, links: Links) -> std::result::Result<OwnedFd, Errno> {
        self.lookup(path, OFlags::PATH, links)
    }

    /// Resolves `path`, but not a last component that is a symbolic link.
    ///
    /// # Errors
    /// As [`RootFd::resolve`].
    pub fn resolve_nofollow(&self, path: &str) -> std::result::Result<OwnedFd, Errno> {
        self.lookup(path, OFlags::PATH | OFlags::NOFOLLOW, Links::Follow)
    }

    /// Opens the file at `path`; never waits for a FIFO's other end, never becomes a controlling terminal.
    ///
    /// # Errors
    /// As [`RootFd::resolve`], and what opening fails with.
    pub fn open(
        &self,
        path: &str,
        flags: OFlags,
        links: Links,
    ) -> std::result::Result<OwnedFd, Errno> {
        let flags = flags.difference(OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC);
        self.lookup(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, links)
    }

    /// Opens the directory at `path`, as an `O_PATH` descriptor to go to.
    ///
    /// # Errors
    /// As [`RootFd::resolve`]; `ENOTDIR`.
    pub fn open_directory(&self, path: &str) -> Result<OwnedFd> {
        self.lookup(path, OFlags::PATH | OFlags::DIRECTORY, Links::Follow)
            .map_err(|errno| Error::system(call(path), errno))
    }

    /// Resolves `path`; what is missing is made: directories (mode 0755) on the
    /// way, and at its end a `leaf` with `mode` as far as the umask allows.
    /// Links that lead nowhere are followed, and their target is made.
    ///
    /// # Errors
    /// As [`RootFd::resolve`], mkdirat(2), openat(2).
    pub fn make(&self, path: &str, links: Links, leaf: Leaf, mode: Mode) -> Result<Found> {
        match self.resolve(path, links) {
            Ok(fd) => Ok(Found { fd, created: false }),
            Err(Errno::NOENT) => match self.make_last(path, links, leaf, mode) {
                // More than the last component is missing, or it is a link that
                // leads nowhere, or somebody else is at work here.
                Err(Errno::NOENT | Errno::EXIST | Errno::LOOP | Errno::INVAL) => {
                    Walk::new(self.as_fd(), links, Some(leaf), mode).run(path, OFlags::PATH)
                }
                result => result,
            },
            Err(errno) => Err(errno),
        }
        .map_err(|errno| match (errno, links) {
            (Errno::LOOP, Links::Refuse) => Error::system(
                format!("{path:?} in the root file system is or contains a symbolic link"),
                errno,
            ),
            _ => Error::system(call(path), errno),
        })
    }

    /// The usual case in few calls: only the last component of `path` is missing.
    fn make_last(
        &self,
        path: &str,
        links: Links,
        leaf: Leaf,
        mode: Mode,
    ) -> std::result::Result<Found, Errno> {
        let (parent, name) = match path.trim_end_matches('/').rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some(split) => split,
            None => ("/", path),
        };
        if matches!(name, "" | "." | "..") {
            return Err(Errno::INVAL);
        }
        let parent = self.lookup(parent, OFlags::PATH | OFlags::DIRECTORY, links)?;
        let created = create(parent.as_fd(), name, leaf, mode);
        self.done(parent);
        Ok(Found {
            fd: created?,
            created: true,
        })
    }

    fn lookup(
        &self,
        path: &str,
        flags: OFlags,
        links: Links,
    ) -> std::result::Result<OwnedFd, Errno> {
        open_in(self.as_fd(), path, flags, links)
    }
}

/// Opens `path` as if the directory `root` were `/`, and passes no magic link.
///
/// # Errors
/// Those of openat2(2); `ELOOP` for links that `links` refuses and for magic links.
pub(crate) fn open_in(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    links: Links,
) -> std::result::Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let mut tries = 0;
    loop {
        match fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // The kernel could not rule out an escape because something was
            // renamed or mounted meanwhile.
            Err(Errno::AGAIN | Errno::INTR) if tries < MAX_RETRIES => tries += 1,
            // No such call (before Linux 5.6), or a filter around us forbids it.
            Err(Errno::NOSYS | Errno::PERM) => break,
            result => return result,
        }
    }
    // The same component by component.
    let found = Walk::new(root, links, None, Mode::empty()).run(path, flags)?;
    if flags.contains(OFlags::DIRECTORY) && file_type(found.fd.as_fd())? != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    Ok(found.fd)
}

fn call(path: &str) -> String {
    format!("openat2(rootfs, {path:?}, RESOLVE_IN_ROOT)")
}

/// Opens the file `seen`, which is `name` in `parent`, for more than its path.
fn reopen(
    parent: BorrowedFd<'_>,
    name: &str,
    seen: OwnedFd,
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    if flags.contains(OFlags::PATH) {
        return Ok(seen);
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(parent, name, flags, Mode::empty())?;
    let (was, is) = (fs::fstat(&seen)?, fs::fstat(&fd)?);
    // Exchanged between the two look-ups: not what was looked at.
    if (was.st_dev, was.st_ino) != (is.st_dev, is.st_ino) {
        return Err(Errno::AGAIN);
    }
    Ok(fd)
}

/// The type of an open file.
pub(super) fn file_type(fd: BorrowedFd<'_>) -> std::result::Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fs::fstat(fd)?.st_mode))
}

/// A walk from the root, component by component: to make what is missing, and where the kernel
/// has no openat2(2).
///
/// It holds a descriptor of every directory from the root to where it is:
/// `..` goes back to the one it came from, so that no rename can lead it above
/// the root, and each step looks at one component and follows nothing.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    below: Vec<OwnedFd>,
    links: Links,
    /// What is made where the path leads nowhere; nothing is made where absent.
    leaf: Option<Leaf>,
    mode: Mode,
}

impl<'a> Walk<'a> {
    fn new(root: BorrowedFd<'a>, links: Links, leaf: Option<Leaf>, mode: Mode) -> Walk<'a> {
        Walk {
            root,
            below: Vec::new(),
            links,
            leaf,
            mode,
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.below.last().map_or(self.root, AsFd::as_fd)
    }

    /// Walks to the end of `path` and opens what is there with `flags`, `O_PATH` or others.
    fn run(mut self, path: &str, flags: OFlags) -> std::result::Result<Found, Errno> {
        let mut created = false;
        let mut followed = 0;
        // What is still to walk, the next component last.
        let mut rest: Vec<String> = components(path);
        while let Some(name) = rest.pop() {
            if rest.len() > MAX_COMPONENTS {
                return Err(Errno::NAMETOOLONG);
            }
            if name == ".." {
                self.below.pop();
                continue;
            }
            let last = rest.is_empty();
            let (fd, new) = self.step(&name, last)?;
            created = new;
            match file_type(fd.as_fd())? {
                FileType::Symlink if last && flags.contains(OFlags::NOFOLLOW) => {
                    return Ok(Found { fd, created });
                }
                FileType::Symlink => {
                    followed += 1;
                    if self.links == Links::Refuse || followed > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = fs::readlinkat(&fd, "", Vec::new())?;
                    let target = target.to_str().map_err(|_| Errno::INVAL)?;
                    if is_magic(fd.as_fd(), target)? {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with('/') {
                        self.below.clear();
                    }
                    rest.append(&mut components(target));
                }
                FileType::Directory => self.below.push(fd),
                _ if last => {
                    let fd = reopen(self.here(), &name, fd, flags)?;
                    return Ok(Found { fd, created });
                }
                _ => return Err(Errno::NOTDIR),
            }
        }
        let (fd, created) = match self.below.pop() {
            Some(fd) => (fd, created),
            None => (rustix::io::fcntl_dupfd_cloexec(self.root, 3)?, false),
        };
        let fd = if flags.contains(OFlags::PATH) {
            fd
        } else {
            fs::openat(&fd, ".", flags | OFlags::CLOEXEC, Mode::empty())?
        };
        Ok(Found { fd, created })
    }

    /// Opens one component without following it; makes it where it is missing.
    fn step(&self, name: &str, last: bool) -> std::result::Result<(OwnedFd, bool), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(self.here(), name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {}
            result => return result.map(|fd| (fd, false)),
        }
        let (leaf, mode) = match self.leaf {
            None => return Err(Errno::NOENT),
            Some(leaf) if last => (leaf, self.mode),
            Some(_) => (Leaf::Directory, Mode::from_raw_mode(0o755)),
        };
        match create(self.here(), name, leaf, mode) {
            // Somebody was faster: take what there is now.
            Err(Errno::EXIST) => {
                fs::openat(self.here(), name, flags, Mode::empty()).map(|fd| (fd, false))
            }
            result => result.map(|fd| (fd, true)),
        }
    }
}

/// Whether a link is one of procfs that leads to an object and not to a path. The ordinary ones in
/// there (`self`, `mounts`) are relative.
fn is_magic(link: BorrowedFd<'_>, target: &str) -> std::result::Result<bool, Errno> {
    let absolute = target.starts_with('/') || target.contains(":[");
    Ok(absolute && fs::fstatfs(link)?.f_type == fs::PROC_SUPER_MAGIC)
}

/// Makes `name` in `parent` and opens it.
fn create(
    parent: BorrowedFd<'_>,
    name: &str,
    leaf: Leaf,
    mode: Mode,
) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match leaf {
        Leaf::Directory => {
            fs::mkdirat(parent, name, mode)?;
            // Still a directory, whoever exchanges things here.
            let flags = flags | OFlags::PATH | OFlags::DIRECTORY;
            fs::openat(parent, name, flags, Mode::empty())
        }
        Leaf::File => {
            let flags = flags | OFlags::CREATE | OFlags::EXCL;
            fs::openat(parent, name, flags, mode)
        }
    }
}

/// The components of a path, the first one last.
fn components(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|name| !name.is_empty() && *name != ".")
        .map(str::to_owned)
        .collect()
}
