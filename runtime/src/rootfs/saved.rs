//! A container's mounts as criu sees them: what it must be told when they are saved, and what must
//! be there before it makes them again.
//!
//! Belongs here: which mounts have their content on the host, under which names they are kept, and
//! the root that they are restored in. Does not: the talk with criu.
//!
//! Such a mount is kept by a name, its destination in the configuration; the restore finds the
//! source by that name. So a link in the image may lead the mount elsewhere, and the sources may be
//! other directories than they were. The names are those that runc uses, too.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};

use super::cgroups::{HOST, memberships};
use super::kernel::{SELF, mount_id};
use super::pivot;
use super::plan::{MountStep, RootfsPlan, What};
use super::root_fd::{Leaf, Links, RootFd};
use crate::error::{Context, Error, Result};
use crate::proc::unescape;
use crate::spec::mount_options::Bind;

/// One line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    parent: u64,
    point: String,
    kind: String,
}

/// Reads mountinfo: proc_pid_mountinfo(5).
fn mounts(table: &str) -> impl Iterator<Item = Mount> {
    table.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let id = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let point = String::from_utf8(unescape(fields.nth(2)?)).ok()?;
        Some(Mount {
            id,
            parent,
            point,
            kind: filesystem.split(' ').next()?.to_owned(),
        })
    })
}

fn table(pid: &str) -> Result<String> {
    let path = format!("/proc/{pid}/mountinfo");
    std::fs::read_to_string(&path).context(|| format!("read({path})"))
}

/// The mounts of a container that runs, its first process being `pid`.
#[derive(Debug)]
pub struct RunningMounts {
    root: RootFd,
    mounts: Vec<Mount>,
}

impl RunningMounts {
    /// Looks at the mount namespace of a process.
    ///
    /// # Errors
    /// A process that is gone or may not be looked at.
    pub fn of(pid: i32) -> Result<RunningMounts> {
        let path = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(&path, flags, Mode::empty()).context(|| format!("open({path})"))?;
        Ok(RunningMounts {
            root: RootFd::from(root),
            mounts: mounts(&table(&pid.to_string())?).collect(),
        })
    }

    /// Whether the namespace has a mount of that id.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.mounts.iter().any(|mount| mount.id == id)
    }

    /// The mount whose root `path` is in the container, if it is one.
    fn at(&self, path: &str) -> Option<&Mount> {
        let fd = self.root.resolve(path, Links::Follow).ok()?;
        let (id, is_root) = mount_id(fd.as_fd(), SELF).ok()?;
        (is_root != Some(false))
            .then(|| self.mounts.iter().find(|mount| mount.id == id))
            .flatten()
    }

    /// The mounts whose content criu must not look for: mount point and name. `more` are
    /// destinations of bind mounts beyond those of the plan.
    #[must_use]
    pub fn external(&self, plan: &RootfsPlan<'_>, more: &[&str]) -> Vec<(String, String)> {
        let mut names: HashMap<u64, String> = HashMap::new();
        let mut planned = HashSet::new();
        for step in &plan.mounts {
            let Some(mount) = self.at(step.destination) else {
                continue;
            };
            planned.insert(mount.id);
            if matches!(step.what, What::Bind(_)) {
                names.insert(mount.id, step.destination.to_owned());
            }
        }
        // Of masks the files are external, being the host's null device; directories are the
        // container's own empty file systems. Devices are the host's only in a user namespace.
        let masks = plan.masked.iter().map(|path| path.as_str());
        let devices = plan.devices.iter().map(|device| &*device.path);
        for path in masks.chain(devices).chain(more.iter().copied()) {
            if let Some(mount) = self.at(path).filter(|mount| mount.kind != "tmpfs") {
                names.insert(mount.id, path.to_owned());
            }
        }
        for mount in &self.mounts {
            let bound = !plan.cgroup_namespace && matches!(&*mount.kind, "cgroup" | "cgroup2");
            if bound {
                names.insert(mount.id, mount.point.clone());
            }
        }
        // What a recursive bind mount brought along.
        let mut found = true;
        while found {
            found = false;
            for mount in &self.mounts {
                if names.contains_key(&mount.id) || planned.contains(&mount.id) {
                    continue;
                }
                let above = self.mounts.iter().find(|other| other.id == mount.parent);
                let name = above.and_then(|above| {
                    let rest = mount.point.strip_prefix(&above.point)?;
                    Some(format!("{}{rest}", names.get(&above.id)?))
                });
                if let Some(name) = name {
                    names.insert(mount.id, name);
                    found = true;
                }
            }
        }
        self.mounts
            .iter()
            .filter_map(|mount| Some((mount.point.clone(), names.get(&mount.id)?.clone())))
            .collect()
    }
}

/// The sources of the mounts that were left out of the images: name and path on the host.
/// `cgroups` is /proc/PID/cgroup of a process in the new container's cgroups.
///
/// # Errors
/// A source that does not exist.
pub fn external_sources(plan: &RootfsPlan<'_>, cgroups: &str) -> Result<Vec<(String, String)>> {
    let mut sources = Vec::new();
    let mut own_mounts = None;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    for step in &plan.mounts {
        match &step.what {
            What::Bind(path) => {
                let source = path
                    .canonicalize()
                    .context(|| format!("mounts[{}].source {:?}", step.index, path.display()))?;
                if step.options.bind == Bind::Rbind {
                    let own = match &own_mounts {
                        Some(own) => own,
                        None => own_mounts.insert(mounts(&table("self")?).collect::<Vec<_>>()),
                    };
                    for mount in own {
                        let below = Path::new(&mount.point).strip_prefix(&source);
                        if let Ok(below) = below
                            && !below.as_os_str().is_empty()
                        {
                            let name = Path::new(step.destination).join(below);
                            sources.push((text(name), mount.point.clone()));
                        }
                    }
                }
                sources.push((step.destination.to_owned(), text(source)));
            }
            What::Cgroup { .. } if !plan.cgroup_namespace => {
                for own in memberships(cgroups) {
                    let (name, host) = if own.controllers.is_empty() {
                        (step.normal.clone(), HOST.to_owned())
                    } else {
                        let directory = own.directory();
                        (
                            format!("{}/{directory}", step.normal),
                            format!("{HOST}/{directory}"),
                        )
                    };
                    sources.push((name, format!("{host}{}", own.path)));
                }
            }
            What::Cgroup { .. } | What::Filesystem { .. } | What::Remount => {}
        }
    }
    let masks = plan.masked.iter();
    sources.extend(masks.map(|path| (path.to_string(), "/dev/null".to_owned())));
    let devices = plan.devices.iter();
    sources.extend(devices.map(|device| {
        let path = device.path.to_string();
        (path.clone(), path)
    }));
    Ok(sources)
}

/// Makes the root that criu builds the container's mounts in, and the mount points that a fresh
/// image lacks. Call it in a mount namespace of one's own.
///
/// # Errors
/// As [`super::prepare`], for the root; a mount point that cannot be made.
pub fn prepare_restore(plan: &RootfsPlan<'_>) -> Result<()> {
    let _umask = super::NoUmask::new();
    let kernel = pivot::stop_propagation(plan)?;
    let root = pivot::bind_root(plan, &kernel, None)?;
    for (at, step) in plan.mounts.iter().enumerate() {
        // What is in another mount is in the images, or was made where the source is.
        let inside = |other: &MountStep<'_>| {
            let rest = step.normal.strip_prefix(&other.normal);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let before = plan.mounts.get(..at).unwrap_or_default();
        if matches!(step.what, What::Remount) || before.iter().any(inside) {
            continue;
        }
        let leaf = match &step.what {
            What::Bind(path) if !path.is_dir() => Leaf::File,
            _ => Leaf::Directory,
        };
        let mode = match leaf {
            Leaf::Directory => Mode::from_raw_mode(0o755),
            Leaf::File => Mode::from_raw_mode(0o644),
        };
        root.make(step.destination, Links::Follow, leaf, mode)
            .map_err(|error: Error| error.context(format!("mounts[{}]", step.index)))?;
    }
    // bind_root has mounted upon the path; criu looks it up again.
    let seen = fs::stat(&plan.rootfs).context(|| format!("stat({:?})", plan.rootfs))?;
    let made = fs::fstat(root.as_fd()).context(|| "fstat(rootfs)")?;
    if (seen.st_dev, seen.st_ino) != (made.st_dev, made.st_ino) {
        return Err(Error::config(
            "root.path",
            "changed while the container was restored",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let table = "21 1 0:19 / / rw shared:1 - ext4 /dev/x rw\n\
                     22 21 0:5 /null /proc/a\\040b rw - devtmpfs udev rw\n\
                     nonsense\n";
        let found: Vec<Mount> = mounts(table).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[1],
            Mount {
                id: 22,
                parent: 21,
                point: "/proc/a b".to_owned(),
                kind: "devtmpfs".to_owned()
            }
        );
    }
}
