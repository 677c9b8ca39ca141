//! Images.

use knarr_proto::services::images::v1::images_server::Images;
use knarr_proto::services::images::v1::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse,
    Image, ListImagesRequest, ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use knarr_proto::types::Descriptor;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, namespace, paths, required, timestamp};
use crate::store::filter::Filters;
use crate::store::images::Named;
use crate::store::schema;

fn to_wire(Named { name, image }: Named) -> Image {
    Image {
        name,
        labels: image.labels,
        target: Some(Descriptor {
            media_type: image.target.media_type,
            digest: image.target.digest,
            size: image.target.size,
            annotations: image.target.annotations,
        }),
        created_at: Some(timestamp(image.created)),
        updated_at: Some(timestamp(image.updated)),
    }
}

fn from_wire(wire: Descriptor) -> schema::Descriptor {
    schema::Descriptor {
        media_type: wire.media_type,
        digest: wire.digest,
        size: wire.size,
        annotations: wire.annotations,
    }
}

#[async_trait]
impl Images for Api {
    async fn get(
        &self,
        request: Request<GetImageRequest>,
    ) -> Result<Response<GetImageResponse>, Status> {
        let namespace = namespace(&request)?;
        let named = self.0.images.get(&namespace, &request.get_ref().name)?;
        let image = Some(to_wire(named));
        Ok(Response::new(GetImageResponse { image }))
    }

    async fn list(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let namespace = namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let mut images = Vec::new();
        tokio::task::block_in_place(|| {
            let add = |named| images.push(to_wire(named));
            self.0.images.list(&namespace, &filters, add)
        })?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn create(
        &self,
        request: Request<CreateImageRequest>,
    ) -> Result<Response<CreateImageResponse>, Status> {
        let namespace = namespace(&request)?;
        let new = required(request.into_inner().image, "image")?;
        let target = from_wire(new.target.unwrap_or_default());
        let images = &self.0.images;
        let named = images.create(&namespace, &new.name, target, new.labels);
        let image = Some(to_wire(named.await?));
        Ok(Response::new(CreateImageResponse { image }))
    }

    async fn update(
        &self,
        request: Request<UpdateImageRequest>,
    ) -> Result<Response<UpdateImageResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let new = required(request.image, "image")?;
        let target = from_wire(new.target.unwrap_or_default());
        let paths = paths(request.update_mask);
        let images = &self.0.images;
        let named = images.update(&namespace, &new.name, target, new.labels, paths);
        let image = Some(to_wire(named.await?));
        Ok(Response::new(UpdateImageResponse { image }))
    }

    async fn delete(&self, request: Request<DeleteImageRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let target = request.target.map(from_wire);
        let images = &self.0.images;
        images.delete(&namespace, &request.name, target).await?;
        if request.sync {
            self.0.collect().await?;
        }
        Ok(Response::new(()))
    }
}
