//! The task service: every call's meaning.

mod checkpoint;
mod processes;
mod sandbox;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use knarr_proto::any;
use knarr_proto::containerd::runc::v1::ProcessDetails;
use knarr_proto::containerd::task::v2::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use knarr_proto::containerd::v1::types::{ProcessInfo, Status as Stage};
use knarr_proto::events as told;
use knarr_proto::prost::bytes::Bytes;
use knarr_proto::ttrpc::{Call, Code, Reply, Status, services};
use knarr_runtime::container::{CgroupDriver, Child, Container, CreateOptions};
use knarr_runtime::error::{Error, Kind};
use knarr_runtime::spec::parse::parse;
use knarr_runtime::spec::resources::Resources;
use rustix::process::{Pid, kill_process};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::events::Events;
use crate::poll::{Poll, Token};
use crate::pump::{Flow, Pump};
use crate::stdio::{self, Owner, Paths, Streams};
use crate::task::{self, Condition, Process, Task, Waiter};
use crate::{metrics, options, rootfs};
pub use checkpoint::Saved;
use processes::{create_options, paths};
use sandbox::Sandbox;

type Answer<T> = Result<Reply<T>, Status>;

/// SIGKILL's number.
const SIGKILL: i32 = 9;

/// Everything the shim knows.
#[derive(Debug)]
pub struct Shim {
    /// What is waited for.
    pub poll: Poll,
    /// Where events go.
    pub events: Events,
    /// The client whose call is served.
    pub client: u32,
    /// Answers to earlier calls, to be sent.
    pub answers: Vec<(Waiter, Result<Bytes, Status>)>,
    /// Whether the shim shall end when all is sent.
    pub ending: bool,
    namespace: String,
    tasks: BTreeMap<String, Task>,
    sandbox: Option<Sandbox>,
    /// Deleted, but not answered yet.
    leaving: Vec<processes::Leaving>,
    pumps: BTreeMap<u32, Pump>,
    /// The number of the next token.
    next: u32,
    /// What the shim's own standard streams are between calls.
    own: [OwnedFd; 3],
}

impl services::Task for Shim {
    fn state(&mut self, _: &Call, request: StateRequest) -> Answer<StateResponse> {
        let task = self.task(&request.id)?;
        let paused = task.paused;
        let bundle = task.bundle.display().to_string();
        let process = find(task, &request.id, &request.exec_id)?;
        let stage = match (process.stage(), paused) {
            (Stage::Running, true) => Stage::Paused,
            (stage, _) => stage,
        };
        Ok(StateResponse {
            id: request.id,
            bundle,
            pid: process.pid(),
            status: stage.into(),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exit_status: process.exit.map_or(0, |exit| exit.code),
            exited_at: process.exited_at(),
            exec_id: request.exec_id,
        }
        .into())
    }

    fn create(&mut self, _: &Call, request: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        let id = request.id.clone();
        if self.tasks.contains_key(&id) {
            let message = format!("task {id}: already exists");
            return Err(Status::new(Code::AlreadyExists, message));
        }
        let task = self.mount_and_make(&request, PathBuf::from(&request.bundle))?;
        let pid = task.init.pid();
        self.tasks.insert(id.clone(), task);
        let event = told::TaskCreate {
            container_id: id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(told::TaskIo {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            }),
            checkpoint: request.checkpoint,
            pid,
        };
        self.events.publish(&self.poll, "/tasks/create", &event);
        Ok(CreateTaskResponse { pid }.into())
    }

    fn start(&mut self, _: &Call, request: StartRequest) -> Answer<StartResponse> {
        if !request.exec_id.is_empty() {
            return self.start_exec(&request.id, &request.exec_id);
        }
        let task = self.task(&request.id)?;
        if task.init.exit.is_some() {
            let message = "cannot start a container that has stopped";
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        match task.saved {
            None => task
                .container
                .start()
                .map_err(|error| refused("start", error))?,
            Some(_) => self.restore(&request.id)?,
        }
        let task = self.task(&request.id)?;
        task.init.started = true;
        let pid = task.init.pid();
        let container_id = request.id;
        let event = told::TaskStart { container_id, pid };
        self.events.publish(&self.poll, "/tasks/start", &event);
        Ok(StartResponse { pid }.into())
    }

    fn delete(&mut self, call: &Call, request: DeleteRequest) -> Answer<DeleteResponse> {
        let (id, exec_id) = (request.id, request.exec_id);
        let task = self.task(&id)?;
        let process = find(task, &id, &exec_id)?;
        if process.is_alive() && (process.started || !exec_id.is_empty()) {
            let message = "cannot delete a process that has not stopped";
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        if exec_id.is_empty() {
            // One that was created and not started is ended by this.
            let force = process.is_alive();
            self.destroy(&id, force)
                .map_err(|error| refused("delete", error))?;
        }
        let Some(mut process) = self.forget(&id, &exec_id) else {
            return Err(unknown(&id, &exec_id));
        };
        // Of a process that never ran there is no end to tell.
        for waiter in std::mem::take(&mut process.waiters) {
            self.answers.push((waiter, Err(unknown(&id, &exec_id))));
        }
        if exec_id.is_empty() {
            let event = told::TaskDelete {
                container_id: id,
                pid: process.pid(),
                exit_status: process.exit.map_or(0, |exit| exit.code),
                exited_at: process.exited_at(),
                id: String::new(),
            };
            self.events.publish(&self.poll, "/tasks/delete", &event);
        }
        Ok(self.deleted(&process, call.stream))
    }

    fn pids(&mut self, _: &Call, request: PidsRequest) -> Answer<PidsResponse> {
        let task = self.task(&request.id)?;
        let pids = task
            .container
            .pids()
            .map_err(|error| refused("ps", error))?;
        let info = |pid: &u32| {
            let exec = task.execs.iter().find(|(_, exec)| exec.pid() == *pid);
            ProcessInfo {
                pid: *pid,
                info: exec.map(|(id, _)| {
                    any::pack(&ProcessDetails {
                        exec_id: id.clone(),
                    })
                }),
            }
        };
        Ok(PidsResponse {
            processes: pids.iter().map(info).collect(),
        }
        .into())
    }

    fn pause(&mut self, _: &Call, request: PauseRequest) -> Answer<()> {
        let task = self.task(&request.id)?;
        match task.condition() {
            Condition::Running => {}
            Condition::Created => {
                return Err(wrong_state("cannot pause task in created state"));
            }
            other => return Err(wrong_state(&format!("cannot pause a {other} container"))),
        }
        task.container
            .pause()
            .map_err(|error| refused("pause", error))?;
        task.paused = true;
        let container_id = request.id;
        let event = told::TaskPaused { container_id };
        self.events.publish(&self.poll, "/tasks/paused", &event);
        Ok(().into())
    }

    fn resume(&mut self, _: &Call, request: ResumeRequest) -> Answer<()> {
        let task = self.task(&request.id)?;
        match task.condition() {
            Condition::Paused => {}
            Condition::Running => return Err(wrong_state("cannot resume a running process")),
            Condition::Created => {
                return Err(wrong_state("cannot resume task in created state"));
            }
            other => return Err(wrong_state(&format!("cannot resume a {other} container"))),
        }
        task.container
            .resume()
            .map_err(|error| refused("resume", error))?;
        task.paused = false;
        let container_id = request.id;
        let event = told::TaskResumed { container_id };
        self.events.publish(&self.poll, "/tasks/resumed", &event);
        Ok(().into())
    }

    fn checkpoint(&mut self, _: &Call, request: CheckpointTaskRequest) -> Answer<()> {
        self.save(&request)?;
        let event = told::TaskCheckpointed {
            container_id: request.id,
            checkpoint: request.path,
        };
        self.events
            .publish(&self.poll, "/tasks/checkpointed", &event);
        Ok(().into())
    }

    fn kill(&mut self, _: &Call, request: KillRequest) -> Answer<()> {
        let task = self.task(&request.id)?;
        let signal = i32::try_from(request.signal).unwrap_or(-1);
        if request.exec_id.is_empty() {
            return match task.container.kill(signal, request.all) {
                Ok(()) => Ok(().into()),
                Err(error) if error.kind() == Kind::WrongState => Err(finished()),
                Err(error) => Err(refused("kill", error)),
            };
        }
        let process = find(task, &request.id, &request.exec_id)?;
        if process.exit.is_some() {
            return Err(finished());
        }
        let Some(pid) = Pid::from_raw(process.pid) else {
            let message = "process not created";
            return Err(Status::new(Code::FailedPrecondition, message));
        };
        let Some(signal) = knarr_runtime::sys::process::signal(signal) else {
            let message = format!("unknown signal {signal}: 1 to 64 exist");
            return Err(Status::new(Code::InvalidArgument, message));
        };
        // Nobody else has the pid before this shim has taken the status.
        kill_process(pid, signal)
            .map_err(|errno| refused("kill", Error::system(format!("kill({pid:?})"), errno)))?;
        Ok(().into())
    }

    fn exec(&mut self, _: &Call, request: ExecProcessRequest) -> Answer<()> {
        let (id, exec_id) = (request.id, request.exec_id);
        let task = self.task(&id)?;
        if exec_id.is_empty() {
            let message = "an exec needs an id";
            return Err(Status::new(Code::InvalidArgument, message));
        }
        let condition = task.condition();
        if matches!(condition, Condition::Paused | Condition::Stopped) {
            return Err(wrong_state(&format!("cannot exec in a {condition} state")));
        }
        if task.execs.contains_key(&exec_id) {
            let message = format!("id {exec_id}: already exists");
            return Err(Status::new(Code::AlreadyExists, message));
        }
        let spec = request.spec.unwrap_or_default();
        let process = Process {
            paths: Paths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            spec: spec.value,
            ..Process::default()
        };
        task.execs.insert(exec_id.clone(), process);
        let container_id = id;
        let event = told::TaskExecAdded {
            container_id,
            exec_id,
        };
        self.events.publish(&self.poll, "/tasks/exec-added", &event);
        Ok(().into())
    }

    fn resize_pty(&mut self, _: &Call, request: ResizePtyRequest) -> Answer<()> {
        let task = self.task(&request.id)?;
        let process = find(task, &request.id, &request.exec_id)?;
        if let Some(console) = &process.console {
            let size = Winsize {
                ws_row: u16::try_from(request.height).unwrap_or(u16::MAX),
                ws_col: u16::try_from(request.width).unwrap_or(u16::MAX),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(console, size)
                .map_err(|errno| refused("resize", Error::system("ioctl(TIOCSWINSZ)", errno)))?;
        }
        Ok(().into())
    }

    fn close_io(&mut self, _: &Call, request: CloseIoRequest) -> Answer<()> {
        let task = self.task(&request.id)?;
        let process = find(task, &request.id, &request.exec_id)?;
        // A terminal has an end of input of its own.
        if request.stdin
            && !process.paths.terminal
            && let Some(number) = process.input
        {
            self.finish_pump(number);
        }
        Ok(().into())
    }

    fn update(&mut self, _: &Call, request: UpdateTaskRequest) -> Answer<()> {
        let task = self.task(&request.id)?;
        let resources = request.resources.unwrap_or_default();
        let resources: Resources<'_> =
            parse("resources", &resources.value).map_err(|error| refused("update", error))?;
        task.container
            .update(&resources, None, None)
            .map_err(|error| refused("update", error))?;
        Ok(().into())
    }

    fn wait(&mut self, call: &Call, request: WaitRequest) -> Answer<WaitResponse> {
        let client = self.client;
        let task = self.task(&request.id)?;
        let process = find(task, &request.id, &request.exec_id)?;
        Ok(match process.exit {
            Some(exit) => WaitResponse {
                exit_status: exit.code,
                exited_at: process.exited_at(),
            }
            .into(),
            None => {
                process.waiters.push(Waiter {
                    client,
                    stream: call.stream,
                });
                Reply::Later
            }
        })
    }

    fn stats(&mut self, _: &Call, request: StatsRequest) -> Answer<StatsResponse> {
        let task = self.task(&request.id)?;
        let stats = task
            .container
            .stats()
            .map_err(|error| refused("stats", error))?;
        Ok(StatsResponse {
            stats: Some(metrics::pack(&stats)),
        }
        .into())
    }

    fn connect(&mut self, _: &Call, request: ConnectRequest) -> Answer<ConnectResponse> {
        let task_pid = self
            .tasks
            .get(&request.id)
            .map_or(0, |task| task.init.pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: String::new(),
        }
        .into())
    }

    fn shutdown(&mut self, _: &Call, request: ShutdownRequest) -> Answer<()> {
        // Others of the pod may be there still.
        self.ending = request.now || (self.tasks.is_empty() && self.sandbox.is_none());
        Ok(().into())
    }
}

fn find<'a>(task: &'a mut Task, id: &str, exec_id: &str) -> Result<&'a mut Process, Status> {
    task.process(exec_id).ok_or_else(|| unknown(id, exec_id))
}

fn unknown(id: &str, exec_id: &str) -> Status {
    let message = match exec_id {
        "" => format!("container {id} does not exist: not found"),
        exec_id => format!("process does not exist {exec_id}: not found"),
    };
    Status::new(Code::NotFound, message)
}

fn wrong_state(message: &str) -> Status {
    Status::new(Code::FailedPrecondition, message)
}

fn finished() -> Status {
    Status::new(Code::NotFound, "process already finished: not found")
}

/// The runtime's error as callers know it.
fn refused(verb: &str, error: Error) -> Status {
    let code = match error.kind() {
        Kind::InvalidConfig | Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::AlreadyExists,
        Kind::WrongState => Code::FailedPrecondition,
        Kind::Unsupported => Code::Unimplemented,
        Kind::System | Kind::Hook | Kind::Exec | Kind::State => Code::Unknown,
    };
    Status::new(code, format!("OCI runtime {verb} failed: {error}"))
}
