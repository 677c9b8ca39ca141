//! Services that clients know and this daemon does not offer yet.

use knarr_proto::services::{
    diff::v1 as diff, mounts::v1 as mounts, sandbox::v1 as sandbox, tasks::v1 as tasks,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Answers, Api};
use crate::error::{Code, Error};

/// What every method here answers.
fn missing(service: &str, method: &str) -> Status {
    Error::new(
        Code::Unimplemented,
        format!("{service}.{method}: this daemon has no such service yet"),
    )
    .into()
}

macro_rules! missing {
    ($service:path, $name:literal: $($method:ident($request:ty) -> $response:ty;)*) => {
        #[async_trait]
        impl $service for Api {$(
            async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(missing($name, stringify!($method)))
            }
        )*}
    };
}

missing!(tasks::tasks_server::Tasks, "tasks.Tasks":
    create(tasks::CreateTaskRequest) -> tasks::CreateTaskResponse;
    start(tasks::StartRequest) -> tasks::StartResponse;
    delete(tasks::DeleteTaskRequest) -> tasks::DeleteResponse;
    delete_process(tasks::DeleteProcessRequest) -> tasks::DeleteResponse;
    get(tasks::GetRequest) -> tasks::GetResponse;
    list(tasks::ListTasksRequest) -> tasks::ListTasksResponse;
    kill(tasks::KillRequest) -> ();
    exec(tasks::ExecProcessRequest) -> ();
    resize_pty(tasks::ResizePtyRequest) -> ();
    close_io(tasks::CloseIoRequest) -> ();
    pause(tasks::PauseTaskRequest) -> ();
    resume(tasks::ResumeTaskRequest) -> ();
    list_pids(tasks::ListPidsRequest) -> tasks::ListPidsResponse;
    checkpoint(tasks::CheckpointTaskRequest) -> tasks::CheckpointTaskResponse;
    update(tasks::UpdateTaskRequest) -> ();
    metrics(tasks::MetricsRequest) -> tasks::MetricsResponse;
    wait(tasks::WaitRequest) -> tasks::WaitResponse;
);

missing!(diff::diff_server::Diff, "diff.Diff":
    apply(diff::ApplyRequest) -> diff::ApplyResponse;
    diff(diff::DiffRequest) -> diff::DiffResponse;
);

missing!(sandbox::controller_server::Controller, "sandbox.Controller":
    create(sandbox::ControllerCreateRequest) -> sandbox::ControllerCreateResponse;
    start(sandbox::ControllerStartRequest) -> sandbox::ControllerStartResponse;
    platform(sandbox::ControllerPlatformRequest) -> sandbox::ControllerPlatformResponse;
    stop(sandbox::ControllerStopRequest) -> sandbox::ControllerStopResponse;
    wait(sandbox::ControllerWaitRequest) -> sandbox::ControllerWaitResponse;
    status(sandbox::ControllerStatusRequest) -> sandbox::ControllerStatusResponse;
    shutdown(sandbox::ControllerShutdownRequest) -> sandbox::ControllerShutdownResponse;
    metrics(sandbox::ControllerMetricsRequest) -> sandbox::ControllerMetricsResponse;
    update(sandbox::ControllerUpdateRequest) -> sandbox::ControllerUpdateResponse;
);

#[async_trait]
impl mounts::mounts_server::Mounts for Api {
    async fn activate(
        &self,
        _: Request<mounts::ActivateRequest>,
    ) -> Result<Response<mounts::ActivateResponse>, Status> {
        Err(missing("mounts.Mounts", "activate"))
    }

    async fn deactivate(
        &self,
        _: Request<mounts::DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        Err(missing("mounts.Mounts", "deactivate"))
    }

    async fn info(
        &self,
        _: Request<mounts::InfoRequest>,
    ) -> Result<Response<mounts::InfoResponse>, Status> {
        Err(missing("mounts.Mounts", "info"))
    }

    async fn update(
        &self,
        _: Request<mounts::UpdateRequest>,
    ) -> Result<Response<mounts::UpdateResponse>, Status> {
        Err(missing("mounts.Mounts", "update"))
    }

    type ListStream = Answers<mounts::ListMessage>;

    async fn list(
        &self,
        _: Request<mounts::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Err(missing("mounts.Mounts", "list"))
    }
}
