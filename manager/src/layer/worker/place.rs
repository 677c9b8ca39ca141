//! Where a worker works: the trees of a snapshot, mounted for it alone, and nothing else.
//!
//! ```text
//! /            an empty file system in memory, the root directory of the worker
//! /N           a tree: the directory to write to, or the lower layers as one, read only
//! ```
//!
//! A snapshot of overlayfs is written to below its upper directory, without mounting it: one file
//! is one file then. Devices in a tree do nothing: it is mounted so.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::job::Mounted;
use crate::error::{Code, Error, Result};
use crate::layer::unpack::{Ids, Place, Range, Whiteouts};

/// What is done with a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is looked at.
    Read,
    /// A layer is put onto it.
    Write,
}

/// A worker's view of files, as it is made.
#[derive(Debug)]
pub struct Jail {
    /// The root directory that it will have; none where the kernel allows none.
    root: Option<OwnedFd>,
    privileged: bool,
    trees: usize,
}

/// Locked onto every tree: nothing in it is executed or opened as a device.
const HARMLESS: MountFlags = MountFlags::NODEV
    .union(MountFlags::NOSUID)
    .union(MountFlags::NOEXEC);

fn failed(what: &str) -> impl Fn(Errno) -> Error {
    move |errno| Error::io(what, &errno.into())
}

impl Jail {
    /// An empty one.
    ///
    /// # Errors
    /// Where the kernel fails at what it allows.
    pub fn new() -> Result<Self> {
        let had = rustix::thread::capabilities(None).map_err(failed("capabilities"))?;
        Ok(Self {
            root: alone()?,
            privileged: had.effective.contains(CapabilitySet::CHOWN),
            trees: 0,
        })
    }

    /// A tree that mounts describe, as a snapshotter gives them.
    ///
    /// # Errors
    /// `InvalidArgument` for mounts that make no tree; where they fail.
    pub fn tree(&mut self, mounts: &[Mounted], access: Access) -> Result<Place> {
        let ids = ids(mounts)?;
        if access == Access::Write && mounts.iter().any(|mount| is_set(mount, "ro")) {
            // It may show its parent, which nothing must change any more.
            return Err(Error::precondition(
                "the mounts are of a read-only file system",
            ));
        }
        let (dir, lower, whiteouts) = match mounts {
            [] => return Err(Error::invalid("there is no mount to work on")),
            [mount] if is_bind(mount) => {
                (self.bind(&mount.source, access)?, None, Whiteouts::Remove)
            }
            [mount] if mount.kind == "overlay" => {
                let mut lower = lower_dirs(mount);
                match (option(mount, "upperdir"), access) {
                    (Some(upper), Access::Write) => {
                        let lower = self.merged(&lower, mount)?;
                        (self.bind(upper, access)?, lower, whiteouts(mount))
                    }
                    (None, Access::Write) => {
                        return Err(Error::precondition("an overlay that can't be written to"));
                    }
                    (upper, Access::Read) => {
                        lower.splice(..0, upper.map(str::to_owned));
                        let merged = self.merged(&lower, mount)?;
                        (
                            merged.ok_or_else(needs_privileges)?,
                            None,
                            Whiteouts::Remove,
                        )
                    }
                }
            }
            _ => (self.mounted(mounts, access)?, None, Whiteouts::Remove),
        };
        let privileged = self.privileged;
        Ok(Place {
            dir,
            lower,
            whiteouts,
            ids,
            privileged,
        })
    }

    /// The changes that overlayfs has made to `lower`, if that is what `upper` describes.
    ///
    /// # Errors
    /// Where they can't be opened.
    pub fn changes(&mut self, lower: &[Mounted], upper: &[Mounted]) -> Result<Option<Place>> {
        let [mount] = upper else { return Ok(None) };
        let below = match lower {
            [lower] if is_bind(lower) => vec![lower.source.clone()],
            [lower] if lower.kind == "overlay" && option(lower, "upperdir").is_none() => {
                lower_dirs(lower)
            }
            _ => return Ok(None),
        };
        let dir = option(mount, "upperdir").filter(|_| mount.kind == "overlay");
        match dir.filter(|_| lower_dirs(mount) == below) {
            Some(dir) => Ok(Some(Place {
                dir: self.bind(dir, Access::Read)?,
                lower: None,
                whiteouts: whiteouts(mount),
                ids: ids(upper)?,
                privileged: self.privileged,
            })),
            None => Ok(None),
        }
    }

    /// Makes this the worker's root directory, out of which there is no way.
    ///
    /// # Errors
    /// Where the kernel fails.
    pub fn enter(&self) -> Result<()> {
        if let Some(root) = &self.root {
            rustix::process::fchdir(root).map_err(failed("the root directory"))?;
            rustix::process::chroot(".").map_err(failed("the root directory"))?;
        }
        rustix::process::umask(Mode::empty());
        Ok(())
    }

    /// The next empty directory to mount on, below the root. The working directory is the root.
    fn spot(&mut self) -> Result<Option<String>> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let name = self.trees.to_string();
        self.trees += 1;
        rustix::fs::mkdirat(root, &*name, Mode::RWXU).map_err(failed("a mount point"))?;
        rustix::process::fchdir(root).map_err(failed("the root directory"))?;
        Ok(Some(name))
    }

    fn bind(&mut self, source: &str, access: Access) -> Result<OwnedFd> {
        let Some(spot) = self.spot()? else {
            return open(CWD, source);
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, source, flags).map_err(failed(source))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree, "", CWD, &*spot, flags).map_err(failed(source))?;
        let mut flags = HARMLESS | MountFlags::BIND;
        if access == Access::Read {
            flags |= MountFlags::RDONLY;
        }
        // In a user namespace some flags are locked, and these stay as they are.
        match rustix::mount::mount_remount(&*spot, flags, "") {
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(failed(source)(errno)),
        }
        open(CWD, &spot)
    }

    /// Layers as one tree, the nearest first. Nothing where there are none, or where that can't be.
    fn merged(&mut self, dirs: &[String], mount: &Mounted) -> Result<Option<OwnedFd>> {
        if let [dir] = dirs {
            return self.bind(dir, Access::Read).map(Some);
        }
        if dirs.is_empty() {
            return Ok(None);
        }
        let Some(spot) = self.spot()? else {
            return Ok(None);
        };
        // The kernel takes one page of options: short names for long paths.
        let names = format!("{spot}.layers");
        rustix::fs::mkdir(&*names, Mode::RWXU).map_err(failed("a directory"))?;
        rustix::process::chdir(&*names).map_err(failed("a directory"))?;
        let mut options = "lowerdir=".to_owned();
        for (index, dir) in dirs.iter().enumerate() {
            rustix::fs::symlink(&**dir, index.to_string()).map_err(failed("a link"))?;
            let colon = if index > 0 { ":" } else { "" };
            options.push_str(&format!("{colon}{index}"));
        }
        if is_set(mount, "userxattr") {
            options.push_str(",userxattr");
        }
        let target = format!("../{spot}");
        let mount = |options: String| {
            let data = CString::new(options).unwrap_or_default();
            let flags = HARMLESS | MountFlags::RDONLY;
            rustix::mount::mount("overlay", &*target, "overlay", flags, &*data)
        };
        // Renamed directories and files whose bytes are elsewhere, where the kernel knows those.
        mount(format!("{options},redirect_dir=follow,metacopy=on"))
            .or_else(|_| mount(options))
            .map_err(failed("the layers below"))?;
        open(CWD, &target).map(Some)
    }

    /// A tree of any other kind, mounted as it is described.
    fn mounted(&mut self, mounts: &[Mounted], access: Access) -> Result<OwnedFd> {
        let spot = self.spot()?.ok_or_else(needs_privileges)?;
        for mount in mounts {
            let (mut flags, data) = parse_options(&mount.options)?;
            flags |= HARMLESS;
            if access == Access::Read {
                flags |= MountFlags::RDONLY;
            }
            let what = format!("mounting {:?} of type {:?}", mount.source, mount.kind);
            let failed = failed(&what);
            if is_bind(mount) {
                rustix::mount::mount_bind_recursive(&*mount.source, &*spot).map_err(&failed)?;
                let flags = flags | MountFlags::BIND;
                rustix::mount::mount_remount(&*spot, flags, "").map_err(failed)?;
            } else {
                rustix::mount::mount(&*mount.source, &*spot, &*mount.kind, flags, &*data)
                    .map_err(failed)?;
            }
        }
        open(CWD, &spot)
    }
}

fn needs_privileges() -> Error {
    Error::new(
        Code::PermissionDenied,
        "mounting this snapshot needs privileges",
    )
}

fn whiteouts(mount: &Mounted) -> Whiteouts {
    match is_set(mount, "userxattr") {
        true => Whiteouts::Overlay("user.overlay."),
        false => Whiteouts::Overlay("trusted.overlay."),
    }
}

fn lower_dirs(mount: &Mounted) -> Vec<String> {
    option(mount, "lowerdir")
        .map(split_dirs)
        .unwrap_or_default()
}

fn open(dir: impl AsFd, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, path, flags, Mode::empty()).map_err(failed(path))
}

fn is_bind(mount: &Mounted) -> bool {
    mount.kind == "bind" || is_set(mount, "bind") || is_set(mount, "rbind")
}

fn is_set(mount: &Mounted, name: &str) -> bool {
    mount.options.iter().any(|option| option == name)
}

fn option<'a>(mount: &'a Mounted, name: &str) -> Option<&'a str> {
    let mut options = mount.options.iter();
    options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
}

/// The directories of a list, in which a backslash makes a colon part of a name.
fn split_dirs(list: &str) -> Vec<String> {
    let mut dirs = vec![String::new()];
    let mut letters = list.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => dirs.push(String::new()),
            letter => {
                let letter = if letter == '\\' {
                    letters.next()
                } else {
                    Some(letter)
                };
                if let (Some(dir), Some(letter)) = (dirs.last_mut(), letter) {
                    dir.push(letter);
                }
            }
        }
    }
    dirs
}

/// Flags and data of mount(2) out of the options of mount(8).
fn parse_options(options: &[String]) -> Result<(MountFlags, CString)> {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match &**option {
            "ro" => flags |= MountFlags::RDONLY,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "rw" | "bind" | "rbind" | "defaults" | "dev" | "nodev" | "exec" | "noexec" | "suid"
            | "nosuid" | "async" | "atime" | "strictatime" => {}
            option if option.starts_with("uidmap=") || option.starts_with("gidmap=") => {}
            option => data.push(option.to_owned()),
        }
    }
    let data = CString::new(data.join(","));
    Ok((
        flags,
        data.map_err(|_| Error::invalid("a mount option has a NUL"))?,
    ))
}

/// Whose files are whose outside, from the options of all mounts.
fn ids(mounts: &[Mounted]) -> Result<Ids> {
    let ranges = |name| {
        let lists = mounts.iter().filter_map(|mount| option(mount, name));
        let ranges = lists.flat_map(|list| list.split(','));
        ranges.map(range).collect::<Result<Vec<_>>>()
    };
    Ok(Ids {
        users: ranges("uidmap")?,
        groups: ranges("gidmap")?,
    })
}

/// `INSIDE:OUTSIDE:COUNT`.
fn range(text: &str) -> Result<Range> {
    let numbers: Option<Vec<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[inside, outside, count]) => Ok(Range {
            inside,
            outside,
            count,
        }),
        _ => Err(Error::invalid(format!("{text:?} is no range of ids"))),
    }
}

/// Leaves the mounts of everybody else. A new empty root, as a descriptor and the working
/// directory; none where this user may not have one.
fn alone() -> Result<Option<OwnedFd>> {
    #[allow(deprecated)] // Descriptors stay shared: this process has one thread as yet.
    let unshare = rustix::thread::unshare;
    match unshare(UnshareFlags::NEWNS) {
        Ok(()) => {}
        Err(Errno::PERM) => {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            if unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).is_err() {
                return Ok(None);
            }
            // Only oneself is known inside, so files of others can't be made; as before.
            let write = |name: &str, text: String| {
                let path = Path::new("/proc/self").join(name);
                fs::write(&path, text).map_err(|error| Error::io(path.display(), &error))
            };
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("{0} {0} 1", uid.as_raw()))?;
            write("gid_map", format!("{0} {0} 1", gid.as_raw()))?;
        }
        Err(errno) => return Err(failed("a namespace for mounts")(errno)),
    }
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(failed("the mounts"))?;
    // Upon a directory that is there everywhere, and that no snapshot is below.
    let place = "/proc";
    rustix::mount::mount("tmpfs", place, "tmpfs", HARMLESS, c"mode=0700,size=1m")
        .map_err(failed("an empty file system"))?;
    let root = open(CWD, place)?;
    rustix::process::fchdir(&root).map_err(failed("the root directory"))?;
    Ok(Some(root))
}
