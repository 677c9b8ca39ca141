//! Services that clients know and this daemon does not offer yet.

use knarr_proto::services::sandbox::v1 as sandbox;
use tonic::{Request, Response, Status, async_trait};

use super::Api;
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
