//! Leases.

use knarr_proto::services::leases::v1::leases_server::Leases;
use knarr_proto::services::leases::v1::{
    AddResourceRequest, CreateRequest, CreateResponse, DeleteRequest, DeleteResourceRequest, Lease,
    ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse, Resource,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, namespace, required, timestamp};
use crate::manager;
use crate::store::filter::Filters;
use crate::store::leases::{self, Named};

fn to_wire(Named { id, lease }: Named) -> Lease {
    Lease {
        id,
        created_at: Some(timestamp(lease.created)),
        labels: lease.labels,
    }
}

fn from_wire(Resource { id, r#type: kind }: Resource) -> leases::Resource {
    leases::Resource { kind, id }
}

#[async_trait]
impl Leases for Api {
    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateResponse>, Status> {
        let namespace = namespace(&request)?;
        let CreateRequest { mut id, labels } = request.into_inner();
        if id.is_empty() {
            id = manager::new_uuid()?;
        }
        let named = self.0.leases.create(&namespace, &id, labels).await?;
        let lease = Some(to_wire(named));
        Ok(Response::new(CreateResponse { lease }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let DeleteRequest { id, sync } = request.into_inner();
        self.0.leases.delete(&namespace, &id).await?;
        if sync {
            self.0.collect().await?;
        }
        Ok(Response::new(()))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let namespace = namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let found = self.0.leases.list(&namespace, &filters)?;
        let leases = found.into_iter().map(to_wire).collect();
        Ok(Response::new(ListResponse { leases }))
    }

    async fn add_resource(
        &self,
        request: Request<AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let AddResourceRequest { id, resource } = request.into_inner();
        let resource = from_wire(required(resource, "resource")?);
        self.0.leases.add(&namespace, &id, resource).await?;
        Ok(Response::new(()))
    }

    async fn delete_resource(
        &self,
        request: Request<DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let DeleteResourceRequest { id, resource } = request.into_inner();
        let resource = from_wire(required(resource, "resource")?);
        self.0.leases.remove(&namespace, &id, resource).await?;
        Ok(Response::new(()))
    }

    async fn list_resources(
        &self,
        request: Request<ListResourcesRequest>,
    ) -> Result<Response<ListResourcesResponse>, Status> {
        let namespace = namespace(&request)?;
        let found = self.0.leases.resources(&namespace, &request.get_ref().id)?;
        let resources = found.into_iter().map(|resource| Resource {
            id: resource.id,
            r#type: resource.kind,
        });
        let resources = resources.collect();
        Ok(Response::new(ListResourcesResponse { resources }))
    }
}
