//! Who makes snapshots: a driver in this process, or another program.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Driver, Mount, Proxy};
use crate::error::{Error, Result};
use crate::store::name::Labels;
use crate::store::schema::{Snapshot, Usage};

/// A snapshot that others are built upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// Its number.
    pub(super) id: u64,
    /// What the other program calls it.
    pub(super) remote: String,
}

/// What a commit tells of a snapshot.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) usage: Option<Usage>,
    pub(super) remote: String,
}

/// All that has a record.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) ids: HashSet<u64>,
    pub(super) remotes: HashSet<String>,
    pub(super) namespaces: HashSet<String>,
}

#[derive(Debug)]
pub(super) enum Backend {
    Here(Arc<dyn Driver>),
    There(Box<Proxy>),
}

/// Runs what waits for the disk where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::internal("work on a snapshot panicked"))?
}

fn ids(layers: &[Layer]) -> Vec<u64> {
    layers.iter().map(|layer| layer.id).collect()
}

impl Backend {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Here(driver) => driver.name(),
            Self::There(proxy) => proxy.name(),
        }
    }

    pub(super) fn capabilities(&self) -> Vec<String> {
        match self {
            Self::Here(driver) => driver
                .capabilities()
                .iter()
                .map(ToString::to_string)
                .collect(),
            Self::There(proxy) => proxy.capabilities().to_vec(),
        }
    }

    /// What another program is to call the snapshot `key` of that number.
    pub(super) fn remote(&self, id: u64, key: &str) -> String {
        match self {
            Self::Here(_) => String::new(),
            Self::There(proxy) => proxy.remote(id, key),
        }
    }

    /// Makes a snapshot; how it is mounted.
    pub(super) async fn create(
        &self,
        namespace: &str,
        snapshot: &Snapshot,
        parents: &[Layer],
    ) -> Result<Vec<Mount>> {
        match self {
            Self::Here(driver) => {
                let (driver, snapshot, parents) =
                    (Arc::clone(driver), snapshot.clone(), ids(parents));
                let make = move || {
                    let (id, kind, labels) = (snapshot.id, snapshot.kind(), &snapshot.labels);
                    driver.create(id, kind, &parents, labels)?;
                    driver.mounts(id, kind, &parents, labels)
                };
                blocking(make).await
            }
            Self::There(proxy) => proxy.create(namespace, snapshot, parents).await,
        }
    }

    pub(super) async fn mounts(
        &self,
        namespace: &str,
        snapshot: &Snapshot,
        parents: &[Layer],
    ) -> Result<Vec<Mount>> {
        match self {
            Self::Here(driver) => {
                let (id, kind) = (snapshot.id, snapshot.kind());
                driver.mounts(id, kind, &ids(parents), &snapshot.labels)
            }
            Self::There(proxy) => proxy.mounts(namespace, snapshot).await,
        }
    }

    pub(super) async fn usage(&self, namespace: &str, snapshot: &Snapshot) -> Result<Usage> {
        match self {
            Self::Here(driver) => {
                let (driver, id) = (Arc::clone(driver), snapshot.id);
                blocking(move || driver.usage(id)).await
            }
            Self::There(proxy) => proxy.usage(namespace, snapshot).await,
        }
    }

    /// Fixes an active snapshot as `name`, upon `parent` where it had none.
    pub(super) async fn commit(
        &self,
        namespace: &str,
        snapshot: &Snapshot,
        parent: Option<&Snapshot>,
        name: &str,
        labels: &Labels,
    ) -> Result<Committed> {
        match self {
            Self::Here(driver) => {
                let (driver, id) = (Arc::clone(driver), snapshot.id);
                let parent = parent.map(|parent| parent.id);
                let commit = move || {
                    if let Some(parent) = parent {
                        driver.rebase(id, parent)?;
                    }
                    driver.usage(id)
                };
                Ok(Committed {
                    usage: Some(blocking(commit).await?),
                    remote: String::new(),
                })
            }
            Self::There(proxy) => {
                let parent = parent.map_or("", |parent| &*parent.remote);
                let remote = proxy.remote(snapshot.id, name);
                let done = proxy.commit(namespace, snapshot, &remote, parent, labels);
                done.await?;
                Ok(Committed {
                    usage: None,
                    remote,
                })
            }
        }
    }

    /// The committed snapshot that another program keeps for the name `target`.
    pub(super) async fn find(
        &self,
        namespace: &str,
        target: &str,
        parent: &str,
    ) -> Result<Option<String>> {
        match self {
            Self::Here(_) => Ok(None),
            Self::There(proxy) => proxy.find(namespace, target, parent).await,
        }
    }

    pub(super) async fn remove(&self, namespace: &str, snapshot: &Snapshot) -> Result<()> {
        match self {
            Self::Here(driver) => {
                let (driver, id) = (Arc::clone(driver), snapshot.id);
                blocking(move || driver.remove(id)).await
            }
            Self::There(proxy) => proxy.remove(namespace, &snapshot.remote).await,
        }
    }

    /// Removes what is not known; `known` is asked after what is there.
    pub(super) async fn clean_up(
        &self,
        known: impl Fn() -> Result<Known> + Send + Sync + 'static,
    ) -> Result<()> {
        match self {
            Self::Here(driver) => {
                let driver = Arc::clone(driver);
                let clean = move || {
                    // The directories first: one that gets its record in between is known below.
                    let ids = driver.ids()?;
                    let known = known()?.ids;
                    let left = ids.into_iter().filter(|id| !known.contains(id));
                    left.map(|id| driver.remove(id)).fold(Ok(()), Result::and)
                };
                blocking(clean).await
            }
            Self::There(proxy) => proxy.clean_up(known).await,
        }
    }
}
