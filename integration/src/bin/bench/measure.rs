//! Times one call: wall clock, and the CPU time of the runtime with all it waited for.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use knarr_integration::{cgroup, process};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Seconds after which a runtime hangs.
pub static LIMIT: AtomicU64 = AtomicU64::new(5);

/// The time that a runtime may take.
pub fn limit() -> Duration {
    Duration::from_secs(LIMIT.load(Ordering::Relaxed))
}

/// How long the cgroup lock must rest to be cold: several RCU grace periods.
const REST: Duration = Duration::from_millis(60);

/// The operations, in the order of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// `create`
    Create,
    /// `start`
    Start,
    /// `state`
    State,
    /// `exec` of `true`, in the foreground
    Exec,
    /// `kill` with KILL
    Kill,
    /// `delete` of the stopped container
    Delete,
    /// `run` of `true`, in the foreground
    Run,
    /// The six before `run`, one container's life; no command.
    Cycle,
}

impl Op {
    /// All commands.
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Start,
        Self::State,
        Self::Exec,
        Self::Kill,
        Self::Delete,
        Self::Run,
    ];

    /// What tables have a row for.
    pub fn rows() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain([Self::Cycle])
    }

    /// The name of the command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::State => "state",
            Self::Exec => "exec",
            Self::Kill => "kill",
            Self::Delete => "delete",
            Self::Run => "run",
            Self::Cycle => "cycle",
        }
    }
}

/// One call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Wall-clock time.
    pub wall: Duration,
    /// CPU time, user and system.
    pub cpu: Duration,
}

/// Mounts the procfs of this process's own pid namespace, for its mount namespace alone.
pub fn private_proc() {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
    mount("proc", "/proc", "proc", MountFlags::empty(), None).unwrap();
}

/// Makes orphans our children, so that their CPU time is counted when they end.
pub fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// Reaps every child that has ended.
pub fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// CPU time of all children that were waited for, and of theirs.
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    micros(usage.user_time()) + micros(usage.system_time())
}

/// CPU time that a living process has had so far, all threads.
pub fn scheduled(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse().ok())
        .map(Duration::from_nanos)
        .sum()
}

/// Runs a command to its end; `None` where it fails or hangs.
///
/// With `orphans`, the CPU time of processes that it left and that have ended counts too. Not for
/// `kill`: what it ends has lived before.
pub fn measure(mut command: Command, orphans: bool) -> Option<Sample> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    reap();
    let cpu = children();
    let begin = Instant::now();
    let mut child = command.spawn().ok()?;
    let ended = process::ended_within(child.id(), limit());
    let wall = begin.elapsed();
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    if orphans {
        reap();
    }
    let cpu = children().saturating_sub(cpu);
    (ended && status.success()).then_some(Sample { wall, cpu })
}

/// Makes the kernel's cgroup lock hot: moves a process of its own between two cgroups.
#[derive(Debug)]
pub struct Warmer {
    dummy: std::process::Child,
    procs: Option<PathBuf>,
    path: String,
}

impl Warmer {
    /// Starts the process to be moved.
    pub fn new() -> Self {
        let path = format!("/knarr-bench-warm-{}", std::process::id());
        let procs = cgroup::hierarchies().into_iter().find_map(|hierarchy| {
            let dir = hierarchy.join(path.trim_start_matches('/'));
            if hierarchy.ends_with("cpuset") || fs::create_dir(&dir).is_err() {
                return None;
            }
            Some(dir.join("cgroup.procs"))
        });
        if procs.is_none() {
            println!("no cgroup can be made: there are no hot figures, all are cold");
        }
        let dummy = Command::new("/bin/sleep").arg("100000").spawn().unwrap();
        Self { dummy, procs, path }
    }

    /// Brings the lock into the wanted state.
    pub fn prepare(&self, hot: bool) {
        if !hot {
            std::thread::sleep(REST);
        } else if let Some(procs) = &self.procs {
            // Twice: the first write may have been a cold one, and takes long itself.
            for _ in 0..2 {
                let _ = fs::write(procs, self.dummy.id().to_string());
            }
        }
    }
}

impl Drop for Warmer {
    fn drop(&mut self) {
        let _ = self.dummy.kill();
        let _ = self.dummy.wait();
        cgroup::remove(&self.path);
    }
}
