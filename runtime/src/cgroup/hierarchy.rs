//! Which cgroup hierarchies the host has, where they are mounted and where the caller is in them.
//!
//! Belongs here: /proc/self/mountinfo and /proc/self/cgroup, read once. Does
//! not: the place of a container, which each manager derives from this.
//! Formats: proc_pid_mountinfo(5), cgroups(7).

use rustix::io::Errno;

use super::file;
use crate::error::{Context, Error, Kind, Result};
use crate::host;
use crate::proc::unescape;

/// A set of controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Controllers(u32);

/// A controller, under the name it has on cgroup v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Devices,
    Freezer,
    Blkio,
    Pids,
    NetCls,
    NetPrio,
    PerfEvent,
    Hugetlb,
    Rdma,
    Misc,
    /// The named hierarchy of systemd, which controls nothing.
    Systemd,
    /// The unified hierarchy.
    Unified,
}

/// Names as in mount options and /proc/self/cgroup.
const NAMES: [(&str, Controller); 16] = [
    ("cpu", Controller::Cpu),
    ("cpuacct", Controller::Cpuacct),
    ("cpuset", Controller::Cpuset),
    ("memory", Controller::Memory),
    ("devices", Controller::Devices),
    ("freezer", Controller::Freezer),
    ("blkio", Controller::Blkio),
    ("pids", Controller::Pids),
    ("net_cls", Controller::NetCls),
    ("net_prio", Controller::NetPrio),
    ("perf_event", Controller::PerfEvent),
    ("hugetlb", Controller::Hugetlb),
    ("rdma", Controller::Rdma),
    ("misc", Controller::Misc),
    ("name=systemd", Controller::Systemd),
    // Not the kernel's word: it stands in our own record only.
    ("unified", Controller::Unified),
];

impl Controller {
    /// The name that the kernel uses.
    pub(super) fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(_, controller)| *controller == self)
            .map_or("unified", |(name, _)| name)
    }
}

impl Controllers {
    /// The controllers of a list such as `rw,cpu,cpuacct`; other words are passed over.
    pub(super) fn from_list(list: &str) -> Controllers {
        let mut set = Controllers::default();
        for word in list.split(',') {
            if let Some((_, controller)) = NAMES.iter().find(|(name, _)| *name == word) {
                set.insert(*controller);
            }
        }
        set
    }

    /// The list that [`Controllers::from_list`] reads.
    pub(super) fn to_list(self) -> String {
        let mut list = String::new();
        for (name, controller) in NAMES {
            if self.contains(controller) {
                if !list.is_empty() {
                    list.push(',');
                }
                list.push_str(name);
            }
        }
        list
    }

    pub(super) fn insert(&mut self, controller: Controller) {
        self.0 |= 1 << controller as u32;
    }

    pub(super) fn contains(self, controller: Controller) -> bool {
        self.0 & (1 << controller as u32) != 0
    }

    pub(super) fn intersects(self, other: Controllers) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// What it controls; only [`Controller::Unified`] for cgroup2.
    pub(super) controllers: Controllers,
    /// Where it is mounted.
    pub(super) mount_point: String,
    /// The caller's own cgroup, relative to the mount point; empty for the mount point itself.
    pub(super) own: String,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Hierarchies of cgroup v1.
    pub(super) v1: Vec<Hierarchy>,
    /// The unified hierarchy: the only one, or beside those of v1 (hybrid).
    pub(super) unified: Option<Hierarchy>,
}

/// CGROUP2_SUPER_MAGIC of statfs(2).
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
const UNIFIED_MOUNT_POINT: &str = "/sys/fs/cgroup";

impl Layout {
    /// Looks at the host.
    ///
    /// # Errors
    /// /proc that cannot be read.
    pub fn detect() -> Result<Layout> {
        let own = host::own_cgroups()
            .ok_or_else(|| Error::new(Kind::System, "/proc/self/cgroup cannot be read"))?;
        // Where cgroup2 is all there is, the mount table, long on a busy host, has nothing to add.
        let pure_v2 =
            rustix::fs::statfs(UNIFIED_MOUNT_POINT).is_ok_and(|stat| stat.f_type == CGROUP2_MAGIC);
        if pure_v2 {
            return Ok(Layout::unified_only(&own));
        }
        let mounts =
            file::read_path("/proc/self/mountinfo").context(|| "read(\"/proc/self/mountinfo\")")?;
        Ok(Layout::parse(&mounts, &own))
    }

    fn unified_only(own: &str) -> Layout {
        let path = own
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or_default();
        let mut controllers = Controllers::default();
        controllers.insert(Controller::Unified);
        Layout {
            v1: Vec::new(),
            unified: Some(Hierarchy {
                controllers,
                mount_point: UNIFIED_MOUNT_POINT.to_owned(),
                own: file::clean(path),
            }),
        }
    }

    /// Reads the text of /proc/self/mountinfo and /proc/self/cgroup.
    #[must_use]
    pub fn parse(mountinfo: &str, own: &str) -> Layout {
        let mut layout = Layout::default();
        let text = |field| String::from_utf8_lossy(&unescape(field)).into_owned();
        for line in mountinfo.lines() {
            let Some((front, back)) = line.split_once(" - cgroup") else {
                continue;
            };
            let mut fields = front.split(' ').skip(3);
            let (Some(root), Some(mount_point)) = (fields.next(), fields.next()) else {
                continue;
            };
            let (mut controllers, unified) = match back.strip_prefix('2') {
                Some(_) => (Controllers::default(), true),
                None => {
                    let options = back.rsplit(' ').next().unwrap_or_default();
                    (Controllers::from_list(options), false)
                }
            };
            if unified {
                controllers.insert(Controller::Unified);
            }
            // A second mount of the same hierarchy shows the same cgroups.
            let seen = layout.unified.iter().chain(&layout.v1);
            if controllers.is_empty() || seen.clone().any(|h| h.controllers.intersects(controllers))
            {
                continue;
            }
            let hierarchy = Hierarchy {
                controllers,
                mount_point: text(mount_point),
                own: own_cgroup(own, controllers, unified, &text(root)),
            };
            if unified {
                layout.unified = Some(hierarchy);
            } else {
                layout.v1.push(hierarchy);
            }
        }
        layout
    }
}

/// The caller's cgroup as a path below the mount point, whose root is `root` in the hierarchy.
fn own_cgroup(table: &str, controllers: Controllers, unified: bool, root: &str) -> String {
    for line in table.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(list), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let same = if unified {
            number == "0" && list.is_empty()
        } else {
            controllers.intersects(Controllers::from_list(list))
        };
        if same {
            let below = match root {
                "/" => path,
                // In a bind mount (a container without a cgroup namespace) the
                // path begins with the root of that mount.
                root => path.strip_prefix(root).unwrap_or_default(),
            };
            return file::clean(below);
        }
    }
    String::new()
}

/// Whether an error means that an unprivileged caller may not use a hierarchy.
pub(super) fn is_denied(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /mnt/a\\040b rw - cgroup cgroup rw,memory
34 31 0:29 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:40 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
36 31 0:42 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "\
9:name=systemd:/user.slice
5:pids:/docker/x/y
4:memory:/api/7:8
1:cpu,cpuacct:/
0::/me
";

    #[test]
    fn reads_a_hybrid_host() {
        let layout = Layout::parse(MOUNTS, OWN);
        let found: Vec<_> = layout
            .v1
            .iter()
            .map(|h| {
                (
                    h.controllers.to_list(),
                    h.mount_point.as_str(),
                    h.own.as_str(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("cpu,cpuacct".to_owned(), "/sys/fs/cgroup/cpu,cpuacct", ""),
                ("memory".to_owned(), "/mnt/a b", "api/7:8"),
                (
                    "name=systemd".to_owned(),
                    "/sys/fs/cgroup/systemd",
                    "user.slice"
                ),
                ("pids".to_owned(), "/sys/fs/cgroup/pids", "y"),
            ]
        );
        let unified = layout.unified.unwrap();
        assert_eq!(unified.mount_point, "/sys/fs/cgroup/unified");
        assert_eq!(unified.own, "me");
    }

    #[test]
    fn survives_any_text() {
        for text in [
            "",
            " - cgroup",
            "1 2 3 - cgroup2",
            "a b c d e - cgroup \\0",
            "1 1 1 / \\0 - cgroup2 x",
        ] {
            let _ = Layout::parse(text, text);
        }
    }
}
