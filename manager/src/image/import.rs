//! An archive of images into the stores.

use std::io::Read;

use super::model::{Config, Descriptor, media};
use super::name::Destination;
use super::progress::Progress;
use super::unpack::{self, Stored, Targets};
use super::walk::{self, Choice};
use super::{Context, archive};
use crate::error::{Error, Result};

/// Takes all images of an archive. `compress`: layers of Docker's archives that are not compressed
/// become so.
///
/// # Errors
/// `InvalidArgument` for what is no archive of images, or refers to what it does not have.
pub async fn import(
    context: &Context,
    input: impl Read + Send + 'static,
    compress: bool,
    to: &Destination,
) -> Result<()> {
    context.progress.tell(Progress::step("Importing"));
    let receiver = context.clone();
    let received =
        tokio::task::spawn_blocking(move || archive::receive(&receiver, input, compress));
    let index = received
        .await
        .map_err(|_| Error::internal("reading an archive panicked"))??;
    let (content, namespace) = (&context.manager.content, &context.namespace);
    let images = walk::children(content, namespace, &index)?;
    let targets = Targets::new(context, &to.unpacks)?;
    let found = walk::walk(content, namespace, vec![index.clone()], &Choice::of(to)).await?;
    if found.all.len() == 1 {
        return Err(Error::not_found("image might be filtered out"));
    }
    for (_, parts) in &found.manifests {
        unpack_parts(context, &targets, parts).await?;
    }
    context.save_all(&to.names(&index), &index, to).await?;
    for image in &images {
        let names = to.names_of_archived(image);
        let image = Descriptor {
            platform: None,
            ..image.clone()
        };
        context.save_all(&names, &image, to).await?;
    }
    context.progress.tell(Progress::step("Completed import"));
    Ok(())
}

/// Unpacks an image for those who want its platform.
async fn unpack_parts(context: &Context, targets: &Targets, parts: &[Descriptor]) -> Result<()> {
    let layers = parts
        .iter()
        .filter(|part| media::is_layer(&part.media_type));
    let layers: Vec<_> = layers.cloned().collect();
    let config = parts.iter().find(|part| media::is_config(&part.media_type));
    let (Some(config), false) = (config, layers.is_empty() || targets.is_empty()) else {
        return Ok(());
    };
    let bytes = walk::read(&context.manager.content, &context.namespace, config)?;
    let parsed = Config::parse(config, &bytes)?;
    for snapshots in targets.of(&parsed.platform) {
        let steps = unpack::steps(&parsed, &layers)?;
        let source = Stored(context);
        unpack::unpack(context, snapshots, config, &steps, &source, None).await?;
    }
    Ok(())
}
