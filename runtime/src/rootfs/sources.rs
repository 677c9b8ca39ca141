//! Sources of mounts that are opened before the container's process exists.
//!
//! Belongs here: what needs the host's privileges or user namespace: sources
//! below directories that mapped root cannot pass, id mappings, and device nodes
//! for a user namespace, where none can be made. Does not: sources that the
//! container's process can open itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::idmap;
use super::mounts::bind_source;
use super::pivot::is_shared;
use super::plan::{DeviceStep, IdmapStep, MountStep, RootfsPlan, UserNamespace, What};
use super::tree::{self, Depth};
use crate::container::wait;
use crate::error::{Context, Error, Result};
use crate::spec::config::IdMapping;
use crate::sys::clone::{self, Side, flags};

/// Detached mounts, made on the host's side.
#[derive(Debug, Default)]
pub struct HostSources {
    /// The root file system.
    pub(super) root: Option<OwnedFd>,
    /// One place for each of the plan's mounts; empty altogether where none is needed.
    pub(super) mounts: Vec<Option<OwnedFd>>,
    /// One place for each of the plan's devices; empty altogether where none is needed.
    pub(super) devices: Vec<Option<OwnedFd>>,
}

impl HostSources {
    /// Opens what the container's process could not. Call it in the runtime's
    /// namespaces, in a process with one thread.
    ///
    /// # Errors
    /// A source that cannot be opened, an id mapping that the file system or
    /// the kernel does not support.
    pub fn open(plan: &RootfsPlan<'_>) -> Result<HostSources> {
        let mut sources = HostSources::default();
        let needed = |step: &MountStep<'_>| plan.user_namespace.is_some() || step.idmap.is_some();
        if plan.user_namespace.is_some() {
            sources.root = match tree::clone_host_path(&plan.rootfs, Depth::All, true) {
                // No privilege here: the container's process has more in its own namespace.
                Err(Errno::PERM | Errno::NOSYS) => None,
                Err(errno) => {
                    let call = format!("root.path: open_tree({:?})", plan.rootfs);
                    return Err(Error::system(call, errno));
                }
                Ok(tree) if is_shared(plan) => Some(tree),
                Ok(tree) => match tree::make_slave(tree.as_fd()) {
                    Err(error) if error.errno() == Some(Errno::NOSYS) => None,
                    result => {
                        result.context(|| "root.path")?;
                        Some(tree)
                    }
                },
            };
        }
        let mut namespaces = UserNamespaces::default();
        if let Some(namespace) = plan.user_namespace {
            sources.devices = device_nodes(&plan.devices, namespace, &mut namespaces)?;
        }
        if !plan.mounts.iter().any(needed) {
            return Ok(sources);
        }
        for step in &plan.mounts {
            let tree = match &step.what {
                What::Bind(path) if needed(step) => host_source(plan, step, path, &mut namespaces)
                    .context(|| {
                        format!(
                            "mounts[{}]: mount {:?} to {:?}",
                            step.index,
                            step.source_name(),
                            step.destination
                        )
                    })?,
                _ => None,
            };
            sources.mounts.push(tree);
        }
        Ok(sources)
    }
}

fn host_source<'a>(
    plan: &RootfsPlan<'a>,
    step: &MountStep<'a>,
    path: &Path,
    namespaces: &mut UserNamespaces<'a>,
) -> Result<Option<OwnedFd>> {
    if step.options.copy_symlink {
        return Ok(None);
    }
    let opened = bind_source(step, path, &tree::clone_host_path).and_then(|(tree, changes)| {
        if !is_shared(plan) {
            tree::make_slave(tree.as_fd())?;
        }
        changes.apply(tree.as_fd())?;
        Ok(tree)
    });
    let tree = match opened {
        // Without privilege here, or without mount_setattr(2), the container's
        // process does it later, as far as it can.
        Err(error)
            if step.idmap.is_none()
                && matches!(error.errno(), Some(Errno::PERM | Errno::NOSYS)) =>
        {
            return Ok(None);
        }
        Err(error) if error.errno() == Some(Errno::NOSYS) => {
            return Err(Error::unsupported(error, "id mappings need Linux 5.12"));
        }
        result => result?,
    };
    if let Some(idmap) = step.idmap {
        map_ids(&tree, idmap, namespaces)?;
    }
    Ok(Some(tree))
}

fn map_ids<'a>(
    tree: &OwnedFd,
    idmap: IdmapStep<'a>,
    namespaces: &mut UserNamespaces<'a>,
) -> Result<()> {
    let namespace = namespaces.get(idmap.mapping)?;
    idmap::map_ids(tree.as_fd(), idmap.recursive, namespace.as_fd())
}

/// Detached mounts of nodes for the configured devices, with the numbers, mode
/// and owner asked for: what the host has at the same path may be of another
/// owner, or not there. Default devices look the same everywhere; those of the
/// host serve.
///
/// `None` stands for what cannot be made: without privilege here (a runtime that
/// is itself in a user namespace), for ids that the container's namespace lacks,
/// and where the kernel does not copy detached mounts (before Linux 6.15) or map
/// ids of a tmpfs (before 6.3, for a joined namespace).
fn device_nodes<'a>(
    devices: &[DeviceStep<'_>],
    namespace: UserNamespace<'a>,
    namespaces: &mut UserNamespaces<'a>,
) -> Result<Vec<Option<OwnedFd>>> {
    let wanted = |device: &DeviceStep<'_>| device.kind != FileType::Fifo && !device.is_default();
    if !devices.iter().any(wanted) {
        return Ok(Vec::new());
    }
    let Some(nodes) = optional(tree::new_tmpfs()).context(|| "linux.devices: tmpfs for nodes")?
    else {
        return Ok(Vec::new());
    };
    let mut made = Vec::with_capacity(devices.len());
    for (index, device) in devices.iter().enumerate() {
        let node = match host_owner(device, namespace) {
            Some(owner) if wanted(device) => {
                optional(make_node(nodes.as_fd(), &index.to_string(), device, owner))
                    .context(|| format!("device {}", device.path))?
            }
            _ => None,
        };
        made.push(node);
    }
    if let UserNamespace::Joined(_) = namespace
        && made.iter().any(Option::is_some)
    {
        // Through the mapping, the ids on the file system are those in the container.
        let idmap = IdmapStep {
            mapping: namespace,
            recursive: false,
        };
        match map_ids(&nodes, idmap, namespaces) {
            Err(error) if error.errno().is_some_and(is_lacking) => return Ok(Vec::new()),
            result => result.context(|| "linux.devices: tmpfs for nodes")?,
        }
    }
    let mut trees = Vec::with_capacity(devices.len());
    for (node, device) in made.iter().zip(devices) {
        trees.push(match node {
            Some(node) => optional(
                tree::clone_fd(node.as_fd(), Depth::One)
                    .map_err(|errno| Error::system("open_tree(node)", errno)),
            )
            .context(|| format!("device {}", device.path))?,
            None => None,
        });
    }
    Ok(trees)
}

/// Makes one node, and an `O_PATH` descriptor of it.
fn make_node(
    parent: BorrowedFd<'_>,
    name: &str,
    device: &DeviceStep<'_>,
    (uid, gid): (Uid, Gid),
) -> Result<OwnedFd> {
    let number = fs::makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode);
    fs::mknodat(parent, name, device.kind, Mode::empty(), number).context(|| {
        let (major, minor) = (device.major, device.minor);
        format!("mknodat({:?}, {major}:{minor})", device.kind)
    })?;
    fs::chownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .context(|| format!("fchownat({}, {})", uid.as_raw(), gid.as_raw()))?;
    // Last: neither the umask nor the change of the owner takes bits away.
    fs::chmodat(parent, name, mode, AtFlags::empty())
        .context(|| format!("fchmodat({:#o})", device.mode))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty()).context(|| "openat(node, O_PATH)")
}

/// The owner of a device as the host sees it; `None` for ids that have no mapping.
fn host_owner(device: &DeviceStep<'_>, namespace: UserNamespace<'_>) -> Option<(Uid, Gid)> {
    let (uid, gid) = match namespace {
        UserNamespace::New(uids, gids) => (host_id(uids, device.uid)?, host_id(gids, device.gid)?),
        UserNamespace::Joined(_) => (device.uid, device.gid),
    };
    // The largest number stands for no change.
    (uid != u32::MAX && gid != u32::MAX).then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn host_id(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let at = id.checked_sub(mapping.container_id)?;
        (at < mapping.size).then(|| mapping.host_id.checked_add(at))?
    })
}

/// `None` for what this kernel or the caller's privileges do not give.
fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.errno().is_some_and(is_lacking) => Ok(None),
        result => result.map(Some),
    }
}

fn is_lacking(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::NOSYS | Errno::INVAL)
}

/// User namespaces that exist for their mappings only.
#[derive(Debug, Default)]
struct UserNamespaces<'a>(Vec<(UserNamespace<'a>, OwnedFd)>);

impl<'a> UserNamespaces<'a> {
    fn get(&mut self, wanted: UserNamespace<'a>) -> Result<&OwnedFd> {
        let at = match self.0.iter().position(|(have, _)| *have == wanted) {
            Some(at) => at,
            None => {
                let fd = match wanted {
                    UserNamespace::New(uids, gids) => new_user_namespace(uids, gids)?,
                    UserNamespace::Joined(path) => {
                        fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                            .context(|| format!("open({path:?})"))?
                    }
                };
                self.0.push((wanted, fd));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].1)
    }
}

/// A user namespace with these mappings. It needs a process to be made in,
/// which ends as soon as the descriptor holds the namespace.
pub(super) fn new_user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let side = clone::clone_process(flags::NEWUSER, None)
        .context(|| "clone3(CLONE_NEWUSER) for an id mapping")?;
    let (pid, pidfd) = match side {
        Side::Child => {
            // Should the parent be killed first, so is this one.
            let _ = rustix::process::set_parent_process_death_signal(Some(
                rustix::process::Signal::KILL,
            ));
            loop {
                rustix::event::pause();
            }
        }
        Side::Parent { pid, pidfd } => (pid, pidfd),
    };
    let result = write_map(pid, "uid_map", uids)
        .and_then(|()| write_map(pid, "gid_map", gids))
        .and_then(|()| {
            let path = format!("/proc/{pid}/ns/user");
            fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("open({path:?})"))
        });
    wait::kill_and_reap(pidfd.as_fd());
    result
}

fn write_map(pid: i32, name: &str, mappings: &[IdMapping]) -> Result<()> {
    let mut text = String::new();
    for mapping in mappings {
        let IdMapping {
            container_id,
            host_id,
            size,
        } = mapping;
        text.push_str(&format!("{container_id} {host_id} {size}\n"));
    }
    let path = format!("/proc/{pid}/{name}");
    // One write: the kernel takes the whole map or nothing.
    std::fs::write(&path, &text).context(|| format!("write({path:?}, {text:?})"))
}
