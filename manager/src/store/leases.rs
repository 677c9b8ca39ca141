//! Leases: what a client keeps from the collector while it works.

use std::sync::Arc;

use super::database::{Database, Look, Write, now};
use super::digest::Digest;
use super::filter::{Fields, Filters, entry};
use super::name::{Labels, tidy_labels};
use super::namespaces;
use super::schema::{LEASE_RESOURCES, LEASES, Lease};
use crate::error::{Code, Error, Result};

/// A lease with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name.
    pub id: String,
    /// The rest.
    pub lease: Lease,
}

impl Fields for Named {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.clone()),
            ["labels", key @ ..] => entry(&self.lease.labels, key),
            _ => None,
        }
    }
}

/// Something a lease keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `content`, `ingests`, `snapshots/` and the snapshotter's name, or `images`.
    pub kind: String,
    /// Its digest, reference, key or name.
    pub id: String,
}

/// The leases of one manager.
#[derive(Debug, Clone)]
pub struct Leases(Arc<Database>);

impl Leases {
    /// The leases in a database.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    /// Makes a lease.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for an empty name or labels that are too long.
    pub async fn create(&self, namespace: &str, id: &str, mut labels: Labels) -> Result<Named> {
        if id.is_empty() {
            return Err(Error::invalid("the id of a lease is empty"));
        }
        tidy_labels(&mut labels)?;
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| {
            if write
                .get::<_, Lease>(LEASES, (&*namespace, &*id))?
                .is_some()
            {
                return Err(Error::exists(format!("lease {id:?}")));
            }
            namespaces::ensure(write, &namespace)?;
            let lease = Lease {
                labels: labels.clone(),
                created: now(),
            };
            write.put(LEASES, (&*namespace, &*id), &lease)?;
            let id = id.clone();
            Ok(Named { id, lease })
        };
        self.0.write_soon(job).await
    }

    /// Ends a lease; what it kept may be collected.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, namespace: &str, id: &str) -> Result<()> {
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| match remove(write, &namespace, &id)? {
            true => Ok(()),
            false => Err(not_here(&id)),
        };
        self.0.write_soon(job).await
    }

    /// The leases that filters take.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn list(&self, namespace: &str, filters: &Filters) -> Result<Vec<Named>> {
        let mut found = Vec::new();
        self.0.read(|read| {
            read.of_namespace(LEASES, namespace, |id, lease: Lease| {
                let id = id.to_owned();
                let named = Named { id, lease };
                if filters.take(&named) {
                    found.push(named);
                }
                Ok(true)
            })
        })?;
        Ok(found)
    }

    /// Lets a lease keep something more. It need not be there yet.
    ///
    /// # Errors
    /// `NotFound` without the lease; `Unimplemented` for a kind that nobody knows; `InvalidArgument` for what is
    /// no digest of content.
    pub async fn add(&self, namespace: &str, id: &str, resource: Resource) -> Result<()> {
        check_kind(&resource)?;
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job =
            move |write: &Write| keep(write, &namespace, Some(&id), &resource.kind, &resource.id);
        // A client may note, and have on the disk, that this is kept for it.
        self.0.write(job).await
    }

    /// Lets a lease keep something no longer. It need not have kept it.
    ///
    /// # Errors
    /// `NotFound` without the lease; `Unimplemented` for a kind that nobody knows; `InvalidArgument` for what is
    /// no digest of content.
    pub async fn remove(&self, namespace: &str, id: &str, resource: Resource) -> Result<()> {
        check_kind(&resource)?;
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        let job = move |write: &Write| {
            exists(write, &namespace, &id)?;
            release(write, &namespace, Some(&id), &resource.kind, &resource.id)
        };
        self.0.write_soon(job).await
    }

    /// What a lease keeps.
    ///
    /// # Errors
    /// `NotFound` without the lease.
    pub fn resources(&self, namespace: &str, id: &str) -> Result<Vec<Resource>> {
        self.0.read(|read| {
            exists(read, namespace, id)?;
            let mut found = resources(read, namespace, id)?;
            // Clients can neither add nor remove others.
            found.retain(|resource| check_kind(resource).is_ok());
            Ok(found)
        })
    }
}

fn not_here(id: &str) -> Error {
    Error::not_found(format!("lease {id:?}"))
}

fn exists(look: &impl Look, namespace: &str, id: &str) -> Result<()> {
    let lease: Option<Lease> = look.get(LEASES, (namespace, id))?;
    lease.map(|_| ()).ok_or_else(|| not_here(id))
}

/// Removes a lease with all that it keeps. Whether it was there.
pub(super) fn remove(write: &Write, namespace: &str, id: &str) -> Result<bool> {
    for Resource { kind, id: what } in resources(write, namespace, id)? {
        write.remove(LEASE_RESOURCES, (namespace, id, &*kind, &*what))?;
    }
    write.leaves_untidy();
    write.remove(LEASES, (namespace, id))
}

/// Removes the leases of a namespace.
pub(super) fn remove_all(write: &Write, namespace: &str) -> Result<()> {
    let mut ids = Vec::new();
    write.of_namespace(LEASES, namespace, |id, _: Lease| {
        ids.push(id.to_owned());
        Ok(true)
    })?;
    for id in ids {
        remove(write, namespace, &id)?;
    }
    Ok(())
}

fn check_kind(resource: &Resource) -> Result<()> {
    match resource.kind.as_str() {
        "content" => {
            let digest = resource.id.parse::<Digest>().map(|_| ());
            digest.map_err(|error| {
                error.context(format!("invalid content resource id {}", resource.id))
            })
        }
        "ingests" | "images" => Ok(()),
        kind if kind
            .strip_prefix("snapshots/")
            .is_some_and(|name| !name.is_empty()) =>
        {
            Ok(())
        }
        kind => Err(Error::new(
            Code::Unimplemented,
            format!("resource type {kind} not supported yet"),
        )),
    }
}

fn resources(look: &impl Look, namespace: &str, id: &str) -> Result<Vec<Resource>> {
    let mut found = Vec::new();
    look.rows(
        LEASE_RESOURCES,
        (namespace, id, "", ""),
        |(space, lease, kind, what), ()| {
            if (space, lease) != (namespace, id) {
                return Ok(false);
            }
            found.push(Resource {
                kind: kind.to_owned(),
                id: what.to_owned(),
            });
            Ok(true)
        },
    )?;
    Ok(found)
}

/// Lets the lease that a request came with, if any, keep something.
///
/// # Errors
/// `NotFound` without the lease.
pub(crate) fn keep(
    write: &Write,
    namespace: &str,
    lease: Option<&str>,
    kind: &str,
    id: &str,
) -> Result<()> {
    let Some(lease) = lease else { return Ok(()) };
    exists(write, namespace, lease)?;
    write.mark(LEASE_RESOURCES, (namespace, lease, kind, id))?;
    Ok(())
}

/// The reverse of [`keep`]; without complaint where the lease has gone.
pub(crate) fn release(
    write: &Write,
    namespace: &str,
    lease: Option<&str>,
    kind: &str,
    id: &str,
) -> Result<()> {
    if let Some(lease) = lease {
        write.remove(LEASE_RESOURCES, (namespace, lease, kind, id))?;
    }
    Ok(())
}
