//! From the bytes of an archive to those of a layer: the reverse of `pipeline.rs`.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flate2::write::GzEncoder;

use super::pipeline::{Progress, spawn};
use crate::error::{Error, Result};
use crate::layer::Compression;
use crate::store::digest::{Algorithm, Digest, Hasher};

/// The length of a piece in bytes.
const PIECE: usize = 128 * 1024;

/// How many are under way.
const PIECES: usize = 8;

/// Where the archive is written to.
#[derive(Debug)]
pub struct Sink {
    pieces: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    hasher: Hasher,
    size: u64,
    progress: Arc<Progress>,
}

/// A thread that compresses.
#[derive(Debug)]
pub struct Packer(JoinHandle<io::Result<()>>);

/// A sink and its thread, which writes to `file` once there is something.
///
/// # Errors
/// Where there can't be any more threads.
pub fn start(
    file: File,
    compression: Compression,
    progress: Arc<Progress>,
) -> Result<(Sink, Packer)> {
    let (pieces, taken) = sync_channel(PIECES);
    let thread = spawn("compress", move || compress(file, compression, &taken))?;
    let sink = Sink {
        pieces,
        current: Vec::with_capacity(PIECE),
        hasher: Hasher::new(Algorithm::Sha256),
        size: 0,
        progress,
    };
    Ok((sink, Packer(thread)))
}

impl Sink {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.current, Vec::with_capacity(PIECE));
        self.hasher.update(&piece);
        let count: &AtomicU64 = &self.progress.pieces;
        count.fetch_add(1, Ordering::Relaxed);
        // The thread has an error to tell; see `Packer::finish`.
        self.pieces
            .send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// The digest and the length of all that was written.
    ///
    /// # Errors
    /// Where the rest can't be written.
    pub fn finish(mut self) -> Result<(Digest, u64)> {
        self.send()
            .map_err(|error| Error::io("the new layer", &error))?;
        Ok((self.hasher.finish(), self.size))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.current.len();
        let now = &bytes[..bytes.len().min(room)];
        self.current.extend_from_slice(now);
        self.size += u64::try_from(now.len()).unwrap_or(0);
        if self.current.len() == PIECE {
            self.send()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Packer {
    /// Waits until everything is written; the sink has to be gone.
    ///
    /// # Errors
    /// Where the output fails.
    pub fn finish(self) -> Result<()> {
        let done = self.0.join();
        let done = done.map_err(|_| Error::internal("the thread that compresses panicked"))?;
        done.map_err(|error| Error::io("the new layer", &error))
    }
}

fn compress(
    mut file: File,
    compression: Compression,
    pieces: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    match compression {
        Compression::None => copy(pieces, &mut file),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(file, flate2::Compression::default());
            copy(pieces, &mut encoder)?;
            encoder.finish().map(drop)
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            encoder.include_checksum(true)?;
            copy(pieces, &mut encoder)?;
            encoder.finish().map(drop)
        }
    }
}

fn copy(pieces: &Receiver<Vec<u8>>, to: &mut impl Write) -> io::Result<()> {
    while let Ok(piece) = pieces.recv() {
        to.write_all(&piece)?;
    }
    Ok(())
}
