//! Sources of mounts that are opened before the container's process exists.
//!
//! Belongs here: what needs the host's privileges or user namespace: sources
//! below directories that mapped root cannot pass, and id mappings. Does not:
//! sources that the container's process can open itself.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::mounts::bind_source;
use super::pivot::is_shared;
use super::plan::{IdmapStep, MountStep, RootfsPlan, UserNamespace, What};
use super::tree::{self, Depth};
use crate::error::{Context, Error, Result};
use crate::spec::config::IdMapping;
use crate::sys::clone::{self, Side, flags};
use crate::sys::mount::{MOUNT_ATTR_IDMAP, MountAttr, mount_setattr};

/// Detached mounts, made on the host's side.
#[derive(Debug, Default)]
pub struct HostSources {
    /// The root file system.
    pub(super) root: Option<OwnedFd>,
    /// One place for each of the plan's mounts; empty altogether where none is needed.
    pub(super) mounts: Vec<Option<OwnedFd>>,
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
                Err(Errno::PERM) => None,
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
        if !plan.mounts.iter().any(needed) {
            return Ok(sources);
        }
        let mut namespaces = UserNamespaces::default();
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
    let opened = bind_source(step, path).and_then(|(tree, changes)| {
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
    let change = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_raw_fd().unsigned_abs().into(),
        ..MountAttr::default()
    };
    mount_setattr(tree.as_fd(), c"", idmap.recursive, &change).map_err(|errno| {
        let error = Error::system("mount_setattr(MOUNT_ATTR_IDMAP)", errno);
        match errno {
            Errno::INVAL => Error::unsupported(
                error,
                "the source's file system does not support id mappings",
            ),
            Errno::PERM => Error::unsupported(
                error,
                "an id mapping needs privileges over the source's file system",
            ),
            Errno::NOSYS => Error::unsupported(error, "id mappings need Linux 5.12"),
            _ => error,
        }
    })
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
fn new_user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
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
    let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
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
