//! Tasks: running containers.

use knarr_proto::containerd::task::v2 as shim;
use knarr_proto::containerd::v1::types::{Process as WireProcess, Status as Stage};
use knarr_proto::services::tasks::v1::tasks_server::Tasks;
use knarr_proto::services::tasks::v1::{
    CheckpointTaskRequest, CheckpointTaskResponse, CloseIoRequest, CreateTaskRequest,
    CreateTaskResponse, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest,
    ExecProcessRequest, GetRequest, GetResponse, KillRequest, ListPidsRequest, ListPidsResponse,
    ListTasksRequest, ListTasksResponse, MetricsRequest, MetricsResponse, PauseTaskRequest,
    ResizePtyRequest, ResumeTaskRequest, StartRequest, StartResponse, UpdateTaskRequest,
    WaitRequest, WaitResponse,
};
use knarr_proto::types::{Descriptor, Metric};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, lease, namespace, timestamp};
use crate::error::{Code, Error};
use crate::store::database::now;
use crate::store::filter::Filters;
use crate::store::schema;
use crate::task::bundle::{Bootstrap, Protocol};
use crate::task::{Dump, Order, Process};

fn process(id: String, state: shim::StateResponse) -> WireProcess {
    WireProcess {
        id,
        pid: state.pid,
        status: state.status,
        stdin: state.stdin,
        stdout: state.stdout,
        stderr: state.stderr,
        terminal: state.terminal,
        exit_status: state.exit_status,
        exited_at: state.exited_at,
        ..WireProcess::default()
    }
}

#[async_trait]
impl Tasks for Api {
    async fn create(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let shim = match request.task_api_address {
            address if address.is_empty() => self.0.shim_for(&namespace, &request.container_id)?,
            address => Some(Bootstrap {
                version: request.task_api_version,
                address,
                protocol: Protocol::Ttrpc,
            }),
        };
        let order = Order {
            namespace,
            id: request.container_id.clone(),
            rootfs: request.rootfs,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
            checkpoint: request.checkpoint.map(|blob| schema::Descriptor {
                media_type: blob.media_type,
                digest: blob.digest,
                size: blob.size,
                annotations: blob.annotations,
            }),
            options: request.options.filter(|any| !any.type_url.is_empty()),
            runtime: request.runtime_path,
            shim,
        };
        let pid = self.0.tasks.create(order).await?;
        Ok(Response::new(CreateTaskResponse {
            container_id: request.container_id,
            pid,
        }))
    }

    async fn start(
        &self,
        request: Request<StartRequest>,
    ) -> Result<Response<StartResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let process = Process::new(&namespace, &request.container_id, &request.exec_id);
        let pid = self.0.tasks.start(process).await?;
        Ok(Response::new(StartResponse { pid }))
    }

    async fn delete(
        &self,
        request: Request<DeleteTaskRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let namespace = namespace(&request)?;
        let id = request.into_inner().container_id;
        let exit = self.0.tasks.delete(&namespace, &id).await?;
        Ok(Response::new(DeleteResponse {
            id,
            pid: exit.pid,
            exit_status: exit.code,
            exited_at: exit.at,
        }))
    }

    async fn delete_process(
        &self,
        request: Request<DeleteProcessRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let (id, exec_id) = (request.container_id, request.exec_id);
        let deleted = self.0.tasks.delete_process(&namespace, &id, &exec_id);
        let deleted = deleted.await?;
        Ok(Response::new(DeleteResponse {
            id: exec_id,
            pid: deleted.pid,
            exit_status: deleted.exit_status,
            exited_at: deleted.exited_at,
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let (id, exec_id) = (request.container_id, request.exec_id);
        let state = self.0.tasks.state(Process::new(&namespace, &id, &exec_id));
        let state = state.await?;
        let id = match exec_id.as_str() {
            "" => id,
            _ => exec_id,
        };
        let process = Some(process(id, state));
        Ok(Response::new(GetResponse { process }))
    }

    async fn list(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let namespace = namespace(&request)?;
        let listed = self.0.tasks.list(&namespace).await.into_iter();
        let tasks = listed.map(|(id, pid, state)| match state {
            Some(state) => process(id, state),
            None => WireProcess {
                id,
                pid,
                status: Stage::Unknown.into(),
                ..WireProcess::default()
            },
        });
        let tasks = tasks.collect();
        Ok(Response::new(ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<KillRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let process = Process::new(&namespace, &request.container_id, &request.exec_id);
        let killed = self.0.tasks.kill(process, request.signal, request.all);
        Ok(Response::new(killed.await?))
    }

    async fn exec(&self, request: Request<ExecProcessRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let order = shim::ExecProcessRequest {
            id: request.container_id,
            exec_id: request.exec_id,
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            spec: request.spec,
        };
        self.0.tasks.exec(&namespace, order).await?;
        Ok(Response::new(()))
    }

    async fn resize_pty(&self, request: Request<ResizePtyRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let process = Process::new(&namespace, &request.container_id, &request.exec_id);
        let resized = self.0.tasks.resize(process, request.width, request.height);
        Ok(Response::new(resized.await?))
    }

    async fn close_io(&self, request: Request<CloseIoRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let process = Process::new(&namespace, &request.container_id, &request.exec_id);
        if request.stdin {
            self.0.tasks.close_input(process).await?;
        }
        Ok(Response::new(()))
    }

    async fn pause(&self, request: Request<PauseTaskRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let id = &request.get_ref().container_id;
        self.0.tasks.pause(&namespace, id).await?;
        Ok(Response::new(()))
    }

    async fn resume(&self, request: Request<ResumeTaskRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let id = &request.get_ref().container_id;
        self.0.tasks.resume(&namespace, id).await?;
        Ok(Response::new(()))
    }

    async fn list_pids(
        &self,
        request: Request<ListPidsRequest>,
    ) -> Result<Response<ListPidsResponse>, Status> {
        let namespace = namespace(&request)?;
        let id = &request.get_ref().container_id;
        let processes = self.0.tasks.pids(&namespace, id).await?;
        Ok(Response::new(ListPidsResponse { processes }))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointTaskRequest>,
    ) -> Result<Response<CheckpointTaskResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let request = request.into_inner();
        let dump = Dump {
            namespace,
            id: request.container_id,
            options: request.options.filter(|any| !any.type_url.is_empty()),
            lease,
        };
        let blobs = self.0.tasks.checkpoint(dump).await?.into_iter();
        let descriptors = blobs.map(|blob| Descriptor {
            media_type: blob.media_type,
            digest: blob.digest,
            size: blob.size,
            annotations: blob.annotations,
        });
        let descriptors = descriptors.collect();
        Ok(Response::new(CheckpointTaskResponse { descriptors }))
    }

    async fn update(&self, request: Request<UpdateTaskRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let (id, resources) = (request.container_id, request.resources);
        let updated = self
            .0
            .tasks
            .update(&namespace, &id, resources, request.annotations);
        Ok(Response::new(updated.await?))
    }

    async fn metrics(
        &self,
        request: Request<MetricsRequest>,
    ) -> Result<Response<MetricsResponse>, Status> {
        let namespace = namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let metrics = self.0.tasks.metrics(&namespace, &filters).await;
        let metrics = metrics.into_iter().map(|(id, data)| Metric {
            timestamp: Some(timestamp(now())),
            id,
            data,
        });
        let metrics = metrics.collect();
        Ok(Response::new(MetricsResponse { metrics }))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let ended = self.0.tasks.wait(Process::new(
            &namespace,
            &request.container_id,
            &request.exec_id,
        ));
        // Clients may wait for as long as containers run.
        let (exit_status, exited_at) = tokio::select! {
            ended = ended => ended?,
            () = self.0.ended() => {
                return Err(Error::new(Code::Unavailable, "the daemon is ending").into());
            }
        };
        Ok(Response::new(WaitResponse {
            exit_status,
            exited_at,
        }))
    }
}
