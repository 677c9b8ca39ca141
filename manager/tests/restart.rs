//! The daemon is killed while it pulls, unpacks, prepares and commits: what was acknowledged is there
//! afterwards, what was half done is gone on with, and whatever is left can be collected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

#[allow(dead_code, reason = "others use the rest")]
#[path = "registry/scripted.rs"]
mod scripted;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use knarr_manager::layer::tar::{Entry, Kind, Writer};
use knarr_manager::store::digest::Digest;
use knarr_proto::any;
use knarr_proto::services::content::v1::content_client::ContentClient;
use knarr_proto::services::content::v1::{InfoRequest, ListContentRequest, ListStatusesRequest};
use knarr_proto::services::images::v1::images_client::ImagesClient;
use knarr_proto::services::images::v1::{DeleteImageRequest, GetImageRequest};
use knarr_proto::services::leases::v1::leases_client::LeasesClient;
use knarr_proto::services::leases::v1::{CreateRequest, DeleteRequest, ListRequest};
use knarr_proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use knarr_proto::services::snapshots::v1::{
    CommitSnapshotRequest, Info, Kind as SnapshotKind, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use knarr_proto::services::transfer::v1::TransferRequest;
use knarr_proto::services::transfer::v1::transfer_client::TransferClient;
use knarr_proto::types::transfer::{
    ImageStore, OciRegistry, RegistryResolver, UnpackConfiguration,
};
use scripted::{Reply, Seen, Server, sha256, some_bytes};
use support::{Chance, Daemon, in_namespace};
use tonic::transport::Channel;
use tonic::{Request, Status};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How long to wait for what happens in the background.
const PATIENCE: Duration = Duration::from_secs(60);

/// An image of layers with one file each.
#[derive(Debug, Clone)]
struct Image {
    /// By digest.
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    layers: Vec<Digest>,
    /// The names of its snapshots, the lowest first.
    chain: Vec<String>,
    /// By name.
    files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    fn new(sizes: &[usize]) -> Self {
        let mut blobs = BTreeMap::new();
        let mut add = |bytes: Vec<u8>| {
            let digest = sha256(&bytes);
            blobs.insert(digest.to_string(), bytes);
            digest
        };
        let (mut layers, mut files, mut parts) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut chain: Vec<String> = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let name = format!("file{number}");
            let bytes = some_bytes(*size);
            let mut tar = Vec::new();
            let mut writer = Writer::new(&mut tar);
            let entry = Entry {
                name: name.clone().into(),
                kind: Kind::File,
                mode: 0o644,
                size: bytes.len() as u64,
                ..Entry::default()
            };
            writer.entry(&entry).unwrap();
            writer.data(&bytes).unwrap();
            writer.pad(entry.size).unwrap();
            tar.extend([0; 1024]);
            files.insert(name, bytes);
            let size = tar.len();
            let digest = add(tar);
            parts.push(format!(
                r#"{{"mediaType":"{LAYER}","digest":"{digest}","size":{size}}}"#
            ));
            chain.push(match chain.last() {
                None => digest.to_string(),
                Some(below) => sha256(format!("{below} {digest}").as_bytes()).to_string(),
            });
            layers.push(digest);
        }
        let ids: Vec<String> = layers.iter().map(|id| format!("\"{id}\"")).collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        );
        let size = config.len();
        let config = add(config.into_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"{CONFIG}","digest":"{config}","size":{size}}},"layers":[{}]}}"#,
            parts.join(",")
        );
        Self {
            blobs,
            manifest: manifest.into_bytes(),
            layers,
            chain,
            files,
        }
    }

    /// What a registry answers that has it. `slowly` makes the answer of a blob's bytes.
    fn answer(&self, seen: &Seen, slowly: impl Fn(Reply, &[u8]) -> Reply) -> Reply {
        let path = seen.target.split('?').next().unwrap();
        if path.contains("/manifests/") {
            let digest = sha256(&self.manifest).to_string();
            let length = self.manifest.len().to_string();
            let headers = [
                ("content-type", MANIFEST),
                ("docker-content-digest", &digest),
                ("content-length", &length),
            ];
            return match seen.method.as_str() {
                "HEAD" => Reply::head(200, &headers),
                _ => Reply::new(200, &headers, &self.manifest),
            };
        }
        let Some(bytes) = path
            .rsplit('/')
            .next()
            .and_then(|name| self.blobs.get(name))
        else {
            return Reply::new(404, &[], "");
        };
        let last = bytes.len() - 1;
        let (status, first, last) = match seen.range() {
            Some((first, end)) => (206, first, end.min(last)),
            None => (200, 0, last),
        };
        let wanted = &bytes[first..=last];
        let length = wanted.len().to_string();
        let range = format!("bytes {first}-{last}/{}", bytes.len());
        let headers = [("content-length", &*length), ("content-range", &*range)];
        let headers = if status == 206 {
            &headers[..]
        } else {
            &headers[..1]
        };
        slowly(Reply::head(status, headers), wanted)
    }
}

async fn pull(channel: Channel, server: String) -> Result<(), Status> {
    let source = OciRegistry {
        reference: format!("{server}/a/b:tag"),
        resolver: Some(RegistryResolver {
            default_scheme: "http".to_owned(),
            ..RegistryResolver::default()
        }),
    };
    let destination = ImageStore {
        name: "image".to_owned(),
        unpacks: vec![UnpackConfiguration {
            snapshotter: "overlayfs".to_owned(),
            ..UnpackConfiguration::default()
        }],
        ..ImageStore::default()
    };
    let request = TransferRequest {
        source: Some(any::pack(&source)),
        destination: Some(any::pack(&destination)),
        options: None,
    };
    let mut client = TransferClient::new(channel);
    client.transfer(in_namespace(request)).await.map(drop)
}

async fn offsets(channel: &Channel) -> Vec<usize> {
    let request = in_namespace(ListStatusesRequest::default());
    let mut client = ContentClient::new(channel.clone());
    let statuses = client.list_statuses(request).await;
    let statuses = statuses.unwrap().into_inner().statuses;
    let offsets = statuses.into_iter().map(|status| status.offset);
    offsets.map(|offset| offset.try_into().unwrap()).collect()
}

/// Waits for what another side is about to do.
async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All files of that name below the snapshots.
fn found(root: &Path, name: &str) -> Vec<PathBuf> {
    let dirs = fs::read_dir(root.join("snapshots/overlayfs")).unwrap();
    let paths = dirs.map(|dir| dir.unwrap().path().join("fs").join(name));
    paths.filter(|path| path.exists()).collect()
}

/// Asks whether a pulled image is whole: in the stores and on the disk.
async fn check_image(channel: &Channel, root: &Path, image: &Image) {
    let request = in_namespace(GetImageRequest {
        name: "image".to_owned(),
    });
    let found_image = ImagesClient::new(channel.clone()).get(request).await;
    let target = found_image.unwrap().into_inner().image.unwrap().target;
    assert_eq!(target.unwrap().digest, sha256(&image.manifest).to_string());
    for (digest, bytes) in &image.blobs {
        let digest = digest.clone();
        let request = in_namespace(InfoRequest { digest });
        let info = ContentClient::new(channel.clone()).info(request).await;
        let info = info.unwrap().into_inner().info.unwrap();
        assert_eq!(usize::try_from(info.size).unwrap(), bytes.len());
        let (kind, hex) = info.digest.split_once(':').unwrap();
        let kept = fs::read(root.join("content/blobs").join(kind).join(hex));
        assert!(kept.unwrap() == *bytes, "{}", info.digest);
    }
    let mut parent = String::new();
    for key in &image.chain {
        let request = in_namespace(StatSnapshotRequest {
            snapshotter: "overlayfs".to_owned(),
            key: key.clone(),
        });
        let info = SnapshotsClient::new(channel.clone()).stat(request).await;
        let info = info.unwrap().into_inner().info.unwrap();
        assert_eq!(info.kind(), SnapshotKind::Committed);
        assert_eq!(info.parent, parent);
        parent.clone_from(key);
    }
    for (name, bytes) in &image.files {
        let whole = found(root, name)
            .iter()
            .any(|path| fs::read(path).unwrap() == *bytes);
        assert!(whole, "{name}");
    }
    assert_eq!(offsets(channel).await, [0; 0]);
}

async fn snapshots(channel: &Channel, driver: &str) -> Vec<Info> {
    let request = in_namespace(ListSnapshotsRequest {
        snapshotter: driver.to_owned(),
        filters: Vec::new(),
    });
    let mut client = SnapshotsClient::new(channel.clone());
    let mut pages = client.list(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        all.extend(page.info);
    }
    all
}

/// Removes what keeps things, and waits until nothing is left anywhere.
async fn all_can_be_collected(channel: &Channel, root: &Path) {
    let mut leases = LeasesClient::new(channel.clone());
    let request = in_namespace(ListRequest::default());
    let listed = leases.list(request).await.unwrap().into_inner().leases;
    let ids = listed.into_iter().map(|lease| lease.id);
    let request = CreateRequest {
        id: "last".to_owned(),
        ..CreateRequest::default()
    };
    leases.create(in_namespace(request)).await.unwrap();
    for id in ids.chain(["last".to_owned()]) {
        let request = in_namespace(DeleteRequest { id, sync: true });
        leases.delete(request).await.unwrap();
    }
    let request = in_namespace(ListContentRequest::default());
    let mut pages = ContentClient::new(channel.clone())
        .list(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(pages.message().await.unwrap(), None);
    let count = |dir: &str| fs::read_dir(root.join(dir)).unwrap().count();
    // Half a blob may be gone on with for a day, also without a lease.
    assert_eq!(count("content/ingest"), offsets(channel).await.len());
    assert_eq!(count("content/blobs/sha256"), 0);
    for driver in ["overlayfs", "native"] {
        assert_eq!(snapshots(channel, driver).await, []);
        eventually(&format!("directories of {driver} stay"), async || {
            count(&format!("snapshots/{driver}")) == 0
        })
        .await;
    }
}

async fn remove_image(channel: &Channel) {
    let request = in_namespace(DeleteImageRequest {
        name: "image".to_owned(),
        ..DeleteImageRequest::default()
    });
    let mut images = ImagesClient::new(channel.clone());
    images.delete(request).await.unwrap();
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {test}: needs root, to unpack");
    }
    root
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_pull_is_gone_on_with() {
    if !is_root("half_a_pull_is_gone_on_with") {
        return;
    }
    let image = Image::new(&[1000, 3_000_000, 2000]);
    let large = image.layers[1].to_string();
    let half = image.blobs[&large].len() / 2;
    let stalls = Arc::new(AtomicBool::new(true));
    let server = {
        let (image, large, stalls) = (image.clone(), large.clone(), Arc::clone(&stalls));
        Server::start(move |seen, _| {
            let stall = seen.target.contains(&large) && stalls.load(Ordering::SeqCst);
            image.answer(seen, |reply, bytes| match stall {
                true => reply.bytes(&bytes[..half]).pause(PATIENCE * 10),
                false => reply.bytes(bytes),
            })
        })
        .await
    };
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let pulling = tokio::spawn(pull(channel.clone(), server.name.clone()));
    eventually("half of it does not come", async || {
        offsets(&channel).await == [half]
    })
    .await;
    // Unpacking has begun as well: as far as it came, the file is there.
    eventually("it is not unpacked while it comes", async || {
        !found(&root, "file1").is_empty()
    })
    .await;
    daemon.kill();
    pulling.await.unwrap().unwrap_err();
    stalls.store(false, Ordering::SeqCst);

    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    assert_eq!(offsets(&channel).await, [half]);
    let before = server.seen().len();
    pull(channel.clone(), server.name.clone()).await.unwrap();
    let asked = server.seen().split_off(before);
    let ranges: Vec<_> = asked
        .iter()
        .filter(|seen| seen.target.contains(&large))
        .map(Seen::range)
        .collect();
    let last = image.blobs[&large].len() - 1;
    assert_eq!(ranges, [Some((half, last))]);
    check_image(&channel, &root, &image).await;
    remove_image(&channel).await;
    all_can_be_collected(&channel, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_survive_kills_at_any_moment() {
    if !is_root("pulls_survive_kills_at_any_moment") {
        return;
    }
    let image = Image::new(&[300_000, 200_000, 50, 400_000]);
    let sent = Arc::new(AtomicUsize::new(0));
    let server = {
        let (image, sent) = (image.clone(), Arc::clone(&sent));
        Server::start(move |seen, _| {
            image.answer(seen, |reply, bytes| {
                sent.fetch_add(bytes.len(), Ordering::SeqCst);
                let pieces = bytes.chunks(bytes.len().div_ceil(5));
                pieces.fold(reply, |reply, piece| {
                    reply.bytes(piece).pause(Duration::from_millis(3))
                })
            })
        })
        .await
    };
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let mut chance = Chance(std::process::id().into());
    let (mut whole, mut ended) = (0, false);
    for _ in 0..8 {
        let mut daemon = Daemon::start(dir.path());
        let channel = daemon.connect().await;
        if ended {
            check_image(&channel, &root, &image).await;
            remove_image(&channel).await;
            all_can_be_collected(&channel, &root).await;
        }
        let pulling = tokio::spawn(pull(channel.clone(), server.name.clone()));
        // At a moment after one of its requests.
        let asked = server.seen().len() + 1 + usize::try_from(chance.below(7)).unwrap();
        while server.seen().len() < asked && !pulling.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(chance.below(30))).await;
        daemon.kill();
        ended = pulling.await.unwrap().is_ok();
        whole += usize::from(ended);
    }
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    pull(channel.clone(), server.name.clone()).await.unwrap();
    println!(
        "{whole} of 8 pulls ended before the kill, {} bytes were sent of an image of {}",
        sent.load(Ordering::SeqCst),
        image.blobs.values().map(Vec::len).sum::<usize>()
    );
    check_image(&channel, &root, &image).await;
    remove_image(&channel).await;
    all_can_be_collected(&channel, &root).await;
}

fn leased<T>(message: T) -> Request<T> {
    let mut request = in_namespace(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-lease", "l".parse().unwrap());
    request
}

/// A client's own unpacking: prepares, writes below the mount, commits. What it was told is done
/// goes into `done`: the key, the kind and the parent.
async fn layers(
    channel: Channel,
    writer: String,
    done: Arc<Mutex<BTreeMap<String, (SnapshotKind, String)>>>,
) -> Result<(), Status> {
    let mut client = SnapshotsClient::new(channel);
    let snapshotter = "native".to_owned();
    let mut parent = String::new();
    for number in 0.. {
        let key = format!("{writer} {number} active");
        let prepare = PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent: parent.clone(),
            ..PrepareSnapshotRequest::default()
        };
        let mounts = client.prepare(leased(prepare)).await?.into_inner().mounts;
        let told = |key: &str, kind| {
            let mut done = done.lock().unwrap();
            done.insert(key.to_owned(), (kind, parent.clone()));
        };
        told(&key, SnapshotKind::Active);
        let name = format!("{writer} {number}");
        fs::write(Path::new(&mounts[0].source).join(&name), &name).unwrap();
        if number % 4 == 3 {
            // Some stay as they are, and some go.
            if number % 8 == 7 {
                done.lock().unwrap().remove(&key);
                let snapshotter = snapshotter.clone();
                let remove = in_namespace(RemoveSnapshotRequest { snapshotter, key });
                client.remove(remove).await?;
            }
            continue;
        }
        // From here on until it is answered it may be either.
        done.lock().unwrap().remove(&key);
        let commit = CommitSnapshotRequest {
            snapshotter: snapshotter.clone(),
            name: name.clone(),
            key,
            ..CommitSnapshotRequest::default()
        };
        client.commit(leased(commit)).await?;
        told(&name, SnapshotKind::Committed);
        parent = if number % 5 == 4 { String::new() } else { name };
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_survive_kills_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let done = Arc::new(Mutex::new(BTreeMap::new()));
    let mut chance = Chance(std::process::id().into());
    for round in 0..5 {
        let mut daemon = Daemon::start(dir.path());
        let channel = daemon.connect().await;
        if round == 0 {
            let request = CreateRequest {
                id: "l".to_owned(),
                ..CreateRequest::default()
            };
            let mut leases = LeasesClient::new(channel.clone());
            leases.create(in_namespace(request)).await.unwrap();
        }
        let before = done.lock().unwrap().len();
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let name = format!("{round}-{writer}");
                tokio::spawn(layers(channel.clone(), name, Arc::clone(&done)))
            })
            .collect();
        // Something has to be at stake.
        while done.lock().unwrap().len() < before + 4 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(chance.below(150))).await;
        daemon.kill();
        for writer in writers {
            writer.await.unwrap().unwrap_err();
        }
    }
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let there: BTreeMap<String, Info> = snapshots(&channel, "native")
        .await
        .into_iter()
        .map(|info| (info.name.clone(), info))
        .collect();
    let done = done.lock().unwrap().clone();
    println!("{} of {} snapshots acknowledged", done.len(), there.len());
    for (key, (kind, parent)) in &done {
        let info = there.get(key).unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!((info.kind(), &info.parent), (*kind, parent), "{key}");
    }
    // Each can be used, with all that is below it.
    let mut client = SnapshotsClient::new(channel.clone());
    for (number, info) in there.values().enumerate() {
        let snapshotter = "native".to_owned();
        let mounts = match info.kind() {
            SnapshotKind::Committed => {
                let prepare = PrepareSnapshotRequest {
                    snapshotter,
                    key: format!("look {number}"),
                    parent: info.name.clone(),
                    ..PrepareSnapshotRequest::default()
                };
                let prepared = client.prepare(leased(prepare)).await;
                prepared.unwrap().into_inner().mounts
            }
            _ => {
                let key = info.name.clone();
                let mounts = in_namespace(MountsRequest { snapshotter, key });
                client.mounts(mounts).await.unwrap().into_inner().mounts
            }
        };
        let tree = Path::new(&mounts[0].source);
        let mut below = Some(info);
        while let Some(layer) = below {
            let name = layer.name.trim_end_matches(" active");
            let told = layer.kind() == SnapshotKind::Committed;
            match fs::read_to_string(tree.join(name)) {
                Ok(text) => assert_eq!(text, name),
                Err(error) => assert!(!told, "{name} of {}: {error}", info.name),
            }
            below = there.get(&layer.parent);
        }
    }
    all_can_be_collected(&channel, &root).await;
}
