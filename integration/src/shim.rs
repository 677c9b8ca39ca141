//! A shim without a daemon: what a daemon has for it, and its calls over ttrpc.
#![allow(
    clippy::missing_panics_doc,
    reason = "everything here fails by panicking"
)]

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use knarr_proto::any;
use knarr_proto::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use knarr_proto::containerd::task::v2 as task;
use knarr_proto::prost::{Message, Name};
use knarr_proto::prost_types::Any;
use knarr_proto::ttrpc::frame::{self, Decoder, Incoming, Kind};
use knarr_proto::ttrpc::{Code, Received, Receiver, Request, Response, Status, answer, services};
use knarr_proto::types::Envelope;
use serde_json::{Value, json};

use crate::cgroup::Driver;
use crate::daemon::{PATIENCE, Pen};
use crate::{bundle, containerd, process};

/// The namespace of everything here.
pub const NAMESPACE: &str = "test";

/// A place for shims, with a daemon that does nothing but take their events.
#[derive(Debug)]
pub struct Station {
    /// Where the shims run.
    pub pen: Pen,
    driver: Driver,
    events: Arc<Mutex<Vec<Envelope>>>,
    daemon: Mutex<Option<Daemon>>,
}

/// Whoever takes the events.
#[derive(Debug)]
struct Daemon {
    path: PathBuf,
    connections: Arc<Mutex<Vec<UnixStream>>>,
}

impl Daemon {
    fn listen(path: PathBuf, events: &Arc<Mutex<Vec<Envelope>>>) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let connections: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let (events, kept) = (Arc::clone(events), Arc::clone(&connections));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                kept.lock().unwrap().push(socket.try_clone().unwrap());
                let events = Arc::clone(&events);
                std::thread::spawn(move || take_events(&mut socket, &events));
            }
        });
        Self { path, connections }
    }
}

impl Drop for Daemon {
    /// As when a daemon is killed: nobody can connect, and connections end.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        for socket in self.connections.lock().unwrap().drain(..) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn take_events(socket: &mut UnixStream, events: &Mutex<Vec<Envelope>>) {
    use knarr_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
    let mut receiver = Receiver::default();
    let mut bytes = [0; 4096];
    while let Ok(count) = socket.read(&mut bytes)
        && count > 0
    {
        receiver.push(&bytes[..count]);
        while let Some(received) = receiver.take() {
            let Received::Call(call) = received else {
                panic!("no call: {received:?}");
            };
            assert_eq!(
                (call.service.as_str(), call.method.as_str()),
                (services::EVENTS[0], "Forward")
            );
            let request: ForwardRequest = call.request().unwrap();
            events.lock().unwrap().push(request.envelope.unwrap());
            let mut out = Vec::new();
            answer(&mut out, call.stream, Ok(()));
            let _ = socket.write_all(&out);
        }
    }
}

impl Station {
    /// An empty place.
    #[must_use]
    pub fn new(driver: Driver) -> Self {
        let this = Self {
            pen: Pen::new(&[], driver),
            driver,
            events: Arc::default(),
            daemon: Mutex::default(),
        };
        bundle::rootfs(&this.pen.path("rootfs"));
        this.listen();
        this
    }

    fn socket(&self) -> PathBuf {
        self.pen.path("d.ttrpc")
    }

    /// Takes events from now on, also again.
    pub fn listen(&self) {
        let daemon = Daemon::listen(self.socket(), &self.events);
        *self.daemon.lock().unwrap() = Some(daemon);
    }

    /// Goes away as a daemon that is killed.
    pub fn vanish(&self) {
        *self.daemon.lock().unwrap() = None;
    }

    /// The topics of what was told of that container, in order, with the messages.
    #[must_use]
    pub fn events(&self, id: &str) -> Vec<(String, Any)> {
        let all = self.events.lock().unwrap();
        all.iter()
            .map(|event| (event.topic.clone(), event.event.clone().unwrap()))
            // In all messages of tasks, the container is the first field.
            .filter(|(_, event)| {
                task::DeleteRequest::decode(&*event.value).is_ok_and(|first| first.id == id)
                    || event
                        .value
                        .get(2..)
                        .is_some_and(|rest| rest.starts_with(id.as_bytes()))
            })
            .collect()
    }

    /// The topics alone.
    #[must_use]
    pub fn topics(&self, id: &str) -> Vec<String> {
        self.events(id)
            .into_iter()
            .map(|(topic, _)| topic)
            .collect()
    }

    /// Waits until that was told, and gives the message.
    #[track_caller]
    pub fn told<M: Message + Name + Default>(&self, id: &str, topic: &str) -> M {
        let find = || {
            self.events(id)
                .into_iter()
                .find(|(found, _)| found == topic)
        };
        assert!(
            process::eventually(PATIENCE, || find().is_some()),
            "no {topic} of {id}: {:?}",
            self.topics(id)
        );
        any::unpack(&find().unwrap().1).unwrap()
    }

    /// The cgroup of that container.
    #[must_use]
    pub fn cgroup(&self, id: &str) -> String {
        match self.driver {
            Driver::Cgroupfs => format!("{}/{id}", self.pen.cgroup()),
            Driver::Systemd => format!("{}/t-{id}.scope", self.pen.cgroup()),
        }
    }

    /// A bundle that runs a shell script, its configuration changed by `edit`.
    pub fn bundle(&self, id: &str, script: &str, edit: impl FnOnce(&mut Value)) -> PathBuf {
        let dir = self.pen.path(&format!("bundles/{id}"));
        fs::create_dir_all(dir.join("rootfs")).unwrap();
        let cgroup = match self.driver {
            Driver::Cgroupfs => self.cgroup(id),
            Driver::Systemd => format!("{}:t:{id}", self.pen.cgroup().trim_start_matches('/')),
        };
        let mut config = bundle::config(&cgroup, "1.2.0");
        config["root"] = json!({"path": self.pen.path("rootfs")});
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        edit(&mut config);
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        dir
    }

    /// Starts a shim in a bundle, as the newest daemon does.
    #[track_caller]
    pub fn shim(&self, id: &str, bundle: &Path) -> Shim<'_> {
        let program = containerd::shim().expect("no shim below target/");
        self.shim_of(&program, id, bundle, Vec::new())
    }

    /// The same with another program, and with what is told beside the usual.
    #[track_caller]
    pub fn shim_of(
        &self,
        program: &Path,
        id: &str,
        bundle: &Path,
        told: Vec<knarr_proto::containerd::runtime::bootstrap::v1::Extension>,
    ) -> Shim<'_> {
        let socket = self.socket().display().to_string();
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: NAMESPACE.to_owned(),
            containerd_ttrpc_address: socket.clone(),
            containerd_grpc_address: socket.trim_end_matches(".ttrpc").to_owned(),
            socket_dir: Some(self.pen.path("s").display().to_string()),
            extensions: told,
            ..BootstrapParams::default()
        };
        let input = bundle.join("params");
        fs::write(&input, params.encode_to_vec()).unwrap();
        let mut command = self.command(program, id, bundle, "start");
        command.stdin(File::open(input).unwrap());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let result = BootstrapResult::decode(&*output.stdout).unwrap();
        assert_eq!((result.version, &*result.protocol), (3, "ttrpc"));
        Shim {
            station: self,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            connection: RefCell::new(Connection::to(&result.address)),
            result,
        }
    }

    /// The shim's command line, as daemons call it.
    #[must_use]
    pub fn command(
        &self,
        program: &Path,
        id: &str,
        bundle: &Path,
        verb: &str,
    ) -> std::process::Command {
        let socket = self.socket().display().to_string();
        let main = socket.trim_end_matches(".ttrpc");
        let mut command = self.pen.command(&[
            "sh",
            "-c",
            "cd \"$0\" && exec \"$@\"",
            bundle.to_str().unwrap(),
            program.to_str().unwrap(),
            "-namespace",
            NAMESPACE,
            "-address",
            main,
            "-publish-binary",
            "/bin/false",
            "-id",
            id,
            "-bundle",
            bundle.to_str().unwrap(),
            verb,
        ]);
        command.env("TTRPC_ADDRESS", &socket);
        command
    }
}

/// A connection to a shim.
#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    next: u32,
}

impl Connection {
    fn to(address: &str) -> Self {
        let path = address.strip_prefix("unix://").unwrap();
        let socket = UnixStream::connect(path).unwrap();
        socket
            .set_read_timeout(Some(process::patient(PATIENCE)))
            .unwrap();
        Self {
            socket,
            decoder: Decoder::default(),
            next: 1,
        }
    }

    fn send(&mut self, service: &str, method: &str, payload: Vec<u8>) -> u32 {
        let stream = self.next;
        self.next += 2;
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: payload.into(),
            ..Request::default()
        };
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, stream, Kind::Request, &request).unwrap();
        self.socket.write_all(&bytes).unwrap();
        stream
    }

    fn receive(&mut self, method: &str) -> (u32, Response) {
        loop {
            if let Some(Incoming::Frame(header, message)) = self.decoder.take() {
                return (header.stream, Response::decode(message).unwrap());
            }
            let mut bytes = [0; 4096];
            let count = self
                .socket
                .read(&mut bytes)
                .unwrap_or_else(|error| panic!("{method} is not answered: {error}"));
            assert!(count > 0, "{method}: the shim is gone");
            self.decoder.push(&bytes[..count]);
        }
    }
}

/// A shim that was started, with one connection; killed when dropped.
#[derive(Debug)]
pub struct Shim<'a> {
    station: &'a Station,
    id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What it said at its start.
    pub result: BootstrapResult,
    connection: RefCell<Connection>,
}

impl Shim<'_> {
    /// Calls a method of the task service.
    pub fn call<R: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        self.call_service(services::TASK[0], method, request)
    }

    /// Calls a method of the sandbox service.
    pub fn call_sandbox<R: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        self.call_service(services::SANDBOX[0], method, request)
    }

    /// Calls any method, and waits for the answer.
    pub fn call_service<R: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        let mut connection = self.connection.borrow_mut();
        let sent = connection.send(service, method, request.encode_to_vec());
        let (stream, response) = connection.receive(method);
        assert_eq!(stream, sent, "another call was answered first");
        let status = response.status.unwrap_or_default();
        match Code::from(status.code) {
            Code::Ok => Ok(R::decode(response.payload).unwrap()),
            code => Err(Status::new(code, status.message)),
        }
    }

    /// Creates a container in the shim's bundle, or that of another one of its pod.
    pub fn create(&self, request: task::CreateTaskRequest) -> Result<u32, Status> {
        let mut request = request;
        if request.id.is_empty() {
            request.id.clone_from(&self.id);
            request.bundle = self.bundle.display().to_string();
        }
        let created: task::CreateTaskResponse = self.call("Create", &request)?;
        Ok(created.pid)
    }

    /// Starts a container or, with an id, what was announced by Exec.
    pub fn start(&self, exec_id: &str) -> Result<u32, Status> {
        let request = task::StartRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        };
        let started: task::StartResponse = self.call("Start", &request)?;
        Ok(started.pid)
    }

    /// Announces a process that runs a shell script.
    pub fn exec(&self, exec_id: &str, script: &str, request: task::ExecProcessRequest) {
        let process = json!({
            "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        });
        let request = task::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            spec: Some(any::pack_json(any::PROCESS, process.to_string().into())),
            ..request
        };
        self.call::<()>("Exec", &request).unwrap();
    }

    /// Waits for the end; its code.
    #[track_caller]
    pub fn wait(&self, exec_id: &str) -> u32 {
        let request = task::WaitRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        };
        let response: task::WaitResponse = self.call("Wait", &request).unwrap();
        response.exit_status
    }

    /// Sends a signal to the container's first process.
    pub fn kill(&self, signal: u32) -> Result<(), Status> {
        let request = task::KillRequest {
            id: self.id.clone(),
            signal,
            ..task::KillRequest::default()
        };
        self.call("Kill", &request)
    }

    /// Deletes a process or the container.
    pub fn delete(&self, exec_id: &str) -> Result<task::DeleteResponse, Status> {
        let request = task::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        };
        self.call("Delete", &request)
    }

    /// Ends the shim.
    pub fn shutdown(&self) {
        let request = task::ShutdownRequest {
            id: self.id.clone(),
            now: true,
        };
        let _: Result<(), Status> = self.call("Shutdown", &request);
    }

    /// The path of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        Path::new(self.result.address.strip_prefix("unix://").unwrap())
    }

    /// Its process, as this one counts: the one that has the socket among its arguments.
    #[must_use]
    pub fn pid(&self) -> u32 {
        // One that executes itself has no arguments for a moment.
        let mut pid = None;
        process::eventually(PATIENCE, || {
            pid = self.find();
            pid.is_some()
        });
        pid.expect("the shim's process")
    }

    fn find(&self) -> Option<u32> {
        let socket = self.socket().to_str().unwrap().as_bytes();
        let is_it = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == socket))
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(is_it)
    }

    /// Whether it ends within the usual patience.
    #[must_use]
    pub fn ends(&self) -> bool {
        let mut connection = self.connection.borrow_mut();
        let _ = connection
            .socket
            .set_read_timeout(Some(Duration::from_secs(30)));
        matches!(connection.socket.read(&mut [0; 64]), Ok(0))
    }

    /// What `shim delete` says.
    #[track_caller]
    pub fn clean_up(&self) -> task::DeleteResponse {
        let program = containerd::shim().unwrap();
        let mut command = self
            .station
            .command(&program, &self.id, &self.bundle, "delete");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        task::DeleteResponse::decode(&*output.stdout).unwrap()
    }
}

impl Drop for Shim<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.find() {
            process::kill(pid, 9);
            self.clean_up();
        }
    }
}
