//! Has a wait of the kernel pass while nobody waits for it.
//!
//! Where cgroups are of version 1, a process is moved into one by a write, and the first such write for
//! some time waits for a grace period of RCU, which takes some milliseconds; those that follow soon after
//! do not. A container that is made is started as a rule. So this process is moved meanwhile, from the
//! cgroup that it is in to the same one. Version 2 has no such wait: processes begin in their cgroup.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long it is known to be worth nothing to do it again.
const AGAIN: Duration = Duration::from_millis(4);

/// When it was done last.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Option<Instant>>);

impl Ahead {
    /// Begins the wait, unless it has been a moment ago. Nothing waits for this, or fails with it.
    pub(super) fn begin(&self) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < AGAIN) {
            return;
        }
        *last = Some(Instant::now());
        tokio::task::spawn_blocking(|| {
            // Read each time: somebody may have moved this process.
            let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            if let Some(procs) = procs(&own)
                && let Ok(mut file) = OpenOptions::new().write(true).open(procs)
            {
                let _ = file.write_all(b"0");
            }
        });
    }
}

/// The file of this process's cgroup in a hierarchy of version 1 with a controller. cgroups(7)
fn procs(own: &str) -> Option<PathBuf> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() || controllers.starts_with("name=") {
            return None;
        }
        let mounted = Path::new("/sys/fs/cgroup").join(controllers);
        let dir = mounted.join(path.trim_start_matches('/'));
        Some(dir.join("cgroup.procs"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_1_has_the_wait() {
        assert_eq!(procs("0::/system.slice/knarrd.service\n"), None);
        let hybrid = "2:name=systemd:/x\n1:cpu,cpuacct:/a/b:c\n0::/\n";
        let found = procs(hybrid).unwrap();
        assert_eq!(
            found,
            Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b:c/cgroup.procs")
        );
    }
}
