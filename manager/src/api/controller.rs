//! The lives of sandboxes that shims hold.

use knarr_proto::services::sandbox::v1::controller_server::Controller;
use knarr_proto::services::sandbox::v1::{
    ControllerCreateRequest, ControllerCreateResponse, ControllerMetricsRequest,
    ControllerMetricsResponse, ControllerPlatformRequest, ControllerPlatformResponse,
    ControllerShutdownRequest, ControllerShutdownResponse, ControllerStartRequest,
    ControllerStartResponse, ControllerStatusRequest, ControllerStatusResponse,
    ControllerStopRequest, ControllerStopResponse, ControllerUpdateRequest,
    ControllerUpdateResponse, ControllerWaitRequest, ControllerWaitResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, namespace, required, sandboxes, timestamp};
use crate::error::{Code, Error, Result};
use crate::store::database::now;
use crate::task::PodOrder;

/// The only controller that there is.
const SHIM: &str = "shim";

fn check_sandboxer(name: &str) -> Result<()> {
    match name {
        SHIM => Ok(()),
        "" => Err(Error::invalid("sandbox controller name can not be empty")),
        other => Err(Error::not_found(format!(
            "failed to get sandbox controller by {other}"
        ))),
    }
}

#[async_trait]
impl Controller for Api {
    async fn create(
        &self,
        request: Request<ControllerCreateRequest>,
    ) -> Result<Response<ControllerCreateResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let sandboxer = match (&*request.sandboxer, &request.sandbox) {
            ("", Some(sandbox)) => &sandbox.sandboxer,
            (name, _) => name,
        };
        check_sandboxer(sandboxer)?;
        let (id, sandbox) = match request.sandbox {
            Some(sandbox) => sandboxes::from_wire(sandbox),
            None => {
                let known = self.0.sandboxes.get(&namespace, &request.sandbox_id)?;
                (known.id, known.sandbox)
            }
        };
        let id = match request.sandbox_id.is_empty() {
            true => id,
            false => request.sandbox_id,
        };
        let order = PodOrder {
            sandbox,
            rootfs: request.rootfs,
            options: request.options,
            netns: request.netns_path,
            annotations: request.annotations,
        };
        self.0.pods.create(&namespace, &id, order).await?;
        let sandbox_id = id;
        Ok(Response::new(ControllerCreateResponse { sandbox_id }))
    }

    async fn start(
        &self,
        request: Request<ControllerStartRequest>,
    ) -> Result<Response<ControllerStartResponse>, Status> {
        let namespace = namespace(&request)?;
        let ControllerStartRequest {
            sandbox_id,
            sandboxer,
        } = request.into_inner();
        check_sandboxer(&sandboxer)?;
        let started = self.0.pods.start(&namespace, &sandbox_id).await?;
        let at = self.0.pods.address(&namespace, &sandbox_id)?;
        Ok(Response::new(ControllerStartResponse {
            sandbox_id,
            pid: started.pid,
            created_at: started.created_at,
            spec: started.spec,
            address: at.address,
            version: at.version,
            ..ControllerStartResponse::default()
        }))
    }

    async fn platform(
        &self,
        request: Request<ControllerPlatformRequest>,
    ) -> Result<Response<ControllerPlatformResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        check_sandboxer(&request.sandboxer)?;
        let platform = self.0.pods.platform(&namespace, &request.sandbox_id);
        let platform = platform.await?;
        Ok(Response::new(ControllerPlatformResponse { platform }))
    }

    async fn stop(
        &self,
        request: Request<ControllerStopRequest>,
    ) -> Result<Response<ControllerStopResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        check_sandboxer(&request.sandboxer)?;
        let seconds = request.timeout_secs;
        let stopped = self.0.pods.stop(&namespace, &request.sandbox_id, seconds);
        stopped.await?;
        Ok(Response::new(ControllerStopResponse {}))
    }

    async fn wait(
        &self,
        request: Request<ControllerWaitRequest>,
    ) -> Result<Response<ControllerWaitResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        check_sandboxer(&request.sandboxer)?;
        let end = self.0.pods.wait(&namespace, &request.sandbox_id).await?;
        Ok(Response::new(ControllerWaitResponse {
            exit_status: end.exit_status,
            exited_at: end.exited_at,
        }))
    }

    async fn status(
        &self,
        request: Request<ControllerStatusRequest>,
    ) -> Result<Response<ControllerStatusResponse>, Status> {
        let namespace = namespace(&request)?;
        let ControllerStatusRequest {
            sandbox_id,
            sandboxer,
            verbose,
        } = request.into_inner();
        check_sandboxer(&sandboxer)?;
        let status = match self.0.pods.status(&namespace, &sandbox_id, verbose).await {
            Ok(status) => status,
            // What is not there has ended: clients ask until it has.
            Err(error) if error.code() == Code::NotFound => {
                return Ok(Response::new(ControllerStatusResponse {
                    sandbox_id,
                    exited_at: Some(timestamp(now())),
                    ..ControllerStatusResponse::default()
                }));
            }
            Err(error) => return Err(error.into()),
        };
        let at = self.0.pods.address(&namespace, &sandbox_id).ok();
        let (address, version) = at.map(|at| (at.address, at.version)).unwrap_or_default();
        Ok(Response::new(ControllerStatusResponse {
            sandbox_id,
            pid: status.pid,
            state: status.state,
            info: status.info,
            created_at: status.created_at,
            exited_at: status.exited_at,
            extra: status.extra,
            address,
            version,
        }))
    }

    async fn shutdown(
        &self,
        request: Request<ControllerShutdownRequest>,
    ) -> Result<Response<ControllerShutdownResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        check_sandboxer(&request.sandboxer)?;
        self.0
            .pods
            .shutdown(&namespace, &request.sandbox_id)
            .await?;
        Ok(Response::new(ControllerShutdownResponse {}))
    }

    async fn metrics(
        &self,
        request: Request<ControllerMetricsRequest>,
    ) -> Result<Response<ControllerMetricsResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        check_sandboxer(&request.sandboxer)?;
        let metrics = self.0.pods.metrics(&namespace, &request.sandbox_id).await?;
        Ok(Response::new(ControllerMetricsResponse { metrics }))
    }

    async fn update(
        &self,
        request: Request<ControllerUpdateRequest>,
    ) -> Result<Response<ControllerUpdateResponse>, Status> {
        let namespace = namespace(&request)?;
        let ControllerUpdateRequest {
            sandbox_id,
            sandboxer,
            sandbox,
            fields,
        } = request.into_inner();
        check_sandboxer(&sandboxer)?;
        let sandbox = required(sandbox, "sandbox")?;
        let told = self.0.pods.update(&namespace, &sandbox_id, sandbox, fields);
        told.await?;
        Ok(Response::new(ControllerUpdateResponse {}))
    }
}
