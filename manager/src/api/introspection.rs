//! What the daemon consists of and where it runs.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use knarr_proto::any;
use knarr_proto::services::introspection::v1::introspection_server::Introspection;
use knarr_proto::services::introspection::v1::{
    PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse,
};
use knarr_proto::types::RuntimeRequest;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, plugins};
use crate::error::{Code, Error};
use crate::store::filter::Filters;

#[async_trait]
impl Introspection for Api {
    async fn plugins(
        &self,
        request: Request<PluginsRequest>,
    ) -> Result<Response<PluginsResponse>, Status> {
        let filters = Filters::parse(&request.into_inner().filters)?;
        let mut plugins = plugins::all(&self.0);
        plugins.retain(|plugin| filters.take(plugin));
        Ok(Response::new(PluginsResponse { plugins }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<ServerResponse>, Status> {
        let pidns = "/proc/self/ns/pid";
        let pidns = std::fs::metadata(pidns).map_err(|error| Error::io(pidns, &error))?;
        Ok(Response::new(ServerResponse {
            uuid: self.0.uuid().to_owned(),
            pid: std::process::id().into(),
            pidns: pidns.ino(),
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(
        &self,
        request: Request<PluginInfoRequest>,
    ) -> Result<Response<PluginInfoResponse>, Status> {
        let PluginInfoRequest {
            r#type: kind,
            id,
            options,
        } = request.into_inner();
        let mut plugins = plugins::all(&self.0).into_iter();
        let plugin = plugins.find(|plugin| plugin.r#type == kind && plugin.id == id);
        let name = format!("plugin {kind}.{id}");
        let plugin = plugin.ok_or_else(|| Error::not_found(name.clone()))?;
        let extra = match options {
            Some(options) if (&*kind, &*id) == plugins::RUNTIME => {
                let wrong = |error| Error::invalid(format!("options: {error}"));
                let request: RuntimeRequest = any::unpack(&options).map_err(wrong)?;
                let shims = self.0.tasks.shims();
                let info = shims.info(&request.runtime_path, request.options.as_ref());
                Some(any::pack(&info.await?))
            }
            Some(_) => {
                let what = format!("{name} takes no options");
                return Err(Error::new(Code::Unimplemented, what).into());
            }
            None => None,
        };
        Ok(Response::new(PluginInfoResponse {
            plugin: Some(plugin),
            extra,
        }))
    }
}
