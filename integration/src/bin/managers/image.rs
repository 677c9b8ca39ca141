//! The image that is pulled: five layers, 570 MB unpacked, many small files and some large ones, once
//! compressed with gzip and once with zstd; in a registry on the loopback device.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use knarr_integration::daemon::Pen;
use knarr_integration::json;

use crate::daemons::Daemon;

/// How the layers are compressed, which also are the tags.
pub const COMPRESSIONS: [&str; 2] = ["gzip", "zstd"];

const NAME: &str = "bench";
const REGISTRY: &str = "127.0.0.1:5000";

/// Layers: files, and the mean of their sizes in KiB. The large ones come last.
const LAYERS: [(u32, u32); 5] = [(9000, 20), (3000, 40), (3, 51_200), (3000, 16), (500, 80)];

/// What a client asks for.
pub fn reference(compression: &str) -> String {
    format!("{REGISTRY}/{NAME}:{compression}")
}

/// Makes the registry's directory, unless it is there.
pub fn make(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let dir = dir.canonicalize().unwrap();
    let (done, store) = (dir.join("done"), dir.join("registry"));
    if done.exists() {
        return store;
    }
    eprintln!("making the image that is pulled, which takes a minute");
    let _ = fs::remove_dir_all(&store);
    let base = store.join("docker/registry/v2");
    let mut layers = Vec::new();
    for (index, (files, size)) in LAYERS.into_iter().enumerate() {
        let tar = dir.join(format!("{index}.tar"));
        layer(&tar, index, files, size);
        let diff_id = digest(&tar);
        let packed = COMPRESSIONS.map(|compression| {
            let packed = dir.join(format!("{index}.{compression}"));
            let output = File::create(&packed).unwrap();
            let status = Command::new(compression)
                .args(["-c", tar.to_str().unwrap()])
                .stdout(output)
                .status()
                .unwrap_or_else(|error| panic!("{compression}: {error}"));
            assert!(status.success());
            blob(&base, &packed)
        });
        fs::remove_file(&tar).unwrap();
        layers.push((diff_id, packed));
    }
    let diff_ids: Vec<&str> = layers.iter().map(|(id, _)| &**id).collect();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": arch, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let write = |value: &knarr_integration::Value| {
        let path = dir.join("document");
        fs::write(&path, value.to_string()).unwrap();
        blob(&base, &path)
    };
    let (config, size) = write(&config);
    for (index, compression) in COMPRESSIONS.into_iter().enumerate() {
        let described = layers.iter().map(|(_, packed)| {
            let (digest, size) = &packed[index];
            json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar+{compression}"),
                "digest": digest, "size": size,
            })
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config, "size": size,
            },
            "layers": described.collect::<Vec<_>>(),
        });
        let (manifest, _) = write(&manifest);
        let repository = base.join("repositories").join(NAME);
        let blobs = layers.iter().map(|(_, packed)| &packed[index].0);
        for digest in blobs.chain([&config]) {
            link(&repository.join("_layers"), digest);
        }
        link(&repository.join("_manifests/revisions"), &manifest);
        let tag = repository.join("_manifests/tags").join(compression);
        link(&tag.join("index"), &manifest);
        let current = tag.join("current");
        fs::create_dir_all(&current).unwrap();
        fs::write(current.join("link"), &manifest).unwrap();
    }
    fs::write(done, "").unwrap();
    store
}

/// A layer as a tar file: text that compresses to about two fifths, different in every file.
fn layer(path: &Path, index: usize, files: u32, kib: u32) {
    let mut out = BufWriter::new(File::create(path).unwrap());
    let mut random = Random(u64::try_from(index).unwrap() + 1);
    header(&mut out, &format!("layer{index}/"), 0, b'5');
    for file in 0..files {
        if file % 100 == 0 {
            header(&mut out, &format!("layer{index}/{}/", file / 100), 0, b'5');
        }
        // From nothing to twice the mean.
        let size = match files {
            ..10 => kib << 10,
            _ => u32::try_from(random.next() % u64::from(kib << 11)).unwrap(),
        };
        let size = usize::try_from(size).unwrap();
        let name = format!("layer{index}/{}/file{file}.txt", file / 100);
        header(&mut out, &name, size, b'0');
        let mut text = Vec::with_capacity(size + 24);
        while text.len() < size {
            let number = random.next();
            match number % 4 {
                0 => write!(text, "{number:x} ").unwrap(),
                kind => write!(
                    text,
                    "{} ",
                    WORDS[usize::try_from(number >> 32).unwrap() % WORDS.len()]
                        .repeat(usize::try_from(kind).unwrap())
                )
                .unwrap(),
            }
        }
        text.truncate(size);
        text.resize(size.next_multiple_of(512), 0);
        out.write_all(&text).unwrap();
    }
    out.write_all(&[0; 1024]).unwrap();
    out.flush().unwrap();
}

const WORDS: [&str; 8] = [
    "clinker", "strake", "garboard", "keelson", "mast", "rudder", "oar", "thwart",
];

/// A header of POSIX ustar.
fn header(out: &mut impl Write, name: &str, size: usize, kind: u8) {
    let mut block = [0u8; 512];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if kind == b'5' { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "14000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.write_all(&block).unwrap();
}

/// xorshift64*: the same image everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

fn digest(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    let sum = String::from_utf8(out.stdout).unwrap();
    format!("sha256:{}", sum.split(' ').next().unwrap())
}

/// Moves a file to where the registry keeps blobs; its digest and size.
fn blob(base: &Path, path: &Path) -> (String, u64) {
    let (digest, size) = (digest(path), fs::metadata(path).unwrap().len());
    let hex = digest.strip_prefix("sha256:").unwrap();
    let dir = base.join("blobs/sha256").join(&hex[..2]).join(hex);
    fs::create_dir_all(&dir).unwrap();
    fs::rename(path, dir.join("data")).unwrap();
    (digest, size)
}

fn link(dir: &Path, digest: &str) {
    let dir = dir
        .join("sha256")
        .join(digest.strip_prefix("sha256:").unwrap());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("link"), digest).unwrap();
}

/// Starts the registry.
pub fn serve(pen: &Pen, store: &Path) {
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\nlog:\n  level: error\n",
        store.display()
    );
    let path = pen.path("registry.yml");
    fs::write(&path, config).unwrap();
    let program = "docker-registry";
    pen.daemon(program, &[program, "serve", path.to_str().unwrap()]);
    let (host, port) = REGISTRY.split_once(':').unwrap();
    let probe = format!("exec 3<>/dev/tcp/{host}/{port}");
    pen.wait_for(program, || {
        let mut command = pen.command(&["bash", "-c", &probe]);
        command.stderr(Stdio::null()).status().unwrap().success()
    });
}

/// Sees that the daemon has all of the image: a file of the last layer.
pub fn check(daemon: &Daemon<'_>, name: &str) {
    let listed = daemon.ctr(&["image", "check", &format!("name=={name}")]);
    assert!(
        listed.contains("complete") && listed.contains("true"),
        "{listed}"
    );
}

/// A file system of its own, ext4 with a journal on a file in memory, below the pen.
#[derive(Debug)]
pub struct Disk<'a>(&'a Pen);

impl<'a> Disk<'a> {
    /// Makes and mounts it.
    pub fn new(pen: &'a Pen) -> Self {
        let dir = pen.path("disk");
        let line = "set -e; mkdir -p \"$1/ram\" \"$1/fs\"; mount -t tmpfs -o size=6g ram \"$1/ram\"; \
            truncate -s 5g \"$1/ram/image\"; mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 \"$1/ram/image\"; \
            mount -o loop \"$1/ram/image\" \"$1/fs\"";
        let args = ["/bin/sh", "-c", line, "sh", dir.to_str().unwrap()];
        let out = pen.command(&args).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        Self(pen)
    }

    /// Its name in the pen.
    pub fn name(&self) -> &'static str {
        "disk/fs"
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let dir = self.0.path("disk");
        let line =
            "umount \"$1/fs\" || umount -l \"$1/fs\"; umount \"$1/ram\" || umount -l \"$1/ram\"";
        let args = ["/bin/sh", "-c", line, "sh", dir.to_str().unwrap()];
        let _ = self.0.command(&args).status();
    }
}
