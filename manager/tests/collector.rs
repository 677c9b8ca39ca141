//! What calls wait for while the collector looks at many objects, and removes many.
//!
//! `KNARR_GC_OBJECTS` says how many images there are, each of a manifest, a configuration, a layer and
//! a snapshot; a tenth as much is removed. The times of calls are printed, those of the same calls
//! without a collector first: writes wait for the disk. With `TMPDIR` in memory they do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use knarr_manager::store::digest::Algorithm;
use knarr_proto::services::content::v1::content_client::ContentClient;
use knarr_proto::services::content::v1::{
    InfoRequest, ListContentRequest, WriteAction, WriteContentRequest,
};
use knarr_proto::services::images::v1::images_client::ImagesClient;
use knarr_proto::services::images::v1::{
    CreateImageRequest, GetImageRequest, Image, ListImagesRequest,
};
use knarr_proto::services::leases::v1::leases_client::LeasesClient;
use knarr_proto::services::leases::v1::{CreateRequest, DeleteRequest};
use knarr_proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use knarr_proto::services::snapshots::v1::{
    CommitSnapshotRequest, PrepareSnapshotRequest, StatSnapshotRequest,
};
use knarr_proto::types::Descriptor;
use support::{Daemon, in_namespace};
use tonic::Request;
use tonic::transport::Channel;

const DRIVER: &str = "native";

/// How many clients make objects.
const MAKERS: usize = 32;

/// How often calls are made with no collector at work.
const QUIET: usize = 300;

/// How often objects that stay are collected.
const ROUNDS: usize = 10;

fn leased<T>(message: T, lease: &str) -> Request<T> {
    let mut request = in_namespace(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-lease", lease.parse().unwrap());
    request
}

async fn create_lease(channel: &Channel, id: &str) {
    let request = CreateRequest {
        id: id.to_owned(),
        ..CreateRequest::default()
    };
    let mut leases = LeasesClient::new(channel.clone());
    leases.create(in_namespace(request)).await.unwrap();
}

/// Removes a lease and collects.
async fn end_lease(channel: &Channel, id: &str) {
    let id = id.to_owned();
    let mut leases = LeasesClient::new(channel.clone());
    let request = in_namespace(DeleteRequest { id, sync: true });
    leases.delete(request).await.unwrap();
}

type Labels = HashMap<String, String>;

async fn write(channel: &Channel, data: &str, labels: Labels, lease: &str) -> String {
    let digest = Algorithm::Sha256.digest(data.as_bytes()).to_string();
    let request = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: data.to_owned(),
        data: data.as_bytes().to_vec().into(),
        labels: labels.into_iter().collect(),
        ..WriteContentRequest::default()
    };
    let mut content = ContentClient::new(channel.clone());
    let requests = leased(tokio_stream::iter([request]), lease);
    let mut answers = content.write(requests).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    digest
}

/// What an image consists of. The manifest's digest.
async fn make(channel: &Channel, name: &str, lease: &str) -> String {
    let mut snapshots = SnapshotsClient::new(channel.clone());
    let prepare = PrepareSnapshotRequest {
        snapshotter: DRIVER.to_owned(),
        key: format!("preparing {name}"),
        ..PrepareSnapshotRequest::default()
    };
    snapshots.prepare(leased(prepare, lease)).await.unwrap();
    let commit = CommitSnapshotRequest {
        snapshotter: DRIVER.to_owned(),
        name: name.to_owned(),
        key: format!("preparing {name}"),
        ..CommitSnapshotRequest::default()
    };
    snapshots.commit(leased(commit, lease)).await.unwrap();
    let label = |key: &str, value: &str| (format!("containerd.io/gc.ref.{key}"), value.to_owned());
    let layer = format!("the layer of {name}");
    let layer = write(channel, &layer, Labels::new(), lease).await;
    let labels = [label(&format!("snapshot.{DRIVER}"), name)].into();
    let config = format!("the configuration of {name}");
    let config = write(channel, &config, labels, lease).await;
    let labels = [
        label("content.config", &config),
        label("content.l.0", &layer),
    ]
    .into();
    write(channel, &format!("the manifest of {name}"), labels, lease).await
}

async fn create_image(channel: &Channel, name: &str, digest: String) {
    let image = Image {
        name: name.to_owned(),
        target: Some(Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest,
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
    images.create(in_namespace(request)).await.unwrap();
}

/// Makes `count` images, or only what they would consist of.
async fn make_all(channel: &Channel, count: usize, lease: &'static str, named: bool) {
    let makers = (0..MAKERS).map(|maker| {
        let channel = channel.clone();
        tokio::spawn(async move {
            for number in (maker..count).step_by(MAKERS) {
                let name = format!("{lease} {number}");
                let digest = make(&channel, &name, lease).await;
                if named {
                    create_image(&channel, &name, digest).await;
                }
            }
        })
    });
    for maker in makers.collect::<Vec<_>>() {
        maker.await.unwrap();
    }
}

/// How long calls took.
#[derive(Default)]
struct Times {
    reads: Vec<Duration>,
    writes: Vec<Duration>,
}

impl Times {
    /// One call that reads and one that writes, over and over.
    async fn take(&mut self, channel: &Channel, enough: impl Fn(usize) -> bool) {
        let mut images = ImagesClient::new(channel.clone());
        while !enough(self.reads.len()) {
            let start = Instant::now();
            let name = "stay 1".to_owned();
            images
                .get(in_namespace(GetImageRequest { name }))
                .await
                .unwrap();
            self.reads.push(start.elapsed());
            let start = Instant::now();
            create_lease(channel, &format!("call {start:?}")).await;
            self.writes.push(start.elapsed());
        }
    }

    /// The same while `work` goes on.
    async fn during(&mut self, channel: &Channel, work: impl Future<Output = ()>) -> Duration {
        let over = Arc::new(AtomicBool::new(false));
        let caller = {
            let (channel, over) = (channel.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut times = Self::default();
                let enough = |count| count > 0 && over.load(Ordering::Relaxed);
                times.take(&channel, enough).await;
                times
            })
        };
        let start = Instant::now();
        work.await;
        let took = start.elapsed();
        over.store(true, Ordering::Relaxed);
        let mut times = caller.await.unwrap();
        self.reads.append(&mut times.reads);
        self.writes.append(&mut times.writes);
        took
    }

    fn print(mut self, when: &str) {
        for (kind, times) in [("reads", &mut self.reads), ("writes", &mut self.writes)] {
            times.sort_unstable();
            let at = |part: usize| times[(times.len() - 1) * part / 1000].as_secs_f64() * 1e3;
            println!(
                "{when:28} {kind:6} {:6} calls, ms: median {:7.3}, 99 % {:7.3}, 99.9 % {:7.3}, longest {:7.3}",
                times.len(),
                at(500),
                at(990),
                at(999),
                at(1000),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_holds_up_nobody() {
    let images: usize = std::env::var("KNARR_GC_OBJECTS").map_or(60, |text| text.parse().unwrap());
    let unwanted = images / 10;
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    create_lease(&channel, "stay").await;
    create_lease(&channel, "go").await;
    make_all(&channel, images, "stay", true).await;
    make_all(&channel, unwanted, "go", false).await;
    end_lease(&channel, "stay").await;

    let mut quiet = Times::default();
    quiet.take(&channel, |count| count == QUIET).await;
    let mut staying = Times::default();
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        let id = format!("round {round}");
        create_lease(&channel, &id).await;
        let took = staying.during(&channel, end_lease(&channel, &id)).await;
        longest = longest.max(took);
    }
    let mut removing = Times::default();
    let took = removing.during(&channel, end_lease(&channel, "go")).await;
    println!(
        "{images} images, a collection {longest:?}, one that removes {unwanted} more {took:?}"
    );
    quiet.print("no collection");
    staying.print("while looking");
    removing.print("while removing");

    // All is there that should be, and nothing else.
    let mut client = ImagesClient::new(channel.clone());
    let listed = client.list(in_namespace(ListImagesRequest::default()));
    assert_eq!(listed.await.unwrap().into_inner().images.len(), images);
    let mut content = ContentClient::new(channel.clone());
    let listed = content.list(in_namespace(ListContentRequest::default()));
    let (mut listed, mut count) = (listed.await.unwrap().into_inner(), 0);
    while let Some(page) = listed.message().await.unwrap() {
        count += page.info.len();
    }
    assert_eq!(count, 3 * images);
    let digest = Algorithm::Sha256.digest(b"the layer of stay 1").to_string();
    let info = content.info(in_namespace(InfoRequest { digest })).await;
    assert!(info.is_ok(), "{info:?}");
    for (key, there) in [("stay 1", true), ("go 1", false)] {
        let request = in_namespace(StatSnapshotRequest {
            snapshotter: DRIVER.to_owned(),
            key: key.to_owned(),
        });
        let found = SnapshotsClient::new(channel.clone()).stat(request).await;
        assert_eq!(found.is_ok(), there, "{key}");
    }
    let blobs = std::fs::read_dir(dir.path().join("root/content/blobs/sha256"));
    assert_eq!(blobs.unwrap().count(), 3 * images);
}
