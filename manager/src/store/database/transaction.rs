//! Inside one transaction: looking, and changing.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use prost::Message;
use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, Value, WriteTransaction};

use super::super::schema::{Bytes, EVENTS, Event, Typed, decode};
use super::journal::Entry;
use super::{Database, Row, fault, now};
use crate::error::{Error, Result};

/// How long one look of many may take.
const LOOK: Duration = Duration::from_millis(2);

fn lost(error: impl Into<redb::Error>) -> Error {
    fault("the database", error.into())
}

/// Reading, from a commit or in the middle of a change.
pub trait Look {
    /// The bytes of one value, given to `look`.
    ///
    /// # Errors
    /// Where the database can't be read.
    fn bytes<K: Key + 'static, T>(
        &self,
        table: TableDefinition<'_, K, Bytes>,
        key: K::SelfType<'_>,
        look: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<Option<T>>;

    /// Goes through the rows from `start` on, until `row` says stop.
    ///
    /// # Errors
    /// Where the database can't be read, and those of `row`.
    fn rows<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        start: K::SelfType<'_>,
        row: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<bool>,
    ) -> Result<()>;

    /// One value, `None` where there is none.
    ///
    /// # Errors
    /// Where the database can't be read.
    fn get<K: Key + 'static, T: Message + Default>(
        &self,
        table: TableDefinition<'_, K, Bytes>,
        key: K::SelfType<'_>,
    ) -> Result<Option<T>> {
        let what = format!("a row of {table}");
        self.bytes(table, key, |bytes| decode(bytes, || what))
    }

    /// The rows of one namespace in a table of (namespace, name), until `row` says stop.
    ///
    /// # Errors
    /// Where the database can't be read, and those of `row`.
    fn of_namespace<T: Message + Default>(
        &self,
        table: TableDefinition<'_, (&'static str, &'static str), Bytes>,
        namespace: &str,
        mut row: impl FnMut(&str, T) -> Result<bool>,
    ) -> Result<()> {
        self.rows(table, (namespace, ""), |(space, name), bytes| {
            if space != namespace {
                return Ok(false);
            }
            row(name, decode(bytes, || format!("{name} of {table}"))?)
        })
    }
}

fn value<K: Key + 'static, T>(
    table: &impl ReadableTable<K, Bytes>,
    key: K::SelfType<'_>,
    look: impl FnOnce(&[u8]) -> Result<T>,
) -> Result<Option<T>> {
    let value = table.get(key).map_err(lost)?;
    value.map(|value| look(value.value())).transpose()
}

fn walk<K: Key + 'static, V: Value + 'static>(
    table: &impl ReadableTable<K, V>,
    start: K::SelfType<'_>,
    mut row: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<bool>,
) -> Result<()> {
    for entry in table.range::<K::SelfType<'_>>(start..).map_err(lost)? {
        let (key, value) = entry.map_err(lost)?;
        if !row(key.value(), value.value())? {
            break;
        }
    }
    Ok(())
}

/// What was committed last, as of one moment.
#[derive(Debug)]
pub struct Read(pub(super) ReadTransaction);

impl Look for Read {
    fn bytes<K: Key + 'static, T>(
        &self,
        table: TableDefinition<'_, K, Bytes>,
        key: K::SelfType<'_>,
        look: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        value(&self.0.open_table(table).map_err(lost)?, key, look)
    }

    fn rows<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        start: K::SelfType<'_>,
        row: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<bool>,
    ) -> Result<()> {
        walk(&self.0.open_table(table).map_err(lost)?, start, row)
    }
}

/// Reading in many short looks, each of what was committed last by then: a long one would keep the
/// writer from using pages anew, and have it free all of them at once afterwards.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    database: &'a Database,
    now: RefCell<Option<(Read, Instant)>>,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(database: &'a Database) -> Self {
        let now = RefCell::default();
        Self { database, now }
    }

    /// Looks, also where that takes longer than it should.
    fn look<T>(&self, look: impl FnOnce(&Read, Instant) -> Result<T>) -> Result<T> {
        let kept = self.now.take();
        let (read, since) = match kept.filter(|(_, since)| since.elapsed() < LOOK) {
            Some(kept) => kept,
            None => (self.database.shared.begin_read()?, Instant::now()),
        };
        let seen = look(&read, since);
        self.now.replace(Some((read, since)));
        seen
    }
}

impl Look for Steps<'_> {
    fn bytes<K: Key + 'static, T>(
        &self,
        table: TableDefinition<'_, K, Bytes>,
        key: K::SelfType<'_>,
        look: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        self.look(|read, _| read.bytes(table, key, look))
    }

    fn rows<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        start: K::SelfType<'_>,
        mut row: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<bool>,
    ) -> Result<()> {
        let bytes_of = |key: &K::SelfType<'_>| K::as_bytes(key).as_ref().to_vec();
        let mut from = bytes_of(&start);
        let mut first = true;
        loop {
            let mut next = None;
            self.look(|read, since| {
                read.rows(table, K::from_bytes(&from), |key, value| {
                    let bytes = bytes_of(&key);
                    if !first && bytes == from {
                        return Ok(true);
                    }
                    if !row(key, value)? {
                        return Ok(false);
                    }
                    let over = since.elapsed() >= LOOK;
                    next = over.then_some(bytes);
                    Ok(!over)
                })
            })?;
            match next {
                None => return Ok(()),
                Some(next) => from = next,
            }
            first = false;
        }
    }
}

impl Read {
    pub(super) fn last_event(&self) -> Result<u64> {
        let table = self.0.open_table(EVENTS).map_err(lost)?;
        let last = table.last().map_err(lost)?;
        Ok(last.map_or(0, |(number, _)| number.value()))
    }

    /// At most `limit` events that came after number `after`, oldest first, each with its number.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn events_after(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>> {
        let mut events = Vec::new();
        self.rows(EVENTS, after.saturating_add(1), |number, bytes| {
            if events.len() == limit {
                return Ok(false);
            }
            events.push((number, decode(bytes, || format!("event {number}"))?));
            Ok(true)
        })?;
        Ok(events)
    }
}

/// A change in the middle.
#[allow(missing_debug_implementations, reason = "the transaction has none")]
pub struct Write {
    pub(super) transaction: WriteTransaction,
    pub(super) events: RefCell<Vec<Event>>,
    /// What was written, where a collection was under way at the start.
    pub(super) rows: Option<RefCell<Vec<Row>>>,
    /// What was changed, where that is to go into the journal.
    pub(super) entries: Option<RefCell<Vec<Entry>>>,
    /// Whether it has to wait for the disk all the same.
    pub(super) settles: Cell<bool>,
    pub(super) untidy: Cell<bool>,
}

impl Look for Write {
    fn bytes<K: Key + 'static, T>(
        &self,
        table: TableDefinition<'_, K, Bytes>,
        key: K::SelfType<'_>,
        look: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        value(
            &self.transaction.open_table(table).map_err(lost)?,
            key,
            look,
        )
    }

    fn rows<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        start: K::SelfType<'_>,
        row: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<bool>,
    ) -> Result<()> {
        walk(
            &self.transaction.open_table(table).map_err(lost)?,
            start,
            row,
        )
    }
}

impl Write {
    /// Stores a value, in place of one that was there.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn put<K: Key + 'static>(
        &self,
        table: TableDefinition<'_, K, Bytes>,
        key: K::SelfType<'_>,
        value: &impl Message,
    ) -> Result<()> {
        self.note(&table, &key);
        let bytes = value.encode_to_vec();
        self.log(&table, &key, Some(&bytes));
        let mut table = self.transaction.open_table(table).map_err(lost)?;
        table.insert(key, bytes.as_slice()).map_err(lost)?;
        Ok(())
    }

    /// Removes a value or a mark. Whether it was there.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn remove<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        key: K::SelfType<'_>,
    ) -> Result<bool> {
        self.log(&table, &key, None);
        let mut table = self.transaction.open_table(table).map_err(lost)?;
        Ok(table.remove(key).map_err(lost)?.is_some())
    }

    /// Marks a row of a table without values. Whether it was marked already.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn mark<K: Key + 'static>(
        &self,
        table: TableDefinition<'_, K, ()>,
        key: K::SelfType<'_>,
    ) -> Result<bool> {
        self.note(&table, &key);
        self.log(&table, &key, Some(&[]));
        let mut table = self.transaction.open_table(table).map_err(lost)?;
        Ok(table.insert(key, ()).map_err(lost)?.is_some())
    }

    fn note<K: Key + 'static, V: Value + 'static>(
        &self,
        table: &TableDefinition<'_, K, V>,
        key: &K::SelfType<'_>,
    ) {
        if let Some(rows) = &self.rows {
            rows.borrow_mut().push(Row::new(table, key));
        }
    }

    fn log<K: Key + 'static, V: Value + 'static>(
        &self,
        table: &TableDefinition<'_, K, V>,
        key: &K::SelfType<'_>,
        value: Option<&[u8]>,
    ) {
        if let Some(entries) = &self.entries {
            entries.borrow_mut().push(Entry::new(table, key, value));
        }
    }

    /// Has this change wait for the disk: files go that only its removals let go.
    pub(crate) fn settles(&self) {
        self.settles.set(true);
    }

    /// Adds the events to their table, numbered on from `newest`; the last number.
    pub(super) fn store_events(&self, mut newest: u64) -> Result<u64, redb::Error> {
        let events = self.events.take();
        if events.is_empty() {
            return Ok(newest);
        }
        let mut table = self.transaction.open_table(EVENTS)?;
        for event in &events {
            newest += 1;
            let bytes = event.encode_to_vec();
            self.log(&EVENTS, &newest, Some(&bytes));
            table.insert(newest, bytes.as_slice())?;
        }
        Ok(newest)
    }

    /// Notes that something may have lost the last that refers to it.
    pub(crate) fn leaves_untidy(&self) {
        self.untidy.set(true);
    }

    /// Adds to the log what happened. It is told when the change is on the disk.
    pub fn tell(&self, namespace: &str, topic: &str, event: Typed) {
        self.tell_at(Event {
            time: now(),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: Some(event),
        });
    }

    /// The same, for what happened at another time.
    pub(crate) fn tell_at(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}
