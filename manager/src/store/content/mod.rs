//! Blobs, named by their digests, and those that are being written.
//!
//! ```text
//! blobs/sha256/HEX    a blob, whole, on the disk, verified; read only
//! ingest/ID           what has arrived of a blob that is being written
//! ```
//!
//! Files hold the bytes, rows of the database say who knows them: a namespace sees what it has a row
//! of, and several share one file. A blob is committed in this order: its bytes are on the disk, its
//! file has its name, its row is written. Whatever ends in between leaves a file that no row names,
//! which the collector removes, or an ingest to go on with: its row is kept until the blob has one.

mod blob;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use knarr_proto::events as told;

use blob::rehash;
pub use blob::{Reader, Writer};

use super::database::{Database, Look, Write, now};
use super::digest::{Algorithm, Digest, Hasher};
use super::events;
use super::filter::{Fields, Filters, entry};
use super::leases;
use super::name::{Labels, tidy_labels};
use super::namespaces;
use super::schema::{BLOBS, Blob, INGESTS, Ingest, NAMESPACES, decode};
use crate::error::{Code, Error, Result};

/// How many files are looked up at once.
const CHUNK: usize = 100;

/// The blobs of one manager.
#[derive(Debug, Clone)]
pub struct Content(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Arc<Database>,
    blobs: PathBuf,
    ingests: PathBuf,
    /// The references that somebody writes to, and since when.
    busy: Mutex<HashMap<(String, String), Instant>>,
    /// How often each blob's file is about to get a row: the collector leaves these alone.
    arriving: Mutex<HashMap<Digest, usize>>,
}

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq)]
pub struct Info {
    /// Its name.
    pub digest: Digest,
    /// The rest.
    pub blob: Blob,
}

impl Fields for Info {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["digest"] => Some(self.digest.to_string()),
            ["size"] => Some(self.blob.size.to_string()),
            ["labels", key @ ..] => entry(&self.blob.labels, key),
            _ => None,
        }
    }
}

/// How far a blob has come that is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The name that the writer gave it.
    pub reference: String,
    /// Bytes that are there.
    pub offset: u64,
    /// Bytes that there will be; 0 where nobody said.
    pub total: u64,
    /// The digest that it will have, empty where nobody said.
    pub expected: String,
    /// When it began, in nanoseconds since 1970.
    pub started: i64,
    /// When something arrived last, in nanoseconds since 1970.
    pub updated: i64,
}

impl Fields for Status {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["ref"] => Some(self.reference.clone()),
            _ => None,
        }
    }
}

/// What a writer says of its blob before it begins.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// The name under which others find the half of it.
    pub reference: String,
    /// The length in bytes, 0 where it is not known.
    pub total: u64,
    /// The digest, where it is known.
    pub expected: Option<Digest>,
    /// The lease that keeps it.
    pub lease: Option<String>,
}

impl Content {
    /// The blobs below `dir`, which is made where it is not there.
    ///
    /// # Errors
    /// Where directories can't be made.
    pub fn open(dir: &Path, database: Arc<Database>) -> Result<Self> {
        let blobs = dir.join("blobs");
        let ingests = dir.join("ingest");
        let made = Algorithm::ALL.map(|algorithm| blobs.join(algorithm.name()));
        for made in made.iter().chain([&ingests]) {
            fs::create_dir_all(made).map_err(|error| Error::io(made.display(), &error))?;
        }
        Ok(Self(Arc::new(Inner {
            database,
            blobs,
            ingests,
            busy: Mutex::default(),
            arriving: Mutex::default(),
        })))
    }

    /// What is known of a blob.
    ///
    /// # Errors
    /// `NotFound` where the namespace has no such blob.
    pub fn info(&self, namespace: &str, digest: &Digest) -> Result<Info> {
        self.0.database.read(|read| info(read, namespace, digest))
    }

    /// The blobs of a namespace that filters take, each given to `row`.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn list(
        &self,
        namespace: &str,
        filters: &Filters,
        mut row: impl FnMut(Info),
    ) -> Result<()> {
        self.0.database.read(|read| {
            read.of_namespace(BLOBS, namespace, |name, blob: Blob| {
                let digest = name.parse()?;
                let info = Info { digest, blob };
                if filters.take(&info) {
                    row(info);
                }
                Ok(true)
            })
        })
    }

    /// Changes the labels of a blob: `change` gets those it has.
    ///
    /// # Errors
    /// `NotFound`; those of `change`; `InvalidArgument` for labels that are too long.
    pub async fn relabel(
        &self,
        namespace: &str,
        digest: &Digest,
        mut change: impl FnMut(&mut Labels) -> Result<()> + Send + 'static,
    ) -> Result<Info> {
        let (namespace, digest) = (namespace.to_owned(), digest.clone());
        let job = move |write: &Write| {
            let mut info = info(write, &namespace, &digest)?;
            change(&mut info.blob.labels)?;
            tidy_labels(&mut info.blob.labels)?;
            info.blob.updated = now();
            write.put(BLOBS, (&*namespace, digest.as_str()), &info.blob)?;
            Ok(info)
        };
        self.0.database.write(job).await
    }

    /// Forgets a blob in a namespace. Its file goes when the collector finds that nobody knows it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, namespace: &str, digest: &Digest) -> Result<()> {
        let (namespace, digest) = (namespace.to_owned(), digest.clone());
        let job = move |write: &Write| match remove(write, &namespace, digest.as_str())? {
            true => Ok(()),
            false => Err(not_here(&digest)),
        };
        self.0.database.write(job).await
    }

    /// A blob to read from, wherever one likes.
    ///
    /// # Errors
    /// `NotFound` where the namespace has no such blob; `DataLoss` where its file is gone.
    pub fn read(&self, namespace: &str, digest: &Digest) -> Result<Reader> {
        let size = self.info(namespace, digest)?.blob.size;
        let path = self.0.path(digest);
        let file = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(
                Code::DataLoss,
                format!("content {digest}: its file {} is gone", path.display()),
            ),
            _ => Error::io(path.display(), &error),
        })?;
        Ok(Reader { file, size })
    }

    /// Removes the files that no row names: what was removed from the database, and what a crash
    /// has left.
    ///
    /// # Errors
    /// Where the disk fails.
    pub async fn clean_up(&self) -> Result<()> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.0.clean_up())
            .await
            .map_err(|_| Error::internal("the removal of files panicked"))?
    }

    /// How far a blob has come.
    ///
    /// # Errors
    /// `NotFound` where nobody has begun one of this name.
    pub fn status(&self, namespace: &str, reference: &str) -> Result<Status> {
        let row = self
            .0
            .database
            .read(|read| read.get(INGESTS, (namespace, reference)))?;
        let row: Ingest = row.ok_or_else(|| no_ingest(reference))?;
        Ok(self.0.look(reference, &row))
    }

    /// How far all have come that filters take.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn statuses(&self, namespace: &str, filters: &Filters) -> Result<Vec<Status>> {
        let mut found = Vec::new();
        self.0.database.read(|read| {
            read.of_namespace(INGESTS, namespace, |reference, row: Ingest| {
                let status = self.0.look(reference, &row);
                if filters.take(&status) {
                    found.push(status);
                }
                Ok(true)
            })
        })?;
        Ok(found)
    }

    /// Gives up what somebody has begun to write.
    ///
    /// # Errors
    /// `NotFound` where nobody has begun one of this name.
    pub async fn abort(&self, namespace: &str, reference: &str) -> Result<()> {
        let (space, name) = (namespace.to_owned(), reference.to_owned());
        let job = move |write: &Write| {
            let row: Option<Ingest> = write.get(INGESTS, (&*space, &*name))?;
            let row = row.ok_or_else(|| no_ingest(&name))?;
            write.remove(INGESTS, (&*space, &*name))?;
            Ok(row.id)
        };
        let id = self.0.database.write(job).await?;
        let _ = fs::remove_file(self.0.ingest(id));
        Ok(())
    }

    /// Begins to write a blob, or goes on where somebody stopped, also before a restart.
    ///
    /// # Errors
    /// `Unavailable` while somebody else writes under this name; `AlreadyExists` where the
    /// namespace has a blob of the expected digest; `NotFound` where the lease is not there.
    pub async fn write(&self, namespace: &str, order: Order) -> Result<Writer> {
        if order.reference.is_empty() {
            return Err(Error::invalid("the reference of a blob to write is empty"));
        }
        let turn = self.0.take_turn(namespace, &order.reference)?;
        let id = self.0.database.next_id();
        let (space, asked) = (namespace.to_owned(), order.clone());
        let job = move |write: &Write| {
            if let Some(expected) = &asked.expected
                && write
                    .get::<_, Blob>(BLOBS, (&*space, expected.as_str()))?
                    .is_some()
            {
                leases::keep(
                    write,
                    &space,
                    asked.lease.as_deref(),
                    "content",
                    expected.as_str(),
                )?;
                return Ok(None);
            }
            namespaces::ensure(write, &space)?;
            let key = (&*space, &*asked.reference);
            leases::keep(
                write,
                &space,
                asked.lease.as_deref(),
                "ingests",
                &asked.reference,
            )?;
            if let Some(row) = write.get::<_, Ingest>(INGESTS, key)? {
                return Ok(Some(row));
            }
            let row = Ingest {
                id,
                expected: asked
                    .expected
                    .as_ref()
                    .map(Digest::to_string)
                    .unwrap_or_default(),
                total: asked.total,
                started: now(),
            };
            write.put(INGESTS, key, &row)?;
            Ok(Some(row))
        };
        let row = match self.0.database.write_soon(job).await? {
            None => {
                let digest = order.expected.map(|digest| digest.to_string());
                let digest = digest.unwrap_or_default();
                return Err(Error::exists(format!("content {digest}")));
            }
            Some(row) => row,
        };
        let algorithm = order
            .expected
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let shared = order.expected.as_ref().and_then(|it| self.0.shared(it));
        let (mut file, path) = self.0.open_ingest(row.id)?;
        let (hasher, offset) = match &shared {
            Some(shared) => (Hasher::new(algorithm), shared.size),
            None => rehash(&mut file, algorithm, u64::MAX)
                .map_err(|error| Error::io(path.display(), &error))?,
        };
        Ok(Writer {
            content: self.clone(),
            turn,
            order,
            row,
            file,
            hasher,
            offset,
            shared,
        })
    }
}

/// Removes the row of a blob. Whether it was there.
pub(super) fn remove(write: &Write, namespace: &str, digest: &str) -> Result<bool> {
    let removed = write.remove(BLOBS, (namespace, digest))?;
    if removed {
        write.leaves_untidy();
        let event = told::ContentDelete {
            digest: digest.to_owned(),
        };
        events::tell(write, namespace, "/content/delete", &event);
    }
    Ok(removed)
}

fn info(look: &impl Look, namespace: &str, digest: &Digest) -> Result<Info> {
    let blob = look.get(BLOBS, (namespace, digest.as_str()))?;
    let blob = blob.ok_or_else(|| not_here(digest))?;
    let digest = digest.clone();
    Ok(Info { digest, blob })
}

fn not_here(digest: &Digest) -> Error {
    Error::not_found(format!("content digest {digest}"))
}

fn no_ingest(reference: &str) -> Error {
    Error::not_found(format!("ingest ref {reference:?}"))
}

impl Inner {
    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs
            .join(digest.algorithm().name())
            .join(digest.hex())
    }

    fn ingest(&self, id: u64) -> PathBuf {
        self.ingests.join(id.to_string())
    }

    fn open_ingest(&self, id: u64) -> Result<(File, PathBuf)> {
        let path = self.ingest(id);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io(path.display(), &error))?;
        Ok((file, path))
    }

    /// A blob's file, where another namespace has brought it already. It stays as long as the answer
    /// lives.
    fn shared(self: &Arc<Self>, digest: &Digest) -> Option<Shared> {
        let arrival = self.arrive(digest);
        let size = fs::metadata(self.path(digest)).ok()?.len();
        Some(Shared {
            digest: digest.clone(),
            size,
            _arrival: arrival,
        })
    }

    fn look(&self, reference: &str, row: &Ingest) -> Status {
        let file = fs::metadata(self.ingest(row.id));
        let changed = file.as_ref().ok().and_then(|file| file.modified().ok());
        let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let changed = changed.and_then(|time| i64::try_from(time.as_nanos()).ok());
        Status {
            reference: reference.to_owned(),
            offset: file.map_or(0, |file| file.len()),
            total: row.total,
            expected: row.expected.clone(),
            started: row.started,
            updated: changed.unwrap_or(row.started),
        }
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<(String, String), Instant>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_turn(self: &Arc<Self>, namespace: &str, reference: &str) -> Result<Turn> {
        let key = (namespace.to_owned(), reference.to_owned());
        let mut busy = self.busy();
        if let Some(since) = busy.get(&key) {
            return Err(Error::new(
                Code::Unavailable,
                format!("ref {reference} locked for {:?}", since.elapsed()),
            ));
        }
        busy.insert(key.clone(), Instant::now());
        drop(busy);
        Ok(Turn(Arc::clone(self), key))
    }

    fn clean_up(&self) -> Result<()> {
        for algorithm in Algorithm::ALL {
            let names = names(&self.blobs.join(algorithm.name()))?;
            for names in names.chunks(CHUNK) {
                let digests = names
                    .iter()
                    .map(|name| format!("{}:{name}", algorithm.name()));
                let digests = digests.filter_map(|digest| digest.parse().ok());
                for digest in self.unknown(digests.collect())? {
                    self.remove_unknown(&digest)?;
                }
            }
        }
        // The files first: one that gets its row in between is known below.
        let files = names(&self.ingests)?;
        // Before its file is there a writer has its row, and it has its turn until that is gone.
        let mut known = HashSet::new();
        self.database.read(|read| {
            read.rows(INGESTS, ("", ""), |(_, reference), bytes| {
                let row: Ingest = decode(bytes, || format!("ingest {reference}"))?;
                known.insert(row.id.to_string());
                Ok(true)
            })
        })?;
        for name in files.iter().filter(|name| !known.contains(*name)) {
            let _ = fs::remove_file(self.ingests.join(name));
        }
        Ok(())
    }

    /// The blobs that no namespace knows.
    fn unknown(&self, digests: Vec<Digest>) -> Result<Vec<Digest>> {
        self.database.read(|read| {
            let mut spaces = Vec::new();
            read.rows(NAMESPACES, "", |namespace, _| {
                spaces.push(namespace.to_owned());
                Ok(true)
            })?;
            let mut unknown = Vec::new();
            for digest in digests {
                let mut known = false;
                for space in &spaces {
                    let key = (&**space, digest.as_str());
                    known = known || read.bytes(BLOBS, key, |_| Ok(()))?.is_some();
                }
                if !known {
                    unknown.push(digest);
                }
            }
            Ok(unknown)
        })
    }

    /// Removes a blob's file if no namespace knows it.
    fn remove_unknown(&self, digest: &Digest) -> Result<()> {
        // Whoever brings the same bytes now waits here until it is clear whether they are there.
        let arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        if arriving.contains_key(digest) {
            return Ok(());
        }
        let known = self.database.read(|read| {
            let mut known = false;
            read.rows(NAMESPACES, "", |namespace, _| {
                known = read
                    .get::<_, Blob>(BLOBS, (namespace, digest.as_str()))?
                    .is_some();
                Ok(!known)
            })?;
            Ok(known)
        })?;
        if !known {
            let path = self.path(digest);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(path.display(), &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps the collector from a blob's file until the answer is dropped.
    fn arrive(self: &Arc<Self>, digest: &Digest) -> Arrival {
        let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        *arriving.entry(digest.clone()).or_default() += 1;
        Arrival(Arc::clone(self), digest.clone())
    }
}

/// The right to write under a reference.
#[derive(Debug)]
struct Turn(Arc<Inner>, (String, String));

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy().remove(&self.1);
    }
}

/// The whole of a blob, which need not be written again.
#[derive(Debug)]
struct Shared {
    digest: Digest,
    size: u64,
    _arrival: Arrival,
}

#[derive(Debug)]
struct Arrival(Arc<Inner>, Digest);

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut arriving = self
            .0
            .arriving
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = arriving.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                arriving.remove(&self.1);
            }
        }
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let broken = |error| Error::io(dir.display(), &error);
    let entries = fs::read_dir(dir).map_err(broken)?;
    entries
        .map(|entry| {
            Ok(entry
                .map_err(broken)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests;
