//! Images to test with, and a registry to keep them in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::pair::Pair;
use crate::{bundle, peers};

/// Where the registry listens, inside the pen.
pub const REGISTRY: &str = "127.0.0.1:5443";

/// What htpasswd(1) writes for "user" and "pass".
const PASSWORDS: &str = "user:$2y$04$hnEpA/YEV6hycc.pOmjkVO.ZQZWclk8HiYDAPufQGGj9p1TWebJdq\n";

/// Runs a program to its end; what it says.
///
/// # Panics
/// Where it fails.
#[allow(clippy::must_use_candidate, reason = "most are run for what they do")]
pub fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let out = Command::new(program).current_dir(dir).args(args).output();
    let out = out.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(out.status.success(), "{program} {args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// An archive with an OCI layout: an index for two platforms, each with a layer of its own upon a
/// common one, one compressed and one not. `annotation` names it.
///
/// # Panics
/// Where it cannot be made.
pub fn layout(dir: &Path, tar: &Path, annotation: (&str, &str)) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |file: &Path, kind: &str| {
        let file = file.to_str().unwrap();
        let sum = run(dir, "sha256sum", &[file]);
        let hex = sum.split(' ').next().unwrap().to_owned();
        let size = fs::metadata(file).unwrap().len();
        fs::copy(file, blobs.join(&hex)).unwrap();
        json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": size})
    };
    let add_json = |value: &Value, kind: &str| {
        let file = dir.join("document");
        fs::write(&file, value.to_string()).unwrap();
        add(&file, kind)
    };
    bundle::rootfs(&dir.join("rootfs"));
    let pack = |from: &str, name: &str| {
        let args = [
            "--owner=0",
            "--group=0",
            "--mtime=@1",
            "-C",
            from,
            "-cf",
            name,
            ".",
        ];
        run(dir, "tar", &args);
        dir.join(name)
    };
    let common = pack("rootfs", "common.tar");
    let diff = |layer: &Value| layer["digest"].as_str().unwrap().to_owned();
    let plain = "application/vnd.oci.image.layer.v1.tar";
    let common_diff = diff(&add(&common, plain));
    run(dir, "gzip", &["-kn", "common.tar"]);
    let common = add(&dir.join("common.tar.gz"), &format!("{plain}+gzip"));
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let own = dir.join(architecture);
        fs::create_dir_all(own.join("etc")).unwrap();
        fs::write(own.join("etc/architecture"), architecture).unwrap();
        let own = add(&pack(architecture, &format!("{architecture}.tar")), plain);
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [common_diff, diff(&own)]},
        });
        let config = add_json(&config, "application/vnd.oci.image.config.v1+json");
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [common, own],
        });
        let mut manifest = add_json(&manifest, kind);
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        manifests.push(manifest);
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    let mut index = add_json(&index, kind);
    index["annotations"] = json!({annotation.0: annotation.1});
    let top = json!({"schemaVersion": 2, "manifests": [index]});
    fs::write(dir.join("index.json"), top.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    let tar = tar.to_str().unwrap();
    run(
        dir,
        "tar",
        &["-cf", tar, "oci-layout", "blobs", "index.json"],
    );
}

/// Starts Debian's registry with TLS and a password. What is missing for it, if something is.
///
/// # Panics
/// Where its files cannot be made.
#[must_use]
pub fn registry(it: &Pair) -> Option<String> {
    for program in ["docker-registry", "openssl"] {
        if let Err(missing) = peers::installed(program) {
            return Some(missing);
        }
    }
    let path = |name: &str| it.pen.path(name).to_str().unwrap().to_owned();
    let subject = [
        "-subj",
        "/CN=registry",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ];
    let make = [
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ];
    let files = ["-keyout", &path("key.pem"), "-out", &path("cert.pem")];
    run(
        it.pen.dir(),
        "openssl",
        &[&make[..], &files, &subject].concat(),
    );
    fs::write(path("htpasswd"), PASSWORDS).unwrap();
    let config = format!(
        "version: 0.1\nlog: {{level: warn}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: '{REGISTRY}', tls: {{certificate: {}, key: {}}}}}\n\
         auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        path("registry"),
        path("cert.pem"),
        path("key.pem"),
        path("htpasswd")
    );
    fs::write(path("registry.yml"), config).unwrap();
    let hosts = PathBuf::from(path("hosts")).join(REGISTRY);
    fs::create_dir_all(&hosts).unwrap();
    let ca = path("cert.pem");
    let text = format!(
        "server = \"https://{REGISTRY}\"\nca = \"{ca}\"\n\
         [host.\"https://{REGISTRY}\"]\n  ca = \"{ca}\"\n"
    );
    fs::write(hosts.join("hosts.toml"), text).unwrap();
    it.pen.daemon(
        "registry",
        &["docker-registry", "serve", &path("registry.yml")],
    );
    None
}
