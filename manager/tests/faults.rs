//! What goes wrong around the daemon: the disk is full, clients vanish, clients get in each other's
//! way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use knarr_manager::store::digest::Algorithm;
use knarr_proto::prost_types::Any;
use knarr_proto::services::containers::v1::container::Runtime;
use knarr_proto::services::containers::v1::containers_client::ContainersClient;
use knarr_proto::services::containers::v1::{
    Container, CreateContainerRequest, UpdateContainerRequest,
};
use knarr_proto::services::content::v1::content_client::ContentClient;
use knarr_proto::services::content::v1::{
    Info as BlobInfo, StatusRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use knarr_proto::services::events::v1::events_client::EventsClient;
use knarr_proto::services::events::v1::{PublishRequest, SubscribeRequest};
use knarr_proto::services::images::v1::images_client::ImagesClient;
use knarr_proto::services::images::v1::{
    CreateImageRequest, GetImageRequest, Image, UpdateImageRequest,
};
use knarr_proto::services::leases::v1::leases_client::LeasesClient;
use knarr_proto::services::leases::v1::{AddResourceRequest, CreateRequest, Resource};
use knarr_proto::services::namespaces::v1::namespaces_client::NamespacesClient;
use knarr_proto::services::namespaces::v1::{
    CreateNamespaceRequest, Namespace, UpdateNamespaceRequest,
};
use knarr_proto::services::sandbox::v1::store_client::StoreClient;
use knarr_proto::services::sandbox::v1::{StoreCreateRequest, StoreUpdateRequest};
use knarr_proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use knarr_proto::services::snapshots::v1::{
    CommitSnapshotRequest, Info, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest, UpdateSnapshotRequest, ViewSnapshotRequest,
};
use knarr_proto::types::{Descriptor, Sandbox};
use support::{Daemon, command, in_namespace};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

async fn create_lease(channel: &Channel, id: &str) -> Result<(), Status> {
    let request = CreateRequest {
        id: id.to_owned(),
        ..CreateRequest::default()
    };
    let mut leases = LeasesClient::new(channel.clone());
    leases.create(in_namespace(request)).await.map(drop)
}

fn leased<T>(message: T) -> Request<T> {
    let mut request = in_namespace(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-lease", "l".parse().unwrap());
    request
}

async fn create_image(channel: &Channel, name: &str) -> Result<(), Status> {
    let image = Image {
        name: name.to_owned(),
        target: Some(Descriptor {
            media_type: "application/octet-stream".into(),
            digest: Algorithm::Sha256.digest(name.as_bytes()).to_string(),
            size: 1,
            ..Descriptor::default()
        }),
        ..Image::default()
    };
    let request = CreateImageRequest {
        image: Some(image),
        ..CreateImageRequest::default()
    };
    let mut images = ImagesClient::new(channel.clone());
    images.create(in_namespace(request)).await.map(drop)
}

async fn has_image(channel: &Channel, name: &str) -> bool {
    let request = in_namespace(GetImageRequest { name: name.into() });
    ImagesClient::new(channel.clone())
        .get(request)
        .await
        .is_ok()
}

/// Writes a blob in one message.
async fn write(channel: &Channel, name: &str, data: Vec<u8>, done: bool) -> Result<(), Status> {
    let action = match done {
        true => WriteAction::Commit,
        false => WriteAction::Write,
    };
    let request = WriteContentRequest {
        action: action.into(),
        r#ref: name.to_owned(),
        data: data.into(),
        ..WriteContentRequest::default()
    };
    let mut content = ContentClient::new(channel.clone());
    let requests = leased(tokio_stream::iter([request]));
    let mut answers = content.write(requests).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

async fn prepare(channel: &Channel, key: &str, parent: &str) -> Result<(), Status> {
    let request = leased(PrepareSnapshotRequest {
        snapshotter: "native".to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        ..PrepareSnapshotRequest::default()
    });
    let mut snapshots = SnapshotsClient::new(channel.clone());
    snapshots.prepare(request).await.map(drop)
}

async fn commit(channel: &Channel, name: &str, key: &str) -> Result<(), Status> {
    let request = leased(CommitSnapshotRequest {
        snapshotter: "native".to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        ..CommitSnapshotRequest::default()
    });
    let mut snapshots = SnapshotsClient::new(channel.clone());
    snapshots.commit(request).await.map(drop)
}

async fn remove(channel: &Channel, key: &str) -> Result<(), Status> {
    let request = in_namespace(RemoveSnapshotRequest {
        snapshotter: "native".to_owned(),
        key: key.to_owned(),
    });
    let mut snapshots = SnapshotsClient::new(channel.clone());
    snapshots.remove(request).await.map(drop)
}

/// The daemon with a root directory on a disk of so many megabytes.
fn on_a_small_disk(dir: &Path, size: usize) -> Daemon {
    let root = dir.join("root");
    fs::create_dir(&root).unwrap();
    let daemon = command(dir);
    let script = format!("mount -t tmpfs -o size={size}m none \"$0\" && exec \"$@\"");
    let mut own = Command::new("unshare");
    own.args(["-m", "--propagation", "private", "sh", "-ec", &script]);
    own.arg(&root)
        .arg(daemon.get_program())
        .args(daemon.get_args());
    Daemon::run(dir, own)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_survived() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: a_full_disk_is_told_and_survived: needs root, to mount");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = on_a_small_disk(dir.path(), 8);
    let channel = daemon.connect().await;
    create_lease(&channel, "l").await.unwrap();
    create_image(&channel, "before").await.unwrap();
    prepare(&channel, "active", "").await.unwrap();
    let seen = format!("/proc/{}/root", daemon.child.id());
    let filler = Path::new(&seen).join(dir.path().join("root/filler").strip_prefix("/").unwrap());
    for round in 0..3 {
        let full = fs::write(&filler, vec![1; 16 << 20]);
        assert!(full.is_err(), "the disk is larger than it should be");
        // A page of the database may be free still.
        let mut refused = None;
        let mut kept = Vec::new();
        for number in 0..5000 {
            let name = format!("image {round} {number}");
            match create_image(&channel, &name).await {
                Ok(()) => kept.push(name),
                Err(status) => {
                    refused = Some(status);
                    break;
                }
            }
        }
        let status = refused.expect("the disk never gets full");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let status = write(&channel, "blob", vec![7; 4 << 20], true).await;
        let status = status.expect_err("there is no room for it");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(!status.message().contains('\n'), "{status}");
        // What was refused has given back what it had: small things may fit.
        for done in [
            create_lease(&channel, &format!("more {round}")).await,
            prepare(&channel, &format!("p{round}"), "").await,
            remove(&channel, &format!("p{round}")).await,
        ] {
            let clear = [Code::ResourceExhausted, Code::NotFound];
            let wrong = done.err().filter(|status| !clear.contains(&status.code()));
            assert!(wrong.is_none(), "{wrong:?}");
        }
        // It serves on.
        assert!(has_image(&channel, "before").await);
        fs::remove_file(&filler).unwrap();
        create_image(&channel, &format!("after {round}"))
            .await
            .unwrap();
        let data = round.to_string().into_bytes();
        write(&channel, &format!("blob {round}"), data, true)
            .await
            .unwrap();
        for name in &kept {
            assert!(has_image(&channel, name).await, "{name}");
        }
    }
    commit(&channel, "committed", "active").await.unwrap();
    assert!(daemon.child.try_wait().unwrap().is_none());
}

/// Labels of half a megabyte, for which no room is left between records.
fn labels() -> BTreeMap<String, String> {
    let label = |number| (format!("{number}"), "x".repeat(4000));
    (0..125).map(label).collect()
}

fn large() -> Any {
    Any {
        type_url: "large".to_owned(),
        value: vec![7; 500_000],
    }
}

/// Calls each method that writes a record with much to write.
async fn write_by_each(channel: &Channel, round: usize) -> Vec<(&'static str, Result<(), Status>)> {
    let name = format!("new {round}").replace(' ', "-");
    let old = |name: &str| format!("old-{name}");
    let mut done = Vec::new();
    let mut client = NamespacesClient::new(channel.clone());
    let namespace = Some(Namespace {
        name: name.clone(),
        labels: labels(),
    });
    let request = CreateNamespaceRequest { namespace };
    done.push(("namespaces create", client.create(request).await.map(drop)));
    let namespace = Some(Namespace {
        name: "test".to_owned(),
        labels: labels(),
    });
    let update_mask = None;
    let request = UpdateNamespaceRequest {
        namespace,
        update_mask,
    };
    done.push(("namespaces update", client.update(request).await.map(drop)));

    let mut client = ImagesClient::new(channel.clone());
    let image = |name: &str| {
        let target = Some(Descriptor {
            media_type: "application/octet-stream".into(),
            digest: Algorithm::Sha256.digest(b"x").to_string(),
            size: 1,
            ..Descriptor::default()
        });
        Some(Image {
            name: name.to_owned(),
            target,
            labels: labels(),
            ..Image::default()
        })
    };
    let request = CreateImageRequest {
        image: image(&name),
        ..CreateImageRequest::default()
    };
    let answer = client.create(in_namespace(request)).await;
    done.push(("images create", answer.map(drop)));
    let request = UpdateImageRequest {
        image: image("before"),
        ..UpdateImageRequest::default()
    };
    let answer = client.update(in_namespace(request)).await;
    done.push(("images update", answer.map(drop)));

    let mut client = ContainersClient::new(channel.clone());
    let container = |id: &str| {
        let runtime = Some(Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: None,
        });
        Some(Container {
            id: id.to_owned(),
            runtime,
            spec: Some(large()),
            ..Container::default()
        })
    };
    let request = CreateContainerRequest {
        container: container(&name),
    };
    let answer = client.create(in_namespace(request)).await;
    done.push(("containers create", answer.map(drop)));
    let request = UpdateContainerRequest {
        container: container(&old("container")),
        update_mask: None,
    };
    let answer = client.update(in_namespace(request)).await;
    done.push(("containers update", answer.map(drop)));

    let mut client = LeasesClient::new(channel.clone());
    let request = CreateRequest {
        id: name.clone(),
        labels: labels(),
    };
    let answer = client.create(in_namespace(request)).await;
    done.push(("leases create", answer.map(drop)));
    let resource = Some(Resource {
        id: "x".repeat(500_000),
        r#type: "ingests".to_owned(),
    });
    let id = "l".to_owned();
    let request = AddResourceRequest { id, resource };
    let answer = client.add_resource(in_namespace(request)).await;
    done.push(("leases add resource", answer.map(drop)));

    let mut client = SnapshotsClient::new(channel.clone());
    let snapshotter = "native".to_owned();
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: name.clone(),
        labels: labels(),
        ..PrepareSnapshotRequest::default()
    };
    let answer = client.prepare(leased(request)).await;
    done.push(("snapshots prepare", answer.map(drop)));
    let request = ViewSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: format!("view {name}"),
        labels: labels(),
        ..ViewSnapshotRequest::default()
    };
    let answer = client.view(leased(request)).await;
    done.push(("snapshots view", answer.map(drop)));
    let request = CommitSnapshotRequest {
        snapshotter: snapshotter.clone(),
        name: format!("committed {name}"),
        key: old("active"),
        labels: labels(),
        ..CommitSnapshotRequest::default()
    };
    let answer = client.commit(leased(request)).await;
    done.push(("snapshots commit", answer.map(drop)));
    let request = UpdateSnapshotRequest {
        snapshotter,
        info: Some(Info {
            name: old("snapshot"),
            labels: labels(),
            ..Info::default()
        }),
        update_mask: None,
    };
    let answer = client.update(in_namespace(request)).await;
    done.push(("snapshots update", answer.map(drop)));

    let mut client = ContentClient::new(channel.clone());
    let request = UpdateRequest {
        info: Some(BlobInfo {
            digest: Algorithm::Sha256.digest(b"old-blob").to_string(),
            labels: labels(),
            ..BlobInfo::default()
        }),
        update_mask: None,
    };
    let answer = client.update(in_namespace(request)).await;
    done.push(("content update", answer.map(drop)));
    let answer = write(channel, &name, vec![7; 4 << 20], true).await;
    done.push(("content write", answer));

    let mut client = StoreClient::new(channel.clone());
    let sandbox = |id: &str| {
        Some(Sandbox {
            sandbox_id: id.to_owned(),
            spec: Some(large()),
            ..Sandbox::default()
        })
    };
    let request = StoreCreateRequest {
        sandbox: sandbox(&name),
    };
    let answer = client.create(in_namespace(request)).await;
    done.push(("sandboxes create", answer.map(drop)));
    let request = StoreUpdateRequest {
        sandbox: sandbox(&old("sandbox")),
        fields: Vec::new(),
    };
    let answer = client.update(in_namespace(request)).await;
    done.push(("sandboxes update", answer.map(drop)));

    let mut client = EventsClient::new(channel.clone());
    let request = PublishRequest {
        topic: "/large".to_owned(),
        event: Some(large()),
    };
    let answer = client.publish(in_namespace(request)).await;
    done.push(("events publish", answer.map(drop)));
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_method_that_writes_tells_of_a_full_disk() {
    if !rustix::process::geteuid().is_root() {
        return println!(
            "skipped: each_method_that_writes_tells_of_a_full_disk: needs root, to mount"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = on_a_small_disk(dir.path(), 64);
    let channel = daemon.connect().await;
    // What is there to be changed.
    create_lease(&channel, "l").await.unwrap();
    create_image(&channel, "before").await.unwrap();
    for key in ["old-active", "old-snapshot"] {
        prepare(&channel, key, "").await.unwrap();
    }
    write(&channel, "blob", b"old-blob".to_vec(), true)
        .await
        .unwrap();
    let container = Some(Container {
        id: "old-container".to_owned(),
        runtime: Some(Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: None,
        }),
        spec: Some(Any::default()),
        ..Container::default()
    });
    let request = CreateContainerRequest { container };
    let mut containers = ContainersClient::new(channel.clone());
    containers.create(in_namespace(request)).await.unwrap();
    let sandbox = Some(Sandbox {
        sandbox_id: "old-sandbox".to_owned(),
        ..Sandbox::default()
    });
    let request = StoreCreateRequest { sandbox };
    let mut sandboxes = StoreClient::new(channel.clone());
    sandboxes.create(in_namespace(request)).await.unwrap();

    let seen = format!("/proc/{}/root", daemon.child.id());
    let filler = Path::new(&seen).join(dir.path().join("root/filler").strip_prefix("/").unwrap());
    let full = fs::write(&filler, vec![1; 128 << 20]);
    assert!(full.is_err(), "the disk is larger than it should be");
    for (method, done) in write_by_each(&channel, 0).await {
        let status = done.expect_err(method);
        assert_eq!(status.code(), Code::ResourceExhausted, "{method}: {status}");
        let message = status.message();
        assert!(!message.contains('\n'), "{method}: {message}");
        assert!(message.contains("No space left"), "{method}: {message}");
    }
    assert!(has_image(&channel, "before").await);
    fs::remove_file(&filler).unwrap();
    for (method, done) in write_by_each(&channel, 1).await {
        assert!(done.is_ok(), "{method}: {done:?}");
    }
    assert!(daemon.child.try_wait().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_may_vanish() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    for _ in 0..20 {
        // A connection of its own, which breaks in the middle of both streams.
        let channel = daemon.connect().await;
        let _ = create_lease(&channel, "l").await;
        let mut events = EventsClient::new(channel.clone());
        let followed = events.subscribe(SubscribeRequest::default()).await.unwrap();
        let half = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: "half".to_owned(),
            data: vec![7; 1000].into(),
            ..WriteContentRequest::default()
        };
        let (sender, requests) = tokio::sync::mpsc::channel(1);
        sender.send(half).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut content = ContentClient::new(channel.clone());
        let start = Instant::now();
        let mut answers = match content.write(leased(requests)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => panic!("{status}"),
        };
        // Until the daemon has noticed that the one before has gone.
        if let Err(status) = answers.message().await {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(start.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop((answers, sender, followed, content, events, channel));
    }
    let channel = daemon.connect().await;
    let request = in_namespace(StatusRequest {
        r#ref: "half".to_owned(),
    });
    let status = ContentClient::new(channel.clone()).status(request).await;
    assert_eq!(status.unwrap().into_inner().status.unwrap().offset, 1000);
    let start = Instant::now();
    while let Err(status) = write(&channel, "half", vec![8; 10], true).await {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(start.elapsed() < Duration::from_secs(30), "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One removes what the other builds upon: one of them is told so, and no child is without parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_that_remove_and_use_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    create_lease(&channel, "l").await.unwrap();
    let mut won = [0, 0];
    for round in 0..60 {
        let (parent, child) = (format!("p{round}"), format!("c{round}"));
        prepare(&channel, "work", "").await.unwrap();
        commit(&channel, &parent, "work").await.unwrap();
        let (used, removed) = tokio::join!(
            prepare(&channel, &child, &parent),
            remove(&channel, &parent)
        );
        let stat = in_namespace(StatSnapshotRequest {
            snapshotter: "native".to_owned(),
            key: parent.clone(),
        });
        let there = SnapshotsClient::new(channel.clone())
            .stat(stat)
            .await
            .is_ok();
        match (used, removed) {
            (Ok(()), Err(status)) => {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                assert!(there);
                won[0] += 1;
            }
            (Err(status), Ok(())) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                assert!(!there);
                won[1] += 1;
            }
            both => panic!("{both:?}"),
        }
    }
    println!("used {} times, removed {} times", won[0], won[1]);
}
