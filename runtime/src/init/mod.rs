//! The container's process, from the moment it exists until it runs the program.
//!
//! Belongs here: the order of the steps, each with its reason. Does not: how a
//! step is done. [`channel`] draws the talk with the runtime; [`attributes`]
//! holds what a process has of its own, shared by create and exec.
//!
//! ```text
//!  1 own the descriptors      all close on exec: nothing of the host leaks (CVE-2024-21626)
//!  2 not dumpable             nobody in a joined pid namespace may look into us (CVE-2016-9962)
//!  3 user namespace, ids      before anything that needs the privileges of its root
//!  4 own session              the caller's terminal must not reach the container
//!  5 network, names           need nothing but their namespaces
//!  6 mounts                   in the order of the configuration; the cgroup namespace as late as
//!                             possible, the runtime moves us into our cgroup meanwhile
//!  7 hooks of the runtime     namespaces and mounts are there, the root is still the host's
//!  8 createContainer hooks    in here; their programs are found in the host's tree
//!  9 the new root             from here on no path of the host exists
//! 10 sysctls, read-only and   after the last mount, and through descriptors opened before step 6,
//!    masked paths             which no mount of the container can have replaced (CVE-2019-16884)
//! 11 attributes               see `attributes`: credentials, and the filter that needs a privilege
//! 12 ready                    the runtime stores the state; from here on `start` may come
//! 13 gate                     waits to be started
//! 14 startContainer hooks     in here, right before the program
//! 15 seccomp, exec            with no_new_privs the filter comes as late as can be
//! ```

pub(crate) mod attributes;
pub(crate) mod channel;

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal, setsid,
};

use crate::container::record::Record;
use crate::container::state::Status;
use crate::error::{Context, Error, Kind, Result};
use crate::namespaces::{Namespaces, become_root};
use crate::notify::Inherited;
use crate::process::oom::OomScoreAdj;
use crate::process::procfs::ProcFs;
use crate::process::signals;
use crate::process::sysctl::{self, Sysctl};
use crate::rootfs::{self, HostSources, RootfsPlan};
use crate::seccomp::Program;
use crate::spec::Spec;
use crate::sys::clone::{self, flags};
use crate::sys::fds;
use crate::sys::process as sys;
use crate::{hooks, network};

use attributes::Attributes;
use channel::{Channel, Message};

/// All that init needs: plain data and descriptors, made before it exists.
pub(crate) struct InitPlan<'a> {
    pub spec: &'a Spec<'a>,
    pub record: &'a Record,
    pub namespaces: &'a Namespaces,
    pub rootfs: &'a RootfsPlan<'a>,
    pub sources: HostSources,
    /// Absent where the configuration has no process: such a container only waits.
    pub attributes: Option<Attributes<'a>>,
    pub seccomp: Option<&'a Program>,
    pub oom_score_adj: Option<OomScoreAdj>,
    pub sysctls: &'a [Sysctl],
    pub procfs: &'a ProcFs,
    pub no_pivot: bool,
    pub gate: &'a Gate,
}

/// What init writes right before it executes the program.
pub(crate) const EXECUTING: u8 = b'X';

/// Where init waits to be started and tells how that went.
#[derive(Debug)]
pub(crate) enum Gate {
    /// Two fifos in the state directory, for a later `start`.
    Fifos {
        /// Gets one byte when init shall go on.
        start: OwnedFd,
        /// Gets init's report.
        result: OwnedFd,
    },
    /// The set-up socket: the runtime itself goes on to start the container.
    Channel,
}

/// Runs init; comes back never.
pub(crate) fn run(plan: InitPlan<'_>, channel: Channel) -> ! {
    let gate = plan.gate;
    match set_up(plan, &channel) {
        Ok(ready) => run_program(&ready, gate, channel),
        Err(error) => {
            let _ = channel.send(&Message::Failed(error));
            sys::exit_now(1)
        }
    }
}

fn set_up<'a>(plan: InitPlan<'a>, channel: &Channel) -> Result<Ready<'a>> {
    let made = plan.namespaces.make;
    fds::close_on_exec_from(3).context(|| "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)")?;
    sys::set_name(c"knarr:init");
    // While the runtime moves us.
    signals::set_to_default(plan.procfs);
    fault!("init.descriptors");
    let mut waited = false;
    if made & flags::NEWUSER != 0 {
        // The maps come first: an unprivileged runtime may write them only while we are dumpable.
        channel.wait_for_go()?;
        waited = true;
        become_root()?;
        if made & flags::NEWIPC != 0 {
            clone::unshare(flags::NEWIPC).context(|| "unshare(CLONE_NEWIPC)")?;
        }
    }
    fault!("init.user");
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    setsid().context(|| "setsid()")?;
    fault!("init.session");
    let socket = if made & flags::NEWNET != 0 {
        Some(network::loopback::up()?)
    } else {
        None
    };
    names(plan.spec)?;
    fault!("init.names");

    // The cgroup namespace shows the cgroup we are in when we make it as its root.
    let mut enter_cgroup_namespace = || {
        if !waited {
            channel.wait_for_go()?;
            waited = true;
        }
        fault!("init.placed");
        if made & flags::NEWCGROUP != 0 {
            clone::unshare(flags::NEWCGROUP).context(|| "unshare(CLONE_NEWCGROUP)")?;
        }
        Ok(())
    };
    let mut root = rootfs::prepare(plan.rootfs, plan.sources, &mut enter_cgroup_namespace)?;
    fault!("init.rootfs");
    if let Some(socket) = socket {
        root.root().done(socket);
    }

    if let Some(hooks) = &plan.spec.hooks {
        let lists = [
            &hooks.prestart,
            &hooks.create_runtime,
            &hooks.create_container,
        ];
        if lists.iter().any(|list| !list.is_empty()) {
            channel.send(&Message::Hooks)?;
            channel.wait_for_go()?;
        }
        // "the pid as the container sees it"
        let state = plan.record.hooks_state(Status::Creating, own_pid());
        let list = hooks::plan(&hooks.create_container, "hooks.createContainer")?;
        if !list.is_empty() {
            // A hook may take for ever, and then nobody else would end us after the runtime's end.
            die_with_runtime(Some(Signal::KILL))?;
            channel.check_open()?;
            hooks::run(&list, &state, &plan.record.bundle)?;
            die_with_runtime(None)?;
        }
    }
    fault!("init.hooks");
    root.pivot(plan.no_pivot)?;
    fault!("init.pivot");
    sysctl::apply(plan.sysctls, plan.procfs)?;
    fault!("init.sysctl");
    // The terminal goes where the mounts are, and before /dev may become read-only.
    let terminal = match &plan.attributes {
        Some(attributes) => attributes.take_terminal(root.root(), channel)?,
        None => None,
    };
    if let Some(slave) = &terminal {
        root.bind_console(slave.as_fd())?;
    }
    fault!("init.terminal");
    let root = root.finish()?;
    fault!("init.finish");
    let mut keep = vec![channel.as_fd()];
    if let Gate::Fifos { start, result } = plan.gate {
        keep.extend([start.as_fd(), result.as_fd()]);
    }
    let Some(mut attributes) = plan.attributes else {
        // Others may come into the container, and the rest leads to the host.
        Inherited::default().close_others(&keep)?;
        let Err(error) = wait_for_ever(plan.gate, channel);
        return Err(error);
    };
    attributes.apply_privileged(plan.procfs)?;
    fault!("init.privileged");
    // Without no_new_privs only CAP_SYS_ADMIN may load a filter, and that is about to go. A
    // listener must be handed over while there is somebody to take it.
    let early = plan
        .seccomp
        .filter(|filter| !attributes.no_new_privileges || filter.notify);
    attributes.complete_environment(&root);
    drop(terminal);
    let program = attributes.become_user(root, plan.procfs, early, channel, &keep)?;
    fault!("init.ready");
    channel.send(&Message::Ready)?;
    channel.wait_for_go()?;
    Ok(Ready {
        spec: plan.spec,
        record: plan.record,
        attributes,
        program,
        filter: if early.is_some() { None } else { plan.seccomp },
    })
}

/// Goes into the namespaces from where nobody comes back, and makes init there: what init gets of
/// its own must belong to the user namespace among them. Init is a sibling, the runtime's own child.
pub(crate) fn run_helper(plan: InitPlan<'_>, channel: Channel) -> ! {
    // While the files below /proc are the caller's; init inherits the value.
    let scored = plan.oom_score_adj.map_or(Ok(()), |score| {
        score.apply(plan.procfs, rustix::process::getpid())
    });
    let made = scored
        .and_then(|()| plan.namespaces.enter_for_good())
        .and_then(|()| {
            clone::clone_process(plan.namespaces.clone_flags() | flags::PARENT, None)
                .context(|| "linux.namespaces: clone3(CLONE_PARENT)")
        });
    let sent = match made {
        Ok(clone::Side::Child) => run(plan, channel),
        Ok(clone::Side::Parent { pidfd, .. }) => channel.send(&Message::Init(pidfd)),
        Err(error) => channel.send(&Message::Failed(error)),
    };
    sys::exit_now(i32::from(sent.is_err()))
}

/// What is left to do when init is let go.
struct Ready<'a> {
    spec: &'a Spec<'a>,
    record: &'a Record,
    attributes: Attributes<'a>,
    program: CString,
    filter: Option<&'a Program>,
}

/// Runs the hooks and then the program.
fn execute(ready: &Ready<'_>, mut executing: impl FnMut() -> Result<()>) -> Result<Infallible> {
    if let Some(hooks) = &ready.spec.hooks
        && !hooks.start_container.is_empty()
    {
        let state = ready.record.hooks_state(Status::Created, own_pid());
        hooks::run(
            &hooks::plan(&hooks.start_container, "hooks.startContainer")?,
            &state,
            ".",
        )?;
    }
    fault!("start.hooks");
    if let Some(filter) = ready.filter {
        filter.load()?;
    }
    fault!("start.seccomp");
    executing()?;
    fault!("start.executing");
    ready.attributes.execute(&ready.program)
}

fn run_program(ready: &Ready<'_>, gate: &Gate, channel: Channel) -> ! {
    let Gate::Fifos { start, result } = gate else {
        let Err(error) = execute(ready, || channel.send(&Message::Executing));
        let _ = channel.send(&Message::Failed(error));
        sys::exit_now(1)
    };
    // The runtime ends now, and whoever starts us reads the other fifo. Our end of the socket stays
    // open until execve, because close(2) too may be a call that the filter forbids.
    let executing = || {
        rustix::io::write(result, &[EXECUTING])
            .map(drop)
            .context(|| "write(result fifo)")
    };
    let Err(error) = wait_at(start).and_then(|()| execute(ready, executing));
    let _ = rustix::io::write(result, &error.to_bytes());
    sys::exit_now(1)
}

/// Waits until one byte can be read.
fn wait_at(start: &OwnedFd) -> Result<()> {
    let mut byte = [0u8; 1];
    loop {
        match rustix::io::read(start, &mut byte) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::system("read(start fifo)", errno)),
        }
    }
}

/// A container without a process: what create makes is there, and nothing will ever run in it.
fn wait_for_ever(gate: &Gate, channel: &Channel) -> Result<Infallible> {
    channel.send(&Message::Ready)?;
    channel.wait_for_go()?;
    if let Gate::Fifos { start, .. } = gate {
        loop {
            wait_at(start)?;
        }
    }
    Err(Error::new(
        Kind::WrongState,
        "cannot start a container whose configuration has no process",
    ))
}

fn die_with_runtime(signal: Option<Signal>) -> Result<()> {
    set_parent_process_death_signal(signal).context(|| "prctl(PR_SET_PDEATHSIG)")
}

fn names(spec: &Spec<'_>) -> Result<()> {
    if !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .context(|| format!("hostname: sethostname({:?})", spec.hostname))?;
    }
    if !spec.domainname.is_empty() {
        rustix::system::setdomainname(spec.domainname.as_bytes())
            .context(|| format!("domainname: setdomainname({:?})", spec.domainname))?;
    }
    Ok(())
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}
