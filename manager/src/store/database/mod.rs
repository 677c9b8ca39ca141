//! The way to the tables: any number of readers, and one writer that commits for all.
//!
//! ```text
//! write(job) ──▶ queue ──▶ writer thread: one transaction for all jobs that wait
//!                              │  all well: commit (the disk has it), then answer each
//!                              └─ one failed: roll back, then each in a transaction of its own
//! read(look) ──▶ the last commit, as of now; waits for nobody
//! ```
//!
//! A commit waits for the disk, so that many jobs in one cost as much as one. A job may therefore
//! run twice, and must do nothing but read and write tables.
//!
//! Where the disk is full or fails, the job's caller is told and nothing of the job is kept; the
//! database is opened anew, because what it holds in memory can't be trusted any longer.

mod transaction;

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prost::Message;
use redb::backends::FileBackend;
use redb::{Durability, Key, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, Value};
use tokio::sync::{oneshot, watch};

pub use transaction::{Look, Read, Write};

use super::schema::{
    BLOBS, CHILDREN, CONTAINERS, EVENTS, IMAGES, INGESTS, LEASE_RESOURCES, LEASES, META, MOUNTS,
    NAMESPACES, SANDBOXES, SNAPSHOTS, VERSION,
};
use crate::error::{Code, Error, Result};

/// Memory for pages, in bytes. The kernel caches the file as well.
const CACHE: usize = 4 << 20;

/// The most jobs of one transaction.
const BATCH: usize = 128;

/// How long to wait for readers when the database has to be opened anew, and at the start for an
/// earlier daemon: one that was killed has its files until the kernel has taken it apart.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_millis(10);

const VERSION_KEY: &str = "version";
const FIRST_ID_KEY: &str = "first id";

/// More files than one run of the program makes.
const IDS_OF_A_START: u64 = 1 << 32;

/// The database of one manager.
#[derive(Debug)]
pub struct Database {
    shared: Arc<Shared>,
    ids: AtomicU64,
    queue: Option<Sender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    open: RwLock<Option<redb::Database>>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
    /// How often something was removed that may have been the last to refer to something else.
    untidy: watch::Sender<u64>,
    /// The rows that were written since a collection began, while one is under way.
    written: Mutex<Option<Vec<Row>>>,
}

/// A row of some table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    table: String,
    key: Vec<u8>,
}

impl Row {
    fn new<K: Key + 'static, V: Value + 'static>(
        table: &TableDefinition<'_, K, V>,
        key: &K::SelfType<'_>,
    ) -> Self {
        Self {
            table: table.name().to_owned(),
            key: K::as_bytes(key).as_ref().to_vec(),
        }
    }

    /// The key, if the row is one of this table.
    pub(crate) fn key_in<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Option<K::SelfType<'_>> {
        (self.table == table.name()).then(|| K::from_bytes(&self.key))
    }
}

/// A change that waits for its turn.
trait Job: Send {
    /// Makes the change. Whether it is to be kept.
    fn run(&mut self, transaction: &Write) -> bool;
    /// Tells the caller, `end` first of all.
    fn answer(self: Box<Self>, end: Result<()>);
}

struct Change<T, F> {
    change: F,
    result: Result<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&Write) -> Result<T> + Send> Job for Change<T, F> {
    fn run(&mut self, transaction: &Write) -> bool {
        // One request's bug ends one request.
        self.result = catch_unwind(AssertUnwindSafe(|| (self.change)(transaction)))
            .unwrap_or_else(|_| Err(Error::internal("a change of the database panicked")));
        self.result.is_ok()
    }

    fn answer(self: Box<Self>, end: Result<()>) {
        let Self {
            change,
            result,
            reply,
        } = *self;
        // What the change holds is free when its caller goes on.
        drop(change);
        // A caller that has gone away wants no answer.
        let _ = reply.send(end.and(result));
    }
}

impl Database {
    /// Opens the database at `path`, and makes it where there is none. One process at a time: waits
    /// some seconds for another one that may be ending.
    ///
    /// # Errors
    /// `Unavailable` where another process has it; `DataLoss` where it is damaged beyond what a
    /// crash does; `FailedPrecondition` where a newer program has written it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_within(path, PATIENCE)
    }

    fn open_within(path: &Path, patience: Duration) -> Result<Self> {
        let start = Instant::now();
        let database = loop {
            match open(path) {
                Err(error) if error.code() == Code::Unavailable && start.elapsed() < patience => {
                    std::thread::sleep(PAUSE);
                }
                opened => break opened?,
            }
        };
        let newest = {
            let read = database
                .begin_read()
                .map_err(|error| fault(path.display(), error.into()))?;
            Read(read).last_event()?
        };
        let ids =
            AtomicU64::new(reserve_ids(&database).map_err(|error| fault(path.display(), error))?);
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            open: RwLock::new(Some(database)),
            newest: watch::Sender::new(newest),
            untidy: watch::Sender::new(0),
            written: Mutex::default(),
        });
        let (queue, jobs) = channel();
        let writer = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("database".to_owned())
                .stack_size(256 * 1024)
                .spawn(move || shared.serve(&jobs))
                .map_err(|error| Error::io("the database's thread", &error))?
        };
        Ok(Self {
            shared,
            ids,
            queue: Some(queue),
            writer: Some(writer),
        })
    }

    /// Looks at what was committed last.
    ///
    /// # Errors
    /// Those of `look`; `Unavailable` while the database is being opened anew.
    pub fn read<T>(&self, look: impl FnOnce(&Read) -> Result<T>) -> Result<T> {
        look(&self.shared.begin_read()?)
    }

    /// Makes a change. It is on the disk when this returns; after an error nothing has changed.
    ///
    /// `change` may run more than once.
    ///
    /// # Errors
    /// Those of `change`; `ResourceExhausted` where the disk is full.
    pub async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Write) -> Result<T> + Send + 'static,
    {
        let closed = || Error::new(Code::Unavailable, "the database is closed");
        let (reply, answer) = oneshot::channel();
        let job = Change {
            change,
            result: Err(closed()),
            reply,
        };
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(Box::new(job)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Remembers which rows are written by the changes that begin from now on, until the answer is
    /// dropped. `None` while that is done already.
    pub(crate) fn note_writes(&self) -> Option<Notes> {
        let mut written = self.shared.written();
        if written.is_some() {
            return None;
        }
        *written = Some(Vec::new());
        Some(Notes(Arc::clone(&self.shared)))
    }

    /// A number that was never given before: names files.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// A notice of each change that leaves something to collect.
    pub(crate) fn untidy(&self) -> watch::Receiver<u64> {
        self.shared.untidy.subscribe()
    }

    /// The number of the newest event, and a notice of each that comes.
    #[must_use]
    pub fn newest_event(&self) -> watch::Receiver<u64> {
        self.shared.newest.subscribe()
    }
}

impl Drop for Database {
    /// Finishes what was asked for.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// A list of the rows that are written while it lives.
#[derive(Debug)]
pub(crate) struct Notes(Arc<Shared>);

impl Notes {
    /// The rows since the last call, those of the change that is under way among them.
    pub(crate) fn take(&self, write: &Write) -> Vec<Row> {
        let mut rows = self.0.written().replace(Vec::new()).unwrap_or_default();
        // The change may yet be undone, and its rows with it: to think of more is no harm.
        if let Some(now) = &write.rows {
            rows.extend(now.borrow().iter().cloned());
        }
        rows
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        *self.0.written() = None;
    }
}

impl Shared {
    fn written(&self) -> MutexGuard<'_, Option<Vec<Row>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_read(&self) -> Result<Read> {
        // After a full disk, whoever comes first opens it anew.
        self.reopen_if_closed()?;
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().ok_or_else(|| self.not_open())?;
        let read = database.begin_read();
        Ok(Read(read.map_err(|error| {
            fault(self.path.display(), error.into())
        })?))
    }

    fn not_open(&self) -> Error {
        let path = self.path.display();
        Error::new(
            Code::Unavailable,
            format!("{path} could not be opened anew"),
        )
    }

    fn serve(&self, jobs: &Receiver<Box<dyn Job>>) {
        while let Ok(first) = jobs.recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = jobs.try_recv()
            {
                batch.push(next);
            }
            match self.transact(&mut batch) {
                Ok(true) => batch.into_iter().for_each(|job| job.answer(Ok(()))),
                // Only one: its own error is its answer.
                Ok(false) if batch.len() == 1 => {
                    batch.into_iter().for_each(|job| job.answer(Ok(())));
                }
                _ => {
                    for job in batch {
                        let mut one = [job];
                        let end = self.transact(&mut one).map(|_| ());
                        let [job] = one;
                        job.answer(end);
                    }
                }
            }
        }
    }

    /// One transaction. `Ok(false)` where a job failed; then nothing was kept.
    fn transact(&self, batch: &mut [Box<dyn Job>]) -> Result<bool> {
        self.reopen_if_closed()?;
        let result = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let database = open.as_ref().ok_or_else(|| self.not_open())?;
            self.try_transact(database, batch)
        };
        result.map_err(|error| {
            let broken = matches!(
                error,
                redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::Corrupted(_)
            );
            if broken {
                // Readers of the moment hold on to the file; the next change waits for them.
                *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            fault(self.path.display(), error)
        })
    }

    fn try_transact(
        &self,
        database: &redb::Database,
        batch: &mut [Box<dyn Job>],
    ) -> Result<bool, redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let write = Write {
            transaction,
            events: RefCell::default(),
            rows: self.written().is_some().then(RefCell::default),
            untidy: Cell::default(),
        };
        for job in &mut *batch {
            if !job.run(&write) {
                write.transaction.abort()?;
                return Ok(false);
            }
        }
        let events = write.events.into_inner();
        let untidy = write.untidy.get();
        let mut newest = *self.newest.borrow();
        if !events.is_empty() {
            let mut table = write.transaction.open_table(EVENTS)?;
            for event in &events {
                newest += 1;
                table.insert(newest, event.encode_to_vec().as_slice())?;
            }
        }
        // Before anybody can see the rows: a collection must not miss one.
        if let (Some(written), Some(rows)) = (self.written().as_mut(), write.rows) {
            written.extend(rows.into_inner());
        }
        write.transaction.commit()?;
        if !events.is_empty() {
            self.newest.send_replace(newest);
        }
        if untidy {
            self.untidy.send_modify(|times| *times += 1);
        }
        Ok(true)
    }

    fn reopen_if_closed(&self) -> Result<()> {
        let is_open = self.open.read().is_ok_and(|open| open.is_some());
        if is_open {
            return Ok(());
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        while open.is_none() {
            match self::open(&self.path) {
                Ok(database) => *open = Some(database),
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        Ok(())
    }
}

/// Opens or makes the file, brings its schema up to date, makes sure that all tables are there.
fn open(path: &Path) -> Result<redb::Database> {
    let fault = |error| fault(path.display(), error);
    let file = FileBackend::new(file(path)?).map_err(|error| fault(error.into()))?;
    let database = redb::Database::builder()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create_with_backend(file)
        .map_err(|error| fault(error.into()))?;
    let version = database.begin_read().map_err(|error| fault(error.into()))?;
    let version = match version.open_table(META) {
        Ok(meta) => {
            let value = meta.get(VERSION_KEY).map_err(|error| fault(error.into()))?;
            let value = value.and_then(|value| value.value().try_into().ok());
            value.map_or(0, u32::from_le_bytes)
        }
        Err(redb::TableError::TableDoesNotExist(_)) => 0,
        Err(error) => return Err(fault(error.into())),
    };
    match version {
        VERSION => Ok(database),
        // Up to now, each version has had the tables of the one before and further ones.
        older if older < VERSION => make_tables(&database).map_err(fault).map(|()| database),
        newer => Err(Error::precondition(format!(
            "{} has version {newer} and this program knows {VERSION} at most: install the newer program again",
            path.display()
        ))),
    }
}

fn file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::io(path.display(), &error))
}

fn make_tables(database: &redb::Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    for table in [
        IMAGES, CONTAINERS, SANDBOXES, LEASES, BLOBS, INGESTS, MOUNTS,
    ] {
        write.open_table(table)?;
    }
    write.open_table(NAMESPACES)?;
    write.open_table(LEASE_RESOURCES)?;
    write.open_table(SNAPSHOTS)?;
    write.open_table(CHILDREN)?;
    write.open_table(EVENTS)?;
    let mut meta = write.open_table(META)?;
    meta.insert(VERSION_KEY, VERSION.to_le_bytes().as_slice())?;
    drop(meta);
    write.commit()?;
    Ok(())
}

/// Takes a range of numbers that no other start of the program gives, and its first.
fn reserve_ids(database: &redb::Database) -> Result<u64, redb::Error> {
    let write = database.begin_write()?;
    let mut meta = write.open_table(META)?;
    let first = meta.get(FIRST_ID_KEY)?;
    let first = first.and_then(|first| first.value().try_into().ok());
    let first = first.map_or(1, u64::from_le_bytes);
    let next = first.saturating_add(IDS_OF_A_START);
    meta.insert(FIRST_ID_KEY, next.to_le_bytes().as_slice())?;
    drop(meta);
    write.commit()?;
    Ok(first)
}

/// What a fault of the database means for a client.
fn fault(of: impl Display, error: redb::Error) -> Error {
    match error {
        redb::Error::Io(error) => Error::io(of, &error),
        redb::Error::DatabaseAlreadyOpen => Error::new(
            Code::Unavailable,
            format!("{of} is in use by another process: stop that one first"),
        ),
        redb::Error::Corrupted(what) => Error::new(Code::DataLoss, format!("{of}: {what}")),
        error => Error::internal(format!("{of}: {error}")),
    }
}

/// Nanoseconds since 1970, UTC.
#[must_use]
pub fn now() -> i64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::schema::{Namespace, Typed};
    use super::*;

    fn label(value: &str) -> Namespace {
        Namespace {
            labels: [("key".to_owned(), value.to_owned())].into(),
        }
    }

    fn stored(database: &Database, name: &str) -> Option<String> {
        let row: Option<Namespace> = database.read(|read| read.get(NAMESPACES, name)).unwrap();
        row.map(|row| row.labels.values().next().cloned().unwrap_or_default())
    }

    async fn store(database: &Database, name: &'static str, value: &'static str) {
        let change = move |write: &Write| write.put(NAMESPACES, name, &label(value));
        database.write(change).await.unwrap();
    }

    fn topic(database: &Database, after: u64) -> Vec<(u64, String)> {
        let events = database.read(|read| read.events_after(after, 10)).unwrap();
        events
            .into_iter()
            .map(|(number, event)| (number, event.topic))
            .collect()
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let database = Database::open(&path).unwrap();
        store(&database, "a", "1").await;
        assert_eq!(stored(&database, "a").as_deref(), Some("1"));
        drop(database);
        let database = Database::open(&path).unwrap();
        assert_eq!(stored(&database, "a").as_deref(), Some("1"));
        assert_eq!(stored(&database, "b"), None);
    }

    #[tokio::test]
    async fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let _database = Database::open(&path).unwrap();
        let error = Database::open_within(&path, Duration::ZERO).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
    }

    #[tokio::test]
    async fn one_that_is_ending_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let first = Database::open(&path).unwrap();
        let ending = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            drop(first);
        });
        Database::open(&path).unwrap();
        ending.join().unwrap();
    }

    #[tokio::test]
    async fn a_change_that_fails_leaves_nothing_and_harms_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("db")).unwrap();
        // The first job keeps the writer busy until the others wait together.
        let runs = Arc::new(AtomicUsize::new(0));
        let slow = database.write(|_: &Write| {
            std::thread::sleep(Duration::from_millis(200));
            Ok(())
        });
        let good = {
            let runs = Arc::clone(&runs);
            database.write(move |write: &Write| {
                runs.fetch_add(1, Ordering::Relaxed);
                write.tell("a", "/good", Typed::default());
                write.put(NAMESPACES, "good", &label("1"))
            })
        };
        let bad = database.write(|write: &Write| {
            write.tell("a", "/bad", Typed::default());
            write.put(NAMESPACES, "bad", &label("1"))?;
            Err::<(), _>(Error::invalid("no"))
        });
        let mad = database.write(|write: &Write| {
            write.put(NAMESPACES, "mad", &label("1"))?;
            assert!(stored_in(write, "mad"), "a change sees itself");
            let nothing: Option<()> = None;
            nothing.map_or_else(|| std::panic::resume_unwind(Box::new(())), Ok)
        });
        let (slow, good, bad, mad) = tokio::join!(slow, good, bad, mad);
        slow.unwrap();
        good.unwrap();
        assert_eq!(bad.unwrap_err(), Error::invalid("no"));
        assert_eq!(mad.unwrap_err().code(), Code::Internal);
        assert_eq!(stored(&database, "good").as_deref(), Some("1"));
        assert_eq!(stored(&database, "bad"), None);
        assert_eq!(stored(&database, "mad"), None);
        assert_eq!(topic(&database, 0), [(1, "/good".to_owned())]);
        assert!(runs.load(Ordering::Relaxed) >= 1);
    }

    fn stored_in(write: &Write, name: &str) -> bool {
        write
            .get::<_, Namespace>(NAMESPACES, name)
            .unwrap()
            .is_some()
    }

    #[tokio::test]
    async fn events_are_numbered_on_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let database = Database::open(&path).unwrap();
        let mut newest = database.newest_event();
        for topic in ["/a", "/b"] {
            let change = move |write: &Write| {
                write.tell("space", topic, Typed::default());
                Ok(())
            };
            database.write(change).await.unwrap();
        }
        assert_eq!(*newest.borrow_and_update(), 2);
        drop(database);
        let database = Database::open(&path).unwrap();
        assert_eq!(*database.newest_event().borrow(), 2);
        let change = |write: &Write| {
            write.tell("space", "/c", Typed::default());
            Ok(())
        };
        database.write(change).await.unwrap();
        let rest = [(2, "/b".to_owned()), (3, "/c".to_owned())];
        assert_eq!(topic(&database, 1), rest);
    }

    #[tokio::test]
    async fn a_file_that_was_cut_short_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let database = Database::open(&path).unwrap();
        let names: Vec<String> = (0..300).map(|number| format!("name {number}")).collect();
        for some in names.chunks(30) {
            let some = some.to_vec();
            let change = move |write: &Write| {
                let mut names = some.iter();
                names.try_for_each(|name| write.put(NAMESPACES, name, &label(&"1".repeat(500))))
            };
            database.write(change).await.unwrap();
        }
        drop(database);
        let whole = std::fs::read(&path).unwrap();
        let steps = (1..64).map(|step| whole.len() * step / 64);
        for keep in [1, 100, 319, 320, 4095, 4096, 5000, whole.len() - 1]
            .into_iter()
            .chain(steps)
        {
            std::fs::write(&path, &whole[..keep]).unwrap();
            // No panic; whole or refused, and never with less than was there.
            match Database::open(&path) {
                Ok(database) => {
                    let lost = names.iter().find(|name| stored(&database, name).is_none());
                    assert_eq!(lost, None, "{keep} of {}", whole.len());
                }
                Err(error) => assert!(error.to_string().contains("db"), "{keep}: {error}"),
            }
        }
        // An empty file is a new database: nothing says that it was another.
        std::fs::write(&path, &whole).unwrap();
        assert!(Database::open(&path).is_ok());
    }

    #[tokio::test]
    async fn an_older_schema_is_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let database = Database::open(&path).unwrap();
        store(&database, "a", "1").await;
        drop(database);
        // The first version had no mounts.
        let raw = redb::Database::open(&path).unwrap();
        let write = raw.begin_write().unwrap();
        write.delete_table(MOUNTS).unwrap();
        let mut meta = write.open_table(META).unwrap();
        let first = 1u32.to_le_bytes();
        meta.insert(VERSION_KEY, first.as_slice()).unwrap();
        drop(meta);
        write.commit().unwrap();
        drop(raw);
        for _ in 0..2 {
            let database = Database::open(&path).unwrap();
            assert_eq!(stored(&database, "a").as_deref(), Some("1"));
            let empty = |_: (&str, &str), _: &[u8]| Ok(true);
            database
                .read(|read| read.rows(MOUNTS, ("", ""), empty))
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_newer_schema_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        drop(Database::open(&path).unwrap());
        let raw = redb::Database::open(&path).unwrap();
        let write = raw.begin_write().unwrap();
        let mut meta = write.open_table(META).unwrap();
        let newer = (VERSION + 1).to_le_bytes();
        meta.insert(VERSION_KEY, newer.as_slice()).unwrap();
        drop(meta);
        write.commit().unwrap();
        drop(raw);
        let error = Database::open(&path).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    }
}
