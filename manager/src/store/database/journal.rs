//! The journal: changes that have been answered and that the database's file does not have yet.
//!
//! What describes containers of the moment need not wait for the disk, and yet has to be there when the
//! daemon was killed: its rows are written here, where the kernel keeps them, and the disk gets them
//! with the next commit that waits for it. A record is
//!
//! ```text
//! generation u64 | length u32 | checksum u64 | rows, a protobuf message
//! ```
//!
//! with the low byte first. Each commit that waits for the disk holds all that came before, and writes
//! the next generation into the database: what the file holds of an older one, or after a torn record,
//! counts no longer. So a power cut takes back the last changes alone, and none that something else was
//! built upon.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use prost::Message;
use redb::{Key, TableDefinition, TableHandle as _, Value, WriteTransaction};

use super::super::digest::{Algorithm, Hasher};
use super::super::schema::{
    BLOBS, CHILDREN, CONTAINERS, EVENTS, IMAGES, INGESTS, LEASE_RESOURCES, LEASES, MOUNTS,
    NAMESPACES, SANDBOXES, SNAPSHOTS,
};

/// The length in bytes after which the database itself is to be written.
const ENOUGH: u64 = 1 << 20;

/// The length in bytes of what comes before the rows.
const HEADER: usize = 20;

/// A row as it is from now on.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    /// The table's name.
    #[prost(string, tag = "1")]
    table: String,
    /// The key.
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    /// The value; none where the row is removed.
    #[prost(bytes = "vec", optional, tag = "3")]
    value: Option<Vec<u8>>,
}

impl Entry {
    /// That row, with a value or without.
    pub(super) fn new<K: Key + 'static, V: Value + 'static>(
        table: &TableDefinition<'_, K, V>,
        key: &K::SelfType<'_>,
        value: Option<&[u8]>,
    ) -> Self {
        Self {
            table: table.name().to_owned(),
            key: K::as_bytes(key).as_ref().to_vec(),
            value: value.map(<[u8]>::to_vec),
        }
    }
}

/// All rows of one commit.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(message, repeated, tag = "1")]
    rows: Vec<Entry>,
}

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    generation: u64,
    end: u64,
}

impl Journal {
    /// Opens the file of a database that has reached `generation`, and makes it where it is missing.
    /// With it come the rows that the database does not have, the oldest first.
    ///
    /// # Errors
    /// Where the disk fails.
    pub(super) fn open(path: &Path, generation: u64) -> io::Result<(Self, Vec<Entry>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        let (mut rows, mut rest) = (Vec::new(), &bytes[..]);
        while let Some((record, after)) = split(rest, generation) {
            rows.extend(record.rows);
            rest = after;
        }
        let end = u64::try_from(bytes.len() - rest.len()).unwrap_or(u64::MAX);
        let journal = Self {
            file,
            generation,
            end,
        };
        Ok((journal, rows))
    }

    /// Whether the database has everything.
    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Whether it has become long.
    pub(super) fn is_long(&self) -> bool {
        self.end >= ENOUGH
    }

    /// The generation that the next commit of the database begins.
    pub(super) fn next(&self) -> u64 {
        self.generation.wrapping_add(1)
    }

    /// Adds the rows of one commit; what to take back where that fails.
    ///
    /// # Errors
    /// Where the disk is full or fails; then nothing was added.
    pub(super) fn add(&mut self, rows: Vec<Entry>) -> io::Result<u64> {
        let rows = Record { rows }.encode_to_vec();
        let length = u32::try_from(rows.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER + rows.len());
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(checksum(self.generation, &rows));
        bytes.extend(rows);
        self.file.write_all_at(&bytes, self.end)?;
        let before = self.end;
        self.end += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(before)
    }

    /// Takes back what was added from there on.
    pub(super) fn take_back(&mut self, from: u64) {
        self.end = from;
        // A commit that fails closes the database: this is read again at once.
        let _ = self.file.write_all_at(&[0; HEADER], from);
    }

    /// Begins the next generation: the database has everything.
    pub(super) fn begin(&mut self) {
        self.generation = self.next();
        self.end = 0;
    }
}

fn checksum(generation: u64, rows: &[u8]) -> [u8; 8] {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(&generation.to_le_bytes());
    hasher.update(rows);
    let digest = hasher.finish();
    let start = digest.hex().get(..16);
    let number = start.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    number.unwrap_or_default().to_le_bytes()
}

/// The first record and what follows it, if it is whole and of that generation.
fn split(bytes: &[u8], generation: u64) -> Option<(Record, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let (own, header) = header.split_first_chunk::<8>()?;
    let (length, sum) = header.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (rows, after) = rest.split_at_checked(length)?;
    let whole = u64::from_le_bytes(*own) == generation && sum == checksum(generation, rows);
    let record = whole.then(|| Record::decode(rows).ok()).flatten()?;
    Some((record, after))
}

/// Puts a row into the database as it is to be.
pub(super) fn replay(transaction: &WriteTransaction, row: &Entry) -> Result<(), redb::Error> {
    fn one<K: Key + 'static, V: Value + 'static>(
        transaction: &WriteTransaction,
        table: TableDefinition<'_, K, V>,
        row: &Entry,
    ) -> Result<(), redb::Error> {
        let mut table = transaction.open_table(table)?;
        let key = K::from_bytes(&row.key);
        match &row.value {
            Some(value) => drop(table.insert(key, V::from_bytes(value))?),
            None => drop(table.remove(key)?),
        }
        Ok(())
    }
    macro_rules! find {
        ($($table:ident),* $(,)?) => {
            $(if row.table == $table.name() {
                return one(transaction, $table, row);
            })*
        };
    }
    find!(
        BLOBS,
        CHILDREN,
        CONTAINERS,
        EVENTS,
        IMAGES,
        INGESTS,
        LEASE_RESOURCES,
        LEASES,
        MOUNTS,
        NAMESPACES,
        SANDBOXES,
        SNAPSHOTS,
    );
    let what = format!("the journal names a table {:?}", row.table);
    Err(redb::Error::Corrupted(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Entry {
        Entry::new(&NAMESPACES, &name, Some(b"x"))
    }

    #[test]
    fn only_whole_records_of_the_generation_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, rows) = Journal::open(&path, 7).unwrap();
        assert!(rows.is_empty() && journal.is_empty());
        let all = ["a", "b", "c"].map(row);
        let ends = all.clone().map(|row| {
            journal.add(vec![row]).unwrap();
            usize::try_from(journal.end).unwrap()
        });
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (_, rows) = Journal::open(&path, 7).unwrap();
            let count = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(rows, all[..count], "{cut}");
        }
        for index in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[index] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            let (_, rows) = Journal::open(&path, 7).unwrap();
            let count = ends.iter().filter(|end| **end <= index).count();
            assert_eq!(rows, all[..count], "{index}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(Journal::open(&path, 8).unwrap().1.is_empty());
        // The next generation begins at the start, and what is left of this one does not follow it.
        journal.begin();
        journal.add(vec![row("d")]).unwrap();
        assert_eq!(Journal::open(&path, 8).unwrap().1, [row("d")]);
    }

    #[test]
    fn what_is_taken_back_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::open(&path, 0).unwrap();
        journal.add(vec![row("a")]).unwrap();
        let at = journal.add(vec![row("b")]).unwrap();
        journal.take_back(at);
        assert_eq!(Journal::open(&path, 0).unwrap().1, [row("a")]);
    }
}
