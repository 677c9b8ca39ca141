//! Layers, unpacked onto mounts and made of them.

use knarr_proto::services::diff::v1::{
    ApplyRequest, ApplyResponse, DiffRequest, DiffResponse, diff_server::Diff,
};
use knarr_proto::types;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, lease, namespace, nanoseconds, required, signed};
use crate::error::{Code, Error};
use crate::layer::{self, Compression, New};
use crate::snapshot::Mount;

/// The media type of a layer without compression.
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// The one that a new layer has where nobody says.
const USUAL: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn mounts(wire: Vec<types::Mount>) -> Vec<Mount> {
    let mounts = wire.into_iter().map(|mount| Mount {
        kind: mount.r#type,
        source: mount.source,
        options: mount.options,
    });
    mounts.collect()
}

#[async_trait]
impl Diff for Api {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        for differ in &self.0.differs {
            if let Some(applied) = differ.apply(&namespace, &request).await? {
                let applied = Some(applied);
                return Ok(Response::new(ApplyResponse { applied }));
            }
        }
        let blob = required(request.diff, "diff")?;
        layer::check_media_type(&blob.media_type)?;
        let blob = self.0.content.read(&namespace, &blob.digest.parse()?)?;
        let layers = &self.0.layers;
        let mounts = mounts(request.mounts);
        let applied = layers.apply(blob.into_file(), &mounts, request.sync_fs);
        let applied = applied.await?;
        Ok(Response::new(ApplyResponse {
            applied: Some(types::Descriptor {
                media_type: PLAIN.to_owned(),
                digest: applied.diff_id.to_string(),
                size: signed(applied.size),
                ..types::Descriptor::default()
            }),
        }))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let request = request.into_inner();
        for differ in &self.0.differs {
            let made = differ.diff(&namespace, &request, lease.as_deref());
            if let Some(diff) = made.await? {
                return Ok(Response::new(DiffResponse { diff: Some(diff) }));
            }
        }
        let media_type = match &*request.media_type {
            "" => USUAL,
            given => given,
        };
        let compression = Compression::of(media_type).ok_or_else(|| {
            let what = format!("unsupported diff media type: {media_type}");
            Error::new(Code::Unimplemented, what)
        })?;
        let new = New {
            compression,
            reference: request.r#ref,
            labels: request.labels,
            epoch: request.source_date_epoch.map(nanoseconds),
            lease,
        };
        let (lower, upper) = (mounts(request.left), mounts(request.right));
        let (layers, content) = (&self.0.layers, &self.0.content);
        let stored = layers.store(content, &namespace, &lower, &upper, new);
        let stored = stored.await?;
        Ok(Response::new(DiffResponse {
            diff: Some(types::Descriptor {
                media_type: media_type.to_owned(),
                digest: stored.digest.to_string(),
                size: signed(stored.blob.size),
                ..types::Descriptor::default()
            }),
        }))
    }
}
