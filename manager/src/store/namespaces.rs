//! Namespaces: each client's own set of objects.

use std::sync::Arc;

use knarr_proto::events as told;
use redb::TableDefinition;

use super::database::{Database, Look, Write};
use super::events;
use super::leases;
use super::name::{self, Labels, tidy_labels};
use super::schema::{
    BLOBS, Bytes, CONTAINERS, IMAGES, NAMESPACES, Namespace, SANDBOXES, SNAPSHOTS,
};
use crate::error::{Error, Result};

/// The namespaces of one manager.
#[derive(Debug, Clone)]
pub struct Namespaces(Arc<Database>);

impl Namespaces {
    /// The namespaces in a database.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    /// The labels of a namespace: none where it is not there, since one comes to be as soon as something is in it.
    /// Old clients ask before they have made anything.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn get(&self, name: &str) -> Result<Labels> {
        let row: Option<Namespace> = self.0.read(|read| read.get(NAMESPACES, name))?;
        Ok(row.unwrap_or_default().labels)
    }

    /// All namespaces with their labels.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn list(&self) -> Result<Vec<(String, Labels)>> {
        let mut found = Vec::new();
        self.0.read(|read| {
            read.rows(NAMESPACES, "", |name, bytes| {
                let row: Namespace = super::schema::decode(bytes, || format!("namespace {name}"))?;
                found.push((name.to_owned(), row.labels));
                Ok(true)
            })
        })?;
        Ok(found)
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is none; `AlreadyExists`.
    pub async fn create(&self, name: &str, mut labels: Labels) -> Result<()> {
        name::check(name)?;
        tidy_labels(&mut labels)?;
        let name = name.to_owned();
        let job = move |write: &Write| {
            if write.get::<_, Namespace>(NAMESPACES, &name)?.is_some() {
                return Err(Error::exists(format!("namespace {name:?}")));
            }
            let labels = labels.clone();
            let row = Namespace { labels };
            write.put(NAMESPACES, &name, &row)?;
            let event = told::NamespaceCreate {
                name: name.clone(),
                labels: row.labels,
            };
            events::tell(write, &name, "/namespaces/create", &event);
            Ok(())
        };
        self.0.write(job).await
    }

    /// Changes the labels of a namespace, which is made where it is not there: `change` gets those
    /// it has.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is none; those of `change`; `InvalidArgument` for labels that are too long.
    pub async fn relabel(
        &self,
        name: &str,
        mut change: impl FnMut(&mut Labels) -> Result<()> + Send + 'static,
    ) -> Result<Labels> {
        let name = name.to_owned();
        let job = move |write: &Write| {
            ensure(write, &name)?;
            let mut labels = labels(write, &name)?;
            change(&mut labels)?;
            tidy_labels(&mut labels)?;
            let row = Namespace { labels };
            write.put(NAMESPACES, &name, &row)?;
            let event = told::NamespaceUpdate {
                name: name.clone(),
                labels: row.labels.clone(),
            };
            events::tell(write, &name, "/namespaces/update", &event);
            Ok(row.labels)
        };
        self.0.write(job).await
    }

    /// Removes a namespace that has nothing left in it but leases, which go with it.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` with what is still there.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        let job = move |write: &Write| {
            labels(write, &name)?;
            let mut left = Vec::new();
            let kinds = [
                ("images", IMAGES),
                ("blobs", BLOBS),
                ("containers", CONTAINERS),
                ("sandboxes", SANDBOXES),
            ];
            for (kind, table) in kinds {
                if any(write, table, &name)? {
                    left.push(kind.to_owned());
                }
            }
            write.rows(SNAPSHOTS, (&*name, "", ""), |(space, snapshotter, _), _| {
                if space == name {
                    left.push(format!("snapshots on {snapshotter:?} snapshotter"));
                }
                Ok(false)
            })?;
            if !left.is_empty() {
                return Err(Error::precondition(format!(
                    "namespace {name:?} must be empty, but it still has {}",
                    left.join(", ")
                )));
            }
            leases::remove_all(write, &name)?;
            write.remove(NAMESPACES, &name)?;
            let event = told::NamespaceDelete { name: name.clone() };
            events::tell(write, &name, "/namespaces/delete", &event);
            Ok(())
        };
        self.0.write(job).await
    }
}

fn labels(look: &impl Look, name: &str) -> Result<Labels> {
    let row: Option<Namespace> = look.get(NAMESPACES, name)?;
    let row = row.ok_or_else(|| Error::not_found(format!("namespace {name:?}")))?;
    Ok(row.labels)
}

/// Whether a table has a row of the namespace.
fn any(
    look: &impl Look,
    table: TableDefinition<'_, (&'static str, &'static str), Bytes>,
    namespace: &str,
) -> Result<bool> {
    let mut found = false;
    look.rows(table, (namespace, ""), |(space, _), _| {
        found = space == namespace;
        Ok(false)
    })?;
    Ok(found)
}

/// Makes a namespace that a client uses without having made it.
pub(crate) fn ensure(write: &Write, name: &str) -> Result<()> {
    if write.get::<_, Namespace>(NAMESPACES, name)?.is_none() {
        name::check(name)?;
        write.put(NAMESPACES, name, &Namespace::default())?;
    }
    Ok(())
}
