//! Events: what clients and shims report, and the log for those who follow it.

use knarr_proto::services::events::v1::events_server::Events;
use knarr_proto::services::events::v1::{ForwardRequest, PublishRequest, SubscribeRequest};
use knarr_proto::types::Envelope;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::{Answers, Api, namespace, nanoseconds, required, timestamp};
use crate::error::{Code, Error};
use crate::store::database::now;
use crate::store::filter::Filters;
use crate::store::schema::Event;

/// How many events wait for a client that does not read; the rest waits in the log.
const AHEAD: usize = 64;

fn to_wire(event: Event) -> Envelope {
    Envelope {
        timestamp: Some(timestamp(event.time)),
        namespace: event.namespace,
        topic: event.topic,
        event: event.event.map(Into::into),
    }
}

#[async_trait]
impl Events for Api {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let PublishRequest { topic, event } = request.into_inner();
        let event = Event {
            time: now(),
            namespace,
            topic,
            event: event.map(Into::into),
        };
        self.0.log.add(event).await?;
        Ok(Response::new(()))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<()>, Status> {
        let envelope = required(request.into_inner().envelope, "envelope")?;
        let event = Event {
            time: envelope.timestamp.map_or(0, nanoseconds),
            namespace: envelope.namespace,
            topic: envelope.topic,
            event: envelope.event.map(Into::into),
        };
        self.0.log.add(event).await?;
        Ok(Response::new(()))
    }

    type SubscribeStream = Answers<Envelope>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let filters = Filters::parse(&request.into_inner().filters);
        let filters = filters.map_err(|error| {
            error.context("subscription error: failed parsing subscription filters")
        })?;
        let mut follower = self.0.log.follow(filters);
        let manager = self.0.clone();
        let (sender, answers) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = follower.next() => next,
                    () = sender.closed() => return,
                    () = manager.ended() => {
                        Err(Error::new(Code::Unavailable, "the daemon is ending"))
                    }
                };
                let events = match next {
                    Ok(events) => events,
                    Err(error) => {
                        let _ = sender.send(Err(error.into())).await;
                        return;
                    }
                };
                for event in events {
                    if sender.send(Ok(to_wire(event))).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
