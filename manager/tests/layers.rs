//! Layers, unpacked by the worker that knarrd is then: what the trees look like from outside.
//!
//! Needs root: owners, devices and attributes of overlayfs are part of what is compared.

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Seek as _, SeekFrom, Write as _};
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use knarr_manager::error::{Code, Result};
    use knarr_manager::layer::tar::{Entry, Kind, Time, Writer};
    use knarr_manager::layer::{Applied, Layers, Limits};
    use knarr_manager::snapshot::Mount;

    const PROGRAM: &str = env!("CARGO_BIN_EXE_knarrd");

    fn entry(name: &str, kind: Kind) -> Entry {
        Entry {
            name: name.into(),
            kind,
            mode: 0o755,
            modified: Time {
                seconds: 1_600_000_000,
                nanoseconds: 123_456_789,
            },
            ..Entry::default()
        }
    }

    fn tar(entries: &[(Entry, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (entry, bytes) in entries {
            let size = bytes.len() as u64;
            writer
                .entry(&Entry {
                    size,
                    ..entry.clone()
                })
                .unwrap();
            writer.data(bytes).unwrap();
            writer.pad(size).unwrap();
        }
        writer.finish().unwrap()
    }

    fn bind(dir: &Path) -> Vec<Mount> {
        vec![Mount {
            kind: "bind".into(),
            source: dir.display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
        }]
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    async fn apply(bytes: &[u8], mounts: &[Mount]) -> Result<Applied> {
        let layers = Layers::new(PROGRAM, Limits::default());
        layers.apply(file(bytes), mounts, false).await
    }

    #[tokio::test]
    async fn a_tree() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tar(&[
            (entry("etc", Kind::Directory), b""),
            (
                Entry {
                    mode: 0o4711,
                    uid: 7,
                    gid: 8,
                    ..entry("etc/f", Kind::File)
                },
                b"hello",
            ),
        ]);
        let applied = apply(&bytes, &bind(dir.path())).await.unwrap();
        assert_eq!(applied.size, bytes.len() as u64);
        let made = fs::metadata(dir.path().join("etc/f")).unwrap();
        assert_eq!((made.mode(), made.uid(), made.gid()), (0o104_711, 7, 8));
        assert_eq!(
            (made.mtime(), made.mtime_nsec()),
            (1_600_000_000, 123_456_789)
        );
        assert_eq!(fs::read(dir.path().join("etc/f")).unwrap(), b"hello");
        let made = fs::metadata(dir.path().join("etc")).unwrap();
        assert_eq!((made.mode(), made.mtime()), (0o40_755, 1_600_000_000));
        let error = apply(b"no tar", &bind(dir.path())).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
}
