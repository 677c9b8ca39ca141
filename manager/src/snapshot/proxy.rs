//! A snapshotter that another program serves over the API's own Snapshots service.
//!
//! Names there are `UUID/NUMBER/KEY`: the manager's name, so that a program can serve several, and
//! the number, so that keys that are used again don't meet.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_proto::services::snapshots::v1 as wire;
use knarr_proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use knarr_proto::types;
use tonic::Status;
use tonic::transport::Channel;

use super::backend::{Known, Layer};
use super::{Mount, inherited};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::proxy::{LARGEST, Remote, about};
use crate::store::name::Labels;
use crate::store::schema::{Snapshot, SnapshotKind, Usage};

/// The other program.
#[derive(Debug)]
pub struct Proxy {
    name: String,
    /// What the snapshotter is called there.
    there: String,
    /// How names begin that this manager gives.
    prefix: String,
    capabilities: Vec<String>,
    other: Remote,
    client: SnapshotsClient<Channel>,
}

impl Proxy {
    /// The snapshotter `name` as the configuration describes it, for the manager `uuid`. It need
    /// not run yet.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is none.
    pub fn new(name: &str, uuid: &str, config: &config::Proxy) -> Result<Self> {
        let other = Remote::new("snapshotter", name, config)?;
        Ok(Self {
            name: name.to_owned(),
            there: config
                .snapshotter
                .clone()
                .unwrap_or_else(|| name.to_owned()),
            prefix: format!("{uuid}/"),
            capabilities: config.capabilities.clone(),
            client: SnapshotsClient::new(other.channel.clone()).max_decoding_message_size(LARGEST),
            other,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn capabilities(&self) -> &[String] {
        &self.capabilities
    }

    pub(super) fn remote(&self, id: u64, key: &str) -> String {
        format!("{}{id}/{key}", self.prefix)
    }

    /// Waits for an answer as long as may be.
    async fn call<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T> {
        self.other.call(what, answer).await
    }

    pub(super) async fn create(
        &self,
        namespace: &str,
        snapshot: &Snapshot,
        parents: &[Layer],
    ) -> Result<Vec<Mount>> {
        let parent = parents.first().map_or("", |parent| &*parent.remote);
        let (key, parent) = (snapshot.remote.clone(), parent.to_owned());
        let labels = inherited(&snapshot.labels);
        let mut client = self.client.clone();
        let snapshotter = self.there.clone();
        let mounts = if snapshot.kind() == SnapshotKind::View {
            let request = wire::ViewSnapshotRequest {
                snapshotter,
                key,
                parent,
                labels,
            };
            let answer = client.view(about(namespace, request)?);
            self.call("View", answer).await?.into_inner().mounts
        } else {
            let request = wire::PrepareSnapshotRequest {
                snapshotter,
                key,
                parent,
                labels,
            };
            let answer = client.prepare(about(namespace, request)?);
            self.call("Prepare", answer).await?.into_inner().mounts
        };
        Ok(from_wire(mounts))
    }

    pub(super) async fn mounts(&self, namespace: &str, of: &Snapshot) -> Result<Vec<Mount>> {
        let request = wire::MountsRequest {
            key: of.remote.clone(),
            snapshotter: self.there.clone(),
        };
        let mut client = self.client.clone();
        let answer = client.mounts(about(namespace, request)?);
        let mounts = self.call("Mounts", answer).await?.into_inner().mounts;
        Ok(from_wire(mounts))
    }

    pub(super) async fn usage(&self, namespace: &str, of: &Snapshot) -> Result<Usage> {
        let request = wire::UsageRequest {
            key: of.remote.clone(),
            snapshotter: self.there.clone(),
        };
        let mut client = self.client.clone();
        let answer = client.usage(about(namespace, request)?);
        let usage = self.call("Usage", answer).await?.into_inner();
        Ok(Usage {
            size: usage.size.try_into().unwrap_or(0),
            inodes: usage.inodes.try_into().unwrap_or(0),
        })
    }

    pub(super) async fn commit(
        &self,
        namespace: &str,
        snapshot: &Snapshot,
        name: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<()> {
        let request = wire::CommitSnapshotRequest {
            name: name.to_owned(),
            key: snapshot.remote.clone(),
            labels: inherited(labels),
            parent: parent.to_owned(),
            snapshotter: self.there.clone(),
        };
        let mut client = self.client.clone();
        let answer = client.commit(about(namespace, request)?);
        match self.call("Commit", answer).await {
            // It was done before, and nobody here heard of it.
            Err(error) if error.code() == Code::NotFound => {
                let found = self
                    .list(namespace, vec![format!("name=={name:?}")])
                    .await?;
                let committed = i32::from(SnapshotKind::Committed);
                let there = found.iter().any(|info| info.kind == committed);
                there.then_some(()).ok_or(error)
            }
            done => done.map(drop),
        }
    }

    pub(super) async fn find(
        &self,
        namespace: &str,
        target: &str,
        parent: &str,
    ) -> Result<Option<String>> {
        let filter =
            format!("labels.\"containerd.io/snapshot.ref\"=={target:?},parent=={parent:?}");
        let found = self.list(namespace, vec![filter]).await?;
        let committed = found
            .into_iter()
            .find(|info| info.kind == i32::from(SnapshotKind::Committed));
        Ok(committed.map(|info| info.name))
    }

    pub(super) async fn remove(&self, namespace: &str, name: &str) -> Result<()> {
        let request = wire::RemoveSnapshotRequest {
            key: name.to_owned(),
            snapshotter: self.there.clone(),
        };
        let mut client = self.client.clone();
        let answer = client.remove(about(namespace, request)?);
        match self.call("Remove", answer).await {
            Err(error) if error.code() != Code::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn list(&self, namespace: &str, filters: Vec<String>) -> Result<Vec<wire::Info>> {
        let request = wire::ListSnapshotsRequest {
            snapshotter: self.there.clone(),
            filters,
        };
        let mut client = self.client.clone();
        let request = about(namespace, request)?;
        let all = async move {
            let mut answers = client.list(request).await?.into_inner();
            let mut found = Vec::new();
            while let Some(answer) = answers.message().await? {
                found.extend(answer.info);
            }
            Ok(found)
        };
        self.call("List", all).await
    }

    /// Removes what this manager has had made there and has no record of.
    pub(super) async fn clean_up(
        &self,
        known: impl Fn() -> Result<Known> + Send + Sync + 'static,
    ) -> Result<()> {
        let known = Arc::new(known);
        let ask = || {
            let known = Arc::clone(&known);
            tokio::task::spawn_blocking(move || known())
        };
        let panicked = |_| Error::internal("work on a snapshot panicked");
        let mut there = Vec::new();
        for namespace in ask().await.map_err(panicked)??.namespaces {
            let found = self.list(&namespace, Vec::new()).await?;
            there.push((namespace, found));
        }
        // What is known is asked for last: what comes in between is left alone.
        let known = ask().await.map_err(panicked)??;
        for (namespace, found) in there {
            let mut left: BTreeMap<String, String> = found
                .into_iter()
                .filter(|info| self.is_left(&info.name, &known))
                .map(|info| (info.name, info.parent))
                .collect();
            // Children first.
            loop {
                let parents: Vec<&String> = left.values().collect();
                let leaf = left.keys().find(|name| !parents.contains(name));
                let Some(leaf) = leaf.cloned() else { break };
                self.remove(&namespace, &leaf).await?;
                left.remove(&leaf);
            }
            let request = wire::CleanupRequest {
                snapshotter: self.there.clone(),
            };
            let mut client = self.client.clone();
            let answer = client.cleanup(about(&namespace, request)?);
            match self.call("Cleanup", answer).await {
                Err(error) if error.code() != Code::Unimplemented => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn is_left(&self, name: &str, known: &Known) -> bool {
        let Some(rest) = name.strip_prefix(&self.prefix) else {
            return false;
        };
        let id = rest.split('/').next().and_then(|id| id.parse().ok());
        id.is_some_and(|id| !known.ids.contains(&id)) && !known.remotes.contains(name)
    }
}

fn from_wire(mounts: Vec<types::Mount>) -> Vec<Mount> {
    let mounts = mounts.into_iter().map(|mount| Mount {
        kind: mount.r#type,
        source: mount.source,
        options: mount.options,
    });
    mounts.collect()
}
