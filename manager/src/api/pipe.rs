//! Bytes over a stream, with a window: who receives says how much may come, so that neither side
//! holds more than that.

use std::io::{self, Read, Write};

use knarr_proto::any;
use knarr_proto::prost::bytes::{Buf as _, Bytes};
use knarr_proto::types::transfer::{Data, WindowUpdate};
use tokio::sync::mpsc;

use super::streaming::Channel;
use super::unpack;
use crate::error::{Code, Error, Result};

/// How much a client may send ahead, in bytes.
const WINDOW: i64 = 1 << 20;

/// The largest message to a client, in bytes.
const PIECE: usize = 64 * 1024;

/// How many messages wait between the stream and the thread that works on them.
const MESSAGES: usize = 16;

/// What a client sends, for a thread that may wait.
#[derive(Debug)]
pub(super) struct Source {
    messages: mpsc::Receiver<Result<Bytes>>,
    rest: Bytes,
}

impl Source {
    /// Receives what comes over a stream.
    pub(super) fn new(channel: Channel) -> Self {
        let (sender, messages) = mpsc::channel(MESSAGES);
        tokio::spawn(async move {
            if let Err(error) = receive(channel, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        let rest = Bytes::new();
        Self { messages, rest }
    }
}

async fn receive(mut channel: Channel, sender: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
    let mut window = 0;
    loop {
        if window < WINDOW / 2 {
            let update = i32::try_from(WINDOW).unwrap_or(i32::MAX);
            let message = any::pack(&WindowUpdate { update });
            // A client that takes nothing more may have sent all it has.
            let _ = channel.outgoing.send(Ok(message)).await;
            window += WINDOW;
        }
        let next = channel.incoming.message().await;
        let next = next.map_err(|status| {
            let what = format!("receive failed: {}", status.message());
            Error::new(Code::Cancelled, what)
        })?;
        let Some(next) = next else { return Ok(()) };
        let Data { data } = unpack(&next)?;
        window -= i64::try_from(data.len()).unwrap_or(WINDOW);
        if sender.send(Ok(data)).await.is_err() {
            return Ok(());
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.messages.blocking_recv() {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.advance(length);
        Ok(length)
    }
}

/// What goes to a client, from a thread that may wait. Ends the stream when it is dropped.
#[derive(Debug)]
pub(super) struct Sink {
    pieces: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Sink {
    /// Sends over a stream. The second tells when all has gone out, or the client has.
    pub(super) fn new(channel: Channel) -> (Self, tokio::task::JoinHandle<()>) {
        let (pieces, receiver) = mpsc::channel(MESSAGES);
        let sent = tokio::spawn(send(channel, receiver));
        let buffer = Vec::with_capacity(PIECE);
        (Self { pieces, buffer }, sent)
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        let sent = self.pieces.blocking_send(full.into());
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

async fn send(channel: Channel, mut pieces: mpsc::Receiver<Bytes>) {
    let Channel {
        mut incoming,
        outgoing,
    } = channel;
    let mut window = 0;
    while let Some(mut piece) = pieces.recv().await {
        while !piece.is_empty() {
            while window == 0 {
                let Ok(Some(next)) = incoming.message().await else {
                    return;
                };
                let Ok(WindowUpdate { update }) = unpack(&next) else {
                    return;
                };
                window += usize::try_from(update).unwrap_or(0);
            }
            let data = piece.split_to(piece.len().min(window));
            window -= data.len();
            let message = any::pack(&Data { data });
            if outgoing.send(Ok(message)).await.is_err() {
                return;
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.buffer.len();
        let length = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..length]);
        if self.buffer.len() == PIECE {
            self.send()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
