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
//! Jobs of [`Database::write_soon`] do not wait: the kernel has them when they are answered, in the
//! journal (`journal.rs`), and the disk within `DELAY`. They are there after the daemon was killed,
//! and a power cut may take back the last ones. That is for what describes containers of the moment;
//! blobs, images, layers and all whose files go with their rows wait for the disk.
//!
//! Where the disk is full or fails, the job's caller is told and nothing of the job is kept; the
//! database is opened anew, because what it holds in memory can't be trusted any longer.

mod journal;
mod transaction;

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redb::backends::FileBackend;
use redb::{
    Durability, Key, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, Value,
    WriteTransaction,
};
use tokio::sync::{oneshot, watch};

use journal::{Entry, Journal};
pub(crate) use transaction::Steps;
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

/// How long after their answers the disk has the changes that do not wait for it.
const DELAY: Duration = Duration::from_secs(1);

/// How long after a failure that is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// How long to wait for readers when the database has to be opened anew, and at the start for an
/// earlier daemon: one that was killed has its files until the kernel has taken it apart.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_millis(10);

const VERSION_KEY: &str = "version";
const GENERATION_KEY: &str = "journal";
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
    open: RwLock<Option<Open>>,
    /// Whether the disk lacks something that was answered.
    unsettled: AtomicBool,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
    /// How often something was removed that may have been the last to refer to something else.
    untidy: watch::Sender<u64>,
    /// The rows that were written since a collection began, while one is under way.
    written: Mutex<Option<Vec<Row>>>,
}

/// Both files. The writer alone locks the journal.
#[derive(Debug)]
struct Open {
    database: redb::Database,
    journal: Mutex<Journal>,
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
    /// Whether it need not wait for the disk.
    fn is_soon(&self) -> bool;
    /// Tells the caller, `end` first of all.
    fn answer(self: Box<Self>, end: Result<()>);
}

struct Change<T, F> {
    change: F,
    soon: bool,
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

    fn is_soon(&self) -> bool {
        self.soon
    }

    fn answer(self: Box<Self>, end: Result<()>) {
        let Self {
            change,
            soon: _,
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
        let open = loop {
            match open(path) {
                Err(error) if error.code() == Code::Unavailable && start.elapsed() < patience => {
                    std::thread::sleep(PAUSE);
                }
                opened => break opened?,
            }
        };
        let database = &open.database;
        let newest = {
            let read = database
                .begin_read()
                .map_err(|error| fault(path.display(), error.into()))?;
            Read(read).last_event()?
        };
        let ids =
            AtomicU64::new(reserve_ids(database).map_err(|error| fault(path.display(), error))?);
        let journal = open.journal.lock();
        let all_on_disk = journal.is_ok_and(|journal| journal.is_empty());
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            open: RwLock::new(Some(open)),
            unsettled: AtomicBool::new(!all_on_disk),
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
        self.send(change, false).await
    }

    /// The same, but it is on the disk a moment after this returns, with all that came before it: to be
    /// used where no file goes with a row that is removed.
    ///
    /// # Errors
    /// Those of [`Database::write`].
    pub async fn write_soon<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Write) -> Result<T> + Send + 'static,
    {
        self.send(change, true).await
    }

    /// Waits until the disk has all that was answered.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub(crate) async fn settle(&self) -> Result<()> {
        match self.shared.unsettled.load(Ordering::Acquire) {
            true => self.write(|_| Ok(())).await,
            false => Ok(()),
        }
    }

    async fn send<T, F>(&self, change: F, soon: bool) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Write) -> Result<T> + Send + 'static,
    {
        let closed = || Error::new(Code::Unavailable, "the database is closed");
        let (reply, answer) = oneshot::channel();
        let job = Change {
            change,
            soon,
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
        let open = open.as_ref().ok_or_else(|| self.not_open())?;
        let read = open.database.begin_read();
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
        // When the disk is to have what did not wait for it.
        let later = |delay| {
            let unsettled = self.unsettled.load(Ordering::Acquire);
            unsettled.then(|| Instant::now() + delay)
        };
        let mut due = later(DELAY);
        loop {
            let next = match due {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => jobs.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let mut batch = match next {
                Ok(first) => vec![first],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while !batch.is_empty()
                && batch.len() < BATCH
                && let Ok(next) = jobs.try_recv()
            {
                batch.push(next);
            }
            let late = due.is_some_and(|due| due <= Instant::now());
            self.serve_batch(batch, late);
            due = match late {
                // The disk is full or fails.
                true => later(AGAIN),
                false => later(DELAY).map(|new| due.map_or(new, |due| due.min(new))),
            };
        }
        if self.unsettled.load(Ordering::Acquire) {
            self.serve_batch(Vec::new(), true);
        }
    }

    /// All jobs of the batch, and where it is late the disk is waited for in any case.
    fn serve_batch(&self, mut batch: Vec<Box<dyn Job>>, late: bool) {
        match self.transact(&mut batch, late) {
            Ok(true) => batch.into_iter().for_each(|job| job.answer(Ok(()))),
            // Nobody else would hear of it. The journal has everything still.
            Err(error) if batch.is_empty() => eprintln!("knarrd: {error}"),
            // Only one: its own error is its answer.
            Ok(false) if batch.len() == 1 => {
                batch.into_iter().for_each(|job| job.answer(Ok(())));
            }
            _ => {
                for job in batch {
                    let mut one = [job];
                    let end = self.transact(&mut one, late).map(|_| ());
                    let [job] = one;
                    job.answer(end);
                }
            }
        }
    }

    /// One transaction. `Ok(false)` where a job failed; then nothing was kept.
    fn transact(&self, batch: &mut [Box<dyn Job>], late: bool) -> Result<bool> {
        self.reopen_if_closed()?;
        let result = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let open = open.as_ref().ok_or_else(|| self.not_open())?;
            let mut journal = open.journal.lock().unwrap_or_else(PoisonError::into_inner);
            let done = self.try_transact(&open.database, &mut journal, batch, late);
            self.unsettled.store(!journal.is_empty(), Ordering::Release);
            done
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
        journal: &mut Journal,
        batch: &mut [Box<dyn Job>],
        late: bool,
    ) -> Result<bool, redb::Error> {
        let soon = !late && !journal.is_long() && batch.iter().all(|job| job.is_soon());
        let write = Write {
            transaction: database.begin_write()?,
            events: RefCell::default(),
            rows: self.written().is_some().then(RefCell::default),
            entries: soon.then(RefCell::default),
            settles: Cell::default(),
            untidy: Cell::default(),
        };
        for job in &mut *batch {
            if !job.run(&write) {
                write.transaction.abort()?;
                return Ok(false);
            }
        }
        let before = *self.newest.borrow();
        let newest = write.store_events(before)?;
        // Before anybody can see the rows: a collection must not miss one.
        if let (Some(written), Some(rows)) = (self.written().as_mut(), write.rows) {
            written.extend(rows.into_inner());
        }
        let untidy = write.untidy.get();
        let entries = write.entries.filter(|_| !write.settles.get());
        commit(write.transaction, journal, entries.map(RefCell::into_inner))?;
        if newest != before {
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
                Ok(files) => *open = Some(files),
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        Ok(())
    }
}

/// Commits: into the journal where there are entries for it and it takes them, otherwise onto the disk.
fn commit(
    mut transaction: WriteTransaction,
    journal: &mut Journal,
    entries: Option<Vec<Entry>>,
) -> Result<(), redb::Error> {
    if entries.as_ref().is_some_and(Vec::is_empty) {
        return Ok(transaction.abort()?);
    }
    // A full disk may yet take the database's pages: what is free in the file is used again.
    if let Some(Ok(before)) = entries.map(|entries| journal.add(entries)) {
        transaction.set_durability(Durability::None)?;
        return Ok(transaction
            .commit()
            .inspect_err(|_| journal.take_back(before))?);
    }
    transaction.set_durability(Durability::Immediate)?;
    if journal.is_empty() {
        return Ok(transaction.commit()?);
    }
    let next = journal.next().to_le_bytes();
    let mut meta = transaction.open_table(META)?;
    meta.insert(GENERATION_KEY, next.as_slice())?;
    drop(meta);
    transaction.commit()?;
    journal.begin();
    Ok(())
}

/// Opens or makes the files; what the journal has can be seen.
fn open(path: &Path) -> Result<Open> {
    let database = open_database(path)?;
    let lost = |error| fault(path.display(), error);
    let generation = generation(&database).map_err(lost)?;
    let path = path.with_extension("journal");
    let journal = Journal::open(&path, generation);
    let (journal, rows) = journal.map_err(|error| Error::io(path.display(), &error))?;
    let caught_up = || {
        let mut transaction = database.begin_write()?;
        for row in &rows {
            journal::replay(&transaction, row)?;
        }
        // The journal keeps them: a disk that is full may be opened as well.
        transaction.set_durability(Durability::None)?;
        Ok(transaction.commit()?)
    };
    if !rows.is_empty() {
        caught_up().map_err(|error| fault(path.display(), error))?;
    }
    Ok(Open {
        database,
        journal: Mutex::new(journal),
    })
}

/// How often the journal has begun anew.
fn generation(database: &redb::Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let value = meta.get(GENERATION_KEY)?;
    let value = value.and_then(|value| value.value().try_into().ok());
    Ok(value.map_or(0, u64::from_le_bytes))
}

/// Opens or makes the file, brings its schema up to date, makes sure that all tables are there.
fn open_database(path: &Path) -> Result<redb::Database> {
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
mod tests;
