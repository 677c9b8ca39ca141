//! Snapshots, of the snapshotter that each request names.

use knarr_proto::services::snapshots::v1::snapshots_server::Snapshots;
use knarr_proto::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse,
    RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest,
    UpdateSnapshotResponse, UsageRequest, UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use knarr_proto::types;
use tonic::{Request, Response, Status, async_trait};

use super::{Answers, Api, lease, namespace, pages, paths, required, signed, timestamp};
use crate::snapshot::{Mount, Named};
use crate::store::filter::Filters;
use crate::store::mask;
use crate::store::schema::SnapshotKind;

fn to_wire(Named { key, snapshot }: Named) -> Info {
    Info {
        name: key,
        parent: snapshot.parent,
        kind: snapshot.kind,
        created_at: Some(timestamp(snapshot.created)),
        updated_at: Some(timestamp(snapshot.updated)),
        labels: snapshot.labels,
    }
}

fn mounts_to_wire(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let mounts = mounts.into_iter().map(|mount| types::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: String::new(),
        options: mount.options,
    });
    mounts.collect()
}

#[async_trait]
impl Snapshots for Api {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let PrepareSnapshotRequest {
            snapshotter,
            key,
            parent,
            labels,
        } = request.into_inner();
        let (kind, lease) = (SnapshotKind::Active, lease.as_deref());
        let snapshots = self.0.snapshotter(&snapshotter)?;
        let made = snapshots.prepare(&namespace, &key, &parent, kind, labels, lease);
        let mounts = mounts_to_wire(made.await?);
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let ViewSnapshotRequest {
            snapshotter,
            key,
            parent,
            labels,
        } = request.into_inner();
        let (kind, lease) = (SnapshotKind::View, lease.as_deref());
        let snapshots = self.0.snapshotter(&snapshotter)?;
        let made = snapshots.prepare(&namespace, &key, &parent, kind, labels, lease);
        let mounts = mounts_to_wire(made.await?);
        Ok(Response::new(ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<MountsRequest>,
    ) -> Result<Response<MountsResponse>, Status> {
        let namespace = namespace(&request)?;
        let MountsRequest { snapshotter, key } = request.into_inner();
        let snapshots = self.0.snapshotter(&snapshotter)?;
        let mounts = mounts_to_wire(snapshots.mounts(&namespace, &key).await?);
        Ok(Response::new(MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let CommitSnapshotRequest {
            snapshotter,
            name,
            key,
            labels,
            parent,
        } = request.into_inner();
        let snapshots = self.0.snapshotter(&snapshotter)?;
        let lease = lease.as_deref();
        let committed = snapshots.commit_upon(&namespace, &name, &key, &parent, labels, lease);
        committed.await?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let RemoveSnapshotRequest { snapshotter, key } = request.into_inner();
        let snapshots = self.0.snapshotter(&snapshotter)?;
        snapshots.remove(&namespace, &key).await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let namespace = namespace(&request)?;
        let StatSnapshotRequest { snapshotter, key } = request.into_inner();
        let named = self.0.snapshotter(&snapshotter)?.stat(&namespace, &key)?;
        let info = Some(to_wire(named));
        Ok(Response::new(StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let Info { name, labels, .. } = required(request.info, "info")?;
        let paths = paths(request.update_mask);
        let what = format!("snapshot {name:?}");
        let change = move |old: &mut _| mask::relabel(&paths, old, &labels, &what);
        let snapshots = self.0.snapshotter(&request.snapshotter)?;
        let named = snapshots.relabel(&namespace, &name, change).await?;
        let info = Some(to_wire(named));
        Ok(Response::new(UpdateSnapshotResponse { info }))
    }

    type ListStream = Answers<ListSnapshotsResponse>;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let filters = Filters::parse(&request.filters)?;
        let snapshots = self.0.snapshotter(&request.snapshotter)?;
        let mut found = Vec::new();
        tokio::task::block_in_place(|| {
            let add = |named| found.push(to_wire(named));
            snapshots.list(&namespace, &filters, add)
        })?;
        let answers = pages(found, |info| ListSnapshotsResponse { info });
        Ok(Response::new(answers))
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let namespace = namespace(&request)?;
        let UsageRequest { snapshotter, key } = request.into_inner();
        let snapshots = self.0.snapshotter(&snapshotter)?;
        let usage = snapshots.usage(&namespace, &key).await?;
        Ok(Response::new(UsageResponse {
            size: signed(usage.size),
            inodes: signed(usage.inodes),
        }))
    }

    async fn cleanup(&self, request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        namespace(&request)?;
        let snapshotter = request.into_inner().snapshotter;
        self.0.snapshotter(&snapshotter)?.clean_up().await?;
        Ok(Response::new(()))
    }
}
