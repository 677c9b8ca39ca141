//! The client against a small server on a thread, which is written as a shim is, and
//! against containerd's own shim where there is one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{env, fs};

use knarr_proto::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use knarr_proto::containerd::task::v2 as task;
use knarr_proto::prost::Message;
use knarr_proto::ttrpc::services::{TASK, Task, TaskClient, dispatch_task};
use knarr_proto::ttrpc::{
    Call, Client, Code, Error, Options, Received, Receiver, Reply, Status, answer, reply,
};
use tempfile::TempDir;
use tokio::time::sleep;

type Answer<T> = Result<Reply<T>, Status>;

/// Containers that run, with those who wait for them.
#[derive(Default)]
struct Shim {
    waiting: HashMap<String, Vec<u32>>,
    /// Answers that a call made due.
    out: Vec<u8>,
    /// How many calls came in.
    calls: u32,
}

fn no_task(id: &str) -> Status {
    Status::new(Code::NotFound, format!("no task {id}"))
}

/// Methods that nothing here calls.
macro_rules! absent {
    ($($method:ident($request:ident) -> $response:ty;)+) => {
        $(fn $method(&mut self, call: &Call, _: task::$request) -> Answer<$response> {
            Err(call.unimplemented())
        })+
    };
}

impl Task for Shim {
    /// Known are those that somebody waits for.
    fn state(&mut self, _: &Call, request: task::StateRequest) -> Answer<task::StateResponse> {
        if !self.waiting.contains_key(&request.id) {
            return Err(no_task(&request.id));
        }
        let response = task::StateResponse {
            id: request.id,
            ..task::StateResponse::default()
        };
        Ok(response.into())
    }

    /// Answers what the call's envelope held.
    fn connect(
        &mut self,
        call: &Call,
        request: task::ConnectRequest,
    ) -> Answer<task::ConnectResponse> {
        let response = task::ConnectResponse {
            version: match request.id.as_str() {
                "long" => "x".repeat(5 << 20),
                _ => format!("{} {:?} {:?}", call.service, call.namespace(), call.timeout),
            },
            ..task::ConnectResponse::default()
        };
        Ok(response.into())
    }

    fn wait(&mut self, call: &Call, request: task::WaitRequest) -> Answer<task::WaitResponse> {
        self.waiting
            .entry(request.id)
            .or_default()
            .push(call.stream);
        Ok(Reply::Later)
    }

    fn kill(&mut self, _: &Call, request: task::KillRequest) -> Answer<()> {
        let waiting = self.waiting.remove(&request.id);
        for stream in waiting.ok_or_else(|| no_task(&request.id))? {
            let response = task::WaitResponse {
                exit_status: 128 + request.signal,
                exited_at: None,
            };
            answer(&mut self.out, stream, Ok(response));
        }
        Ok(().into())
    }

    absent! {
        create(CreateTaskRequest) -> task::CreateTaskResponse;
        start(StartRequest) -> task::StartResponse;
        delete(DeleteRequest) -> task::DeleteResponse;
        pids(PidsRequest) -> task::PidsResponse;
        pause(PauseRequest) -> ();
        resume(ResumeRequest) -> ();
        checkpoint(CheckpointTaskRequest) -> ();
        exec(ExecProcessRequest) -> ();
        resize_pty(ResizePtyRequest) -> ();
        close_io(CloseIoRequest) -> ();
        update(UpdateTaskRequest) -> ();
        stats(StatsRequest) -> task::StatsResponse;
        shutdown(ShutdownRequest) -> ();
    }
}

/// Serves one connection until it ends or a call of Shutdown ends it; tells how many calls came.
fn serve(path: &Path) -> JoinHandle<u32> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut shim = Shim::default();
        let mut receiver = Receiver::default();
        let mut bytes = [0; 1000];
        loop {
            let count = socket.read(&mut bytes).unwrap_or(0);
            if count == 0 {
                return shim.calls;
            }
            receiver.push(&bytes[..count]);
            let mut out = Vec::new();
            while let Some(received) = receiver.take() {
                shim.calls += 1;
                match received {
                    Received::Refused(refusal) => out.extend(refusal),
                    Received::Call(call) if call.method == "Shutdown" => return shim.calls,
                    Received::Call(call) if TASK.contains(&call.service.as_str()) => {
                        reply(&mut out, call.stream, dispatch_task(&mut shim, &call));
                        out.append(&mut shim.out);
                    }
                    Received::Call(call) => reply(&mut out, call.stream, Err(call.unimplemented())),
                }
            }
            if socket.write_all(&out).is_err() {
                return shim.calls;
            }
        }
    })
}

/// Runs a test with a client that is connected to the server above.
fn with_client<F: Future<Output = ()>>(test: impl FnOnce(Client) -> F) -> u32 {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let server = serve(&path);
    in_runtime(async { test(Client::connect(&path).await.unwrap()).await });
    server.join().unwrap()
}

fn in_runtime<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), future)
            .await
            .unwrap()
    })
}

/// For calls that are answered at once.
fn soon() -> Options {
    Options {
        namespace: "test".into(),
        timeout: Some(Duration::from_secs(30)),
    }
}

fn wait_for(id: &str) -> task::WaitRequest {
    task::WaitRequest {
        id: id.into(),
        ..task::WaitRequest::default()
    }
}

fn state_of(id: &str) -> task::StateRequest {
    task::StateRequest {
        id: id.into(),
        ..task::StateRequest::default()
    }
}

fn kill(id: &str) -> task::KillRequest {
    task::KillRequest {
        id: id.into(),
        signal: 9,
        ..task::KillRequest::default()
    }
}

#[test]
fn a_call_carries_its_envelope() {
    with_client(|client| async move {
        let connect = |id: &str| task::ConnectRequest { id: id.into() };
        let response = TaskClient::v2(client.clone())
            .connect(&connect("web"), &soon())
            .await
            .unwrap();
        assert_eq!(
            response.version,
            r#"containerd.task.v2.Task Some("test") Some(30s)"#
        );
        let none = Options::default();
        let response = TaskClient::v3(client)
            .connect(&connect("web"), &none)
            .await
            .unwrap();
        assert_eq!(response.version, "containerd.task.v3.Task None None");
    });
}

#[test]
fn errors_come_through() {
    with_client(|client| async move {
        let tasks = TaskClient::v3(client.clone());
        let error = tasks.state(&state_of("web"), &soon()).await.unwrap_err();
        assert_eq!(
            error,
            Error::Status(Status::new(Code::NotFound, "no task web"))
        );

        let error = tasks
            .pids(&task::PidsRequest::default(), &soon())
            .await
            .unwrap_err();
        assert_eq!(Status::from(error).code, Code::Unimplemented);

        let error = client
            .call::<_, ()>("no.Service", "State", &(), &soon())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no no.Service/State (Unimplemented)"
        );
    });
}

#[test]
fn answers_overtake_each_other() {
    with_client(|client| async move {
        let tasks = TaskClient::v3(client);
        let mut waiters = Vec::new();
        for number in 0..200 {
            let tasks = tasks.clone();
            waiters.push(tokio::spawn(async move {
                tasks
                    .wait(&wait_for(&format!("c{number}")), &Options::default())
                    .await
            }));
        }
        for number in (0..200).rev() {
            // Known as soon as its waiter's call has come.
            let id = format!("c{number}");
            while tasks.kill(&kill(&id), &soon()).await.is_err() {
                sleep(Duration::from_millis(1)).await;
            }
            let response = waiters.pop().unwrap().await.unwrap().unwrap();
            assert_eq!(response.exit_status, 137);
        }
    });
}

#[test]
fn deadlines_are_each_calls_own() {
    let calls = with_client(|client| async move {
        let tasks = TaskClient::v3(client.clone());
        let long = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.wait(&wait_for("web"), &Options::default()).await }
        });
        let short = Options {
            timeout: Some(Duration::from_millis(20)),
            ..Options::default()
        };
        let error = tasks.wait(&wait_for("web"), &short).await.unwrap_err();
        assert_eq!(error, Error::Deadline);
        // The answer to the call that was given up hits nobody.
        tasks.kill(&kill("web"), &soon()).await.unwrap();
        assert_eq!(long.await.unwrap().unwrap().exit_status, 137);
        assert!(format!("{client:?}").contains("waiting: 0"), "{client:?}");
    });
    assert_eq!(calls, 3);
}

#[test]
fn a_broken_connection_ends_all_calls() {
    with_client(|client| async move {
        let tasks = TaskClient::v3(client.clone());
        let mut waiters = Vec::new();
        for _ in 0..50 {
            let tasks = tasks.clone();
            waiters.push(tokio::spawn(async move {
                tasks.wait(&wait_for("web"), &Options::default()).await
            }));
        }
        while tasks.state(&state_of("web"), &soon()).await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
        let request = task::ShutdownRequest::default();
        let error = tasks.shutdown(&request, &soon()).await.unwrap_err();
        assert!(matches!(error, Error::Closed(_)), "{error}");
        for waiter in waiters {
            assert!(matches!(waiter.await.unwrap(), Err(Error::Closed(_))));
        }
        client.closed().await;
        let error = tasks.state(&state_of("web"), &soon()).await.unwrap_err();
        assert_eq!(Status::from(error).code, Code::Unavailable);
    });
}

#[test]
fn an_answer_before_the_end_counts() {
    let directory = TempDir::new().unwrap();
    for round in 0..50 {
        let path = directory.path().join(round.to_string());
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut receiver = Receiver::default();
            let mut bytes = [0; 10];
            loop {
                let count = socket.read(&mut bytes).unwrap();
                receiver.push(&bytes[..count]);
                if let Some(Received::Call(call)) = receiver.take() {
                    let mut out = Vec::new();
                    answer(&mut out, call.stream, Ok(()));
                    return socket.write_all(&out).unwrap();
                }
            }
        });
        in_runtime(async {
            let tasks = TaskClient::v3(Client::connect(&path).await.unwrap());
            let calls = (0..20).map(|_| {
                let tasks = tasks.clone();
                tokio::spawn(
                    async move { tasks.pause(&task::PauseRequest::default(), &soon()).await },
                )
            });
            let mut calls = calls.collect::<Vec<_>>().into_iter();
            assert_eq!(calls.next().unwrap().await.unwrap(), Ok(()));
            for call in calls {
                assert!(matches!(call.await.unwrap(), Err(Error::Closed(_))));
            }
        });
        server.join().unwrap();
    }
}

#[test]
fn messages_that_are_too_long_fail_their_call_alone() {
    with_client(|client| async move {
        let tasks = TaskClient::v3(client);
        let request = task::UpdateTaskRequest {
            id: "x".repeat(5 << 20),
            ..task::UpdateTaskRequest::default()
        };
        let error = tasks.update(&request, &soon()).await.unwrap_err();
        assert_eq!(Status::from(error).code, Code::ResourceExhausted);

        let request = task::ConnectRequest { id: "long".into() };
        let error = tasks.connect(&request, &soon()).await.unwrap_err();
        assert_eq!(Status::from(error).code, Code::ResourceExhausted);

        let error = tasks.state(&state_of("web"), &soon()).await.unwrap_err();
        assert_eq!(Status::from(error).code, Code::NotFound);
    });
}

#[test]
fn the_connection_ends_with_its_last_client() {
    let calls = with_client(|client| async move {
        let other = client.clone();
        drop(client);
        let tasks = TaskClient::v3(other);
        tasks.state(&state_of("web"), &soon()).await.unwrap_err();
    });
    assert_eq!(calls, 1);
}

/// Says on stderr, and in the file that `KNARR_SKIPS` names, that a test did not run.
fn skip(test: &str, reason: &str) {
    let line = format!("skipped: ttrpc_client::{test}: {reason}\n");
    eprint!("{line}");
    if let Some(file) = env::var_os("KNARR_SKIPS") {
        let file = fs::OpenOptions::new().append(true).create(true).open(file);
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// containerd's newest shim, as `make peers` fetches it. Older ones have their sockets in
/// a directory of the host.
fn peer() -> Option<PathBuf> {
    let peers = env::var_os("KNARR_PEERS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers"),
        PathBuf::from,
    );
    let program = peers.join("newest/containerd-shim-runc-v2");
    program.exists().then_some(program)
}

/// A shim that may run, which holds its id on its command line.
struct Started(String);

impl Drop for Started {
    fn drop(&mut self) {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if line
                .split(|byte| *byte == 0)
                .any(|word| word == self.0.as_bytes())
            {
                let _ = Command::new("kill")
                    .arg("-9")
                    .arg(process.file_name())
                    .status();
            }
        }
    }
}

/// Starts a shim for a container that is never created, and asks it.
#[test]
fn containerds_own_shim_answers() {
    let Some(program) = peer() else {
        let reason = "no containerd-shim-runc-v2; make peers fetches it";
        assert!(env::var_os("KNARR_NEED_PEERS").is_none(), "{reason}");
        skip("containerds_own_shim_answers", reason);
        return;
    };
    let bundle = TempDir::new().unwrap();
    fs::write(
        bundle.path().join("config.json"),
        r#"{"ociVersion":"1.0.2"}"#,
    )
    .unwrap();
    // A path in it has to fit a socket's address, with the 64 characters of a digest.
    let sockets = tempfile::Builder::new()
        .prefix("s")
        .rand_bytes(4)
        .tempdir()
        .unwrap();
    let id = format!("proto-{}", std::process::id());
    let daemon = bundle.path().join("daemon.sock");
    // Where the shim sends its events and its log.
    let _events = UnixListener::bind(&daemon).unwrap();
    let log = bundle.path().join("log");
    let made = Command::new("mkfifo").arg(&log).status().unwrap();
    assert!(made.success());
    let _log = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&log)
        .unwrap();
    let _started = Started(id.clone());
    let params = BootstrapParams {
        instance_id: id.clone(),
        namespace: "knarr-test".into(),
        containerd_ttrpc_address: daemon.to_str().unwrap().into(),
        containerd_grpc_address: daemon.to_str().unwrap().into(),
        containerd_binary: "/bin/true".into(),
        socket_dir: Some(sockets.path().to_str().unwrap().into()),
        ..BootstrapParams::default()
    };
    let mut start = Command::new(&program)
        .args([
            "-namespace",
            "knarr-test",
            "-id",
            &id,
            "-publish-binary",
            "/bin/true",
            "-address",
        ])
        .arg(&daemon)
        .arg("start")
        .env("TTRPC_ADDRESS", &daemon)
        .env("GRPC_ADDRESS", &daemon)
        .env("NAMESPACE", "knarr-test")
        .env("MAX_SHIM_VERSION", "2")
        .current_dir(bundle.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    start
        .stdin
        .take()
        .unwrap()
        .write_all(&params.encode_to_vec())
        .unwrap();
    let output = start.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let BootstrapResult {
        version, address, ..
    } = BootstrapResult::decode(output.stdout.as_slice()).unwrap();
    let path = PathBuf::from(address.strip_prefix("unix://").unwrap());
    assert_eq!(version, 3);

    in_runtime(async {
        let client = Client::connect(&path).await.unwrap();
        let tasks = TaskClient::v3(client.clone());
        let error = tasks.state(&state_of(&id), &soon()).await.unwrap_err();
        assert_eq!(Status::from(error).code, Code::NotFound);

        let error = client
            .call::<_, ()>("no.Service", "State", &(), &soon())
            .await
            .unwrap_err();
        assert_eq!(Status::from(error).code, Code::Unimplemented);

        // Without its container it answers with its own pid, or that there is none.
        let request = task::ConnectRequest { id: id.clone() };
        match tasks.connect(&request, &soon()).await {
            Ok(response) => assert_ne!(response.shim_pid, 0),
            Err(error) => assert_eq!(Status::from(error).code, Code::NotFound),
        }

        let calls = (0..50).map(|_| {
            let (tasks, request) = (tasks.clone(), state_of(&id));
            tokio::spawn(async move { tasks.state(&request, &soon()).await })
        });
        for call in calls.collect::<Vec<_>>() {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!(Status::from(error).code, Code::NotFound);
        }

        let request = task::ShutdownRequest {
            id: id.clone(),
            now: true,
        };
        match tasks.shutdown(&request, &soon()).await {
            Ok(()) | Err(Error::Closed(_)) => {}
            Err(error) => panic!("{error}"),
        }
        client.closed().await;
    });
}
