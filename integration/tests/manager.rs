//! The daemon under the real client: ctr says the same of it as of containerd.
//!
//! Both daemons run beside each other, each with directories of its own; every command goes to both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use knarr_integration::cgroup::Driver;
use knarr_integration::daemon::Pen;
use knarr_integration::peers::{self, Source};
use knarr_integration::runtime::Outcome;
use knarr_integration::{bundle, process, skip};

const IMAGE: &str = "knarr.test/box:1";

/// The daemon under test: `KNARRD_BIN`, or the newest that cargo built here.
fn knarrd() -> PathBuf {
    if let Some(path) = std::env::var_os("KNARRD_BIN") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let built = ["release", "debug"].map(|profile| target.join(profile).join("knarrd"));
    let modified = |path: PathBuf| Some((fs::metadata(&path).ok()?.modified().ok()?, path));
    let newest = built.into_iter().filter_map(modified).max();
    let (_, path) =
        newest.expect("no knarrd below target/: build knarr-manager, or set KNARRD_BIN");
    path.canonicalize().unwrap()
}

/// knarrd and containerd.
struct Pair {
    pen: Pen,
    ctr: PathBuf,
}

impl Pair {
    /// `None` where containerd or its client is missing.
    fn new() -> Result<Self, String> {
        let find = |name| {
            Source::Newest
                .find(name)
                .ok_or_else(|| peers::missing(name))
        };
        let (containerd, ctr) = (find("containerd")?, find("ctr")?);
        let pen = Pen::new(&Source::Newest.path(), Driver::Cgroupfs);
        let this = Self { pen, ctr };
        let path = |name: &str| this.pen.path(name).to_str().unwrap().to_owned();
        let config = format!(
            "version = 3\nroot = '{}'\nstate = '{}'\n[grpc]\naddress = '{}'\n",
            path("containerd/root"),
            path("containerd/state"),
            path("containerd.sock")
        );
        let disabled = "disabled_plugins = ['io.containerd.grpc.v1.cri', \
            'io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images']\n";
        fs::write(
            path("config.toml"),
            config.replacen('\n', &format!("\n{disabled}"), 1),
        )
        .unwrap();
        let (program, config) = (containerd.to_str().unwrap(), path("config.toml"));
        this.pen
            .daemon("containerd", &[program, "--config", &config]);
        let program = knarrd();
        let args = [
            program.to_str().unwrap(),
            "--root",
            &path("knarrd/root"),
            "--state",
            &path("knarrd/state"),
            "--address",
            &path("knarrd.sock"),
        ];
        this.pen.daemon("knarrd", &args);
        for daemon in ["knarrd", "containerd"] {
            let answers = || this.on(daemon, &["version"], None).code == 0;
            this.pen.wait_for(daemon, answers);
        }
        Ok(this)
    }

    fn command(&self, daemon: &str, args: &[&str]) -> std::process::Command {
        let socket = self.pen.path(&format!("{daemon}.sock"));
        let ctr = [self.ctr.to_str().unwrap(), "-a", socket.to_str().unwrap()];
        self.pen.command(&[&ctr, args].concat())
    }

    fn on(&self, daemon: &str, args: &[&str], input: Option<&Path>) -> Outcome {
        let mut command = self.command(daemon, args);
        if let Some(input) = input {
            command.stdin(File::open(input).unwrap());
        }
        self.pen.spawn(command).wait()
    }

    /// Runs a command on both and compares the code and, but for what differs from run to run, the
    /// output. What knarrd gave.
    #[track_caller]
    fn same(&self, args: &[&str]) -> Outcome {
        self.same_with(args, None)
    }

    #[track_caller]
    fn same_with(&self, args: &[&str], input: Option<&Path>) -> Outcome {
        let [ours, theirs] = ["knarrd", "containerd"].map(|daemon| self.on(daemon, args, input));
        assert_eq!(
            ours.code, theirs.code,
            "ctr {args:?}: {ours:#?} {theirs:#?}"
        );
        let [said, expected] = [&ours, &theirs].map(|out| plain(&out.stdout));
        assert_eq!(said, expected, "ctr {args:?}: {ours:#?} {theirs:#?}");
        ours
    }
}

/// Output without what differs between two daemons and moments: times, ages, directories, and the
/// width of columns with them.
fn plain(text: &str) -> Vec<String> {
    let words = |line: &str| {
        let words = line.split_whitespace().map(|word| {
            if word.contains("/snapshots/") {
                let parts = word.split_inclusive([',', '=', ':']);
                let parts = parts.map(|part| match part.contains("/snapshots/") {
                    true => "DIR",
                    false => part,
                });
                return parts.collect();
            }
            let is_time = word.contains(':')
                && word.bytes().filter(u8::is_ascii_digit).count() >= 8
                && !word.contains("sha256");
            if is_time {
                "TIME".to_owned()
            } else {
                word.to_owned()
            }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let age = |line: String| match line.find(" Less than a second ") {
        Some(_) => line.replace(" Less than a second ", " AGE "),
        None => {
            let mut parts: Vec<&str> = line.split(' ').collect();
            // As "2 seconds" in the column of ages.
            if let Some(at) = parts.iter().position(|word| word.starts_with("second")) {
                parts.splice(at - 1..=at, ["AGE"]);
            }
            parts.join(" ")
        }
    };
    text.lines().map(words).map(age).collect()
}

/// Starts both daemons, or says why not.
macro_rules! pair {
    () => {
        match Pair::new() {
            Ok(pair) => pair,
            Err(why) => skip!("{why}"),
        }
    };
}

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
