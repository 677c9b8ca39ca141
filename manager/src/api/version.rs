//! The daemon's version.

use knarr_proto::services::version::v1::VersionResponse;
use knarr_proto::services::version::v1::version_server::Version;
use tonic::{Request, Response, Status, async_trait};

use super::Api;

#[async_trait]
impl Version for Api {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(),
            revision: String::new(),
        }))
    }
}
