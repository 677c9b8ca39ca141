//! What a process of a container has of its own: the part that create and exec share.
//!
//! [`Attributes::plan`] turns the configuration into typed values before anything
//! exists. The process then takes them on in three calls, in this order:
//!
//! 1. [`Attributes::apply_privileged`]: what needs the runtime's privileges, or
//!    files of /proc that the container's user may not write;
//! 2. [`Attributes::apply_credentials`]: groups, user and capabilities, from the
//!    bounding set, which needs CAP_SETPCAP, to the ambient set, which needs the others;
//! 3. [`Attributes::execute`].

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::BorrowedFd;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::init::channel::{Channel, Message};
use crate::process::capabilities::{self, Capabilities, Held};
use crate::process::identity::{self, Identity};
use crate::process::io_priority::IoPriority;
use crate::process::memory_policy::MemoryPolicy;
use crate::process::personality::Personality;
use crate::process::procfs::ProcFs;
use crate::process::rlimits::{self, Limit};
use crate::process::scheduler::Scheduler;
use crate::process::{
    io_priority, keyring, lsm, memory_policy, oom, personality, program, scheduler, user,
};
use crate::rootfs::{Leaf, Links, RootFd};
use crate::spec::Text;
use crate::spec::config::{ConsoleSize, Process};
use crate::spec::linux::Linux;
use crate::sys::process as sys;

/// A process as it shall be.
pub(crate) struct Attributes<'a> {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The terminal's size.
    pub console_size: Option<ConsoleSize>,
    /// Whether no_new_privs is set.
    pub no_new_privileges: bool,
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: &'a str,
    has_home: bool,
    identity: Identity,
    capabilities: Capabilities,
    rlimits: Vec<Limit>,
    scheduler: Option<Scheduler>,
    io_priority: Option<IoPriority>,
    memory_policy: Option<MemoryPolicy>,
    personality: Option<Personality>,
    oom_score_adj: Option<i32>,
    apparmor: &'a str,
    selinux: &'a str,
    new_keyring: Option<&'a str>,
    preserve_fds: u32,
}

/// What is not in the configuration's `process`.
pub(crate) struct Surroundings<'a> {
    /// Name of the session keyring to make; none is made where absent.
    pub new_keyring: Option<&'a str>,
    /// How many descriptors from 3 + LISTEN_FDS on are inherited.
    pub preserve_fds: u32,
    /// The caller's groups stay (`run.oci.keep_original_groups`).
    pub keep_groups: bool,
}

impl<'a> Attributes<'a> {
    /// Reads the configuration of a process; the texts are warnings.
    ///
    /// # Errors
    /// `InvalidConfig` with the field.
    pub fn plan(
        process: &'a Process<'a>,
        linux: Option<&'a Linux<'a>>,
        around: &Surroundings<'a>,
    ) -> Result<(Attributes<'a>, Vec<String>)> {
        let (capabilities, warnings) = capabilities::plan(process.capabilities.as_ref());
        let mut identity = identity::plan(&process.user)?;
        identity.keep_groups = around.keep_groups;
        let mut env = c_strings("process.env", &process.env)?;
        let listen = listen_fds();
        if listen > 0 {
            env.push(c_string("LISTEN_FDS", &format!("LISTEN_FDS={listen}"))?);
            // The program is pid 1 where it has a pid namespace of its own, and that is
            // what a program that checks it expects from runc, too.
            env.push(c_string("LISTEN_PID", "LISTEN_PID=1")?);
        }
        let attributes = Attributes {
            terminal: process.terminal,
            console_size: process.console_size,
            no_new_privileges: process.no_new_privileges,
            args: c_strings("process.args", &process.args)?,
            has_home: process
                .env
                .iter()
                .any(|variable| variable.starts_with("HOME=")),
            env,
            cwd: if process.cwd.is_empty() {
                "/"
            } else {
                &process.cwd
            },
            identity,
            capabilities,
            rlimits: rlimits::plan(&process.rlimits)?,
            scheduler: process
                .scheduler
                .as_ref()
                .map(scheduler::plan)
                .transpose()?,
            io_priority: process
                .io_priority
                .as_ref()
                .map(io_priority::plan)
                .transpose()?,
            memory_policy: linux
                .and_then(|linux| linux.memory_policy.as_ref())
                .map(memory_policy::plan)
                .transpose()?,
            personality: linux
                .and_then(|linux| linux.personality.as_ref())
                .map(personality::plan)
                .transpose()?,
            oom_score_adj: process.oom_score_adj,
            apparmor: &process.apparmor_profile,
            selinux: &process.selinux_label,
            new_keyring: around.new_keyring,
            preserve_fds: around.preserve_fds + listen,
        };
        Ok((attributes, warnings))
    }

    /// What needs the privileges of the runtime.
    pub fn apply_privileged(&self, procfs: &ProcFs) -> Result<()> {
        if let Some(name) = self.new_keyring {
            keyring::join(name)?;
        }
        if let Some(score) = self.oom_score_adj {
            oom::apply(score, procfs)?;
        }
        if let Some(scheduler) = &self.scheduler {
            scheduler.apply()?;
        }
        if let Some(priority) = &self.io_priority {
            priority.apply()?;
        }
        if let Some(policy) = &self.memory_policy {
            policy.apply()?;
        }
        // Before the filter: a profile may well forbid personality(2).
        if let Some(personality) = &self.personality {
            personality.apply()?;
        }
        // Late, so that no limit is in the way of the set-up.
        rlimits::apply(&self.rlimits)?;
        lsm::apply(self.apparmor, self.selinux, procfs)?;
        if self.no_new_privileges {
            identity::set_no_new_privileges()?;
        }
        Ok(())
    }

    /// Becomes the user.
    pub fn apply_credentials(&self, root: &RootFd, channel: &Channel) -> Result<()> {
        let mut capabilities = self.capabilities;
        for warning in capabilities.limit_to(Held::current(&capabilities)?) {
            channel.send(&Message::Warning(warning))?;
        }
        self.identity.own_stdio()?;
        // As root, for whom most directories are open; and once more as the user for one on a
        // file system that shuts root out.
        let entered = self.enter_cwd(root);
        capabilities.drop_bounding()?;
        capabilities.keep_across_setuid(self.identity.uid)?;
        self.identity.apply()?;
        match entered {
            Err(error) if error.errno() == Some(Errno::ACCESS) => self.enter_cwd(root)?,
            other => other?,
        }
        capabilities.apply()
    }

    /// Enters the working directory, which is made where it is missing. It is opened below the
    /// root and without magic links: `/proc/self/fd/N` could lead out of the container
    /// through a descriptor of the runtime's (CVE-2024-21626).
    fn enter_cwd(&self, root: &RootFd) -> Result<()> {
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        let dir = root
            .make(self.cwd, Links::Follow, Leaf::Directory, mode)
            .context(|| format!("process.cwd: {}", self.cwd))?
            .fd;
        rustix::process::fchdir(&dir).context(|| format!("process.cwd: fchdir({})", self.cwd))
    }

    /// Adds HOME where the configuration has none: the user's home directory in the container.
    pub fn complete_environment(&mut self, root: &RootFd) -> Result<()> {
        if self.has_home {
            return Ok(());
        }
        let home = user::home(root, self.identity.uid);
        self.env.push(c_string("HOME", &format!("HOME={home}"))?);
        Ok(())
    }

    /// Looks the program up as execvp(3) does, so that a missing one is an error of create.
    pub fn find_program(&self) -> Result<CString> {
        program::find(&self.args, &self.env)
    }

    /// Closes what is left of the runtime's descriptors, but those in `keep`, which execve closes.
    /// A program named `/proc/self/fd/N/...` could start from them.
    pub fn close_descriptors(&self, keep: &[BorrowedFd<'_>]) -> Result<()> {
        sys::close_from_except(3 + self.preserve_fds, keep);
        sys::inherit(self.preserve_fds).context(|| {
            format!(
                "--preserve-fds: descriptors 3 to {} must be open",
                2 + self.preserve_fds
            )
        })
    }

    /// Executes the program.
    pub fn execute(&self, program: &CString) -> Result<Infallible> {
        sys::unblock_signals();
        let errno = sys::execve(program, &self.args, &self.env);
        Err(program::exec_error(program, errno))
    }
}

/// Descriptors that a socket-activating manager passes to the container. sd_listen_fds(3).
fn listen_fds() -> u32 {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    match (std::env::var("LISTEN_PID"), std::env::var("LISTEN_FDS")) {
        (Ok(pid), Ok(count)) if pid == own => count.parse().unwrap_or(0),
        _ => 0,
    }
}

fn c_string(field: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::config(field, format!("{text:?} contains a zero byte")))
}

fn c_strings(field: &str, list: &[Text<'_>]) -> Result<Vec<CString>> {
    let mut strings = Vec::with_capacity(list.len() + 3);
    for (index, text) in list.iter().enumerate() {
        match CString::new(text.as_bytes()) {
            Ok(text) => strings.push(text),
            Err(_) => {
                return Err(Error::config(
                    format!("{field}[{index}]"),
                    "contains a zero byte",
                ));
            }
        }
    }
    Ok(strings)
}
