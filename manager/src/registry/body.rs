//! What requests send.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::auth::Future;
use crate::error::{Error, Result};

/// How much is read from a source at once.
const PIECE: u64 = 256 << 10;

/// Where the bytes of a blob come from when it is pushed.
pub trait Source: fmt::Debug + Send + Sync {
    /// Bytes from `offset` on, some of the `length` that are asked for, at least one: `offset` is
    /// below the descriptor's size.
    ///
    /// # Errors
    /// Ends the push.
    fn read(&self, offset: u64, length: usize) -> Future<'_, Result<Bytes>>;
}

/// What a request sends, which can be sent again.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// Bytes at hand, or none.
    Bytes(Bytes),
    /// A part of a blob.
    Part(Part),
}

impl Payload {
    pub(super) const EMPTY: Self = Self::Bytes(Bytes::new());
}

/// A part of a blob on its way out.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) source: Arc<dyn Source>,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Up to which byte of the blob it has been sent.
    pub(super) sent: Arc<AtomicU64>,
    /// What the source failed with.
    pub(super) failed: Arc<Mutex<Option<Error>>>,
}

impl Part {
    /// What the source failed with, if it did.
    pub(super) fn failure(&self) -> Option<Error> {
        let failed = self.failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A payload being sent.
pub(super) struct Outgoing {
    payload: Payload,
    reading: Option<Future<'static, Result<Bytes>>>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.payload.fmt(f)
    }
}

impl From<Payload> for Outgoing {
    fn from(payload: Payload) -> Self {
        Self {
            payload,
            reading: None,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let part = match &mut this.payload {
            Payload::Bytes(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Payload::Bytes(bytes) => {
                let all = std::mem::take(bytes);
                return Poll::Ready(Some(Ok(Frame::data(all))));
            }
            Payload::Part(part) if part.start >= part.end => return Poll::Ready(None),
            Payload::Part(part) => part,
        };
        let left = part.end - part.start;
        let reading = this.reading.get_or_insert_with(|| {
            let (source, start) = (Arc::clone(&part.source), part.start);
            let length = usize::try_from(left.min(PIECE)).unwrap_or(0);
            Box::pin(async move { source.read(start, length).await })
        });
        let mut read = ready!(reading.as_mut().poll(context));
        this.reading = None;
        if let Ok(bytes) = &mut read {
            let length = u64::try_from(bytes.len()).unwrap_or(0);
            if length == 0 {
                read = Err(Error::precondition(format!(
                    "the content ends at {} of {} bytes",
                    part.start, part.end
                )));
            } else {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                part.start += length.min(left);
                part.sent.store(part.start, Ordering::Relaxed);
            }
        }
        if let Err(error) = &read {
            let mut failed = part.failed.lock().unwrap_or_else(PoisonError::into_inner);
            *failed = Some(error.clone());
        }
        Poll::Ready(Some(read.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Bytes(bytes) => bytes.is_empty(),
            Payload::Part(part) => part.start >= part.end,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.payload {
            Payload::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(0),
            Payload::Part(part) => part.end.saturating_sub(part.start),
        })
    }
}
