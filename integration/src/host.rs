//! The host before and after: what a runtime may leave nothing of.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::sandbox::Sandbox;
use crate::{cgroup, process};

/// What the host shows of one sandbox, and of what no test touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
    state: BTreeSet<String>,
    links: BTreeSet<String>,
    rootfs: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at the host.
    ///
    /// # Panics
    /// Where /proc cannot be read.
    #[must_use]
    pub fn take(sandbox: &Sandbox) -> Self {
        Self {
            mounts: mounts(sandbox),
            cgroups: cgroup::tree(sandbox.cgroup())
                .iter()
                .map(|dir| dir.display().to_string())
                .collect(),
            processes: processes(sandbox),
            state: tree(&sandbox.root()),
            links: links(),
            rootfs: sandbox
                .bundles()
                .iter()
                .flat_map(|bundle| tree(&bundle.rootfs()))
                .collect(),
        }
    }

    /// The same, blind for files in the bundles' root file systems: create may make mount points.
    #[must_use]
    pub fn without_rootfs(mut self) -> Self {
        self.rootfs.clear();
        self
    }

    /// What `after` has more (`+`) or less (`-`), a line each.
    #[must_use]
    pub fn difference(&self, after: &Self) -> Vec<String> {
        let pairs = [
            ("mount", &self.mounts, &after.mounts),
            ("cgroup", &self.cgroups, &after.cgroups),
            ("process", &self.processes, &after.processes),
            ("state", &self.state, &after.state),
            ("link", &self.links, &after.links),
            ("rootfs", &self.rootfs, &after.rootfs),
        ];
        let mut lines = Vec::new();
        for (what, before, after) in pairs {
            lines.extend(after.difference(before).map(|x| {
                // Of a process the number is compared, and the command line shown.
                let command = fs::read(format!("/proc/{x}/cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                format!("+ {what} {x} {command}").trim_end().to_owned()
            }));
            lines.extend(before.difference(after).map(|x| format!("- {what} {x}")));
        }
        lines
    }
}

/// What a test asks of the host around its sandbox.
impl Sandbox {
    /// The host as it stands, without the bundles' own files.
    #[must_use]
    pub fn look(&self) -> Snapshot {
        Snapshot::take(self).without_rootfs()
    }

    /// Insists that the host is as it was; processes and cgroups get a moment to vanish.
    ///
    /// # Panics
    /// Where something was left or taken.
    #[track_caller]
    pub fn same_as(&self, before: &Snapshot) {
        let mut left = Vec::new();
        let clean = process::eventually(Duration::from_secs(5), || {
            left = before.difference(&self.look());
            // An empty state root and an empty parent cgroup may stay: others may use them.
            left.retain(|line| !line.ends_with(self.cgroup()) || !line.starts_with("+ cgroup"));
            left.is_empty()
        });
        assert!(clean, "the host changed:\n{}", left.join("\n"));
    }
}

/// Mounts of our own namespace: those below this sandbox, and those of no sandbox at all.
fn mounts(sandbox: &Sandbox) -> BTreeSet<String> {
    let own = sandbox.dir().display().to_string();
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains(&own) || !line.contains(Sandbox::PREFIX))
        .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
        .collect()
}

/// Processes that came out of this sandbox: known by their environment or their cgroup.
fn processes(sandbox: &Sandbox) -> BTreeSet<String> {
    let mark = sandbox.mark();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if !process::alive(pid) {
            continue;
        }
        let has = |file: &str, needle: &str| {
            fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|text| {
                text.windows(needle.len())
                    .any(|window| window == needle.as_bytes())
            })
        };
        if has("environ", &mark) || has("cgroup", sandbox.cgroup()) {
            found.insert(pid.to_string());
        }
    }
    found
}

/// Every path below `dir`.
fn tree(dir: &std::path::Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        let Ok(entries) = fs::read_dir(&next) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            }
            found.insert(entry.path().display().to_string());
        }
    }
    found
}

/// Network devices of our own namespace, without those that tests make.
fn links() -> BTreeSet<String> {
    fs::read_dir("/sys/class/net")
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned())
                .filter(|name| !name.starts_with("kni"))
                .collect()
        })
        .unwrap_or_default()
}
