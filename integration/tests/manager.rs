//! The daemon under the real client: ctr says the same of it as of containerd.
//!
//! Both daemons run beside each other, each with directories of its own; every command goes to both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;

use knarr_integration::{bundle, pair, process};

const IMAGE: &str = "knarr.test/box:1";

#[test]
fn records_are_kept_as_containerd_keeps_them() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    let version = it.on("knarrd", &["version"], None).ok();
    assert!(version.stdout.contains("UUID: "), "{version:#?}");

    it.same(&["namespaces", "create", "web", "a=b"]).ok();
    it.same(&["namespaces", "create", "web"])
        .fails_with("already exists");
    it.same(&["namespaces", "create", "no good"]).fails();
    it.same(&["namespaces", "label", "web", "c=d", "a="]).ok();
    let list = it.same(&["namespaces", "ls"]).ok();
    assert!(list.stdout.contains("c=d") && !list.stdout.contains("a=b"));
    it.same(&["namespaces", "label", "none", "c=d"]).ok();

    it.same(&["leases", "create", "--id", "one", "k=v"]).ok();
    it.same(&["leases", "create", "--id", "one"])
        .fails_with("already exists");
    it.same(&["leases", "ls", "-q"]).ok();
    it.same(&["leases", "ls"]).ok();
    it.same(&["leases", "rm", "one"]).ok();
    it.same(&["leases", "rm", "--sync", "one"])
        .fails_with("not found");

    // A container without an image, from a file.
    let config = it.pen.path("config.json");
    fs::write(&config, "{\"ociVersion\": \"1.2.0\"}").unwrap();
    let config = config.to_str().unwrap();
    let create = [
        "-n",
        "web",
        "containers",
        "create",
        "--config",
        config,
        "c1",
    ];
    it.same(&create).ok();
    it.same(&create).fails_with("already exists");
    it.same(&[
        "-n",
        "web",
        "containers",
        "create",
        "--config",
        config,
        "c 1",
    ])
    .fails();
    it.same(&["-n", "web", "containers", "ls"]).ok();
    it.same(&["-n", "web", "containers", "ls", "-q"]).ok();
    it.same(&["-n", "web", "containers", "label", "c1", "k=v"])
        .ok();
    it.same(&["-n", "web", "containers", "info", "c1"]).ok();
    it.same(&["containers", "info", "c1"])
        .fails_with("not found");
    it.same(&["namespaces", "rm", "web"]);
    it.on("knarrd", &["-n", "web", "containers", "rm", "c1"], None);
    it.on("containerd", &["-n", "web", "containers", "rm", "c1"], None);
}

#[test]
fn content_and_images_are_kept_as_containerd_keeps_them() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    let blob = it.pen.path("blob");
    fs::write(&blob, vec![7; 3_000_000]).unwrap();
    let sum = it.pen.run(&["sha256sum", blob.to_str().unwrap()]).ok();
    let digest = format!("sha256:{}", sum.text().split(' ').next().unwrap());
    let size = ["--expected-size", "3000000"];
    let ingest = ["content", "ingest"];
    let wrong = format!("sha256:{}", "0".repeat(64));
    let expecting = |digest| [&ingest[..], &["--expected-digest", digest], &size, &["r"]].concat();
    it.same_with(&expecting(&wrong), Some(&blob))
        .fails_with("unexpected commit digest");
    it.same(&["content", "abort", "r"]);
    it.same_with(&expecting(&digest), Some(&blob)).ok();
    it.same_with(&expecting(&digest), Some(&blob));
    it.same(&["content", "ls"]).ok();
    it.same(&["content", "label", &digest, "k=v"]).ok();
    it.same(&["content", "ls", "labels.k==v"]).ok();
    let got = it.on("knarrd", &["content", "get", &digest], None).ok();
    assert_eq!(got.stdout.as_bytes(), fs::read(&blob).unwrap());
    it.same(&["content", "rm", &digest]).ok();
    it.same(&["content", "get", &digest])
        .fails_with("not found");

    let tar = it.pen.path("box.tar");
    bundle::image(&it.pen.path("image"), &tar, IMAGE, &["/bin/sh"]);
    let import = [
        "images",
        "import",
        "--local",
        "--no-unpack",
        tar.to_str().unwrap(),
    ];
    it.same(&import).ok();
    it.same(&["images", "ls"]).ok();
    it.same(&["images", "tag", "--local", IMAGE, "other.test/box:2"])
        .ok();
    it.same(&["images", "tag", "--local", IMAGE, "other.test/box:2"])
        .fails_with("already exists");
    it.same(&["images", "label", IMAGE, "k=v"]).ok();
    it.same(&["images", "ls"]).ok();
    it.same(&["images", "ls", "-q", "labels.k==v"]).ok();
    it.same(&["images", "inspect", IMAGE]).ok();
    it.same(&["images", "check"]).ok();
    it.same(&["content", "active"]).ok();
    it.same(&["content", "prune", "references", "--dry"]).ok();
    for daemon in ["knarrd", "containerd"] {
        let to = it.pen.path(&format!("{daemon}.tar"));
        let export = ["images", "export", "--local", to.to_str().unwrap(), IMAGE];
        it.on(daemon, &export, None).ok();
    }
    let [ours, theirs] = ["knarrd.tar", "containerd.tar"].map(|tar| fs::read(it.pen.path(tar)));
    assert!(
        ours.unwrap() == theirs.unwrap(),
        "the exported images differ"
    );
    it.same(&["images", "rm", "--sync", IMAGE]).ok();
    let kept = it.same(&["content", "ls", "-q"]).ok();
    assert!(!kept.lines().is_empty(), "the other name keeps the blobs");
    it.same(&["images", "rm", "--sync", "other.test/box:2"])
        .ok();
    let left = it.same(&["content", "ls", "-q"]).ok();
    assert!(left.lines().is_empty(), "{left:#?}");
    it.same(&["images", "rm", "other.test/box:2"]);
}

#[test]
fn snapshots_are_kept_as_containerd_keeps_them() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    for snapshotter in ["overlayfs", "native"] {
        let same =
            |args: &[&str]| it.same(&[&["snapshots", "--snapshotter", snapshotter], args].concat());
        same(&["prepare", "a"]).ok();
        same(&["prepare", "a"]).fails_with("already exists");
        same(&["mounts", "/mnt", "a"]).ok();
        same(&["commit", "A", "a"]).ok();
        same(&["prepare", "b", "A"]).ok();
        same(&["commit", "B", "b"]).ok();
        same(&["prepare", "c", "B"]).ok();
        same(&["mounts", "/mnt", "c"]).ok();
        same(&["view", "v", "B"]).ok();
        same(&["mounts", "/mnt", "v"]).ok();
        same(&["prepare", "x", "c"]).fails();
        same(&["prepare", "x", "none"]).fails_with("not found");
        same(&["label", "c", "k=v"]).ok();
        same(&["ls"]).ok();
        same(&["tree"]).ok();
        same(&["info", "A"]).ok();
        same(&["usage"]).ok();
        same(&["rm", "A"]).fails();
        for key in ["v", "c", "B", "A"] {
            same(&["rm", key]).ok();
        }
        same(&["rm", "A"]).fails_with("not found");
        same(&["ls"]).ok();
    }
    it.same(&["snapshots", "--snapshotter", "none", "ls"])
        .fails();
}

#[test]
fn events_tell_what_containerd_tells() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    let mut watchers =
        ["knarrd", "containerd"].map(|daemon| it.pen.spawn(it.command(daemon, &["events"])));
    // The one that is certain to be heard says that both are there.
    let mut beat = 0;
    assert!(process::eventually(
        knarr_integration::daemon::PATIENCE,
        || {
            beat += 1;
            let name = format!("beat{beat}");
            for daemon in ["knarrd", "containerd"] {
                it.on(daemon, &["namespaces", "create", &name], None).ok();
            }
            watchers
                .iter()
                .all(|watcher| watcher.stdout_now().contains("beat"))
        }
    ));
    it.same(&["namespaces", "create", "web", "a=b"]).ok();
    it.same(&["namespaces", "label", "web", "a=c"]).ok();
    let config = it.pen.path("config.json");
    fs::write(&config, "{\"ociVersion\": \"1.2.0\"}").unwrap();
    let config = config.to_str().unwrap();
    it.same(&["containers", "create", "--config", config, "c1"])
        .ok();
    it.same(&["containers", "label", "c1", "k=v"]).ok();
    it.same(&["snapshots", "prepare", "a"]).ok();
    it.same(&["snapshots", "commit", "A", "a"]).ok();
    it.same(&["snapshots", "rm", "A"]).ok();
    it.same(&["namespaces", "rm", "web"]).ok();
    let heard = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.contains("beat"));
        // Behind date, time and zone.
        let behind = |line: &str| line.splitn(5, ' ').last().unwrap_or_default().to_owned();
        lines.map(behind).collect()
    };
    let mut both = [Vec::new(), Vec::new()];
    process::eventually(knarr_integration::daemon::PATIENCE, || {
        both = [0, 1].map(|at| heard(&watchers[at].stdout_now()));
        both.iter().all(|lines| {
            lines
                .last()
                .is_some_and(|line| line.contains("/namespaces/delete"))
        })
    });
    for watcher in &mut watchers {
        watcher.kill();
    }
    let [ours, theirs] = both;
    assert_eq!(ours, theirs);
    assert!(ours.len() >= 8, "{ours:#?}");
}
