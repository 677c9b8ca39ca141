//! Shims that are not ours: one that speaks gRPC. It is this program, and holds no container.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod support;

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use knarr_proto::containerd::task::v2::{
    ConnectResponse, CreateTaskResponse, DeleteResponse, StartResponse, StateResponse, WaitResponse,
};
use knarr_proto::prost::Message;
use knarr_proto::prost_types::Any;
use knarr_proto::services::containers::v1::containers_client::ContainersClient;
use knarr_proto::services::containers::v1::{Container, CreateContainerRequest, container};
use knarr_proto::services::tasks::v1::tasks_client::TasksClient;
use knarr_proto::services::tasks::v1::{
    CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, PauseTaskRequest, StartRequest,
    WaitRequest,
};
use support::wire::Raw;
use support::{Daemon, in_namespace};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};

/// Names the socket that [`is_a_shim_when_asked_to`] is to listen at.
const SHIM: &str = "KNARR_TEST_SHIM";

const KILLED: u32 = 137;

/// The task service of a shim, with one task that runs until it is killed.
#[derive(Clone)]
struct Shim(watch::Sender<bool>);

impl NamedService for Shim {
    const NAME: &'static str = "containerd.task.v3.Task";
}

impl Service<http::Request<Body>> for Shim {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let method = path.rsplit('/').next().unwrap().to_owned();
        let one = Method(self.clone(), method);
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).unary(one, request).await) })
    }
}

struct Method(Shim, String);

impl UnaryService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let (shim, method) = (self.0.clone(), self.1.clone());
        assert_eq!(
            request.metadata().get("containerd-namespace").unwrap(),
            "test"
        );
        Box::pin(async move { shim.answer(&method).await.map(Response::new) })
    }
}

impl Shim {
    async fn answer(&self, method: &str) -> Result<Vec<u8>, Status> {
        let pid = std::process::id();
        let killed = *self.0.borrow();
        let answer = match method {
            "Create" => CreateTaskResponse { pid }.encode_to_vec(),
            "Start" => StartResponse { pid }.encode_to_vec(),
            "Connect" => ConnectResponse {
                shim_pid: pid,
                task_pid: pid,
                version: "3".to_owned(),
            }
            .encode_to_vec(),
            "State" => StateResponse {
                id: "one".to_owned(),
                pid,
                // As containerd.v1.types.Status has them: running and stopped.
                status: if killed { 3 } else { 2 },
                exit_status: if killed { KILLED } else { 0 },
                ..StateResponse::default()
            }
            .encode_to_vec(),
            "Kill" => {
                self.0.send_replace(true);
                Vec::new()
            }
            "Wait" => {
                let mut killed = self.0.subscribe();
                let _ = killed.wait_for(|killed| *killed).await;
                WaitResponse {
                    exit_status: KILLED,
                    exited_at: None,
                }
                .encode_to_vec()
            }
            "Delete" => DeleteResponse {
                pid,
                exit_status: KILLED,
                exited_at: None,
            }
            .encode_to_vec(),
            "Pause" => return Err(Status::failed_precondition("not now")),
            "Shutdown" => std::process::exit(0),
            _ => return Err(Status::unimplemented(method)),
        };
        Ok(answer)
    }
}

#[test]
fn is_a_shim_when_asked_to() {
    let Some(socket) = std::env::var_os(SHIM).map(PathBuf::from) else {
        return;
    };
    // Whatever becomes of the test.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(120));
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let server = Server::builder().add_service(Shim(watch::Sender::new(false)));
        let incoming = UnixListenerStream::new(listener);
        server.serve_with_incoming(incoming).await.unwrap();
    });
}

/// The program that starts it.
fn program(dir: &Path) -> PathBuf {
    let path = dir.join("containerd-shim-test-v1");
    let (socket, own) = (dir.join("shim.sock"), std::env::current_exe().unwrap());
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\n[ \"$last\" = start ] || exit 0\n\
         {SHIM}={socket} setsid {own} --exact is_a_shim_when_asked_to </dev/null >/dev/null 2>&1 &\n\
         while [ ! -S {socket} ]; do sleep 0.01; done\n\
         printf '{{\"version\": 3, \"address\": \"unix://{socket}\", \"protocol\": \"grpc\"}}'\n",
        socket = socket.display(),
        own = own.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn create(channel: &Channel, program: &Path) -> u32 {
    let container = Container {
        id: "one".to_owned(),
        runtime: Some(container::Runtime {
            name: program.display().to_string(),
            options: None,
        }),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
            value: b"{}".to_vec(),
        }),
        ..Container::default()
    };
    let request = CreateContainerRequest {
        container: Some(container),
    };
    let mut containers = ContainersClient::new(channel.clone());
    // It stays for the next task of the name.
    let _ = containers.create(in_namespace(request)).await;
    let request = CreateTaskRequest {
        container_id: "one".to_owned(),
        ..CreateTaskRequest::default()
    };
    let mut tasks = TasksClient::new(channel.clone());
    let made = tasks.create(in_namespace(request)).await.unwrap();
    made.into_inner().pid
}

fn get() -> Request<GetRequest> {
    in_namespace(GetRequest {
        container_id: "one".to_owned(),
        ..GetRequest::default()
    })
}

async fn status(channel: &Channel) -> Result<i32, Status> {
    let found = TasksClient::new(channel.clone()).get(get()).await?;
    Ok(found.into_inner().process.unwrap().status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_may_speak_grpc() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a_shim_may_speak_grpc: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path());
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let pid = create(&channel, &program).await;
    let mut tasks = TasksClient::new(channel.clone());
    let started = tasks.start(in_namespace(StartRequest {
        container_id: "one".to_owned(),
        ..StartRequest::default()
    }));
    assert_eq!(started.await.unwrap().into_inner().pid, pid);
    assert_eq!(status(&channel).await.unwrap(), 2);
    let pause = tasks.pause(in_namespace(PauseTaskRequest {
        container_id: "one".to_owned(),
    }));
    let refused = pause.await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("not now"), "{refused}");

    // It is found again.
    daemon.kill();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    assert_eq!(status(&channel).await.unwrap(), 2);
    let mut tasks = TasksClient::new(channel.clone());
    let mut waiting = tasks.clone();
    let wait = tokio::spawn(async move {
        let request = in_namespace(WaitRequest {
            container_id: "one".to_owned(),
            ..WaitRequest::default()
        });
        waiting
            .wait(request)
            .await
            .unwrap()
            .into_inner()
            .exit_status
    });
    let kill = KillRequest {
        container_id: "one".to_owned(),
        signal: 9,
        ..KillRequest::default()
    };
    tasks.kill(in_namespace(kill)).await.unwrap();
    assert_eq!(wait.await.unwrap(), KILLED);
    let delete = DeleteTaskRequest {
        container_id: "one".to_owned(),
    };
    let deleted = tasks.delete(in_namespace(delete)).await.unwrap();
    assert_eq!(deleted.into_inner().exit_status, KILLED);
    let gone = status(&channel).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound, "{gone}");

    // One that dies takes its task with it.
    fs::remove_file(dir.path().join("shim.sock")).unwrap();
    let pid = create(&channel, &program).await;
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let start = Instant::now();
    while status(&channel).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(30), "it stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
