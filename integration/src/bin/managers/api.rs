//! What is measured through the API itself, because ctr's own start would hide it.

use std::time::{Duration, Instant};

use knarr_integration::daemon::PATIENCE;
use knarr_integration::{Value, json};
use knarr_proto::any;
use knarr_proto::containerd::v1::types::{Process, Status};
use knarr_proto::prost_types::Any;
use knarr_proto::services::containers::v1::containers_client::ContainersClient;
use knarr_proto::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
    ListContainersRequest,
};
use knarr_proto::services::images::v1::images_client::ImagesClient;
use knarr_proto::services::images::v1::{CreateImageRequest, GetImageRequest, ListImagesRequest};
use knarr_proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use knarr_proto::services::snapshots::v1::{
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use knarr_proto::services::tasks::v1::tasks_client::TasksClient;
use knarr_proto::services::tasks::v1::{
    CreateTaskRequest, DeleteProcessRequest, DeleteTaskRequest, ExecProcessRequest, KillRequest,
    ListTasksRequest, StartRequest, WaitRequest,
};
use knarr_proto::services::version::v1::version_client::VersionClient;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::daemons::Daemon;
use crate::report::Report;
use crate::{IMAGE, millis};

const SNAPSHOTTER: &str = "overlayfs";
/// How often the daemon is killed under the containers.
const RESTARTS: usize = 5;
/// How long to wait before asking again.
const LOOK: Duration = Duration::from_millis(2);
/// More records than fit into what clients take by default.
const LARGEST: usize = 64 << 20;

/// A connection.
#[derive(Debug)]
pub struct Api(Channel);

impl Api {
    /// Connects to a daemon.
    pub async fn connect(daemon: &Daemon<'_>) -> Self {
        Self::try_connect(daemon).await.expect("the daemon is up")
    }

    async fn try_connect(daemon: &Daemon<'_>) -> Option<Self> {
        let address = format!("unix://{}", daemon.socket().display());
        let endpoint = Endpoint::from_shared(address).unwrap();
        endpoint.connect().await.ok().map(Self)
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.0.clone())
    }

    fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.0.clone()).max_decoding_message_size(LARGEST)
    }

    fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.0.clone()).max_decoding_message_size(LARGEST)
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.0.clone())
    }

    async fn container(&self, id: &str) -> Container {
        let id = id.to_owned();
        let request = in_namespace(GetContainerRequest { id });
        let found = self.containers().get(request).await.unwrap();
        found.into_inner().container.unwrap()
    }

    /// An exec of `true`, from the request to its exit and its removal.
    pub async fn execs(&mut self, daemon: &Daemon<'_>, report: &mut Report, rounds: usize) {
        daemon.run(&["-d"], "e", &["sleep", "1000"]);
        let spec = self.container("e").await.spec.unwrap();
        let spec: Value = serde_json(&spec);
        let mut process = spec["process"].clone();
        process["args"] = json!(["true"]);
        let (mut before, mut tasks) = (Duration::ZERO, self.tasks());
        for round in 0..=rounds {
            // The first one fills caches.
            if round == 1 {
                before = daemon.cpu();
            }
            let start = Instant::now();
            let (container_id, exec_id) = ("e".to_owned(), format!("x{round}"));
            let exec = ExecProcessRequest {
                container_id: container_id.clone(),
                exec_id: exec_id.clone(),
                spec: Some(Any {
                    type_url: any::PROCESS.to_owned(),
                    value: process.to_string().into(),
                }),
                ..Default::default()
            };
            tasks.exec(in_namespace(exec)).await.unwrap();
            let request = StartRequest {
                container_id: container_id.clone(),
                exec_id: exec_id.clone(),
            };
            tasks.start(in_namespace(request)).await.unwrap();
            let request = WaitRequest {
                container_id: container_id.clone(),
                exec_id: exec_id.clone(),
            };
            let exit = tasks.wait(in_namespace(request)).await.unwrap();
            assert_eq!(exit.into_inner().exit_status, 0);
            let request = DeleteProcessRequest {
                container_id,
                exec_id,
            };
            tasks.delete_process(in_namespace(request)).await.unwrap();
            if round > 0 {
                report.add("exec through the API, ms", daemon, millis(start.elapsed()));
            }
        }
        let each = (daemon.cpu() - before) / u32::try_from(rounds).unwrap();
        report.add("exec through the API, CPU ms", daemon, millis(each));
        daemon.remove("e");
    }

    /// The calls that matter of `ctr run --rm` of `true`, from the container to the removal of its
    /// snapshot: what of that time is not ctr's own.
    pub async fn runs(&mut self, daemon: &Daemon<'_>, report: &mut Report, rounds: usize) {
        daemon.run(&["-d"], "model", &["sleep", "1000"]);
        let (model, parent) = self.model("model").await;
        for round in 0..=rounds {
            let id = format!("a{round}");
            let mut container = Self::renamed(daemon, &model, &id);
            let mut spec: Value = serde_json(container.spec.as_ref().unwrap());
            spec["process"]["args"] = json!(["true"]);
            container.spec.as_mut().unwrap().value = spec.to_string().into();
            let start = Instant::now();
            let started = Self(self.0.clone()).start(container, parent.clone());
            started.await.unwrap();
            let request = WaitRequest {
                container_id: id.clone(),
                ..Default::default()
            };
            let exit = self.tasks().wait(in_namespace(request)).await.unwrap();
            assert_eq!(exit.into_inner().exit_status, 0);
            let container_id = id.clone();
            let delete = in_namespace(DeleteTaskRequest { container_id });
            self.tasks().delete(delete).await.unwrap();
            let delete = in_namespace(DeleteContainerRequest { id: id.clone() });
            self.containers().delete(delete).await.unwrap();
            let (snapshotter, key) = (SNAPSHOTTER.to_owned(), id);
            let remove = in_namespace(RemoveSnapshotRequest { snapshotter, key });
            // The collector may have been faster.
            let _ = self.snapshots().remove(remove).await;
            let wall = start.elapsed();
            tokio::time::sleep(Duration::from_millis(100)).await;
            if round > 0 {
                report.add("the same calls without ctr, ms", daemon, millis(wall));
            }
        }
        daemon.remove("model");
    }

    /// A container as a model for others, and what its snapshot is built upon.
    async fn model(&self, id: &str) -> (Container, String) {
        let key = (SNAPSHOTTER.to_owned(), id.to_owned());
        let (snapshotter, key) = key;
        let request = in_namespace(StatSnapshotRequest { snapshotter, key });
        let found = self.snapshots().stat(request).await.unwrap().into_inner();
        (self.container(id).await, found.info.unwrap().parent)
    }

    fn renamed(daemon: &Daemon<'_>, model: &Container, id: &str) -> Container {
        let mut container = model.clone();
        container.id = id.to_owned();
        container.snapshot_key = id.to_owned();
        let mut spec: Value = serde_json(container.spec.as_ref().unwrap());
        spec["linux"]["cgroupsPath"] = json!(daemon.cgroup_of(id));
        container.spec.as_mut().unwrap().value = spec.to_string().into();
        container
    }

    /// Many containers at once: made and started, the daemon killed and started again, all removed.
    pub async fn many(&mut self, daemon: &mut Daemon<'_>, report: &mut Report, count: usize) {
        daemon.run(&["-d"], "first", &["sleep", "1000"]);
        let (model, parent) = self.model("first").await;
        let ids: Vec<String> = (0..count).map(|index| format!("c{index}")).collect();

        let start = Instant::now();
        let started: Vec<_> = ids
            .iter()
            .map(|id| {
                let container = Self::renamed(daemon, &model, id);
                let api = Self(self.0.clone());
                tokio::spawn(api.start(container, parent.clone()))
            })
            .collect();
        let mut refused = Vec::new();
        for one in started {
            refused.extend(one.await.unwrap().err());
        }
        match refused.first() {
            None => report.add(
                &format!("{count} containers at once, s"),
                daemon,
                start.elapsed().as_secs_f64(),
            ),
            Some((_, why)) => println!(
                "{}: {} of {count} containers at once did not start, and do one by one: {}",
                daemon.kind.name(),
                refused.len(),
                why.message()
            ),
        }
        for (container, _) in refused {
            self.clear(container.id.clone()).await;
            let again = Self(self.0.clone()).start(container, parent.clone());
            again.await.map_err(|(_, why)| why).unwrap();
        }
        // With the first one.
        self.restarts(daemon, report, count + 1).await;
        let start = Instant::now();
        let removed: Vec<_> = ids
            .into_iter()
            .map(|id| tokio::spawn(Self(self.0.clone()).remove(id)))
            .collect();
        let mut stayed = Vec::new();
        for one in removed {
            stayed.extend(one.await.unwrap().err());
        }
        match stayed.first() {
            None => report.add(
                "killed and removed at once, s",
                daemon,
                start.elapsed().as_secs_f64(),
            ),
            Some((_, why)) => println!(
                "{}: {} of {count} containers at once did not go: {}",
                daemon.kind.name(),
                stayed.len(),
                why.message()
            ),
        }
        for (id, _) in stayed {
            self.clear(id).await;
        }
        daemon.remove("first");
    }

    /// Kills the daemon and starts it again: how long until it answers, and until it says of all
    /// tasks that they run.
    async fn restarts(&mut self, daemon: &mut Daemon<'_>, report: &mut Report, count: usize) {
        for _ in 0..RESTARTS {
            daemon.kill();
            let start = Instant::now();
            daemon.launch();
            loop {
                if let Some(api) = Self::try_connect(daemon).await
                    && VersionClient::new(api.0.clone()).version(()).await.is_ok()
                {
                    *self = api;
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "it does not come back");
                tokio::time::sleep(LOOK).await;
            }
            report.add(
                "killed and started again: answers after, s",
                daemon,
                start.elapsed().as_secs_f64(),
            );
            loop {
                let list = in_namespace(ListTasksRequest::default());
                let listed = self.tasks().list(list).await.unwrap().into_inner().tasks;
                let running = |task: &&Process| task.status() == Status::Running;
                if listed.iter().filter(running).count() == count {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "tasks are lost");
                tokio::time::sleep(LOOK).await;
            }
            report.add(
                "the same: knows all tasks after, s",
                daemon,
                start.elapsed().as_secs_f64(),
            );
        }
    }

    async fn start(
        self,
        container: Container,
        parent: String,
    ) -> Result<(), (Container, tonic::Status)> {
        let started = self.try_start(container.clone(), parent).await;
        started.map_err(|why| (container, why))
    }

    async fn try_start(self, container: Container, parent: String) -> Result<(), tonic::Status> {
        let id = container.id.clone();
        // First, because it keeps the snapshot from the collector.
        let container = Some(container);
        let create = in_namespace(CreateContainerRequest { container });
        self.containers().create(create).await?;
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.clone(),
            parent,
            ..Default::default()
        };
        let prepared = self.snapshots().prepare(in_namespace(prepare)).await?;
        let rootfs = prepared.into_inner().mounts;
        let create = CreateTaskRequest {
            container_id: id.clone(),
            rootfs,
            ..Default::default()
        };
        self.tasks().create(in_namespace(create)).await?;
        let start = StartRequest {
            container_id: id,
            ..Default::default()
        };
        self.tasks().start(in_namespace(start)).await?;
        Ok(())
    }

    /// Removes what there is of a container that may not have started.
    async fn clear(&self, id: String) {
        let kill = KillRequest {
            container_id: id.clone(),
            signal: 9,
            ..Default::default()
        };
        let _ = self.tasks().kill(in_namespace(kill)).await;
        let wait = WaitRequest {
            container_id: id.clone(),
            ..Default::default()
        };
        let _ = self.tasks().wait(in_namespace(wait)).await;
        let container_id = id.clone();
        let delete = in_namespace(DeleteTaskRequest { container_id });
        let _ = self.tasks().delete(delete).await;
        let delete = in_namespace(DeleteContainerRequest { id: id.clone() });
        let _ = self.containers().delete(delete).await;
        let (snapshotter, key) = (SNAPSHOTTER.to_owned(), id);
        let remove = in_namespace(RemoveSnapshotRequest { snapshotter, key });
        let _ = self.snapshots().remove(remove).await;
    }

    async fn remove(self, id: String) -> Result<(), (String, tonic::Status)> {
        let removed = self.try_remove(id.clone()).await;
        removed.map_err(|why| (id, why))
    }

    async fn try_remove(self, id: String) -> Result<(), tonic::Status> {
        let container_id = id.clone();
        let kill = KillRequest {
            container_id: id.clone(),
            signal: 9,
            ..Default::default()
        };
        self.tasks().kill(in_namespace(kill)).await?;
        let wait = WaitRequest {
            container_id: id.clone(),
            ..Default::default()
        };
        self.tasks().wait(in_namespace(wait)).await?;
        let delete = in_namespace(DeleteTaskRequest { container_id });
        self.tasks().delete(delete).await?;
        let delete = in_namespace(DeleteContainerRequest { id: id.clone() });
        self.containers().delete(delete).await?;
        let (snapshotter, key) = (SNAPSHOTTER.to_owned(), id);
        let remove = in_namespace(RemoveSnapshotRequest { snapshotter, key });
        // The collector may have been faster.
        let _ = self.snapshots().remove(remove).await;
        Ok(())
    }

    /// Lists of many images and containers.
    pub async fn lists(&mut self, daemon: &Daemon<'_>, report: &mut Report, count: usize) {
        let (mut images, mut containers) = (self.images(), self.containers());
        let name = IMAGE.to_owned();
        let request = in_namespace(GetImageRequest { name });
        let found = images.get(request).await.unwrap().into_inner();
        let image = found.image.unwrap();
        let start = Instant::now();
        for index in 0..count {
            let mut image = image.clone();
            image.name = format!("knarr.test/list:{index}");
            let request = CreateImageRequest {
                image: Some(image),
                ..Default::default()
            };
            images.create(in_namespace(request)).await.unwrap();
        }
        report.add(
            "a record written, ms",
            daemon,
            millis(start.elapsed()) / (count as f64),
        );
        for index in 0..count {
            let container = Container {
                id: format!("l{index}"),
                image: IMAGE.to_owned(),
                runtime: Some(knarr_proto::services::containers::v1::container::Runtime {
                    name: "io.containerd.runc.v2".to_owned(),
                    ..Default::default()
                }),
                spec: Some(Any {
                    type_url: any::SPEC.to_owned(),
                    value: b"{}".to_vec(),
                }),
                ..Default::default()
            };
            let container = Some(container);
            let request = in_namespace(CreateContainerRequest { container });
            containers.create(request).await.unwrap();
        }
        for _ in 0..5 {
            let start = Instant::now();
            let request = in_namespace(ListImagesRequest::default());
            let listed = images.list(request).await.unwrap().into_inner();
            report.add(
                &format!("a list of {count} images, ms"),
                daemon,
                millis(start.elapsed()),
            );
            assert!(listed.images.len() > count);
            let start = Instant::now();
            let request = in_namespace(ListContainersRequest::default());
            let listed = containers.list(request).await.unwrap().into_inner();
            report.add(
                &format!("a list of {count} containers, ms"),
                daemon,
                millis(start.elapsed()),
            );
            assert!(listed.containers.len() >= count);
        }
    }
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = "default".parse().unwrap();
    request
        .metadata_mut()
        .insert("containerd-namespace", namespace);
    request
}

fn serde_json(any: &Any) -> Value {
    std::str::from_utf8(&any.value)
        .unwrap()
        .parse()
        .expect("the daemon's specification is JSON")
}
