//! Containers: what is needed to make a task.

use std::sync::Arc;

use knarr_proto::events as told;

use super::database::{Database, Look, Write, now};
use super::filter::{Fields, Filters, entry};
use super::name::{self, tidy_labels};
use super::schema::{CONTAINERS, Container};
use super::{events, mask, namespaces};
use crate::error::{Error, Result};

/// A container with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name.
    pub id: String,
    /// The rest.
    pub container: Container,
}

impl Fields for Named {
    fn field(&self, path: &[&str]) -> Option<String> {
        let container = &self.container;
        match path {
            ["id"] => Some(self.id.clone()),
            ["image"] => Some(container.image.clone()),
            ["runtime", "name"] => Some(container.runtime.clone()),
            ["sandboxid" | "sandbox_id"] => Some(container.sandbox.clone()),
            ["labels", key @ ..] => entry(&container.labels, key),
            _ => None,
        }
    }
}

/// The containers of one manager.
#[derive(Debug, Clone)]
pub struct Containers(Arc<Database>);

impl Containers {
    /// The containers in a database.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    /// One container.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, namespace: &str, id: &str) -> Result<Named> {
        self.0.read(|read| get(read, namespace, id))
    }

    /// The containers that filters take, each given to `row`.
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
            read.of_namespace(CONTAINERS, namespace, |id, container: Container| {
                let id = id.to_owned();
                let named = Named { id, container };
                if filters.take(&named) {
                    row(named);
                }
                Ok(true)
            })
        })
    }

    /// Makes a container.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for what a container can't be.
    pub async fn create(
        &self,
        namespace: &str,
        id: &str,
        mut container: Container,
    ) -> Result<Named> {
        name::check(id)
            .map_err(|error| error.context("create container failed validation: container.ID"))?;
        check(id, &mut container)?;
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| {
            let key = (&*namespace, &*id);
            if write.get::<_, Container>(CONTAINERS, key)?.is_some() {
                return Err(Error::exists(format!("container {id:?}")));
            }
            namespaces::ensure(write, &namespace)?;
            let time = now();
            let container = Container {
                created: time,
                updated: time,
                ..container.clone()
            };
            write.put(CONTAINERS, key, &container)?;
            let options = container.runtime_options.clone().map(Into::into);
            let event = told::ContainerCreate {
                id: id.clone(),
                image: container.image.clone(),
                runtime: Some(told::container_create::Runtime {
                    name: container.runtime.clone(),
                    options,
                }),
            };
            events::tell(write, &namespace, "/containers/create", &event);
            let id = id.clone();
            Ok(Named { id, container })
        };
        self.0.write_soon(job).await
    }

    /// Changes a container: the fields that `paths` name, or all that can be changed.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a path or a change that is not possible.
    pub async fn update(
        &self,
        namespace: &str,
        id: &str,
        new: Container,
        paths: Vec<String>,
    ) -> Result<Named> {
        const ALL: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| {
            let mut named = get(write, &namespace, &id)?;
            let old = &mut named.container;
            let paths: Vec<&str> = match paths.is_empty() {
                true => {
                    for (field, kept, asked) in [
                        ("Snapshotter", &old.snapshotter, &new.snapshotter),
                        ("Runtime.Name", &old.runtime, &new.runtime),
                    ] {
                        if kept != asked {
                            return Err(Error::invalid(format!(
                                "container.{field} field is immutable"
                            )));
                        }
                    }
                    ALL.to_vec()
                }
                false => paths.iter().map(String::as_str).collect(),
            };
            for path in paths {
                if mask::apply(path, "labels", &mut old.labels, &new.labels)
                    || mask::apply(path, "extensions", &mut old.extensions, &new.extensions)
                {
                    continue;
                }
                match path {
                    "spec" => old.spec.clone_from(&new.spec),
                    "image" => old.image.clone_from(&new.image),
                    "snapshotkey" => old.snapshot_key.clone_from(&new.snapshot_key),
                    path => {
                        return Err(Error::invalid(format!(
                            "cannot update {path:?} field on container {id:?}"
                        )));
                    }
                }
            }
            old.updated = now();
            check(&id, old)?;
            write.put(CONTAINERS, (&*namespace, &*id), old)?;
            let event = told::ContainerUpdate {
                id: id.clone(),
                image: old.image.clone(),
                labels: old.labels.clone(),
                snapshot_key: old.snapshot_key.clone(),
            };
            events::tell(write, &namespace, "/containers/update", &event);
            Ok(named)
        };
        self.0.write_soon(job).await
    }

    /// Removes a container.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, namespace: &str, id: &str) -> Result<()> {
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| {
            if !write.remove(CONTAINERS, (&*namespace, &*id))? {
                return Err(not_here(&namespace, &id));
            }
            write.leaves_untidy();
            let event = told::ContainerDelete { id: id.clone() };
            events::tell(write, &namespace, "/containers/delete", &event);
            Ok(())
        };
        self.0.write_soon(job).await
    }
}

fn not_here(namespace: &str, id: &str) -> Error {
    Error::not_found(format!("container {id:?} in namespace {namespace:?}"))
}

fn get(look: &impl Look, namespace: &str, id: &str) -> Result<Named> {
    let container = look.get(CONTAINERS, (namespace, id))?;
    let container = container.ok_or_else(|| not_here(namespace, id))?;
    let id = id.to_owned();
    Ok(Named { id, container })
}

fn check(id: &str, container: &mut Container) -> Result<()> {
    tidy_labels(&mut container.labels).map_err(|error| error.context("containers.Labels"))?;
    if container.runtime.is_empty() {
        return Err(Error::invalid(format!(
            "container {id:?}: container.Runtime.Name must be set"
        )));
    }
    if container.spec.is_none() {
        return Err(Error::invalid(format!(
            "container {id:?}: container.Spec must be set"
        )));
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return Err(Error::invalid(format!(
            "container {id:?}: container.Snapshotter must be set if container.SnapshotKey is set"
        )));
    }
    Ok(())
}
