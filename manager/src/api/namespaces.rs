//! Namespaces.

use knarr_proto::services::namespaces::v1::namespaces_server::Namespaces;
use knarr_proto::services::namespaces::v1::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, GetNamespaceRequest,
    GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse, Namespace,
    UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, paths, required};
use crate::store::mask;

#[async_trait]
impl Namespaces for Api {
    async fn get(
        &self,
        request: Request<GetNamespaceRequest>,
    ) -> Result<Response<GetNamespaceResponse>, Status> {
        let name = request.into_inner().name;
        let labels = self.0.namespaces.get(&name)?;
        let namespace = Some(Namespace { name, labels });
        Ok(Response::new(GetNamespaceResponse { namespace }))
    }

    async fn list(
        &self,
        _: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        let found = self.0.namespaces.list()?.into_iter();
        let namespaces = found.map(|(name, labels)| Namespace { name, labels });
        let namespaces = namespaces.collect();
        Ok(Response::new(ListNamespacesResponse { namespaces }))
    }

    async fn create(
        &self,
        request: Request<CreateNamespaceRequest>,
    ) -> Result<Response<CreateNamespaceResponse>, Status> {
        let new = required(request.into_inner().namespace, "namespace")?;
        let made = self.0.namespaces.create(&new.name, new.labels.clone());
        made.await?;
        let namespace = Some(new);
        Ok(Response::new(CreateNamespaceResponse { namespace }))
    }

    async fn update(
        &self,
        request: Request<UpdateNamespaceRequest>,
    ) -> Result<Response<UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let Namespace { name, labels } = required(request.namespace, "namespace")?;
        let paths = paths(request.update_mask);
        let what = format!("namespace {name:?}");
        let change = move |old: &mut _| mask::relabel(&paths, old, &labels, &what);
        let labels = self.0.namespaces.relabel(&name, change).await?;
        let namespace = Some(Namespace { name, labels });
        Ok(Response::new(UpdateNamespaceResponse { namespace }))
    }

    async fn delete(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        self.0.namespaces.delete(&request.into_inner().name).await?;
        Ok(Response::new(()))
    }
}
