//! The same images unpacked by containerd, by umoci and here, compared entry by entry.
//!
//! Where they differ, and what is right:
//! - containerd sets times before 1970 to 1970, umoci and this keep them;
//! - umoci leaves out extended attributes without a value; containerd leaves out those of
//!   `trusted.`, of which this leaves out overlayfs's own;
//! - umoci does nothing with the mode in the header of a hard link, containerd and this set it;
//! - a directory that a layer puts something into, and has no entry for, keeps its time here; with
//!   the others it has that of the unpacking;
//! - containerd refuses old GNU sparse files and hard links into lower layers: `trees` has those.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use knarr_manager::layer::tar::{Entry, Kind, Time};
use knarr_manager::store::digest::Algorithm;

use crate::help::{Tar, apply, bind, entry, is_root, link, listing, overlay};

/// An OCI image layout of these layers.
fn layout(dir: &Path, layers: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], media_type: &str| {
        let digest = Algorithm::Sha256.digest(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        let media_type = format!("application/vnd.oci.image.{media_type}");
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}"#,
            bytes.len()
        )
    };
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("\"{}\"", Algorithm::Sha256.digest(layer)))
        .collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let config = put(config.as_bytes(), "config.v1+json");
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| put(layer, "layer.v1.tar") + "}")
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config}}},"layers":[{}]}}"#,
        layers.join(",")
    );
    let manifest = put(manifest.as_bytes(), "manifest.v1+json");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{manifest},"annotations":{{"org.opencontainers.image.ref.name":"1","io.containerd.image.name":"knarr.test/layers:1"}}}}]}}"#
    );
    fs::write(dir.join("index.json"), index).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Runs a script in namespaces of its own for mounts and networks, and takes what it leaves behind.
fn alone(script: &str, arguments: &[&Path]) {
    let mut command = Command::new("timeout");
    command.args([
        "120", "unshare", "-m", "-n", "-p", "-f", "sh", "-ec", script, "sh",
    ]);
    let output = command.args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
}

/// A program, or why the test does nothing; where peers are needed that is a failure.
fn peer(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("KNARR_NEED_PEERS").is_none(),
        "{} is not there",
        path.display()
    );
    println!("skipped: {} is not there", path.display());
    None
}

const CONTAINERD: &str = r#"
    dir=$1 bin=$2
    cat >"$dir/config.toml" <<-END
	version = 3
	disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
	END
    "$bin/containerd" --config "$dir/config.toml" --root "$dir/root" --state "$dir/state" \
        --address "$dir/sock" >"$dir/log" 2>&1 &
    ctr() { "$bin/ctr" --address "$dir/sock" "$@"; }
    n=0; until ctr version >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 100 ]; sleep 0.1; done
    tar -C "$dir/layout" -cf "$dir/layout.tar" .
    ctr images import --snapshotter overlayfs --platform linux/amd64 "$dir/layout.tar"
    mkdir "$dir/mnt"
    ctr images mount --snapshotter overlayfs --platform linux/amd64 knarr.test/layers:1 "$dir/mnt"
    cp -a "$dir/mnt" "$dir/containerd"
"#;

/// What each makes of the layers, without what is in the list that explains it.
async fn compare(layers: &[Vec<u8>]) -> Option<[BTreeMap<String, String>; 3]> {
    if !is_root() {
        return None;
    }
    let peers = std::env::var_os("KNARR_PEERS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers"),
        PathBuf::from,
    );
    let containerd = peer(peers.join("newest/containerd"))?;
    let umoci = peer("/usr/bin/umoci".into())?;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path();
    layout(&place.join("layout"), layers);
    alone(CONTAINERD, &[place, containerd.parent().unwrap()]);
    alone(
        r#""$2" unpack --image "$1/layout:1" "$1/bundle" && mv "$1/bundle/rootfs" "$1/umoci""#,
        &[place, &umoci],
    );
    let names: Vec<String> = (0..layers.len())
        .rev()
        .map(|index| format!("l{index}"))
        .collect();
    for (index, layer) in layers.iter().enumerate() {
        let upper = place.join(format!("l{index}"));
        fs::create_dir(&upper).unwrap();
        if index == 0 {
            apply(layer, &bind(&upper)).await.unwrap();
            continue;
        }
        let below: Vec<&str> = names[names.len() - index..]
            .iter()
            .map(|name| &**name)
            .collect();
        let mut mounts = overlay(place, &below);
        mounts[0].options[1] = format!("upperdir={}", upper.display());
        apply(layer, &mounts).await.unwrap();
    }
    let lower: Vec<String> = names
        .iter()
        .map(|name| place.join(name).display().to_string())
        .collect();
    let script = format!(
        "mkdir \"$1/view\"; mount -t overlay overlay -o lowerdir={} \"$1/view\"; cp -a \"$1/view\" \"$1/knarr\"",
        lower.join(":")
    );
    alone(&script, &[place]);
    Some(["knarr", "containerd", "umoci"].map(|name| {
        let lines = listing(&place.join(name));
        lines
            .into_iter()
            .map(|line| {
                let (path, rest) = line.split_once(' ').unwrap();
                (path.to_owned(), rest.to_owned())
            })
            .collect()
    }))
}

/// Whether a directory has the time of its unpacking.
fn is_now(line: &str) -> bool {
    let time = line
        .split([' ', '.'])
        .nth(2)
        .and_then(|time| time.parse::<u64>().ok());
    line.starts_with("4") && time.is_some_and(|time| time > 1_700_000_000)
}

fn without_time(line: &str) -> Vec<&str> {
    let parts = line.split(' ').enumerate();
    parts
        .filter(|(index, _)| *index != 2)
        .map(|(_, part)| part)
        .collect()
}

#[tokio::test]
async fn as_containerd_and_umoci_unpack_it() {
    let with = |mut entry: Entry, attributes: &[(&str, &str)]| {
        entry.xattrs = attributes
            .iter()
            .map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()))
            .collect();
        entry
    };
    let early = Time {
        seconds: -5,
        nanoseconds: 0,
    };
    let first = Tar::new()
        .add(
            &Entry {
                mode: 0o555,
                ..entry("./", Kind::Directory)
            },
            b"",
        )
        .dir("etc")
        .add(
            &Entry {
                mode: 0o4755,
                uid: 3,
                gid: 4,
                ..entry("etc/suid", Kind::File)
            },
            b"x",
        )
        .add(
            &Entry {
                mode: 0o1777,
                ..entry("tmp", Kind::Directory)
            },
            b"",
        )
        .add(
            &Entry {
                mode: 0o2775,
                gid: 50,
                ..entry("sgid", Kind::Directory)
            },
            b"",
        )
        .file("sgid/in", b"in")
        .add(
            &Entry {
                mode: 0,
                ..entry("none", Kind::File)
            },
            b"",
        )
        .link("link", Kind::Symlink, "etc")
        .link("dangling", Kind::Symlink, "/no/where")
        .file("implied/deep/file", b"")
        .file("a", b"a")
        .link("b", Kind::HardLink, "a")
        .link("sub", Kind::Symlink, "etc")
        .file("sub/through", b"link")
        .add(
            &Entry {
                major: 1,
                minor: 3,
                mode: 0o666,
                ..entry("null", Kind::Character)
            },
            b"",
        )
        .add(
            &Entry {
                major: 8,
                minor: 1,
                mode: 0o660,
                ..entry("disk", Kind::Block)
            },
            b"",
        )
        .add(
            &Entry {
                mode: 0o600,
                uid: 1,
                ..entry("pipe", Kind::Fifo)
            },
            b"",
        )
        .add(
            &with(
                entry("x", Kind::File),
                &[("user.one", "1"), ("trusted.two", "2")],
            ),
            b"x",
        )
        .add(
            &with(entry("xd", Kind::Directory), &[("user.one", "1")]),
            b"",
        )
        .add(&with(entry("empty", Kind::File), &[("user.none", "")]), b"")
        .add(
            &Entry {
                modified: early,
                ..entry("old", Kind::File)
            },
            b"",
        )
        .add(
            &Entry {
                mode: 0o700,
                uid: 9,
                ..entry("kept", Kind::Directory)
            },
            b"",
        )
        .file("kept/x", b"")
        .dir("gone")
        .file("gone/x", b"")
        .file("gonefile", b"")
        .dir("opaque")
        .file("opaque/old", b"")
        .dir("turns")
        .file("turns/x", b"")
        .file("turned", b"")
        .link("linked", Kind::Symlink, "etc")
        .file(&format!("long/{}", "n".repeat(200)), b"")
        .file("a name\nof two lines", b"")
        .end();
    let second = Tar::new()
        .file(".wh.gone", b"")
        .file(".wh.gonefile", b"")
        .file("opaque/new", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("turns", b"file")
        .dir("turned")
        .file("turned/x", b"")
        .add(
            &Entry {
                mode: 0o711,
                ..entry("kept", Kind::Directory)
            },
            b"",
        )
        .file("kept/y", b"")
        .file("etc/new", b"")
        .file("a", b"changed")
        .dir("linked")
        .file("linked/x", b"x")
        .add(
            &Entry {
                mode: 0o600,
                ..link("c", Kind::HardLink, "etc/new")
            },
            b"",
        )
        .end();
    let third = Tar::new()
        .file("implied/deep/more", b"")
        .file("kept/.wh.x", b"")
        .file("gone", b"now a file")
        .file("sgid/new", b"")
        .file("etc/.wh.nothing", b"")
        .end();
    let Some([knarr, containerd, umoci]) = compare(&[first, second, third]).await else {
        return;
    };
    let differ = |other: &BTreeMap<String, String>| {
        let mut names: Vec<String> = knarr.keys().chain(other.keys()).cloned().collect();
        names.sort();
        names.dedup();
        names.retain(|name| {
            let (ours, theirs) = (knarr.get(name), other.get(name));
            let is_implied = ours.zip(theirs).is_some_and(|(ours, theirs)| {
                without_time(ours) == without_time(theirs) && is_now(theirs)
            });
            ours != theirs && !is_implied
        });
        for name in &names {
            println!("{name}\n  {:?}\n  {:?}", knarr.get(name), other.get(name));
        }
        names
    };
    println!("containerd:");
    assert_eq!(differ(&containerd), ["old", "x"]);
    println!("umoci:");
    assert_eq!(differ(&umoci), ["c", "empty", "etc/new"]);
}
