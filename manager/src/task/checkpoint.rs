//! Checkpoints: what CRIU writes of a container becomes content, and a container goes on from there.
//!
//! A checkpoint is two blobs: the files that CRIU wrote, as a tar archive, and the container's
//! specification.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use knarr_proto::any;
use knarr_proto::containerd::runc::v1::CheckpointOptions;
use knarr_proto::containerd::task::v2::CheckpointTaskRequest;
use knarr_proto::prost::Message as _;
use knarr_proto::prost_types::Any;
use knarr_proto::ttrpc;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::shim::call;
use super::table::not_here;
use super::{LONG, Tasks, to_the_end};
use crate::error::{Code, Error, Result};
use crate::layer::tar;
use crate::store::content::{Content, Order, Reader, Writer};
use crate::store::digest::Digest;
use crate::store::schema::Descriptor;

/// The type of the archive.
const IMAGES: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";

/// The type of the specification.
const CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";

/// How much is copied at once, in bytes.
const PIECE: usize = 1 << 16;

/// Tells checkpoints from each other.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What a client wants to have written of a task.
#[derive(Debug)]
pub struct Dump {
    /// The namespace of the task.
    pub namespace: String,
    /// The id of the task.
    pub id: String,
    /// Options of the runtime.
    pub options: Option<Any>,
    /// The lease that keeps the blobs.
    pub lease: Option<String>,
}

/// A directory that is removed.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&path);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Error::io(path.display(), &error))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Tasks {
    /// Writes a checkpoint of a task; the blobs that it became, none where the options name a
    /// directory for it.
    ///
    /// # Errors
    /// `NotFound`; what its shim says; where the disk fails.
    pub async fn checkpoint(&self, dump: Dump) -> Result<Vec<Descriptor>> {
        let this = self.clone();
        to_the_end(async move { this.checkpoint_now(dump).await }).await
    }

    async fn checkpoint_now(&self, dump: Dump) -> Result<Vec<Descriptor>> {
        let content = &self.0.content;
        let Dump {
            namespace,
            id,
            options,
            lease,
        } = dump;
        let container = self.0.containers.get(&namespace, &id)?.container;
        let key = (namespace.clone(), id.clone());
        let task = self.0.table.find(&key).await?;
        let own = match &options {
            Some(options) if any::is::<CheckpointOptions>(options) => {
                let wrong = |error| Error::invalid(format!("options: {error}"));
                any::unpack::<CheckpointOptions>(options).map_err(wrong)?
            }
            _ => CheckpointOptions::default(),
        };
        let scratch = match own.image_path.as_str() {
            "" => {
                // Others may be at it as well.
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let name = format!("checkpoint-{number}");
                Some(Scratch::new(task.bundle.path.join(name))?)
            }
            _ => None,
        };
        let path = scratch.as_ref().map_or(own.image_path, Scratch::path);
        let request = CheckpointTaskRequest {
            id: id.clone(),
            path,
            options,
        };
        let (client, limit) = (task.shim.task(), call(&namespace, Some(LONG)));
        match client.checkpoint(&request, &limit).await {
            Err(ttrpc::Error::Closed(_)) => return Err(not_here(&id)),
            written => written.map_err(Error::from)?,
        }
        let Some(scratch) = scratch else {
            return Ok(Vec::new());
        };
        let order = |kind: &str| Order {
            reference: format!("checkpoint-{kind}-{}", scratch.path()),
            lease: lease.clone(),
            ..Order::default()
        };
        let archive = content.write(&namespace, order("criu")).await?;
        let from = scratch.0.clone();
        let archive = spawn_blocking(move || pack(archive, &from)).await;
        let archive = archive.map_err(|_| Error::internal("the archive was not written"))??;
        let mut specification = content.write(&namespace, order("config")).await?;
        specification.truncate(0)?;
        let any = Any::from(container.spec.unwrap_or_default());
        specification.write(&any.encode_to_vec())?;
        Ok(vec![
            commit(archive, IMAGES).await?,
            commit(specification, CONFIG).await?,
        ])
    }
}

/// Makes a blob of what was written, which may be there already.
async fn commit(writer: Writer, kind: &str) -> Result<Descriptor> {
    let (digest, size) = (writer.digest().to_string(), writer.status().offset);
    match writer.commit(0, None, Default::default()).await {
        Err(error) if error.code() == Code::AlreadyExists => {}
        committed => drop(committed?),
    }
    Ok(Descriptor {
        media_type: kind.to_owned(),
        digest,
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..Descriptor::default()
    })
}

/// A blob that is being written, as something to write to.
struct Sink(Writer);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack(mut writer: Writer, from: &Path) -> Result<Writer> {
    writer.truncate(0)?;
    let buffer = io::BufWriter::with_capacity(PIECE, Sink(writer));
    let mut archive = tar::Writer::new(buffer);
    let root = tar::Entry {
        name: b"./".to_vec(),
        kind: tar::Kind::Directory,
        mode: 0o700,
        ..tar::Entry::default()
    };
    archive.entry(&root)?;
    let broken = |error: io::Error| Error::io(from.display(), &error);
    let entries = fs::read_dir(from).map_err(broken)?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(broken)?;
    names.sort();
    let mut piece = vec![0; PIECE];
    for name in names {
        let path = from.join(&name);
        let broken = |error: io::Error| Error::io(path.display(), &error);
        let found = fs::symlink_metadata(&path).map_err(broken)?;
        // CRIU writes plain files; whatever else is there is none of its.
        if !found.is_file() {
            continue;
        }
        let file = File::open(&path).map_err(broken)?;
        archive.entry(&tar::Entry {
            name: name.as_bytes().to_vec(),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            size: found.len(),
            modified: tar::Time {
                seconds: found.mtime(),
                nanoseconds: u32::try_from(found.mtime_nsec()).unwrap_or(0),
            },
            ..tar::Entry::default()
        })?;
        let mut left = found.len();
        let mut file = file.take(left);
        while left > 0 {
            let length = file.read(&mut piece).map_err(broken)?;
            if length == 0 {
                let what = format!("{} has become shorter", path.display());
                return Err(Error::internal(what));
            }
            archive.data(&piece[..length])?;
            left -= u64::try_from(length).unwrap_or(left);
        }
        archive.pad(found.len())?;
    }
    let mut buffer = archive.finish()?;
    buffer.flush().map_err(broken)?;
    let sink = buffer
        .into_inner()
        .map_err(|error| broken(error.into_error()))?;
    Ok(sink.0)
}

/// Lays out the files of a checkpoint in a new directory at `to`.
///
/// # Errors
/// `InvalidArgument` for a blob that is none; `NotFound`; where the disk fails.
pub(super) async fn unpack(
    content: &Content,
    namespace: &str,
    checkpoint: &Descriptor,
    to: PathBuf,
) -> Result<Scratch> {
    if checkpoint.media_type != IMAGES {
        let kind = &checkpoint.media_type;
        return Err(Error::invalid(format!(
            "unsupported checkpoint type {kind:?}"
        )));
    }
    let digest: Digest = checkpoint.digest.parse()?;
    let blob = content.read(namespace, &digest)?;
    let name = format!("checkpoint {digest}");
    let work = move || {
        let scratch = Scratch::new(to)?;
        extract(blob, &scratch.0).map_err(|error| error.context(name))?;
        Ok(scratch)
    };
    let done = Handle::current().spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Error::internal("the checkpoint was not read")))
}

/// Makes the plain files of an archive; whatever else is there is none of CRIU's.
fn extract(blob: Reader, to: &Path) -> Result<()> {
    let input = io::BufReader::with_capacity(PIECE, blob.into_file());
    let mut archive = tar::Reader::new(input, tar::Limits::default());
    while let Some(entry) = archive.next_entry()? {
        if entry.kind != tar::Kind::File {
            continue;
        }
        let name = Path::new(OsStr::from_bytes(&entry.name));
        let parts = name.components();
        let parts = parts.filter(|part| !matches!(part, Component::CurDir));
        let plain = |part: Component<'_>| match part {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        };
        let relative: Option<PathBuf> = parts.map(plain).collect();
        let Some(relative) = relative else {
            let what = format!("{} is no name of a file", name.display());
            return Err(Error::invalid(what));
        };
        if entry.sparse.is_some() {
            let what = format!("{}: a file with holes", name.display());
            return Err(Error::invalid(what));
        }
        let path = to.join(relative);
        let broken = |error: io::Error| Error::io(path.display(), &error);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(broken)?;
        }
        let mut file = File::create_new(&path).map_err(broken)?;
        archive.data(|bytes| file.write_all(bytes).map_err(broken))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::database::Database;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_packed_is_laid_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        let pages: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for (name, bytes) in [
            ("pages-1.img", &*pages),
            ("empty", b""),
            ("core-1.img", b"x"),
        ] {
            fs::write(from.join(name), bytes).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", from.join("link")).unwrap();
        let database = Arc::new(Database::open(&dir.path().join("db")).unwrap());
        let content = Content::open(&dir.path().join("content"), database).unwrap();
        let order = Order {
            reference: "one".to_owned(),
            ..Order::default()
        };
        let writer = content.write("default", order).await.unwrap();
        let writer = pack(writer, &from).unwrap();
        let blob = commit(writer, IMAGES).await.unwrap();
        let reader = content
            .read("default", &blob.digest.parse().unwrap())
            .unwrap();
        extract(reader, &to).unwrap();
        let mut names: Vec<_> = fs::read_dir(&to).unwrap().flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        assert_eq!(names.len(), 3);
        assert_eq!(fs::read(to.join("pages-1.img")).unwrap(), pages);
        assert_eq!(fs::read(to.join("empty")).unwrap(), b"");
        assert_eq!(fs::read(to.join("core-1.img")).unwrap(), b"x");
    }
}
