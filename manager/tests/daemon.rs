//! The daemon as a program, through its socket: what it survives, and what it keeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use knarr_manager::store::database::Database;
use knarr_manager::store::digest::Algorithm;
use knarr_proto::services::content::v1::content_client::ContentClient;
use knarr_proto::services::content::v1::{
    InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest,
};
use knarr_proto::services::events::v1::SubscribeRequest;
use knarr_proto::services::events::v1::events_client::EventsClient;
use knarr_proto::services::images::v1::images_client::ImagesClient;
use knarr_proto::services::images::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image,
};
use knarr_proto::services::leases::v1::leases_client::LeasesClient;
use knarr_proto::services::leases::v1::{CreateRequest, DeleteRequest};
use knarr_proto::services::snapshots::v1::PrepareSnapshotRequest;
use knarr_proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use knarr_proto::services::version::v1::version_client::VersionClient;
use knarr_proto::types::Descriptor;
use rustix::process::{Pid, Signal};
use support::wire::{call, methods};
use support::{Chance, Daemon, command, in_namespace};
use tonic::transport::Channel;
use tonic::{Code, Status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let methods = methods();
    assert_eq!(methods.len(), 88);
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for path in &methods {
        let code = call(&channel, path, Vec::new()).await;
        let known = !matches!(code, Code::Unknown | Code::Unavailable | Code::Cancelled);
        assert!(known, "{path}: {code:?}");
        for _ in 0..20 {
            call(&channel, path, chance.message(3)).await;
        }
        let garbage = (0..100).map(|_| chance.byte()).collect();
        call(&channel, path, garbage).await;
        VersionClient::new(channel.clone())
            .version(())
            .await
            .unwrap_or_else(|status| panic!("after {path}: {status}"));
    }
    assert!(daemon.child.try_wait().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_when_told_to_whatever_clients_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let mode = std::fs::metadata(&daemon.socket).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let health = call(&channel, "/grpc.health.v1.Health/Check", Vec::new()).await;
    assert_eq!(health, Code::Ok);
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    // list_services, of all hosts.
    let listed = call(&channel, reflection, vec![0x3a, 0]).await;
    assert_eq!(listed, Code::Ok);

    // One that never reads, and a stream that never ends.
    let _silent = std::os::unix::net::UnixStream::connect(&daemon.socket).unwrap();
    let mut events = EventsClient::new(channel);
    let subscribed = events.subscribe(SubscribeRequest::default()).await;
    let mut events = subscribed.unwrap().into_inner();
    let pid = Pid::from_child(&daemon.child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let end = events.message().await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    let status = daemon.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!daemon.socket.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_one_leaves_the_first_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    daemon.connect().await;
    let second = command(dir.path()).output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("in use by another process"), "{said}");
    let channel = daemon.connect().await;
    let version = VersionClient::new(channel).version(()).await;
    assert!(version.is_ok(), "{version:?}");
}

/// The kernel needs a moment to take a killed process apart, longer where it waits for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_starts_while_the_one_before_is_still_dying() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    let dying = Database::open(&dir.path().join("root/metadata.db")).unwrap();
    let mut daemon = Daemon::start(dir.path());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(daemon.child.try_wait().unwrap().is_none());
    assert!(!daemon.socket.exists());
    drop(dying);
    daemon.connect().await;
    for _ in 0..10 {
        let mut killed = daemon;
        killed.child.kill().unwrap();
        daemon = Daemon::start(dir.path());
        daemon.connect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let mut images = ImagesClient::new(daemon.connect().await);
    let request = GetImageRequest { name: "a".into() };
    let status = images.get(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        "namespace is required: failed precondition"
    );
}

/// Names a blob by an image, then writes it in two pieces. Whether all of it was acknowledged.
async fn store(channel: &Channel, name: &str, data: &[u8]) -> Result<String, Status> {
    let digest = Algorithm::Sha256.digest(data).to_string();
    let total = i64::try_from(data.len()).unwrap();
    let image = Image {
        name: name.to_owned(),
        target: Some(Descriptor {
            media_type: "application/octet-stream".into(),
            digest: digest.clone(),
            size: total,
            ..Descriptor::default()
        }),
        ..Image::default()
    };
    let request = CreateImageRequest {
        image: Some(image),
        ..CreateImageRequest::default()
    };
    let mut images = ImagesClient::new(channel.clone());
    images.create(in_namespace(request)).await?;
    let (first, second) = data.split_at(data.len() / 2);
    let piece = |action: WriteAction, offset: usize, data: &[u8]| WriteContentRequest {
        action: action.into(),
        r#ref: name.to_owned(),
        total,
        expected: digest.clone(),
        offset: i64::try_from(offset).unwrap(),
        data: data.to_vec().into(),
        ..WriteContentRequest::default()
    };
    let requests = [
        piece(WriteAction::Write, 0, first),
        piece(WriteAction::Commit, first.len(), second),
    ];
    let mut content = ContentClient::new(channel.clone());
    let requests = in_namespace(tokio_stream::iter(requests));
    let mut answers = content.write(requests).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(digest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_names_any_longer_goes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let digest = store(&channel, "a", b"data").await.unwrap();
    let request = DeleteImageRequest {
        name: "a".into(),
        ..DeleteImageRequest::default()
    };
    let mut images = ImagesClient::new(channel.clone());
    images.delete(in_namespace(request)).await.unwrap();
    let start = Instant::now();
    loop {
        let request = InfoRequest {
            digest: digest.clone(),
        };
        let mut content = ContentClient::new(channel.clone());
        match content.info(in_namespace(request)).await {
            Ok(_) => assert!(start.elapsed() < Duration::from_secs(60), "it stays"),
            Err(status) => break assert_eq!(status.code(), Code::NotFound, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn data(name: &str) -> Vec<u8> {
    let seed = name
        .bytes()
        .fold(1, |sum: u64, byte| sum * 31 + u64::from(byte));
    let mut chance = Chance(seed);
    let length = 1 + chance.below(200_000);
    (0..length).map(|_| chance.byte()).collect()
}

/// Asks whether all is there and right.
async fn check(channel: &Channel, names: &[String]) {
    for name in names {
        let mut images = ImagesClient::new(channel.clone());
        let request = GetImageRequest { name: name.clone() };
        let image = images.get(in_namespace(request)).await.unwrap();
        let target = image.into_inner().image.unwrap().target.unwrap();
        let request = ReadContentRequest {
            digest: target.digest,
            ..ReadContentRequest::default()
        };
        let mut content = ContentClient::new(channel.clone());
        let mut pieces = content
            .read(in_namespace(request))
            .await
            .unwrap()
            .into_inner();
        let mut read = Vec::new();
        while let Some(piece) = pieces.message().await.unwrap() {
            read.extend_from_slice(&piece.data);
        }
        assert!(read == data(name), "{name} is another now");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = Arc::new(Mutex::new(Vec::<String>::new()));
    let mut chance = Chance(std::process::id().into());
    for round in 0..5 {
        let mut daemon = Daemon::start(dir.path());
        let channel = daemon.connect().await;
        let before = acknowledged.lock().unwrap().clone();
        check(&channel, &before).await;
        let writers = (0..4).map(|writer| {
            let (channel, acknowledged) = (channel.clone(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for number in 0.. {
                    let name = format!("{round}-{writer}-{number}");
                    if store(&channel, &name, &data(&name)).await.is_err() {
                        return;
                    }
                    acknowledged.lock().unwrap().push(name);
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        // Something has to be at stake.
        while acknowledged.lock().unwrap().len() < before.len() + 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(chance.below(300))).await;
        daemon.kill();
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let mut leases = LeasesClient::new(channel.clone());
    let id = "l".to_owned();
    let lease = CreateRequest {
        id: id.clone(),
        ..CreateRequest::default()
    };
    leases.create(in_namespace(lease)).await.unwrap();
    // What a collection removes is not what anybody was told is there.
    let delete = DeleteRequest { id, sync: true };
    leases.delete(in_namespace(delete)).await.unwrap();
    let names = acknowledged.lock().unwrap().clone();
    println!("{} blobs and images", names.len());
    check(&channel, &names).await;
}

/// Whoever mounts a snapshot, or finds a socket, has another working directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_may_be_relative() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_knarrd"));
    command.current_dir(dir.path());
    command.args(["--root", "root", "--state", "state", "--address", "socket"]);
    let mut daemon = Daemon::run(dir.path(), command);
    let channel = daemon.connect().await;
    let request = in_namespace(PrepareSnapshotRequest {
        snapshotter: "overlayfs".to_owned(),
        key: "a".to_owned(),
        ..PrepareSnapshotRequest::default()
    });
    let made = SnapshotsClient::new(channel).prepare(request).await;
    let source = made.unwrap().into_inner().mounts[0].source.clone();
    let root = dir.path().canonicalize().unwrap();
    assert!(source.starts_with(root.to_str().unwrap()), "{source}");
}
