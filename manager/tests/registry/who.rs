//! Credentials and tokens.

use std::sync::Arc;

use knarr_manager::error::Code;
use knarr_manager::registry::{Credential, Descriptor, Limits, NoCredentials, media_type};

use crate::scripted::{Login, Reply, Seen, Server, limits, sha256};

fn manifest() -> Descriptor {
    Descriptor::new(media_type::OCI_MANIFEST, sha256(b"{}"), 2)
}

/// A registry that wants a token from `realm`, and takes only those.
async fn wants_token(realm: String, good: &'static [&'static str]) -> Server {
    Server::start(move |seen, _| {
        let token = seen
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(|token| good.contains(&token)) {
            return Reply::new(200, &[], "{}");
        }
        let challenge =
            format!(r#"Bearer realm="{realm}",service="s s",scope="repository:a/b:pull""#);
        Reply::new(401, &[("www-authenticate", &challenge)], "")
    })
    .await
}

fn token(text: &str) -> Reply {
    Reply::new(
        200,
        &[],
        format!(r#"{{"token":"{text}","expires_in":300}}"#),
    )
}

#[tokio::test]
async fn anybody_gets_a_token_for_what_all_may_have() {
    let issuer = Server::start(|_, _| token("t")).await;
    let server = wants_token(format!("http://{}/token?x=y", issuer.name), &["t"]).await;
    let client = server.client();
    client.manifest(&manifest()).await.unwrap();
    client.manifest(&manifest()).await.unwrap();
    let seen = issuer.seen();
    assert_eq!(seen.len(), 1, "a token serves until it ends");
    assert_eq!(
        seen[0].target,
        "/token?x=y&service=s%20s&scope=repository:a/b:pull"
    );
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn one_token_is_fetched_for_many_requests() {
    let issuer = Server::start(|_, _| token("t")).await;
    let server = wants_token(format!("http://{}/", issuer.name), &["t"]).await;
    let client = server.client();
    let many = (0..8).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.manifest(&manifest()).await })
    });
    let many: Vec<_> = many.collect();
    for one in many {
        one.await.unwrap().unwrap();
    }
    assert_eq!(issuer.seen().len(), 1);
}

#[tokio::test]
async fn a_password_brings_a_token() {
    let issuer = Server::start(|_, _| token("t")).await;
    let server = wants_token(format!("http://{}/", issuer.name), &["t"]).await;
    let login = Login::password();
    server
        .client_as(login.clone())
        .manifest(&manifest())
        .await
        .unwrap();
    assert_eq!(
        issuer.seen()[0].header("authorization"),
        Some("Basic bWU6czNjcmV0")
    );
    let asked = login.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    let (host, reference, challenges) = &asked[0];
    assert_eq!(*host, server.name);
    assert_eq!(*reference, format!("{}/a/b:tag", server.name));
    assert!(challenges[0].starts_with("Bearer realm="));
}

fn form(seen: &Seen) -> String {
    String::from_utf8(seen.body.clone()).unwrap()
}

#[tokio::test]
async fn an_identity_token_and_servers_that_know_only_forms() {
    let issuer = Server::start(|_, _| Reply::new(200, &[], r#"{"access_token":"t"}"#)).await;
    let server = wants_token(format!("http://{}/", issuer.name), &["t"]).await;
    let identity = Login::new(Credential::Identity("id&1".to_owned()));
    server
        .client_as(identity)
        .manifest(&manifest())
        .await
        .unwrap();
    let seen = &issuer.seen()[0];
    assert_eq!(seen.method, "POST");
    assert_eq!(
        form(seen),
        "grant_type=refresh_token&refresh_token=id%261&client_id=knarrd&service=s%20s&scope=repository:a/b:pull"
    );

    let issuer = Server::start(|seen, _| match seen.method.as_str() {
        "GET" => Reply::new(405, &[], ""),
        _ => Reply::new(200, &[], r#"{"access_token":"t"}"#),
    })
    .await;
    let server = wants_token(format!("http://{}/", issuer.name), &["t"]).await;
    server
        .client_as(Login::password())
        .manifest(&manifest())
        .await
        .unwrap();
    assert!(
        form(&issuer.seen()[1]).starts_with("grant_type=password&username=me&password=s3cret&")
    );
}

#[tokio::test]
async fn a_form_with_credentials_goes_to_no_other_host() {
    let thief = Server::start(|_, _| token("t")).await;
    let target = format!("http://{}/", thief.name);
    let issuer = Server::start(move |_, _| Reply::new(307, &[("location", &target)], "")).await;
    let server = wants_token(format!("http://{}/", issuer.name), &["t"]).await;
    let identity = Login::new(Credential::Identity("id".to_owned()));
    let error = server
        .client_as(identity)
        .manifest(&manifest())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    assert!(thief.seen().is_empty());
}

#[tokio::test]
async fn a_stale_token_is_renewed_once() {
    let issuer = Server::start(|_, number| token(["t0", "t1"][number.min(1)])).await;
    let server = wants_token(format!("http://{}/", issuer.name), &["t1"]).await;
    server.client().manifest(&manifest()).await.unwrap();
    assert_eq!(issuer.seen().len(), 2);

    // One that is never taken ends it.
    let issuer = Server::start(|_, number| token(&format!("t{number}"))).await;
    let server = wants_token(format!("http://{}/", issuer.name), &[]).await;
    let error = server.client().manifest(&manifest()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert!(issuer.seen().len() <= 4);
    assert!(
        error.to_string().ends_with("authorization failed"),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_that_does_not_suffice() {
    let issuer = Server::start(|_, _| token("t")).await;
    let realm = format!("http://{}/", issuer.name);
    let server = Server::start(move |seen, _| {
        let lacking = match seen.header("authorization") {
            Some(_) => ",error=\"insufficient_scope\"",
            None => "",
        };
        let challenge = format!(r#"Bearer realm="{realm}",scope="repository:a/b:pull"{lacking}"#);
        Reply::new(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    let error = server.client().resolve().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pull access denied, repository does not exist or may require authorization: \
         server message: insufficient_scope: authorization failed"
    );
    assert_eq!(issuer.seen().len(), 1);
}

#[tokio::test]
async fn basic_credentials() {
    let server = Server::start(|seen, _| match seen.header("authorization") {
        Some("Basic bWU6czNjcmV0") => Reply::new(200, &[], "{}"),
        _ => Reply::new(401, &[("www-authenticate", "Basic realm=\"r\"")], ""),
    })
    .await;
    server
        .client_as(Login::password())
        .manifest(&manifest())
        .await
        .unwrap();
    let error = server.client().manifest(&manifest()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert_eq!(
        error.to_string(),
        "pull access denied, repository does not exist or may require authorization: \
         authorization failed: no basic auth credentials"
    );
    let wrong = Login::new(Credential::Password {
        user: "me".to_owned(),
        secret: "no".to_owned(),
    });
    let error = server
        .client_as(wrong)
        .manifest(&manifest())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(": 401 Unauthorized") && !error.contains("bm8"),
        "{error}"
    );
    let header = Login::new(Credential::Header("Basic bWU6czNjcmV0".to_owned()));
    server
        .client_as(header)
        .manifest(&manifest())
        .await
        .unwrap();
}

#[tokio::test]
async fn token_servers_that_misbehave() {
    type Answer = fn() -> Reply;
    let refusals: [(Answer, &str); 5] = [
        (|| Reply::new(200, &[], "{}"), "sends no token"),
        (|| Reply::new(200, &[], "no json"), "sends no token"),
        (|| token(&"x".repeat(100_000)), "sends no token"),
        (|| Reply::new(200, &[], vec![b'['; 5 << 20]), "longer than"),
        (
            || Reply::new(401, &[], r#"{"details":"incorrect username or password"}"#),
            "incorrect username",
        ),
    ];
    for (reply, says) in refusals {
        let issuer = Server::start(move |_, _| reply()).await;
        let server = wants_token(format!("http://{}/", issuer.name), &["t"]).await;
        let error = server
            .client()
            .manifest(&manifest())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(says) && error.contains("failed to authorize"),
            "{error}"
        );
        assert!(error.len() < 1000);
    }
    for realm in ["", "nonsense", "file:///etc/passwd", "http://u@x/"] {
        let server = wants_token(realm.to_owned(), &["t"]).await;
        let error = server.client().manifest(&manifest()).await.unwrap_err();
        assert!(error.to_string().contains("is no URL"), "{error}");
    }
    // A circle of redirects, and one that has no time.
    let issuer = Server::start(|_, _| Reply::new(302, &[("location", "/")], "")).await;
    let server = wants_token(format!("http://{}/", issuer.name), &["t"]).await;
    let error = server.client().manifest(&manifest()).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    let issuer = Server::start(|_, number| match number {
        0 => Reply::new(503, &[], ""),
        _ => token("t"),
    })
    .await;
    let server = wants_token(format!("http://{}/", issuer.name), &["t"]).await;
    let limits = Limits {
        attempts: 2,
        ..limits()
    };
    let client = server.client_with(limits, Arc::new(NoCredentials), "a/b:tag");
    client.manifest(&manifest()).await.unwrap();
}
