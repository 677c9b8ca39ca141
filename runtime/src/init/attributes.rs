//! What a process of a container has of its own: the part that create and exec share.
//!
//! [`Attributes::plan`] turns the configuration into typed values before anything
//! exists. The process then takes them on in this order:
//!
//! 1. [`Attributes::apply_privileged`]: what needs the runtime's privileges, or
//!    files of /proc that the container's user may not write;
//! 2. [`Attributes::become_user`]: groups, user and capabilities, from the bounding set,
//!    which needs CAP_SETPCAP, to the ambient set, which needs the others; and the filter;
//! 3. [`Attributes::execute`].

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::console::{self, Size, Terminal};
use crate::error::{Context, Result};
use crate::init::channel::{Channel, Message};
use crate::notify::{self, Inherited};
use crate::process::capabilities::{self, Capabilities, Held};
use crate::process::identity::{self, Identity};
use crate::process::io_priority::{self, IoPriority};
use crate::process::lsm::{self, Labels};
use crate::process::memory_policy::{self, MemoryPolicy};
use crate::process::personality::{self, Personality};
use crate::process::procfs::ProcFs;
use crate::process::program::{self, Program};
use crate::process::rlimits::{self, Limit};
use crate::process::scheduler::{self, Scheduler};
use crate::process::{keyring, user};
use crate::rootfs::{Leaf, Links, RootFd};
use crate::seccomp::Program as Filter;
use crate::spec::config::Process;
use crate::spec::linux;
use crate::sys::exec;

/// A process as it shall be.
pub(crate) struct Attributes<'a> {
    /// The terminal's size, where it has a terminal.
    pub terminal: Option<Option<Size>>,
    /// Whether no_new_privs is set.
    pub no_new_privileges: bool,
    program: Program,
    cwd: &'a str,
    make_cwd: bool,
    identity: Identity,
    capabilities: Capabilities,
    rlimits: Vec<Limit>,
    scheduler: Option<Scheduler>,
    io_priority: Option<IoPriority>,
    memory_policy: Option<MemoryPolicy>,
    personality: Option<Personality>,
    labels: Labels,
    session_keyring: Option<&'a str>,
    /// See [`Surroundings::reachable`].
    pub reachable: bool,
    inherited: Inherited,
}

/// What is not in the configuration's `process`.
pub(crate) struct Surroundings<'a> {
    /// Id of the container whose session keyring is joined; the caller's stays where absent.
    pub session_keyring: Option<&'a str>,
    /// Whether a working directory that is missing is made.
    pub make_cwd: bool,
    /// How many descriptors from 3 + LISTEN_FDS on are inherited.
    pub preserve_fds: u32,
    /// The caller's groups stay (annotation `run.oci.keep_original_groups`).
    pub keep_groups: bool,
    /// Whether the process lets a runtime without privileges look into it until execve.
    pub reachable: bool,
    /// `linux.memoryPolicy`.
    pub memory_policy: Option<&'a linux::MemoryPolicy<'a>>,
    /// `linux.personality`.
    pub personality: Option<&'a linux::Personality<'a>>,
}

impl<'a> Attributes<'a> {
    /// Reads the configuration of a process; the texts are warnings.
    ///
    /// # Errors
    /// `InvalidConfig` with the field, `Unsupported` for what the host lacks.
    pub fn plan(
        process: &'a Process<'a>,
        around: &Surroundings<'a>,
        procfs: &ProcFs,
    ) -> Result<(Attributes<'a>, Vec<String>)> {
        let (capabilities, warnings) = capabilities::plan(process.capabilities.as_ref());
        let mut identity = identity::plan(&process.user)?;
        identity.keep_groups = around.keep_groups;
        let mut labels = lsm::plan(process)?;
        if !labels.is_empty() {
            labels.check_host(procfs)?;
        }
        let program = program::plan(process)?;
        let listen_pid = variable("LISTEN_PID");
        let inherited = notify::inherited(
            variable("LISTEN_FDS").as_deref(),
            listen_pid.as_deref(),
            if listen_pid.is_some() { own_pid() } else { 0 },
            around.preserve_fds,
        )?;
        let size = process.console_size.map(console::plan);
        let attributes = Attributes {
            terminal: if process.terminal {
                Some(size.transpose()?)
            } else {
                None
            },
            no_new_privileges: process.no_new_privileges,
            program,
            cwd: if process.cwd.is_empty() {
                "/"
            } else {
                &process.cwd
            },
            make_cwd: around.make_cwd,
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
            memory_policy: around.memory_policy.map(memory_policy::plan).transpose()?,
            personality: around.personality.map(personality::plan).transpose()?,
            labels,
            session_keyring: around.session_keyring,
            reachable: around.reachable,
            inherited,
        };
        Ok((attributes, warnings))
    }

    /// Makes the terminal, in the container's devpts, and its controlling process of the caller.
    pub fn take_terminal(&self, root: &RootFd, channel: &Channel) -> Result<Option<OwnedFd>> {
        let Some(size) = self.terminal else {
            return Ok(None);
        };
        let devpts = root
            .resolve("/dev/pts", Links::Follow)
            .context(|| "process.terminal: open(/dev/pts)")?;
        let Terminal { master, slave } = Terminal::open(devpts.as_fd(), size)?;
        channel.send(&Message::Console(master))?;
        console::attach(&slave)?;
        Ok(Some(slave))
    }

    /// What needs the privileges of the runtime.
    pub fn apply_privileged(&self, procfs: &ProcFs) -> Result<()> {
        self.labels.apply_to_keys(procfs)?;
        if let Some(container) = self.session_keyring {
            keyring::join(container)?;
        }
        if let Some(scheduler) = &self.scheduler {
            scheduler.apply()?;
        }
        if let Some(priority) = self.io_priority {
            priority.apply()?;
        }
        if let Some(policy) = &self.memory_policy {
            policy.apply()?;
        }
        // Before the filter: a profile may well forbid personality(2).
        if let Some(personality) = self.personality {
            personality.apply()?;
        }
        // Late, so that no limit is in the way of the set-up.
        rlimits::apply(&self.rlimits)?;
        self.labels.apply(procfs)?;
        if self.no_new_privileges {
            identity::set_no_new_privileges()?;
        }
        Ok(())
    }

    /// Becomes the user, enters the working directory and finds the program; then loads `filter`.
    ///
    /// Before that it closes what is left of the runtime's descriptors, but those in `keep`, which
    /// execve closes: a program named `/proc/self/fd/N/...` could start from them, and
    /// a container that waits to be started has no business with them (CVE-2024-21626).
    ///
    /// The filter comes last, but for giving up the capability that loads it: whatever else had to
    /// be done after it would have to be allowed by every profile.
    pub fn become_user(
        &self,
        root: RootFd,
        procfs: &ProcFs,
        filter: Option<&Filter>,
        channel: &Channel,
        keep: &[BorrowedFd<'_>],
    ) -> Result<CString> {
        let mut capabilities = self.capabilities;
        let held = Held::current(&capabilities)?;
        for warning in capabilities.limit_to(held) {
            channel.send(&Message::Warning(warning))?;
        }
        self.identity.own_stdio(&root, procfs)?;
        // As root, for whom most directories are open; and once more as the user for one on a
        // file system that shuts root out.
        let entered = self.enter_cwd(&root);
        capabilities.drop_bounding()?;
        // With no_new_privs everybody may load one.
        let spare = match filter {
            Some(_) if !self.no_new_privileges => held.permitted & capabilities::SYS_ADMIN,
            _ => 0,
        };
        capabilities.keep_across_setuid(self.identity.uid, spare)?;
        self.identity.apply()?;
        match entered {
            Err(error) if error.errno() == Some(Errno::ACCESS) => self.enter_cwd(&root)?,
            other => other?,
        }
        capabilities.apply(spare)?;
        fault!("init.credentials");
        let path = self.program.find()?;
        exec::restore_signals();
        // With all others, in one call.
        std::mem::forget(root);
        self.inherited.close_others(keep)?;
        if self.reachable {
            // After the ids, whose change takes it back; before the filter, which may forbid it.
            set_dumpable_behavior(DumpableBehavior::Dumpable)
                .context(|| "prctl(PR_SET_DUMPABLE, 1)")?;
        }
        fault!("init.program");
        let Some(filter) = filter else {
            return Ok(path);
        };
        if spare != 0 {
            capabilities.raise_spare(spare)?;
        }
        let listener = filter.load()?;
        fault!("init.seccomp");
        if spare != 0 {
            capabilities.drop_spare()?;
        }
        if let Some(listener) = listener {
            channel.send(&Message::Notify(listener.as_raw_fd()))?;
            channel.wait_for_go()?;
        }
        Ok(path)
    }

    /// Enters the working directory. It is opened below the root and without magic links:
    /// `/proc/self/fd/N` could lead out of the container through a descriptor of the
    /// runtime's (CVE-2024-21626).
    fn enter_cwd(&self, root: &RootFd) -> Result<()> {
        if self.cwd == "/" {
            return rustix::process::fchdir(root).context(|| "process.cwd: fchdir(/)");
        }
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        let dir = if self.make_cwd {
            root.make(self.cwd, Links::Follow, Leaf::Directory, mode)
                .map(|found| found.fd)
        } else {
            root.resolve(self.cwd, Links::Follow)
                .context(|| "openat2()")
        };
        let dir = dir.context(|| format!("process.cwd: {}", self.cwd))?;
        rustix::process::fchdir(&dir).context(|| format!("process.cwd: fchdir({})", self.cwd))?;
        root.done(dir);
        Ok(())
    }

    /// Adds what only the process itself knows: HOME where the configuration has none, the user's
    /// home directory in the container; and what it inherits of a service manager, with the pid
    /// that sd_listen_fds(3) compares.
    pub fn complete_environment(&mut self, root: &RootFd) {
        if self.inherited.has_variables() {
            let names = variable("LISTEN_FDNAMES");
            for (name, value) in self.inherited.variables(own_pid(), names.as_deref()) {
                self.program.set_variable(name, &value);
            }
        }
        user::set_home(&mut self.program, root, self.identity.uid);
    }

    /// Executes the program.
    pub fn execute(&self, path: &CString) -> Result<Infallible> {
        Err(self.program.exec(path))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn own_pid() -> u32 {
    rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}
