//! Control groups as the host shows them, version 1 and 2.

use std::fs;
use std::path::PathBuf;

/// Who makes the cgroups of a test's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The runtime, in the cgroup file system.
    Cgroupfs,
    /// systemd, asked with `--systemd-cgroup`.
    Systemd,
}

impl Driver {
    /// What the host lacks for tests of the unified hierarchy with this driver.
    #[must_use]
    pub fn missing(self) -> Option<&'static str> {
        if !unified() {
            return Some("the host has not cgroup v2 alone");
        }
        let systemd = std::path::Path::new("/run/systemd/system").exists();
        (self == Driver::Systemd && !systemd).then_some("the host does not run systemd")
    }
}

/// Makes of each function `fn(&Sandbox)` a test for each driver, on hosts with cgroup v2 alone.
#[macro_export]
macro_rules! both_drivers {
    ($($name:ident)*) => {
        mod cgroupfs { $crate::both_drivers!(@ Cgroupfs $($name)*); }
        mod systemd { $crate::both_drivers!(@ Systemd $($name)*); }
    };
    (@ $driver:ident $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let driver = $crate::cgroup::Driver::$driver;
                if let Some(why) = driver.missing() {
                    $crate::skip!("{why}");
                }
                super::$name(&$crate::Sandbox::with(driver));
            }
        )*
    };
}

/// Whether the host has only the unified hierarchy.
#[must_use]
pub fn unified() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The hierarchies' mount points.
///
/// # Panics
/// Where /proc/self/mountinfo cannot be read.
#[must_use]
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let kind = right.split(' ').next()?;
            if kind != "cgroup" && kind != "cgroup2" {
                return None;
            }
            let point = left.split(' ').nth(4)?;
            point
                .starts_with("/sys/fs/cgroup")
                .then(|| PathBuf::from(point))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Whether a controller of version 1 is mounted.
#[must_use]
pub fn v1_controller(name: &str) -> bool {
    !unified()
        && PathBuf::from("/sys/fs/cgroup")
            .join(name)
            .join("cgroup.procs")
            .exists()
}

/// The directory of the cgroup `path` in the hierarchy of `controller` (ignored on version 2).
#[must_use]
pub fn dir(controller: &str, path: &str) -> PathBuf {
    let base = PathBuf::from("/sys/fs/cgroup");
    let path = path.trim_start_matches('/');
    if unified() {
        base.join(path)
    } else {
        base.join(controller).join(path)
    }
}

/// What a file of a cgroup says, without the last line feed.
///
/// # Panics
/// Where the file cannot be read.
#[must_use]
pub fn read(controller: &str, path: &str, file: &str) -> String {
    let path = dir(controller, path).join(file);
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim_end()
        .to_owned()
}

/// Every cgroup below `path` in any hierarchy, `path` itself included.
#[must_use]
pub fn tree(path: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for hierarchy in hierarchies() {
        let mut todo = vec![hierarchy.join(path.trim_start_matches('/'))];
        while let Some(dir) = todo.pop() {
            if !dir.is_dir() {
                continue;
            }
            if let Ok(entries) = fs::read_dir(&dir) {
                todo.extend(
                    entries
                        .flatten()
                        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                        .map(|entry| entry.path()),
                );
            }
            all.push(dir);
        }
    }
    all.sort();
    all
}

/// The processes in any cgroup below `path`.
#[must_use]
pub fn processes(path: &str) -> Vec<u32> {
    let mut pids: Vec<u32> = tree(path)
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Thaws, kills and removes everything below `path`; best effort, for cleaning up.
pub fn remove(path: &str) {
    for dir in tree(path) {
        let _ = fs::write(dir.join("freezer.state"), "THAWED");
        let _ = fs::write(dir.join("cgroup.freeze"), "0");
    }
    for _ in 0..100 {
        let pids = processes(path);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            crate::process::kill(pid, 9);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // The kernel counts a process in for a moment after it was reaped: EBUSY until then.
    crate::process::eventually(std::time::Duration::from_secs(2), || {
        let left = tree(path);
        for dir in left.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
        left.is_empty()
    });
}
