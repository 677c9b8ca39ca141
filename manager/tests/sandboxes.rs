//! Sandboxes that our shim holds, through the daemon's API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]
#![allow(clippy::needless_update, reason = "some requests have further fields")]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knarr_proto::any;
use knarr_proto::events::SandboxExit;
use knarr_proto::services::events::v1::SubscribeRequest;
use knarr_proto::services::events::v1::events_client::EventsClient;
use knarr_proto::services::sandbox::v1::controller_client::ControllerClient;
use knarr_proto::services::sandbox::v1::{
    ControllerCreateRequest, ControllerMetricsRequest, ControllerPlatformRequest,
    ControllerShutdownRequest, ControllerStartRequest, ControllerStatusRequest,
    ControllerStatusResponse, ControllerStopRequest, ControllerUpdateRequest,
    ControllerWaitRequest,
};
use knarr_proto::types::{Envelope, Sandbox, sandbox::Runtime};
use rustix::process::{Pid, Signal};
use support::{Daemon, in_namespace};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// The newest shim that cargo built.
fn shim() -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|dir| dir.ends_with("target"))?;
    let places = [
        "x86_64-unknown-linux-musl/debug",
        "x86_64-unknown-linux-musl/release",
        "debug",
    ];
    let built = places.map(|dir| target.join(dir).join("containerd-shim-knarr-v2"));
    let modified = |path: PathBuf| Some((path.metadata().ok()?.modified().ok()?, path));
    built
        .into_iter()
        .filter_map(modified)
        .max()
        .map(|(_, path)| path)
}

macro_rules! shim_or_skip {
    () => {
        match shim() {
            Some(shim) if rustix::process::geteuid().is_root() => shim,
            _ => return println!("skipped: needs root, and knarr-shim built"),
        }
    };
}

fn sandbox(shim: &Path) -> Sandbox {
    Sandbox {
        sandbox_id: "pod".to_owned(),
        runtime: Some(Runtime {
            name: shim.display().to_string(),
            options: None,
        }),
        sandboxer: "shim".to_owned(),
        ..Sandbox::default()
    }
}

macro_rules! ask {
    ($channel:expr, $method:ident, $request:ident { $($field:ident: $value:expr),* }) => {
        ControllerClient::new($channel.clone()).$method(in_namespace($request {
            sandbox_id: "pod".to_owned(),
            sandboxer: "shim".to_owned(),
            $($field: $value,)*
            ..$request::default()
        })).await.map(|answer| answer.into_inner())
    };
}

async fn create(channel: &Channel, shim: &Path) -> Result<(), Status> {
    let sandbox = Some(sandbox(shim));
    ask!(
        channel,
        create,
        ControllerCreateRequest { sandbox: sandbox }
    )
    .map(drop)
}

async fn status(channel: &Channel) -> ControllerStatusResponse {
    ask!(channel, status, ControllerStatusRequest { verbose: true }).unwrap()
}

async fn follow(channel: &Channel) -> Streaming<Envelope> {
    let filters = vec!["topic~=^/sandboxes/".to_owned()];
    let mut events = EventsClient::new(channel.clone());
    let followed = events.subscribe(SubscribeRequest { filters }).await;
    followed.unwrap().into_inner()
}

async fn next(events: &mut Streaming<Envelope>) -> Envelope {
    let next = tokio::time::timeout(Duration::from_secs(30), events.message());
    next.await.expect("no event").unwrap().unwrap()
}

fn bundles(dir: &Path) -> usize {
    let place = dir.join("state/io.containerd.sandbox.controller.v1.shim/test");
    std::fs::read_dir(place).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lives_from_create_to_shutdown() {
    let shim = shim_or_skip!();
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let mut events = follow(&channel).await;
    create(&channel, &shim).await.unwrap();
    let error = create(&channel, &shim).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    assert_eq!(status(&channel).await.state, "SANDBOX_NOTREADY");
    ask!(channel, start, ControllerStartRequest {}).unwrap();
    let known = status(&channel).await;
    assert_eq!(known.state, "SANDBOX_READY");
    assert!(known.address.starts_with("unix:///"), "{known:?}");
    let platform = ask!(channel, platform, ControllerPlatformRequest {}).unwrap();
    assert_eq!(platform.platform.unwrap().os, "linux");
    ask!(channel, metrics, ControllerMetricsRequest {}).unwrap();
    let changed = Some(sandbox(&shim));
    ask!(
        channel,
        update,
        ControllerUpdateRequest { sandbox: changed }
    )
    .unwrap();

    // The sandbox outlives the daemon.
    daemon.kill();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    assert_eq!(next(&mut events).await.topic, "/sandboxes/create");
    assert_eq!(next(&mut events).await.topic, "/sandboxes/start");
    let mut events = follow(&channel).await;
    let start = Instant::now();
    while status(&channel).await.state != "SANDBOX_READY" {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "it is not found again"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let waiting = {
        let channel = channel.clone();
        tokio::spawn(async move { ask!(channel, wait, ControllerWaitRequest {}) })
    };
    ask!(channel, stop, ControllerStopRequest { timeout_secs: 5 }).unwrap();
    waiting.await.unwrap().unwrap();
    let told = next(&mut events).await;
    assert_eq!(told.topic, "/sandboxes/exit");
    let exit: SandboxExit = any::unpack(&told.event.unwrap()).unwrap();
    assert_eq!((&*exit.sandbox_id, exit.exit_status), ("pod", 0));
    ask!(channel, shutdown, ControllerShutdownRequest {}).unwrap();
    let error = ask!(channel, shutdown, ControllerShutdownRequest {}).unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    // As containerd says of what is not there.
    assert_eq!(status(&channel).await.state, "");
    ask!(channel, stop, ControllerStopRequest {}).unwrap();
    assert_eq!(bundles(dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_its_shim_is_told() {
    let shim = shim_or_skip!();
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    create(&channel, &shim).await.unwrap();
    ask!(channel, start, ControllerStartRequest {}).unwrap();
    let mut events = follow(&channel).await;
    let pid: i32 = status(&channel).await.info["shimPid"].parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let told = next(&mut events).await;
    let exit: SandboxExit = any::unpack(&told.event.unwrap()).unwrap();
    assert_eq!((&*told.topic, exit.exit_status), ("/sandboxes/exit", 137));
    let start = Instant::now();
    while bundles(dir.path()) > 0 {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "its bundle stays"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = ask!(channel, wait, ControllerWaitRequest {}).unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    // Its name is free.
    create(&channel, &shim).await.unwrap();
    ask!(channel, shutdown, ControllerShutdownRequest {}).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_made_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    for program in ["/no/such", "/bin/false", "/bin/true", "/bin/sh"] {
        let error = create(&channel, Path::new(program)).await.unwrap_err();
        assert!(error.message().contains("pod"), "{error}");
        assert_eq!(bundles(dir.path()), 0, "{program}");
    }
    for (sandboxer, code) in [("", Code::InvalidArgument), ("podsandbox", Code::NotFound)] {
        let request = in_namespace(ControllerStatusRequest {
            sandbox_id: "pod".to_owned(),
            sandboxer: sandboxer.to_owned(),
            ..ControllerStatusRequest::default()
        });
        let error = ControllerClient::new(channel.clone()).status(request).await;
        assert_eq!(error.unwrap_err().code(), code);
    }
}
