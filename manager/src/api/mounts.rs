//! Mounts that the daemon makes for clients.

use knarr_proto::services::mounts::v1::mounts_server::Mounts;
use knarr_proto::services::mounts::v1::{
    ActivateRequest, ActivateResponse, DeactivateRequest, InfoRequest, InfoResponse, ListMessage,
    ListRequest, UpdateRequest, UpdateResponse,
};
use knarr_proto::types::{self, ActivationInfo};
use tonic::{Request, Response, Status, async_trait};

use super::{Answers, Api, lease, namespace, timestamp};
use crate::error::{Code, Error};
use crate::mount::Named;
use crate::store::filter::Filters;
use crate::store::schema::{ActiveMount, Mount};

fn from_wire(mount: types::Mount) -> Mount {
    Mount {
        kind: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

fn mount_to_wire(mount: Mount) -> types::Mount {
    types::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

fn active_to_wire(active: ActiveMount) -> types::ActiveMount {
    types::ActiveMount {
        mount: Some(mount_to_wire(active.mount)),
        mounted_at: Some(timestamp(active.mounted)),
        mount_point: active.point,
        ..types::ActiveMount::default()
    }
}

fn to_wire(Named { name, activation }: Named) -> ActivationInfo {
    ActivationInfo {
        name,
        active: activation.active.into_iter().map(active_to_wire).collect(),
        system: activation.system.into_iter().map(mount_to_wire).collect(),
        labels: activation.labels,
    }
}

#[async_trait]
impl Mounts for Api {
    async fn activate(
        &self,
        request: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let ActivateRequest {
            name,
            mounts,
            labels,
            temporary,
        } = request.into_inner();
        let mounts = mounts.into_iter().map(from_wire).collect();
        let lease = lease.as_deref();
        let made = self
            .0
            .mounts
            .activate(&namespace, &name, mounts, temporary, labels, lease);
        let info = Some(to_wire(made.await?));
        Ok(Response::new(ActivateResponse { info }))
    }

    async fn deactivate(
        &self,
        request: Request<DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let name = request.into_inner().name;
        self.0.mounts.deactivate(&namespace, &name).await?;
        Ok(Response::new(()))
    }

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let namespace = namespace(&request)?;
        let named = self.0.mounts.info(&namespace, &request.get_ref().name)?;
        let info = Some(to_wire(named));
        Ok(Response::new(InfoResponse { info }))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        let what = "a mount can't be changed: deactivate it and activate another";
        Err(Error::new(Code::Unimplemented, what).into())
    }

    type ListStream = Answers<ListMessage>;

    async fn list(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let namespace = namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let found = self.0.mounts.list(&namespace, &filters)?.into_iter();
        let messages = found.map(|named| {
            let info = Some(to_wire(named));
            Ok(ListMessage { info })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}
