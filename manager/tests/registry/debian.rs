//! Debian's docker-registry over TLS, with passwords and with tokens.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use knarr_manager::error::{Code, Error};
use knarr_manager::registry::{
    Access, Client, Credentials, Descriptor, Limits, NoCredentials, Pushed, Reference, Registry,
    media_type,
};

use crate::pushing::{Memory, blob};
use crate::scripted::{Login, Reply, Server, limits, sha256, some_bytes};

const PROGRAM: &str = "/usr/bin/docker-registry";

/// `htpasswd -nbB me s3cret`.
const PASSWORDS: &str = "me:$2y$05$Ac1OsPeM3C8dPaD4SiFhm.VR5WoaUWbWUyUKTBtEnG3Ec9YnLMm8m\n";

/// A registry of its own, that ends with the test.
struct Running {
    name: String,
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether there is what a test needs.
fn missing() -> bool {
    let programs = [PROGRAM, "/usr/bin/openssl"];
    let Some(missing) = programs.iter().find(|program| !Path::new(program).exists()) else {
        return false;
    };
    assert!(
        std::env::var_os("KNARR_NEED_PEERS").is_none(),
        "{missing} is not there"
    );
    eprintln!("SKIP: {missing} is not there");
    true
}

fn openssl(dir: &Path, line: &str) {
    let output = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl {line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Running {
    /// `auth` is that part of its configuration; `certificate` makes ca.pem, server.pem, server.key.
    fn start(auth: &str, certificate: fn(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificate(dir.path());
        fs::write(dir.path().join("passwords"), PASSWORDS).unwrap();
        let path = dir.path().display();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\n\
             http: {{addr: '127.0.0.1:0', tls: {{certificate: {path}/server.pem, key: {path}/server.key}}}}\n{}",
            auth.replace("DIR", &path.to_string())
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .env_clear()
            .env("OTEL_TRACES_EXPORTER", "none")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let name = loop {
            let line = lines.next().unwrap_or_else(|| panic!("{said:?}")).unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split([',', '"', ' ']).next().unwrap().to_owned();
            }
            said.push(line);
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self { name, dir, child }
    }

    fn access(&self, credentials: Arc<dyn Credentials>) -> Access {
        let hosts = self.dir.path().join("hosts");
        let own = hosts.join(&self.name);
        fs::create_dir_all(&own).unwrap();
        let text = format!(
            "server = \"https://{}\"\nca = \"../../ca.pem\"\n",
            self.name
        );
        fs::write(own.join("hosts.toml"), text).unwrap();
        let mut access = Access::new(credentials);
        access.hosts.dirs = vec![hosts];
        access
    }

    fn client(&self, limits: Limits, credentials: Arc<dyn Credentials>, name: &str) -> Client {
        let reference = Reference::parse(&format!("{}/{name}", self.name)).unwrap();
        Registry::new(limits)
            .client(&reference, &self.access(credentials))
            .unwrap()
    }
}

/// An authority and a certificate of its own for the server.
fn with_authority(dir: &Path) {
    let ca = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem";
    openssl(dir, ca);
    fs::write(
        dir.join("ext"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    openssl(
        dir,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=r -keyout server.key -out server.csr",
    );
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem",
    );
}

/// One certificate that is its own authority, as people make them.
fn with_one_certificate(dir: &Path) {
    openssl(
        dir,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=r -addext subjectAltName=IP:127.0.0.1 -keyout server.key -out server.pem",
    );
    fs::copy(dir.join("server.pem"), dir.join("ca.pem")).unwrap();
}

async fn fetch(client: &Client, descriptor: &Descriptor, offset: u64) -> Result<Vec<u8>, Error> {
    let mut stream = client.blob(descriptor, offset).await?;
    let mut all = Vec::new();
    while let Some(bytes) = stream.chunk().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

async fn push(client: &Client, bytes: &[u8], mounts: &[&str]) -> Result<Pushed, Error> {
    let source = Arc::new(Memory(bytes.to_vec()));
    client
        .push_blob(&blob(bytes), source, mounts, Arc::default())
        .await
}

fn image(parts: &[&[u8]], more: &str) -> (Descriptor, Bytes) {
    let entry = |bytes: &&[u8]| serde_json::to_string(&blob(bytes)).unwrap();
    let all: Vec<String> = parts.iter().map(entry).collect();
    let kind = media_type::OCI_MANIFEST;
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{},"layers":[{}]{more}}}"#,
        all[0],
        all[1..].join(",")
    );
    let descriptor = Descriptor::new(kind, sha256(text.as_bytes()), text.len() as u64);
    (descriptor, text.into())
}

const WITH_PASSWORD: &str = "auth: {htpasswd: {realm: r, path: DIR/passwords}}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_comes_back() {
    if missing() {
        return;
    }
    let running = Running::start(WITH_PASSWORD, with_authority);
    let client = running.client(limits(), Login::password(), "a/b:v1");
    assert_eq!(client.resolve().await.unwrap_err().code(), Code::NotFound);
    let (config, layer) = (b"{}".to_vec(), some_bytes(5_000_000));
    for bytes in [&config, &layer] {
        assert_eq!(push(&client, bytes, &[]).await.unwrap(), Pushed::Sent);
        assert_eq!(push(&client, bytes, &[]).await.unwrap(), Pushed::Existed);
    }
    let (descriptor, text) = image(&[&config, &layer], "");
    let put = |tag| client.push_manifest(&descriptor, text.clone(), tag);
    assert_eq!(put(Some("v1")).await.unwrap(), Pushed::Sent);
    assert_eq!(put(Some("v1")).await.unwrap(), Pushed::Existed);
    assert_eq!(put(Some("v2")).await.unwrap(), Pushed::Sent);

    // Another client, which knows nothing yet.
    let client = running.client(limits(), Login::password(), "a/b:v2");
    assert_eq!(client.resolve().await.unwrap(), descriptor);
    assert_eq!(client.manifest(&descriptor).await.unwrap(), text);
    assert!(fetch(&client, &blob(&layer), 0).await.unwrap() == layer);
    assert!(fetch(&client, &blob(&layer), 4_999_999).await.unwrap() == layer[4_999_999..]);
    assert_eq!(client.tags().await.unwrap(), ["v1", "v2"]);
    let split = Limits {
        split: 1 << 20,
        range: 1 << 20,
        ..limits()
    };
    let client = running.client(split, Login::password(), "a/b:v2");
    assert!(fetch(&client, &blob(&layer), 12_345).await.unwrap() == layer[12_345..]);

    // Another repository takes it over.
    let other = running.client(limits(), Login::password(), "c/d:v1");
    assert_eq!(
        push(&other, &layer, &["x/y", "a/b"]).await.unwrap(),
        Pushed::Mounted
    );
    assert!(fetch(&other, &blob(&layer), 0).await.unwrap() == layer);
    let error = other
        .push_manifest(&descriptor, text.clone(), Some("v1"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("MANIFEST_BLOB_UNKNOWN"),
        "{error}"
    );

    // This registry keeps no list of referrers: the client does.
    let subject = serde_json::to_string(&descriptor).unwrap();
    let (first, text) = image(
        &[&config],
        &format!(r#","artifactType":"k/a","subject":{subject}"#),
    );
    client.push_manifest(&first, text, None).await.unwrap();
    let found = client
        .referrers(&descriptor.digest, Some("k/a"))
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest, first.digest);
    assert!(
        client
            .referrers(&descriptor.digest, Some("k/b"))
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_on_either_side() {
    if missing() {
        return;
    }
    let running = Running::start(WITH_PASSWORD, with_authority);
    let error = running
        .client(limits(), Arc::new(NoCredentials), "a/b:v1")
        .resolve()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    // An authority that nobody named.
    let reference = Reference::parse(&format!("{}/a/b:v1", running.name)).unwrap();
    let mut access = running.access(Login::password());
    let file = access.hosts.dirs[0].join(&running.name).join("hosts.toml");
    fs::write(&file, format!("server = \"https://{}\"\n", running.name)).unwrap();
    let error = Registry::new(limits())
        .client(&reference, &access)
        .unwrap()
        .resolve()
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("certificate") && error.to_string().contains("hosts.toml"),
        "{error}"
    );
    fs::write(
        &file,
        format!(
            "server = \"https://{}\"\nskip_verify = true\n",
            running.name
        ),
    )
    .unwrap();
    let error = Registry::new(limits())
        .client(&reference, &access)
        .unwrap()
        .resolve()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    access.hosts.dirs.clear();
    // This machine's own is reached without any configuration.
    let error = Registry::new(limits())
        .client(&reference, &access)
        .unwrap()
        .resolve()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_its_own_authority() {
    if missing() {
        return;
    }
    let running = Running::start(WITH_PASSWORD, with_one_certificate);
    let client = running.client(limits(), Login::password(), "a/b:v1");
    assert_eq!(push(&client, b"hello", &[]).await.unwrap(), Pushed::Sent);
}

/// A token as this registry wants them. Its documentation, "Token Authentication Implementation".
fn signed(dir: &Path, access: &str) -> String {
    let encode = |text: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(text);
    let pem = fs::read_to_string(dir.join("issuer.pem")).unwrap();
    let der: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    assert!(BASE64_STANDARD.decode(&der).is_ok());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{der}"]}}"#);
    let claims = format!(
        r#"{{"iss":"issuer","sub":"me","aud":"service","exp":{},"nbf":{},"iat":{now},"jti":"1","access":[{access}]}}"#,
        now + 300,
        now - 60
    );
    let text = format!(
        "{}.{}",
        encode(header.as_bytes()),
        encode(claims.as_bytes())
    );
    let unique = dir.join(format!("token-{:?}", std::thread::current().id()));
    fs::write(&unique, &text).unwrap();
    let output = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign", "issuer.key"])
        .arg(&unique)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success());
    format!("{text}.{}", encode(&output.stdout))
}

/// What the scopes of a request mean in a token; pushes only where they are allowed.
fn granted(target: &str, pushes: bool) -> String {
    let scopes = target
        .split(['?', '&'])
        .filter_map(|field| field.strip_prefix("scope="));
    let one = |scope: &str| {
        let mut parts = scope.split(':');
        let (kind, name) = (parts.next().unwrap(), parts.next().unwrap());
        let actions: Vec<String> = parts
            .next()
            .unwrap()
            .split(',')
            .filter(|action| pushes || *action != "push")
            .map(|action| format!("{action:?}"))
            .collect();
        format!(
            r#"{{"type":"{kind}","name":"{name}","actions":[{}]}}"#,
            actions.join(",")
        )
    };
    scopes.map(one).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tokens() {
    if missing() {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    openssl(
        keys.path(),
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=issuer -keyout issuer.key -out issuer.pem",
    );
    let dir: PathBuf = keys.path().to_owned();
    // Whoever names himself may have all; others may read what is there.
    let issuer = Server::start(move |seen, _| {
        let known = seen.header("authorization") == Some("Basic bWU6czNjcmV0");
        let access = granted(&seen.target, known);
        Reply::new(
            200,
            &[],
            format!(r#"{{"token":"{}"}}"#, signed(&dir, &access)),
        )
    })
    .await;
    let auth = format!(
        "auth: {{token: {{realm: 'http://{}/token', service: service, issuer: issuer, rootcertbundle: {}/issuer.pem}}}}\n",
        issuer.name,
        keys.path().display()
    );
    let running = Running::start(&auth, with_authority);
    let layer = some_bytes(1_000_000);
    let own = running.client(limits(), Login::password(), "a/b:v1");
    assert_eq!(push(&own, &layer, &[]).await.unwrap(), Pushed::Sent);
    let (descriptor, text) = image(&[&layer], "");
    own.push_manifest(&descriptor, text, Some("v1"))
        .await
        .unwrap();
    let mounting = running.client(limits(), Login::password(), "c/d:v1");
    assert_eq!(
        push(&mounting, &layer, &["a/b"]).await.unwrap(),
        Pushed::Mounted
    );

    let stranger = running.client(limits(), Arc::new(NoCredentials), "a/b:v1");
    assert_eq!(stranger.resolve().await.unwrap(), descriptor);
    assert!(fetch(&stranger, &blob(&layer), 0).await.unwrap() == layer);
    let error = push(&stranger, b"mine", &[]).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    assert!(
        error.to_string().starts_with("push access denied"),
        "{error}"
    );
}
