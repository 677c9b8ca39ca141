//! Mounts that the daemon makes for clients: those that need more than one call of mount(2).
//!
//! A client hands over the mounts of a snapshot or an image. What the kernel can't do alone is done
//! here (`plan.rs` says what that is), and the client gets the rest to do itself.
//!
//! ```text
//! STATE/mounts/ID/N    where the Nth mount of an activation is, or a link to its loop device
//! ```
//!
//! A directory is there before its record and goes after it, so that what a crash leaves is a
//! directory without a record, which [`Mounts::clean_up`] unmounts. What a restart of the machine
//! leaves is a record without mounts, which [`Mounts::recover`] removes.

mod plan;
mod sys;
mod system;

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::store::database::{Database, Look, Write, now};
use crate::store::filter::{Fields, Filters, entry};
use crate::store::name::{Labels, tidy_labels};
use crate::store::schema::{Activation, ActiveMount, MOUNTS, Mount};
use crate::store::{leases, namespaces};

/// What a lease's resource is called that keeps an activation.
pub(crate) const RESOURCE: &str = "mounts";

/// An activation with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// The rest.
    pub activation: Activation,
}

impl Fields for Named {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name"] => Some(self.name.clone()),
            ["labels", key @ ..] => entry(&self.activation.labels, key),
            _ => None,
        }
    }
}

/// The mounts of one manager.
#[derive(Debug, Clone)]
pub struct Mounts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Arc<Database>,
    dir: PathBuf,
    /// Directories that somebody works in: everybody else leaves these alone.
    busy: Mutex<HashSet<u64>>,
}

impl Mounts {
    /// Mounts below `dir`, which is made where it is not there.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn open(dir: &Path, database: Arc<Database>) -> Result<Self> {
        make_dir(dir)?;
        Ok(Self(Arc::new(Inner {
            database,
            dir: dir.to_owned(),
            busy: Mutex::default(),
        })))
    }

    /// Makes what of `mounts` the caller can't; all of them where it is `temporary`.
    ///
    /// # Errors
    /// `Unimplemented` where the caller can do all of it; `AlreadyExists`; `InvalidArgument` for
    /// mounts that make no sense; what the kernel says.
    pub async fn activate(
        &self,
        namespace: &str,
        name: &str,
        mounts: Vec<Mount>,
        temporary: bool,
        mut labels: Labels,
        lease: Option<&str>,
    ) -> Result<Named> {
        if name.is_empty() {
            return Err(Error::invalid("the name of a mount is empty"));
        }
        tidy_labels(&mut labels)?;
        let made_here = plan::made_here(&mounts, temporary)?;
        let database = &self.0.database;
        database.read(|read| absent(read, namespace, name))?;
        let id = database.next_id();
        let claim = Claim::of(&self.0, id);
        let inner = Arc::clone(&self.0);
        let made = tokio::task::spawn_blocking(move || {
            let made = inner.make(id, mounts, made_here, temporary);
            if made.is_err() {
                let _ = inner.unmake(id);
            }
            made
        });
        let (active, system) = made.await.map_err(|_| panicked())??;
        let activation = Activation {
            id,
            active,
            system,
            labels,
            created: now(),
        };
        let named = Named {
            name: name.to_owned(),
            activation,
        };
        let (space, new) = (namespace.to_owned(), named.clone());
        let lease = lease.map(str::to_owned);
        let job = move |write: &Write| {
            absent(write, &space, &new.name)?;
            namespaces::ensure(write, &space)?;
            write.put(MOUNTS, (&*space, &*new.name), &new.activation)?;
            leases::keep(write, &space, lease.as_deref(), RESOURCE, &new.name)
        };
        let stored = database.write_soon(job).await;
        if let Err(error) = stored {
            let _ = self.unmake(id).await;
            return Err(error);
        }
        drop(claim);
        Ok(named)
    }

    /// Unmounts what was made for a client.
    ///
    /// # Errors
    /// `NotFound`; what the kernel says, and then the cleaner goes on trying.
    pub async fn deactivate(&self, namespace: &str, name: &str) -> Result<()> {
        let id = self.info(namespace, name)?.activation.id;
        let Some(_claim) = Claim::of(&self.0, id) else {
            // Another client has asked for the same.
            return Err(not_here(name));
        };
        let (space, name) = (namespace.to_owned(), name.to_owned());
        let job = move |write: &Write| {
            if get(write, &space, &name)?.activation.id != id {
                return Err(not_here(&name));
            }
            remove(write, &space, &name)
        };
        self.0.database.write_soon(job).await?;
        self.unmake(id).await
    }

    /// One activation.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn info(&self, namespace: &str, name: &str) -> Result<Named> {
        self.0.database.read(|read| get(read, namespace, name))
    }

    /// The activations that filters take.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn list(&self, namespace: &str, filters: &Filters) -> Result<Vec<Named>> {
        let mut found = Vec::new();
        self.0.database.read(|read| {
            read.of_namespace(MOUNTS, namespace, |name, activation: Activation| {
                let name = name.to_owned();
                let named = Named { name, activation };
                if filters.take(&named) {
                    found.push(named);
                }
                Ok(true)
            })
        })?;
        Ok(found)
    }

    /// Removes the records whose mounts have gone, as they do when the machine restarts.
    ///
    /// # Errors
    /// Where the disk fails.
    pub async fn recover(&self) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let look = move || {
            let mounted = system::mount_points()?;
            inner.database.read(|read| {
                let mut lost = Vec::new();
                read.rows(MOUNTS, ("", ""), |(space, name), bytes| {
                    let row: Activation =
                        crate::store::schema::decode(bytes, || format!("mount {name}"))?;
                    let there = |mount: &ActiveMount| match mount.device.is_empty() {
                        true => mounted.contains(Path::new(&mount.point)),
                        false => fs::symlink_metadata(&mount.point).is_ok(),
                    };
                    if !row.active.iter().all(there) {
                        lost.push((space.to_owned(), name.to_owned()));
                    }
                    Ok(true)
                })?;
                Ok(lost)
            })
        };
        let lost = tokio::task::spawn_blocking(look).await;
        let lost = lost.map_err(|_| panicked())??;
        if lost.is_empty() {
            return Ok(());
        }
        let job = move |write: &Write| {
            for (space, name) in &lost {
                remove(write, space, name)?;
            }
            Ok(())
        };
        self.0.database.write_soon(job).await
    }

    /// Unmounts what no record names: what a crash, or a deactivation that did not end, has left.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn clean_up(&self) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            // The directories first: one that gets its record in between is known below.
            let ids = inner.ids()?;
            if ids.is_empty() {
                return Ok(());
            }
            let mut known = inner.busy().clone();
            inner.database.read(|read| {
                read.rows(MOUNTS, ("", ""), |(_, name), bytes| {
                    let row: Activation =
                        crate::store::schema::decode(bytes, || format!("mount {name}"))?;
                    known.insert(row.id);
                    Ok(true)
                })
            })?;
            let left = ids.into_iter().filter(|id| !known.contains(id));
            let unmade = left.map(|id| match Claim::of(&inner, id) {
                Some(_claim) => inner.unmake(id),
                None => Ok(()),
            });
            unmade.fold(Ok(()), Result::and)
        });
        done.await.map_err(|_| panicked())?
    }

    async fn unmake(&self, id: u64) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || inner.unmake(id));
        done.await.map_err(|_| panicked())?
    }
}

impl Inner {
    fn busy(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the first `made_here` of `mounts`. These, and what is left for the caller.
    fn make(
        &self,
        id: u64,
        mounts: Vec<Mount>,
        made_here: usize,
        temporary: bool,
    ) -> Result<(Vec<ActiveMount>, Vec<Mount>)> {
        let dir = self.dir.join(id.to_string());
        make_dir(&dir)?;
        let mut active = Vec::new();
        let mut system = Vec::new();
        for (number, mount) in mounts.into_iter().enumerate() {
            let mount = plan::transform(mount, &active)?;
            if number < made_here {
                let point = dir.join(number.to_string());
                active.push(system::make(mount, &point)?);
            } else {
                system.push(mount);
            }
        }
        if let (true, Some(last)) = (temporary, active.last()) {
            system.push(Mount {
                kind: "bind".to_owned(),
                source: last.point.clone(),
                target: String::new(),
                options: vec!["rbind".to_owned()],
            });
        }
        Ok((active, system))
    }

    /// Unmounts all that is mounted below a directory, and removes that. What is mounted is never
    /// gone into.
    fn unmake(&self, id: u64) -> Result<()> {
        let dir = self.dir.join(id.to_string());
        let Some(mut points) = numbers(&dir)? else {
            return Ok(());
        };
        points.sort_unstable();
        for number in points.iter().rev() {
            system::unmake(&dir.join(number.to_string()))?;
        }
        fs::remove_dir(&dir).map_err(|error| Error::io(dir.display(), &error))
    }

    fn ids(&self) -> Result<Vec<u64>> {
        Ok(numbers(&self.dir)?.unwrap_or_default())
    }
}

/// The entries of a directory whose names are numbers; `None` where there is no directory.
fn numbers(dir: &Path) -> Result<Option<Vec<u64>>> {
    let broken = |error| Error::io(dir.display(), &error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(broken)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(Some(found))
}

fn make_dir(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|error| Error::io(dir.display(), &error))
}

/// Somebody works in a directory.
struct Claim(Arc<Inner>, u64);

impl Claim {
    fn of(inner: &Arc<Inner>, id: u64) -> Option<Self> {
        let first = inner.busy().insert(id);
        first.then(|| Self(Arc::clone(inner), id))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.busy().remove(&self.1);
    }
}

fn panicked() -> Error {
    Error::internal("work on a mount panicked")
}

fn not_here(name: &str) -> Error {
    Error::not_found(format!("mount {name:?}"))
}

fn get(look: &impl Look, namespace: &str, name: &str) -> Result<Named> {
    let activation = look.get(MOUNTS, (namespace, name))?;
    let activation = activation.ok_or_else(|| not_here(name))?;
    let name = name.to_owned();
    Ok(Named { name, activation })
}

fn absent(look: &impl Look, namespace: &str, name: &str) -> Result<()> {
    match look.get::<_, Activation>(MOUNTS, (namespace, name))? {
        Some(_) => Err(Error::exists(format!("mount {name:?}"))),
        None => Ok(()),
    }
}

/// Removes a record; what is mounted goes with the next [`Mounts::clean_up`]. Whether it was there.
pub(crate) fn remove(write: &Write, namespace: &str, name: &str) -> Result<bool> {
    write.leaves_untidy();
    write.remove(MOUNTS, (namespace, name))
}
