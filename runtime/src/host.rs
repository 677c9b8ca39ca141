//! What the host is and has: facts that decide whether a configuration can be carried out.
//!
//! Belongs here: cheap questions to the kernel, each asked when the answer is
//! first needed and remembered. Does not: what follows from an answer.

use std::cell::OnceCell;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, openat, stat, statfs};

/// Inode of the initial user namespace in nsfs (`PROC_USER_INIT_INO`, a stable
/// number of the kernel). The map cannot tell: another user namespace may map
/// all ids to themselves.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// `CGROUP2_SUPER_MAGIC`, statfs(2).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// `SELINUX_MAGIC`, statfs(2).
const SELINUX_MAGIC: u64 = 0xf97c_ff8c;
/// `RDTGROUP_SUPER_MAGIC`, linux/magic.h.
const RESCTRL_MAGIC: u64 = 0x0765_5821;

/// How cgroups are mounted under /sys/fs/cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupLayout {
    /// Not at all, or in no known way.
    None,
    /// One hierarchy for each controller.
    V1,
    /// As `V1`, and version 2 at /sys/fs/cgroup/unified with the controllers that are left.
    Hybrid,
    /// Version 2 alone.
    V2,
}

/// The facts; made anew for each operation, because they may change between two.
#[derive(Debug, Default)]
pub struct Host {
    euid: OnceCell<u32>,
    user_namespace: OnceCell<bool>,
    cgroup_layout: OnceCell<CgroupLayout>,
    apparmor: OnceCell<bool>,
    selinux: OnceCell<bool>,
    resctrl: OnceCell<bool>,
}

impl Host {
    /// A host about which nothing was asked yet.
    #[must_use]
    pub fn new() -> Host {
        Host::default()
    }

    /// A host of another kind than this one, for tests of what follows from it.
    #[cfg(test)]
    pub(crate) fn assume(euid: u32, layout: CgroupLayout) -> Host {
        Host {
            euid: OnceCell::from(euid),
            cgroup_layout: OnceCell::from(layout),
            ..Host::default()
        }
    }

    /// The effective user id of this process.
    pub fn euid(&self) -> u32 {
        *self
            .euid
            .get_or_init(|| rustix::process::geteuid().as_raw())
    }

    /// Whether this process is in another user namespace than the initial one.
    /// Without /proc: no.
    pub fn in_user_namespace(&self) -> bool {
        *self.user_namespace.get_or_init(|| {
            stat("/proc/self/ns/user").is_ok_and(|stat| stat.st_ino != INITIAL_USER_NAMESPACE)
        })
    }

    /// Whether privileges over the host are missing: not root, or root of
    /// another user namespace only.
    pub fn rootless(&self) -> bool {
        self.euid() != 0 || self.in_user_namespace()
    }

    /// How cgroups are mounted.
    pub fn cgroup_layout(&self) -> CgroupLayout {
        *self.cgroup_layout.get_or_init(|| {
            if has_magic("/sys/fs/cgroup", CGROUP2_MAGIC) {
                CgroupLayout::V2
            } else if has_magic("/sys/fs/cgroup/unified", CGROUP2_MAGIC) {
                CgroupLayout::Hybrid
            } else if exists(Path::new("/sys/fs/cgroup/memory"))
                || exists(Path::new("/sys/fs/cgroup/devices"))
                || exists(Path::new("/sys/fs/cgroup/cpu"))
            {
                CgroupLayout::V1
            } else {
                CgroupLayout::None
            }
        })
    }

    /// Whether AppArmor is on.
    pub fn apparmor(&self) -> bool {
        *self.apparmor.get_or_init(|| {
            read_small("/sys/module/apparmor/parameters/enabled")
                .is_some_and(|text| text.starts_with('Y'))
        })
    }

    /// Whether AppArmor, which is on, knows no profile of that name. Only root may read the list;
    /// stacks and other policy namespaces are left to the kernel: apparmor_namespaces(7).
    pub(crate) fn lacks_apparmor_profile(profile: &str) -> bool {
        if profile == "unconfined" || profile.contains("//&") || profile.starts_with(':') {
            return false;
        }
        // "name (mode)", and names may have spaces.
        read_small("/sys/kernel/security/apparmor/profiles").is_some_and(|list| {
            !list.lines().any(|line| {
                line.strip_prefix(profile)
                    .is_some_and(|rest| rest.starts_with(" (") && !rest[2..].contains('('))
            })
        })
    }

    /// Whether SELinux is on.
    pub fn selinux(&self) -> bool {
        *self
            .selinux
            .get_or_init(|| has_magic("/sys/fs/selinux", SELINUX_MAGIC))
    }

    /// Whether a resctrl file system is mounted anywhere.
    pub fn resctrl(&self) -> bool {
        *self.resctrl.get_or_init(|| {
            has_magic("/sys/fs/resctrl", RESCTRL_MAGIC)
                || read_small("/proc/self/mountinfo").is_some_and(|text| {
                    text.lines()
                        .filter_map(|line| line.split_once(" - "))
                        .any(|(_, rest)| rest.starts_with("resctrl "))
                })
        })
    }

    /// Whether the kernel has namespaces of the specification's type `kind`.
    pub fn has_namespace(&self, kind: &str) -> bool {
        let file = match kind {
            "mount" => "/proc/self/ns/mnt",
            "network" => "/proc/self/ns/net",
            "cgroup" => "/proc/self/ns/cgroup",
            "ipc" => "/proc/self/ns/ipc",
            "pid" => "/proc/self/ns/pid",
            "time" => "/proc/self/ns/time",
            "user" => "/proc/self/ns/user",
            "uts" => "/proc/self/ns/uts",
            _ => return false,
        };
        // Without /proc there is no telling; then nothing is refused.
        exists(Path::new(file)) || !exists(Path::new("/proc/self/ns"))
    }

    /// Whether `path` is the network namespace of this process.
    pub fn is_own_network_namespace(path: &str) -> bool {
        match (stat(path), stat("/proc/self/ns/net")) {
            (Ok(one), Ok(own)) => (one.st_dev, one.st_ino) == (own.st_dev, own.st_ino),
            _ => false,
        }
    }
}

fn has_magic(path: &str, magic: u64) -> bool {
    // The type of f_type differs between C libraries and architectures; the magic has 32 bits.
    statfs(path).is_ok_and(|stat| {
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
        let kind = stat.f_type as u64 & 0xffff_ffff;
        kind == magic
    })
}

/// Whether `path` exists, symbolic links followed.
fn exists(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}

/// The caller's cgroups, /proc/self/cgroup: the kernel hands it out in one piece, so that what is
/// shorter than there was room for is all of it. cgroups(7).
pub(crate) fn own_cgroups() -> Option<String> {
    read_text("/proc/self/cgroup", |read, room| read < room)
}

/// The first MiB of a file of the kernel, if it can be read and is text.
pub(crate) fn read_small(path: &str) -> Option<String> {
    read_text(path, |_, _| false)
}

fn read_text(path: &str, is_last: impl Fn(usize, usize) -> bool) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(CWD, path, flags, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    while bytes.len() < 1 << 20 {
        bytes.reserve(4096);
        let room = bytes.capacity() - bytes.len();
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => break,
            Ok(read) if is_last(read, room) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_agree_with_the_kernel() {
        let host = Host::new();
        assert_eq!(host.euid(), rustix::process::geteuid().as_raw());
        let link = std::fs::read_link("/proc/self/ns/user").unwrap();
        assert_eq!(
            host.in_user_namespace(),
            link.to_str() != Some("user:[4026531837]")
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = |point: &str| mounts.contains(&format!(" {point} "));
        match host.cgroup_layout() {
            CgroupLayout::V2 => assert!(mounts.contains(" - cgroup2 ") && at("/sys/fs/cgroup")),
            CgroupLayout::Hybrid => assert!(at("/sys/fs/cgroup/unified")),
            CgroupLayout::V1 => assert!(mounts.contains(" - cgroup ")),
            CgroupLayout::None => assert!(!mounts.contains(" - cgroup")),
        }
        assert_eq!(host.resctrl(), mounts.contains(" - resctrl "));
        assert!(host.has_namespace("mount") && !host.has_namespace("unknown"));
        assert_eq!(
            host.rootless(),
            host.euid() != 0 || host.in_user_namespace()
        );
    }
}
