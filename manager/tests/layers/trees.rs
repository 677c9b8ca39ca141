//! What is in layers that mean well.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use flate2::write::GzEncoder;
use knarr_manager::layer::tar::{Entry, Kind, Time};
use knarr_manager::layer::{Layers, Limits};
use knarr_manager::snapshot::Mount;

use crate::help::{
    PROGRAM, Tar, apply, bind, entry, is_root, link, overlay, paths, unpacked, xattrs,
};

#[tokio::test]
async fn owners_modes_and_times() {
    if !is_root() {
        return;
    }
    let early = Time {
        seconds: -2,
        nanoseconds: 500_000_000,
    };
    let bytes = Tar::new()
        .add(
            &Entry {
                mode: 0o1777,
                uid: 3_000_000_000,
                modified: early,
                ..entry("d", Kind::Directory)
            },
            b"",
        )
        .add(
            &Entry {
                mode: 0o4711,
                uid: 7,
                gid: 8,
                ..entry("d/f", Kind::File)
            },
            b"hello",
        )
        .add(
            &Entry {
                mode: 0o2000,
                modified: early,
                ..entry("d/none", Kind::File)
            },
            b"",
        )
        .add(
            &Entry {
                uid: 9,
                gid: 9,
                modified: early,
                ..link("d/l", Kind::Symlink, "/nowhere")
            },
            b"",
        )
        .add(
            &Entry {
                mode: 0o640,
                gid: 4,
                ..entry("d/p", Kind::Fifo)
            },
            b"",
        )
        .add(
            &Entry {
                major: 1,
                minor: 3,
                mode: 0o6666,
                ..entry("d/null", Kind::Character)
            },
            b"",
        )
        .add(
            &Entry {
                major: 259,
                minor: 1_000_000,
                ..entry("d/disk", Kind::Block)
            },
            b"",
        )
        .end();
    let dir = tempfile::tempdir().unwrap();
    let applied = apply(&bytes, &bind(dir.path())).await.unwrap();
    assert_eq!(applied.size, bytes.len() as u64);
    let see = |name: &str| {
        let stat = fs::symlink_metadata(dir.path().join(name)).unwrap();
        let time = (stat.mtime(), stat.mtime_nsec());
        (stat.mode(), stat.uid(), stat.gid(), time)
    };
    let usual = (1_600_000_000, 123_456_789);
    let early = (-2, 500_000_000);
    assert_eq!(see("d"), (0o41_777, 3_000_000_000, 0, early));
    assert_eq!(see("d/f"), (0o104_711, 7, 8, usual));
    assert_eq!(see("d/none"), (0o102_000, 0, 0, early));
    assert_eq!(see("d/l"), (0o120_777, 9, 9, early));
    assert_eq!(see("d/p"), (0o10_640, 0, 4, usual));
    assert_eq!(see("d/null"), (0o26_666, 0, 0, usual));
    let disk = fs::metadata(dir.path().join("d/disk")).unwrap();
    assert!(disk.file_type().is_block_device());
    assert_eq!(disk.rdev(), rustix::fs::makedev(259, 1_000_000));
    assert_eq!(fs::read(dir.path().join("d/f")).unwrap(), b"hello");
    assert_eq!(
        fs::read_link(dir.path().join("d/l")).unwrap(),
        Path::new("/nowhere")
    );
}

#[tokio::test]
async fn compressed_in_pieces() {
    let bytes = Tar::new().dir("d").file("d/f", &vec![7; 300_000]).end();
    let (one, two) = bytes.split_at(bytes.len() / 3);
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    skippable.extend(zstd(&bytes));
    let plain = apply(&bytes, &bind(tempfile::tempdir().unwrap().path()))
        .await
        .unwrap();
    for packed in [
        gzip(&bytes),
        [gzip(one), gzip(two)].concat(),
        zstd(&bytes),
        [zstd(one), zstd(two)].concat(),
        skippable,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let applied = apply(&packed, &bind(dir.path())).await.unwrap();
        assert_eq!(applied, plain);
        assert_eq!(fs::metadata(dir.path().join("d/f")).unwrap().len(), 300_000);
        let error = apply(&packed[..packed.len() - 3], &bind(dir.path()))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("early"), "{error}");
    }
}

#[tokio::test]
async fn a_pipe_that_is_filled_meanwhile() {
    let bytes = Tar::new().dir("d").file("d/f", &vec![7; 300_000]).end();
    let dir = tempfile::tempdir().unwrap();
    let (read, mut write) = std::io::pipe().unwrap();
    let feed = std::thread::spawn(move || {
        for piece in bytes.chunks(10_007) {
            write.write_all(piece).unwrap();
        }
    });
    let layers = Layers::new(PROGRAM, Limits::default());
    layers.apply(read, &bind(dir.path()), true).await.unwrap();
    feed.join().unwrap();
    assert_eq!(fs::metadata(dir.path().join("d/f")).unwrap().len(), 300_000);
}

#[tokio::test]
async fn nothing_is_a_layer_too() {
    for bytes in [&b""[..], &[0; 512], &[0; 10240]] {
        let dir = unpacked(bytes).await;
        assert!(paths(dir.path()).is_empty());
    }
}

#[tokio::test]
async fn long_names_of_both_kinds() {
    let pax = format!("{}/{}", "d".repeat(200), "n".repeat(255));
    let gnu = format!("{}/{}", "d".repeat(200), "g".repeat(200));
    let bytes = Tar::new()
        .dir(&"d".repeat(200))
        .file(&pax, b"pax")
        .raw(b'L', b"././@LongLink", &[], format!("{gnu}\0").as_bytes())
        .raw(b'K', b"././@LongLink", &[], &[b't'; 300])
        .raw(b'2', b"short", &[(157, b"short")], b"")
        .raw(
            b'0',
            b"name",
            &[(257, b"ustar\x0000"), (345, b"prefix/of/it")],
            b"x",
        )
        .end();
    let dir = unpacked(&bytes).await;
    assert_eq!(fs::read(dir.path().join(&pax)).unwrap(), b"pax");
    let link = fs::read_link(dir.path().join(&gnu)).unwrap();
    assert_eq!(link.as_os_str().len(), 300);
    assert_eq!(
        fs::read(dir.path().join("prefix/of/it/name")).unwrap(),
        b"x"
    );
}

#[tokio::test]
async fn extended_attributes() {
    if !is_root() {
        return;
    }
    let attributes = [
        ("user.empty", &b""[..]),
        ("user.text", b"x\0y"),
        ("trusted.t", b"1"),
    ];
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let with = |mut entry: Entry| {
        entry.xattrs = attributes
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        entry
            .xattrs
            .push((b"security.capability".into(), capability.into()));
        entry
            .xattrs
            .push((b"trusted.overlay.opaque".into(), b"y".into()));
        entry.uid = 5;
        entry
    };
    let mut trusted = link("l", Kind::Symlink, "f");
    trusted.xattrs = vec![
        (b"trusted.t".into(), b"2".into()),
        (b"user.no".into(), b"2".into()),
    ];
    let bytes = Tar::new()
        .add(&with(entry("f", Kind::File)), b"bytes")
        .add(&with(entry("d", Kind::Directory)), b"")
        .add(&trusted, b"")
        .end();
    let dir = unpacked(&bytes).await;
    for name in ["f", "d"] {
        let found = xattrs(&dir.path().join(name));
        let mut wanted: Vec<_> = attributes
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        wanted.push(("security.capability".to_owned(), capability.to_vec()));
        wanted.sort();
        assert_eq!(found, wanted, "{name}");
    }
    assert_eq!(
        xattrs(&dir.path().join("l")),
        [("trusted.t".to_owned(), b"2".to_vec())]
    );
}

#[tokio::test]
async fn files_with_holes_in_every_format() {
    // Two parts: ten bytes at 1 MiB, five at 3 MiB - 5, of a file of 4 MiB.
    let (size, parts) = (4_u64 << 20, [(1_u64 << 20, 10_u64), ((3 << 20) - 5, 5)]);
    let data = b"0123456789abcde";
    let octal = |value: u64| format!("{value:011o}\0");
    let mut old = vec![(483, octal(size).into_bytes())];
    for (index, (start, length)) in parts.iter().enumerate() {
        old.push((386 + index * 24, octal(*start).into_bytes()));
        old.push((398 + index * 24, octal(*length).into_bytes()));
    }
    let old: Vec<(usize, &[u8])> = old.iter().map(|(at, field)| (*at, &**field)).collect();
    // One part of each byte: more than a header has room for.
    let mut many = vec![(483, octal(4096).into_bytes()), (482, vec![1])];
    let part = |index: u64| format!("{}{}", octal(index * 100), octal(1));
    many.push((386, (0..4).map(part).collect::<String>().into_bytes()));
    let many: Vec<(usize, &[u8])> = many.iter().map(|(at, field)| (*at, &**field)).collect();
    let more: String = (4..15).map(part).collect();
    let text = |value: u64| value.to_string();
    let map: Vec<String> = parts
        .iter()
        .map(|(start, length)| format!("{start},{length}"))
        .collect();
    let lines = format!("2\n{}\n10\n{}\n5\n", parts[0].0, parts[1].0);
    let mut in_front = lines.into_bytes();
    in_front.resize(512, 0);
    in_front.extend_from_slice(data);
    let bytes = Tar::new()
        .raw(b'S', b"old", &old, data)
        .raw(
            b'S',
            b"many",
            &[&many[..], &[(124, octal(15).as_bytes())]].concat(),
            b"",
        )
        .bytes(more.as_bytes())
        .bytes(&[b'z'; 15])
        .pax(&[
            ("GNU.sparse.size", text(size).as_bytes()),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", text(parts[0].0).as_bytes()),
            ("GNU.sparse.numbytes", b"10"),
            ("GNU.sparse.offset", text(parts[1].0).as_bytes()),
            ("GNU.sparse.numbytes", b"5"),
        ])
        .raw(b'0', b"pax00", &[], data)
        .pax(&[
            ("GNU.sparse.size", text(size).as_bytes()),
            ("GNU.sparse.name", b"pax01"),
            ("GNU.sparse.map", map.join(",").as_bytes()),
        ])
        .raw(b'0', b"GNUSparseFile.1/pax01", &[], data)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"pax10"),
            ("GNU.sparse.realsize", text(size).as_bytes()),
        ])
        .raw(b'0', b"GNUSparseFile.1/pax10", &[], &in_front)
        .file("after", b"after")
        .end();
    let dir = unpacked(&bytes).await;
    let mut wanted = vec![0; 4 << 20];
    wanted[1 << 20..(1 << 20) + 10].copy_from_slice(&data[..10]);
    wanted[(3 << 20) - 5..3 << 20].copy_from_slice(&data[10..]);
    for name in ["old", "pax00", "pax01", "pax10"] {
        let path = dir.path().join(name);
        assert!(fs::read(&path).unwrap() == wanted, "{name}");
        assert!(
            fs::metadata(&path).unwrap().blocks() < 100,
            "{name} has no holes"
        );
    }
    let many = fs::read(dir.path().join("many")).unwrap();
    assert_eq!(many.len(), 4096);
    let at: Vec<usize> = (0..4096).filter(|at| many[*at] == b'z').collect();
    assert_eq!(at, (0..15).map(|part| part * 100).collect::<Vec<_>>());
    assert_eq!(fs::read(dir.path().join("after")).unwrap(), b"after");
    assert_eq!(paths(dir.path()).len(), 6);
}

#[tokio::test]
async fn hard_links() {
    if !is_root() {
        return;
    }
    let bytes = Tar::new()
        .file("a", b"bytes")
        .link("s", Kind::Symlink, "a")
        .add(
            &Entry {
                mode: 0o600,
                uid: 3,
                ..link("b", Kind::HardLink, "a")
            },
            b"",
        )
        .link("t", Kind::HardLink, "/s")
        .link("a", Kind::HardLink, "a")
        .end();
    let dir = unpacked(&bytes).await;
    let stat = fs::metadata(dir.path().join("a")).unwrap();
    assert_eq!(stat.nlink(), 2);
    // What a later name says holds for the file.
    assert_eq!((stat.mode(), stat.uid()), (0o100_755, 0));
    assert_eq!(fs::read_link(dir.path().join("t")).unwrap(), Path::new("a"));
}

#[tokio::test]
async fn whiteouts_in_a_tree_that_has_the_layers_below() {
    let dir = unpacked(
        &Tar::new()
            .dir("gone")
            .file("gone/x", b"")
            .file("file", b"")
            .dir("kept")
            .file("kept/old", b"")
            .dir("opaque")
            .dir("opaque/both")
            .file("opaque/both/old", b"")
            .file("opaque/old", b"")
            .dir("mixed")
            .file("mixed/old", b"")
            .end(),
    )
    .await;
    let bytes = Tar::new()
        .file(".wh.gone", b"")
        .file(".wh.file", b"")
        .file(".wh.never", b"")
        .file("no/.wh.never", b"")
        .file("opaque/both/new", b"")
        .file("opaque/new", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("kept/new", b"")
        .file("mixed/new", b"")
        .file(".wh.mixed", b"")
        .file(".wh..wh.plnk", b"")
        .end();
    apply(&bytes, &bind(dir.path())).await.unwrap();
    let found: Vec<String> = paths(dir.path())
        .iter()
        .map(|path| path.strip_prefix(dir.path()).unwrap().display().to_string())
        .collect();
    assert_eq!(
        found,
        [
            "kept",
            "kept/new",
            "kept/old",
            "mixed",
            "mixed/new",
            "opaque",
            "opaque/both",
            "opaque/both/new",
            "opaque/new",
        ]
    );
}

/// What is seen through an overlay, as `find` lists it.
fn seen(mounts: &[Mount]) -> Vec<String> {
    let script = "mount -t overlay overlay -o \"$1\" /mnt && cd /mnt && find . ! -name . | sort";
    let options = mounts[0].options.join(",");
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh", &options])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line[2..].to_owned())
        .collect()
}

#[tokio::test]
async fn whiteouts_in_an_overlay() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounts = overlay(dir.path(), &["two", "one"]);
    apply(
        &Tar::new()
            .dir("gone")
            .file("gone/x", b"")
            .file("file", b"")
            .dir("opaque")
            .file("opaque/old", b"")
            .dir("again")
            .file("again/old", b"")
            .dir("turned")
            .file("turned/old", b"")
            .dir("mixed")
            .file("mixed/old", b"")
            .dir("implied")
            .file("implied/old", b"")
            .end(),
        &bind(&dir.path().join("one")),
    )
    .await
    .unwrap();
    apply(
        &Tar::new().file("kept", b"").end(),
        &bind(&dir.path().join("two")),
    )
    .await
    .unwrap();
    let bytes = Tar::new()
        .file(".wh.gone", b"")
        .file(".wh.file", b"")
        .dir("opaque")
        .file("opaque/new", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file(".wh.again", b"")
        .dir("again")
        .file("again/new", b"")
        .file("turned", b"")
        .dir("turned")
        .file("turned/new", b"")
        .dir("mixed")
        .file("mixed/new", b"")
        .file(".wh.mixed", b"")
        .file(".wh.implied", b"")
        .file("implied/new", b"")
        .end();
    apply(&bytes, &mounts).await.unwrap();
    assert_eq!(
        seen(&mounts),
        [
            "again",
            "again/new",
            "implied",
            "implied/new",
            "kept",
            "mixed",
            "mixed/new",
            "opaque",
            "opaque/new",
            "turned",
            "turned/new",
        ]
    );
    // Nothing but the upper directory has changed.
    assert_eq!(paths(&dir.path().join("two")).len(), 1);
}

#[tokio::test]
async fn what_an_overlay_takes_from_below() {
    if !is_root() {
        return;
    }
    for layers in [&["one"][..], &["two", "one"]] {
        let dir = tempfile::tempdir().unwrap();
        let mounts = overlay(dir.path(), layers);
        let odd = |entry: Entry| Entry {
            mode: 0o2750,
            uid: 11,
            gid: 12,
            ..entry
        };
        let mut first = odd(entry("a/b", Kind::Directory));
        first.xattrs = vec![(b"user.x".into(), b"y".into())];
        apply(
            &Tar::new()
                .add(&odd(entry("a", Kind::Directory)), b"")
                .add(&first, b"")
                .add(
                    &Entry {
                        mode: 0o4700,
                        uid: 13,
                        ..entry("a/f", Kind::File)
                    },
                    b"bytes",
                )
                .end(),
            &bind(&dir.path().join("one")),
        )
        .await
        .unwrap();
        let bytes = Tar::new()
            .file("a/b/new", b"")
            .link("hard", Kind::HardLink, "a/f")
            .end();
        apply(&bytes, &mounts).await.unwrap();
        let upper = dir.path().join("upper");
        for name in ["a", "a/b"] {
            let (made, below) = (
                fs::metadata(upper.join(name)).unwrap(),
                fs::metadata(dir.path().join("one").join(name)).unwrap(),
            );
            let all = |stat: &fs::Metadata| {
                (
                    stat.mode(),
                    stat.uid(),
                    stat.gid(),
                    stat.mtime(),
                    stat.mtime_nsec(),
                )
            };
            assert_eq!(all(&made), all(&below), "{name}");
        }
        assert_eq!(
            xattrs(&upper.join("a/b")),
            [("user.x".to_owned(), b"y".to_vec())]
        );
        let (one, other) = (
            fs::metadata(upper.join("hard")).unwrap(),
            fs::metadata(upper.join("a/f")).unwrap(),
        );
        assert_eq!((one.ino(), one.nlink(), one.len()), (other.ino(), 2, 5));
    }
}

#[tokio::test]
async fn what_is_there_is_replaced() {
    let dir = unpacked(
        &Tar::new()
            .dir("dir")
            .file("dir/x", b"")
            .file("file", b"old")
            .link("link", Kind::Symlink, "/etc/passwd")
            .link("dirlink", Kind::Symlink, "dir")
            .dir("kept")
            .file("kept/x", b"")
            .end(),
    )
    .await;
    let bytes = Tar::new()
        .file("dir", b"file")
        .dir("file")
        .file("link", b"file")
        .dir("dirlink")
        .file("dirlink/y", b"")
        .add(
            &Entry {
                mode: 0o700,
                ..entry("kept", Kind::Directory)
            },
            b"",
        )
        .end();
    apply(&bytes, &bind(dir.path())).await.unwrap();
    let see = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap();
    assert!(see("dir").is_file() && see("file").is_dir() && see("link").is_file());
    assert!(see("dirlink").is_dir() && see("dirlink/y").is_file() && see("kept/x").is_file());
    assert_eq!(see("kept").permissions().mode() & 0o7777, 0o700);
}

#[tokio::test]
async fn links_on_the_way_end_at_the_root() {
    let bytes = Tar::new()
        .dir("usr")
        .link("lib", Kind::Symlink, "/usr/lib")
        .link("up", Kind::Symlink, "../../../up2")
        .file("lib/x", b"x")
        .file("up/y", b"y")
        .link("loop", Kind::Symlink, "loop")
        .end();
    let dir = unpacked(&bytes).await;
    assert_eq!(fs::read(dir.path().join("usr/lib/x")).unwrap(), b"x");
    assert_eq!(fs::read(dir.path().join("up2/y")).unwrap(), b"y");
}

#[tokio::test]
async fn users_are_shifted() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut mounts = bind(dir.path());
    mounts[0].options.extend([
        "uidmap=0:100000:1000".to_owned(),
        "gidmap=0:200000:10,10:5:1".to_owned(),
    ]);
    let bytes = Tar::new()
        .add(
            &Entry {
                uid: 5,
                gid: 10,
                ..entry("f", Kind::File)
            },
            b"",
        )
        .file("g", b"")
        .end();
    apply(&bytes, &mounts).await.unwrap();
    let owner = |name: &str| {
        let stat = fs::metadata(dir.path().join(name)).unwrap();
        (stat.uid(), stat.gid())
    };
    assert_eq!((owner("f"), owner("g")), ((100_005, 5), (100_000, 200_000)));
    let bytes = Tar::new()
        .add(
            &Entry {
                uid: 1000,
                ..entry("h", Kind::File)
            },
            b"",
        )
        .end();
    let error = apply(&bytes, &mounts).await.unwrap_err();
    assert!(
        error.to_string().starts_with("h: its owner 1000"),
        "{error}"
    );
}

#[tokio::test]
async fn the_worker_goes_with_whoever_wanted_it() {
    let dir = tempfile::tempdir().unwrap();
    let (read, write) = std::io::pipe().unwrap();
    let layers = Layers::new(PROGRAM, Limits::default());
    let mounts = bind(dir.path());
    let work = layers.apply(read, &mounts, false);
    let stopped = tokio::time::timeout(std::time::Duration::from_millis(300), work).await;
    assert!(stopped.is_err());
    // Nobody is left who could read.
    let mut write = write;
    let full = (0..1000)
        .map(|_| write.write(&[0; 4096]))
        .find_map(Result::err);
    assert_eq!(full.unwrap().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_layer_that_hides_everything_below() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounts = overlay(dir.path(), &["two", "one"]);
    let below = Tar::new().dir("d").file("d/x", b"").file("f", b"").end();
    apply(&below, &bind(&dir.path().join("one"))).await.unwrap();
    let bytes = Tar::new()
        .file("d/y", b"")
        .file(".wh..wh..opq", b"")
        .file("z", b"")
        .end();
    apply(&bytes, &mounts).await.unwrap();
    assert_eq!(seen(&mounts), ["d", "d/y", "z"]);
}

#[tokio::test]
async fn what_is_only_looked_at_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut mounts = bind(dir.path());
    mounts[0].options[1] = "ro".to_owned();
    let error = apply(&Tar::new().file("f", b"").end(), &mounts)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("read-only file system"),
        "{error}"
    );
    assert!(paths(dir.path()).is_empty());
}
