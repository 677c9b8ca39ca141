//! Layers that are made of what changed: unpacked again they give the same tree.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use knarr_manager::layer::tar::Kind;
use knarr_manager::layer::{Compression, Layers, Limits, New};
use knarr_manager::snapshot::Mount;
use knarr_manager::store::content::Content;
use knarr_manager::store::database::Database;
use knarr_manager::store::digest::Algorithm;

use crate::help::{PROGRAM, Tar, apply, bind, is_root, listing, overlay};

/// The layer of a difference.
async fn diff(lower: &[Mount], upper: &[Mount], epoch: Option<i64>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    let layers = Layers::new(PROGRAM, Limits::default());
    let sink = fs::File::create(&path).unwrap();
    let made = layers.diff(lower, upper, Compression::None, epoch, sink);
    let made = made.await.unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(made.size, bytes.len() as u64);
    assert_eq!(made.diff_id, Algorithm::Sha256.digest(&bytes));
    bytes
}

fn shell(script: &str, arguments: &[&str]) {
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-ec", script, "sh"])
        .args(arguments);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
}

/// What a container does to its files.
const WORK: &str = "
    echo new >new; rm -r gone; rm file; mkdir file; echo x >file/x
    chmod 700 mode; ln kept other; mkdir -p a/b; mknod a/p p; mknod a/c c 1 5; ln -s nowhere a/l
    rm -r again; mkdir again; echo 2 >again/2; echo more >>changed; chown 5:6 owner
    touch -d @1234567890.5 a/b; setfattr -n user.x -v y a/c 2>/dev/null || setfattr -n user.x -v y new
";

fn base() -> Vec<u8> {
    Tar::new()
        .dir("gone")
        .file("gone/x", b"")
        .file("file", b"")
        .dir("mode")
        .file("mode/in", b"")
        .file("kept", b"kept")
        .dir("again")
        .file("again/1", b"")
        .file("changed", b"some ")
        .file("owner", b"")
        .dir("same")
        .file("same/x", b"")
        .link("same/y", Kind::HardLink, "same/x")
        .end()
}

#[tokio::test]
async fn of_directories() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let places = ["old", "new", "again"].map(|name| dir.path().join(name));
    for place in &places {
        fs::create_dir(place).unwrap();
        apply(&base(), &bind(place)).await.unwrap();
    }
    let [old, new, again] = &places;
    shell(&format!("cd \"$1\"; {WORK}"), &[new.to_str().unwrap()]);
    let layer = diff(&bind(old), &bind(new), None).await;
    assert_eq!(layer, diff(&bind(old), &bind(new), None).await);
    apply(&layer, &bind(again)).await.unwrap();
    assert_eq!(listing(new), listing(again));
    let text = String::from_utf8_lossy(&layer);
    assert!(!text.contains("same/"), "an unchanged file is in the layer");
    assert!(
        diff(&bind(new), &bind(again), None)
            .await
            .iter()
            .all(|byte| *byte == 0)
    );
    // All of it, where there was nothing.
    fs::remove_dir_all(again).unwrap();
    fs::create_dir(again).unwrap();
    apply(&diff(&[], &bind(new), None).await, &bind(again))
        .await
        .unwrap();
    assert_eq!(listing(new), listing(again));
}

#[tokio::test]
async fn of_an_overlay() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for layers in [&["one"][..], &["two", "one"]] {
        let mounts = overlay(dir.path(), layers);
        for name in ["one", "two", "upper", "again", "seen"] {
            let _ = fs::remove_dir_all(path(name));
            fs::create_dir(path(name)).unwrap();
        }
        apply(&base(), &bind(&path("one"))).await.unwrap();
        apply(&base(), &bind(&path("again"))).await.unwrap();
        let script =
            format!("mount -t overlay overlay -o \"$1\" /mnt; cd /mnt; {WORK} cp -a . \"$2\"");
        shell(
            &script,
            &[&mounts[0].options.join(","), path("seen").to_str().unwrap()],
        );
        let below = match layers {
            [one] => bind(&path(one)),
            _ => {
                let mut below = mounts.clone();
                below[0].options.drain(..2);
                below
            }
        };
        let layer = diff(&below, &mounts, None).await;
        apply(&layer, &bind(&path("again"))).await.unwrap();
        assert_eq!(listing(&path("seen")), listing(&path("again")));
        // The same where it has to be compared, since the mounts do not tell.
        let layer = diff(&bind(&path("one")), &bind(&path("seen")), None).await;
        fs::remove_dir_all(path("again")).unwrap();
        fs::create_dir(path("again")).unwrap();
        apply(&base(), &bind(&path("again"))).await.unwrap();
        apply(&layer, &bind(&path("again"))).await.unwrap();
        assert_eq!(listing(&path("seen")), listing(&path("again")));
    }
}

#[tokio::test]
async fn times_end_at_the_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
    fs::create_dir(&old).unwrap();
    fs::create_dir(&new).unwrap();
    fs::write(old.join("gone"), b"").unwrap();
    fs::write(new.join("late"), b"").unwrap();
    fs::write(new.join("early"), b"").unwrap();
    shell(
        "touch -d @1000 \"$1\"",
        &[new.join("early").to_str().unwrap()],
    );
    let layer = diff(&bind(&old), &bind(&new), Some(2_000_000_000_000)).await;
    fs::remove_dir_all(&new).unwrap();
    fs::create_dir(&new).unwrap();
    apply(&layer, &bind(&new)).await.unwrap();
    let time = |name: &str| fs::metadata(new.join(name)).unwrap().mtime();
    assert_eq!((time("late"), time("early")), (2000, 1000));
    assert!(String::from_utf8_lossy(&layer).contains(".wh.gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_blob() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("f"), vec![1; 1 << 20]).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    symlink("f", place.join("l")).unwrap();
    let database = Arc::new(Database::open(&dir.path().join("db")).unwrap());
    let content = Content::open(&dir.path().join("content"), database).unwrap();
    let layers = Layers::new(PROGRAM, Limits::default());
    let plain = diff(&[], &bind(&place), None).await;
    for (compression, magic) in [
        (Compression::Gzip, &[0x1f, 0x8b][..]),
        (Compression::Zstd, &[0x28, 0xb5]),
        (Compression::None, b"Pa"),
    ] {
        let new = New {
            compression,
            reference: String::new(),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            epoch: None,
            lease: None,
        };
        // The second time it is there already.
        let mounts = bind(&place);
        for _ in 0..2 {
            let stored = layers.store(&content, "default", &[], &mounts, new.clone());
            let stored = stored.await.unwrap();
            assert_eq!(stored.blob.labels["k"], "v");
            let diff_id = Algorithm::Sha256.digest(&plain).to_string();
            assert_eq!(stored.blob.labels["containerd.io/uncompressed"], diff_id);
            let reader = content.read("default", &stored.digest).unwrap();
            let mut start = [0; 2];
            reader.read_at(&mut start, 0).unwrap();
            assert_eq!(start, magic);
        }
        let wrong = [Mount {
            source: "/no/such/place".into(),
            ..bind(Path::new("/"))[0].clone()
        }];
        let failed = layers.store(&content, "default", &[], &wrong, new).await;
        assert!(failed.unwrap_err().to_string().contains("/no/such/place"));
        assert_eq!(
            content.statuses("default", &Default::default()).unwrap(),
            []
        );
    }
}
