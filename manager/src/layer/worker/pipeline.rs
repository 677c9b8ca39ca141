//! From the bytes of a layer to those of its archive, in threads of their own:
//!
//! ```text
//! source ──▶ read, decompress ──▶ hash ──▶ whoever reads the archive
//!                  ▲                            │
//!                  └────────── buffers ◀────────┘
//! ```

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use flate2::bufread::MultiGzDecoder;

use super::super::Limits;
use crate::error::{Code, Error, Result};
use crate::store::digest::{Algorithm, Digest, Hasher};

/// The length of a buffer in bytes: small enough for the processor's caches.
const PIECE: usize = 128 * 1024;

/// How many of them there are.
const BUFFERS: usize = 16;

/// The largest window of zstd, as a power of two: what its own program takes without being told to.
const WINDOW: u32 = 27;

/// Whether something happens.
#[derive(Debug, Default)]
pub struct Progress {
    /// Counts what was decompressed.
    pub pieces: AtomicU64,
    /// Whether it waits for the source, which is not in its hands.
    pub waits: AtomicBool,
}

/// An archive as it is decompressed.
#[derive(Debug)]
pub struct Stream {
    pieces: Receiver<Result<Vec<u8>>>,
    free: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

/// Threads that wait for leave to begin.
#[derive(Debug)]
pub struct Pipeline {
    /// What comes out.
    pub stream: Stream,
    leave: Vec<SyncSender<()>>,
    hash: JoinHandle<(Digest, u64)>,
}

impl Pipeline {
    /// Makes the threads. They touch nothing before [`Pipeline::begin`].
    ///
    /// # Errors
    /// Where there can't be any more threads.
    pub fn new(source: File, limits: Limits, progress: Arc<Progress>) -> Result<Self> {
        let (packed, unpacked) = sync_channel(BUFFERS);
        let (hashed, pieces) = sync_channel(BUFFERS);
        let (free, buffers) = channel();
        let (leave_source, may_source) = sync_channel(1);
        let (leave_hash, may_hash) = sync_channel(1);
        spawn("decompress", move || {
            if may_source.recv().is_ok() {
                let sender = packed.clone();
                if let Err(error) = decompress(source, &limits, &progress, &packed, &buffers) {
                    let _ = sender.send(Err(error));
                }
            }
        })?;
        let hash = spawn("hash", move || {
            let _ = may_hash.recv();
            hash(&unpacked, &hashed)
        })?;
        let current = Vec::new();
        Ok(Self {
            stream: Stream {
                pieces,
                free,
                current,
                position: 0,
            },
            leave: vec![leave_source, leave_hash],
            hash,
        })
    }

    /// Lets the threads begin.
    pub fn begin(&self) {
        for leave in &self.leave {
            let _ = leave.send(());
        }
    }

    /// The digest and the length of what came out, all of which has to have been read.
    ///
    /// # Errors
    /// Where a thread panicked.
    pub fn finish(self) -> Result<(Digest, u64)> {
        drop(self.stream);
        self.hash
            .join()
            .map_err(|_| Error::internal("the thread that hashes panicked"))
    }
}

pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|error| Error::io("a thread of the layer worker", &error))
}

impl Stream {
    fn advance(&mut self) -> io::Result<()> {
        let old = std::mem::take(&mut self.current);
        self.position = 0;
        // Nobody takes it once the source has ended.
        let _ = self.free.send(old);
        if let Ok(piece) = self.pieces.recv() {
            self.current = piece.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            self.advance()?;
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position = self.current.len().min(self.position + amount);
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}

fn hash(from: &Receiver<Result<Vec<u8>>>, to: &SyncSender<Result<Vec<u8>>>) -> (Digest, u64) {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut size = 0;
    while let Ok(piece) = from.recv() {
        if let Ok(bytes) = &piece {
            hasher.update(bytes);
            size += u64::try_from(bytes.len()).unwrap_or(0);
        }
        if to.send(piece).is_err() {
            break;
        }
    }
    (hasher.finish(), size)
}

/// The source, with a count of what came from it.
struct Counted<'a> {
    file: File,
    count: Rc<Cell<u64>>,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.waits.store(true, Ordering::Relaxed);
        let read = self.file.read(buffer);
        self.progress.waits.store(false, Ordering::Relaxed);
        let length = read?;
        self.count
            .set(self.count.get() + u64::try_from(length).unwrap_or(0));
        Ok(length)
    }
}

fn decompress(
    file: File,
    limits: &Limits,
    progress: &Progress,
    to: &SyncSender<Result<Vec<u8>>>,
    buffers: &Receiver<Vec<u8>>,
) -> Result<()> {
    let count = Rc::new(Cell::new(0));
    let mut counted = Counted {
        file,
        count: Rc::clone(&count),
        progress,
    };
    let broken = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => Error::invalid("the layer ends early: unexpected EOF"),
        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::Other => {
            Error::invalid(format!("the layer is broken: {error}"))
        }
        _ => Error::io("the layer", &error),
    };
    let mut start = Vec::new();
    (&mut counted)
        .take(4)
        .read_to_end(&mut start)
        .map_err(broken)?;
    let rest = BufReader::with_capacity(PIECE, Cursor::new(start.clone()).chain(counted));
    // What it is shows in its first bytes, whatever anybody calls it.
    let mut reader: Box<dyn Read> = match &start[..] {
        [0x1f, 0x8b, 8, ..] => Box::new(MultiGzDecoder::new(rest)),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::Decoder::with_buffer(rest).map_err(broken)?;
            decoder.window_log_max(WINDOW).map_err(broken)?;
            Box::new(decoder)
        }
        _ => Box::new(rest),
    };
    let mut made = 0;
    let mut size = 0_u64;
    loop {
        let mut buffer = match buffers.try_recv() {
            Ok(buffer) => buffer,
            Err(_) if made < BUFFERS => {
                made += 1;
                Vec::new()
            }
            // The reader has gone, and with it all interest.
            Err(_) => match buffers.recv() {
                Ok(buffer) => buffer,
                Err(_) => return Ok(()),
            },
        };
        buffer.resize(PIECE, 0);
        let mut filled = 0;
        while filled < PIECE {
            match reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        buffer.truncate(filled);
        size += u64::try_from(filled).unwrap_or(0);
        limits.check(size, count.get())?;
        progress.pieces.fetch_add(1, Ordering::Relaxed);
        if filled == 0 || to.send(Ok(buffer)).is_err() {
            return Ok(());
        }
    }
}

impl Limits {
    /// Whether `unpacked` bytes may have come out of `packed`.
    fn check(&self, unpacked: u64, packed: u64) -> Result<()> {
        let exhausted = |what| Err(Error::new(Code::ResourceExhausted, what));
        if unpacked > self.size {
            return exhausted(format!(
                "the layer has more than {} bytes unpacked",
                self.size
            ));
        }
        if unpacked > self.unchecked && unpacked / self.ratio > packed {
            return exhausted(format!(
                "the layer unpacks to more than {} times its length",
                self.ratio
            ));
        }
        Ok(())
    }
}
