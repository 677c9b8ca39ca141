//! Images: names for what the content store has.

use std::sync::Arc;

use knarr_proto::services::images::v1 as told;

use super::database::{Database, Look, Write, now};
use super::digest::Digest;
use super::filter::{Fields, Filters, entry};
use super::name::{Labels, tidy_labels};
use super::schema::{Descriptor, IMAGES, Image};
use super::{events, mask, namespaces};
use crate::error::{Error, Result};

/// An image with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// The rest.
    pub image: Image,
}

impl Fields for Named {
    fn field(&self, path: &[&str]) -> Option<String> {
        let target = &self.image.target;
        match path {
            ["name"] => Some(self.name.clone()),
            ["target", "digest"] => Some(target.digest.clone()),
            ["target", "mediatype"] => Some(target.media_type.clone()),
            ["labels", key @ ..] => entry(&self.image.labels, key),
            ["annotations", key @ ..] => entry(&target.annotations, key),
            _ => None,
        }
    }
}

/// The images of one manager.
#[derive(Debug, Clone)]
pub struct Images(Arc<Database>);

impl Images {
    /// The images in a database.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    /// One image.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, namespace: &str, name: &str) -> Result<Named> {
        self.0.read(|read| get(read, namespace, name))
    }

    /// The images that filters take, each given to `row`.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn list(
        &self,
        namespace: &str,
        filters: &Filters,
        mut row: impl FnMut(Named),
    ) -> Result<()> {
        self.0.read(|read| {
            read.of_namespace(IMAGES, namespace, |name, image: Image| {
                let name = name.to_owned();
                let named = Named { name, image };
                if filters.take(&named) {
                    row(named);
                }
                Ok(true)
            })
        })
    }

    /// Makes an image. The content need not be there.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for what an image can't be.
    pub async fn create(
        &self,
        namespace: &str,
        name: &str,
        target: Descriptor,
        labels: Labels,
    ) -> Result<Named> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let job = move |write: &Write| {
            let key = (&*namespace, &*name);
            if write.get::<_, Image>(IMAGES, key)?.is_some() {
                return Err(Error::exists(format!("image {name:?}")));
            }
            namespaces::ensure(write, &namespace)?;
            let time = now();
            let mut image = Image {
                target: target.clone(),
                labels: labels.clone(),
                created: time,
                updated: time,
            };
            check(&name, &mut image)?;
            write.put(IMAGES, key, &image)?;
            let event = told::ImageCreate {
                name: name.clone(),
                labels: image.labels.clone(),
            };
            events::tell(write, &namespace, "/images/create", &event);
            let name = name.clone();
            Ok(Named { name, image })
        };
        self.0.write(job).await
    }

    /// Changes an image: the fields that `paths` name, or all.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a path that can't be changed, and what an image can't be.
    pub async fn update(
        &self,
        namespace: &str,
        name: &str,
        target: Descriptor,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<Named> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let job = move |write: &Write| {
            let mut named = get(write, &namespace, &name)?;
            let image = &mut named.image;
            for path in &paths {
                let annotations = &mut image.target.annotations;
                if mask::apply(path, "labels", &mut image.labels, &labels)
                    || mask::apply(path, "annotations", annotations, &target.annotations)
                {
                    continue;
                }
                if path != "target" {
                    return Err(Error::invalid(format!(
                        "cannot update {path:?} field on image {name:?}"
                    )));
                }
                image.target = target.clone();
            }
            if paths.is_empty() {
                image.target = target.clone();
                image.labels = labels.clone();
            }
            image.updated = now();
            check(&name, image)?;
            write.put(IMAGES, (&*namespace, &*name), image)?;
            let event = told::ImageUpdate {
                name: name.clone(),
                labels: image.labels.clone(),
            };
            events::tell(write, &namespace, "/images/update", &event);
            Ok(named)
        };
        self.0.write(job).await
    }

    /// Removes an image, if `target` is given only while it stands for that.
    ///
    /// # Errors
    /// `NotFound`, also where it stands for something else.
    pub async fn delete(
        &self,
        namespace: &str,
        name: &str,
        target: Option<Descriptor>,
    ) -> Result<()> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let job = move |write: &Write| {
            let named = get(write, &namespace, &name)?;
            if let Some(target) = &target
                && target.digest != named.image.target.digest
            {
                return Err(Error::not_found(format!(
                    "image {name:?} has a target digest of {}, not {}",
                    named.image.target.digest, target.digest
                )));
            }
            remove(write, &namespace, &name).map(|_| ())
        };
        self.0.write(job).await
    }
}

/// Removes an image. Whether it was there.
pub(super) fn remove(write: &Write, namespace: &str, name: &str) -> Result<bool> {
    let removed = write.remove(IMAGES, (namespace, name))?;
    if removed {
        write.leaves_untidy();
        let event = told::ImageDelete {
            name: name.to_owned(),
        };
        events::tell(write, namespace, "/images/delete", &event);
    }
    Ok(removed)
}

fn get(look: &impl Look, namespace: &str, name: &str) -> Result<Named> {
    let image = look.get(IMAGES, (namespace, name))?;
    let image = image.ok_or_else(|| Error::not_found(format!("image {name:?}")))?;
    let name = name.to_owned();
    Ok(Named { name, image })
}

fn check(name: &str, image: &mut Image) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("image name must not be empty"));
    }
    tidy_labels(&mut image.labels)?;
    let target = &image.target;
    target.digest.parse::<Digest>().map_err(|error| {
        let text = error
            .message()
            .rsplit_once(": ")
            .map_or("", |(_, reason)| reason);
        Error::invalid(format!("target.Digest {:?} invalid: {text}", target.digest))
    })?;
    if target.size < 1 {
        return Err(Error::invalid(format!(
            "image {name:?}: the target's size is {}, and an empty blob is no image",
            target.size
        )));
    }
    if target.media_type.is_empty() {
        return Err(Error::invalid(format!(
            "image {name:?}: the target has no media type"
        )));
    }
    Ok(())
}
