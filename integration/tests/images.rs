//! Images under the real client: what ctr makes of archives and registries through knarrd is what
//! it makes of them through containerd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;

use knarr_integration::images::{REGISTRY, layout, registry, run};
use knarr_integration::pair::Pair;
use knarr_integration::peers::Source;
use knarr_integration::{bundle, pair, skip};

const IMAGE: &str = "knarr.test/box:1";

/// Runs a command on both, without regard to what it says of its progress.
#[track_caller]
fn both(it: &Pair, args: &[&str]) {
    for daemon in ["knarrd", "containerd"] {
        it.on(daemon, args, None).ok();
    }
}

/// The images of a pair, as archives below its directory.
fn archives(it: &Pair) -> [String; 3] {
    let path = |name: &str| it.pen.path(name);
    bundle::image(&path("saved"), &path("saved.tar"), IMAGE, &["/bin/sh"]);
    let full = ("io.containerd.image.name", "knarr.test/multi:1");
    layout(&path("multi"), &path("multi.tar"), full);
    let tag = ("org.opencontainers.image.ref.name", "v7");
    layout(&path("tagged"), &path("tagged.tar"), tag);
    ["saved.tar", "multi.tar", "tagged.tar"].map(|name| path(name).to_str().unwrap().to_owned())
}

/// Compares all that an image leaves: its name, its blobs with their labels, its snapshots.
#[track_caller]
fn same_stores(it: &Pair, namespace: &str) {
    // What nobody refers to any longer goes when each daemon likes.
    for daemon in ["knarrd", "containerd"] {
        let lease = ["-n", namespace, "leases"];
        it.on(
            daemon,
            &[&lease[..], &["create", "--id", "sync"]].concat(),
            None,
        )
        .ok();
        it.on(
            daemon,
            &[&lease[..], &["rm", "--sync", "sync"]].concat(),
            None,
        )
        .ok();
    }
    for what in [
        &["images", "ls"][..],
        &["content", "ls"],
        &["snapshots", "ls"],
        &["leases", "ls"],
    ] {
        it.same(&[&["-n", namespace], what].concat());
    }
}

#[test]
fn archives_are_imported_as_containerd_imports_them() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    let [saved, multi, tagged] = archives(&it);
    run(it.pen.dir(), "gzip", &["-k", &multi]);
    let packed = format!("{multi}.gz");
    for (namespace, flags, archive) in [
        ("saved", &[][..], &saved),
        ("multi", &[], &multi),
        ("packed", &[], &packed),
        ("plain", &["--no-unpack"], &multi),
        ("arm", &["--platform", "linux/arm64"], &multi),
        ("all", &["--all-platforms", "--no-unpack"], &multi),
        ("none", &["--platform", "linux/s390x"], &multi),
        ("based", &["--base-name", "knarr.test/base"], &tagged),
        ("other", &["--base-name", "knarr.test/other"], &multi),
        (
            "digests",
            &["--base-name", "knarr.test/base", "--digests"],
            &tagged,
        ),
        (
            "skip",
            &[
                "--base-name",
                "a.test/b",
                "--digests",
                "--skip-digest-for-named",
            ],
            &tagged,
        ),
        ("client", &["--local"], &multi),
        ("labels", &["--label", "a=b"], &multi),
    ] {
        let args = [&["-n", namespace, "images", "import"], flags, &[archive]].concat();
        let [ours, theirs] = ["knarrd", "containerd"].map(|daemon| it.on(daemon, &args, None));
        assert_eq!(ours.code, theirs.code, "{args:?}: {ours:#?} {theirs:#?}");
        same_stores(&it, namespace);
    }
    for (name, bytes) in [("empty", &b""[..]), ("text", b"no archive at all")] {
        let path = it.pen.path(name);
        fs::write(&path, bytes).unwrap();
        it.same(&["images", "import", path.to_str().unwrap()]);
    }
    let cut = it.pen.path("cut.tar");
    let whole = fs::read(&multi).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let out = it.same(&["images", "import", cut.to_str().unwrap()]);
    assert!(out.stderr.contains("failed to ingest"), "{out:#?}");
    same_stores(&it, "default");
}

#[test]
fn exported_archives_are_those_of_containerd() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    let [saved, multi, _] = archives(&it);
    for archive in [&saved, &multi] {
        both(
            &it,
            &[
                "images",
                "import",
                "--all-platforms",
                "--no-unpack",
                archive,
            ],
        );
    }
    for (name, args) in [
        ("one", &[IMAGE][..]),
        ("two", &["knarr.test/multi:1", IMAGE]),
        ("all", &["--all-platforms", "knarr.test/multi:1"]),
        ("bare", &["--skip-manifest-json", "knarr.test/multi:1"]),
    ] {
        let export = |daemon: &str| {
            let path = it.pen.path(&format!("{name}-{daemon}.tar"));
            let (flags, names) = args.split_at(usize::from(args[0].starts_with("--")));
            let head = ["images", "export"];
            let args = [&head[..], flags, &[path.to_str().unwrap()], names].concat();
            it.on(daemon, &args, None).ok();
            fs::read(path).unwrap()
        };
        // containerd lists several images in manifest.json in an order that chance gives:
        // it is asked until it gives ours.
        let ours = export("knarrd");
        assert!(
            (0..30).any(|_| export("containerd") == ours),
            "{args:?}: never the same {} bytes",
            ours.len()
        );
    }
    it.same(&["images", "export", "/dev/null", "knarr.test/nothing:1"]);
}

#[test]
fn names_and_uses_of_images() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    let [saved, multi, _] = archives(&it);
    for archive in [&saved, &multi] {
        both(&it, &["images", "import", archive]);
    }
    for args in [
        &["images", "tag", IMAGE, "knarr.test/box:2"][..],
        &["images", "tag", IMAGE, "knarr.test/box:2"],
        &["images", "tag", "--local", IMAGE, "knarr.test/box:3"],
        &["images", "tag", "knarr.test/nothing:1", "knarr.test/box:4"],
        &["images", "label", IMAGE, "a=b"],
        &["images", "check"],
        &["images", "usage", IMAGE],
        &[
            "images",
            "convert",
            "--oci",
            IMAGE,
            "knarr.test/converted:1",
        ],
        &[
            "images",
            "convert",
            "--uncompress",
            "knarr.test/multi:1",
            "knarr.test/flat:1",
        ],
        &["images", "rm", "knarr.test/box:2"],
        &["images", "rm", "knarr.test/nothing:1"],
        &["snapshots", "usage"],
        &["snapshots", "tree"],
    ] {
        it.same(args);
    }
    same_stores(&it, "default");
    let at = it.pen.path("mounted");
    fs::create_dir(&at).unwrap();
    let at = at.to_str().unwrap();
    for daemon in ["knarrd", "containerd"] {
        it.on(daemon, &["images", "mount", "knarr.test/multi:1", at], None)
            .ok();
        let read = it.pen.run(&["cat", &format!("{at}/etc/architecture")]).ok();
        assert_eq!(read.stdout, "amd64");
        it.on(daemon, &["images", "unmount", "--rm", at], None).ok();
    }
    it.same(&["images", "prune", "--all"]);
    same_stores(&it, "default");
}

#[test]
fn images_go_to_a_registry_and_come_back() {
    let it = pair!();
    let _watch = it.pen.watch("knarrd");
    if let Some(missing) = registry(&it) {
        skip!("{missing}");
    }
    let [_, multi, _] = archives(&it);
    let hosts = it.pen.path("hosts").to_str().unwrap().to_owned();
    let flags = ["--hosts-dir", &hosts, "--user", "user:pass"];
    let name = |daemon: &str| format!("{REGISTRY}/{daemon}/multi:1");
    for daemon in ["knarrd", "containerd"] {
        let import = [
            "-n",
            "from",
            "images",
            "import",
            "--all-platforms",
            "--no-unpack",
            &multi,
        ];
        it.on(daemon, &import, None).ok();
        let push = [&["-n", "from", "images", "push"], &flags[..]].concat();
        let name = name(daemon);
        let push = [&push[..], &[&name, "knarr.test/multi:1"]].concat();
        it.on(daemon, &push, None).ok();
    }
    // Each pulls what the other has pushed, whole and in part.
    let (ours, theirs) = (name("knarrd"), name("containerd"));
    for (namespace, more, name) in [
        ("pulled", &[][..], &ours),
        ("pulled", &[], &ours),
        ("theirs", &[], &theirs),
        ("client", &["--local"], &ours),
        ("arm", &["--platform", "linux/arm64"], &theirs),
        ("bare", &["--skip-metadata"], &ours),
        ("all", &["--all-platforms"], &theirs),
    ] {
        let args = [
            &["-n", namespace, "images", "pull"],
            &flags[..],
            more,
            &[name],
        ]
        .concat();
        let [ours, theirs] = ["knarrd", "containerd"].map(|daemon| it.on(daemon, &args, None));
        assert_eq!(
            (ours.code, theirs.code),
            (0, 0),
            "{args:?}: {ours:#?} {theirs:#?}"
        );
        same_stores(&it, namespace);
    }
    // What came from there goes back without its layers being sent.
    let again = format!("{REGISTRY}/again:1");
    let push = [
        &["-n", "pulled", "images", "push"],
        &flags[..],
        &[&again, &ours],
    ]
    .concat();
    it.on("knarrd", &push, None).ok();
    let fetch = [
        &["-n", "fetched", "content", "fetch"],
        &flags[..],
        &[&again],
    ]
    .concat();
    for daemon in ["knarrd", "containerd"] {
        it.on(daemon, &fetch, None).ok();
    }
    same_stores(&it, "fetched");
    for (user, name, expected) in [
        ("user:wrong", &*ours, ""),
        ("user:pass", "127.0.0.1:5443/nothing:1", "not found"),
        ("user:pass", "127.0.0.1:5444/nothing:1", "onnection refused"),
    ] {
        let args = [
            "images",
            "pull",
            "--hosts-dir",
            &hosts,
            "--user",
            user,
            name,
        ];
        for daemon in ["knarrd", "containerd"] {
            let out = it.on(daemon, &args, None);
            assert_eq!(out.code, 1, "{daemon} {args:?}: {out:#?}");
            assert!(out.stderr.contains(expected), "{daemon} {args:?}: {out:#?}");
        }
    }
    let Some(debian) = Source::Debian.find("ctr") else {
        skip!("no ctr of Debian here");
    };
    // An older client does all of it itself.
    let socket = it.pen.path("knarrd.sock");
    let ctr = [
        debian.to_str().unwrap(),
        "-a",
        socket.to_str().unwrap(),
        "-n",
        "debian",
    ];
    let pull = [&ctr[..], &["images", "pull"], &flags, &[&theirs]].concat();
    it.pen.run(&pull).ok();
    let list = it
        .pen
        .run(&[&ctr[..], &["images", "ls", "-q"]].concat())
        .ok();
    assert_eq!(list.stdout.trim(), theirs);
}
