//! The connection to the daemon.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Error, Result, anyhow};
use knarr_proto::services::containers::v1::containers_client::ContainersClient;
use knarr_proto::services::content::v1::content_client::ContentClient;
use knarr_proto::services::images::v1::images_client::ImagesClient;
use knarr_proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use knarr_proto::services::streaming::v1::streaming_client::StreamingClient;
use knarr_proto::services::tasks::v1::tasks_client::TasksClient;
use knarr_proto::services::transfer::v1::transfer_client::TransferClient;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The largest message, in bytes: what the daemon sends at most.
const LARGEST: usize = 16 << 20;

/// A daemon, in one namespace.
#[derive(Debug, Clone)]
pub struct Daemon {
    channel: Channel,
    namespace: AsciiMetadataValue,
}

impl Daemon {
    /// Connects to the daemon at a socket.
    ///
    /// # Errors
    /// Where nobody listens there; a name that cannot be one.
    pub async fn connect(socket: &Path, namespace: &str) -> Result<Self> {
        let place = socket.display();
        let endpoint = Endpoint::from_shared(format!("unix://{place}"))?;
        let channel = endpoint.connect().await.map_err(|error| {
            // What is around it says the same again.
            let error = Error::new(error);
            let cause = error.root_cause();
            anyhow!(
                "cannot connect to knarrd at {place}: {cause}; is it running? (--address names its socket)"
            )
        })?;
        let namespace = namespace
            .parse()
            .with_context(|| format!("namespace {namespace:?}"))?;
        Ok(Self { channel, namespace })
    }

    /// A request in the namespace.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// The containers.
    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone())
    }

    /// The blobs.
    pub fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(LARGEST)
    }

    /// The images.
    pub fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(LARGEST)
    }

    /// The snapshots.
    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// Named streams.
    pub fn streaming(&self) -> StreamingClient<Channel> {
        StreamingClient::new(self.channel.clone())
    }

    /// What runs.
    pub fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    /// What moves images.
    pub fn transfer(&self) -> TransferClient<Channel> {
        TransferClient::new(self.channel.clone())
    }
}

/// What the daemon says is wrong, without the words of the protocol.
pub fn said(status: &Status) -> Error {
    anyhow!("{}", status.message())
}

/// A name that nobody else has here: of time and process.
pub fn unique(what: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_micros());
    format!("{what}-{:x}{now:x}", std::process::id())
}
