//! Making, placing and changing mounts on every kernel, and under filters that hide newer calls.
//!
//! Belongs here: which call is used, and how mount(2) is aimed at a descriptor. Does not: what is
//! mounted or changed.
//!
//! What is missing shows when it is asked for, and is remembered: `ENOSYS`, or `EPERM` at the very
//! first of the calls, which is what filters of older container engines answer for calls that they
//! do not know. Then mount(2) does it. It takes paths only: the ones it gets are descriptors' numbers,
//! relative to the host's /proc/self/fd, which was opened before anything of the container was
//! mounted. And it makes mounts attached: so they are made in a [`Stage`] that nobody else can see,
//! completed there, and moved onto the descriptor of their destination, as detached ones are.

use std::cell::{Cell, OnceCell};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{self, MountFlags, MountPropagationFlags};
use rustix::process::fchdir;

use super::root_fd::file_type;
use super::tree::{self, Changes, Depth, NewFilesystem};
use crate::error::{Context, Error, Result};
use crate::proc::unescape;
use crate::spec::mount_options::{MountOptions, attr};
use crate::sys::mount::{MountAttr, mount_setattr};

/// What the running kernel is asked for mounts with.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The host's /proc/self/fd, where mount(2) has to be aimed.
    fds: OnceCell<OwnedFd>,
    /// Whether there is mount_setattr(2).
    changes: bool,
    /// Whether mounts are made in the stage: open_tree(2), fsopen(2) or the like is missing.
    staged: Cell<bool>,
    /// Whether move_mount(2) is missing.
    no_move: Cell<bool>,
    stage: OnceCell<Stage>,
    /// Whether mounts are those of a namespace of the container's own, cut off from the host's.
    reach: Reach,
}

/// Where a mount that is made shows up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// On the host: there is no other mount namespace.
    Host,
    /// In the container's namespace, and on the host below mounts that share with it.
    Shared,
    /// In the container's namespace.
    Container,
}

impl Kernel {
    /// Makes all mounts of the namespace slaves, if they shall not share with the host, and finds
    /// out how mounts are changed on the way.
    pub(super) fn probe(reach: Reach) -> Result<Kernel> {
        let slave = reach == Reach::Container;
        let mut change = MountAttr::default();
        if slave {
            change.propagation = MountPropagationFlags::DOWNSTREAM.bits().into();
        }
        let mut kernel = Kernel {
            fds: OnceCell::new(),
            changes: true,
            staged: Cell::new(false),
            no_move: Cell::new(false),
            stage: OnceCell::new(),
            reach,
        };
        match mount_setattr(CWD, c"/", slave, &change) {
            Ok(()) => return Ok(kernel),
            Err(Errno::NOSYS | Errno::PERM) => kernel.changes = false,
            Err(errno) => {
                return Err(Error::system(
                    "mount_setattr(\"/\", AT_RECURSIVE, MS_SLAVE)",
                    errno,
                ));
            }
        }
        if slave {
            let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            mount::mount_change("/", flags).context(|| "mount(\"/\", MS_SLAVE | MS_REC)")?;
        }
        kernel.descriptors().context(|| "open(\"/proc/self/fd\")")?;
        Ok(kernel)
    }

    /// Whether mounts are made in the stage, which is gone once the root has changed.
    pub(super) fn is_staged(&self) -> bool {
        self.staged.get()
    }

    /// Whether what was made detached on the host's side can be attached.
    pub(super) fn takes_detached(&self) -> bool {
        !self.no_move.get()
    }

    /// Makes mounts in the stage from now on, if they are not yet; whether that is a change.
    pub(super) fn begin_staging(&self) -> bool {
        !self.staged.replace(true)
    }

    /// A copy of the mount at an open file, attached nowhere that anybody sees.
    pub(super) fn clone_fd(
        &self,
        file: BorrowedFd<'_>,
        depth: Depth,
    ) -> std::result::Result<OwnedFd, Errno> {
        if !self.staged.get() {
            match tree::clone_fd(file, depth) {
                Err(Errno::NOSYS) => self.staged.set(true),
                result => return result,
            }
        }
        let kind = file_type(file)?;
        self.in_stage(kind, |slot| {
            let flags = match depth {
                Depth::One => MountFlags::BIND,
                Depth::All => MountFlags::BIND | MountFlags::REC,
            };
            mount::mount(&*name(file), slot, c"", flags, None::<&CStr>)
        })
    }

    /// A copy of the mount at a path of the host. Never use it for a path of the container.
    pub(super) fn clone_host_path(
        &self,
        path: &Path,
        depth: Depth,
        follow: bool,
    ) -> std::result::Result<OwnedFd, Errno> {
        if !self.staged.get() {
            match tree::clone_host_path(path, depth, follow) {
                Err(Errno::NOSYS) => self.staged.set(true),
                result => return result,
            }
        }
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let file = fs::open(path, flags, Mode::empty())?;
        self.clone_fd(file.as_fd(), depth)
    }

    /// Makes an instance of a file system and a mount of it, attached nowhere that anybody sees.
    pub(super) fn new_filesystem(&self, new: &NewFilesystem<'_>) -> Result<OwnedFd> {
        if !self.staged.get() {
            match new.make() {
                Err(error) if error.errno() == Some(Errno::NOSYS) => self.staged.set(true),
                result => return result,
            }
        }
        let mut why = None;
        let made = self.in_stage(FileType::Directory, |slot| {
            new.mount_classic(slot).map_err(|error| {
                let errno = error.errno().unwrap_or(Errno::INVAL);
                why = Some(error);
                errno
            })
        });
        let made = made.map_err(|errno| {
            why.unwrap_or_else(|| Error::system(format!("mount({:?})", new.kind), errno))
        })?;
        if new.read_only == tree::ReadOnly::Mount {
            // mount(2) knows only one `ro`, and that is the superblock's.
            self.change(made.as_fd(), &Changes::read_only_if(new.options))?;
        }
        Ok(made)
    }

    /// Makes a mount upon a new place in the stage, whose name from /proc/self/fd `mount` gets.
    fn in_stage(
        &self,
        kind: FileType,
        mount: impl FnOnce(&str) -> std::result::Result<(), Errno>,
    ) -> std::result::Result<OwnedFd, Errno> {
        let stage = self.stage()?;
        let slot = stage.slot(kind)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = fs::openat(&stage.directory, &slot, flags, Mode::empty())?;
        self.at_descriptors(|| mount(&name(place.as_fd())))??;
        // Looked up again, the name leads to what was mounted there.
        fs::openat(&stage.directory, &slot, flags, Mode::empty())
    }

    fn stage(&self) -> std::result::Result<&Stage, Errno> {
        if self.reach == Reach::Host {
            // Nothing that is for the container only could be hidden from the host.
            return Err(Errno::NOSYS);
        }
        if let Some(stage) = self.stage.get() {
            return Ok(stage);
        }
        let stage = Stage::new(self)?;
        Ok(self.stage.get_or_init(|| stage))
    }

    /// Puts a mount that was made by this onto `destination`.
    pub(super) fn attach(
        &self,
        tree: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
    ) -> std::result::Result<(), Errno> {
        if !self.no_move.get() {
            match tree::attach(tree, destination) {
                Err(Errno::NOSYS) => self.no_move.set(true),
                Err(Errno::PERM) if self.staged.get() => self.no_move.set(true),
                result => return result,
            }
        }
        if !self.staged.get() {
            return Err(Errno::NOSYS);
        }
        self.at_descriptors(|| mount::mount_move(&*name(tree), &*name(destination)))?
    }

    /// Puts a mount onto `destination`, changed. Nobody sees it unchanged, except where a mount
    /// that was made detached can be changed by mount(2) only.
    pub(super) fn place(
        &self,
        tree: BorrowedFd<'_>,
        changes: &Changes,
        destination: BorrowedFd<'_>,
    ) -> Result<()> {
        let first = self.changes || self.staged.get();
        if first {
            self.change(tree, changes)?;
        }
        self.attach(tree, destination)
            .context(|| "move_mount(destination)")?;
        if !first {
            self.change(tree, changes)?;
        }
        Ok(())
    }

    /// Binds an open file to another one, both in the namespace, with no change.
    pub(super) fn bind(
        &self,
        source: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
    ) -> std::result::Result<(), Errno> {
        if !self.staged.get() {
            let tree = tree::clone_fd(source, Depth::One)?;
            return tree::attach(tree.as_fd(), destination);
        }
        self.at_descriptors(|| {
            let (source, destination) = (name(source), name(destination));
            mount::mount(
                &*source,
                &*destination,
                c"",
                MountFlags::BIND,
                None::<&CStr>,
            )
        })?
    }

    /// Changes a mount that is attached.
    pub(super) fn change(&self, mount: BorrowedFd<'_>, changes: &Changes) -> Result<()> {
        if self.changes {
            return changes.apply(mount);
        }
        changes.iter().try_for_each(|(recursive, attr)| {
            if *recursive && attr.attr_set | attr.attr_clr != 0 {
                self.change_below(mount, attr)?;
            }
            self.aimed(|| change_classic(mount, *recursive, attr))
        })
    }

    /// Changes the attributes of the mounts below `top`, one by one.
    fn change_below(&self, top: BorrowedFd<'_>, attr: &MountAttr) -> Result<()> {
        let mut found = vec![self.mount_id(top)?.0];
        let table = self.aimed(|| {
            std::fs::read_to_string("../mountinfo").context(|| "read(\"/proc/self/mountinfo\")")
        })?;
        // The table is in the order of the tree: what is below comes after what it is below of.
        for line in table.lines() {
            let mut fields = line.split(' ');
            let mut number = || fields.next()?.parse::<u64>().ok();
            let (Some(id), Some(parent)) = (number(), number()) else {
                continue;
            };
            let Some(place) = fields.nth(2).filter(|_| found.contains(&parent)) else {
                continue;
            };
            found.push(id);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = unescape(place);
            let call = || format!("open({:?})", String::from_utf8_lossy(&place));
            let mount = fs::open(&*place, flags, Mode::empty()).context(call)?;
            // Whatever the path led through: only the mount that was meant is changed.
            if self.mount_id(mount.as_fd())?.0 != id {
                return Err(Error::unsupported(
                    format!("recursive mount option ({})", tree::attribute_names(attr)),
                    "a mount below cannot be reached; Linux 5.12 could do without",
                ));
            }
            self.aimed(|| change_classic(mount.as_fd(), false, attr))?;
        }
        Ok(())
    }

    /// Changes the superblock of the mount whose root `mount` is, as far as the options speak of it.
    pub(super) fn reconfigure(
        &self,
        mount: BorrowedFd<'_>,
        options: &MountOptions<'_>,
    ) -> Result<()> {
        match tree::reconfigure(mount, options) {
            Err(error) if error.errno() == Some(Errno::NOSYS) => {}
            result => return result,
        }
        let now = fs::fstatvfs(mount).context(|| "fstatvfs")?.f_flag;
        // mount(2) sets the mount's own attributes on the way.
        let mut all = MountOptions::default();
        let own = options.attributes;
        all.attributes.set = current(now) & !own.clear | own.set;
        all.attributes.clear = attr::ATIME;
        all.superblock_set = options.superblock_set;
        let flags = u32::try_from(all.mount_flags()).unwrap_or(0);
        let flags = MountFlags::from_bits_retain(flags);
        let data = options.data_string();
        self.aimed(|| {
            mount::mount_remount(&*name(mount), flags, data.as_str())
                .context(|| format!("mount(MS_REMOUNT, {flags:?}, {data:?})"))
        })
    }

    /// [`mount_id`], for callers before and after the root has changed.
    pub(super) fn mount_id(&self, file: BorrowedFd<'_>) -> Result<(u64, Option<bool>)> {
        let fds = self.descriptors().context(|| "open(\"/proc/self/fd\")")?;
        mount_id(file, (fds.as_fd(), ".."))
    }

    /// The host's /proc/self/fd; to be opened while the host's root is there.
    fn descriptors(&self) -> std::result::Result<&OwnedFd, Errno> {
        if let Some(fds) = self.fds.get() {
            return Ok(fds);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fds = fs::open("/proc/self/fd", flags, Mode::empty())?;
        // Something else could lead anywhere.
        if fs::fstatfs(&fds)?.f_type != fs::PROC_SUPER_MAGIC {
            return Err(Errno::NOTSUP);
        }
        Ok(self.fds.get_or_init(|| fds))
    }

    /// Does something in the directory /proc/self/fd.
    fn aimed<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        self.at_descriptors(call)
            .context(|| "fchdir(\"/proc/self/fd\")")?
    }

    /// As [`Kernel::aimed`].
    fn at_descriptors<T>(&self, call: impl FnOnce() -> T) -> std::result::Result<T, Errno> {
        let here = working_directory()?;
        fchdir(self.descriptors()?)?;
        let result = call();
        fchdir(&here)?;
        Ok(result)
    }
}

/// The working directory, to come back to. Root of a user namespace may not come back to one that
/// is its owner's alone; then it is the root.
pub(super) fn working_directory() -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match fs::openat(CWD, ".", flags, Mode::empty()) {
        Err(Errno::ACCESS) => fs::openat(CWD, "/", flags, Mode::empty()),
        result => result,
    }
}

/// A file system that nobody else sees, with a place for each mount that is being made.
///
/// It covers a directory of the host's procfs that no container's mount comes from, in the
/// container's namespace only, and goes with the host's root.
#[derive(Debug)]
struct Stage {
    directory: OwnedFd,
    slots: Cell<u32>,
}

impl Stage {
    fn new(kernel: &Kernel) -> std::result::Result<Stage, Errno> {
        if kernel.reach == Reach::Shared {
            mount::mount_change("/proc", MountPropagationFlags::PRIVATE)?;
        }
        let mut last = Errno::NOENT;
        for place in ["/proc/driver", "/proc/fs"] {
            match Stage::at(kernel, place) {
                Ok(directory) => {
                    return Ok(Stage {
                        directory,
                        slots: Cell::new(0),
                    });
                }
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }

    fn at(kernel: &Kernel, place: &str) -> std::result::Result<OwnedFd, Errno> {
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fs::open(place, flags, Mode::empty())
        };
        let beneath = open()?;
        if fs::fstatfs(&beneath)?.f_type != fs::PROC_SUPER_MAGIC {
            return Err(Errno::NOTSUP);
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        kernel.at_descriptors(|| {
            let target = name(beneath.as_fd());
            mount::mount("none", &*target, "tmpfs", flags, Some(c"mode=700"))
        })??;
        let stage = open()?;
        if fs::fstat(&stage)?.st_dev == fs::fstat(&beneath)?.st_dev {
            return Err(Errno::AGAIN);
        }
        // What is in a mount that shares cannot be moved out of it.
        kernel.at_descriptors(|| {
            mount::mount_change(&*name(stage.as_fd()), MountPropagationFlags::PRIVATE)
        })??;
        Ok(stage)
    }

    /// Makes a new directory or file to mount upon.
    fn slot(&self, kind: FileType) -> std::result::Result<String, Errno> {
        let slot = self.slots.get().to_string();
        self.slots.set(self.slots.get() + 1);
        let mode = Mode::RUSR | Mode::WUSR | Mode::XUSR;
        match kind {
            FileType::Directory => fs::mkdirat(&self.directory, &slot, mode)?,
            _ => fs::mknodat(&self.directory, &slot, FileType::RegularFile, mode, 0)?,
        }
        Ok(slot)
    }
}

/// The name of a descriptor in /proc/self/fd.
fn name(fd: BorrowedFd<'_>) -> String {
    fd.as_raw_fd().to_string()
}

/// The host's /proc/self, while that is what is there.
pub(crate) const SELF: (BorrowedFd<'_>, &str) = (CWD, "/proc/self");

/// The id of the mount that an open file is in, and whether the file is its root, where that can be
/// told: statx(2), or proc_pid_fdinfo(5) in the directory of this process that `own` leads to. It must
/// be the host's: a container may have numbers of its choice at that path.
pub(crate) fn mount_id(
    file: BorrowedFd<'_>,
    own: (BorrowedFd<'_>, &str),
) -> Result<(u64, Option<bool>)> {
    match fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(stat) if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID) => {
            let known = stat
                .stx_attributes_mask
                .contains(fs::StatxAttributes::MOUNT_ROOT);
            let is_root = stat
                .stx_attributes
                .contains(fs::StatxAttributes::MOUNT_ROOT);
            return Ok((stat.stx_mnt_id, known.then_some(is_root)));
        }
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => {}
        Err(errno) => return Err(Error::system("statx(STATX_MNT_ID)", errno)),
    }
    let path = format!("{}/fdinfo/{}", own.1, file.as_raw_fd());
    let call = || format!("read({path})");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let info = fs::openat(own.0, &path, flags, Mode::empty()).context(call)?;
    // Something else could say anything.
    if fs::fstatfs(&info).context(call)?.f_type != fs::PROC_SUPER_MAGIC {
        return Err(Error::system(call(), Errno::NOTSUP));
    }
    let text = crate::proc::read_bounded(info, MAX_FDINFO).context(call)?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .map(|id| (id, None))
        .ok_or_else(|| Error::system(call(), Errno::NODATA))
}

/// More than the kernel says of an open directory or file, in bytes.
const MAX_FDINFO: usize = 1 << 16;

/// mount_setattr(2) by means of mount(2); the working directory is /proc/self/fd.
fn change_classic(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    let name = name(mount);
    if attr.attr_set | attr.attr_clr != 0 {
        let now = fs::fstatvfs(mount).context(|| "fstatvfs")?.f_flag;
        let mut options = MountOptions::default();
        options.attributes.set = current(now) & !attr.attr_clr | attr.attr_set;
        // Without an explicit mode mount(2) takes its default, not the present one.
        options.attributes.clear = attr::ATIME;
        let flags = u32::try_from(options.mount_flags()).unwrap_or(0);
        let flags = MountFlags::from_bits_retain(flags) | MountFlags::BIND;
        mount::mount_remount(&name, flags, c"")
            .context(|| format!("mount(MS_REMOUNT | MS_BIND, {flags:?})"))?;
    }
    if attr.propagation != 0 {
        let mut flags =
            MountPropagationFlags::from_bits_retain(u32::try_from(attr.propagation).unwrap_or(0));
        if recursive {
            flags |= MountPropagationFlags::REC;
        }
        mount::mount_change(&name, flags).context(|| format!("mount({flags:?})"))?;
    }
    Ok(())
}

/// The attributes that a mount has now: statvfs(3).
fn current(flags: StatVfsMountFlags) -> u64 {
    let atime = if flags.contains(StatVfsMountFlags::NOATIME) {
        attr::NOATIME
    } else if flags.contains(StatVfsMountFlags::RELATIME) {
        attr::RELATIME
    } else {
        attr::STRICTATIME
    };
    [
        (StatVfsMountFlags::RDONLY, attr::RDONLY),
        (StatVfsMountFlags::NOSUID, attr::NOSUID),
        (StatVfsMountFlags::NODEV, attr::NODEV),
        (StatVfsMountFlags::NOEXEC, attr::NOEXEC),
        (StatVfsMountFlags::NODIRATIME, attr::NODIRATIME),
        (
            StatVfsMountFlags::from_bits_retain(0x2000),
            attr::NOSYMFOLLOW,
        ),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .fold(atime, |set, (_, attribute)| set | attribute)
}
