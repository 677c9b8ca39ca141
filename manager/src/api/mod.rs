//! The containerd API: one file a service. Each translates a request, asks the core, translates the
//! answer; nothing is decided here.

mod containers;
mod content;
mod controller;
mod credentials;
mod diff;
mod events;
mod images;
mod introspection;
mod leases;
mod mounts;
mod namespaces;
mod pipe;
mod plugins;
mod sandboxes;
mod snapshots;
mod streaming;
mod tasks;
mod transfer;
mod version;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use knarr_proto::any;
use knarr_proto::prost::{Message, Name};
use knarr_proto::services::{
    containers::v1::containers_server::ContainersServer,
    content::v1::content_server::ContentServer, diff::v1::diff_server::DiffServer,
    events::v1::events_server::EventsServer, images::v1::images_server::ImagesServer,
    introspection::v1::introspection_server::IntrospectionServer,
    leases::v1::leases_server::LeasesServer, mounts::v1::mounts_server::MountsServer,
    namespaces::v1::namespaces_server::NamespacesServer,
    sandbox::v1::controller_server::ControllerServer, sandbox::v1::store_server::StoreServer,
    snapshots::v1::snapshots_server::SnapshotsServer,
    streaming::v1::streaming_server::StreamingServer, tasks::v1::tasks_server::TasksServer,
    transfer::v1::transfer_server::TransferServer, version::v1::version_server::VersionServer,
};
use prost_types::{Any, FieldMask, Timestamp};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::RoutesBuilder;
use tonic::{Request, Status};

use crate::error::{Code, Error, Result};
use crate::manager::Manager;
use crate::store::name;
use crate::store::schema::Typed;

/// The largest message, in bytes: what clients take and send.
const LARGEST: usize = 16 << 20;

/// How many records go into one message of a stream.
const PAGE: usize = 100;

/// All services, as one manager sees them, and the streams that clients have opened for them.
#[derive(Debug, Clone)]
struct Api(Arc<Manager>, streaming::Streams);

/// A stream of answers.
type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// The services of a manager, health and reflection among them.
///
/// # Errors
/// Where the descriptors of the API can't be read.
pub async fn routes(manager: Arc<Manager>) -> Result<Routes> {
    let api = Api(manager, streaming::Streams::default());
    let mut routes = RoutesBuilder::default();
    let mut reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(knarr_proto::FILE_DESCRIPTOR_SET);
    let (health, health_server) = tonic_health::server::health_reporter();
    macro_rules! serve {
        ($($server:ident),* $(,)?) => {$(
            let server = $server::new(api.clone())
                .max_decoding_message_size(LARGEST)
                .max_encoding_message_size(LARGEST);
            routes.add_service(server);
            reflection = reflection.with_service_name(<$server<Api> as NamedService>::NAME);
            health.set_serving::<$server<Api>>().await;
        )*};
    }
    serve!(
        ContainersServer,
        ContentServer,
        ControllerServer,
        DiffServer,
        EventsServer,
        ImagesServer,
        IntrospectionServer,
        LeasesServer,
        MountsServer,
        NamespacesServer,
        SnapshotsServer,
        StoreServer,
        StreamingServer,
        TasksServer,
        TransferServer,
        VersionServer,
    );
    let reflection = reflection
        .build_v1()
        .map_err(|error| Error::internal(format!("reflection: {error}")))?;
    routes.add_service(reflection);
    routes.add_service(health_server);
    Ok(routes.routes())
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match error.code() {
            Code::NotFound => tonic::Code::NotFound,
            Code::AlreadyExists => tonic::Code::AlreadyExists,
            Code::FailedPrecondition => tonic::Code::FailedPrecondition,
            Code::InvalidArgument => tonic::Code::InvalidArgument,
            Code::Unavailable => tonic::Code::Unavailable,
            Code::ResourceExhausted => tonic::Code::ResourceExhausted,
            Code::OutOfRange => tonic::Code::OutOfRange,
            Code::DataLoss => tonic::Code::DataLoss,
            Code::Unimplemented => tonic::Code::Unimplemented,
            Code::Cancelled => tonic::Code::Cancelled,
            Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
            Code::PermissionDenied => tonic::Code::PermissionDenied,
            Code::Unknown => tonic::Code::Unknown,
            // As containerd has it, which knows no code for this.
            Code::Unauthenticated => tonic::Code::Unknown,
            Code::Internal => tonic::Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// The namespace that a request is about.
fn namespace<T>(request: &Request<T>) -> Result<String> {
    let name = header(request.metadata(), "containerd-namespace");
    let name = name.ok_or_else(|| Error::precondition("namespace is required"))?;
    name::check(&name).map_err(|error| error.context("namespace validation"))?;
    Ok(name)
}

/// The lease that is to keep what a request makes.
fn lease<T>(request: &Request<T>) -> Option<String> {
    header(request.metadata(), "containerd-lease")
}

fn header(metadata: &MetadataMap, name: &str) -> Option<String> {
    let value = metadata.get(name)?.to_str().ok()?;
    Some(value)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

/// A part of a request that has to be there.
fn required<T>(part: Option<T>, name: &str) -> Result<T> {
    part.ok_or_else(|| Error::invalid(format!("{name} is missing in the request")))
}

/// A message of that type.
fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M> {
    any::unpack(any).map_err(|error| Error::invalid(error.to_string()))
}

fn paths(mask: Option<FieldMask>) -> Vec<String> {
    mask.map(|mask| mask.paths).unwrap_or_default()
}

/// A time from nanoseconds since 1970.
fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp {
        seconds: nanoseconds.div_euclid(1_000_000_000),
        nanos: i32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// Nanoseconds since 1970; times that are further away than those can say end there.
fn nanoseconds(time: Timestamp) -> i64 {
    let seconds = time.seconds.saturating_mul(1_000_000_000);
    seconds.saturating_add(time.nanos.into())
}

fn typed(map: BTreeMap<String, Any>) -> BTreeMap<String, Typed> {
    let entries = map.into_iter();
    entries.map(|(key, value)| (key, value.into())).collect()
}

fn untyped(map: BTreeMap<String, Typed>) -> BTreeMap<String, Any> {
    let entries = map.into_iter();
    entries.map(|(key, value)| (key, value.into())).collect()
}

/// A length, which the API has a sign for.
fn signed(length: u64) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Records as a stream, `answer` makes a message of some.
fn pages<T: 'static, A: Send + 'static>(
    mut records: Vec<T>,
    answer: impl Fn(Vec<T>) -> A,
) -> Answers<A> {
    let mut answers = Vec::new();
    while !records.is_empty() {
        let rest = records.split_off(records.len().min(PAGE));
        answers.push(Ok(answer(std::mem::replace(&mut records, rest))));
    }
    Box::pin(tokio_stream::iter(answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        for time in [0, 1, -1, 1_700_000_000_123_456_789, i64::MAX, i64::MIN] {
            let there = timestamp(time);
            assert!((0..1_000_000_000).contains(&there.nanos));
            // Below the smallest second there is no further one.
            let back = nanoseconds(there);
            assert!(back == time || time == i64::MIN, "{time} {back}");
        }
        let far = Timestamp {
            seconds: i64::MAX,
            nanos: i32::MAX,
        };
        assert_eq!(nanoseconds(far), i64::MAX);
    }

    #[test]
    fn pages_hold_everything() {
        let none = pages(Vec::<usize>::new(), |some| some.len());
        assert_eq!(size(none), (0, Some(0)));
        assert_eq!(
            size(pages((0..PAGE + 1).collect(), |some| some.len())),
            (2, Some(2))
        );
    }

    fn size<T>(answers: Answers<T>) -> (usize, Option<usize>) {
        tokio_stream::Stream::size_hint(&*answers)
    }
}
