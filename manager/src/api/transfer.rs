//! Moving images: from where to where is said by the types of source and destination.

use std::path::PathBuf;
use std::sync::Arc;

use knarr_proto::any;
use knarr_proto::services::transfer::v1::TransferRequest;
use knarr_proto::services::transfer::v1::transfer_server::Transfer;
use knarr_proto::types::transfer as wire;
use knarr_proto::types::{Descriptor, Platform as WirePlatform};
use prost_types::Any;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, async_trait};

use super::credentials::Asked;
use super::pipe::{Sink, Source};
use super::streaming::Channel;
use super::{Api, lease, namespace, required, signed, unpack};
use crate::error::{Code, Error, Result};
use crate::image::export::Options;
use crate::image::name::{Destination, Reference};
use crate::image::platform::{Platform, Wanted};
use crate::image::progress::{Listener, Progress, Reporter};
use crate::image::{self, Context};
use crate::registry::{self, Access, Client, Credentials, NoCredentials, Scheme};

/// One end of a transfer.
enum End {
    Store(wire::ImageStore),
    Registry(wire::OciRegistry),
    Import(wire::ImageImportStream),
    Export(wire::ImageExportStream),
    Other,
}

impl End {
    fn new(any: &Any) -> Result<Self> {
        if any::is::<wire::ImageStore>(any) {
            return Ok(Self::Store(unpack(any)?));
        }
        if any::is::<wire::OciRegistry>(any) {
            return Ok(Self::Registry(unpack(any)?));
        }
        if any::is::<wire::ImageImportStream>(any) {
            return Ok(Self::Import(unpack(any)?));
        }
        if any::is::<wire::ImageExportStream>(any) {
            return Ok(Self::Export(unpack(any)?));
        }
        Ok(Self::Other)
    }
}

#[async_trait]
impl Transfer for Api {
    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<()>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let request = request.into_inner();
        let source = required(request.source, "source")?;
        let destination = required(request.destination, "destination")?;
        let ends = (End::new(&source)?, End::new(&destination)?);
        let stream = request.options.unwrap_or_default().progress_stream;
        let (reporter, telling) = match &*stream {
            "" => (Reporter::default(), None),
            name => {
                let (reporter, listener) = Reporter::new();
                let channel = self.1.take(&namespace, name)?;
                (reporter, Some(tell(listener, channel)))
            }
        };
        let manager = Arc::clone(&self.0);
        let done = Context::with_lease(
            manager,
            namespace,
            lease,
            reporter.clone(),
            async |context| match ends {
                (End::Import(from), End::Store(to)) => self.import(&context, from, to).await,
                (End::Store(from), End::Export(to)) => self.export(&context, from, to).await,
                (End::Registry(from), End::Store(to)) => self.pull(&context, from, to).await,
                (End::Store(from), End::Registry(to)) => self.push(&context, from, to).await,
                (End::Store(from), End::Store(to)) => {
                    image::tag(&context, &from.name, &from_store(to)).await
                }
                _ => Err(Error::new(
                    Code::Unimplemented,
                    format!(
                        "transfer from {} to {} not supported",
                        any::type_name(&source),
                        any::type_name(&destination)
                    ),
                )),
            },
        )
        .await;
        reporter.end();
        if let Some(telling) = telling {
            // What was told comes before the end.
            let _ = telling.await;
        }
        Ok(done.map(Response::new)?)
    }
}

impl Api {
    async fn import(
        &self,
        context: &Context,
        from: wire::ImageImportStream,
        to: wire::ImageStore,
    ) -> Result<()> {
        let source = Source::new(self.1.take(&context.namespace, &from.stream)?);
        let to = from_store(to);
        image::import::import(context, source, from.force_compress, &to).await
    }

    async fn pull(
        &self,
        context: &Context,
        from: wire::OciRegistry,
        to: wire::ImageStore,
    ) -> Result<()> {
        let (client, reference) = self.client(context, from)?;
        let mut to = from_store(to);
        if to.name.is_empty() && to.references.is_empty() {
            to.name.clone_from(&reference);
        }
        image::pull::pull(context, client, &reference, &to).await
    }

    async fn push(
        &self,
        context: &Context,
        from: wire::ImageStore,
        to: wire::OciRegistry,
    ) -> Result<()> {
        let (client, reference) = self.client(context, to)?;
        let from = from_store(from);
        image::push::push(context, client, &reference, &from.name, from.platforms).await
    }

    /// A client of the registry, as the caller wants it to be spoken to, and the name of the image
    /// there.
    fn client(&self, context: &Context, wire: wire::OciRegistry) -> Result<(Client, String)> {
        let reference: registry::Reference = registry::Reference::parse(&wire.reference)?;
        let resolver = wire.resolver.unwrap_or_default();
        let credentials: Arc<dyn Credentials> = match &*resolver.auth_stream {
            "" => Arc::new(NoCredentials),
            name => Arc::new(Asked::new(self.1.take(&context.namespace, name)?)),
        };
        let mut access = Access::new(credentials);
        access.hosts.dirs = match &*resolver.host_dir {
            "" => self.0.registry_hosts.clone(),
            dirs => dirs.split(':').map(PathBuf::from).collect(),
        };
        access.hosts.default_scheme = match &*resolver.default_scheme {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => {
                let what = format!("scheme {other:?} is none of http and https");
                return Err(Error::invalid(what));
            }
        };
        for (name, value) in &resolver.headers {
            access.header(name, value)?;
        }
        let client = context.manager.registry.client(&reference, &access)?;
        Ok((client, wire.reference))
    }

    async fn export(
        &self,
        context: &Context,
        from: wire::ImageStore,
        to: wire::ImageExportStream,
    ) -> Result<()> {
        let (sink, sent) = Sink::new(self.1.take(&context.namespace, &to.stream)?);
        let references = from
            .extra_references
            .into_iter()
            .map(|reference| reference.name);
        let names: Vec<String> = Some(from.name).into_iter().chain(references).collect();
        let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
        let options = Options {
            platforms: to.platforms.into_iter().map(from_platform).collect(),
            all_platforms: to.all_platforms,
            skip_docker: to.skip_compatibility_manifest,
            skip_foreign: to.skip_non_distributable,
        };
        let done = image::export::export(context, &names, &options, sink).await;
        let _ = sent.await;
        done
    }
}

fn from_store(wire: wire::ImageStore) -> Destination {
    let references = wire
        .extra_references
        .into_iter()
        .map(|reference| Reference {
            name: reference.name,
            is_prefix: reference.is_prefix,
            allow_overwrite: reference.allow_overwrite,
            add_digest: reference.add_digest,
            skip_named_digest: reference.skip_named_digest,
        });
    let unpacks = wire.unpacks.into_iter().map(|unpack| {
        let platform = unpack.platform.map_or_else(Platform::own, from_platform);
        (platform, unpack.snapshotter)
    });
    Destination {
        name: wire.name,
        labels: wire.labels,
        platforms: Wanted(wire.platforms.into_iter().map(from_platform).collect()),
        all_metadata: wire.all_metadata,
        manifest_limit: usize::try_from(wire.manifest_limit).unwrap_or(usize::MAX),
        references: references.collect(),
        unpacks: unpacks.collect(),
    }
}

fn from_platform(wire: WirePlatform) -> Platform {
    Platform {
        architecture: wire.architecture,
        os: wire.os,
        os_version: wire.os_version,
        os_features: wire.os_features,
        variant: wire.variant,
    }
}

/// Sends news over a stream until there is no more, or the client has gone.
fn tell(mut listener: Listener, channel: Channel) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(progress) = listener.next().await {
            let message = any::pack(&to_wire(progress));
            if channel.outgoing.send(Ok(message)).await.is_err() {
                return;
            }
        }
    })
}

fn to_wire(progress: Progress) -> wire::Progress {
    let descriptor = progress.target.map(|target| Descriptor {
        media_type: target.media_type,
        digest: target.digest.to_string(),
        size: signed(target.size),
        annotations: target.annotations,
    });
    wire::Progress {
        event: progress.event,
        name: progress.name,
        parents: progress.parents,
        progress: signed(progress.progress),
        total: signed(progress.total),
        desc: descriptor,
    }
}
