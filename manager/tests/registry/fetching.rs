//! Finding and fetching, where the registry does not do its part.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use knarr_manager::error::{Code, Error};
use knarr_manager::registry::{
    Access, Client, Descriptor, Limits, NoCredentials, Reference, Registry, Scheme, media_type,
};
use knarr_manager::store::digest::Algorithm;

use crate::scripted::{Login, Reply, Server, clear, limits, sha256, some_bytes};

/// All bytes from an offset on.
async fn fetch(client: &Client, descriptor: &Descriptor, offset: u64) -> Result<Vec<u8>, Error> {
    let mut blob = client.blob(descriptor, offset).await?;
    let mut all = Vec::new();
    while let Some(bytes) = blob.chunk().await? {
        all.extend_from_slice(&bytes);
    }
    assert_eq!(blob.offset(), descriptor.size);
    Ok(all)
}

fn layer(bytes: &[u8]) -> Descriptor {
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    Descriptor::new(kind, sha256(bytes), bytes.len() as u64)
}

fn manifest(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_MANIFEST, sha256(bytes), bytes.len() as u64)
}

#[tokio::test]
async fn a_name_is_looked_up_by_its_headers() {
    let digest = sha256(b"x");
    let text = digest.to_string();
    let server = Server::start(move |_, _| {
        let headers = [
            ("content-type", media_type::OCI_INDEX),
            ("docker-content-digest", &text),
            ("content-length", "1234"),
        ];
        Reply::head(200, &headers)
    })
    .await;
    let found = server.client().resolve().await.unwrap();
    assert_eq!(found, Descriptor::new(media_type::OCI_INDEX, digest, 1234));
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/tag"]);
    assert!(
        server.seen()[0]
            .header("accept")
            .unwrap()
            .contains(media_type::DOCKER_LIST)
    );
}

#[tokio::test]
async fn what_the_headers_leave_out_the_body_says() {
    let body = format!("{{\"mediaType\":\"{}\"}}", media_type::OCI_MANIFEST);
    let expected = manifest(body.as_bytes());
    let server = Server::start(move |seen, _| match seen.method.as_str() {
        "HEAD" => Reply::head(405, &[]),
        _ => Reply::new(200, &[("content-type", "text/plain")], &body),
    })
    .await;
    assert_eq!(server.client().resolve().await.unwrap(), expected);
}

#[tokio::test]
async fn nothing_there() {
    let server = Server::start(|_, _| Reply::new(404, &[], "")).await;
    let error = server.client().resolve().await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(
        error.to_string(),
        format!("{}/a/b:tag: not found", server.name)
    );
    let error = server.client().manifest(&manifest(b"x")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let error = fetch(&server.client(), &layer(b"x"), 0).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn the_next_mirror_is_asked_where_one_fails() {
    let broken = Server::start(|_, _| Reply::new(500, &[], "")).await;
    let empty = Server::start(|_, _| Reply::new(404, &[], "")).await;
    let blob = some_bytes(1000);
    let descriptor = layer(&blob);
    let good = Server::start(move |_, _| Reply::new(200, &[], &blob)).await;
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("r.example");
    std::fs::create_dir(&host).unwrap();
    let entry = |server: &Server| format!("[host.\"http://{}\"]\n", server.name);
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:1\"]\n{}{}{}",
        entry(&broken),
        entry(&empty),
        entry(&good)
    );
    std::fs::write(host.join("hosts.toml"), text).unwrap();
    let mut access = Access::new(Arc::new(NoCredentials));
    access.hosts.dirs = vec![dir.path().to_owned()];
    let reference = Reference::parse("r.example/a/b:tag").unwrap();
    let client = Registry::new(limits()).client(&reference, &access).unwrap();
    assert_eq!(
        sha256(&fetch(&client, &descriptor, 0).await.unwrap()),
        descriptor.digest
    );
    // A mirror is told for whom it stands, and a sick one is not waited for.
    assert!(good.seen()[0].target.ends_with("?ns=r.example"));
    assert_eq!(broken.seen().len(), 2);
    assert_eq!(empty.seen().len(), 1);
}

#[tokio::test]
async fn half_a_blob_is_followed_by_the_other_half() {
    let blob = some_bytes(100_000);
    let descriptor = layer(&blob);
    let data = blob.clone();
    let server = Server::start(move |seen, number| match (number, seen.range()) {
        (0, None) => Reply::head(200, &[("content-length", "100000")]).bytes(&data[..40_000]),
        (1, Some((40_000, last))) => {
            let range = format!("bytes 40000-{last}/100000");
            let headers = [
                ("content-range", range.as_str()),
                ("content-length", "60000"),
            ];
            Reply::head(206, &headers).bytes(&data[40_000..70_000])
        }
        (2, Some((70_000, last))) => Reply::range(&data, 70_000, last),
        _ => Reply::new(400, &[], ""),
    })
    .await;
    assert_eq!(fetch(&server.client(), &descriptor, 0).await.unwrap(), blob);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_registry_without_ranges_sends_all_again() {
    let blob = some_bytes(50_000);
    let descriptor = layer(&blob);
    let data = blob.clone();
    let server = Server::start(move |_, number| {
        let sent = if number == 0 { 20_000 } else { 50_000 };
        Reply::head(200, &[("content-length", "50000")]).bytes(&data[..sent])
    })
    .await;
    assert_eq!(fetch(&server.client(), &descriptor, 0).await.unwrap(), blob);
    assert_eq!(
        fetch(&server.client(), &descriptor, 49_000).await.unwrap(),
        &blob[49_000..]
    );
}

#[tokio::test]
async fn from_a_byte_on_and_from_the_end_on() {
    let blob = some_bytes(1000);
    let descriptor = layer(&blob);
    let data = blob.clone();
    let server = Server::start(move |seen, _| {
        let (first, last) = seen.range().unwrap();
        Reply::range(&data, first, last)
    })
    .await;
    assert_eq!(
        fetch(&server.client(), &descriptor, 600).await.unwrap(),
        &blob[600..]
    );
    let error = fetch(&server.client(), &descriptor, 1001)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
}

#[tokio::test]
async fn the_wrong_range_is_not_taken() {
    let blob = some_bytes(1000);
    for range in [
        "bytes 0-999/1000",
        "bytes 500-999/2000",
        "bytes 500-1000/*",
        "rubbish",
    ] {
        let data = blob.clone();
        let server =
            Server::start(move |_, _| Reply::new(206, &[("content-range", range)], &data[500..]))
                .await;
        let error = fetch(&server.client(), &layer(&blob), 500)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    }
}

#[tokio::test]
async fn a_blob_of_another_length_ends_the_transfer() {
    let blob = some_bytes(1000);
    for told in ["999", "1001", "99999999999"] {
        let data = blob.clone();
        let server =
            Server::start(move |_, _| Reply::new(200, &[("content-length", told)], &data)).await;
        let error = fetch(&server.client(), &layer(&blob), 0).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    }
    // Without a length ahead, it shows when one byte too many comes.
    let data = blob.clone();
    let server = Server::start(move |_, _| {
        let flood = Reply::head(200, &[]).bytes(&data);
        (0..1000).fold(flood, |flood, _| flood.bytes([0; 10_000]))
    })
    .await;
    let error = fetch(&server.client(), &layer(&blob), 0).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(
        error.to_string().contains("more than the 1000 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stalled_transfer_is_begun_anew() {
    let blob = some_bytes(10_000);
    let descriptor = layer(&blob);
    let data = blob.clone();
    let server = Server::start(move |seen, _| match seen.range() {
        None => Reply::head(200, &[("content-length", "10000")])
            .bytes(&data[..4000])
            .pause(Duration::from_secs(60)),
        Some((first, last)) => Reply::range(&data, first, last),
    })
    .await;
    let start = Instant::now();
    assert_eq!(fetch(&server.client(), &descriptor, 0).await.unwrap(), blob);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_dripping_transfer_ends() {
    let server = Server::start(|seen, _| {
        let first = seen.range().map_or(0, |(first, _)| first);
        let range = format!("bytes {first}-999999/1000000");
        let status = if first == 0 { 200 } else { 206 };
        let mut reply = Reply::head(status, &[("content-range", &range)]);
        for _ in 0..10_000 {
            reply = reply.bytes("x").pause(Duration::from_millis(20));
        }
        reply
    })
    .await;
    let limits = Limits {
        window: Duration::from_millis(200),
        ..limits()
    };
    let client = server.client_with(limits, Arc::new(NoCredentials), "a/b:tag");
    let descriptor = Descriptor::new("x", sha256(b""), 1_000_000);
    let error = fetch(&client, &descriptor, 0).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(
        error
            .to_string()
            .contains("slower than 1024 bytes a second"),
        "{error}"
    );
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn busy_registries_are_asked_again_when_they_want() {
    let body = "{}";
    let server = Server::start(move |_, number| match number {
        0 => Reply::new(429, &[("retry-after", "3600")], ""),
        1 => Reply::new(503, &[("retry-after", "0")], ""),
        _ => Reply::new(200, &[], body),
    })
    .await;
    let start = Instant::now();
    let found = server
        .client()
        .manifest(&manifest(body.as_bytes()))
        .await
        .unwrap();
    assert_eq!(found, body);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "a pause has a limit"
    );

    let server = Server::start(|_, _| {
        let text = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        Reply::new(429, &[], text)
    })
    .await;
    let error = server.client().manifest(&manifest(b"x")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(
        error.to_string().contains("429") && error.to_string().contains("slow down"),
        "{error}"
    );
}

#[tokio::test]
async fn redirects_carry_nothing_away() {
    let blob = some_bytes(1000);
    let descriptor = layer(&blob);
    let far = Server::start(move |_, _| Reply::new(200, &[], &blob)).await;
    let target = format!("http://{}/blob?signature=s", far.name);
    let near = Server::start(move |seen, _| match seen.header("authorization") {
        None => Reply::new(401, &[("www-authenticate", "Basic realm=x")], ""),
        Some(_) => Reply::new(307, &[("location", &target)], ""),
    })
    .await;
    let reference = Reference::parse(&format!("{}/a/b:tag", near.name)).unwrap();
    let mut access = clear(Login::password());
    access.header("x-secret", "1").unwrap();
    access.header("cookie", "c=1").unwrap();
    let client = Registry::new(limits()).client(&reference, &access).unwrap();
    assert_eq!(
        sha256(&fetch(&client, &descriptor, 0).await.unwrap()),
        descriptor.digest
    );
    assert!(near.seen()[1].header("x-secret").is_some());
    let came = &far.seen()[0];
    assert_eq!(came.target, "/blob?signature=s");
    for name in ["authorization", "x-secret", "cookie"] {
        assert_eq!(came.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn circles_and_other_schemes_end() {
    let server = Server::start(|seen, _| Reply::new(307, &[("location", &seen.target)], "")).await;
    let error = server.client().manifest(&manifest(b"x")).await.unwrap_err();
    assert!(
        error.to_string().contains("more than 10 redirects"),
        "{error}"
    );
    for location in [
        "file:///etc/passwd",
        "gopher://x/",
        "http://u:p@127.0.0.1/",
        "http://",
    ] {
        let server =
            Server::start(move |_, _| Reply::new(302, &[("location", location)], "")).await;
        let error = server.client().manifest(&manifest(b"x")).await.unwrap_err();
        assert!(
            error.to_string().contains("no URL of http or https"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn manifests_are_what_their_descriptors_say() {
    let serve = |body: &'static str| Server::start(move |_, _| Reply::new(200, &[], body));
    let of =
        |kind: &str, body: &str| Descriptor::new(kind, sha256(body.as_bytes()), body.len() as u64);
    let (image, index) = (media_type::OCI_MANIFEST, media_type::OCI_INDEX);
    for (body, descriptor, says) in [
        ("{ }", of(image, "{}1"), "unexpected digest"),
        ("{}", of(image, "{}1"), "2 of 3 bytes"),
        ("{}  ", of(image, "{}"), "longer than 2 bytes"),
        (
            r#"{"mediaType":"a/b"}"#,
            of(image, r#"{"mediaType":"a/b"}"#),
            "says that it is",
        ),
        (
            r#"{"manifests":[]}"#,
            of(image, r#"{"manifests":[]}"#),
            "may be read as either",
        ),
        (
            r#"{"layers":[]}"#,
            of(index, r#"{"layers":[]}"#),
            "may be read as either",
        ),
    ] {
        let server = serve(body).await;
        let error = server
            .client()
            .manifest(&descriptor)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{body}: {error}");
    }
    let long = Descriptor::new(image, sha256(b""), 1 << 40);
    let error = serve("").await.client().manifest(&long).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let sha512 = Descriptor::new(image, Algorithm::Sha512.digest(b"{}"), 2);
    assert_eq!(
        serve("{}").await.client().manifest(&sha512).await.unwrap(),
        "{}"
    );
}

#[tokio::test]
async fn large_blobs_come_in_ranges() {
    let blob = some_bytes(1_000_000);
    let descriptor = layer(&blob);
    let limits = Limits {
        split: 100_000,
        range: 64_000,
        ranges: 4,
        ..limits()
    };
    let data = blob.clone();
    let broken = Mutex::new(HashSet::new());
    let server = Server::start(move |seen, number| {
        let (first, last) = seen.range().unwrap();
        // One request in three breaks, and none of a part that broke before: chance must not let
        // one part break as often as it is tried.
        if number % 3 == 2 && last > first && broken.lock().unwrap().insert(last) {
            let range = format!("bytes {first}-{last}/1000000");
            return Reply::head(206, &[("content-range", &range)]).bytes(&data[first..first + 1]);
        }
        Reply::range(&data, first, last)
    })
    .await;
    let client = server.client_with(limits.clone(), Arc::new(NoCredentials), "a/b:tag");
    assert_eq!(fetch(&client, &descriptor, 0).await.unwrap(), blob);
    assert_eq!(
        fetch(&client, &descriptor, 123_456).await.unwrap(),
        &blob[123_456..]
    );

    // A registry without ranges sends all of it at once.
    let data = blob.clone();
    let server = Server::start(move |_, _| Reply::new(200, &[], &data)).await;
    let client = server.client_with(limits, Arc::new(NoCredentials), "a/b:tag");
    assert_eq!(fetch(&client, &descriptor, 0).await.unwrap(), blob);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn layers_that_registries_may_not_have_come_from_elsewhere() {
    let blob = some_bytes(1000);
    let mut descriptor = layer(&blob);
    let elsewhere = Server::start(move |_, _| Reply::new(200, &[], &blob)).await;
    let server = Server::start(|seen, _| match seen.header("authorization") {
        None => Reply::new(401, &[("www-authenticate", "Basic realm=x")], ""),
        Some(_) => Reply::new(404, &[], ""),
    })
    .await;
    descriptor.urls = vec![
        "ftp://x/y".to_owned(),
        format!("http://{}/foreign", elsewhere.name),
    ];
    let client = server.client_as(Login::password());
    assert_eq!(
        sha256(&fetch(&client, &descriptor, 0).await.unwrap()),
        descriptor.digest
    );
    assert_eq!(elsewhere.lines(), ["GET /foreign"]);
    assert_eq!(elsewhere.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn floods_of_headers_and_of_errors_end() {
    let server = Server::start(|_, _| {
        let all: Vec<(String, String)> = (0..100_000)
            .map(|number| (format!("x-{number}"), "y".repeat(100)))
            .collect();
        let all: Vec<(&str, &str)> = all
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Reply::head(200, &all)
    })
    .await;
    let error = server.client().manifest(&manifest(b"x")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");

    let server = Server::start(|_, _| Reply::new(403, &[], vec![b'x'; 10 << 20])).await;
    let error = server.client().manifest(&manifest(b"x")).await.unwrap_err();
    assert!(error.to_string().len() < 1000);
    let server = Server::start(|_, _| {
        let text = format!(
            r#"{{"errors":[{{"code":"DENIED","message":"{}"}}]}}"#,
            "x\\u0007".repeat(5000)
        );
        Reply::new(403, &[], text)
    })
    .await;
    let error = server
        .client()
        .manifest(&manifest(b"x"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.len() < 1000 && !error.contains('\u{7}') && error.contains("DENIED"),
        "{error}"
    );
}

#[tokio::test]
async fn lists_go_on_at_the_same_host() {
    let server = Server::start(|seen, _| match seen.target.as_str() {
        "/v2/a/b/tags/list?n=1000" => {
            let link = r#"</v2/a/b/tags/list?last=x&n=1>; rel="next""#;
            Reply::new(200, &[("link", link)], r#"{"name":"a/b","tags":["x"]}"#)
        }
        "/v2/a/b/tags/list?last=x&n=1" => Reply::new(200, &[], r#"{"tags":["y","z"]}"#),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    assert_eq!(server.client().tags().await.unwrap(), ["x", "y", "z"]);

    let server = Server::start(|_, _| {
        let link = r#"<http://127.0.0.1:1/v2/a/b/tags/list>; rel="next""#;
        Reply::new(200, &[("link", link)], r#"{"tags":null}"#)
    })
    .await;
    let error = server.client().tags().await.unwrap_err();
    assert!(error.to_string().contains("not the same host"), "{error}");

    let server = Server::start(|seen, _| {
        let link = format!("<{}>; rel=next", seen.target);
        Reply::new(200, &[("link", &link)], r#"{"tags":["x"]}"#)
    })
    .await;
    let limits = Limits {
        pages: 5,
        ..limits()
    };
    let client = server.client_with(limits, Arc::new(NoCredentials), "a/b");
    assert_eq!(client.tags().await.unwrap().len(), 5, "a list without end");
}

fn entry(digest: &str, kind: &str) -> String {
    let image = media_type::OCI_MANIFEST;
    format!(r#"{{"mediaType":"{image}","digest":"{digest}","size":2,"artifactType":"{kind}"}}"#)
}

fn index(entries: &[String]) -> String {
    let kind = media_type::OCI_INDEX;
    let entries = entries.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{entries}]}}"#)
}

#[tokio::test]
async fn referrers_by_list_and_by_tag() {
    let (one, two) = (sha256(b"1"), sha256(b"2"));
    let (a, b) = (entry(one.as_str(), "k/a"), entry(two.as_str(), "k/b"));
    let subject = sha256(b"s");
    let path = format!("/v2/a/b/referrers/{subject}");
    let (first, second) = (
        index(&[a.clone(), b.clone()]),
        index(&[entry(two.as_str(), "k/a")]),
    );
    let server = Server::start(move |seen, _| {
        if seen.target == format!("{path}?artifactType=k/a") {
            let link = format!("<{path}?page=2>; rel=\"next\"");
            Reply::new(200, &[("link", &link)], &first)
        } else {
            Reply::new(200, &[("oci-filters-applied", "artifactType")], &second)
        }
    })
    .await;
    let found = server
        .client()
        .referrers(&subject, Some("k/a"))
        .await
        .unwrap();
    let digests: Vec<_> = found.iter().map(|entry| entry.digest.clone()).collect();
    assert_eq!(digests, [one.clone(), two.clone()]);

    let tag = format!("/v2/a/b/manifests/sha256-{}", subject.hex());
    let list = index(&[a, b]);
    let server = Server::start(move |seen, _| {
        if seen.target == tag {
            Reply::new(200, &[], &list)
        } else {
            Reply::new(404, &[], "")
        }
    })
    .await;
    assert_eq!(
        server
            .client()
            .referrers(&subject, None)
            .await
            .unwrap()
            .len(),
        2
    );
    let found = server
        .client()
        .referrers(&subject, Some("k/b"))
        .await
        .unwrap();
    assert_eq!(found[0].digest, two);

    let server = Server::start(|_, _| Reply::new(404, &[], "")).await;
    assert!(
        server
            .client()
            .referrers(&subject, None)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn through_a_proxy() {
    let proxy = Server::start(|seen, _| match seen.method.as_str() {
        "CONNECT" => Reply::head(403, &[]),
        _ => Reply::new(200, &[], "{}"),
    })
    .await;
    let url = format!("http://me:s3cret@{}", proxy.name);
    let registry = Registry::proxied(limits(), &url, &url, "direct.example");
    let reference = Reference::parse("r.example/a/b:tag").unwrap();
    let client = |scheme| {
        let mut access = clear(Arc::new(NoCredentials));
        access.hosts.default_scheme = Some(scheme);
        registry.client(&reference, &access).unwrap()
    };
    let body = client(Scheme::Http)
        .manifest(&manifest(b"{}"))
        .await
        .unwrap();
    assert_eq!(body, "{}");
    let seen = &proxy.seen()[0];
    assert!(
        seen.target
            .starts_with("http://r.example/v2/a/b/manifests/"),
        "{}",
        seen.target
    );
    assert_eq!(
        seen.header("proxy-authorization"),
        Some("Basic bWU6czNjcmV0")
    );

    let error = client(Scheme::Https)
        .manifest(&manifest(b"{}"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("proxy {}", proxy.name)), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let seen = proxy.seen();
    let last = seen.last().unwrap();
    assert_eq!(
        (last.method.as_str(), last.target.as_str()),
        ("CONNECT", "r.example:443")
    );
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let reference = Reference::parse("127.0.0.1:1/a/b:tag").unwrap();
    let client = Registry::new(limits())
        .client(&reference, &clear(Arc::new(NoCredentials)))
        .unwrap();
    let error = client.resolve().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let text = error.to_string();
    assert!(
        text.contains("127.0.0.1:1") && text.contains("connection refused"),
        "{text}"
    );
}

#[tokio::test]
async fn this_machine_in_the_clear_where_it_knows_no_tls() {
    let server = Server::start(|_, _| Reply::new(200, &[], "{}")).await;
    let reference = Reference::parse(&format!("{}/a/b:tag", server.name)).unwrap();
    let client = |scheme| {
        let mut access = Access::new(Arc::new(NoCredentials));
        access.hosts.default_scheme = scheme;
        Registry::proxied(limits(), "", "", "")
            .client(&reference, &access)
            .unwrap()
    };
    assert_eq!(client(None).manifest(&manifest(b"{}")).await.unwrap(), "{}");
    // Who wants TLS gets nothing else.
    let error = client(Some(Scheme::Https))
        .manifest(&manifest(b"{}"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert_eq!(server.seen().len(), 1);
}
