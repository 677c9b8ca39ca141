//! The container's view of the file system: root, mounts, devices, masks.
//!
//! Belongs here: everything that happens to mounts and nodes between the new
//! mount namespace and the container's program. Does not: namespaces, hooks,
//! terminals beyond binding one, labels of processes.
//!
//! The way of the data:
//!
//! ```text
//! plan(spec)            choices only, no system call                     host
//!   HostSources::open   sources that the container could not reach       host
//!     prepare           propagation, root, mounts, devices, links   container
//!       (createContainer hooks)
//!     Rootfs::pivot     the root becomes /, the host's is gone      container
//!     Rootfs::finish    read-only and hidden paths, propagation     container
//! ```
//!
//! The container's process calls the last three in its new mount namespace,
//! before it gives up privileges. What is below the root is reached through
//! [`RootFd`] only.

mod cgroups;
mod copy;
mod device;
mod idmap;
mod kernel;
mod mask;
mod mounts;
mod pivot;
mod plan;
mod root_fd;
mod saved;
mod sources;
mod tree;

pub use device::open_ptmx;
pub use idmap::IdMap;
pub(crate) use kernel::{SELF, mount_id};
pub use plan::{DeviceStep, IdmapStep, MountStep, RootfsPlan, UserNamespace, What, plan};
pub(crate) use root_fd::open_in;
pub use root_fd::{Found, Leaf, Links, RootFd};
pub use saved::{RunningMounts, external_sources, prepare_restore};
pub use sources::HostSources;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::process::{fchdir, umask};

use crate::error::{Context, Result};
use crate::spec::mount_options::PropagationKind;
use kernel::Kernel;
use mask::Masks;
use tree::Changes;

/// A root file system that is being built; the steps are its methods, in order.
#[derive(Debug)]
pub struct Rootfs<'a> {
    plan: &'a RootfsPlan<'a>,
    kernel: Kernel,
    root: RootFd,
    /// Mounts that become read-only when everything in them has been made.
    read_only_later: Vec<(usize, OwnedFd)>,
    masks: Option<Masks>,
    /// Where the working directory was, once it has changed.
    home: Option<OwnedFd>,
    /// Whether paths have become hidden and read-only already.
    hidden: bool,
}

/// Sets the umask to 0, so that modes are what the configuration says, and puts it back.
struct NoUmask(Mode);

impl NoUmask {
    fn new() -> NoUmask {
        NoUmask(umask(Mode::empty()))
    }
}

impl Drop for NoUmask {
    fn drop(&mut self) {
        umask(self.0);
    }
}

/// Builds the root file system: propagation, the root itself, the mounts, the
/// devices and links. Call it in the container's mount namespace, in a process
/// with one thread (the umask is changed meanwhile).
///
/// `enter_cgroups` is called once, before the first mount that shows cgroups or
/// else at the end: until it returns, the process need not be in its cgroups
/// and cgroup namespace, so that mounting and that can go on at the same time.
///
/// # Errors
/// The first step that fails; the mount namespace is good for nothing then.
pub fn prepare<'a>(
    plan: &'a RootfsPlan<'a>,
    sources: HostSources,
    enter_cgroups: &mut dyn FnMut() -> Result<()>,
) -> Result<Rootfs<'a>> {
    let _umask = NoUmask::new();
    let HostSources {
        root,
        mounts,
        devices,
    } = sources;
    let kernel = pivot::stop_propagation(plan)?;
    let root = if plan.mount_namespace {
        pivot::bind_root(plan, &kernel, root)?
    } else {
        RootFd::from(pivot::open_root(plan)?)
    };
    let mut rootfs = Rootfs {
        plan,
        kernel,
        root,
        read_only_later: Vec::new(),
        masks: None,
        home: None,
        hidden: false,
    };
    fault!("rootfs.root");
    let entered = rootfs.mount_all(mounts, enter_cgroups)?;
    fault!("rootfs.mounts");
    let dev = if plan.populate_dev {
        Some(device::dev_directory(&rootfs.root)?)
    } else {
        None
    };
    let bind = plan.user_namespace.is_some();
    let place = dev.as_ref().map(AsFd::as_fd);
    let kernel = &rootfs.kernel;
    device::make_devices(&rootfs.root, kernel, place, &plan.devices, devices, bind)?;
    if let Some(place) = place {
        device::make_links(&rootfs.root, place)?;
    }
    fault!("rootfs.devices");
    if !plan.masked.is_empty() {
        rootfs.masks = Some(Masks::open(&rootfs.kernel)?);
    }
    if let Some(dev) = dev {
        rootfs.root.done(dev);
    }
    // Where the process is now is of no matter: it goes to the new root next, and hooks to the bundle.
    if let Some(home) = rootfs.home.take() {
        rootfs.root.done(home);
    }
    if !entered {
        enter_cgroups()?;
    }
    Ok(rootfs)
}

impl Rootfs<'_> {
    /// The root, for everything that has to be looked up below it.
    #[must_use]
    pub fn root(&self) -> &RootFd {
        &self.root
    }

    /// Makes `directory` the working directory, for calls that take no descriptor.
    fn enter(&mut self, directory: BorrowedFd<'_>) -> Result<()> {
        if self.home.is_none() {
            self.home = Some(kernel::working_directory().context(|| "open(\".\")")?);
        }
        fchdir(directory).context(|| "fchdir(destination)")
    }

    /// Goes back to where it was before [`Rootfs::enter`].
    fn leave(&self) -> Result<()> {
        match &self.home {
            Some(home) => fchdir(home).context(|| "fchdir(\".\")"),
            None => Ok(()),
        }
    }

    /// Makes the root the process's `/` and lets go of the host's. With
    /// `no_pivot` the host's root stays beneath, unreachable, for a root that
    /// pivot_root(2) cannot leave (a ramdisk). Without a mount namespace of the
    /// container's own the host keeps its root, too. The working directory is the new root.
    ///
    /// # Errors
    /// pivot_root(2), umount2(2), chroot(2).
    pub fn pivot(&mut self, no_pivot: bool) -> Result<()> {
        if self.kernel.is_staged() {
            // Where mounts are made on the way goes with the host's root.
            self.hide()?;
        }
        if !self.plan.mount_namespace {
            pivot::change_root(&self.root)
        } else if no_pivot {
            pivot::move_root(&self.root, &self.kernel, self.plan)
        } else {
            pivot::pivot_root(&self.root, self.plan)
        }
    }

    /// Binds the slave of a pseudoterminal to `/dev/console`. Call it after [`Rootfs::pivot`].
    ///
    /// # Errors
    /// A descriptor that is no slave, a `/dev/console` that cannot be mounted upon.
    pub fn bind_console(&self, slave: BorrowedFd<'_>) -> Result<()> {
        device::console_bind(&self.root, &self.kernel, slave)
    }

    /// Paths that become read-only, and hidden paths; once.
    fn hide(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.hidden, true) {
            return Ok(());
        }
        mask::make_read_only(&self.root, &self.kernel, self.plan.readonly_paths)?;
        fault!("rootfs.read_only");
        if let Some(mut masks) = self.masks.take() {
            let plan = self.plan;
            masks.apply(&self.root, &self.kernel, plan.masked, plan.label)?;
            masks.done(&self.root);
        }
        Ok(())
    }

    /// The last changes: mounts and paths that become read-only, hidden paths,
    /// a read-only root, and the propagation that the root keeps.
    ///
    /// # Errors
    /// The first change that fails.
    pub fn finish(mut self) -> Result<RootFd> {
        let read_only = Changes::read_only();
        for (index, mount) in &self.read_only_later {
            self.kernel
                .change(mount.as_fd(), &read_only)
                .context(|| format!("mounts[{index}]"))?;
        }
        self.hide()?;
        if self.plan.readonly {
            self.kernel
                .change(self.root.as_fd(), &read_only)
                .context(|| "root.readonly")?;
        }
        // Private and slave the root has been since it was bound.
        if let Some(propagation) = self.plan.propagation
            && matches!(
                propagation.kind,
                PropagationKind::Shared | PropagationKind::Unbindable
            )
        {
            self.kernel
                .change(self.root.as_fd(), &Changes::propagation(propagation))
                .context(|| "linux.rootfsPropagation")?;
        }
        Ok(self.root)
    }
}

#[cfg(test)]
mod tests;
