//! Processes: how they begin, what becomes of their streams, and how their ends are told.

use std::time::{Duration, Instant};

use knarr_proto::containerd::runc::v1::Options;
use knarr_proto::prost::Message;
use knarr_runtime::container::ExecOptions;
use knarr_runtime::spec::config::Process as Spec;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Signal, WaitOptions, kill_process_group, wait};

use super::*;
use crate::task::Exit;

/// What errors of streams begin with, as clients know it.
const IO: &str = "failed to create init process I/O: ";
/// 128 and SIGKILL.
const KILLED: u32 = 137;
/// How long the output of a process that has ended may be on its way.
const OUTPUT_LIMIT: Duration = Duration::from_secs(10);

/// A deleted process whose output is still on its way.
#[derive(Debug)]
pub struct Leaving {
    logger: Option<i32>,
    output: Option<u32>,
    deadline: Instant,
    waiter: Waiter,
    response: DeleteResponse,
}

impl Shim {
    /// A shim without containers, whose standard streams are its own already.
    ///
    /// # Errors
    /// Those of open(2) and dup(2).
    pub fn new(poll: Poll, events: Events, namespace: &str) -> knarr_runtime::Result<Shim> {
        let copy = |fd| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3)
                .map_err(|errno| Error::system("fcntl(F_DUPFD_CLOEXEC)", errno))
        };
        let own = [
            copy(rustix::stdio::stdin())?,
            copy(rustix::stdio::stdout())?,
            copy(rustix::stdio::stderr())?,
        ];
        Ok(Shim {
            poll,
            events,
            client: 0,
            answers: Vec::new(),
            ending: false,
            namespace: namespace.to_owned(),
            tasks: BTreeMap::new(),
            sandbox: None,
            leaving: Vec::new(),
            pumps: BTreeMap::new(),
            next: 0,
            own,
        })
    }

    pub(super) fn task(&mut self, id: &str) -> Result<&mut Task, Status> {
        self.tasks.get_mut(id).ok_or_else(|| unknown(id, ""))
    }

    /// Mounts the root and makes a container in it.
    pub(super) fn mount_and_make(
        &mut self,
        request: &CreateTaskRequest,
        bundle: PathBuf,
    ) -> Result<Task, Status> {
        let root = bundle.join("rootfs");
        rootfs::mount_all(&request.rootfs, &root).map_err(|error| refused("create", error))?;
        self.make(request, bundle).inspect_err(|_| {
            let _ = rootfs::unmount(&root);
        })
    }

    /// Makes a container whose process waits to be started.
    fn make(&mut self, request: &CreateTaskRequest, bundle: PathBuf) -> Result<Task, Status> {
        let options =
            options::read(request.options.as_ref()).map_err(|error| refused("create", error))?;
        let base = match options.root.as_str() {
            "" => task::DEFAULT_ROOT,
            root => root,
        };
        let root = Path::new(base).join(&self.namespace);
        let name = bundle.join(task::ROOT_FILE);
        fs::write(&name, root.as_os_str().as_encoded_bytes()).map_err(|error| {
            let message = format!("write({}): {error}", name.display());
            Status::new(Code::Unknown, message)
        })?;
        if !request.checkpoint.is_empty() {
            return Ok(Self::saved(request, bundle, &root, options));
        }
        let create = create_options(&request.id, &bundle, &options);
        let paths = paths(request);
        let owner = Owner {
            id: &request.id,
            namespace: &self.namespace,
            uid: options.io_uid,
            gid: options.io_gid,
        };
        let mut streams = stdio::open_streams(&paths, owner).map_err(|mut status| {
            status.message.insert_str(0, IO);
            status
        })?;
        let made = self.with_streams(&streams, || Container::create_child(&root, &create));
        let (container, child) = made.map_err(|error| refused("create", error))?;
        let mut init = Process {
            paths,
            ..Process::default()
        };
        self.adopt(&mut init, child, &mut streams);
        let mut task = Task {
            container,
            bundle,
            init,
            execs: BTreeMap::new(),
            paused: false,
            oom: None,
            saved: None,
        };
        self.watch_oom(&mut task);
        Ok(task)
    }

    pub(super) fn start_exec(&mut self, id: &str, exec_id: &str) -> Answer<StartResponse> {
        let task = self.task(id)?;
        let container = Container {
            root: task.container.root.clone(),
            id: task.container.id.clone(),
            warnings: Vec::new(),
        };
        let process = find(task, id, exec_id)?;
        if process.pid != 0 || process.exit.is_some() {
            let message = format!("process {exec_id} has been started already");
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        let paths = process.paths.clone();
        // Whatever comes of it, there is one attempt.
        let text = std::mem::take(&mut process.spec);
        let mut spec: Spec<'_> = parse("process", &text).map_err(|error| refused("exec", error))?;
        spec.terminal = paths.terminal;
        let owner = Owner {
            id: exec_id,
            namespace: &self.namespace,
            uid: 0,
            gid: 0,
        };
        let mut streams = stdio::open_streams(&paths, owner).map_err(|mut status| {
            status.message.insert_str(0, IO);
            status
        })?;
        let options = ExecOptions {
            process: Some(spec),
            ..ExecOptions::default()
        };
        let made = self.with_streams(&streams, || container.exec_child(&options));
        let child = made.map_err(|error| refused("exec", error))?;
        let Some(mut process) = self.task(id)?.execs.remove(exec_id) else {
            return Err(unknown(id, exec_id));
        };
        self.adopt(&mut process, child, &mut streams);
        process.started = true;
        let pid = process.pid();
        self.task(id)?.execs.insert(exec_id.to_owned(), process);
        let event = told::TaskExecStarted {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            pid,
        };
        self.events
            .publish(&self.poll, "/tasks/exec-started", &event);
        Ok(StartResponse { pid }.into())
    }

    /// Calls the runtime with the streams of the process that it makes.
    pub(super) fn with_streams<T>(
        &self,
        streams: &Streams,
        call: impl FnOnce() -> knarr_runtime::Result<T>,
    ) -> knarr_runtime::Result<T> {
        let put = |[stdin, stdout, stderr]: &[OwnedFd; 3]| {
            rustix::stdio::dup2_stdin(stdin)
                .and_then(|()| rustix::stdio::dup2_stdout(stdout))
                .and_then(|()| rustix::stdio::dup2_stderr(stderr))
                .map_err(|errno| Error::system("dup2(standard streams)", errno))
        };
        let result = put(&streams.process).and_then(|()| call());
        let result = put(&self.own).and(result);
        if let (Err(_), Some(logger)) = (&result, streams.logger) {
            let _ = kill_process_group(logger, Signal::KILL);
        }
        result
    }

    /// Takes over a process that the runtime has made, and copies its streams from now on.
    pub(super) fn adopt(&mut self, process: &mut Process, child: Child, streams: &mut Streams) {
        for warning in child.warnings {
            complain!("warning: {warning}");
        }
        process.pid = child.pid;
        process.kept = std::mem::take(&mut streams.kept);
        process.logger = streams.logger.map(|pid| pid.as_raw_nonzero().get());
        let (input, output) = (streams.input.take(), streams.output.take());
        if let Some(console) = child.console {
            let copied = fcntl_setfl(&console, OFlags::NONBLOCK)
                .and_then(|()| Ok((copy(&console)?, copy(&console)?)));
            match copied {
                Ok((from, to)) => {
                    process.output = self.pump(from, output);
                    process.input = input.and_then(|input| self.pump(input, Some(to)));
                }
                Err(errno) => complain!("terminal: {errno}"),
            }
            process.console = Some(console);
        } else if let (Some(input), Some(pipe)) = (input, streams.pipe.take()) {
            process.input = self.pump(input, Some(pipe));
        }
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn pump(&mut self, from: OwnedFd, to: Option<OwnedFd>) -> Option<u32> {
        let number = self.number();
        match Pump::new(&self.poll, Token::Pump(number), from, to) {
            Ok(pump) => {
                self.pumps.insert(number, pump);
                Some(number)
            }
            Err(error) => {
                complain!("standard streams: {error}");
                None
            }
        }
    }

    /// Copies what can be copied.
    pub fn run_pump(&mut self, number: u32) {
        let poll = &self.poll;
        let flow = self.pumps.get_mut(&number).map(|pump| pump.run(poll));
        if flow == Some(Flow::Ended) {
            self.close_pump(number);
            self.let_go();
        }
    }

    pub(super) fn finish_pump(&mut self, number: u32) {
        let poll = &self.poll;
        let flow = self.pumps.get_mut(&number).map(|pump| pump.finish(poll));
        if flow == Some(Flow::Ended) {
            self.close_pump(number);
        }
    }

    fn close_pump(&mut self, number: u32) {
        if let Some(pump) = self.pumps.remove(&number) {
            pump.close(&self.poll);
        }
    }

    pub(super) fn watch_oom(&mut self, task: &mut Task) {
        // Without a memory controller nobody is killed on the container's account.
        let Ok(watch) = task.container.watch_oom() else {
            return;
        };
        let number = self.number();
        let (fd, flags) = watch.fd();
        let flags = match flags.contains(rustix::event::PollFlags::PRI) {
            true => rustix::event::epoll::EventFlags::PRI,
            false => rustix::event::epoll::EventFlags::IN,
        };
        if self.poll.add(fd, Token::Oom(number), flags).is_ok() {
            task.oom = Some((number, watch));
        }
    }

    /// Tells of processes that were killed for want of memory.
    pub fn tell_oom(&mut self, number: u32) {
        let found = self
            .tasks
            .iter()
            .find(|(_, task)| matches!(&task.oom, Some((own, _)) if *own == number));
        if let Some(id) = found.map(|(id, _)| id.clone()) {
            self.look_for_oom(&id);
        }
    }

    fn look_for_oom(&mut self, id: &str) {
        use knarr_runtime::cgroup::OomEvent;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let Some((_, watch)) = &mut task.oom else {
            return;
        };
        match watch.event() {
            Ok(OomEvent::Oom) => {
                let container_id = id.to_owned();
                let event = told::TaskOom { container_id };
                self.events.publish(&self.poll, "/tasks/oom", &event);
            }
            Ok(OomEvent::Nothing) => {}
            Ok(OomEvent::Gone) | Err(_) => {
                if let Some((_, watch)) = task.oom.take() {
                    self.poll.remove(watch.fd().0);
                }
            }
        }
    }

    /// Takes the status of every child that has ended, and tells of it.
    pub fn reap(&mut self) {
        let mut ended = Vec::new();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let code = status
                .exit_status()
                .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
            let code = code.and_then(|code| u32::try_from(code).ok());
            ended.push((pid.as_raw_nonzero().get(), code.unwrap_or(255)));
        }
        let at = SystemTime::now();
        // Whose end it is, the first process of a container last.
        let mut ends = Vec::new();
        for one in &mut self.leaving {
            let logged = |pid: i32| ended.iter().any(|(ended, _)| *ended == pid);
            one.logger = one.logger.filter(|pid| !logged(*pid));
        }
        for (id, task) in &mut self.tasks {
            for (exec_id, process) in task.processes() {
                let logged = |pid: i32| ended.iter().any(|(ended, _)| *ended == pid);
                process.logger = process.logger.filter(|pid| !logged(*pid));
                if !process.is_alive() {
                    continue;
                }
                if let Some((_, code)) = ended.iter().find(|(pid, _)| *pid == process.pid) {
                    ends.push((id.clone(), exec_id.to_owned(), Exit { code: *code, at }));
                }
            }
        }
        for (id, exec_id, exit) in ends {
            self.tell_exit(&id, &exec_id, exit);
        }
        self.let_go();
    }

    fn tell_exit(&mut self, id: &str, exec_id: &str, exit: Exit) {
        if exec_id.is_empty() || exit.code == KILLED {
            // Before the exit that it explains.
            self.look_for_oom(id);
        }
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if exec_id.is_empty() {
            task.paused = false;
            // Where it had no process namespace of its own, the others are still there, and get it.
            let _ = task.container.kill(SIGKILL, false);
        }
        let Some(process) = task.process(exec_id) else {
            return;
        };
        process.exit = Some(exit);
        let pid = process.pid();
        let waiters = std::mem::take(&mut process.waiters);
        let (input, output) = (process.input.take(), process.output);
        process.console = None;
        if let Some(number) = input {
            self.close_pump(number);
        }
        if let Some(number) = output {
            self.run_pump(number);
        }
        let exited_at = Some(exit.at.into());
        if !self.is_sandbox(id) {
            let event = told::TaskExit {
                container_id: id.to_owned(),
                id: match exec_id {
                    "" => id,
                    exec_id => exec_id,
                }
                .to_owned(),
                pid,
                exit_status: exit.code,
                exited_at,
            };
            self.events.publish(&self.poll, "/tasks/exit", &event);
        }
        let response = WaitResponse {
            exit_status: exit.code,
            exited_at,
        };
        self.answer(waiters, &response);
        if exec_id.is_empty() {
            self.sandbox_process_ended(id, exit);
        }
    }

    /// Answers calls that have waited.
    pub(super) fn answer<M: Message>(&mut self, waiters: Vec<Waiter>, response: &M) {
        for waiter in waiters {
            let bytes = response.encode_to_vec().into();
            self.answers.push((waiter, Ok(bytes)));
        }
    }

    /// Takes away what there is of a container beside what the shim knows of it.
    pub(super) fn destroy(&mut self, id: &str, force: bool) -> knarr_runtime::Result<()> {
        let Some(task) = self.tasks.get(id) else {
            return Ok(());
        };
        let warnings = match task.container.delete(force) {
            Err(error) if error.kind() == Kind::NotFound => Vec::new(),
            deleted => deleted?,
        };
        for warning in warnings {
            complain!("warning: {warning}");
        }
        rootfs::unmount(&task.bundle.join("rootfs"))?;
        self.reap();
        Ok(())
    }

    /// In how many milliseconds [`Shim::check_time`] is worth a call.
    pub fn timeout(&self) -> Option<u64> {
        let leaving = self.leaving.iter().map(|one| one.deadline);
        let first = self.sandbox_deadline().into_iter().chain(leaving).min();
        let own = first.map(|at| {
            let left = at.saturating_duration_since(Instant::now()).as_millis();
            u64::try_from(left).unwrap_or(u64::MAX).saturating_add(1)
        });
        own.into_iter().chain(self.events.timeout()).min()
    }

    /// Does what is due.
    pub fn check_time(&mut self) {
        if self.events.timeout().is_some() {
            self.events.advance(&self.poll);
        }
        let now = Instant::now();
        if self.sandbox_deadline().is_some_and(|at| at <= now) {
            self.kill_sandbox();
        }
        if self.leaving.iter().any(|one| one.deadline <= now) {
            self.hurry(now);
        }
    }

    /// Drops a process, or a container with all of its processes, and all that they hold.
    pub(super) fn forget(&mut self, id: &str, exec_id: &str) -> Option<Process> {
        let (process, others) = if exec_id.is_empty() {
            let mut task = self.tasks.remove(id)?;
            if let Some((_, watch)) = task.oom.take() {
                self.poll.remove(watch.fd().0);
            }
            (task.init, task.execs)
        } else {
            let process = self.tasks.get_mut(id)?.execs.remove(exec_id)?;
            (process, BTreeMap::new())
        };
        for one in others.values().chain([&process]) {
            if let Some(number) = one.input {
                self.close_pump(number);
            }
            // A slow reader gets the rest.
            if let Some(number) = one.output {
                self.finish_pump(number);
            }
        }
        Some(process)
    }

    /// Answers that a process is deleted, once its output has arrived.
    pub(super) fn deleted(&mut self, process: &Process, stream: u32) -> Reply<DeleteResponse> {
        let response = DeleteResponse {
            pid: process.pid(),
            exit_status: process.exit.map_or(0, |exit| exit.code),
            exited_at: process.exited_at(),
        };
        let output = process
            .output
            .filter(|number| self.pumps.contains_key(number));
        if process.logger.is_none() && output.is_none() {
            return response.into();
        }
        let client = self.client;
        self.leaving.push(Leaving {
            logger: process.logger,
            output,
            deadline: Instant::now() + OUTPUT_LIMIT,
            waiter: Waiter { client, stream },
            response,
        });
        Reply::Later
    }

    /// Answers for those whose output has arrived meanwhile.
    fn let_go(&mut self) {
        for one in std::mem::take(&mut self.leaving) {
            let output = one.output.filter(|number| self.pumps.contains_key(number));
            match one.logger.is_none() && output.is_none() {
                true => self.answer(vec![one.waiter], &one.response),
                false => self.leaving.push(one),
            }
        }
    }

    /// Waits no longer for what is on its way since too long.
    fn hurry(&mut self, now: Instant) {
        let mut late = Vec::new();
        for one in self.leaving.iter_mut().filter(|one| one.deadline <= now) {
            late.extend(one.output.take());
            // Its end is what is waited for.
            if let Some(logger) = one.logger.and_then(Pid::from_raw) {
                let _ = kill_process_group(logger, Signal::KILL);
            }
            one.deadline = now + OUTPUT_LIMIT;
        }
        for number in late {
            self.close_pump(number);
        }
        self.let_go();
    }

    /// Whether the shim shall end and owes nobody anything.
    pub fn is_done(&self) -> bool {
        self.ending && self.leaving.is_empty()
    }

    /// Forgets the calls of a client that is gone.
    pub fn client_left(&mut self, client: u32) {
        for task in self.tasks.values_mut() {
            for (_, process) in task.processes() {
                process.waiters.retain(|waiter| waiter.client != client);
            }
        }
        self.sandbox_client_left(client);
    }
}

/// Where the streams of a container's first process lead.
pub(super) fn paths(request: &CreateTaskRequest) -> Paths {
    Paths {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

/// What the runtime is to know of a container.
pub(super) fn create_options(id: &str, bundle: &Path, options: &Options) -> CreateOptions {
    CreateOptions {
        id: id.to_owned(),
        bundle: bundle.to_owned(),
        no_pivot: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
        cgroup: match options.systemd_cgroup {
            true => CgroupDriver::Systemd,
            false => CgroupDriver::Cgroupfs,
        },
        ..CreateOptions::default()
    }
}

fn copy(fd: impl AsFd) -> Result<OwnedFd, rustix::io::Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}
