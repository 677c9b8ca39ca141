//! Pushing, where the registry does not do its part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use knarr_manager::error::{Code, Error, Result};
use knarr_manager::registry::{Descriptor, Future, Pushed, Source, media_type};

use crate::scripted::{Login, Reply, Seen, Server, sha256, some_bytes};

/// Bytes at hand, as what is pushed.
#[derive(Debug)]
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl Source for Memory {
    fn read(&self, offset: u64, length: usize) -> Future<'_, Result<Bytes>> {
        let rest = &self.0[usize::try_from(offset).unwrap()..];
        let bytes = Bytes::copy_from_slice(&rest[..length.min(rest.len())]);
        Box::pin(async { Ok(bytes) })
    }
}

pub(crate) fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::new(
        "application/octet-stream",
        sha256(bytes),
        bytes.len() as u64,
    )
}

async fn push(server: &Server, bytes: &[u8], mounts: &[&str]) -> Result<Pushed> {
    let source = Arc::new(Memory(bytes.to_vec()));
    let sent = Arc::new(AtomicU64::new(0));
    let pushed = server
        .client()
        .push_blob(&blob(bytes), source, mounts, Arc::clone(&sent))
        .await?;
    if pushed == Pushed::Sent {
        assert_eq!(sent.load(Ordering::Relaxed), bytes.len() as u64);
    }
    Ok(pushed)
}

fn has_digest(seen: &Seen, bytes: &[u8]) -> bool {
    seen.target.ends_with(&format!("digest={}", sha256(bytes)))
}

#[tokio::test]
async fn what_is_there_is_not_sent() {
    let server = Server::start(|_, _| Reply::head(200, &[("content-length", "5")])).await;
    assert_eq!(push(&server, b"hello", &[]).await.unwrap(), Pushed::Existed);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn another_repository_has_it() {
    let server = Server::start(|seen, _| match (seen.method.as_str(), &seen.target) {
        ("POST", target) if target.contains("from=c/d") => Reply::new(201, &[], ""),
        ("POST", _) => Reply::new(202, &[("location", "/v2/a/b/blobs/uploads/1")], ""),
        ("DELETE", _) => Reply::new(204, &[], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    let pushed = push(&server, b"hello", &["../x", "e/f", "c/d"])
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    // What the registry opened in vain is taken back.
    server.wait_for("DELETE /v2/a/b/blobs/uploads/1").await;
}

#[tokio::test]
async fn no_repository_has_it() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "POST" if seen.target.contains("mount=") => {
            Reply::new(202, &[("location", "/v2/a/b/blobs/uploads/1")], "")
        }
        "POST" => Reply::new(202, &[("location", "2?state=x%2Fy")], ""),
        "PUT" => Reply::new(201, &[], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    assert_eq!(
        push(&server, b"hello", &["c/d"]).await.unwrap(),
        Pushed::Sent
    );
    let seen = server.seen();
    let put = seen.iter().find(|seen| seen.method == "PUT").unwrap();
    // A relative Location, its query kept.
    assert!(
        put.target
            .starts_with("/v2/a/b/blobs/uploads/2?state=x%2Fy&digest="),
        "{}",
        put.target
    );
    assert!(has_digest(put, b"hello"));
    assert_eq!(put.body, b"hello");
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_credentials() {
    let far = Server::start(|_, _| Reply::new(201, &[], "")).await;
    let location = format!("http://{}/up?s=1", far.name);
    let near =
        Server::start(
            move |seen, _| match (seen.method.as_str(), seen.header("authorization")) {
                (_, None) => Reply::new(401, &[("www-authenticate", "Basic realm=x")], ""),
                ("POST", _) => Reply::new(202, &[("location", &location)], ""),
                _ => Reply::new(404, &[], ""),
            },
        )
        .await;
    let client = near.client_as(Login::password());
    let source = Arc::new(Memory(b"hello".to_vec()));
    client
        .push_blob(&blob(b"hello"), source, &[], Arc::default())
        .await
        .unwrap();
    let came = &far.seen()[0];
    assert_eq!(came.header("authorization"), None);
    assert!(came.target.starts_with("/up?s=1&digest=sha256:"));
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_was() {
    let bytes = some_bytes(500_000);
    let server = Server::start(|seen, number| match (seen.method.as_str(), number) {
        ("POST", _) => Reply::new(202, &[("location", "/v2/a/b/blobs/uploads/1?s=0")], ""),
        // All of it came, and the answer did not.
        ("PUT", 2) => Reply::head(0, &[]),
        ("GET", _) => {
            let headers = [
                ("location", "/v2/a/b/blobs/uploads/1?s=1"),
                ("range", "0-199999"),
            ];
            Reply::new(204, &headers, "")
        }
        ("PATCH", _) => {
            assert_eq!(seen.header("content-range"), Some("200000-499999"));
            assert_eq!(seen.body.len(), 300_000);
            Reply::new(202, &[("location", "/v2/a/b/blobs/uploads/1?s=2")], "")
        }
        ("PUT", _) => Reply::new(201, &[], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    assert_eq!(push(&server, &bytes, &[]).await.unwrap(), Pushed::Sent);
    let seen = server.seen();
    let last = seen.last().unwrap();
    assert!(
        last.target
            .starts_with("/v2/a/b/blobs/uploads/1?s=2&digest=")
    );
    assert!(last.body.is_empty());
    assert!(!server.lines().iter().any(|line| line.starts_with("DELETE")));
}

#[tokio::test]
async fn an_upload_that_is_gone_begins_anew() {
    let server = Server::start(|seen, number| match (seen.method.as_str(), number) {
        ("POST", _) => Reply::new(202, &[("location", "/up")], ""),
        ("PUT", 2) => Reply::new(404, &[], r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#),
        ("PUT", _) => Reply::new(201, &[], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    assert_eq!(push(&server, b"hello", &[]).await.unwrap(), Pushed::Sent);
    let posts = server
        .lines()
        .iter()
        .filter(|line| line.starts_with("POST"))
        .count();
    assert_eq!(posts, 2);
}

#[tokio::test]
async fn registries_that_take_only_pieces() {
    let bytes = some_bytes(40 << 20);
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "POST" => {
            let headers = [("location", "/up"), ("oci-chunk-min-length", "17000000")];
            Reply::new(202, &headers, "")
        }
        "PUT" if !seen.body.is_empty() => Reply::new(413, &[], ""),
        "PUT" => Reply::new(201, &[], ""),
        "PATCH" | "DELETE" => Reply::new(202, &[("location", "/up")], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    assert_eq!(push(&server, &bytes, &[]).await.unwrap(), Pushed::Sent);
    let seen = server.seen();
    let pieces: Vec<&Seen> = seen.iter().filter(|seen| seen.method == "PATCH").collect();
    let all: Vec<u8> = pieces.iter().flat_map(|seen| seen.body.clone()).collect();
    assert!(all == bytes);
    assert_eq!(pieces[0].header("content-range"), Some("0-16999999"));
    assert_eq!(pieces.len(), 3);
}

#[tokio::test]
async fn what_will_not_be_finished_is_taken_back() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "POST" => Reply::new(202, &[("location", "/up")], ""),
        "PUT" => Reply::new(
            400,
            &[],
            r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#,
        ),
        "DELETE" => Reply::new(204, &[], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    let error = push(&server, b"hello", &[]).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.to_string().contains("DIGEST_INVALID: no"), "{error}");
    server.wait_for("DELETE /up").await;
}

#[tokio::test]
async fn an_upload_whose_caller_has_gone_is_taken_back() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "POST" => Reply::new(202, &[("location", "/up")], ""),
        "PUT" => Reply::head(100, &[]).pause(Duration::from_secs(60)),
        "DELETE" => Reply::new(204, &[], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    let client = server.client();
    let pushing = tokio::spawn(async move {
        let source = Arc::new(Memory(b"hello".to_vec()));
        client
            .push_blob(&blob(b"hello"), source, &[], Arc::default())
            .await
    });
    server.wait_for("PUT /up").await;
    pushing.abort();
    server.wait_for("DELETE /up").await;
}

/// Content that cannot be read.
#[derive(Debug)]
struct Lost;

impl Source for Lost {
    fn read(&self, _: u64, _: usize) -> Future<'_, Result<Bytes>> {
        Box::pin(async { Err(Error::new(Code::DataLoss, "the blob is torn")) })
    }
}

#[tokio::test]
async fn a_source_that_fails_ends_the_push() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "POST" => Reply::new(202, &[("location", "/up")], ""),
        "PUT" => Reply::new(201, &[], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    let descriptor = blob(b"hello");
    let pushed = server
        .client()
        .push_blob(&descriptor, Arc::new(Lost), &[], Arc::default())
        .await;
    let error = pushed.unwrap_err();
    assert_eq!(error.to_string(), "the blob is torn: data loss");
    server.wait_for("DELETE /up").await;
}

#[tokio::test]
async fn another_digest_than_was_sent() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "POST" => Reply::new(202, &[("location", "/up")], ""),
        "PUT" => Reply::new(201, &[("docker-content-digest", sha256(b"x").as_str())], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    let error = push(&server, b"hello", &[]).await.unwrap_err();
    assert!(error.to_string().contains("has stored"), "{error}");
}

#[tokio::test]
async fn manifests_go_as_they_are_and_tell_of_their_subject() {
    let subject = sha256(b"subject");
    let kind = media_type::OCI_MANIFEST;
    let text = format!(
        "{{ \"mediaType\":\"{kind}\", \"artifactType\":\"k/a\",\n\"annotations\":{{\"a\":\"b\"}}, \
         \"subject\":{{\"mediaType\":\"{kind}\",\"digest\":\"{subject}\",\"size\":7}} }}"
    );
    let descriptor = Descriptor::new(kind, sha256(text.as_bytes()), text.len() as u64);
    let noted = subject.to_string();
    let server = Server::start(move |seen, _| match seen.method.as_str() {
        "PUT" => Reply::new(201, &[("oci-subject", &noted)], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    let body = Bytes::from(text.clone());
    let pushed = server
        .client()
        .push_manifest(&descriptor, body.clone(), None)
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Sent);
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(
        seen[1].line(),
        format!("PUT /v2/a/b/manifests/{}", descriptor.digest)
    );
    assert_eq!(seen[1].header("content-type"), Some(kind));
    assert_eq!(seen[1].body, text.as_bytes());

    // A registry that does not note it: the list under the tag is kept by the client.
    let other = format!(
        r#"{{"schemaVersion":2,"annotations":{{"keep":"me"}},"manifests":[{{"mediaType":"{kind}","digest":"{}","size":1}}]}}"#,
        sha256(b"o")
    );
    let server = Server::start(move |seen, _| match seen.method.as_str() {
        "PUT" => Reply::new(201, &[], ""),
        "GET" => Reply::new(200, &[], &other),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    server
        .client()
        .push_manifest(&descriptor, body, Some("v1"))
        .await
        .unwrap();
    let seen = server.seen();
    assert_eq!(seen[1].line(), "PUT /v2/a/b/manifests/v1");
    let last = seen.last().unwrap();
    assert_eq!(
        last.line(),
        format!("PUT /v2/a/b/manifests/sha256-{}", subject.hex())
    );
    let list = String::from_utf8(last.body.clone()).unwrap();
    for part in [
        "keep",
        sha256(b"o").as_str(),
        descriptor.digest.as_str(),
        "k/a",
        "\"a\":\"b\"",
    ] {
        assert!(list.contains(part), "{list}");
    }
}

#[tokio::test]
async fn a_tag_that_names_it_already() {
    let body = Bytes::from_static(b"{}");
    let descriptor = Descriptor::new(media_type::OCI_MANIFEST, sha256(&body), 2);
    let digest = descriptor.digest.to_string();
    let server =
        Server::start(move |_, _| Reply::head(200, &[("docker-content-digest", &digest)])).await;
    let pushed = server
        .client()
        .push_manifest(&descriptor, body, Some("v1"))
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Existed);
    let error = server
        .client()
        .push_manifest(&descriptor, Bytes::new(), None)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}
