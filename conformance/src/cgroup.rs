//! The host's cgroup hierarchies, and a place of its own in each of them for
//! every test, so that what a test leaves is found and removed.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One mounted hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Whether it is the unified one.
    pub v2: bool,
    /// Mount data: the controllers of a v1 hierarchy.
    pub options: String,
}

/// All hierarchies of the host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Layout {
    /// In the order of their mounts.
    pub hierarchies: Vec<Hierarchy>,
    /// Symbolic links beside them (`cpu -> cpu,cpuacct`).
    pub links: Vec<(PathBuf, PathBuf)>,
}

impl Layout {
    /// Reads the layout of the calling process's mount namespace.
    pub fn read() -> Result<Self> {
        let text =
            fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        let mut layout = Self::parse(&text);
        if let Ok(entries) = fs::read_dir("/sys/fs/cgroup") {
            for entry in entries.flatten() {
                if let Ok(target) = fs::read_link(entry.path()) {
                    layout.links.push((entry.path(), target));
                }
            }
        }
        Ok(layout)
    }

    fn parse(mountinfo: &str) -> Self {
        let mut hierarchies = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(point), Some(kind), Some(data)) = (left.get(4), right.first(), right.get(2))
            else {
                continue;
            };
            if !matches!(*kind, "cgroup" | "cgroup2") || !point.starts_with("/sys/fs/cgroup") {
                continue;
            }
            let options: Vec<&str> = data
                .split(',')
                .filter(|o| {
                    !matches!(*o, "rw" | "ro" | "clone_children") && !o.starts_with("release_agent")
                })
                .collect();
            hierarchies.push(Hierarchy {
                mount_point: PathBuf::from(point),
                v2: *kind == "cgroup2",
                options: if *kind == "cgroup2" {
                    String::new()
                } else {
                    options.join(",")
                },
            });
        }
        Self {
            hierarchies,
            links: Vec::new(),
        }
    }

    /// `v1`, `v2`, `hybrid` or `none`.
    pub fn mode(&self) -> &'static str {
        let v2 = self.hierarchies.iter().any(|h| h.v2);
        let v1 = self
            .hierarchies
            .iter()
            .any(|h| !h.v2 && !h.options.contains("name="));
        match (v1, v2) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        }
    }
}

/// A subtree of this name in every hierarchy; removed when dropped.
#[derive(Debug)]
pub struct Place {
    layout: Layout,
    name: PathBuf,
    enabled: Vec<(PathBuf, String)>,
}

impl Place {
    /// Makes `name` (relative to the mount points) everywhere; with
    /// `controllers`, those of the unified hierarchy can be used inside.
    pub fn make(layout: &Layout, name: &Path, controllers: bool) -> Result<Self> {
        let mut place = Self {
            layout: layout.clone(),
            name: name.to_owned(),
            enabled: Vec::new(),
        };
        for hierarchy in &layout.hierarchies {
            let dir = hierarchy.mount_point.join(name);
            match fs::create_dir(&dir) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(e).with_context(|| format!("make the cgroup {}", dir.display()));
                }
                _ => {}
            }
            let parent = dir.parent().unwrap_or(&dir).to_owned();
            let top = parent == hierarchy.mount_point;
            if hierarchy.v2 && controllers {
                let enabled = enable_controllers(&parent);
                // Only what was changed in the host's own cgroup is undone.
                if top {
                    place
                        .enabled
                        .extend(enabled.into_iter().map(|c| (parent.clone(), c)));
                }
            } else if hierarchy.v2 && !top {
                disable_controllers(&parent);
            } else if hierarchy.options.split(',').any(|o| o == "cpuset") {
                // (an option of v1 only)
                inherit_cpuset(&dir);
            }
        }
        Ok(place)
    }

    /// The directories, one for each hierarchy.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.layout
            .hierarchies
            .iter()
            .map(|h| h.mount_point.join(&self.name))
            .collect()
    }

    /// Gives the place the whole realtime budget of the host (v1): a test that
    /// asks for it needs it from every ancestor. Waits while another has it.
    pub fn take_realtime(&self, wait: Duration) {
        for h in self
            .layout
            .hierarchies
            .iter()
            .filter(|h| h.options.split(',').any(|o| o == "cpu"))
        {
            let file = "cpu.rt_runtime_us";
            let Ok(budget) = fs::read_to_string(h.mount_point.join(file)) else {
                continue;
            };
            let mut dir = h.mount_point.clone();
            for part in &self.name {
                dir.push(part);
                let start = Instant::now();
                while fs::write(dir.join(file), budget.trim()).is_err() && start.elapsed() < wait {
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }

    /// Cgroups below the place.
    pub fn children(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in self.dirs() {
            walk(&dir, &mut |sub| found.push(sub.display().to_string()));
        }
        found
    }

    /// Removes the place with everything in it; processes in it are killed.
    pub fn remove(&self) {
        for dir in self.dirs() {
            remove_tree(&dir);
        }
        for (dir, controller) in self.enabled.iter().rev() {
            // Fails when somebody else uses the controller by now: then it stays.
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("-{controller}"));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whether `name` is `PREFIX-PID` of a process that is gone.
pub fn is_stale(name: &str, prefix: &str) -> bool {
    let pid = name.strip_prefix(prefix).and_then(|n| n.strip_prefix('-'));
    pid.is_some_and(|p| {
        p.bytes().all(|b| b.is_ascii_digit()) && !Path::new("/proc").join(p).exists()
    })
}

/// Removes the empty places of runs that were killed: `PREFIX-PID` of a process
/// that is gone. What still has members is left alone.
pub fn remove_stale(layout: &Layout, prefix: &str) {
    for hierarchy in &layout.hierarchies {
        let Ok(entries) = fs::read_dir(&hierarchy.mount_point) else {
            continue;
        };
        for entry in entries.flatten() {
            if is_stale(&entry.file_name().to_string_lossy(), prefix) {
                walk(&entry.path(), &mut |sub| {
                    let _ = fs::remove_dir(sub);
                });
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// Enables what is not yet enabled and says what that was.
pub fn enable_controllers(dir: &Path) -> Vec<String> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let on = read("cgroup.subtree_control");
    let on: Vec<&str> = on.split_whitespace().collect();
    let mut enabled = Vec::new();
    for controller in read("cgroup.controllers").split_whitespace() {
        if !on.contains(&controller)
            && fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).is_ok()
        {
            enabled.push(controller.to_owned());
        }
    }
    enabled
}

fn disable_controllers(dir: &Path) {
    let on = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in on.split_whitespace() {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("-{controller}"));
    }
}

/// An empty v1 cpuset takes no process: copy what the parent has.
fn inherit_cpuset(dir: &Path) {
    let Some(parent) = dir.parent() else { return };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read_to_string(parent.join(file)) {
            let _ = fs::write(dir.join(file), value.trim());
        }
    }
}

/// Calls `f` for every directory below `dir`, the deepest first.
fn walk(dir: &Path, f: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), f);
            f(&entry.path());
        }
    }
}

fn remove_tree(dir: &Path) {
    let mut all = Vec::new();
    walk(dir, &mut |sub| all.push(sub.to_owned()));
    all.push(dir.to_owned());
    for cgroup in &all {
        // A test may have left it frozen: nothing dies in a frozen v1 cgroup.
        let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
        let _ = fs::write(cgroup.join("cgroup.freeze"), "0");
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    for cgroup in &all {
        loop {
            match fs::remove_dir(cgroup) {
                Err(e) if e.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    kill_members(cgroup);
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => break,
            }
        }
    }
}

fn kill_members(cgroup: &Path) {
    let own = nix::unistd::getpid();
    for line in fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
    {
        if let Ok(pid) = line.parse::<i32>() {
            let pid = nix::unistd::Pid::from_raw(pid);
            if pid.as_raw() > 0 && pid != own {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_layout() {
        let layout = Layout::parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(layout.mode(), "hybrid");
        assert_eq!(layout.hierarchies[0].options, "cpu,cpuacct");
        assert_eq!(layout.hierarchies[2].options, "");
    }

    #[test]
    fn only_places_of_dead_processes_are_stale() {
        assert!(!is_stale(&format!("x-{}", std::process::id()), "x"));
        assert!(is_stale("x-4194399", "x"));
        assert!(!is_stale("x-abc", "x") && !is_stale("y-1", "x") && !is_stale("x", "x"));
    }

    #[test]
    fn unified_layout() {
        let layout =
            Layout::parse("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(layout.mode(), "v2");
        assert_eq!(Layout::parse("").mode(), "none");
    }
}
