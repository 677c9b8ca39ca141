//! Archives, also broken ones, and trees as text.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use knarr_manager::error::Result;
use knarr_manager::layer::tar::{Entry, Kind, Time, Writer};
use knarr_manager::layer::{Applied, Layers, Limits};
use knarr_manager::snapshot::Mount;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_knarrd");

/// Tells why a test that needs root does nothing.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can give files to others");
    }
    root
}

pub fn entry(name: &str, kind: Kind) -> Entry {
    let time = Time {
        seconds: 1_600_000_000,
        nanoseconds: 123_456_789,
    };
    Entry {
        name: name.into(),
        kind,
        mode: 0o755,
        modified: time,
        ..Entry::default()
    }
}

pub fn link(name: &str, kind: Kind, link: &str) -> Entry {
    Entry {
        link: link.into(),
        ..entry(name, kind)
    }
}

/// An archive as it grows.
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn add(mut self, entry: &Entry, bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        let mut writer = Writer::new(&mut self.0);
        writer
            .entry(&Entry {
                size,
                ..entry.clone()
            })
            .unwrap();
        writer.data(bytes).unwrap();
        writer.pad(size).unwrap();
        self
    }

    pub fn dir(self, name: &str) -> Self {
        self.add(&entry(name, Kind::Directory), b"")
    }

    pub fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.add(&entry(name, Kind::File), bytes)
    }

    pub fn link(self, name: &str, kind: Kind, text: &str) -> Self {
        self.add(&link(name, kind, text), b"")
    }

    /// A header with fields put into it by hand, and what follows it.
    pub fn raw(mut self, kind: u8, name: &[u8], fields: &[(usize, &[u8])], bytes: &[u8]) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        block[136..148].copy_from_slice(b"13727410000\0");
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar  \0");
        for (at, field) in fields {
            block[*at..*at + field.len()].copy_from_slice(field);
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&block);
        self.bytes(bytes)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// An extended header.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|length| length - length.to_string().len() == rest);
            text.extend_from_slice(format!("{} {key}=", length.unwrap()).as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.raw(b'x', b"pax", &[], &text)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub fn bind(dir: &Path) -> Vec<Mount> {
    vec![Mount {
        kind: "bind".into(),
        source: dir.display().to_string(),
        options: vec!["rbind".into(), "rw".into()],
    }]
}

/// An overlay of directories below `dir`: `layers` of them, the nearest first, below `upper`.
pub fn overlay(dir: &Path, layers: &[&str]) -> Vec<Mount> {
    for name in layers.iter().chain(&["upper", "work"]) {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let lower: Vec<String> = layers
        .iter()
        .map(|name| dir.join(name).display().to_string())
        .collect();
    vec![Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("workdir={}", dir.join("work").display()),
            format!("upperdir={}", dir.join("upper").display()),
            format!("lowerdir={}", lower.join(":")),
            "index=off".into(),
        ],
    }]
}

pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

pub async fn apply(bytes: &[u8], mounts: &[Mount]) -> Result<Applied> {
    let layers = Layers::new(PROGRAM, Limits::default());
    layers.apply(file(bytes), mounts, false).await
}

/// Unpacks into a new directory.
pub async fn unpacked(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    apply(bytes, &bind(dir.path())).await.unwrap();
    dir
}

/// The paths below a directory, in order.
pub fn paths(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(paths(&entry.path()));
        }
    }
    found.sort();
    found
}

pub fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    let mut found = Vec::new();
    for name in names.split_terminator('\0') {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        found.push((name.to_owned(), value));
    }
    found.sort();
    found
}

/// All that can be seen of a tree, a line each.
pub fn listing(dir: &Path) -> Vec<String> {
    let line = |path: PathBuf| {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let content = if kind.is_file() {
            format!("{} {:x?}", stat.len(), md(&fs::read(&path).unwrap()))
        } else if kind.is_symlink() {
            format!(
                "-> {}",
                fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .escape_ascii()
            )
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("dev {:x}", stat.rdev())
        } else {
            String::new()
        };
        let links = if kind.is_dir() { 0 } else { stat.nlink() };
        format!(
            "{} {:o} {}:{} {}.{:09} x{links} {content} {:?}",
            path.strip_prefix(dir)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .escape_ascii(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            xattrs(&path)
        )
    };
    paths(dir).into_iter().map(line).collect()
}

/// A sum that tells contents apart.
fn md(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
