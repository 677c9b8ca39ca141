//! Global flags: what they mean together, and the root directory they lead to.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use knarr_runtime::cgroup::CgroupDriver;
use knarr_runtime::error::{Context, Error, Kind, Result};

use super::definition::flags;
use super::log::{Level, Log, is_json};
use super::parse::{Matches, Order, boolean, parse};

/// Where state is kept by default. Also under the name of runc: two runtimes
/// that read each other's directory would find containers they cannot handle.
const DEFAULT_ROOT: &str = "/run/knarr";

/// Inode of the first user namespace (PROC_USER_INIT_INO). Its id map proves nothing:
/// a nested one may map all ids as well.
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// What the global flags say.
#[derive(Debug, Default)]
pub struct Globals {
    /// Who manages cgroups.
    pub cgroup: CgroupDriver,
    /// `--rootless`, `None` for auto.
    pub rootless: Option<bool>,
    /// Where messages go.
    pub log: Log,
    root: Option<PathBuf>,
}

/// What to do after the global flags.
#[derive(Debug)]
pub enum Next {
    /// Run the command that the remaining arguments name.
    Command(usize),
    /// Print help.
    Help,
    /// Print the version.
    Version,
}

fn invalid(message: String) -> Error {
    Error::new(Kind::InvalidArgument, message)
}

impl Globals {
    /// Reads the global flags; the log is set up as far as they could be read, also on an error.
    ///
    /// # Errors
    /// Unknown flags, wrong values, a log that cannot be opened.
    pub fn read(&mut self, args: &[OsString]) -> Result<Next> {
        let mut matches = Matches::default();
        let parsed = parse(&flags::GLOBALS, Order::FlagsFirst, args, &mut matches);
        // The log first, so that it gets the errors of everything else.
        let format = matches.text(&flags::LOG_FORMAT).unwrap_or("text");
        self.log.json = format == "json";
        if let Some(target) = matches.path(&flags::LOG) {
            self.log.open(&target)?;
        }
        let used = parsed?;
        is_json(format)?;
        if let Some(level) = matches.text(&flags::LOG_LEVEL) {
            self.log.level = Some(Level::from_name(level).ok_or_else(|| {
                invalid(format!(
                    "invalid log-level: {level}; use debug, info, warning or error"
                ))
            })?);
        }
        if matches.on(&flags::DEBUG) {
            self.log.level = Some(Level::Debug);
        }
        if matches.on(&flags::HELP) {
            return Ok(Next::Help);
        }
        if matches.on(&flags::VERSION) || matches.on(&flags::VERSION_CAPITAL) {
            return Ok(Next::Version);
        }
        self.cgroup = match matches.text(&flags::CGROUP_MANAGER) {
            None | Some("" | "cgroupfs") => CgroupDriver::Cgroupfs,
            Some("systemd") => CgroupDriver::Systemd,
            Some("disabled") => CgroupDriver::Disabled,
            Some(other) => {
                return Err(invalid(format!(
                    "invalid cgroup-manager: {other}; use cgroupfs, systemd or disabled"
                )));
            }
        };
        if matches.on(&flags::SYSTEMD_CGROUP) {
            self.cgroup = CgroupDriver::Systemd;
        }
        self.rootless = match matches.text(&flags::ROOTLESS) {
            None | Some("" | "auto") => None,
            Some(text) => Some(boolean(text).ok_or_else(|| {
                invalid(format!("invalid rootless: {text}; use true, false or auto"))
            })?),
        };
        if matches.has(&flags::ROOT) {
            self.root = Some(chosen_root(matches.path(&flags::ROOT))?);
        }
        Ok(Next::Command(used))
    }

    /// The directory that holds the state of containers.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.clone(),
            None => runtime_dir().unwrap_or_else(|| DEFAULT_ROOT.into()),
        }
    }

    /// The same directory for a command that makes a container in it.
    ///
    /// # Errors
    /// The directory below `$XDG_RUNTIME_DIR` cannot be made.
    pub fn root_for_create(&self) -> Result<PathBuf> {
        if self.root.is_none()
            && let Some(root) = runtime_dir()
        {
            make_sticky(&root)?;
            return Ok(root);
        }
        if self.root.is_none() && !may_make(DEFAULT_ROOT) {
            return Err(invalid(format!(
                "user {} may not keep containers in {DEFAULT_ROOT}: set XDG_RUNTIME_DIR or --root to a directory you may write to",
                rustix::process::geteuid().as_raw()
            )));
        }
        Ok(self.root())
    }
}

/// Whether root, or somebody who may write to the directory.
fn may_make(directory: &str) -> bool {
    rustix::process::geteuid().is_root()
        || rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

fn chosen_root(path: Option<PathBuf>) -> Result<PathBuf> {
    let Some(path) = path else {
        return Err(invalid("--root must name a directory".into()));
    };
    let path =
        std::path::absolute(&path).context(|| format!("--root {}: getcwd", path.display()))?;
    if path.components().count() == 1 {
        return Err(invalid(
            "Option --root argument should not be set to /".into(),
        ));
    }
    Ok(path)
}

/// `$XDG_RUNTIME_DIR/knarr`, for users without privileges: those with another
/// effective id than 0, and root of a user namespace unless it really logged
/// in as root ($USER), when /run is its own.
fn runtime_dir() -> Option<PathBuf> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty())?;
    let unprivileged = !rustix::process::geteuid().is_root()
        || (std::env::var_os("USER").is_none_or(|user| user != "root") && in_user_namespace());
    unprivileged.then(|| Path::new(&directory).join("knarr"))
}

fn in_user_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/user")
        .is_ok_and(|namespace| namespace.ino() != FIRST_USER_NAMESPACE)
}

/// Makes the directory, with the sticky bit: it keeps cleaners of
/// `$XDG_RUNTIME_DIR` away (XDG Base Directory Specification).
fn make_sticky(root: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .and_then(|()| std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o1700)))
        .context(|| {
            format!(
                "make the root directory {} (set XDG_RUNTIME_DIR or --root to a directory you may write to)",
                root.display()
            )
        })
}
