//! What the daemon consists of, named as containerd names its plugins: clients look there for
//! snapshotters and what they can do.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use knarr_proto::any;
use knarr_proto::services::introspection::v1::introspection_server::Introspection;
use knarr_proto::services::introspection::v1::{
    Plugin, PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse,
};
use knarr_proto::types::{Platform, RuntimeRequest};
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use crate::error::{Code, Error};
use crate::manager::Manager;
use crate::store::filter::{Fields, Filters};

/// The parts that every manager has: type and name.
const PARTS: [(&str, &str); 18] = [
    ("io.containerd.content.v1", "content"),
    ("io.containerd.event.v1", "exchange"),
    ("io.containerd.gc.v1", "scheduler"),
    ("io.containerd.lease.v1", "manager"),
    ("io.containerd.metadata.v1", "bolt"),
    ("io.containerd.shim.v1", "manager"),
    ("io.containerd.service.v1", "tasks-service"),
    ("io.containerd.grpc.v1", "containers"),
    ("io.containerd.grpc.v1", "content"),
    ("io.containerd.grpc.v1", "events"),
    ("io.containerd.grpc.v1", "healthcheck"),
    ("io.containerd.grpc.v1", "images"),
    ("io.containerd.grpc.v1", "introspection"),
    ("io.containerd.grpc.v1", "leases"),
    ("io.containerd.grpc.v1", "namespaces"),
    ("io.containerd.grpc.v1", "snapshots"),
    ("io.containerd.grpc.v1", "tasks"),
    ("io.containerd.grpc.v1", "version"),
];

/// The part that can tell of runtimes.
const RUNTIME: (&str, &str) = ("io.containerd.runtime.v2", "task");

impl Fields for Plugin {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["type"] => Some(self.r#type.clone()),
            ["id"] => Some(self.id.clone()),
            ["platforms"] => Some(String::new()),
            ["capabilities"] => Some(self.capabilities.join(",")),
            _ => None,
        }
    }
}

fn plugins(manager: &Manager) -> Vec<Plugin> {
    let plugin = |kind: &str, id: &str| Plugin {
        r#type: kind.to_owned(),
        id: id.to_owned(),
        ..Plugin::default()
    };
    let snapshotters = manager
        .snapshotters()
        .map(|(name, exports, snapshots)| Plugin {
            platforms: vec![platform()],
            capabilities: snapshots.capabilities(),
            exports,
            ..plugin("io.containerd.snapshotter.v1", name)
        });
    let runtime = Plugin {
        platforms: vec![platform()],
        exports: BTreeMap::from([("log-uri-schemes".to_owned(), "fifo,binary,file".to_owned())]),
        ..plugin(RUNTIME.0, RUNTIME.1)
    };
    let parts = PARTS.into_iter().map(|(kind, id)| plugin(kind, id));
    snapshotters.chain([runtime]).chain(parts).collect()
}

/// The platform that this program is for, in Go's words.
fn platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "x86" => ("386", ""),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "powerpc64" => ("ppc64le", ""),
        other => (other, ""),
    };
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    }
}

#[async_trait]
impl Introspection for Api {
    async fn plugins(
        &self,
        request: Request<PluginsRequest>,
    ) -> Result<Response<PluginsResponse>, Status> {
        let filters = Filters::parse(&request.into_inner().filters)?;
        let mut plugins = plugins(&self.0);
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
        let mut plugins = plugins(&self.0).into_iter();
        let plugin = plugins.find(|plugin| plugin.r#type == kind && plugin.id == id);
        let name = format!("plugin {kind}.{id}");
        let plugin = plugin.ok_or_else(|| Error::not_found(name.clone()))?;
        let extra = match options {
            Some(options) if (&*kind, &*id) == RUNTIME => {
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
