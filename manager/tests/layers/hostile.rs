//! Layers that mean harm: each ends in an error of one line or does nothing outside of its place.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use flate2::write::GzEncoder;
use knarr_manager::error::Code;
use knarr_manager::layer::tar::{Entry, Kind};
use knarr_manager::layer::{Layers, Limits};

use crate::help::{PROGRAM, Tar, apply, bind, entry, file, is_root, link, listing, overlay, paths};

/// A directory with a secret beside the one that is unpacked into.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("inside")).unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), b"secret").unwrap();
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(dir.path().join("outside/secret"), mode).unwrap();
        Self(dir)
    }

    fn inside(&self) -> std::path::PathBuf {
        self.0.path().join("inside")
    }

    fn outside(&self) -> Vec<String> {
        listing(&self.0.path().join("outside"))
    }
}

/// Unpacks everywhere that a layer can be unpacked to; what is outside stays as it is. The messages.
async fn attack(name: &str, bytes: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    for kind in ["fresh", "full", "overlay"] {
        let scene = Scene::new();
        let before = scene.outside();
        let mounts = match kind {
            "overlay" if is_root() => overlay(&scene.inside(), &["lower"]),
            "overlay" => continue,
            _ => bind(&scene.inside()),
        };
        if kind == "full" {
            fs::create_dir(scene.inside().join("d")).unwrap();
            fs::write(scene.inside().join("d/old"), b"").unwrap();
        }
        let work = apply(bytes, &mounts);
        let result = tokio::time::timeout(Duration::from_secs(60), work).await;
        let result = result.unwrap_or_else(|_| panic!("{name} hangs"));
        assert_eq!(before, scene.outside(), "{name}, {kind}");
        if let Err(error) = result {
            let text = error.to_string();
            assert_eq!(text.lines().count(), 1, "{name}: {text}");
            assert!(!text.contains("worker"), "{name}: {text}");
            assert_ne!(error.code(), Code::Internal, "{name}: {text}");
            messages.push(text);
        }
    }
    messages
}

#[tokio::test]
async fn ways_out() {
    let target = "../outside";
    for (name, archive) in [
        ("climbs", Tar::new().file("../outside/secret", b"x")),
        (
            "climbs later",
            Tar::new().dir("d").file("d/../../outside/secret", b"x"),
        ),
        (
            "whiteout above",
            Tar::new().file("../outside/.wh.secret", b""),
        ),
        ("whiteout of the parent", Tar::new().file("d/.wh...", b"")),
        ("whiteout of itself", Tar::new().file("d/.wh..", b"")),
        ("whiteout of nothing", Tar::new().file(".wh.", b"")),
        (
            "hard link out",
            Tar::new().link("l", Kind::HardLink, "../outside/secret"),
        ),
        (
            "hard link by a link",
            Tar::new()
                .link("d", Kind::Symlink, target)
                .link("l", Kind::HardLink, "d/secret"),
        ),
        (
            "hard link to a directory",
            Tar::new().dir("d").link("l", Kind::HardLink, "d"),
        ),
        (
            "hard link to the root",
            Tar::new().link("l", Kind::HardLink, "/"),
        ),
        (
            "whiteouts as targets",
            Tar::new().file(".wh.x", b"").link("l", Kind::HardLink, "x"),
        ),
        (
            "loop",
            Tar::new()
                .link("a", Kind::Symlink, "b")
                .link("b", Kind::Symlink, "a")
                .file("a/x", b""),
        ),
        (
            "file on the way",
            Tar::new().file("a", b"").file("a/x", b""),
        ),
        ("long name", Tar::new().file(&"n".repeat(256), b"")),
        ("long path", Tar::new().file(&"n/".repeat(2100), b"")),
        ("link to nothing", Tar::new().link("l", Kind::Symlink, "")),
        (
            "nul",
            Tar::new()
                .pax(&[("path", b"a\0b")])
                .raw(b'0', b"x", &[], b""),
        ),
        (
            "device",
            Tar::new().add(
                &Entry {
                    major: 1 << 12,
                    ..entry("d", Kind::Block)
                },
                b"",
            ),
        ),
        ("unknown", Tar::new().raw(b'Z', b"x", &[], b"")),
        (
            "negative size",
            Tar::new().raw(b'0', b"x", &[(124, &[0xff; 12])], b""),
        ),
        (
            "huge size",
            Tar::new().raw(b'0', b"x", &[(124, b"77777777777\0")], b""),
        ),
        (
            "huger size",
            Tar::new()
                .pax(&[("size", b"9223372036854775807")])
                .raw(b'0', b"x", &[], b""),
        ),
        (
            "negative pax size",
            Tar::new().pax(&[("size", b"-1")]).raw(b'0', b"x", &[], b""),
        ),
        (
            "owner",
            Tar::new()
                .pax(&[("uid", b"4294967296")])
                .raw(b'0', b"x", &[], b""),
        ),
        (
            "owner below zero",
            Tar::new().pax(&[("gid", b"-1")]).raw(b'0', b"x", &[], b""),
        ),
        ("pax without an entry", Tar::new().pax(&[("path", b"x")])),
        (
            "broken pax",
            Tar::new()
                .raw(b'x', b"x", &[], b"99 path=x\n")
                .file("x", b""),
        ),
        (
            "huge pax",
            Tar::new()
                .raw(b'x', b"x", &[(124, b"00077777777\0")], b"")
                .file("x", b""),
        ),
        (
            "huge long name",
            Tar::new()
                .raw(b'L', b"x", &[(124, b"00077777777\0")], b"")
                .file("x", b""),
        ),
        (
            "sparse backwards",
            Tar::new()
                .pax(&[("GNU.sparse.map", b"5,1,0,1"), ("GNU.sparse.size", b"9")])
                .raw(b'0', b"x", &[], b"ab"),
        ),
        (
            "sparse beyond",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.map", b"9223372036854775807,9"),
                    ("GNU.sparse.size", b"9"),
                ])
                .raw(b'0', b"x", &[], b"123456789"),
        ),
        (
            "sparse more",
            Tar::new()
                .pax(&[("GNU.sparse.map", b"0,9"), ("GNU.sparse.size", b"9")])
                .raw(b'0', b"x", &[], b"1"),
        ),
        (
            "sparse lines",
            Tar::new()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")])
                .raw(b'0', b"x", &[], &[b'1'; 600]),
        ),
        (
            "sparse lines short",
            Tar::new()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")])
                .raw(b'0', b"x", &[], b"9\n"),
        ),
        (
            "checksum",
            Tar::new().raw(b'0', b"x", &[], b"").bytes(&[1; 512]),
        ),
        (
            "attribute",
            Tar::new()
                .pax(&[("SCHILY.xattr.user.x", &[0; 70000])])
                .raw(b'0', b"x", &[], b""),
        ),
        (
            "attribute without a name",
            Tar::new()
                .pax(&[("SCHILY.xattr.", b"x")])
                .raw(b'0', b"x", &[], b""),
        ),
        (
            "attribute of nothing",
            Tar::new()
                .pax(&[("SCHILY.xattr.nonsense", &[0; 10])])
                .raw(b'0', b"x", &[], b""),
        ),
    ] {
        let messages = attack(name, &archive.end()).await;
        println!(
            "{name}: {}",
            messages.first().map_or("taken", |message| &**message)
        );
        let taken = ["attribute of nothing"];
        assert!(
            !messages.is_empty() || taken.contains(&name),
            "{name} is taken"
        );
    }
}

#[tokio::test]
async fn taken_without_harm() {
    for (name, archive) in [
        ("absolute", Tar::new().file("/outside/secret", b"x")),
        (
            "write through a link",
            Tar::new()
                .link("d", Kind::Symlink, "../outside")
                .file("d/secret", b"x"),
        ),
        (
            "through an absolute link",
            Tar::new()
                .link("d", Kind::Symlink, "/outside")
                .file("d/secret", b"x"),
        ),
        (
            "onto a link",
            Tar::new()
                .link("s", Kind::Symlink, "../outside/secret")
                .file("s", b"x"),
        ),
        (
            "directory onto a link",
            Tar::new()
                .link("s", Kind::Symlink, "../outside")
                .dir("s")
                .file("s/secret", b"x"),
        ),
        (
            "whiteout by a link",
            Tar::new()
                .link("d", Kind::Symlink, "../outside")
                .file("d/.wh.secret", b""),
        ),
        (
            "opaque by a link",
            Tar::new()
                .link("d", Kind::Symlink, "../outside")
                .file("d/.wh..wh..opq", b""),
        ),
        (
            "hard link to a link",
            Tar::new()
                .link("s", Kind::Symlink, "../outside/secret")
                .link("h", Kind::HardLink, "s")
                .file("h", b"x"),
        ),
        (
            "attributes onto a link",
            Tar::new()
                .link("s", Kind::Symlink, "../outside/secret")
                .add(
                    &Entry {
                        mode: 0o777,
                        uid: 5,
                        ..link("h", Kind::HardLink, "s")
                    },
                    b"",
                ),
        ),
        (
            "directory then link",
            Tar::new().dir("d").link("d", Kind::Symlink, "../outside"),
        ),
        (
            "all after each other",
            Tar::new()
                .dir("x")
                .file("x/y", b"")
                .file("x", b"")
                .link("x", Kind::Symlink, "..")
                .dir("x")
                .file("x/y", b"")
                .link("x", Kind::HardLink, "x"),
        ),
        ("newline", Tar::new().file("a\nb", b"")),
        (
            "root",
            Tar::new()
                .add(
                    &Entry {
                        mode: 0,
                        ..entry("./", Kind::Directory)
                    },
                    b"",
                )
                .file(".", b""),
        ),
        (
            "twice",
            Tar::new().file("a", b"1").file("a", b"2").dir("a").dir("a"),
        ),
        (
            "opaque often",
            (0..2000).fold(Tar::new().dir("d"), |tar, _| {
                tar.file("d/.wh..wh..opq", b"")
            }),
        ),
    ] {
        let messages = attack(name, &archive.end()).await;
        // A link out of an overlay's lower layers leads nowhere that is there.
        assert!(messages.is_empty(), "{name}: {messages:?}");
    }
}

#[tokio::test]
async fn deep_trees_can_be_made_and_replaced() {
    let deep = "d/".repeat(2000);
    let bytes = Tar::new()
        .dir(deep.trim_end_matches('/'))
        .file("d", b"")
        .end();
    let scene = Scene::new();
    apply(&bytes, &bind(&scene.inside())).await.unwrap();
    assert_eq!(paths(&scene.inside()).len(), 1);
}

#[tokio::test]
async fn bombs() {
    let limits = Limits {
        size: 64 << 20,
        unchecked: 1 << 20,
        ratio: 100,
        entries: 1000,
        ..Limits::default()
    };
    let layers = Layers::new(PROGRAM, limits);
    let zeros = Tar::new().file("zeros", &vec![0; 32 << 20]).end();
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&zeros).unwrap();
    let many = (0..1001)
        .fold(Tar::new(), |tar, index| tar.file(&index.to_string(), b""))
        .end();
    let mut sparse = Tar::new();
    let map: String = (0..70_000).map(|part| format!("{part},0,")).collect();
    sparse = sparse
        .pax(&[("GNU.sparse.map", map.trim_end_matches(',').as_bytes())])
        .raw(b'0', b"x", &[], b"");
    for (name, bytes, said) in [
        (
            "ratio of gzip",
            gzip.finish().unwrap(),
            "100 times its length",
        ),
        (
            "ratio of zstd",
            zstd::encode_all(&*zeros, 3).unwrap(),
            "100 times its length",
        ),
        (
            "size",
            Tar::new().file("a", &vec![1; 65 << 20]).end(),
            "67108864 bytes unpacked",
        ),
        ("entries", many, "more than 1000 entries"),
        ("parts", sparse.end(), "more than 65536 parts"),
    ] {
        let scene = Scene::new();
        let error = layers
            .apply(file(&bytes), &bind(&scene.inside()), false)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{name}: {error}");
        assert!(error.to_string().contains(said), "{name}: {error}");
    }
}

#[tokio::test]
async fn cut_short_anywhere() {
    let bytes = Tar::new()
        .dir("d")
        .file("d/f", b"hello")
        .link("d/l", Kind::HardLink, "d/f")
        .pax(&[("path", b"d/long")])
        .raw(b'0', b"x", &[], b"text")
        .end();
    for length in (0..bytes.len()).step_by(101) {
        let scene = Scene::new();
        let outcome = apply(&bytes[..length], &bind(&scene.inside())).await;
        // Between entries an end is an end.
        if length % 512 != 0 {
            let error = outcome.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{length}: {error}");
        }
    }
}

#[tokio::test]
async fn a_stalled_worker_is_given_up() {
    // A program that reads nothing and says nothing.
    let layers = Layers::new(
        "/bin/sleep",
        Limits {
            stall: Duration::from_millis(200),
            ..Limits::default()
        },
    );
    let scene = Scene::new();
    let error = layers
        .apply(file(b""), &bind(&scene.inside()), false)
        .await
        .unwrap_err();
    assert!(
        matches!(error.code(), Code::DeadlineExceeded | Code::Internal),
        "{error}"
    );
    let layers = Layers::new("/bin/false", Limits::default());
    let error = layers
        .apply(file(b""), &bind(&scene.inside()), false)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the layer worker ended early: exit status: 1"
    );
    let layers = Layers::new("/no/such/program", Limits::default());
    let error = layers
        .apply(file(b""), &bind(&scene.inside()), false)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the layer worker"), "{error}");
    let error = apply(b"", &bind(Path::new("/no/such/place")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    assert_eq!(
        apply(b"", &[]).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn mutations_of_a_good_layer() {
    let good = Tar::new()
        .dir("d")
        .file("d/f", b"hello")
        .link("d/l", Kind::HardLink, "d/f")
        .link("s", Kind::Symlink, "d")
        .file("s/x", b"y")
        .file(".wh.d", b"")
        .file("d/.wh..wh..opq", b"")
        .pax(&[
            ("path", b"d/long"),
            ("mtime", b"1.5"),
            ("SCHILY.xattr.user.x", b"y"),
        ])
        .raw(b'0', b"x", &[], b"text")
        .pax(&[("GNU.sparse.map", b"5,4"), ("GNU.sparse.size", b"9")])
        .raw(b'0', b"z", &[], b"text")
        .end();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for round in 0..150 {
        let mut bytes = good.clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => bytes[at] ^= 1 << random(8),
                2 => {
                    let block = at / 512 * 512;
                    let copy = bytes[block..block + 512].to_vec();
                    let to = random(bytes.len() / 512) * 512;
                    bytes.splice(to..to, copy);
                }
                _ => bytes[at] = b"/.0\n=\xff"[random(6)],
            }
        }
        // Right sums, so that not every change is found there.
        for block in bytes.chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
        }
        let scene = Scene::new();
        let before = scene.outside();
        let mounts = bind(&scene.inside());
        let work = apply(&bytes, &mounts);
        let result = tokio::time::timeout(Duration::from_secs(60), work)
            .await
            .unwrap();
        assert_eq!(before, scene.outside());
        if let Err(error) = result {
            assert!(!error.to_string().contains("worker"), "{round}: {error}");
        }
    }
}
