//! One blob: read, or written until it is one.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use knarr_proto::events as told;

use super::super::database::{Look as _, Write, now};
use super::super::digest::{Algorithm, Digest, Hasher};
use super::super::name::{Labels, tidy_labels};
use super::super::schema::{BLOBS, Blob, INGESTS, Ingest};
use super::super::{events, leases};
use super::{Content, Info, Order, Shared, Status, Turn};
use crate::error::{Code, Error, Result};

/// How much is read at once to compute a digest again, in bytes.
const PIECE: usize = 256 * 1024;

/// A blob to read.
#[derive(Debug)]
pub struct Reader {
    pub(super) file: File,
    pub(super) size: u64,
}

impl Reader {
    /// The length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` on as far as the blob goes. How many bytes that were.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<usize> {
        let mut count = 0;
        while !buffer.is_empty() {
            match self.file.read_at(buffer, offset) {
                Ok(0) => break,
                Ok(length) => {
                    count += length;
                    offset += u64::try_from(length).unwrap_or(0);
                    buffer = &mut buffer[length..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("a blob", &error)),
            }
        }
        Ok(count)
    }

    /// The file itself.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

/// A blob that is being written. What has arrived stays when the writer goes without a commit.
#[derive(Debug)]
pub struct Writer {
    pub(super) content: Content,
    pub(super) turn: Turn,
    pub(super) order: Order,
    pub(super) row: Ingest,
    pub(super) file: File,
    pub(super) hasher: Hasher,
    pub(super) offset: u64,
    /// All of it is there, since another namespace has it.
    pub(super) shared: Option<Shared>,
}

impl Writer {
    /// How far it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.content.0.look(&self.order.reference, &self.row);
        status.offset = self.offset;
        if status.total == 0 {
            status.total = self.order.total;
        }
        status
    }

    /// The digest of what is there.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match &self.shared {
            Some(shared) => shared.digest.clone(),
            None => self.hasher.clone().finish(),
        }
    }

    /// The file that is written to, for those who read with positions of their own what is there.
    ///
    /// # Errors
    /// Where there are too many files open.
    pub fn file(&self) -> Result<File> {
        let what = || format!("content of {:?}", self.order.reference);
        self.file
            .try_clone()
            .map_err(|error| Error::io(what(), &error))
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// `ResourceExhausted` where the disk is full. What was not written is not counted.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.shared.is_some() && !bytes.is_empty() {
            // More than the whole: it will be found out at the commit.
            self.take_apart()?;
        }
        if let Err(error) = self.file.write_all(bytes) {
            // So that the file and the hash stay in step.
            let _ = self.file.set_len(self.offset);
            let _ = self.file.seek(SeekFrom::Start(self.offset));
            return Err(Error::io(
                format!("content of {:?}", self.order.reference),
                &error,
            ));
        }
        self.hasher.update(bytes);
        self.offset += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(())
    }

    /// Goes back to an earlier place, or to the start.
    ///
    /// # Errors
    /// `OutOfRange` where so much is not there yet.
    pub fn truncate(&mut self, offset: u64) -> Result<()> {
        if offset == self.offset {
            return Ok(());
        }
        if self.shared.is_some() {
            self.take_apart()?;
        }
        if offset > self.offset {
            return Err(Error::new(
                Code::OutOfRange,
                format!(
                    "offset {offset} of ref {:?}: only {} bytes are there",
                    self.order.reference, self.offset
                ),
            ));
        }
        let broken = |error| Error::io(format!("content of {:?}", self.order.reference), &error);
        self.file.set_len(offset).map_err(broken)?;
        let algorithm = self.hasher.algorithm();
        (self.hasher, self.offset) = rehash(&mut self.file, algorithm, offset).map_err(broken)?;
        Ok(())
    }

    /// Writes what is there already after all: begins where an earlier writer stopped.
    fn take_apart(&mut self) -> Result<()> {
        let broken = |error| Error::io(format!("content of {:?}", self.order.reference), &error);
        let algorithm = self.hasher.algorithm();
        let (hasher, offset) = rehash(&mut self.file, algorithm, u64::MAX).map_err(broken)?;
        (self.hasher, self.offset, self.shared) = (hasher, offset, None);
        Ok(())
    }

    /// Makes it a blob, on the disk and known to the namespace. `size` (where not 0) and `expected`
    /// must be what arrived.
    ///
    /// # Errors
    /// `FailedPrecondition` for another size or digest; `AlreadyExists` where the namespace has
    /// this blob.
    pub async fn commit(
        self,
        size: u64,
        expected: Option<&Digest>,
        mut labels: Labels,
    ) -> Result<Info> {
        tidy_labels(&mut labels)?;
        let size = if size == 0 { self.order.total } else { size };
        if size != 0 && size != self.offset {
            return Err(Error::precondition(format!(
                "unexpected commit size {}, expected {size}",
                self.offset
            )));
        }
        let Self {
            content,
            turn,
            order,
            row,
            mut file,
            mut hasher,
            offset,
            shared,
        } = self;
        let whole = shared.is_some();
        let wanted = expected.or(order.expected.as_ref()).map(Digest::algorithm);
        if let Some(wanted) = wanted
            && wanted != hasher.algorithm()
            && !whole
        {
            // Said only now: the hash of another algorithm is of no use.
            let what = format!("content of {:?}", order.reference);
            (hasher, _) =
                rehash(&mut file, wanted, offset).map_err(|error| Error::io(what, &error))?;
        }
        let digest = match &shared {
            Some(shared) => shared.digest.clone(),
            None => hasher.finish(),
        };
        for expected in expected.into_iter().chain(&order.expected) {
            if *expected != digest {
                return Err(Error::precondition(format!(
                    "unexpected commit digest {digest}, expected {expected}"
                )));
            }
        }
        let arrival = content.0.arrive(&digest);
        let (from, to) = (content.0.ingest(row.id), content.0.path(&digest));
        let settle = tokio::task::spawn_blocking(move || settle(&file, &from, &to));
        settle
            .await
            .map_err(|_| Error::internal("a commit panicked"))??;
        let (space, reference) = turn.1.clone();
        let info = Info {
            digest,
            blob: Blob {
                size: offset,
                labels,
                created: now(),
                updated: now(),
            },
        };
        let new = info.clone();
        let job = move |write: &Write| {
            let key = (&*space, new.digest.as_str());
            let known = write.get::<_, Blob>(BLOBS, key)?.is_some();
            if !known {
                write.put(BLOBS, key, &new.blob)?;
                let event = told::ContentCreate {
                    digest: new.digest.to_string(),
                    size: i64::try_from(offset).unwrap_or(i64::MAX),
                    ..told::ContentCreate::default()
                };
                events::tell(write, &space, "/content/create", &event);
            }
            write.remove(INGESTS, (&*space, &*reference))?;
            leases::release(write, &space, order.lease.as_deref(), "ingests", &reference)?;
            leases::keep(
                write,
                &space,
                order.lease.as_deref(),
                "content",
                new.digest.as_str(),
            )?;
            Ok(known)
        };
        let known = content.0.database.write(job).await?;
        drop(arrival);
        if known {
            return Err(Error::exists(format!(
                "blob with expected digest {} exists",
                info.digest
            )));
        }
        Ok(info)
    }
}

/// Reads a file from its start, at most `limit` bytes, and stays behind them.
pub(super) fn rehash(
    file: &mut File,
    algorithm: Algorithm,
    limit: u64,
) -> std::io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    file.seek(SeekFrom::Start(0))?;
    let mut limited = (&*file).take(limit);
    loop {
        match limited.read(&mut buffer)? {
            0 => return Ok((hasher, offset)),
            length => {
                hasher.update(&buffer[..length]);
                offset += u64::try_from(length).unwrap_or(0);
            }
        }
    }
}

/// Gives what was written its place among the blobs, durably.
fn settle(file: &File, from: &Path, to: &Path) -> Result<()> {
    let broken = |error| Error::io(to.display(), &error);
    if fs::metadata(to).is_ok() {
        // The same bytes: written for another namespace.
        let _ = fs::remove_file(from);
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(0o444))
        .map_err(broken)?;
    file.sync_all().map_err(broken)?;
    fs::rename(from, to).map_err(broken)?;
    let dir = to.parent().unwrap_or(to);
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(broken)
}
