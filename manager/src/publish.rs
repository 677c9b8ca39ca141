//! `knarrd publish`: an event for the daemon, from a shim that has no connection to it.

use std::io::Read as _;
use std::path::Path;

use knarr_manager::error::{Code, Error, Result};
use knarr_proto::prost::Message as _;
use knarr_proto::prost_types::Any;
use knarr_proto::services::events::v1::ForwardRequest;
use knarr_proto::services::events::v1::events_client::EventsClient;
use knarr_proto::types::Envelope;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

/// The longest event, in bytes.
const LONGEST: u64 = 4 << 20;

/// Reads an event from standard input and passes it on to the daemon at `address`.
///
/// # Errors
/// What is no event; what the daemon says, or that it is not there.
pub fn run(address: &Path, topic: String, namespace: String) -> Result<()> {
    let mut bytes = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_end(&mut bytes);
    read.map_err(|error| Error::io("standard input", &error))?;
    let event = Any::decode(bytes.as_slice())
        .map_err(|error| Error::invalid(format!("standard input is no event: {error}")))?;
    let named = MetadataValue::try_from(namespace.as_str())
        .map_err(|_| Error::invalid(format!("{namespace:?} is no namespace")))?;
    let mut request = Request::new(ForwardRequest {
        envelope: Some(Envelope {
            timestamp: Some(std::time::SystemTime::now().into()),
            namespace,
            topic,
            event: Some(event),
        }),
    });
    request.metadata_mut().insert("containerd-namespace", named);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("the event loop", &error))?;
    runtime.block_on(async {
        let place = address.display();
        let away = |error: tonic::transport::Error| {
            Error::new(Code::Unavailable, format!("knarrd at {place}: {error}"))
        };
        let endpoint = Endpoint::from_shared(format!("unix://{place}")).map_err(away)?;
        let mut events = EventsClient::new(endpoint.connect().await.map_err(away)?);
        let told = events.forward(request).await;
        told.map(|_| ())
            .map_err(|status| Error::new(Code::Unknown, status.message()))
    })
}
