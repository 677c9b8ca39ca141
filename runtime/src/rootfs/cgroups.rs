//! Mounts of type `cgroup`, whatever version the host has.
//!
//! Belongs here: what such a mount shows. Does not: making cgroups or writing to them.
//!
//! With a cgroup namespace the kernel shows the container's cgroup as the root
//! of a new mount. Where it refuses that, because the namespace is another user namespace's, and without a
//! cgroup namespace, the directory of that cgroup is bound (version 1 does the latter only), so that
//! a container never sees those of its neighbours (CVE-2023-25809). The process
//! has to be in its cgroups already.
//!
//! One exception: on version 2, without a cgroup and a user namespace, the
//! host's tree is bound. Callers ask for that where a container shall look after
//! the host (Kubernetes for privileged pods, `--cgroupns=host`), what runs there
//! looks for /proc/self/cgroup's path below the mount, and other runtimes do it.
//!
//! What is bound on version 2 is read-only in every user namespace but the first.

use std::ffi::CString;
use std::fs::read_to_string;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::Rootfs;
use super::kernel::Kernel;
use super::plan::MountStep;
use super::root_fd::Leaf;
use super::tree::{Changes, Depth, NewFilesystem, ReadOnly};
use crate::error::{Context, Error, Kind, Result};
use crate::host;
use crate::host::Host;
use crate::spec::mount_options::{Attributes, MountOptions, attr};

/// Magic number of cgroup2, statfs(2).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Where the host's cgroups are.
pub(super) const HOST: &str = "/sys/fs/cgroup";

/// One line of /proc/self/cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Membership<'a> {
    /// The controllers, or `name=X`; empty on cgroup v2.
    pub controllers: &'a str,
    /// The cgroup, as this process's cgroup namespace shows it.
    pub path: &'a str,
}

pub(super) fn memberships(text: &str) -> impl Iterator<Item = Membership<'_>> {
    text.lines().filter_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        Some(Membership { controllers, path })
    })
}

impl Membership<'_> {
    /// The name of the directory that a hierarchy is mounted at.
    pub fn directory(&self) -> &str {
        self.controllers
            .strip_prefix("name=")
            .unwrap_or(self.controllers)
    }
}

impl Rootfs<'_> {
    pub(super) fn cgroup(&mut self, step: &MountStep<'_>, source: &str) -> Result<()> {
        let magic = fs::statfs(HOST)
            .context(|| format!("statfs({HOST:?})"))?
            .f_type;
        let own = host::own_cgroups()
            .ok_or_else(|| Error::new(Kind::System, "/proc/self/cgroup cannot be read"))?;
        if u64::try_from(magic) == Ok(CGROUP2_SUPER_MAGIC) {
            self.cgroup_v2(step, source, &own)
        } else {
            self.cgroup_v1(step, source, &own)
        }
    }

    fn cgroup_v2(&mut self, step: &MountStep<'_>, source: &str, own: &str) -> Result<()> {
        let destination = self.destination(step, Leaf::Directory)?;
        let tree = if self.plan.cgroup_namespace {
            // In the runtime's own cgroup namespace this would change the
            // host's mount options, so only inside another.
            let options = attributes_only(&step.options);
            let new = new_mount("cgroup2", source, &options, None);
            match (
                self.kernel.new_filesystem(&new),
                &self.plan.cgroup_directory,
            ) {
                (Ok(made), _) => (made, Attributes::default()),
                // It would have shown more: all that the namespace begins with.
                (Err(error), Some(own)) if error.errno() == Some(Errno::PERM) => {
                    let path = own
                        .strip_prefix(HOST)
                        .map_err(|_| foreign_namespace(error))?;
                    let path = path.to_string_lossy();
                    (
                        bound(&self.kernel, Path::new(HOST), &path)?,
                        bind(&step.options),
                    )
                }
                (Err(error), _) => return Err(foreign_namespace(error)),
            }
        } else {
            let path = if self.plan.user_namespace.is_some() {
                let own = memberships(own).find(|own| own.controllers.is_empty());
                own.map_or("/", |own| own.path)
            } else {
                ""
            };
            (
                bound(&self.kernel, Path::new(HOST), path)?,
                bind(&step.options),
            )
        };
        self.finish_cgroup(step, &tree, destination.fd.as_fd())
    }

    fn cgroup_v1(&mut self, step: &MountStep<'_>, source: &str, own: &str) -> Result<()> {
        let destination = self.destination(step, Leaf::Directory)?;
        let options = attributes_only(&step.options);
        // The directory stays writable until all the hierarchies are in it.
        let new = new_mount("tmpfs", "tmpfs", &options, Some(("mode", "755")));
        let directory = (self.kernel.new_filesystem(&new)?, Attributes::default());
        self.finish_cgroup(step, &directory, destination.fd.as_fd())?;
        let directory = directory.0;
        let memberships = memberships(own).filter(|own| !own.controllers.is_empty());
        if self.plan.cgroup_namespace {
            self.enter(directory.as_fd())?;
            new_hierarchies(memberships, source, &options).map_err(foreign_namespace)?;
        } else {
            self.bind_hierarchies(directory.as_fd(), memberships, options.attributes)?;
        }
        if step.options.attributes.set & attr::RDONLY != 0 {
            self.kernel
                .change(directory.as_fd(), &Changes::read_only())?;
        }
        self.root.done(directory);
        self.root.done(destination.fd);
        Ok(())
    }

    fn finish_cgroup(
        &self,
        step: &MountStep<'_>,
        (tree, attributes): &(OwnedFd, Attributes),
        destination: BorrowedFd<'_>,
    ) -> Result<()> {
        let options = &step.options;
        let changes = Changes::new(*attributes, options.recursive, &options.propagation);
        self.kernel.place(tree.as_fd(), &changes, destination)
    }

    /// Binds the process's own cgroup of each hierarchy into `directory`.
    fn bind_hierarchies<'m>(
        &self,
        directory: BorrowedFd<'_>,
        memberships: impl Iterator<Item = Membership<'m>>,
        attributes: Attributes,
    ) -> Result<()> {
        let changes = Changes::new(attributes, Attributes::default(), &[]);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for own in memberships {
            let name = own.directory();
            let tree = match bound(&self.kernel, &Path::new(HOST).join(name), own.path) {
                // A hierarchy that the host has not mounted.
                Err(error) if error.errno() == Some(Errno::NOENT) => continue,
                result => result?,
            };
            make_directory(directory, name)?;
            let target = fs::openat(directory, name, flags, Mode::empty())
                .context(|| format!("openat({name:?})"))?;
            self.kernel
                .place(tree.as_fd(), &changes, target.as_fd())
                .context(|| own.controllers.to_owned())?;
        }
        Ok(())
    }
}

/// The attributes of what is bound on version 2.
fn bind(options: &MountOptions<'_>) -> Attributes {
    let mut attributes = options.attributes;
    if Host::new().in_user_namespace() {
        // What is in there may belong to the user who started this: with no cgroup
        // namespace around it, the container would reach the user's other cgroups.
        attributes.set |= attr::RDONLY;
        attributes.clear &= !attr::RDONLY;
    }
    attributes
}

/// Says why the kernel refuses a mount that shows a cgroup namespace.
fn foreign_namespace(error: Error) -> Error {
    if error.errno() == Some(Errno::PERM) {
        return error.context(
            "the cgroup namespace belongs to another user namespace than the container's, which may not mount it: let linux.namespaces make a new one, or join the user namespace too",
        );
    }
    error
}

/// Mounts each hierarchy in the working directory; the roots are those of the cgroup namespace.
///
/// Ten mounts are many calls if each is made detached. The directory is a new
/// file system that nobody else can see, so names in it can be relied upon.
fn new_hierarchies<'m>(
    memberships: impl Iterator<Item = Membership<'m>>,
    source: &str,
    options: &MountOptions<'_>,
) -> Result<()> {
    let flags = MountFlags::from_bits_retain(u32::try_from(options.mount_flags()).unwrap_or(0));
    for own in memberships {
        let name = own.directory();
        make_directory(CWD, name)?;
        let data = CString::new(own.controllers)
            .map_err(|_| Error::system(format!("mount({:?})", own.controllers), Errno::INVAL))?;
        mount(source, name, "cgroup", flags, data.as_c_str())
            .context(|| format!("mount({source:?}, \"cgroup\", {:?})", own.controllers))?;
    }
    Ok(())
}

/// Makes the mount point of a hierarchy, with a link for each controller of
/// several that are mounted together.
fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<()> {
    fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
        .context(|| format!("mkdirat({name:?})"))?;
    if name.contains(',') {
        for controller in name.split(',') {
            fs::symlinkat(name, parent, controller)
                .context(|| format!("symlinkat({name:?}, {controller:?})"))?;
        }
    }
    Ok(())
}

/// The options that belong to the mount. Those of the superblock are the host's
/// affair: all mounts of a hierarchy share one.
fn attributes_only<'a>(options: &MountOptions<'a>) -> MountOptions<'a> {
    MountOptions {
        attributes: options.attributes,
        ..MountOptions::default()
    }
}

fn new_mount<'a>(
    kind: &'a str,
    source: &'a str,
    options: &'a MountOptions<'a>,
    extra: Option<(&'a str, &'a str)>,
) -> NewFilesystem<'a> {
    NewFilesystem {
        kind,
        source,
        options,
        extra,
        label: "",
        read_only: if kind == "tmpfs" {
            ReadOnly::Nothing
        } else {
            ReadOnly::Mount
        },
    }
}

/// A copy of the directory `path` of the hierarchy that the host has at `mount`.
fn bound(kernel: &Kernel, mount: &Path, path: &str) -> Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let mut directory = mount.join(relative);
    let mut tree = kernel.clone_host_path(&directory, Depth::One, true);
    if matches!(tree, Err(Errno::NOENT))
        && let Some(seen) = below_mount_root(mount, path)
    {
        // The runtime is in a container itself: what is mounted is not the
        // hierarchy's root, and the path counts from further up.
        directory = seen;
        tree = kernel.clone_host_path(&directory, Depth::One, true);
    }
    tree.context(|| format!("open_tree({directory:?})"))
}

fn below_mount_root(mount: &Path, path: &str) -> Option<PathBuf> {
    let table = read_to_string("/proc/self/mountinfo").ok()?;
    let root = mount_root(&table, mount.to_str()?)?;
    let below = Path::new(path).strip_prefix(root).ok()?;
    Some(mount.join(below))
}

/// The fourth field of the line for the mount at `place`, proc_pid_mountinfo(5).
fn mount_root<'a>(table: &'a str, place: &str) -> Option<&'a str> {
    table.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let root = fields.next()?;
        (fields.next()? == place).then_some(root)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_memberships() {
        let text = "12:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/c\nnonsense\n";
        let list: Vec<_> = memberships(text)
            .map(|own| {
                (
                    own.controllers.to_owned(),
                    own.directory().to_owned(),
                    own.path.to_owned(),
                )
            })
            .collect();
        let owned = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(
            list,
            [
                owned("cpu,cpuacct", "cpu,cpuacct", "/a:b"),
                owned("name=systemd", "systemd", "/"),
                owned("", "", "/c"),
            ]
        );
    }

    #[test]
    fn finds_the_root_of_a_mount() {
        let table = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 /docker/x /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(mount_root(table, "/sys/fs/cgroup/cpu"), Some("/docker/x"));
        assert_eq!(mount_root(table, "/sys/fs/cgroup/pids"), None);
    }
}
