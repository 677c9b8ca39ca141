//! Device nodes and the links of `/dev`.
//!
//! Belongs here: making the nodes of the plan, the links to the standard
//! streams, `/dev/ptmx` and the place of the console. Does not: which devices
//! there are (`plan`), and what cgroups allow.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::kernel::Kernel;
use super::plan::DeviceStep;
use super::root_fd::{Leaf, Links, RootFd, file_type};
use super::tree::Depth;
use crate::error::{Context, Error, Kind, Result};

/// The links of runtime-linux.md, section Dev symbolic links, and `/dev/core`,
/// which every peer makes too; each only where its target exists.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// Magic number of devpts file systems, statfs(2).
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// Inode of the `ptmx` node in every devpts instance.
const PTMX_INODE: u64 = 2;

/// Major numbers of Unix 98 pseudoterminal slaves.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// The directory `/dev`, made where missing. A link there is an error: an image
/// could aim it at a directory that is shared with others (CVE-2026-41579).
pub(super) fn dev_directory(root: &RootFd) -> Result<OwnedFd> {
    let mode = Mode::from_raw_mode(0o755);
    Ok(root.make("/dev", Links::Refuse, Leaf::Directory, mode)?.fd)
}

/// Makes the nodes. The umask has to be 0. In a user namespace nodes cannot be
/// made, so there those of `sources` (one place for each device, or none at
/// all), made before on the host's side, are bound, or else the host's own.
pub(super) fn make_devices(
    root: &RootFd,
    kernel: &Kernel,
    dev: Option<BorrowedFd<'_>>,
    devices: &[DeviceStep<'_>],
    sources: Vec<Option<OwnedFd>>,
    bind: bool,
) -> Result<()> {
    let mut sources = sources.into_iter();
    for device in devices {
        let bind = match sources.next().flatten() {
            Some(node) if kernel.takes_detached() => Bind::Node(node),
            _ if bind => Bind::Host,
            _ => Bind::No,
        };
        let path: &str = &device.path;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let made = match dev {
            Some(dev) if parent == "/dev" => make_device(kernel, dev, name, device, &bind),
            _ => {
                let mode = Mode::from_raw_mode(0o755);
                root.make(parent_or_root(parent), Links::Follow, Leaf::Directory, mode)
                    .and_then(|found| make_device(kernel, found.fd.as_fd(), name, device, &bind))
            }
        };
        made.context(|| format!("device {path}"))?;
    }
    Ok(())
}

/// What is bound instead of making a node.
enum Bind {
    /// This detached mount.
    Node(OwnedFd),
    /// The host's node, except for FIFOs, which everybody can make.
    Host,
    /// Nothing.
    No,
}

fn parent_or_root(parent: &str) -> &str {
    if parent.is_empty() { "/" } else { parent }
}

fn make_device(
    kernel: &Kernel,
    parent: BorrowedFd<'_>,
    name: &str,
    device: &DeviceStep<'_>,
    bind: &Bind,
) -> Result<()> {
    match bind {
        Bind::Node(node) => return attach_node(kernel, parent, name, node),
        Bind::Host if device.kind != FileType::Fifo => {
            return bind_device(kernel, parent, name, device);
        }
        Bind::Host | Bind::No => {}
    }
    let number = fs::makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode);
    match fs::mknodat(parent, name, device.kind, mode, number) {
        Ok(()) if (device.uid, device.gid) == (0, 0) => return Ok(()),
        Ok(()) => {}
        Err(Errno::EXIST) => return check_device(parent, name, device),
        // The rule of user namespaces also holds where the runtime itself is inside one.
        Err(Errno::PERM) if device.kind != FileType::Fifo => {
            return bind_device(kernel, parent, name, device);
        }
        Err(errno) => return Err(Error::system(mknod_call(device), errno)),
    }
    let owner = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    fs::chownat(parent, name, Some(owner.0), Some(owner.1), flags)
        .context(|| format!("fchownat({name:?}, {}, {})", device.uid, device.gid))?;
    if device.mode & 0o6000 != 0 {
        // The change of the owner has taken these bits away. By way of a descriptor, since
        // chmod(2) would follow a link that has taken the node's place.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(parent, name, flags, Mode::empty())
            .and_then(|node| fs::chmod(format!("/proc/self/fd/{}", node.as_raw_fd()), mode))
            .context(|| format!("chmod({name:?}, {:#o})", device.mode))?;
    }
    check_device(parent, name, device)
}

fn mknod_call(device: &DeviceStep<'_>) -> String {
    format!(
        "mknodat({:?}, {:?}, {:#o}, {}:{})",
        device.path, device.kind, device.mode, device.major, device.minor
    )
}

/// Checks that what is at `name` is the device that was asked for.
fn check_device(parent: BorrowedFd<'_>, name: &str, device: &DeviceStep<'_>) -> Result<()> {
    let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .context(|| format!("fstatat({name:?})"))?;
    if matches_device(&stat, device) {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidConfig,
        format!(
            "the image has {:?} there, which is not {} {}:{}",
            FileType::from_raw_mode(stat.st_mode),
            kind_name(device.kind),
            device.major,
            device.minor
        ),
    ))
}

fn matches_device(stat: &fs::Stat, device: &DeviceStep<'_>) -> bool {
    FileType::from_raw_mode(stat.st_mode) == device.kind
        && (device.kind == FileType::Fifo
            || stat.st_rdev == fs::makedev(device.major, device.minor))
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::BlockDevice => "block device",
        FileType::Fifo => "FIFO",
        _ => "character device",
    }
}

/// Binds the host's node of the same path, if it is the same device.
fn bind_device(
    kernel: &Kernel,
    parent: BorrowedFd<'_>,
    name: &str,
    device: &DeviceStep<'_>,
) -> Result<()> {
    let path: &str = &device.path;
    let tree = kernel
        .clone_host_path(std::path::Path::new(path), Depth::One, true)
        .context(|| format!("open_tree({path:?})"))?;
    let stat = fs::fstat(&tree).context(|| format!("fstat({path:?})"))?;
    if !matches_device(&stat, device) {
        return Err(Error::unsupported(
            path,
            format_args!(
                "cannot be made in a user namespace, and the host's {path} is not {} {}:{}",
                kind_name(device.kind),
                device.major,
                device.minor
            ),
        ));
    }
    attach_node(kernel, parent, name, &tree)
}

fn attach_node(kernel: &Kernel, parent: BorrowedFd<'_>, name: &str, node: &OwnedFd) -> Result<()> {
    let target = empty_file(parent, name, Mode::from_raw_mode(0o666))?;
    kernel
        .attach(node.as_fd(), target.as_fd())
        .context(|| format!("move_mount({name:?})"))
}

/// An `O_PATH` descriptor of a file in `parent` to mount upon; made where missing.
fn empty_file(parent: BorrowedFd<'_>, name: &str, mode: Mode) -> Result<OwnedFd> {
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(parent, name, create, mode) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::system(format!("openat({name:?}, O_CREAT)"), errno)),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(parent, name, flags, Mode::empty())
        .context(|| format!("openat({name:?}, O_PATH)"))?;
    match file_type(file.as_fd()).context(|| format!("fstat({name:?})"))? {
        FileType::Directory | FileType::Symlink => Err(Error::new(
            Kind::InvalidConfig,
            format!("/dev/{name} in the image is a directory or a symbolic link"),
        )),
        _ => Ok(file),
    }
}

fn exists(root: &RootFd, path: &str) -> bool {
    root.resolve(path, Links::Follow)
        .map(|found| root.done(found))
        .is_ok()
}

/// Makes the links of `/dev` and `/dev/ptmx`.
pub(super) fn make_links(root: &RootFd, dev: BorrowedFd<'_>) -> Result<()> {
    // One look decides for the streams: they are open in every container's process.
    let streams = exists(root, "/proc/self/fd");
    for (name, target) in LINKS {
        let exists = if name == "core" {
            streams && exists(root, target)
        } else {
            streams
        };
        if exists {
            match fs::symlinkat(target, dev, name) {
                // The image's own, or one that a mount has brought.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(Error::system(
                        format!("symlinkat({target:?}, \"/dev/{name}\")"),
                        errno,
                    ));
                }
            }
        }
    }
    // An image's own node would lead to the host's terminals.
    let replaced = match fs::symlinkat("pts/ptmx", dev, "ptmx") {
        Err(Errno::EXIST) => fs::unlinkat(dev, "ptmx", AtFlags::empty())
            .and_then(|()| fs::symlinkat("pts/ptmx", dev, "ptmx")),
        result => result,
    };
    replaced.context(|| "symlinkat(\"pts/ptmx\", \"/dev/ptmx\")")
}

/// Opens the multiplexer of the container's own devpts, for a new terminal.
///
/// # Errors
/// No devpts at /dev/pts, or something there that is not its multiplexer.
pub fn open_ptmx(root: &RootFd) -> Result<OwnedFd> {
    let path = "/dev/pts/ptmx";
    // Looked at before it is opened: opening some devices does things.
    let found = root
        .resolve(path, Links::Refuse)
        .context(|| format!("openat2(rootfs, {path:?})"))?;
    let stat = fs::fstat(&found).context(|| format!("fstat({path:?})"))?;
    if !is_devpts(found.as_fd())?
        || stat.st_ino != PTMX_INODE
        || stat.st_rdev != fs::makedev(5, 2)
        || FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
    {
        return Err(Error::new(
            Kind::InvalidConfig,
            format!("{path} is not the multiplexer of a devpts file system; mount one at /dev/pts"),
        ));
    }
    let opened = root
        .open(path, OFlags::RDWR | OFlags::CLOEXEC, Links::Refuse)
        .context(|| format!("openat2(rootfs, {path:?}, O_RDWR)"))?;
    let same = fs::fstat(&opened).context(|| format!("fstat({path:?})"))?;
    if (same.st_dev, same.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(Error::new(
            Kind::InvalidConfig,
            format!("{path} was exchanged while it was opened"),
        ));
    }
    Ok(opened)
}

fn is_devpts(file: BorrowedFd<'_>) -> Result<bool> {
    let magic = fs::fstatfs(file).context(|| "fstatfs")?.f_type;
    Ok(u64::try_from(magic) == Ok(DEVPTS_SUPER_MAGIC))
}

/// Binds the slave of a pseudoterminal to `/dev/console`.
///
/// The descriptor itself is bound, not a path below /dev/pts that somebody
/// could exchange (CVE-2025-52565).
///
/// # Errors
/// A descriptor that is no slave, a `/dev/console` that cannot be mounted upon.
pub(super) fn console_bind(root: &RootFd, kernel: &Kernel, slave: BorrowedFd<'_>) -> Result<()> {
    let stat = fs::fstat(slave).context(|| "fstat(terminal)")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || !PTS_MAJORS.contains(&fs::major(stat.st_rdev))
        || !is_devpts(slave)?
    {
        return Err(Error::new(
            Kind::InvalidArgument,
            "the console is not the slave of a pseudoterminal",
        ));
    }
    let dev = dev_directory(root)?;
    let target = empty_file(dev.as_fd(), "console", Mode::from_raw_mode(0o600))?;
    kernel
        .bind(slave, target.as_fd())
        .context(|| "move_mount(terminal, \"/dev/console\")")
}
