//! Records of sandboxes.

use knarr_proto::services::sandbox::v1::store_server::Store;
use knarr_proto::services::sandbox::v1::{
    StoreCreateRequest, StoreCreateResponse, StoreDeleteRequest, StoreDeleteResponse,
    StoreGetRequest, StoreGetResponse, StoreListRequest, StoreListResponse, StoreUpdateRequest,
    StoreUpdateResponse,
};
use knarr_proto::types::Sandbox;
use knarr_proto::types::sandbox::Runtime;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, namespace, required, timestamp, typed, untyped};
use crate::store::filter::Filters;
use crate::store::sandboxes::Named;
use crate::store::schema;

fn to_wire(Named { id, sandbox }: Named) -> Sandbox {
    Sandbox {
        sandbox_id: id,
        runtime: Some(Runtime {
            name: sandbox.runtime,
            options: sandbox.runtime_options.map(Into::into),
        }),
        spec: sandbox.spec.map(Into::into),
        labels: sandbox.labels,
        created_at: Some(timestamp(sandbox.created)),
        updated_at: Some(timestamp(sandbox.updated)),
        extensions: untyped(sandbox.extensions),
        sandboxer: sandbox.sandboxer,
    }
}

pub(super) fn from_wire(wire: Sandbox) -> (String, schema::Sandbox) {
    let runtime = wire.runtime.unwrap_or_default();
    let sandbox = schema::Sandbox {
        runtime: runtime.name,
        runtime_options: runtime.options.map(Into::into),
        spec: wire.spec.map(Into::into),
        labels: wire.labels,
        extensions: typed(wire.extensions),
        sandboxer: wire.sandboxer,
        created: 0,
        updated: 0,
    };
    (wire.sandbox_id, sandbox)
}

#[async_trait]
impl Store for Api {
    async fn create(
        &self,
        request: Request<StoreCreateRequest>,
    ) -> Result<Response<StoreCreateResponse>, Status> {
        let namespace = namespace(&request)?;
        let (id, new) = from_wire(required(request.into_inner().sandbox, "sandbox")?);
        let named = self.0.sandboxes.create(&namespace, &id, new).await?;
        let sandbox = Some(to_wire(named));
        Ok(Response::new(StoreCreateResponse { sandbox }))
    }

    async fn update(
        &self,
        request: Request<StoreUpdateRequest>,
    ) -> Result<Response<StoreUpdateResponse>, Status> {
        let namespace = namespace(&request)?;
        let StoreUpdateRequest { sandbox, fields } = request.into_inner();
        let (id, new) = from_wire(required(sandbox, "sandbox")?);
        let named = self.0.sandboxes.update(&namespace, &id, new, fields);
        let sandbox = Some(to_wire(named.await?));
        Ok(Response::new(StoreUpdateResponse { sandbox }))
    }

    async fn delete(
        &self,
        request: Request<StoreDeleteRequest>,
    ) -> Result<Response<StoreDeleteResponse>, Status> {
        let namespace = namespace(&request)?;
        let id = request.into_inner().sandbox_id;
        self.0.sandboxes.delete(&namespace, &id).await?;
        Ok(Response::new(StoreDeleteResponse {}))
    }

    async fn list(
        &self,
        request: Request<StoreListRequest>,
    ) -> Result<Response<StoreListResponse>, Status> {
        let namespace = namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let found = tokio::task::block_in_place(|| self.0.sandboxes.list(&namespace, &filters))?;
        let list = found.into_iter().map(to_wire).collect();
        Ok(Response::new(StoreListResponse { list }))
    }

    async fn get(
        &self,
        request: Request<StoreGetRequest>,
    ) -> Result<Response<StoreGetResponse>, Status> {
        let namespace = namespace(&request)?;
        let id = request.into_inner().sandbox_id;
        let named = self.0.sandboxes.get(&namespace, &id)?;
        let sandbox = Some(to_wire(named));
        Ok(Response::new(StoreGetResponse { sandbox }))
    }
}
