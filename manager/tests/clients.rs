//! What clients ask that ctr does not: answers that dockerd and its builder rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

mod support;

use std::time::Duration;

use knarr_manager::store::digest::Algorithm;
use knarr_proto::services::content::v1::content_client::ContentClient;
use knarr_proto::services::content::v1::{InfoRequest, WriteAction, WriteContentRequest};
use knarr_proto::services::leases::v1::leases_client::LeasesClient;
use knarr_proto::services::leases::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};
use knarr_proto::services::namespaces::v1::namespaces_client::NamespacesClient;
use knarr_proto::services::namespaces::v1::{GetNamespaceRequest, ListNamespacesRequest};
use support::{Daemon, in_namespace};
use tonic::Code;

/// Docker 20.10 asks for the labels of its namespace before it has made anything there.
#[tokio::test]
async fn a_namespace_that_is_not_there_has_no_labels() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let mut namespaces = NamespacesClient::new(daemon.connect().await);
    let name = "moby".to_owned();
    let answer = namespaces.get(GetNamespaceRequest { name }).await.unwrap();
    let namespace = answer.into_inner().namespace.unwrap();
    assert_eq!(namespace.name, "moby");
    assert!(namespace.labels.is_empty());
    let listed = namespaces.list(ListNamespacesRequest::default()).await;
    assert!(listed.unwrap().into_inner().namespaces.is_empty());
}

/// Docker's classic builder takes whatever name it is given.
#[tokio::test]
async fn a_lease_without_a_name_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let mut leases = LeasesClient::new(daemon.connect().await);
    let mut made = Vec::new();
    for _ in 0..2 {
        let answer = leases.create(in_namespace(CreateRequest::default())).await;
        made.push(answer.unwrap().into_inner().lease.unwrap());
    }
    assert!(
        !made[0].id.is_empty() && made[0].id != made[1].id,
        "{made:?}"
    );
    let listed = leases.list(in_namespace(ListRequest::default())).await;
    assert_eq!(listed.unwrap().into_inner().leases.len(), 2);
    let add = |kind: &str, what: &str| {
        in_namespace(AddResourceRequest {
            id: made[0].id.clone(),
            resource: Some(Resource {
                id: what.to_owned(),
                r#type: kind.to_owned(),
            }),
        })
    };
    leases.add_resource(add("ingests", "a")).await.unwrap();
    let wrong = leases.add_resource(add("content", "")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong}");
    let nameless = leases.delete(in_namespace(DeleteRequest::default())).await;
    assert_eq!(nameless.unwrap_err().code(), Code::NotFound);
}

/// Whoever asks for a collection has had it: what comes after is not collected by one more.
#[tokio::test]
async fn one_collection_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    let channel = daemon.connect().await;
    let mut leases = LeasesClient::new(channel.clone());
    let id = "l".to_owned();
    let lease = CreateRequest {
        id: id.clone(),
        ..CreateRequest::default()
    };
    leases.create(in_namespace(lease)).await.unwrap();
    let sync = true;
    let gone = leases
        .delete(in_namespace(DeleteRequest { id, sync }))
        .await;
    gone.unwrap();

    let mut content = ContentClient::new(channel);
    let digest = Algorithm::Sha256.digest(b"nobody's").to_string();
    let blob = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: "r".into(),
        total: 8,
        expected: digest.clone(),
        data: b"nobody's".to_vec().into(),
        ..WriteContentRequest::default()
    };
    let request = in_namespace(tokio_stream::iter([blob]));
    let mut answers = content.write(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    // Longer than the daemon waits before it collects by itself.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let info = content.info(in_namespace(InfoRequest { digest })).await;
    info.unwrap();
}
