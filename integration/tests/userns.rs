//! Containers with user namespaces of their own: their roots, beside containerd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use knarr_integration::containerd::{self, IMAGE};
use knarr_integration::pair::Pair;
use knarr_integration::runtime::Outcome;
use knarr_integration::{bundle, peers, skip};

const MAPS: [&str; 4] = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];

/// Tells of owners as the container sees them, and whether it may use what is its own.
const LOOK: &str = "cat /proc/self/uid_map; stat -c '%u %g %a %n' / /bin /of7; \
    echo new >/new; stat -c '%u %g' /new; echo more >>/of7; cat /of7; stat -c '%u %g' /of7";

/// An image of two layers in both, with a file of another owner.
fn bring(it: &Pair) {
    let (dir, tar) = (it.pen.path("image"), it.pen.path("box.tar"));
    let rootfs = dir.join("rootfs");
    fs::create_dir_all(&rootfs).unwrap();
    fs::write(rootfs.join("of7"), "first\n").unwrap();
    chown(rootfs.join("of7"), Some(7), Some(8)).unwrap();
    bundle::image(&dir, &tar, IMAGE, &["/bin/sh"]);
    it.same(&["images", "import", "--local", tar.to_str().unwrap()])
        .ok();
}

/// Both daemons, and what runs containers for them.
fn ready() -> Result<Pair, String> {
    let shim = containerd::shim().ok_or("containerd-shim-knarr-v2 is not built")?;
    let runc = peers::runc().ok_or_else(|| peers::missing("runc"))?;
    let it = Pair::new()?;
    for (program, name) in [(shim, containerd::SHIM), (runc, "runc")] {
        let _ = fs::remove_file(it.pen.bin().join(name));
        std::os::unix::fs::symlink(program, it.pen.bin().join(name)).unwrap();
    }
    bring(&it);
    Ok(it)
}

fn run(it: &Pair, id: &str, flags: &[&str], script: &str) -> Vec<String> {
    let cgroup = format!("{}/{id}", it.pen.cgroup());
    let words = [
        &["run", "--cgroup", &cgroup],
        &MAPS[..],
        flags,
        &[IMAGE, id, "/bin/sh", "-c", script],
    ];
    words.concat().into_iter().map(str::to_owned).collect()
}

macro_rules! ready {
    () => {
        match ready() {
            Ok(it) => it,
            Err(why) => skip!("{why}"),
        }
    };
}

/// Runs the same on both, and compares what it says.
#[track_caller]
fn same(it: &Pair, id: &str, flags: &[&str], script: &str) -> Outcome {
    let words = run(it, id, flags, script);
    it.same(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn owners_are_shifted_by_the_mount() {
    let it = ready!();
    let _watch = it.pen.watch("knarrd");
    // What clients choose by.
    let filter = "type==io.containerd.snapshotter.v1,id==overlayfs";
    let [ours, theirs] = ["knarrd", "containerd"].map(|daemon| {
        let found = it.on(daemon, &["plugins", "ls", "-d", filter], None).ok();
        let line = found
            .stdout
            .lines()
            .find(|line| line.starts_with("Capabilities:"));
        line.unwrap().to_owned()
    });
    assert_eq!(ours, theirs);
    if !ours.contains("remap-ids") {
        skip!("kernel or file system map no ids below {:?}", it.pen.dir());
    }
    let said = same(&it, "keep", &["--remap-labels"], LOOK).ok();
    let expected = [
        "0 100000 65536",
        "0 0 755 /",
        "0 0 755 /bin",
        "7 8 644 /of7",
        "0 0",
        "first",
        "more",
        "7 8",
    ];
    let lines = said.stdout.lines().map(|line| line.split_whitespace());
    let lines: Vec<String> = lines
        .map(|words| words.collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines, expected);
    // The layers are as they were, and what was written belongs to the host's ids.
    it.same(&["snapshots", "info", "keep"]);
    let mounts = it.same(&["snapshots", "mounts", "/mnt", "keep"]).ok();
    assert!(mounts.stdout.contains("uidmap=0:100000:65536,gidmap="));
    let upper = mounts.stdout.split("upperdir=").nth(1).unwrap();
    let upper = Path::new(upper.split(',').next().unwrap());
    for (name, owner) in [
        ("", (100_000, 200_000)),
        ("new", (100_000, 200_000)),
        ("of7", (100_007, 200_008)),
    ] {
        let found = fs::metadata(upper.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), owner, "{name}");
    }
    let left = it
        .pen
        .run(&["sh", "-c", "grep -c rootfs.layers /proc/self/mountinfo"]);
    assert_eq!(left.stdout, "0\n", "a copy of the layers stays mounted");
    // A layer of it has the container's ids again.
    let parent = it.on("knarrd", &["snapshots", "info", "keep"], None).ok();
    let parent: serde_json::Value = serde_json::from_str(&parent.stdout).unwrap();
    let parent = parent["Parent"].as_str().unwrap().to_owned();
    let diff = it
        .command("knarrd", &["snapshots", "diff", "keep", &parent])
        .output()
        .unwrap();
    let layer = it.pen.path("diff.tar.gz");
    fs::write(&layer, diff.stdout).unwrap();
    let list = ["tar", "--numeric-owner", "-tvzf", layer.to_str().unwrap()];
    let list = it.pen.run(&list).ok().stdout;
    for expected in [" 7/8 ", " 0/0 "] {
        assert!(list.contains(expected), "{list}");
    }
    assert!(!list.contains("00000"), "{list}");
    for flags in [
        &["--remap-labels", "--uidmap", "65536:400000:10"][..],
        // Without labels the client makes a copy of the layers.
        &[],
        &["--remap-labels", "--read-only"],
    ] {
        same(
            &it,
            "more",
            &[&["--rm"], flags].concat(),
            "cat /proc/self/uid_map; stat -c '%u %g' / /of7",
        )
        .ok();
    }
}
