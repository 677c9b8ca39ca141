//! Checkpoint and restore: what callers choose, and whether criu works here.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Container, CreateOptions, RunOptions};
use crate::error::{Error, Kind, Result, errno_text};

/// What criu does with cgroups (criu(8), `--manage-cgroups`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Make missing ones and restore the properties of those that were made.
    Soft,
    /// Restore all properties, also of those that exist.
    Full,
    /// Fail where one exists already.
    Strict,
    /// Do nothing.
    Ignore,
}

/// How criu keeps the network from the processes (criu(8), `--network-lock`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkLock {
    /// Rules of iptables.
    Iptables,
    /// Rules of nftables.
    Nftables,
    /// Not at all.
    Skip,
}

/// What checkpoint and restore both tell criu.
#[derive(Debug, Clone, Default)]
pub struct CriuOptions {
    /// Directory of the images.
    pub image_path: PathBuf,
    /// Directory of work files and logs; the container's own where absent.
    pub work_path: Option<PathBuf>,
    /// Allow open TCP connections.
    pub tcp_established: bool,
    /// Allow Unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Allow the session of a shell.
    pub shell_job: bool,
    /// Allow file locks.
    pub file_locks: bool,
    /// Move pages only when they are used.
    pub lazy_pages: bool,
    /// Remove pages from older images once they are in newer ones.
    pub auto_dedup: bool,
    /// Make the network namespace but leave its contents to others.
    pub empty_network: bool,
    /// What to do with cgroups; soft where absent.
    pub cgroup_mode: Option<CgroupMode>,
    /// How to lock the network; criu's choice where absent.
    pub network_lock: Option<NetworkLock>,
}

/// Options of checkpoint.
#[derive(Debug, Clone, Default)]
pub struct CheckpointOptions {
    /// What criu is told.
    pub criu: CriuOptions,
    /// Directory of an earlier dump, relative to the images.
    pub parent_path: Option<PathBuf>,
    /// Let the container run on.
    pub leave_running: bool,
    /// Dump memory only; the container runs on.
    pub pre_dump: bool,
    /// Leave out TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Link open files without a name back.
    pub link_remap: bool,
    /// Descriptor of the caller that gets a zero byte when lazy pages are ready.
    pub status_fd: Option<i32>,
    /// Address and port of a server that takes the pages.
    pub page_server: Option<(String, u16)>,
}

/// Options of restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// What criu is told.
    pub criu: CriuOptions,
    /// The container to make.
    pub create: CreateOptions,
    /// How to treat it when it runs.
    pub run: RunOptions,
    /// Restore TCP connections as closed.
    pub tcp_close: bool,
    /// Security profile, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// Security context of the mounts.
    pub lsm_mount_context: Option<String>,
}

/// Whether criu is installed and works with this kernel.
///
/// # Errors
/// `Unsupported`, with what criu said.
pub fn probe() -> Result<()> {
    let output = Command::new("criu")
        .arg("check")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Error::unsupported(
                "checkpoint and restore",
                format!(
                    "criu cannot be run, install it: {}",
                    error
                        .raw_os_error()
                        .map_or_else(|| error.to_string(), errno_text)
                ),
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no reason given");
    Err(Error::unsupported(
        "checkpoint and restore",
        format!(
            "criu does not work here (criu check: {}): {}",
            output.status,
            reason.trim()
        ),
    ))
}

impl Container {
    /// Saves the state of a running container.
    ///
    /// # Errors
    /// `WrongState`, `Unsupported` where criu does not work, and what criu fails with.
    pub fn checkpoint(&self, _options: &CheckpointOptions) -> Result<()> {
        probe()?;
        Err(Error::new(Kind::Unsupported, "checkpoint: not built yet"))
    }

    /// Makes a container from images. Returns the exit code of the process, 0 when detached.
    ///
    /// # Errors
    /// As [`Container::create`], and what criu fails with.
    pub fn restore(_root: &std::path::Path, _options: &RestoreOptions) -> Result<i32> {
        probe()?;
        Err(Error::new(Kind::Unsupported, "restore: not built yet"))
    }
}
