//! Services that clients know and this daemon does not offer yet.

use knarr_proto::services::diff::v1 as diff;
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

missing!(diff::diff_server::Diff, "diff.Diff":
    apply(diff::ApplyRequest) -> diff::ApplyResponse;
    diff(diff::DiffRequest) -> diff::DiffResponse;
);
