//! Containers.

use knarr_proto::services::containers::v1::container::Runtime;
use knarr_proto::services::containers::v1::containers_server::Containers;
use knarr_proto::services::containers::v1::{
    Container, CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest,
    GetContainerRequest, GetContainerResponse, ListContainerMessage, ListContainersRequest,
    ListContainersResponse, UpdateContainerRequest, UpdateContainerResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Answers, Api, namespace, paths, required, timestamp, typed, untyped};
use crate::error::Result;
use crate::store::containers::Named;
use crate::store::filter::Filters;
use crate::store::schema;

fn to_wire(Named { id, container }: Named) -> Container {
    Container {
        id,
        labels: container.labels,
        image: container.image,
        runtime: Some(Runtime {
            name: container.runtime,
            options: container.runtime_options.map(Into::into),
        }),
        spec: container.spec.map(Into::into),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: Some(timestamp(container.created)),
        updated_at: Some(timestamp(container.updated)),
        extensions: untyped(container.extensions),
        sandbox: container.sandbox,
    }
}

fn from_wire(wire: Container) -> (String, schema::Container) {
    let runtime = wire.runtime.unwrap_or_default();
    let container = schema::Container {
        image: wire.image,
        runtime: runtime.name,
        runtime_options: runtime.options.map(Into::into),
        spec: wire.spec.map(Into::into),
        snapshotter: wire.snapshotter,
        snapshot_key: wire.snapshot_key,
        labels: wire.labels,
        extensions: typed(wire.extensions),
        sandbox: wire.sandbox,
        created: 0,
        updated: 0,
    };
    (wire.id, container)
}

impl Api {
    fn list_containers(&self, request: Request<ListContainersRequest>) -> Result<Vec<Container>> {
        let namespace = namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let mut found = Vec::new();
        tokio::task::block_in_place(|| {
            let add = |named| found.push(to_wire(named));
            self.0.containers.list(&namespace, &filters, add)
        })?;
        Ok(found)
    }
}

#[async_trait]
impl Containers for Api {
    async fn get(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let named = self.0.containers.get(&namespace, &request.get_ref().id)?;
        let container = Some(to_wire(named));
        Ok(Response::new(GetContainerResponse { container }))
    }

    async fn list(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let containers = self.list_containers(request)?;
        Ok(Response::new(ListContainersResponse { containers }))
    }

    type ListStreamStream = Answers<ListContainerMessage>;

    async fn list_stream(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let containers = self.list_containers(request)?.into_iter();
        let messages = containers.map(|container| {
            let container = Some(container);
            Ok(ListContainerMessage { container })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn create(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let (id, new) = from_wire(required(request.into_inner().container, "container")?);
        self.0.tasks.expect();
        let named = self.0.containers.create(&namespace, &id, new).await?;
        let container = Some(to_wire(named));
        Ok(Response::new(CreateContainerResponse { container }))
    }

    async fn update(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Result<Response<UpdateContainerResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let (id, new) = from_wire(required(request.container, "container")?);
        let paths = paths(request.update_mask);
        let updated = self.0.containers.update(&namespace, &id, new, paths);
        let container = Some(to_wire(updated.await?));
        Ok(Response::new(UpdateContainerResponse { container }))
    }

    async fn delete(
        &self,
        request: Request<DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let id = request.into_inner().id;
        self.0.containers.delete(&namespace, &id).await?;
        Ok(Response::new(()))
    }
}
