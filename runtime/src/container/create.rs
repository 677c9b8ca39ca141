//! create: from a bundle to a process that waits to be started.
//!
//! Nothing outside the state directory changes before the configuration has
//! been read, validated and turned into a [`InitPlan`]. From then on [`Undo`]
//! holds what was made, and takes it back when a step fails.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdGetfdFlags};

use super::options::CreateOptions;
use super::record::{self, Record};
use super::state::Status;
use super::store::{CONFIG, RESULT_FIFO, START_FIFO, STATE, Store};
use super::wait;
use crate::cgroup;
use crate::cgroup::CgroupDriver;
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::init::attributes::{Attributes, Surroundings};
use crate::init::channel::{self, Channel, Message};
use crate::init::{self, Gate, InitPlan};
use crate::intel_rdt::Resctrl;
use crate::namespaces::{self, Entered, Namespaces};
use crate::process::oom;
use crate::process::procfs::ProcFs;
use crate::process::sysctl::{self, OwnNamespaces};
use crate::rootfs::{self, HostSources};
use crate::seccomp::Program;
use crate::seccomp::listener::{self, ContainerProcessState};
use crate::spec::Text;
use crate::spec::config::Mount;
use crate::spec::linux::Linux;
use crate::spec::resources::Resources;
use crate::spec::seccomp::Seccomp;
use crate::spec::{self, Spec, validate};
use crate::sys::clone::{Side, clone_process, flags};
use crate::sys::fds;
use crate::{console, hooks, id_maps, intel_rdt, network, notify, proc, protect, seccomp, time};

/// The annotation by which the caller's groups stay, for volumes that only they open.
pub(super) const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// A container whose process waits at its gate.
#[derive(Debug)]
pub(super) struct Created {
    pub store: Store,
    pub record: Record,
    pub pidfd: OwnedFd,
    /// The socket to init, where it waits there and not at the fifo.
    pub channel: Channel,
    /// The terminal's master, where nobody else got it.
    pub console: Option<OwnedFd>,
    /// Where the container's word for a service manager arrives, if somebody is there to pass it on.
    pub notify: Option<notify::Listener>,
    pub warnings: Vec<String>,
}

/// What the bundle says, read once.
#[derive(Debug)]
pub(super) struct Bundle {
    pub path: PathBuf,
    pub name: String,
    pub text: Vec<u8>,
}

impl Bundle {
    /// Reads the configuration of a bundle.
    pub fn read(options: &CreateOptions) -> Result<Bundle> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, &options.bundle, flags, Mode::empty())
            .context(|| format!("bundle: open({})", options.bundle.display()))?;
        let path = absolute(&dir)?;
        let (file, name) = match &options.config {
            Some(config) => (config.clone(), config.display().to_string()),
            None => (
                PathBuf::from("config.json"),
                path.join("config.json").display().to_string(),
            ),
        };
        let at = if options.config.is_some() {
            CWD
        } else {
            dir.as_fd()
        };
        let text = spec::parse::read_file(at, &file).context(|| name.clone())?;
        Ok(Bundle { path, name, text })
    }

    /// Parses and validates the configuration; returns the warnings with it.
    pub fn spec(&self, options: &CreateOptions, host: &Host) -> Result<(Spec<'_>, Vec<String>)> {
        let spec: Spec<'_> = spec::parse::parse(&self.name, &self.text)?;
        let context = validate::Context {
            host: Some(host),
            systemd_cgroup: options.cgroup == CgroupDriver::Systemd,
        };
        let findings =
            validate::refuse_errors(validate::validate(&spec, &context)).context(|| &self.name)?;
        Ok((spec, findings.iter().map(ToString::to_string).collect()))
    }
}

/// The path of an open directory.
fn absolute(dir: &OwnedFd) -> Result<PathBuf> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
    std::fs::read_link(&link).context(|| format!("readlink({link})"))
}

const SIGKILL: i32 = 9;

/// What was made so far, to be taken back.
#[derive(Default)]
pub(super) struct Undo {
    pub cgroup: Option<Box<dyn cgroup::Manager>>,
    pub init: Option<OwnedFd>,
    pub rdt: Option<(Resctrl, intel_rdt::Made)>,
    pub devices: Option<network::devices::Moved>,
    pub pid_file: Option<PathBuf>,
}

impl Undo {
    /// Takes everything back; returns what could not be.
    pub fn undo(mut self, store: &Store) -> Vec<Error> {
        let mut left = Vec::new();
        let mut note = |result: Result<()>| left.extend(result.err());
        if let Some(devices) = self.devices.take() {
            devices
                .give_back()
                .into_iter()
                .for_each(|error| note(Err(error)));
        }
        if let Some(pidfd) = self.init.take() {
            wait::kill_and_reap(pidfd.as_fd());
        }
        if let Some((resctrl, made)) = self.rdt.take() {
            note(resctrl.undo(&made));
        }
        if let Some(mut cgroup) = self.cgroup.take() {
            note(cgroup.kill_all(SIGKILL));
            note(cgroup.delete());
        }
        if let Some(path) = self.pid_file {
            let _ = std::fs::remove_file(path);
        }
        note(store.remove());
        left
    }
}

/// Where the new process waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateKind {
    /// At a fifo, for a `start` that comes later.
    Fifos,
    /// At the socket: the caller starts it at once.
    Channel,
}

/// Creates a container.
pub(super) fn create(root: &Path, options: &CreateOptions, gate: GateKind) -> Result<Created> {
    protect::require()?;
    proc::require_one_thread()?;
    super::store::check_id(&options.id)?;
    let bundle = Bundle::read(options)?;
    fault!("create.bundle");
    let host = Host::new();
    let (mut spec, warnings) = bundle.spec(options, &host)?;
    let notify = offer_notify_socket(&mut spec, root, &options.id);
    check_console(&spec, options)?;
    let store = Store::create(root, &options.id)?;
    let mut undo = Undo::default();
    let mut builder = Builder {
        options,
        host: &host,
        bundle: &bundle,
        spec: &spec,
        store: &store,
        warnings,
        notify,
        listener: None,
        hooks_ran: false,
    };
    match builder.build(gate, &mut undo) {
        Ok(parts) => Ok(Created {
            record: parts.record,
            pidfd: parts.pidfd,
            channel: parts.channel,
            console: parts.console,
            notify: builder.listener,
            warnings: builder.warnings,
            store,
        }),
        Err((error, record)) => {
            let error = undo.undo(&store).into_iter().fold(error, Error::and_also);
            // The specification: a hook that fails ends in destroying the container, with its
            // hooks. So does what fails after hooks that succeeded: nobody else undoes their work.
            if let (true, Some(hooks)) = (builder.hooks_ran, &spec.hooks) {
                let state = record.hooks_state(Status::Stopped, 0);
                let left = hooks::plan(&hooks.poststop, "hooks.poststop")
                    .map(|hooks| hooks::run_all(&hooks, &state, &record.bundle));
                let left = left.unwrap_or_default();
                return Err(left.into_iter().fold(error, Error::and_also));
            }
            Err(error)
        }
    }
}

/// Lets the container's process reach a socket of ours where a service manager waits for its word
/// (NOTIFY_SOCKET, sd_notify(3)); `start` listens at it. Whether that is so.
fn offer_notify_socket(spec: &mut Spec<'_>, root: &Path, id: &str) -> bool {
    let Some(process) = spec
        .process
        .as_mut()
        .filter(|_| notify::host_socket().is_some())
    else {
        return false;
    };
    process.env.push(Text::from(format!(
        "NOTIFY_SOCKET={}",
        notify::INSIDE_SOCKET
    )));
    spec.mounts.push(Mount {
        destination: Text::from(notify::INSIDE_DIRECTORY),
        kind: Text::from("bind"),
        source: Text::from(
            root.join(id)
                .join(notify::DIRECTORY)
                .to_string_lossy()
                .into_owned(),
        ),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"]
            .map(Text::from)
            .into(),
        ..Mount::default()
    });
    true
}

/// Refuses terminals that nobody would get, before anything is made.
pub(super) fn check_console(spec: &Spec<'_>, options: &CreateOptions) -> Result<()> {
    let terminal = spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    let why = match (terminal, &options.console_socket) {
        (true, None) if options.detach => {
            "process.terminal: a detached container needs --console-socket for its terminal"
        }
        (false, Some(_)) => {
            "--console-socket: the configuration asks for no terminal (process.terminal)"
        }
        _ => return Ok(()),
    };
    Err(Error::new(Kind::InvalidArgument, why))
}

struct Builder<'a> {
    options: &'a CreateOptions,
    host: &'a Host,
    bundle: &'a Bundle,
    spec: &'a Spec<'a>,
    store: &'a Store,
    warnings: Vec<String>,
    /// Whether a service manager waits for word from the container.
    notify: bool,
    listener: Option<notify::Listener>,
    /// Whether the time of hooks has come: what they did is the poststop hooks' to undo.
    hooks_ran: bool,
}

struct Parts {
    record: Record,
    pidfd: OwnedFd,
    channel: Channel,
    console: Option<OwnedFd>,
}

impl Builder<'_> {
    /// Does all steps. A failure comes with the record, from which hooks get their state.
    fn build(
        &mut self,
        gate: GateKind,
        undo: &mut Undo,
    ) -> std::result::Result<Parts, (Error, Box<Record>)> {
        let mut record = record(self.options, self.host, self.bundle, self.spec);
        match self.steps(gate, undo, &mut record) {
            Ok((pidfd, channel, console)) => Ok(Parts {
                record,
                pidfd,
                channel,
                console,
            }),
            Err(error) => Err((error, Box::new(record))),
        }
    }

    fn steps(
        &mut self,
        gate: GateKind,
        undo: &mut Undo,
        record: &mut Record,
    ) -> Result<(OwnedFd, Channel, Option<OwnedFd>)> {
        let spec = self.spec;
        let default_linux = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&default_linux);
        let namespaces = Namespaces::open(linux)?;
        fault!("create.plan");
        record.namespaces = namespaces.all();
        record.private_pid = namespaces.make & flags::NEWPID != 0;
        let filter = linux.seccomp.as_ref().map(seccomp::compile).transpose()?;
        record.filter = filter.as_ref().and_then(Program::to_text);
        let mut layout = rootfs::plan(spec, &self.bundle.path)?;
        record.rootfs = layout.rootfs.display().to_string();
        let procfs = ProcFs::open()?;
        let attributes = match &spec.process {
            Some(process) => {
                let around = Surroundings {
                    session_keyring: (!self.options.no_new_keyring).then_some(&self.options.id),
                    preserve_fds: self.options.preserve_fds,
                    make_cwd: true,
                    keep_groups: spec.annotations.contains_key(&Text::from(KEEP_GROUPS)),
                    reachable: self.is_reachable(&namespaces, filter.as_ref()),
                    memory_policy: linux.memory_policy.as_ref(),
                    personality: linux.personality.as_ref(),
                };
                // The validation has told of the same already.
                let (attributes, _) = Attributes::plan(process, &around, &procfs)?;
                Some(attributes)
            }
            None => None,
        };
        // Neither hooks nor helpers get what the caller left open; what the process shall get is
        // known by now, and loses the mark again in there.
        fds::close_on_exec_from(3).context(|| "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)")?;

        let oom_score_adj = spec
            .process
            .as_ref()
            .and_then(|process| process.oom_score_adj);
        let oom_score_adj = oom_score_adj.map(oom::plan).transpose()?;
        let own = OwnNamespaces {
            ipc: namespaces.has(flags::NEWIPC),
            network: namespaces.has(flags::NEWNET),
            uts: namespaces.has(flags::NEWUTS),
            user: namespaces.has(flags::NEWUSER),
        };
        let sysctls = sysctl::plan(&linux.sysctl, own)?;
        let devices = network::devices::plan(&linux.net_devices, own.network)?;
        let rdt = linux
            .intel_rdt
            .as_ref()
            .map(|rdt| intel_rdt::plan(rdt, &self.options.id))
            .transpose()?;

        fault!("create.planned");
        let request = cgroup::Request {
            id: &self.options.id,
            cgroups_path: &linux.cgroups_path,
            driver: self.options.cgroup,
            rootless: self
                .options
                .rootless
                .unwrap_or_else(|| self.host.rootless()),
            annotations: &spec.annotations,
        };
        let mut cgroup = cgroup::manager(&request)?;
        fault!("create.cgroup.plan");
        // Stored before it is made, so that whoever finds the rest of a killed create can remove it.
        record.cgroup = cgroup.planned();
        self.store.write(STATE, &record.to_json()?)?;
        fault!("create.state");
        if self.notify {
            notify::prepare(self.store.as_fd())?;
            // The program may speak as soon as it runs.
            if gate == GateKind::Channel {
                self.listener = Some(notify::Listener::bind(self.store.as_fd())?);
            }
        }
        let gate = match gate {
            GateKind::Fifos => Gate::Fifos {
                start: self.store.make_fifo(START_FIFO)?,
                result: self.store.make_fifo(RESULT_FIFO)?,
            },
            GateKind::Channel => Gate::Channel,
        };
        fault!("create.fifos");
        let default_resources = Resources::default();
        cgroup.create(linux.resources.as_ref().unwrap_or(&default_resources))?;
        let cgroup = undo.cgroup.insert(cgroup);
        fault!("create.cgroup");
        // From here on the cgroup is the container's, with everything in it: see `Store`.
        self.store.write_first(CONFIG, &self.bundle.text)?;
        fault!("create.config");

        if layout.cgroup_namespace && namespaces.make & flags::NEWCGROUP == 0 {
            layout.cgroup_directory = cgroup.record().unified_directory();
        }
        let sources = HostSources::open(&layout)?;
        fault!("create.sources");
        let (ours, theirs) = channel::pair()?;
        let plan = InitPlan {
            spec,
            record,
            namespaces: &namespaces,
            rootfs: &layout,
            sources,
            attributes,
            seccomp: filter.as_ref(),
            oom_score_adj,
            sysctls: &sysctls,
            procfs: &procfs,
            no_pivot: self.options.no_pivot,
            gate: &gate,
        };
        let helper = namespaces.need_helper(self.host);
        let entered = if helper {
            Entered::default()
        } else {
            namespaces.enter()?
        };
        fault!("create.enter");
        let mut into = cgroup.clone_into()?;
        let set = if helper { 0 } else { namespaces.clone_flags() };
        let mut side = clone_process(set, into.as_ref().map(AsFd::as_fd));
        if side.is_err() && into.take().is_some() {
            // A kernel without this way, or a limit of no task, which a move passes; of what is
            // wrong with the place the move speaks more clearly.
            side = clone_process(set, None);
        }
        let (mut pid, mut pidfd) = match side {
            Ok(Side::Child) => {
                protect::let_go();
                drop(ours);
                if helper {
                    init::run_helper(plan, theirs)
                }
                init::run(plan, theirs)
            }
            Ok(Side::Parent { pid, pidfd }) => (pid, pidfd),
            Err(errno) => return Err(clone_error(set, errno)),
        };
        drop(theirs);
        fault!("create.clone");
        if helper {
            (pid, pidfd) = receive_init(&ours, pidfd)?;
        }
        let pidfd = &*undo.init.insert(pidfd);
        let pidfd = pidfd.as_fd();
        fault!("create.init");
        entered.leave()?;
        fault!("create.leave");
        if into.is_none() {
            cgroup
                .attach(pid.cast_unsigned())
                .map_err(|error| ours.last_word_or(error))?;
        }
        fault!("create.attach");
        self.give_away(cgroup.as_ref(), &namespaces)?;
        record.cgroup = cgroup.record();
        self.warnings.append(&mut cgroup.warnings());
        fault!("create.delegate");
        if namespaces.make & flags::NEWUSER != 0 {
            id_maps::write(pid, &namespaces.uid_mappings, &namespaces.gid_mappings)
                .map_err(|error| ours.last_word_or(error))?;
        }
        fault!("create.idmap");
        let process =
            Pid::from_raw(pid).ok_or_else(|| Error::new(Kind::System, "clone3 returned no pid"))?;
        record.pid = pid;
        if let (Some(score), false) = (oom_score_adj, helper) {
            score
                .apply(&procfs, process)
                .map_err(|error| ours.last_word_or(error))?;
        }
        if let Some(plan) = rdt {
            self.enter_resctrl(&plan, &procfs, process, record, &mut undo.rdt)
                .map_err(|error| ours.last_word_or(error))?;
        }
        if !devices.is_empty() {
            let path = format!("/proc/{pid}/ns/net");
            let namespace = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("linux.netDevices: open({path})"))
                .map_err(|error| ours.last_word_or(error))?;
            undo.devices = Some(network::devices::move_into(&devices, namespace.as_fd())?);
        }
        fault!("create.devices");
        record.start_time = proc::identity(pid)?.map_or(0, |identity| identity.start_time);
        ours.send_go()?;
        fault!("create.go");
        protect::let_go();
        let console = self.accompany(&ours, record, pidfd)?;
        fault!("create.accompany");
        if let Some(socket) = &self.options.pidfd_socket {
            send_pidfd(socket, pidfd)?;
        }
        fault!("create.pidfd");
        if let Some(path) = &self.options.pid_file {
            write_pid_file(path, pid)?;
            undo.pid_file = Some(path.clone());
        }
        fault!("create.pid_file");
        record.ready = true;
        self.store.write(STATE, &record.to_json()?)?;
        fault!("create.record");
        ours.send_go()?;
        fault!("create.done");
        let pidfd = undo.init.take();
        let pidfd = pidfd.ok_or_else(|| channel::unexpected("init is not there"))?;
        Ok((pidfd, ours, console))
    }

    /// Gives the cgroup to the container's user where the specification has it so.
    fn give_away(&mut self, cgroup: &dyn cgroup::Manager, namespaces: &Namespaces) -> Result<()> {
        if !cgroup::owner_changes(self.spec) {
            return Ok(());
        }
        let process = self.spec.process.as_ref();
        let uid = process.map_or(0, |process| process.user.uid);
        match cgroup.delegate(namespaces.host_uid(uid)) {
            // Only root gives files away. The specification asks for it (SHOULD), and most do without.
            Err(error) if error.errno() == Some(Errno::PERM) && self.host.rootless() => {
                let what = format!("process.user.uid: user {uid} does not get the cgroup: {error}");
                self.warnings.push(what);
                Ok(())
            }
            result => result,
        }
    }

    /// Puts init into its resctrl group. The group is on record before it is made.
    fn enter_resctrl(
        &self,
        plan: &intel_rdt::Rdt,
        procfs: &ProcFs,
        process: Pid,
        record: &mut Record,
        undo: &mut Option<(Resctrl, intel_rdt::Made)>,
    ) -> Result<()> {
        let resctrl = Resctrl::find(procfs)?;
        record.rdt = Some(resctrl.planned(plan));
        self.store.write(STATE, &record.to_json()?)?;
        let made = resctrl.prepare(plan)?;
        record.rdt = Some(made.clone());
        let (resctrl, made) = undo.insert((resctrl, made));
        resctrl.enter(made, process)
    }

    /// Whether init must let a runtime without privileges look into it before the program runs.
    ///
    /// The memory of init is still that of the runtime, and belongs to the runtime's user namespace:
    /// a caller who is nobody there gets at the namespaces of init, for an exec, and at its seccomp
    /// listener only while it is dumpable. In a pid namespace of its own nobody else can see it.
    fn is_reachable(&self, namespaces: &Namespaces, filter: Option<&Program>) -> bool {
        self.host.euid() != 0
            && (namespaces.make & flags::NEWPID != 0 || filter.is_some_and(|filter| filter.notify))
    }

    /// Answers init until it is ready.
    fn accompany(
        &mut self,
        channel: &Channel,
        record: &Record,
        pidfd: BorrowedFd<'_>,
    ) -> Result<Option<OwnedFd>> {
        let mut kept = None;
        loop {
            match channel.receive()? {
                Some(Message::Ready) => return Ok(kept),
                Some(Message::Warning(text)) => self.warnings.push(text),
                Some(Message::Hooks) => {
                    self.hooks_ran = true;
                    let state = record.hooks_state(Status::Creating, record.pid);
                    if let Some(hooks) = &self.spec.hooks {
                        let prestart = hooks::plan(&hooks.prestart, "hooks.prestart")?;
                        hooks::run(&prestart, &state, &record.bundle)?;
                        fault!("create.prestart");
                        hooks::run(
                            &hooks::plan(&hooks.create_runtime, "hooks.createRuntime")?,
                            &state,
                            &record.bundle,
                        )?;
                        fault!("create.create_runtime");
                    }
                    channel.send_go()?;
                }
                Some(Message::Console(master)) => {
                    match &self.options.console_socket {
                        Some(socket) => send_console(socket, master.as_fd())?,
                        None => kept = Some(master),
                    }
                    fault!("create.console");
                }
                Some(Message::Notify(number)) => {
                    let seccomp = self
                        .spec
                        .linux
                        .as_ref()
                        .and_then(|linux| linux.seccomp.as_ref());
                    hand_over_listener(
                        pidfd,
                        number,
                        seccomp,
                        record,
                        Status::Creating,
                        record.pid,
                    )?;
                    fault!("create.notify");
                    channel.send_go()?;
                }
                Some(Message::Failed(error)) => return Err(error),
                Some(_) => return Err(channel::unexpected("a message that init does not send")),
                None => return Err(died(pidfd)),
            }
        }
    }
}

fn clone_error(set: u64, errno: Errno) -> Error {
    let call = format!("clone3({})", namespaces::names(set));
    let error = Error::system(call, errno);
    match errno {
        Errno::PERM | Errno::ACCESS | Errno::NOSPC if set & flags::NEWUSER != 0 => error.context(
            "linux.namespaces: the kernel refuses a user namespace; see the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns",
        ),
        _ => error.context("linux.namespaces"),
    }
}

/// The record of a container that is about to be made.
pub(super) fn record(
    options: &CreateOptions,
    host: &Host,
    bundle: &Bundle,
    spec: &Spec<'_>,
) -> Record {
    Record {
        version: record::VERSION,
        oci_version: spec.oci_version.to_string(),
        id: options.id.clone(),
        bundle: bundle.path.display().to_string(),
        rootfs: String::new(),
        created: time::now_rfc3339(),
        owner: host.euid(),
        annotations: spec
            .annotations
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        pid: 0,
        start_time: 0,
        ready: false,
        has_process: spec.process.is_some(),
        namespaces: 0,
        private_pid: false,
        cgroup: cgroup::Record::default(),
        no_new_keyring: options.no_new_keyring,
        filter: None,
        rdt: None,
        poststart: spec
            .hooks
            .as_ref()
            .is_some_and(|hooks| !hooks.poststart.is_empty()),
        poststop: spec
            .hooks
            .as_ref()
            .is_some_and(|hooks| !hooks.poststop.is_empty()),
    }
}

/// Takes init from the helper that makes it. Afterwards the helper is gone, and so is init where this fails.
pub(super) fn receive_init(channel: &Channel, helper: OwnedFd) -> Result<(i32, OwnedFd)> {
    let init = wait_for_init(channel, helper.as_fd()).inspect_err(|_| {
        wait::kill_and_reap(helper.as_fd());
    })?;
    let known = wait::reap(helper.as_fd()).and_then(|_| wait::pid_of(init.as_fd()));
    match known {
        Ok(pid) => Ok((pid, init)),
        Err(error) => {
            wait::kill_and_reap(init.as_fd());
            Err(error)
        }
    }
}

fn wait_for_init(channel: &Channel, helper: BorrowedFd<'_>) -> Result<OwnedFd> {
    use rustix::event::{PollFd, PollFlags};
    // Init has the helper's end of the socket, too, and waits: were the helper killed before it has
    // spoken, nobody would.
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(helper, PollFlags::IN),
            PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN),
        ];
        match wait::poll_beside(helper, &mut fds, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::system("poll(helper)", errno)),
            Ok(_) if !fds[1].revents().is_empty() => break,
            Ok(true) => return Err(died(helper)),
            Ok(false) => {}
        }
    }
    match channel.receive()? {
        Some(Message::Init(pidfd)) => Ok(pidfd),
        Some(Message::Failed(error)) => Err(error),
        Some(_) => Err(channel::unexpected("another message than Init")),
        None => Err(died(helper)),
    }
}

/// Takes the seccomp listener out of a process and passes it to whom the configuration names.
///
/// It is taken and not sent: the filter is in force there, and may well hold sendmsg(2) back
/// for this very listener.
pub(super) fn hand_over_listener(
    process: BorrowedFd<'_>,
    number: i32,
    profile: Option<&Seccomp<'_>>,
    record: &Record,
    status: Status,
    pid: i32,
) -> Result<()> {
    let listener = match rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty()) {
        Err(Errno::NOSYS) => {
            return Err(Error::unsupported(
                "linux.seccomp: SCMP_ACT_NOTIFY",
                "needs pidfd_getfd(2), Linux 5.6",
            ));
        }
        result => result.context(|| format!("linux.seccomp: pidfd_getfd({number})"))?,
    };
    let Some(profile) = profile else {
        return Ok(());
    };
    let state = ContainerProcessState {
        oci_version: &record.oci_version,
        fds: listener::FDS,
        pid,
        metadata: &profile.listener_metadata,
        state: record.spec_state(status, record.pid),
    };
    listener::send(listener.as_fd(), &profile.listener_path, &state)
}

/// Sends a terminal's master to `--console-socket`.
pub(super) fn send_console(socket: &Path, master: BorrowedFd<'_>) -> Result<()> {
    let socket = console::connect_to(socket, "--console-socket")?;
    console::send_fd(socket.as_fd(), master, console::MASTER_NAME)
}

/// Sends a pidfd to `--pidfd-socket`.
pub(super) fn send_pidfd(socket: &Path, pidfd: BorrowedFd<'_>) -> Result<()> {
    let socket = console::connect_to(socket, "--pidfd-socket")?;
    console::send_fd(socket.as_fd(), pidfd, "pidfd")
}

/// The error for an init that ended without a word.
pub(super) fn died(pidfd: BorrowedFd<'_>) -> Error {
    let code = wait::reap(pidfd).unwrap_or(255);
    Error::new(
        Kind::System,
        format!("the container's process ended while it was set up, with code {code}"),
    )
}

/// Writes the pid file as a whole: a reader finds all of it or none.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let written = std::fs::write(&temporary, pid.to_string())
        .context(|| format!("pid file: write({})", temporary.display()))
        .and_then(|()| {
            fault!("pid_file.rename");
            std::fs::rename(&temporary, path)
                .context(|| format!("pid file: rename({})", path.display()))
        });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
