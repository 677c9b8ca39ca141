//! What callers of the life cycle choose: plain data, no defaults hidden elsewhere.

use std::path::PathBuf;

use crate::cgroup::CgroupDriver;
use crate::error::{Error, Kind, Result};
use crate::process::user;
use crate::spec::Text;
use crate::spec::config::{Capabilities, Process};

/// Options of create and run.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The container's id: letters, digits, `_`, `+`, `-` and `.`.
    pub id: String,
    /// Directory with config.json.
    pub bundle: PathBuf,
    /// Another file than `config.json` in the bundle.
    pub config: Option<PathBuf>,
    /// Unix socket that gets the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// Unix socket that gets a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// File that gets the pid.
    pub pid_file: Option<PathBuf>,
    /// Keep the old root: chroot instead of pivot_root(2) (for a ramdisk).
    pub no_pivot: bool,
    /// Keep the session keyring of the caller.
    pub no_new_keyring: bool,
    /// How many descriptors from 3 + LISTEN_FDS on the process inherits.
    pub preserve_fds: u32,
    /// Who manages cgroups.
    pub cgroup: CgroupDriver,
    /// Whether failing to make cgroups is a warning, as for an unprivileged caller; found out where `None`.
    pub rootless: Option<bool>,
    /// Whether the caller leaves the container to itself; [`Container::create`] always does.
    ///
    /// [`Container::create`]: super::Container::create
    pub detach: bool,
}

/// Options of run beyond those of create.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Return when the program runs.
    pub detach: bool,
    /// Do not delete the container after its end.
    pub keep: bool,
    /// Do not become the reaper of orphaned descendants.
    pub no_subreaper: bool,
}

/// `--user` of exec, still as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(pub String);

/// Options of exec.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions<'a> {
    /// The process as the caller described it; the other fields override it.
    /// Where absent, the container's own process is the base, with `args` replaced.
    pub process: Option<Process<'a>>,
    /// Program and arguments; empty only with `process`.
    pub args: Vec<String>,
    /// Absolute working directory.
    pub cwd: Option<String>,
    /// Further environment, `NAME=value`.
    pub env: Vec<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// `uid[:gid]`.
    pub user: Option<User>,
    /// Further groups.
    pub additional_gids: Vec<u32>,
    /// Further capabilities, `CAP_X`.
    pub capabilities: Vec<String>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux label.
    pub process_label: Option<String>,
    /// Return when the program runs.
    pub detach: bool,
    /// File that gets the pid.
    pub pid_file: Option<PathBuf>,
    /// Unix socket that gets the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// Unix socket that gets a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 + LISTEN_FDS on the process inherits.
    pub preserve_fds: u32,
    /// Sub-cgroups to enter: `path`, or `controller,...:path` on cgroup v1.
    pub cgroups: Vec<String>,
    /// Enter a paused container; the process starts when it is resumed.
    pub ignore_paused: bool,
}

impl<'a> ExecOptions<'a> {
    /// The process to run: the one given as a whole, or the container's own with the options laid over it.
    /// What confines the container's own also confines one that is given and does not speak of it.
    ///
    /// # Errors
    /// A user that is none; a container without a process to lay them over.
    pub(crate) fn merge(&self, base: Option<&Process<'a>>) -> Result<Process<'a>> {
        if let Some(process) = &self.process {
            let mut process = process.clone();
            if let Some(base) = base {
                inherit(&mut process, base);
            }
            return Ok(process);
        }
        let Some(base) = base else {
            return Err(Error::new(
                Kind::InvalidArgument,
                "the container's configuration has no process to start from: describe all of it with --process",
            ));
        };
        let mut process = base.clone();
        process.args = self.args.iter().cloned().map(Text::from).collect();
        process.env.extend(self.env.iter().cloned().map(Text::from));
        process.terminal = self.tty;
        if let Some(cwd) = &self.cwd {
            process.cwd = Text::from(cwd.clone());
        }
        if let Some(profile) = &self.apparmor {
            process.apparmor_profile = Text::from(profile.clone());
        }
        if let Some(label) = &self.process_label {
            process.selinux_label = Text::from(label.clone());
        }
        if self.no_new_privileges {
            process.no_new_privileges = true;
        }
        if let Some(User(user)) = &self.user {
            let (uid, gid) = user::parse(user)?;
            process.user.uid = uid;
            if let Some(gid) = gid {
                process.user.gid = gid;
            }
        }
        process
            .user
            .additional_gids
            .extend_from_slice(&self.additional_gids);
        if !self.capabilities.is_empty() {
            let sets = process
                .capabilities
                .get_or_insert_with(Capabilities::default);
            // Not inheritable, and so not ambient either (CVE-2022-29162).
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.extend(self.capabilities.iter().cloned().map(Text::from));
            }
        }
        Ok(process)
    }
}

/// Fills in what `process` leaves out and runc takes from the container's own then: without its labels
/// a process would be out of the confinement that all others are in, and without its score have that
/// of the daemon that called us.
fn inherit<'a>(process: &mut Process<'a>, base: &Process<'a>) {
    for (own, others) in [
        (&mut process.apparmor_profile, &base.apparmor_profile),
        (&mut process.selinux_label, &base.selinux_label),
    ] {
        if own.is_empty() {
            own.clone_from(others);
        }
    }
    if process.capabilities.is_none() {
        process.capabilities.clone_from(&base.capabilities);
    }
    process.user.umask = process.user.umask.or(base.user.umask);
    process.oom_score_adj = process.oom_score_adj.or(base.oom_score_adj);
    if process.scheduler.is_none() {
        process.scheduler.clone_from(&base.scheduler);
    }
    if process.io_priority.is_none() {
        process.io_priority.clone_from(&base.io_priority);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(json: &'static str) -> Process<'static> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_given_process_is_confined_as_the_containers_own() {
        let base = process(
            r#"{"cwd": "/", "args": ["a"], "env": ["A=1"], "apparmorProfile": "p", "selinuxLabel": "l",
                "user": {"uid": 7, "gid": 7, "umask": 63}, "capabilities": {"bounding": ["CAP_KILL"]},
                "oomScoreAdj": 300, "scheduler": {"policy": "SCHED_BATCH"},
                "ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}"#,
        );
        let merge = |json| {
            let options = ExecOptions {
                process: Some(process(json)),
                ..ExecOptions::default()
            };
            options.merge(Some(&base)).unwrap()
        };
        let silent = merge(r#"{"cwd": "/", "args": ["b"]}"#);
        assert_eq!(&*silent.apparmor_profile, "p");
        assert_eq!(&*silent.selinux_label, "l");
        assert_eq!(silent.user.umask, Some(63));
        assert_eq!(silent.oom_score_adj, Some(300));
        assert!(silent.capabilities.is_some() && silent.scheduler.is_some());
        assert!(silent.io_priority.is_some());
        assert!(silent.user.uid == 0 && silent.env.is_empty());
        let says = merge(
            r#"{"cwd": "/", "args": ["b"], "apparmorProfile": "unconfined", "selinuxLabel": "m",
                "user": {"uid": 0, "gid": 0, "umask": 0}, "capabilities": {}, "oomScoreAdj": 0}"#,
        );
        assert_eq!(&*says.apparmor_profile, "unconfined");
        assert_eq!(&*says.selinux_label, "m");
        assert_eq!((says.user.umask, says.oom_score_adj), (Some(0), Some(0)));
        assert!(says.capabilities.unwrap().bounding.is_empty());
    }
}
