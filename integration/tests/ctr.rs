//! Every command of ctr: what it does and says on knarrd is what it does and says on containerd. The
//! command lines are in `ctr/`, and `knarr_integration::script` says how they are written.
//!
//! What is not compared, and why:
//!
//! - `plugins list`, `info`, `version`, `deprecations`: they tell of which parts and which version a daemon is, and its
//!   process. `plugins inspect-runtime` tells of the runtime.
//! - The end of what a runtime says: another has other words.
//! - `images prune`, `snapshots view` without a lease, or what was mounted: when what nobody refers to
//!   goes is each daemon's affair, so that the scripts collect before they look.
//! - A program that is there and cannot be executed. containerd with runc says that it was started and
//!   has ended with 255; here the start fails.
//! - `sandboxes run` with runc's shim, which has no sandboxes: containerd's client gets an error, while
//!   knarrd serves that name with its own shim, which has.
//! - Debian's shim: containerd 2.4 fails to start it, knarrd does not.
//! - `tasks checkpoint`, `containers checkpoint --task`: they need criu.
//! - `shim` is told where the shim's socket is: those of knarrd are in its state directory, where ctr does
//!   not look for them.
//! - What ctr does in its own process or with the container's network: `install`, `run --cni`, `--gpus`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;

use knarr_integration::daemon::PATIENCE;
use knarr_integration::images::{REGISTRY, layout, registry};
use knarr_integration::pair::Pair;
use knarr_integration::peers::{self, Source};
use knarr_integration::script::Script;
use knarr_integration::{Value, containerd, pair, process, skip};

const IMAGE: &str = "knarr.test/multi:1";

/// A digest that nothing has.
const NONE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// What stands for what in the scripts.
struct Names(Vec<(&'static str, String)>);

impl Names {
    /// With an image for two platforms, as an archive.
    fn new(it: &Pair) -> Self {
        let (dir, tar) = (it.pen.path("multi"), it.pen.path("multi.tar"));
        layout(&dir, &tar, ("io.containerd.image.name", IMAGE));
        let read = |path: String| -> Value {
            serde_json::from_slice(&fs::read(dir.join(path)).unwrap()).unwrap()
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let blob = |digest: &Value| read(format!("blobs/{}", text(digest).replace(':', "/")));
        let index = &read("index.json".to_owned())["manifests"][0]["digest"];
        let at = usize::from(cfg!(target_arch = "aarch64"));
        let manifest = &blob(index)["manifests"][at];
        let parts = blob(&manifest["digest"]);
        let config = blob(&parts["config"]["digest"]);
        let mut names = vec![
            ("multi", tar.to_str().unwrap().to_owned()),
            ("image", IMAGE.to_owned()),
            ("none", NONE.to_owned()),
            ("arch", text(&manifest["platform"]["architecture"])),
            ("index", text(index)),
            ("manifest", text(&manifest["digest"])),
            ("layer", text(&parts["layers"][0]["digest"])),
            ("chain", text(&config["rootfs"]["diff_ids"][0])),
            ("registry", REGISTRY.to_owned()),
            ("ctr", it.ctr.to_str().unwrap().to_owned()),
        ];
        let dir = Source::Newest.path().remove(0);
        names.push(("newest", dir.to_str().unwrap().to_owned()));
        let runc = peers::runc().unwrap_or_else(|| "runc".into());
        names.push(("runc", runc.to_str().unwrap().to_owned()));
        Self(names)
    }

    #[track_caller]
    fn run(&self, it: &Pair, script: &str) {
        let names = self.0.iter().map(|(name, value)| (*name, value.as_str()));
        Script::new(it).run(&names.collect::<Vec<_>>(), script);
    }
}

/// Debian's client.
fn debian() -> Result<std::path::PathBuf, String> {
    let found = Source::Debian.find("ctr");
    found.ok_or_else(|| peers::missing("Debian's ctr"))
}

#[test]
fn records_and_what_is_not_there() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    Names::new(&it).run(&it, include_str!("ctr/records.txt"));
    let version = it.on("knarrd", &["version"], None).ok();
    let said = |text: &str| version.stdout.matches(text).count();
    assert_eq!(said("Version:  v2."), 1, "{version:#?}");
    assert_eq!(said("Revision: knarr-"), 1, "{version:#?}");
}

/// What shims without a connection to the daemon call, with either kind of flags.
#[test]
fn events_come_by_publish() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    let knarrd = pair::knarrd();
    let knarrd = knarrd.to_str().unwrap();
    let socket = it.pen.path("knarrd.sock");
    let socket = socket.to_str().unwrap();
    // An Any of a NamespaceCreate with that name.
    let event = it.pen.path("event");
    fs::write(
        &event,
        b"\x0a\x21containerd.events.NamespaceCreate\x12\x06\x0a\x04told",
    )
    .unwrap();
    let mut events = it.pen.spawn(it.command("knarrd", &["events"]));
    let heard = process::eventually(PATIENCE, || {
        for args in [
            [
                "-address",
                socket,
                "publish",
                "-topic",
                "/one",
                "-namespace",
                "far",
            ],
            [
                "--address",
                socket,
                "publish",
                "--topic",
                "/two",
                "--namespace",
                "far",
            ],
        ] {
            let mut command = it.pen.command(&[&[knarrd], &args[..]].concat());
            command.stdin(fs::File::open(&event).unwrap());
            it.pen.spawn(command).wait().ok();
        }
        let text = events.stdout_now();
        let told = |topic: &str| {
            let line = |line: &str| line.contains(topic) && line.contains("{\"name\":\"told\"}");
            text.lines().any(line)
        };
        told(" far /one ") && told(" far /two ")
    });
    assert!(heard, "{}", events.stdout_now());
    events.kill();
    let none = [
        "--address",
        "/no/such",
        "publish",
        "--topic",
        "/x",
        "--namespace",
        "far",
    ];
    it.pen
        .run(&[&[knarrd], &none[..]].concat())
        .fails_with("/no/such");
    let default = it.pen.run(&[knarrd, "config", "default"]).ok();
    assert!(
        default.stdout.contains("root = \"/var/lib/knarrd\"\n"),
        "{default:#?}"
    );
    let dump = it.pen.run(&[knarrd, "--root", "/r", "config", "dump"]).ok();
    assert!(dump.stdout.contains("root = \"/r\"\n"), "{dump:#?}");
}

#[test]
fn images_blobs_and_snapshots() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    Names::new(&it).run(&it, include_str!("ctr/images.txt"));
}

#[test]
fn containers_and_tasks() {
    let it = pair!();
    if containerd::shim().is_none() {
        skip!("containerd-shim-knarr-v2 is not built: cargo build -p knarr-shim");
    }
    let _watch = it.pen.watch("knarrd");
    Names::new(&it).run(&it, include_str!("ctr/containers.txt"));
}

#[test]
fn pulls_and_pushes() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    if let Some(missing) = registry(&it) {
        skip!("{missing}");
    }
    Names::new(&it).run(&it, include_str!("ctr/registry.txt"));
}

/// An older client, which does for itself much of what the newest asks the daemon for.
#[test]
fn with_the_client_of_debian() {
    let mut it = pair!();
    match debian() {
        Ok(ctr) => it.ctr = ctr,
        Err(missing) => skip!("{missing}"),
    }
    if containerd::shim().is_none() {
        skip!("containerd-shim-knarr-v2 is not built: cargo build -p knarr-shim");
    }
    if let Some(missing) = registry(&it) {
        skip!("{missing}");
    }
    let _watch = it.pen.watch("knarrd");
    Names::new(&it).run(&it, include_str!("ctr/debian.txt"));
}
