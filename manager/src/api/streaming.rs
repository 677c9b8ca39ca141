//! Streams that a client opens under a name, for another call of it to use: what goes in or out of
//! archives, news of the progress, questions for credentials.
//!
//! The first message names the stream and is answered with an empty one; then the stream waits to be
//! taken by a call. It is gone when its client is, or when the call is done with it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task;

use knarr_proto::any;
use knarr_proto::services::streaming::v1::StreamInit;
use knarr_proto::services::streaming::v1::streaming_server::Streaming as Service;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Answers, Api, namespace, unpack};
use crate::error::{Code, Error, Result};

/// The most streams that wait at once.
const MOST: usize = 10_000;

/// How many messages wait for a client to take them.
const OUTGOING: usize = 8;

/// Both directions of a stream.
#[derive(Debug)]
pub(super) struct Channel {
    /// What the client sends.
    pub(super) incoming: Streaming<Any>,
    /// What goes to the client.
    pub(super) outgoing: mpsc::Sender<Result<Any, Status>>,
}

/// The streams that nobody has taken yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    count: u64,
    /// By namespace and name; the number tells one stream of a name from the next.
    channels: HashMap<(String, String), (u64, Channel)>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream of that name, which nobody else gets from here on.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn take(&self, namespace: &str, name: &str) -> Result<Channel> {
        let key = (namespace.to_owned(), name.to_owned());
        let found = self.lock().channels.remove(&key);
        let (_, channel) = found.ok_or_else(|| Error::not_found(format!("stream {name:?}")))?;
        Ok(channel)
    }

    fn add(&self, key: (String, String), channel: Channel) -> Result<Place> {
        let mut waiting = self.lock();
        if waiting.channels.contains_key(&key) {
            return Err(Error::exists(format!("stream {:?}", key.1)));
        }
        if waiting.channels.len() >= MOST {
            let what = format!("{MOST} streams wait already");
            return Err(Error::new(Code::ResourceExhausted, what));
        }
        waiting.count += 1;
        let number = waiting.count;
        waiting.channels.insert(key.clone(), (number, channel));
        let streams = self.clone();
        Ok(Place {
            streams,
            key,
            number,
        })
    }
}

/// Frees the name of a stream when its client has gone.
#[derive(Debug)]
struct Place {
    streams: Streams,
    key: (String, String),
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.streams.lock();
        let channels = &mut waiting.channels;
        let own = |(number, _): &(u64, Channel)| *number == self.number;
        let removed = match channels.get(&self.key).is_some_and(own) {
            true => channels.remove(&self.key),
            false => None,
        };
        drop(waiting);
        drop(removed);
    }
}

/// What goes to the client; the transport drops it when the client goes.
struct Outgoing {
    messages: ReceiverStream<Result<Any, Status>>,
    _place: Place,
}

impl Stream for Outgoing {
    type Item = Result<Any, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Self::Item>> {
        Pin::new(&mut self.messages).poll_next(context)
    }
}

#[async_trait]
impl Service for Api {
    type StreamStream = Answers<Any>;

    async fn stream(
        &self,
        request: Request<Streaming<Any>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let namespace = namespace(&request)?;
        let mut incoming = request.into_inner();
        let first = incoming.message().await?;
        let first = first.ok_or_else(|| Error::invalid("the stream has no message"))?;
        let StreamInit { id } = unpack(&first)?;
        if id.is_empty() {
            return Err(Error::invalid("the name of a stream is empty").into());
        }
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        // There is room: it is the first.
        let _ = outgoing.try_send(Ok(any::pack(&())));
        let channel = Channel { incoming, outgoing };
        let place = self.1.add((namespace, id), channel)?;
        let messages = ReceiverStream::new(messages);
        Ok(Response::new(Box::pin(Outgoing {
            messages,
            _place: place,
        })))
    }
}
