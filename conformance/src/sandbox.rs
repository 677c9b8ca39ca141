//! Surroundings of its own for one test: mount, pid, cgroup, network, IPC and
//! UTS namespaces, an empty /run, a directory for temporary files, and a cgroup
//! in every hierarchy that looks like the root from inside.
//!
//! Three processes, all this program:
//!
//! ```text
//! run      makes the cgroups, starts `enter`, reads its output, removes the cgroups
//! enter    joins the cgroups, makes the namespaces, starts `init`, dies with `run`
//! init     pid 1 inside: mounts, starts the test, reaps, bounds it in time,
//!          notes what is left; its end kills whatever is still alive
//! ```

use crate::cgroup::Layout;
use crate::model::Leftovers;
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The private directory inside the sandbox.
pub const PRIVATE: &str = "/run/oci-conformance";
/// Name under which this program stands in for the runtime to lower ociVersion.
pub const WRAPPER: &str = "oci-runtime-lowered";

/// What `enter` and `init` are told; passed as JSON in one argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Hierarchies to show inside.
    pub layout: Layout,
    /// The test's directory in each hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// File for the [`Outcome`].
    pub outcome: PathBuf,
    /// Time bound.
    pub timeout: Duration,
    /// Working directory of the test.
    pub cwd: PathBuf,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The runtime under test.
    pub runtime: PathBuf,
    /// ociVersion to lower configurations to.
    pub lowered: Option<String>,
    /// A network namespace of its own. The suite wants to see two interfaces,
    /// so it gets the host's; its containers have their own.
    pub network: bool,
    /// Controllers of the unified hierarchy can be used.
    pub controllers: bool,
}

/// What `init` saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit status of the test program, or why it has none.
    pub end: End,
    /// What it left.
    pub leftovers: Leftovers,
}

/// How the test program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Exit code.
    Code(i32),
    /// Signal number.
    Signal(i32),
    /// Killed at the time bound.
    Timeout,
    /// The sandbox itself failed; its error is on standard error.
    #[default]
    Sandbox,
}

/// Starts the first of the two inner processes.
pub fn command(exe: &Path, plan: &Plan) -> Result<Command> {
    let mut command = Command::new(exe);
    command
        .arg("sandbox")
        .arg("enter")
        .arg(serde_json::to_string(plan)?);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Entry of the hidden `sandbox` command.
pub fn main(stage: &str, plan: &str) -> Result<i32> {
    let plan: Plan = serde_json::from_str(plan).context("sandbox plan")?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    match stage {
        "enter" => enter(&plan),
        "init" => init(&plan),
        other => bail!("unknown sandbox stage {other}"),
    }
}

fn enter(plan: &Plan) -> Result<i32> {
    let pid = std::process::id().to_string();
    for dir in &plan.cgroups {
        fs::write(dir.join("cgroup.procs"), &pid)
            .with_context(|| format!("join {}", dir.display()))?;
    }
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if plan.network {
        namespaces |= CloneFlags::CLONE_NEWNET;
    }
    unshare(namespaces).context("make namespaces for the test (root is needed)")?;
    // The root of the new cgroup namespace is fixed now. A v2 cgroup with
    // processes cannot hand controllers to its children: leave it.
    for (dir, hierarchy) in plan.cgroups.iter().zip(&plan.layout.hierarchies) {
        if hierarchy.v2 {
            let leaf = dir.join("supervisor");
            fs::create_dir(&leaf).with_context(|| format!("make the cgroup {}", leaf.display()))?;
            fs::write(leaf.join("cgroup.procs"), &pid)
                .with_context(|| format!("join {}", leaf.display()))?;
            if plan.controllers {
                crate::cgroup::enable_controllers(dir);
            }
        }
    }
    let exe = std::env::current_exe().context("own path")?;
    let status = Command::new(exe)
        .args(["sandbox", "init"])
        .arg(serde_json::to_string(plan)?)
        .status()
        .context("start the first process of the sandbox")?;
    Ok(status.code().unwrap_or(1))
}

fn init(plan: &Plan) -> Result<i32> {
    // Opened before the mounts can hide it.
    let outcome_file = fs::File::create(&plan.outcome)
        .with_context(|| format!("make {}", plan.outcome.display()))?;
    mounts(plan)?;
    let (bin, tmp) = (
        Path::new(PRIVATE).join("bin"),
        Path::new(PRIVATE).join("tmp"),
    );
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&tmp)?;
    let runtime = match &plan.lowered {
        None => plan.runtime.clone(),
        Some(_) => {
            let link = bin.join(WRAPPER);
            std::os::unix::fs::symlink(std::env::current_exe()?, &link)?;
            link
        }
    };
    let before_mounts = mount_points();
    let before_run = names("/run");

    let Some((program, arguments)) = plan.argv.split_first() else {
        bail!("no test program")
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&plan.cwd)
        .env("RUNTIME", &runtime)
        .env("OCI_CONFORMANCE_RUNTIME", &plan.runtime)
        .env("TMPDIR", &tmp)
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .process_group(0);
    if let Some(version) = &plan.lowered {
        command.env("OCI_CONFORMANCE_VERSION", version);
    }
    let child = command
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let end = wait_bounded(pid, plan.timeout);
    let mut leftovers = Leftovers {
        processes: processes(),
        ..Leftovers::default()
    };
    leftovers.mounts = mount_points().difference(&before_mounts).cloned().collect();
    // An empty directory that a runtime keeps for all its containers is no leftover.
    for name in names("/run").difference(&before_run) {
        files_below(&Path::new("/run").join(name), &mut leftovers.state);
    }
    let outcome = Outcome { end, leftovers };
    serde_json::to_writer(outcome_file, &outcome)?;
    Ok(0)
}

fn mounts(plan: &Plan) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("make the mounts private")?;
    let nosuid = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), nosuid, none).context("mount /proc")?;
    // A runtime may want to talk to systemd, whose sockets are in /run.
    let keep: Vec<_> = ["/run/systemd", "/run/dbus", "/run/udev"]
        .into_iter()
        .filter_map(|path| {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            Some((
                path,
                rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?,
            ))
        })
        .collect();
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("mount /run")?;
    for (path, fd) in &keep {
        fs::create_dir(path)?;
        let source = format!("/proc/self/fd/{}", fd_number(fd.as_fd()));
        mount(
            Some(source.as_str()),
            *path,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none,
        )
        .with_context(|| format!("keep {path}"))?;
    }
    if plan.layout.hierarchies.is_empty() {
        return Ok(());
    }
    let root = Path::new("/sys/fs/cgroup");
    let single = plan
        .layout
        .hierarchies
        .iter()
        .any(|h| h.mount_point == root);
    if single {
        // The kernel refuses one file system twice on the same spot.
        nix::mount::umount2(root, nix::mount::MntFlags::MNT_DETACH)
            .context("unmount /sys/fs/cgroup")?;
    } else {
        mount(Some("tmpfs"), root, Some("tmpfs"), nosuid, Some("mode=755"))
            .context("mount /sys/fs/cgroup")?;
    }
    for h in &plan.layout.hierarchies {
        if h.mount_point != root {
            fs::create_dir_all(&h.mount_point)?;
        }
        let kind = if h.v2 { "cgroup2" } else { "cgroup" };
        mount(
            Some(kind),
            &h.mount_point,
            Some(kind),
            nosuid,
            Some(h.options.as_str()),
        )
        .with_context(|| format!("mount {} on {}", kind, h.mount_point.display()))?;
    }
    if !single {
        for (link, target) in &plan.layout.links {
            std::os::unix::fs::symlink(target, link)?;
        }
    }
    Ok(())
}

fn fd_number(fd: std::os::fd::BorrowedFd<'_>) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}

/// Waits for `pid` and reaps every orphan that comes by.
fn wait_bounded(pid: Pid, timeout: Duration) -> End {
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_millis(1);
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(p, code)) if p == pid => return End::Code(code),
            Ok(WaitStatus::Signaled(p, signal, _)) if p == pid => {
                return End::Signal(signal as i32);
            }
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) => continue,
            Err(_) => return End::Sandbox,
        }
        if Instant::now() >= deadline {
            let _ = nix::sys::signal::killpg(pid, Signal::SIGKILL);
            return End::Timeout;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Command lines of all processes but this one; zombies do not count.
fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for name in names("/proc") {
        if name == "1" || !name.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let line = fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line)
            .trim_end_matches('\0')
            .replace('\0', " ");
        if !line.is_empty() {
            found.push(line);
        }
    }
    found
}

fn names(dir: &str) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn files_below(path: &Path, found: &mut Vec<String>) {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .for_each(|e| files_below(&e.path(), found)),
        Err(_) => found.push(path.display().to_string()),
    }
}

fn mount_points() -> BTreeSet<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(str::to_owned)
        .collect()
}

/// Stands in for the runtime: lowers `ociVersion` of the bundle at `create` and
/// `run`, then becomes the runtime.
pub fn wrapper_main() -> Result<i32> {
    let runtime = std::env::var_os("OCI_CONFORMANCE_RUNTIME")
        .context("OCI_CONFORMANCE_RUNTIME is not set")?;
    let version =
        std::env::var("OCI_CONFORMANCE_VERSION").context("OCI_CONFORMANCE_VERSION is not set")?;
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.iter().any(|a| a == "create" || a == "run") {
        let at = arguments.iter().position(|a| a == "--bundle" || a == "-b");
        let bundle = at
            .and_then(|i| arguments.get(i + 1))
            .map_or_else(|| PathBuf::from("."), PathBuf::from);
        // What cannot be read or parsed is left for the runtime to refuse.
        let _ = lower(&bundle.join("config.json"), &version);
    }
    let error = Command::new(runtime).args(arguments).exec();
    Err(error).context("start the runtime")
}

fn lower(path: &Path, version: &str) -> Result<()> {
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    if config.get("ociVersion").and_then(|v| v.as_str()) == Some(crate::fetch::OCI_VERSION) {
        if let Some(slot) = config.get_mut("ociVersion") {
            *slot = version.into();
        }
        fs::write(path, serde_json::to_vec_pretty(&config)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_suites_version_is_lowered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for (before, after) in [("1.3.0", "1.0.2"), ("1.0.0", "1.0.0"), ("bogus", "bogus")] {
            fs::write(&path, format!("{{\"ociVersion\":\"{before}\"}}")).unwrap();
            lower(&path, "1.0.2").unwrap();
            assert!(
                fs::read_to_string(&path)
                    .unwrap()
                    .contains(&format!("\"{after}\""))
            );
        }
    }
}
