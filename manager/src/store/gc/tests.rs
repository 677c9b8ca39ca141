//! Tests of the collector.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::snapshot::Native;
use crate::store::content::{Info, Order};
use crate::store::digest::{Algorithm, Digest};
use crate::store::images::Images;
use crate::store::leases::{Leases, Resource};
use crate::store::schema::{Descriptor, SnapshotKind};

const SPACE: &str = "default";

#[derive(Clone)]
struct All {
    content: Content,
    images: Images,
    leases: Leases,
    snapshots: Local,
    collector: Collector,
}

impl All {
    fn open(dir: &Path) -> Self {
        let database = Arc::new(Database::open(&dir.join("db")).unwrap());
        let content = Content::open(dir, Arc::clone(&database)).unwrap();
        let driver = Box::new(Native::open(&dir.join("snapshots")).unwrap());
        let snapshots = Local::new(Arc::clone(&database), driver);
        let mounts = Mounts::open(&dir.join("mounts"), Arc::clone(&database)).unwrap();
        let all = vec![snapshots.clone()];
        Self {
            images: Images::new(Arc::clone(&database)),
            leases: Leases::new(Arc::clone(&database)),
            collector: Collector::new(database, content.clone(), all, mounts),
            content,
            snapshots,
        }
    }

    async fn blob(&self, bytes: &str, labels: &[(&str, &str)], lease: Option<&str>) -> Digest {
        let order = Order {
            reference: bytes.to_owned(),
            lease: lease.map(str::to_owned),
            ..Order::default()
        };
        let mut writer = self.content.write(SPACE, order).await.unwrap();
        writer.write(bytes.as_bytes()).unwrap();
        let Info { digest, .. } = writer.commit(0, None, map(labels)).await.unwrap();
        digest
    }

    async fn image(&self, name: &str, digest: &Digest, labels: &[(&str, &str)]) {
        let target = Descriptor {
            media_type: "application/octet-stream".to_owned(),
            digest: digest.to_string(),
            size: 1,
            annotations: Labels::new(),
        };
        let made = self.images.create(SPACE, name, target, map(labels)).await;
        made.unwrap();
    }

    async fn snapshot(&self, key: &str, parent: &str, labels: &[(&str, &str)]) {
        let prepared = self.snapshots.prepare(
            SPACE,
            "work",
            parent,
            SnapshotKind::Active,
            Labels::new(),
            None,
        );
        prepared.await.unwrap();
        let committed = self.snapshots.commit(SPACE, key, "work", map(labels), None);
        committed.await.unwrap();
    }

    fn has(&self, digest: &Digest) -> bool {
        let row = self.content.info(SPACE, digest).is_ok();
        let file = self.content.read(SPACE, digest).is_ok();
        assert_eq!(row, file, "{digest}");
        row
    }
}

fn map(labels: &[(&str, &str)]) -> Labels {
    let labels = labels.iter();
    labels
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("blobs/sha256")).unwrap().count()
}

#[tokio::test]
async fn what_an_image_refers_to_stays() {
    let dir = tempfile::tempdir().unwrap();
    let all = All::open(dir.path());
    let layer = all.blob("layer", &[], None).await;
    all.snapshot("below", "", &[]).await;
    all.snapshot("top", "below", &[]).await;
    all.snapshot("stray", "below", &[]).await;
    let manifest = all
        .blob(
            "manifest",
            &[
                ("containerd.io/gc.ref.content.0", layer.as_str()),
                ("containerd.io/gc.ref.snapshot.native", "top"),
            ],
            None,
        )
        .await;
    let about = all
        .blob(
            "about",
            &[("containerd.io/gc.bref.content", manifest.as_str())],
            None,
        )
        .await;
    let root = all.blob("root", &[(ROOT, "x")], None).await;
    let stray = all.blob("stray", &[], None).await;
    all.image("i", &manifest, &[]).await;
    let removed = all.collector.collect().await.unwrap();
    let expected = Removed {
        blobs: 1,
        snapshots: 1,
        ..Removed::default()
    };
    assert_eq!(removed, expected);
    for kept in [&layer, &manifest, &about, &root] {
        assert!(all.has(kept), "{kept}");
    }
    assert!(!all.has(&stray));
    assert_eq!(files(dir.path()), 4);
    all.images.delete(SPACE, "i", None).await.unwrap();
    let removed = all.collector.collect().await.unwrap();
    let expected = Removed {
        blobs: 3,
        snapshots: 2,
        ..Removed::default()
    };
    assert_eq!(removed, expected);
    assert!(all.has(&root));
    assert_eq!(files(dir.path()), 1);
    assert_eq!(all.collector.collect().await.unwrap(), Removed::default());
}

#[tokio::test]
async fn a_lease_keeps_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let all = All::open(dir.path());
    let past = [(EXPIRE, "2001-02-03T04:05:06Z")];
    for (id, labels) in [("deep", &[][..]), ("flat", &[(FLAT, "x")]), ("over", &past)] {
        all.leases.create(SPACE, id, map(labels)).await.unwrap();
    }
    let below = all.blob("below", &[], None).await;
    let refers = [("containerd.io/gc.ref.content", below.as_str())];
    let top = all.blob("top", &refers, Some("deep")).await;
    let over = all.blob("over", &[], Some("over")).await;
    let removed = all.collector.collect().await.unwrap();
    let expected = Removed {
        blobs: 1,
        leases: 1,
        ..Removed::default()
    };
    assert_eq!(removed, expected);
    assert!(all.has(&top) && all.has(&below) && !all.has(&over));
    let resource = Resource {
        kind: "content".to_owned(),
        id: top.to_string(),
    };
    all.leases.add(SPACE, "flat", resource).await.unwrap();
    all.leases.delete(SPACE, "deep").await.unwrap();
    all.collector.collect().await.unwrap();
    assert!(all.has(&top) && !all.has(&below));
    all.leases.delete(SPACE, "flat").await.unwrap();
    all.collector.collect().await.unwrap();
    assert!(!all.has(&top));
}

#[tokio::test]
async fn what_a_crash_left_goes() {
    let dir = tempfile::tempdir().unwrap();
    let all = All::open(dir.path());
    let digest = Algorithm::Sha256.digest(b"lost");
    let blobs = dir.path().join("blobs/sha256");
    std::fs::write(blobs.join(digest.hex()), "lost").unwrap();
    std::fs::write(dir.path().join("ingest/4711"), "lost").unwrap();
    // Half a blob that somebody will go on with.
    let order = Order {
        reference: "half".to_owned(),
        ..Order::default()
    };
    let mut writer = all.content.write(SPACE, order).await.unwrap();
    writer.write(b"half").unwrap();
    drop(writer);
    all.collector.collect().await.unwrap();
    assert_eq!(files(dir.path()), 0);
    assert_eq!(all.content.status(SPACE, "half").unwrap().offset, 4);
    assert_eq!(
        std::fs::read_dir(dir.path().join("ingest"))
            .unwrap()
            .count(),
        1
    );
}

/// Clients make images while one collection follows the other: nothing of theirs may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_while_clients_work() {
    let dir = tempfile::tempdir().unwrap();
    let all = All::open(dir.path());
    let done = Arc::new(AtomicBool::new(false));
    let collect = {
        let (all, done) = (all.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut removed = 0;
            while !done.load(Ordering::Relaxed) {
                removed += all.collector.collect().await.unwrap().blobs;
            }
            removed
        })
    };
    let clients = (0..4).map(|client| {
        let all = all.clone();
        tokio::spawn(async move {
            for round in 0..25 {
                let name = format!("{client}-{round}");
                all.leases
                    .create(SPACE, &name, Labels::new())
                    .await
                    .unwrap();
                let layer = all.blob(&format!("layer {name}"), &[], Some(&name)).await;
                let refers = [("containerd.io/gc.ref.content.0", layer.as_str())];
                let top = all.blob(&format!("top {name}"), &refers, Some(&name)).await;
                let stray = all.blob(&format!("stray {name}"), &[], Some(&name)).await;
                all.image(&name, &top, &[]).await;
                all.leases.delete(SPACE, &name).await.unwrap();
                assert!(all.has(&top) && all.has(&layer), "{name}");
                drop(stray);
                if round % 2 == 0 {
                    all.images.delete(SPACE, &name, None).await.unwrap();
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let removed = collect.await.unwrap();
    let rest = all.collector.collect().await.unwrap();
    // Of each 13 + 12 rounds a stray one, and the two of an image that went.
    assert_eq!(removed + rest.blobs, 4 * (25 + 2 * 13));
    let mut left = 0;
    let everything = super::super::filter::Filters::default();
    all.content
        .list(SPACE, &everything, |info| {
            assert!(all.has(&info.digest));
            left += 1;
        })
        .unwrap();
    assert_eq!(left, 4 * 2 * 12);
    assert_eq!(files(dir.path()), left);
}

#[tokio::test]
async fn one_collection_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let all = All::open(dir.path());
    let start = Instant::now();
    let (one, other) = tokio::join!(all.collector.collect(), all.collector.collect());
    assert!(
        one.is_ok() != other.is_ok(),
        "{one:?} {other:?} {:?}",
        start.elapsed()
    );
}

/// A parent may be younger than its child: what is removed begins with the child all the same.
#[test]
fn a_child_goes_before_its_parent() {
    let object = |key: &str| Object::Snapshot(SPACE.to_owned(), "a".to_owned(), key.to_owned());
    let all = [
        ("c", "b"),
        ("b", "a"),
        ("a", ""),
        ("z", "c"),
        ("lost", "gone"),
    ];
    let snapshots = all.map(|(key, parent)| {
        let parent = Some(parent).filter(|parent| !parent.is_empty());
        (object(key), parent.map(object))
    });
    let order = parents_first(snapshots.into());
    let at = |key: &str| order.iter().position(|one| *one == object(key)).unwrap();
    assert_eq!(order.len(), 5);
    assert!(at("a") < at("b") && at("b") < at("c") && at("c") < at("z"));
}
