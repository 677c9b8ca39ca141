//! The configured mounts, one after the other.
//!
//! Belongs here: what a mount step of the plan does. Does not: how mounts are
//! made and moved (`tree`), cgroup mounts.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;

use super::Rootfs;
use super::copy;
use super::plan::{MountStep, What, bindable_in_proc};
use super::root_fd::{Found, Leaf, Links, file_type};
use super::tree::{Changes, Depth, NewFilesystem, ReadOnly};
use crate::error::{Context, Error, Kind, Result};
use crate::id_maps;
use crate::spec::mount_options::{Attributes, Bind, MountOptions, attr};

/// Magic number of procfs, statfs(2).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

impl Rootfs<'_> {
    /// Makes all mounts of the plan; `sources` are those that the host's side
    /// has opened. Returns whether `enter_cgroups` was called.
    pub(super) fn mount_all(
        &mut self,
        sources: Vec<Option<OwnedFd>>,
        enter_cgroups: &mut dyn FnMut() -> Result<()>,
    ) -> Result<bool> {
        let plan = self.plan;
        let mut entered = false;
        let mut sources = sources.into_iter();
        for step in &plan.mounts {
            let source = sources.next().flatten();
            if !entered && step.shows_cgroups() {
                enter_cgroups()?;
                entered = true;
            }
            self.mount(step, source).context(|| {
                format!(
                    "mounts[{}]: mount {:?} to {:?}",
                    step.index,
                    step.source_name(),
                    step.destination
                )
            })?;
        }
        Ok(entered)
    }

    fn mount(&mut self, step: &MountStep<'_>, source: Option<OwnedFd>) -> Result<()> {
        match &step.what {
            What::Bind(path) => self.bind(step, path, source),
            What::Filesystem { kind, source } => self.filesystem(step, kind, source),
            What::Cgroup { source } => self.cgroup(step, source),
            What::Remount => self.remount(step),
        }
    }

    /// The object to mount upon, made where missing.
    pub(super) fn destination(&self, step: &MountStep<'_>, leaf: Leaf) -> Result<Found> {
        // An image that has a link at one of these wants the mount elsewhere,
        // so that its own files pass for the kernel's (CVE-2019-19921).
        let special = matches!(
            step.what,
            What::Filesystem {
                kind: "proc" | "sysfs",
                ..
            }
        ) || matches!(step.normal.as_str(), "/proc" | "/sys" | "/dev");
        let links = if special {
            Links::Refuse
        } else {
            Links::Follow
        };
        let mode = Mode::from_raw_mode(match leaf {
            Leaf::Directory => 0o755,
            Leaf::File => 0o644,
        });
        if step.options.dest_nofollow
            && let Ok(fd) = self.root.resolve_nofollow(step.destination)
        {
            return Ok(Found { fd, created: false });
        }
        let found = self.root.make(step.destination, links, leaf, mode)?;
        // A link may lead where the plan could not see it: into a procfs.
        if !found.created
            && links == Links::Follow
            && step.normal != "/proc"
            && !bindable_in_proc(&step.normal)
            && is_procfs(found.fd.as_fd())?
        {
            return Err(Error::new(
                Kind::InvalidConfig,
                "the destination is part of the proc file system and cannot be mounted over",
            ));
        }
        Ok(found)
    }

    fn bind(&mut self, step: &MountStep<'_>, path: &Path, source: Option<OwnedFd>) -> Result<()> {
        if step.options.copy_symlink && self.copy_symlink(step, path)? {
            return Ok(());
        }
        let (tree, changes) = match source {
            Some(tree) if self.kernel.takes_detached() => (tree, Changes::default()),
            Some(_) if step.idmap.is_some() => {
                return Err(Error::unsupported("an id mapping", "needs Linux 5.12"));
            }
            _ => bind_source(step, path, &|path, depth, follow| {
                self.kernel.clone_host_path(path, depth, follow)
            })?,
        };
        if step.normal == "/proc" && !is_procfs(tree.as_fd())? {
            return Err(Error::new(
                Kind::InvalidConfig,
                format!("{path:?} is not a proc file system; only that can be at /proc"),
            ));
        }
        let leaf = match file_type(tree.as_fd()).context(|| format!("fstat({path:?})"))? {
            FileType::Directory => Leaf::Directory,
            _ => Leaf::File,
        };
        let destination = self.destination(step, leaf)?;
        self.place(tree.as_fd(), &changes, destination.fd.as_fd())?;
        self.root.done(tree);
        self.root.done(destination.fd);
        Ok(())
    }

    fn filesystem(&mut self, step: &MountStep<'_>, kind: &str, source: &str) -> Result<()> {
        let destination = self.destination(step, Leaf::Directory)?;
        let later = step.read_only_later();
        let mode;
        let mut extra = None;
        if kind == "tmpfs" && !destination.created && !has_data(&step.options, "mode") {
            // The directory below says what its replacement looks like: the
            // callers of runc rely on that.
            let stat = fs::fstat(&destination.fd).context(|| "fstat(destination)")?;
            mode = format!("{:o}", stat.st_mode & 0o7777);
            extra = Some(("mode", mode.as_str()));
        }
        let new = NewFilesystem {
            kind,
            source,
            options: &step.options,
            extra,
            label: if takes_label(kind) {
                self.plan.label
            } else {
                ""
            },
            read_only: if later {
                ReadOnly::Nothing
            } else {
                ReadOnly::All
            },
        };
        let options = &step.options;
        let none = Attributes::default();
        let mut changes = Changes::new(none, options.recursive, &options.propagation);
        if changes.is_empty() && !later && !options.tmpcopyup && new.is_simple() {
            // What fchdir(2) or mount(2) refuses, the other calls may explain, or do all the same.
            if self.enter(destination.fd.as_fd()).is_ok() && new.mount_here().is_ok() {
                self.root.done(destination.fd);
                return Ok(());
            }
        }
        // A source or option may be a path that begins where the caller is.
        self.leave()?;
        let tree = if options.needs_mount() {
            new.mount_classic(&format!("/proc/self/fd/{}", destination.fd.as_raw_fd()))?;
            let tree = self.mounted(step, destination.fd.as_fd())?;
            self.kernel.change(tree.as_fd(), &changes)?;
            tree
        } else {
            let tree = match self.kernel.new_filesystem(&new) {
                Err(error) if kind == "devpts" && error.errno() == Some(Errno::INVAL) => {
                    match without_group(options) {
                        Some(options) => self.kernel.new_filesystem(&NewFilesystem {
                            options: &options,
                            ..new
                        })?,
                        None => return Err(error),
                    }
                }
                // The kernel refuses a new one in a user namespace that does not own the network
                // or IPC namespace: the host's own instance, then.
                Err(error) if error.errno() == Some(Errno::PERM) => {
                    let Some(path) = host_instance(kind).map(Path::new) else {
                        return Err(error);
                    };
                    let mut all = options.recursive;
                    all.set |= options.attributes.set & !attr::ATIME;
                    changes = Changes::new(none, all, &options.propagation);
                    let found = self.kernel.clone_host_path(path, Depth::All, true);
                    found.map_err(|_| error)?
                }
                result => result?,
            };
            self.place(tree.as_fd(), &changes, destination.fd.as_fd())?;
            tree
        };
        if options.tmpcopyup && kind == "tmpfs" && !destination.created {
            copy::copy_contents(destination.fd.as_fd(), tree.as_fd())?;
        }
        if later {
            self.read_only_later.push((step.index, tree));
        } else {
            self.root.done(tree);
        }
        self.root.done(destination.fd);
        Ok(())
    }

    /// [`Kernel::place`](super::kernel::Kernel::place), with the reason where the types do not fit.
    fn place(
        &self,
        tree: BorrowedFd<'_>,
        changes: &Changes,
        destination: BorrowedFd<'_>,
    ) -> Result<()> {
        let result = self.kernel.place(tree, changes, destination);
        if result.is_err() {
            let is_directory = |fd| file_type(fd).map(|kind| kind == FileType::Directory);
            match (is_directory(tree), is_directory(destination)) {
                (Ok(true), Ok(false)) => {
                    return Err(Error::system("the destination is a file", Errno::NOTDIR));
                }
                (Ok(false), Ok(true)) => {
                    let why = "the destination is a directory, and the source";
                    return Err(Error::system(why, Errno::NOTDIR));
                }
                _ => {}
            }
        }
        result
    }

    /// Finds the mount that mount(2) has just made upon `beneath`.
    fn mounted(&self, step: &MountStep<'_>, beneath: BorrowedFd<'_>) -> Result<OwnedFd> {
        let found = self
            .root
            .resolve(step.destination, Links::Follow)
            .context(|| "openat2(rootfs, destination, RESOLVE_IN_ROOT)")?;
        let (id, is_root) = self.kernel.mount_id(found.as_fd())?;
        if is_root == Some(false) || id == self.kernel.mount_id(beneath)?.0 {
            return Err(Error::new(
                Kind::InvalidConfig,
                "the destination was exchanged while it was mounted upon",
            ));
        }
        Ok(found)
    }

    /// Changes the mount at the destination, and its superblock unless `bind` is given too.
    fn remount(&mut self, step: &MountStep<'_>) -> Result<()> {
        let options = &step.options;
        let place = self
            .root
            .resolve(step.destination, Links::Follow)
            .context(|| "openat2(rootfs, destination, RESOLVE_IN_ROOT)")?;
        if options.bind == Bind::No {
            self.kernel.reconfigure(place.as_fd(), options)?;
        }
        let changes = Changes::new(options.attributes, options.recursive, &options.propagation);
        self.kernel.change(place.as_fd(), &changes)
    }

    /// Makes a symbolic link like the one at `path` on the host; false where that is none.
    fn copy_symlink(&self, step: &MountStep<'_>, path: &Path) -> Result<bool> {
        let target = match fs::readlinkat(fs::CWD, path, Vec::new()) {
            Err(Errno::INVAL) => return Ok(false),
            result => result.context(|| format!("readlink({path:?})"))?,
        };
        let (parent, name) = step.normal.rsplit_once('/').unwrap_or(("", &step.normal));
        let parent = if parent.is_empty() { "/" } else { parent };
        let mode = Mode::from_raw_mode(0o755);
        let parent = self
            .root
            .make(parent, Links::Follow, Leaf::Directory, mode)?;
        match fs::symlinkat(&*target, &parent.fd, name) {
            Err(Errno::EXIST)
                if fs::readlinkat(&parent.fd, name, Vec::new()).as_ref() == Ok(&target) => {}
            result => result.context(|| format!("symlinkat({target:?}, {name:?})"))?,
        }
        Ok(true)
    }
}

/// A copy of a bind mount's source, and what its options still have to change.
pub(super) fn bind_source(
    step: &MountStep<'_>,
    path: &Path,
    clone: &dyn Fn(&Path, Depth, bool) -> std::result::Result<OwnedFd, Errno>,
) -> Result<(OwnedFd, Changes)> {
    let options = &step.options;
    let depth = match options.bind {
        Bind::Rbind => Depth::All,
        Bind::Bind | Bind::No => Depth::One,
    };
    let tree =
        clone(path, depth, !options.src_nofollow).context(|| format!("open_tree({path:?})"))?;
    let changes = Changes::new(options.attributes, options.recursive, &options.propagation);
    Ok((tree, changes))
}

fn host_instance(kind: &str) -> Option<&'static str> {
    match kind {
        "sysfs" => Some("/sys"),
        "mqueue" => Some("/dev/mqueue"),
        _ => None,
    }
}

fn has_data(options: &MountOptions<'_>, name: &str) -> bool {
    options.data_items().any(|(key, _)| key == name)
}

/// The options without `gid=` whose group does not exist in this user namespace: a user with one id
/// has no group for terminals, and every configuration asks for it. `None` where all groups exist.
fn without_group<'a>(options: &MountOptions<'a>) -> Option<MountOptions<'a>> {
    let unmapped = |option: &str| {
        option
            .strip_prefix("gid=")
            .and_then(|gid| gid.parse().ok())
            .is_some_and(|gid| !id_maps::exists("gid_map", gid))
    };
    let mut without = options.clone();
    without.data.retain(|option| !unmapped(option));
    (without.data.len() != options.data.len()).then_some(without)
}

/// Whether a file system takes a `context` option; those that have no files of
/// their own get their labels from the policy.
fn takes_label(kind: &str) -> bool {
    !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2" | "mqueue")
}

fn is_procfs(file: BorrowedFd<'_>) -> Result<bool> {
    let magic = fs::fstatfs(file).context(|| "fstatfs")?.f_type;
    Ok(u64::try_from(magic) == Ok(PROC_SUPER_MAGIC))
}

impl MountStep<'_> {
    fn shows_cgroups(&self) -> bool {
        match self.what {
            What::Cgroup { .. } => true,
            What::Filesystem { kind, .. } => kind == "cgroup2",
            What::Bind(_) | What::Remount => false,
        }
    }

    pub(super) fn source_name(&self) -> String {
        match &self.what {
            What::Bind(path) => path.display().to_string(),
            What::Filesystem { source, .. } | What::Cgroup { source } => (*source).to_owned(),
            What::Remount => String::new(),
        }
    }
}
