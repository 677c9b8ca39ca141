//! The sandbox service: the pod as a whole.
//!
//! A sandbox whose bundle has a configuration with a process has that process, which lives as a
//! container of the sandbox's id, of which no task events tell. Another one is the shim alone.

use std::time::{Duration, Instant};

use knarr_proto::containerd::runtime::sandbox::v1 as calls;
use knarr_proto::prost_types::Timestamp;
use knarr_proto::types::{Metric, Platform};
use knarr_runtime::error::Context as _;
use serde_json::Value;

use super::*;
use crate::task::Exit;

const SIGTERM: i32 = 15;

/// The sandbox that the shim holds.
#[derive(Debug)]
pub struct Sandbox {
    id: String,
    /// Whether there is a container of its own.
    has_process: bool,
    started: bool,
    created_at: SystemTime,
    exit: Option<Exit>,
    /// Who waits for its end.
    waiters: Vec<Waiter>,
    /// Who waits until all of its processes have ended, and when those are killed.
    stopping: Vec<Waiter>,
    deadline: Option<Instant>,
}

impl services::Sandbox for Shim {
    fn create_sandbox(
        &mut self,
        _: &Call,
        request: calls::CreateSandboxRequest,
    ) -> Answer<calls::CreateSandboxResponse> {
        let id = request.sandbox_id;
        if id.is_empty() {
            let message = "a sandbox needs an id";
            return Err(Status::new(Code::InvalidArgument, message));
        }
        if self.sandbox.is_some() || self.tasks.contains_key(&id) {
            let message = format!("sandbox {id}: already exists");
            return Err(Status::new(Code::AlreadyExists, message));
        }
        let bundle = PathBuf::from(&request.bundle_path);
        let has_process = configure(&bundle, &request.netns_path)
            .map_err(|error| refused("create sandbox", error))?;
        if has_process {
            let create = CreateTaskRequest {
                id: id.clone(),
                bundle: request.bundle_path,
                rootfs: request.rootfs,
                options: request.options,
                ..CreateTaskRequest::default()
            };
            let task = self.mount_and_make(&create, bundle)?;
            self.tasks.insert(id.clone(), task);
        }
        self.sandbox = Some(Sandbox {
            id,
            has_process,
            started: false,
            created_at: SystemTime::now(),
            exit: None,
            waiters: Vec::new(),
            stopping: Vec::new(),
            deadline: None,
        });
        Ok(calls::CreateSandboxResponse {}.into())
    }

    fn start_sandbox(
        &mut self,
        _: &Call,
        request: calls::StartSandboxRequest,
    ) -> Answer<calls::StartSandboxResponse> {
        let sandbox = self.sandbox(&request.sandbox_id)?;
        if sandbox.started || sandbox.exit.is_some() {
            let message = format!("sandbox {} has been started already", sandbox.id);
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        sandbox.started = true;
        let created_at = Some(Timestamp::from(sandbox.created_at));
        let mut pid = 0;
        if sandbox.has_process {
            let task = self.task(&request.sandbox_id)?;
            task.container
                .start()
                .map_err(|error| refused("start", error))?;
            task.init.started = true;
            pid = task.init.pid();
        }
        Ok(calls::StartSandboxResponse {
            pid,
            created_at,
            spec: None,
        }
        .into())
    }

    fn platform(
        &mut self,
        _: &Call,
        request: calls::PlatformRequest,
    ) -> Answer<calls::PlatformResponse> {
        self.sandbox(&request.sandbox_id)?;
        // As Go calls them.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            other => other,
        };
        Ok(calls::PlatformResponse {
            platform: Some(Platform {
                os: "linux".to_owned(),
                architecture: architecture.to_owned(),
                ..Platform::default()
            }),
        }
        .into())
    }

    fn stop_sandbox(
        &mut self,
        call: &Call,
        request: calls::StopSandboxRequest,
    ) -> Answer<calls::StopSandboxResponse> {
        let waiter = Waiter {
            client: self.client,
            stream: call.stream,
        };
        let timeout = Duration::from_secs(request.timeout_secs.into());
        let sandbox = self.sandbox(&request.sandbox_id)?;
        sandbox.stopping.push(waiter);
        sandbox.deadline = Some(Instant::now() + timeout);
        let signal = match request.timeout_secs {
            0 => SIGKILL,
            _ => SIGTERM,
        };
        self.signal_all(signal);
        self.end_when_stopped();
        Ok(Reply::Later)
    }

    fn wait_sandbox(
        &mut self,
        call: &Call,
        request: calls::WaitSandboxRequest,
    ) -> Answer<calls::WaitSandboxResponse> {
        let waiter = Waiter {
            client: self.client,
            stream: call.stream,
        };
        let sandbox = self.sandbox(&request.sandbox_id)?;
        Ok(match sandbox.exit {
            Some(exit) => waited(exit).into(),
            None => {
                sandbox.waiters.push(waiter);
                Reply::Later
            }
        })
    }

    fn sandbox_status(
        &mut self,
        _: &Call,
        request: calls::SandboxStatusRequest,
    ) -> Answer<calls::SandboxStatusResponse> {
        let tasks: Vec<&str> = self.tasks.keys().map(String::as_str).collect();
        let info = match request.verbose {
            true => BTreeMap::from([
                ("shimPid".to_owned(), std::process::id().to_string()),
                ("containers".to_owned(), tasks.join(",")),
            ]),
            false => BTreeMap::new(),
        };
        let sandbox = self.sandbox(&request.sandbox_id)?;
        let state = match sandbox.started && sandbox.exit.is_none() {
            true => "SANDBOX_READY",
            false => "SANDBOX_NOTREADY",
        };
        let (created_at, exit) = (sandbox.created_at, sandbox.exit);
        let pid = self
            .tasks
            .get(&request.sandbox_id)
            .map_or(0, |task| task.init.pid());
        Ok(calls::SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid,
            state: state.to_owned(),
            info,
            created_at: Some(created_at.into()),
            exited_at: exit.map(|exit| exit.at.into()),
            extra: None,
        }
        .into())
    }

    fn ping_sandbox(
        &mut self,
        _: &Call,
        request: calls::PingRequest,
    ) -> Answer<calls::PingResponse> {
        self.sandbox(&request.sandbox_id)?;
        Ok(calls::PingResponse {}.into())
    }

    fn shutdown_sandbox(
        &mut self,
        _: &Call,
        request: calls::ShutdownSandboxRequest,
    ) -> Answer<calls::ShutdownSandboxResponse> {
        self.sandbox(&request.sandbox_id)?;
        let ids: Vec<String> = self.tasks.keys().cloned().collect();
        let mut first = None;
        for id in ids {
            if let Err(error) = self.destroy(&id, true) {
                first.get_or_insert(error);
            }
            self.forget(&id, "");
        }
        self.sandbox_ended(Exit {
            code: 0,
            at: SystemTime::now(),
        });
        if let Some(error) = first {
            return Err(refused("delete", error));
        }
        self.ending = true;
        Ok(calls::ShutdownSandboxResponse {}.into())
    }

    fn sandbox_metrics(
        &mut self,
        _: &Call,
        request: calls::SandboxMetricsRequest,
    ) -> Answer<calls::SandboxMetricsResponse> {
        let has_process = self.sandbox(&request.sandbox_id)?.has_process;
        let mut data = None;
        if has_process && let Some(task) = self.tasks.get(&request.sandbox_id) {
            let stats = task.container.stats();
            data = Some(metrics::pack(
                &stats.map_err(|error| refused("stats", error))?,
            ));
        }
        Ok(calls::SandboxMetricsResponse {
            metrics: Some(Metric {
                timestamp: Some(SystemTime::now().into()),
                id: request.sandbox_id,
                data,
            }),
        }
        .into())
    }

    fn update_sandbox(
        &mut self,
        _: &Call,
        request: calls::UpdateSandboxRequest,
    ) -> Answer<calls::UpdateSandboxResponse> {
        self.sandbox(&request.sandbox_id)?;
        #[allow(deprecated, reason = "what daemons before 2.4 send")]
        let resources = request.resources;
        // Labels and the rest are the daemon's; only limits mean something here.
        if let (Some(resources), Some(task)) = (resources, self.tasks.get(&request.sandbox_id)) {
            let resources: Resources<'_> =
                parse("resources", &resources.value).map_err(|error| refused("update", error))?;
            task.container
                .update(&resources, None, None)
                .map_err(|error| refused("update", error))?;
        }
        Ok(calls::UpdateSandboxResponse {}.into())
    }
}

fn waited(exit: Exit) -> calls::WaitSandboxResponse {
    calls::WaitSandboxResponse {
        exit_status: exit.code,
        exited_at: Some(exit.at.into()),
    }
}

/// Whether the sandbox has a process of its own, whose network namespace is then the given one.
fn configure(bundle: &Path, netns: &str) -> knarr_runtime::Result<bool> {
    let path = bundle.join("config.json");
    let name = path.display();
    let text = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        text => text.context(|| format!("read({name})"))?,
    };
    let mut config: Value = serde_json::from_slice(&text)
        .map_err(|error| Error::new(Kind::InvalidConfig, format!("{name}: {error}")))?;
    if config.get("process").is_none() {
        return Ok(false);
    }
    let network = config
        .pointer_mut("/linux/namespaces")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .find(|namespace| namespace.get("type").is_some_and(|kind| kind == "network"));
    if let (false, Some(namespace)) = (netns.is_empty(), network.and_then(Value::as_object_mut)) {
        namespace.insert("path".to_owned(), netns.into());
        fs::write(&path, config.to_string()).context(|| format!("write({name})"))?;
    }
    Ok(true)
}

impl Shim {
    fn sandbox(&mut self, id: &str) -> Result<&mut Sandbox, Status> {
        match &mut self.sandbox {
            Some(sandbox) if sandbox.id == id => Ok(sandbox),
            _ => {
                let message = format!("sandbox {id} does not exist: not found");
                Err(Status::new(Code::NotFound, message))
            }
        }
    }

    /// Whether this container is the sandbox's own process.
    pub(super) fn is_sandbox(&self, id: &str) -> bool {
        self.sandbox
            .as_ref()
            .is_some_and(|sandbox| sandbox.has_process && sandbox.id == id)
    }

    fn signal_all(&self, signal: i32) {
        for task in self.tasks.values().filter(|task| task.init.is_alive()) {
            if let Err(error) = task.container.kill(signal, false)
                && error.kind() != Kind::WrongState
            {
                complain!("{}: {error}", task.container.id);
            }
        }
    }

    /// Tells of the end of a container's first process, which may be the sandbox's.
    pub(super) fn sandbox_process_ended(&mut self, id: &str, exit: Exit) {
        if self.is_sandbox(id) {
            self.sandbox_ended(exit);
        }
        self.end_when_stopped();
    }

    fn sandbox_ended(&mut self, exit: Exit) {
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        let exit = *sandbox.exit.get_or_insert(exit);
        let waiters = std::mem::take(&mut sandbox.waiters);
        self.answer(waiters, &waited(exit));
    }

    /// Answers who stops the sandbox once no process is left.
    fn end_when_stopped(&mut self) {
        let stops = |sandbox: &Sandbox| !sandbox.stopping.is_empty();
        if !self.sandbox.as_ref().is_some_and(stops)
            || self.tasks.values().any(|task| task.init.is_alive())
        {
            return;
        }
        let at = SystemTime::now();
        self.sandbox_ended(Exit { code: 0, at });
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.deadline = None;
            let stopping = std::mem::take(&mut sandbox.stopping);
            self.answer(stopping, &calls::StopSandboxResponse {});
        }
    }

    /// When the next thing is due that depends on time alone.
    pub(super) fn sandbox_deadline(&self) -> Option<Instant> {
        self.sandbox.as_ref()?.deadline
    }

    /// Kills what has not stopped in time.
    pub(super) fn kill_sandbox(&mut self) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.deadline = None;
        }
        self.signal_all(SIGKILL);
    }

    /// Forgets the calls of a client that is gone.
    pub(super) fn sandbox_client_left(&mut self, client: u32) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.waiters.retain(|waiter| waiter.client != client);
            // Whoever wanted it stopped wants so still; its answer goes nowhere.
        }
    }
}
