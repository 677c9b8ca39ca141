//! Snapshots whose records are in the database and whose directories a driver makes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knarr_proto::events as told;

use super::backend::{Backend, Known, Layer};
use super::{Driver, Mount, Proxy};
use crate::error::{Code, Error, Result};
use crate::store::database::{Database, Look, Write, now};
use crate::store::filter::{Fields, Filters, entry};
use crate::store::name::{Labels, tidy_labels};
use crate::store::schema::{
    CHILDREN, NAMESPACES, SNAPSHOTS, Snapshot, SnapshotKind, Usage, decode,
};
use crate::store::{events, leases, namespaces};

/// The label of a snapshot to be made that says how the client will call it once it is committed.
const TARGET: &str = "containerd.io/snapshot.ref";

/// How long after its record a directory goes.
const DISCARD: Duration = Duration::from_millis(50);

/// How often cleaning up at another program is tried again at once.
const TRIES: u32 = 3;

/// A snapshot with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its key.
    pub key: String,
    /// The rest.
    pub snapshot: Snapshot,
}

impl Fields for Named {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name"] => Some(self.key.clone()),
            ["parent"] => Some(self.snapshot.parent.clone()),
            ["kind"] => Some(
                match self.snapshot.kind() {
                    SnapshotKind::Unknown => "unknown",
                    SnapshotKind::View => "view",
                    SnapshotKind::Active => "active",
                    SnapshotKind::Committed => "committed",
                }
                .to_owned(),
            ),
            ["labels", key @ ..] => entry(&self.snapshot.labels, key),
            _ => None,
        }
    }
}

/// The snapshots of one driver.
#[derive(Debug, Clone)]
pub struct Local(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Arc<Database>,
    backend: Backend,
    /// Directories whose records are on their way, or leave: the cleaner leaves these alone.
    arriving: Mutex<HashSet<u64>>,
    /// How often cleaning up at another program was asked for since it was begun.
    tidying: AtomicUsize,
}

impl Local {
    /// The snapshots of `driver`.
    #[must_use]
    pub fn new(database: Arc<Database>, driver: Box<dyn Driver>) -> Self {
        Self::with(database, Backend::Here(Arc::from(driver)))
    }

    /// The snapshots that another program makes; the records of them are kept here all the same.
    #[must_use]
    pub fn far(database: Arc<Database>, proxy: Proxy) -> Self {
        Self::with(database, Backend::There(Box::new(proxy)))
    }

    fn with(database: Arc<Database>, backend: Backend) -> Self {
        Self(Arc::new(Inner {
            database,
            backend,
            arriving: Mutex::default(),
            tidying: AtomicUsize::default(),
        }))
    }

    /// The name that clients choose it by.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.backend.name()
    }

    /// What clients may ask of these snapshots beyond what all can do: `rebase`.
    #[must_use]
    pub fn capabilities(&self) -> Vec<String> {
        self.0.backend.capabilities()
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn stat(&self, namespace: &str, key: &str) -> Result<Named> {
        let database = &self.0.database;
        database.read(|read| get(read, namespace, self.name(), key))
    }

    /// The snapshots that filters take, each given to `row`.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn list(
        &self,
        namespace: &str,
        filters: &Filters,
        mut row: impl FnMut(Named),
    ) -> Result<()> {
        let name = self.name();
        self.0.database.read(|read| {
            read.rows(
                SNAPSHOTS,
                (namespace, name, ""),
                |(space, driver, key), bytes| {
                    if (space, driver) != (namespace, name) {
                        return Ok(false);
                    }
                    let snapshot = decode(bytes, || format!("snapshot {key}"))?;
                    let key = key.to_owned();
                    let named = Named { key, snapshot };
                    if filters.take(&named) {
                        row(named);
                    }
                    Ok(true)
                },
            )
        })
    }

    /// How a snapshot is mounted that can be written or looked at.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed one.
    pub async fn mounts(&self, namespace: &str, key: &str) -> Result<Vec<Mount>> {
        let name = self.name();
        let (snapshot, parents) = self.0.database.read(|read| {
            let Named { snapshot, .. } = get(read, namespace, name, key)?;
            let parents = chain(read, namespace, name, &snapshot.parent)?;
            Ok((snapshot, parents))
        })?;
        match snapshot.kind() {
            SnapshotKind::Active | SnapshotKind::View => {
                let mounts = self.0.backend.mounts(namespace, &snapshot, &parents);
                mounts.await
            }
            _ => Err(Error::precondition(format!("snapshot {key} is committed"))),
        }
    }

    /// What a snapshot takes on the disk beyond its parent.
    ///
    /// # Errors
    /// `NotFound`; where the disk fails.
    pub async fn usage(&self, namespace: &str, key: &str) -> Result<Usage> {
        let Named { snapshot, .. } = self.stat(namespace, key)?;
        match snapshot.usage {
            Some(usage) => Ok(usage),
            // Nobody writes to what is only looked at.
            None if snapshot.kind() == SnapshotKind::View => Ok(Usage::default()),
            None => self.0.backend.usage(namespace, &snapshot).await,
        }
    }

    /// Makes a snapshot to write to (`Active`) or to look at (`View`), upon `parent` unless that is
    /// empty. How it is mounted.
    ///
    /// # Errors
    /// `NotFound` without the parent or the lease; `FailedPrecondition` for a parent that is not
    /// committed; `AlreadyExists`.
    pub async fn prepare(
        &self,
        namespace: &str,
        key: &str,
        parent: &str,
        kind: SnapshotKind,
        mut labels: Labels,
        lease: Option<&str>,
    ) -> Result<Vec<Mount>> {
        if key.is_empty() {
            return Err(Error::invalid("the key of a snapshot is empty"));
        }
        tidy_labels(&mut labels)?;
        let name = self.name().to_owned();
        // Looked at before a directory is made, and again when its record is.
        let parents = self.0.database.read(|read| {
            absent(read, namespace, &name, key)?;
            chain(read, namespace, &name, parent).map_err(|error| match error.code() {
                Code::NotFound => {
                    Error::not_found(format!("parent snapshot {parent} does not exist"))
                }
                _ => error,
            })
        })?;
        let id = self.0.database.next_id();
        let arrival = Arrival::of(&self.0, id);
        let time = now();
        let mut snapshot = Snapshot {
            id,
            parent: parent.to_owned(),
            kind: kind.into(),
            labels,
            created: time,
            updated: time,
            ..Snapshot::default()
        };
        snapshot.remote = self.0.backend.remote(id, key);
        let made = self.0.backend.create(namespace, &snapshot, &parents).await;
        let mounts = match made {
            Ok(mounts) => mounts,
            Err(error) => {
                if error.code() == Code::AlreadyExists {
                    self.adopt(namespace, &snapshot, &parents, lease).await?;
                }
                return Err(error);
            }
        };
        let lease = lease.map(str::to_owned);
        let (space, key, parent) = (namespace.to_owned(), key.to_owned(), parent.to_owned());
        let new = snapshot.clone();
        let job = move |write: &Write| {
            absent(write, &space, &name, &key)?;
            if chain(write, &space, &name, &parent)? != parents {
                return Err(not_here(&parent));
            }
            namespaces::ensure(write, &space)?;
            put(write, &space, &name, &key, &new)?;
            let event = told::SnapshotPrepare {
                key: key.clone(),
                parent: parent.clone(),
                snapshotter: name.clone(),
            };
            events::tell(write, &space, "/snapshot/prepare", &event);
            leases::keep(write, &space, lease.as_deref(), &resource(&name), &key)
        };
        let stored = self.0.database.write_soon(job).await;
        if let Err(error) = stored {
            self.discard(namespace, snapshot, arrival);
            return Err(error);
        }
        Ok(mounts)
    }

    /// Keeps a record of a layer that a snapshotter elsewhere has already, under the name that the
    /// client will look for.
    async fn adopt(
        &self,
        namespace: &str,
        wanted: &Snapshot,
        parents: &[Layer],
        lease: Option<&str>,
    ) -> Result<()> {
        let Some(target) = wanted.labels.get(TARGET) else {
            return Ok(());
        };
        let parent = parents.first().map_or("", |parent| &*parent.remote);
        let found = self.0.backend.find(namespace, target, parent).await?;
        let Some(remote) = found else { return Ok(()) };
        let row = Snapshot {
            kind: SnapshotKind::Committed.into(),
            remote,
            ..wanted.clone()
        };
        let lease = lease.map(str::to_owned);
        let [name, space, target] = [self.name(), namespace, target].map(str::to_owned);
        let job = move |write: &Write| {
            if absent(write, &space, &name, &target).is_ok() {
                chain(write, &space, &name, &row.parent)?;
                namespaces::ensure(write, &space)?;
                put(write, &space, &name, &target, &row)?;
            }
            leases::keep(write, &space, lease.as_deref(), &resource(&name), &target)
        };
        self.0.database.write(job).await
    }

    /// Fixes a snapshot that was written to, under the name `name`; its key is free again.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` for the name; `FailedPrecondition` for one that is not active.
    pub async fn commit(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        labels: Labels,
        lease: Option<&str>,
    ) -> Result<()> {
        self.commit_upon(namespace, name, key, "", labels, lease)
            .await
    }

    /// The same, and where `parent` is not empty, what was prepared upon nothing gets that parent: so
    /// layers can be unpacked side by side.
    ///
    /// # Errors
    /// Those of [`Local::commit`]; `NotFound` without the parent; `FailedPrecondition` for a parent
    /// that is not committed, or is another than the one that the snapshot has; `Unimplemented`
    /// where the driver can't do it.
    pub async fn commit_upon(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        parent: &str,
        mut labels: Labels,
        lease: Option<&str>,
    ) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("the name of a snapshot is empty"));
        }
        tidy_labels(&mut labels)?;
        let driver = self.name().to_owned();
        let named = self.0.database.read(|read| {
            absent(read, namespace, &driver, name)?;
            get(read, namespace, &driver, key)
        });
        let Named { snapshot, .. } = named?;
        if snapshot.kind() != SnapshotKind::Active {
            return Err(Error::precondition(format!("snapshot {key} is not active")));
        }
        let id = snapshot.id;
        let below = self.0.database.read(|read| {
            match parent.is_empty() || !snapshot.parent.is_empty() {
                true => Ok(None),
                false => get(read, namespace, &driver, parent).map(|below| Some(below.snapshot)),
            }
        })?;
        let committed = self
            .0
            .backend
            .commit(namespace, &snapshot, below.as_ref(), name, &labels)
            .await?;
        let lease = lease.map(str::to_owned);
        let [space, name, key, parent] = [namespace, name, key, parent].map(str::to_owned);
        let job = move |write: &Write| {
            let Named { mut snapshot, .. } = get(write, &space, &driver, &key)?;
            if snapshot.kind() != SnapshotKind::Active || snapshot.id != id {
                return Err(Error::precondition(format!("snapshot {key} is not active")));
            }
            absent(write, &space, &driver, &name)?;
            remove(write, &space, &driver, &key, &snapshot.parent)?;
            if !parent.is_empty() && snapshot.parent != parent {
                if !snapshot.parent.is_empty() {
                    return Err(Error::precondition(format!(
                        "snapshot {key} was prepared upon {}, and not upon {parent}",
                        snapshot.parent
                    )));
                }
                chain(write, &space, &driver, &parent)?;
                snapshot.parent.clone_from(&parent);
            }
            snapshot.kind = SnapshotKind::Committed.into();
            snapshot.labels.clone_from(&labels);
            snapshot.usage = committed.usage;
            snapshot.remote.clone_from(&committed.remote);
            snapshot.updated = now();
            put(write, &space, &driver, &name, &snapshot)?;
            let event = told::SnapshotCommit {
                key: key.clone(),
                name: name.clone(),
                snapshotter: driver.clone(),
            };
            events::tell(write, &space, "/snapshot/commit", &event);
            leases::release(write, &space, lease.as_deref(), &resource(&driver), &key)?;
            leases::keep(write, &space, lease.as_deref(), &resource(&driver), &name)
        };
        self.0.database.write(job).await
    }

    /// Removes a snapshot upon which nothing is built. Its directory goes in the background.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it is a parent.
    pub async fn remove(&self, namespace: &str, key: &str) -> Result<()> {
        let driver = self.name().to_owned();
        let id = self.stat(namespace, key)?.snapshot.id;
        // The disk may have the record still: until then the directory stays.
        let leaving = Arrival::of(&self.0, id);
        let (space, key) = (namespace.to_owned(), key.to_owned());
        let job = move |write: &Write| {
            let Named { snapshot, .. } = get(write, &space, &driver, &key)?;
            if snapshot.id != id {
                return Err(not_here(&key));
            }
            if has_children(write, &space, &driver, &key)? {
                return Err(Error::precondition("cannot remove snapshot with child"));
            }
            Self::forget(write, &space, &driver, &key, &snapshot.parent)?;
            Ok(snapshot)
        };
        let snapshot = self.0.database.write_soon(job).await?;
        self.discard(namespace, snapshot, leaving);
        Ok(())
    }

    /// Changes the labels of a snapshot: `change` gets those it has.
    ///
    /// # Errors
    /// `NotFound`; those of `change`; `InvalidArgument` for labels that are too long.
    pub async fn relabel(
        &self,
        namespace: &str,
        key: &str,
        mut change: impl FnMut(&mut Labels) -> Result<()> + Send + 'static,
    ) -> Result<Named> {
        let driver = self.name().to_owned();
        let (space, key) = (namespace.to_owned(), key.to_owned());
        let job = move |write: &Write| {
            let mut named = get(write, &space, &driver, &key)?;
            change(&mut named.snapshot.labels)?;
            tidy_labels(&mut named.snapshot.labels)?;
            named.snapshot.updated = now();
            write.put(SNAPSHOTS, (&*space, &*driver, &*key), &named.snapshot)?;
            Ok(named)
        };
        self.0.database.write_soon(job).await
    }

    /// Removes what no record names: what a crash, or a removal that did not end, has left.
    ///
    /// # Errors
    /// Where the disk fails, or the program that makes these snapshots.
    pub async fn clean_up(&self) -> Result<()> {
        let this = self.clone();
        let known = move || {
            let mut known = Known {
                ids: this.0.arriving().clone(),
                ..Known::default()
            };
            this.0.database.read(|read| {
                read.rows(SNAPSHOTS, ("", "", ""), |(_, name, key), bytes| {
                    if name == this.name() {
                        let row: Snapshot = decode(bytes, || format!("snapshot {key}"))?;
                        known.ids.insert(row.id);
                        known.remotes.insert(row.remote);
                    }
                    Ok(true)
                })?;
                read.rows(NAMESPACES, "", |space, _| {
                    known.namespaces.insert(space.to_owned());
                    Ok(true)
                })
            })?;
            Ok(known)
        };
        self.0.backend.clean_up(known).await
    }

    /// The same for the collector, which does not wait for another program: that may hang.
    ///
    /// # Errors
    /// Where the disk fails.
    pub async fn tidy(&self) -> Result<()> {
        if let Backend::Here(_) = self.0.backend {
            return self.clean_up().await;
        }
        let this = self.clone();
        if this.0.tidying.fetch_add(1, Ordering::AcqRel) > 0 {
            return Ok(());
        }
        tokio::spawn(async move {
            let asked = &this.0.tidying;
            let mut tries = TRIES;
            loop {
                let seen = asked.load(Ordering::Acquire);
                match this.clean_up().await {
                    Ok(()) => {}
                    // What is being discarded may still be there, upon what is to go.
                    Err(_) if tries > 0 => {
                        tries -= 1;
                        tokio::time::sleep(DISCARD * 2).await;
                        continue;
                    }
                    Err(error) => {
                        eprintln!("knarrd: {error}: what it keeps for nobody stays for now");
                    }
                }
                // Who asked meanwhile may have had more removed than was seen to be gone.
                let end = asked.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire);
                if end.is_ok() {
                    break;
                }
            }
        });
        Ok(())
    }

    /// Removes a record; the directory goes with the next [`Local::clean_up`].
    pub(crate) fn forget(
        write: &Write,
        namespace: &str,
        driver: &str,
        key: &str,
        parent: &str,
    ) -> Result<()> {
        remove(write, namespace, driver, key, parent)?;
        write.leaves_untidy();
        let event = told::SnapshotRemove {
            key: key.to_owned(),
            snapshotter: driver.to_owned(),
        };
        events::tell(write, namespace, "/snapshot/remove", &event);
        Ok(())
    }

    /// Removes a directory when there is time; the cleaner does it where this fails.
    fn discard(&self, namespace: &str, snapshot: Snapshot, known: Arrival) {
        let (inner, space) = (Arc::clone(&self.0), namespace.to_owned());
        tokio::spawn(async move {
            // Others have gone by then, and one commit does for all.
            tokio::time::sleep(DISCARD).await;
            let settled = inner.database.settle().await;
            drop(known);
            if settled.is_ok() {
                let _ = inner.backend.remove(&space, &snapshot).await;
            }
        });
    }
}

impl Inner {
    fn arriving(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory whose record is on its way, or leaves.
struct Arrival(Arc<Inner>, u64);

impl Arrival {
    fn of(inner: &Arc<Inner>, id: u64) -> Self {
        inner.arriving().insert(id);
        Self(Arc::clone(inner), id)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.arriving().remove(&self.1);
    }
}

fn resource(driver: &str) -> String {
    format!("snapshots/{driver}")
}

fn not_here(key: &str) -> Error {
    Error::not_found(format!("snapshot {key} does not exist"))
}

fn get(look: &impl Look, namespace: &str, driver: &str, key: &str) -> Result<Named> {
    let snapshot = look.get(SNAPSHOTS, (namespace, driver, key))?;
    let snapshot = snapshot.ok_or_else(|| not_here(key))?;
    let key = key.to_owned();
    Ok(Named { key, snapshot })
}

fn absent(look: &impl Look, namespace: &str, driver: &str, key: &str) -> Result<()> {
    match look.get::<_, Snapshot>(SNAPSHOTS, (namespace, driver, key))? {
        Some(_) => Err(Error::exists(format!("snapshot {key:?}"))),
        None => Ok(()),
    }
}

/// A committed snapshot and its ancestors, from `key` on.
fn chain(look: &impl Look, namespace: &str, driver: &str, key: &str) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    let mut next = key.to_owned();
    while !next.is_empty() {
        let Named { key, snapshot } = get(look, namespace, driver, &next)?;
        if snapshot.kind() != SnapshotKind::Committed {
            return Err(Error::precondition(format!(
                "parent snapshot {key} is not committed"
            )));
        }
        layers.push(Layer {
            id: snapshot.id,
            remote: snapshot.remote,
        });
        next = snapshot.parent;
    }
    Ok(layers)
}

fn has_children(look: &impl Look, namespace: &str, driver: &str, key: &str) -> Result<bool> {
    let mut found = false;
    look.rows(
        CHILDREN,
        (namespace, driver, key, ""),
        |(space, name, parent, _), ()| {
            found = (space, name, parent) == (namespace, driver, key);
            Ok(false)
        },
    )?;
    Ok(found)
}

fn put(write: &Write, namespace: &str, driver: &str, key: &str, snapshot: &Snapshot) -> Result<()> {
    write.put(SNAPSHOTS, (namespace, driver, key), snapshot)?;
    if !snapshot.parent.is_empty() {
        write.mark(CHILDREN, (namespace, driver, &*snapshot.parent, key))?;
    }
    Ok(())
}

fn remove(write: &Write, namespace: &str, driver: &str, key: &str, parent: &str) -> Result<()> {
    write.remove(SNAPSHOTS, (namespace, driver, key))?;
    if !parent.is_empty() {
        write.remove(CHILDREN, (namespace, driver, parent, key))?;
    }
    Ok(())
}
