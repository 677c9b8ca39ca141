//! exec: a further process in a container that runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior, setsid};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::create::{KEEP_GROUPS, died, hand_over_listener, receive_init, write_pid_file};
use super::options::ExecOptions;
use super::record::Record;
use super::run::wait_in_foreground;
use super::state::Status;
use super::store::CONFIG;
use super::{Child, Container, config_of, open_init, part_of, wait};
use crate::cgroup;
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::init::attributes::{Attributes, Surroundings};
use crate::init::channel::{self, Channel, Message};
use crate::intel_rdt::Resctrl;
use crate::namespaces::{Entered, become_root};
use crate::process::affinity::{self, Affinity, CpuSet};
use crate::process::oom::{self, OomScoreAdj};
use crate::process::procfs::ProcFs;
use crate::process::signals;
use crate::rootfs::RootFd;
use crate::seccomp::{self, Program};
use crate::spec::config::Process;
use crate::spec::linux::{MemoryPolicy, Personality};
use crate::spec::seccomp::Seccomp;
use crate::spec::validate;
use crate::sys::clone::{Side, clone_process, flags};
use crate::sys::fds::{self, Batch};
use crate::sys::process as sys;
use crate::sys::signal::Signals;
use crate::{proc, protect};

impl Container {
    /// Runs a further process in the container. Returns its exit code, 0 when detached, and warnings.
    ///
    /// # Errors
    /// `WrongState` unless the container is created or running; a program that
    /// cannot be executed. No process is left then.
    pub fn exec(&self, options: &ExecOptions<'_>) -> Result<(i32, Vec<String>)> {
        let signals = if options.detach {
            None
        } else {
            Some(Signals::block().context(|| "signalfd()")?)
        };
        let (pidfd, child) = self.spawn(options, signals.as_ref())?;
        let code = match &signals {
            Some(signals) => wait_in_foreground(pidfd.as_fd(), signals, child.console.as_ref())?,
            None => 0,
        };
        let mut spent = Batch::default();
        spent.push(pidfd);
        signals
            .into_iter()
            .for_each(|signals| spent.push(signals.into()));
        Ok((code, child.warnings))
    }

    /// Runs a further process in the container for a caller that stays with it: its parent, which
    /// takes its exit status. A terminal's master is returned where no socket is named for it.
    ///
    /// # Errors
    /// As [`Container::exec`].
    pub fn exec_child(&self, options: &ExecOptions<'_>) -> Result<Child> {
        self.spawn(options, None).map(|(_, child)| child)
    }

    fn spawn(
        &self,
        options: &ExecOptions<'_>,
        signals: Option<&Signals>,
    ) -> Result<(OwnedFd, Child)> {
        protect::require()?;
        proc::require_one_thread()?;
        let (store, record) = self.open()?;
        let target = match record.ready {
            true => open_init(&record)?,
            false => None,
        };
        let Some(target) = target else {
            return Err(Error::new(
                Kind::WrongState,
                "cannot exec in a stopped container",
            ));
        };
        // Whether it has been started makes no difference.
        if !options.ignore_paused && self.manager(&record)?.is_frozen()? {
            return Err(Error::new(
                Kind::WrongState,
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        let text = store.read(CONFIG)?.unwrap_or_default();
        let stored: Stored<'_> = part_of(&self.id, &text)?;
        let linux = stored.linux.unwrap_or_default();
        let whole = match (&record.filter, linux.seccomp) {
            (None, Some(_)) => Some(config_of(&self.id, &text)?),
            _ => None,
        };
        let process = options.merge(stored.process.as_ref())?;
        let host = Host::new();
        let context = validate::Context {
            host: Some(&host),
            systemd_cgroup: false,
        };
        let findings = validate::refuse_errors(validate::validate_process(&process, &context))?;
        check_console(process.terminal, options)?;
        let profile = whole
            .as_ref()
            .and_then(|spec| spec.linux.as_ref()?.seccomp.as_ref());
        let procfs = ProcFs::open()?;
        let around = Surroundings {
            session_keyring: (!record.no_new_keyring).then_some(&self.id),
            preserve_fds: options.preserve_fds,
            make_cwd: false,
            keep_groups: record.annotations.contains_key(KEEP_GROUPS),
            // Known with the filter.
            reachable: false,
            memory_policy: linux.memory_policy.as_ref(),
            personality: linux.personality.as_ref(),
        };
        // The validation has told of the same already.
        let (attributes, _) = Attributes::plan(&process, &around, &procfs)?;
        let affinity = process
            .exec_cpu_affinity
            .as_ref()
            .map(affinity::plan)
            .transpose()?
            .unwrap_or_default();
        fault!("exec.planned");
        let mut exec = Exec {
            record: &record,
            target,
            attributes,
            affinity,
            oom_score_adj: process.oom_score_adj.map(oom::plan).transpose()?,
            profile,
            procfs,
            root: open_root(record.pid)?,
            options,
            signals,
            host: &host,
            warnings: findings.iter().map(ToString::to_string).collect(),
            in_user_namespace: false,
            wrote_pid_file: false,
        };
        let (pid, pidfd, console) = exec.spawn()?;
        let mut spent = Batch::default();
        spent.push(exec.target);
        spent.push(exec.root);
        exec.procfs.close(&mut spent);
        store.close(&mut spent);
        let child = Child {
            pid,
            console,
            warnings: exec.warnings,
        };
        Ok((pidfd, child))
    }
}

/// What an exec takes from the stored configuration; the rest, most of it, is skipped.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Stored<'a> {
    process: Option<Process<'a>>,
    linux: Option<StoredLinux<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct StoredLinux<'a> {
    memory_policy: Option<MemoryPolicy<'a>>,
    personality: Option<Personality<'a>>,
    /// Compiled in the record, but for a profile with a listener.
    seccomp: Option<IgnoredAny>,
}

/// Refuses terminals that nobody would get, and sockets that would get none.
fn check_console(terminal: bool, options: &ExecOptions<'_>) -> Result<()> {
    let why = match (terminal, &options.console_socket) {
        (true, None) if options.detach => {
            "a detached process needs --console-socket for its terminal"
        }
        (false, Some(_)) => "--console-socket: no terminal is asked for",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::InvalidArgument, why))
}

/// The root directory of init: where it is not the root of its mount namespace, joining that is not enough.
fn open_root(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    open(
        &path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("open({path})"))
}

/// All that is known before the process exists.
struct Exec<'a> {
    record: &'a Record,
    target: OwnedFd,
    attributes: Attributes<'a>,
    affinity: Affinity,
    oom_score_adj: Option<OomScoreAdj>,
    /// The profile, where the record has no filter.
    profile: Option<&'a Seccomp<'a>>,
    procfs: ProcFs,
    root: OwnedFd,
    options: &'a ExecOptions<'a>,
    /// Those that are blocked meanwhile.
    signals: Option<&'a Signals>,
    host: &'a Host,
    warnings: Vec<String>,
    /// Whether this is the process that a helper made in the user namespace.
    in_user_namespace: bool,
    wrote_pid_file: bool,
}

impl Exec<'_> {
    /// Makes the process and waits until it runs its program.
    fn spawn(&mut self) -> Result<(i32, OwnedFd, Option<OwnedFd>)> {
        let manager = cgroup::from_record(&self.record.cgroup)?;
        let init = self.record.pid.cast_unsigned();
        // The first affinity holds until the cgroup is entered, which must then be a later step.
        let into = match self.affinity.initial {
            Some(_) => None,
            None => manager.clone_into_exec(&self.options.cgroups, init)?,
        };
        let (ours, theirs) = channel::pair()?;
        fault!("exec.socket");
        let mut entered = Entered::default();
        // Without privileges only the root of the user namespace may join the others, and nobody
        // comes back from there, nor from a pid namespace whose parent belongs to somebody else: a
        // helper goes and makes the process.
        let helper = match self.host.euid() {
            0 => self.record.namespaces & flags::NEWPID != 0 && self.host.in_user_namespace(),
            _ => self.record.namespaces & flags::NEWUSER != 0,
        };
        if !helper && self.record.namespaces & flags::NEWPID != 0 {
            entered.join(flags::NEWPID, self.target.as_fd())?;
        }
        // A caller that goes on afterwards has its own CPUs again.
        let initial = self.affinity.initial.as_ref();
        let _moved = initial.map(CpuSet::apply_meanwhile).transpose()?;
        fault!("exec.join");
        let side = match clone_process(0, into.as_ref().map(AsFd::as_fd)) {
            // A full cgroup takes no further process, and is not to be got round.
            Err(Errno::AGAIN) if into.is_some() => {
                return Err(Error::system("clone3(CLONE_INTO_CGROUP)", Errno::AGAIN).context(
                    "no further process: the container has reached its linux.resources.pids.limit, or the user a limit of processes",
                ));
            }
            // The container divided its cgroup, which no process may be in any more, or the
            // kernel or the owner of the cgroups allows only a move.
            Err(_) if into.is_some() => clone_process(0, None).map(|side| (side, false)),
            side => side.map(|side| (side, into.is_some())),
        };
        let (mut pid, mut pidfd, placed) = match side {
            Ok((Side::Child, _)) => {
                protect::let_go();
                drop(ours);
                if helper {
                    self.run_helper(&theirs)
                }
                self.run(&theirs)
            }
            Ok((Side::Parent { pid, pidfd }, placed)) => (pid, pidfd, placed),
            Err(errno) => return Err(Error::system("clone3(CLONE_PIDFD)", errno)),
        };
        drop(theirs);
        // While the process gets ready, and before it may run anything of the container's: that could
        // be made to execute us, and mount_setattr(2) reaches what somebody holds open.
        protect::let_go();
        if helper {
            (pid, pidfd) = receive_init(&ours, pidfd)?;
        }
        let placed = match placed {
            true => Ok(()),
            false => manager.attach_exec(pid.cast_unsigned(), &self.options.cgroups, init),
        };
        let console = placed
            .and_then(|()| match (self.oom_score_adj, Pid::from_raw(pid)) {
                (Some(score), Some(process)) if !helper => score.apply(&self.procfs, process),
                _ => Ok(()),
            })
            .and_then(|()| self.enter_resctrl(pid))
            // The process may have ended by now, and said why.
            .map_err(|error| ours.last_word_or(error))
            .and_then(|()| {
                fault!("exec.attach");
                ours.send_go()
            })
            .and_then(|()| entered.leave())
            .and_then(|()| self.accompany(&ours, pid, pidfd.as_fd()));
        match console {
            Ok(console) => Ok((pid, pidfd, console)),
            Err(error) => {
                wait::kill_and_reap(pidfd.as_fd());
                if let (true, Some(path)) = (self.wrote_pid_file, &self.options.pid_file) {
                    let _ = std::fs::remove_file(path);
                }
                Err(error)
            }
        }
    }

    /// Puts the process into the container's resctrl group, which it would not inherit from us.
    fn enter_resctrl(&self, pid: i32) -> Result<()> {
        match (&self.record.rdt, Pid::from_raw(pid)) {
            (Some(rdt), Some(process)) => Resctrl::find(&self.procfs)?.enter(rdt, process),
            _ => Ok(()),
        }
    }

    /// Whether others are told of the process before it runs its program, which waits for that.
    fn is_announced(&self) -> bool {
        self.options.pid_file.is_some() || self.options.pidfd_socket.is_some()
    }

    /// Answers the process until it runs its program.
    fn accompany(
        &mut self,
        channel: &Channel,
        pid: i32,
        pidfd: BorrowedFd<'_>,
    ) -> Result<Option<OwnedFd>> {
        let mut kept = None;
        let mut executing = false;
        loop {
            if let (Some(signals), false) = (self.signals, executing) {
                // A container that is paused now never answers, and a signal must end that.
                channel.wait_beside(signals)?;
            }
            match channel.receive()? {
                Some(Message::Warning(text)) => self.warnings.push(text),
                Some(Message::Console(master)) => {
                    match &self.options.console_socket {
                        Some(socket) => super::create::send_console(socket, master.as_fd())?,
                        None => kept = Some(master),
                    }
                    fault!("exec.console");
                }
                Some(Message::Notify(number)) => {
                    hand_over_listener(
                        pidfd,
                        number,
                        self.profile,
                        self.record,
                        Status::Running,
                        pid,
                    )?;
                    fault!("exec.notify");
                    channel.send_go()?;
                }
                Some(Message::Ready) => {
                    self.announce(pid, pidfd)?;
                    channel.send_go()?;
                }
                Some(Message::Executing) => executing = true,
                Some(Message::Failed(error)) => return Err(error),
                Some(_) => return Err(channel::unexpected("a message that an exec does not send")),
                // execve closed it.
                None if executing => {
                    fault!("exec.started");
                    return Ok(kept);
                }
                None => return Err(died(pidfd)),
            }
        }
    }

    /// Tells others of the process.
    fn announce(&mut self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<()> {
        if let Some(socket) = &self.options.pidfd_socket {
            super::create::send_pidfd(socket, pidfd)?;
        }
        fault!("exec.pidfd");
        if let Some(path) = &self.options.pid_file {
            write_pid_file(path, pid)?;
            self.wrote_pid_file = true;
        }
        fault!("exec.pid_file");
        Ok(())
    }

    /// Goes where nobody comes back from and makes the process there, as a sibling: the runtime's child.
    fn run_helper(&mut self, channel: &Channel) -> ! {
        let sent = match self.enter_for_good() {
            Ok(Side::Child) => self.run(channel),
            Ok(Side::Parent { pidfd, .. }) => channel.send(&Message::Init(pidfd)),
            Err(error) => channel.send(&Message::Failed(error)),
        };
        sys::exit_now(i32::from(sent.is_err()))
    }

    fn enter_for_good(&mut self) -> Result<Side> {
        // While the files below /proc are the caller's; children inherit the value.
        if let Some(score) = self.oom_score_adj {
            score.apply(&self.procfs, rustix::process::getpid())?;
        }
        let join = |flag: u64| {
            crate::namespaces::join_those_of(self.target.as_fd(), flag)
                .context(|| format!("setns(init, {})", crate::namespaces::names(flag)))
        };
        // Root of another user namespace than the first joins the others as it is, the container's
        // user namespace last: they may belong to its own.
        if self.host.euid() != 0 {
            join(flags::NEWUSER)?;
            become_root()?;
            self.in_user_namespace = true;
        }
        if self.record.namespaces & flags::NEWPID != 0 {
            join(flags::NEWPID)?;
        }
        // Before the process can be seen in there.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        clone_process(flags::PARENT, None).context(|| "clone3(CLONE_PARENT)")
    }

    /// The new process, until it runs the program.
    fn run(&mut self, channel: &Channel) -> ! {
        let Err(error) = self.set_up(channel);
        let _ = channel.send(&Message::Failed(error));
        sys::exit_now(1)
    }

    /// The steps of init that a process needs which comes into a finished container, in the same order.
    fn set_up(&mut self, channel: &Channel) -> Result<std::convert::Infallible> {
        fds::close_on_exec_from(3).context(|| "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)")?;
        sys::set_name(c"knarr:exec");
        fault!("exec.init.descriptors");
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        setsid().context(|| "setsid()")?;
        fault!("exec.init.session");
        // While the runtime moves the process, where the kernel does not do that at birth.
        signals::set_to_default(&self.procfs);
        let filter = match &self.record.filter {
            Some(text) => Some(Program::from_text(text).ok_or_else(|| {
                Error::new(
                    Kind::State,
                    "the filter in the container's state is damaged",
                )
            })?),
            None => self.profile.map(seccomp::compile).transpose()?,
        };
        // As init of create, but only for the listener: there are others who could look in.
        self.attributes.reachable =
            self.host.euid() != 0 && filter.as_ref().is_some_and(|filter| filter.notify);
        fault!("exec.init.filter");
        // In the cgroup before the cgroup namespace is joined, and before anything is used up.
        channel.wait_for_go()?;
        if let Some(cpus) = &self.affinity.after {
            cpus.apply()?;
        }
        self.join()?;
        fault!("exec.init.join");
        let root = RootFd::from(self.root.try_clone().context(|| "dup(root)")?);
        self.attributes.take_terminal(&root, channel)?;
        fault!("exec.init.terminal");
        self.attributes.apply_privileged(&self.procfs)?;
        fault!("exec.init.privileged");
        let early = filter
            .as_ref()
            .filter(|filter| !self.attributes.no_new_privileges || filter.notify);
        self.attributes.complete_environment(&root);
        let program =
            self.attributes
                .become_user(root, &self.procfs, early, channel, &[channel.as_fd()])?;
        fault!("exec.init.program");
        if self.is_announced() {
            channel.send(&Message::Ready)?;
            channel.wait_for_go()?;
        }
        fault!("exec.init.ready");
        if let (None, Some(filter)) = (early, &filter) {
            filter.load()?;
        }
        channel.send(&Message::Executing)?;
        fault!("exec.init.executing");
        self.attributes.execute(&program)
    }

    /// Joins the namespaces of init.
    ///
    /// The user namespace comes last where we are privileged, since the others may belong to another
    /// one; where we are not, we are in it already, since only as its root may we join the others.
    fn join(&self) -> Result<()> {
        let all = self.record.namespaces & !flags::NEWPID;
        let join = |set: u64| match set {
            0 => Ok(()),
            set => crate::namespaces::join_those_of(self.target.as_fd(), set)
                .context(|| format!("setns(init, {})", crate::namespaces::names(set))),
        };
        let user = if self.in_user_namespace {
            0
        } else {
            all & flags::NEWUSER
        };
        join(all & !flags::NEWUSER)?;
        join(user)?;
        rustix::process::fchdir(&self.root).context(|| "fchdir(root of the container)")?;
        rustix::process::chroot(".").context(|| "chroot(root of the container)")?;
        if user != 0 { become_root() } else { Ok(()) }
    }
}
