//! The daemon's version.
//!
//! Clients read it as the version of a containerd and decide by it what they may ask for. So it is that
//! of the containerd whose API this is, with our own behind it, as semantic versions have builds.

use knarr_proto::services::version::v1::VersionResponse;
use knarr_proto::services::version::v1::version_server::Version;
use tonic::{Request, Response, Status, async_trait};

use super::Api;

#[async_trait]
impl Version for Api {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: concat!("v2.4.2+knarr.", env!("CARGO_PKG_VERSION")).to_owned(),
            revision: concat!("knarr-", env!("CARGO_PKG_VERSION")).to_owned(),
        }))
    }
}
