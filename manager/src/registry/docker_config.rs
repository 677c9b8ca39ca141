//! Credentials as `docker login` leaves them: a config.json and the helpers that it names. Docker's
//! documentation, "docker login", "Credential stores".

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::auth::{Credential, Credentials, Future};
use crate::error::{Code, Error, Result};

/// How long a helper may take: it may have to ask somewhere itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer of a helper, in bytes.
const LONGEST_ANSWER: u64 = 64 << 10;

/// The longest config.json, in bytes.
const LONGEST_FILE: u64 = 1 << 20;

/// Under what Docker keeps the credentials for its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What a helper calls the user of an identity token.
const TOKEN_USER: &str = "<token>";

/// A Docker config.json. It is read each time, since logins change it.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    file: PathBuf,
    patience: Duration,
}

impl DockerConfig {
    /// Uses that file; one that is not there has no credentials.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            patience: PATIENCE,
        }
    }

    async fn find(&self, host: &str) -> Result<Credential> {
        let broken = |what: String| Error::invalid(format!("{}: {what}", self.file.display()));
        let text = match tokio::task::spawn_blocking({
            let file = self.file.clone();
            move || read(&file)
        })
        .await
        {
            Ok(Ok(text)) => text,
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(Credential::None),
            Ok(Err(error)) => return Err(Error::io(self.file.display(), &error)),
            Err(error) => return Err(Error::internal(error.to_string())),
        };
        let config: Config =
            serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        let own = |key: &str| same_registry(key, host);
        let helper = config.cred_helpers.iter().find(|(key, _)| own(key));
        let helper = match helper {
            Some((_, name)) => name.as_str(),
            None => &config.creds_store,
        };
        if !helper.is_empty() {
            let found = self.ask_helper(helper, &server_of(host)).await?;
            if found != Credential::None {
                return Ok(found);
            }
        }
        match config.auths.iter().find(|(key, _)| own(key)) {
            Some((key, auth)) => auth
                .credential()
                .map_err(|what| broken(format!("auths.{key:?}: {what}"))),
            None => Ok(Credential::None),
        }
    }

    /// Asks a helper. What it says goes into no message: it may be a secret.
    async fn ask_helper(&self, name: &str, server: &str) -> Result<Credential> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !name.bytes().all(allowed) {
            let what = format!(
                "{}: {name:?} is no name of a credential helper",
                self.file.display()
            );
            return Err(Error::invalid(what));
        }
        let program = format!("docker-credential-{name}");
        let asking = run(&program, server);
        let answer = tokio::time::timeout(self.patience, asking)
            .await
            .map_err(|_| {
                let seconds = self.patience.as_secs_f32();
                Error::new(
                    Code::DeadlineExceeded,
                    format!("{program} get: no answer within {seconds} s"),
                )
            })?;
        let Some(output) = answer.map_err(|error| Error::io(&program, &error))? else {
            return Ok(Credential::None);
        };
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| Error::invalid(format!("{program} get: no answer in JSON")))?;
        Ok(match answer {
            Answer { secret, .. } if secret.is_empty() => Credential::None,
            Answer { username, secret } if username == TOKEN_USER => Credential::Identity(secret),
            Answer { username, secret } => Credential::Password {
                user: username,
                secret,
            },
        })
    }
}

impl Credentials for DockerConfig {
    fn get<'a>(
        &'a self,
        host: &'a str,
        _: &'a str,
        _: &'a [String],
    ) -> Future<'a, Result<Credential>> {
        Box::pin(self.find(host))
    }
}

fn read(file: &std::path::Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = std::fs::File::open(file)?;
    file.take(LONGEST_FILE).read_to_end(&mut text)?;
    Ok(text)
}

/// Runs a helper: what it prints, where it succeeds.
async fn run(program: &str, server: &str) -> std::io::Result<Option<Vec<u8>>> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that has gone without reading says enough by its status.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LONGEST_ANSWER).read_to_end(&mut output).await?;
    }
    let status = child.wait().await?;
    Ok(status.success().then_some(output))
}

/// A registry as Docker and its helpers know it.
fn server_of(host: &str) -> String {
    match host {
        "registry-1.docker.io" | "docker.io" | "index.docker.io" => DOCKER_HUB.to_owned(),
        other => other.to_owned(),
    }
}

/// Whether a key of config.json, which may be a URL, means a host.
fn same_registry(key: &str, host: &str) -> bool {
    let name = |text: &str| {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let text = text.split('/').next().unwrap_or("");
        server_of(text)
    };
    name(key) == name(host)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Auth {
    fn credential(&self) -> Result<Credential, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Credential::Identity(self.identitytoken.clone()));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Credential::Header(format!("Bearer {}", self.registrytoken)));
        }
        if self.auth.is_empty() {
            let secret = self.password.clone();
            let user = self.username.clone();
            let none = user.is_empty() && secret.is_empty();
            return Ok(if none {
                Credential::None
            } else {
                Credential::Password { user, secret }
            });
        }
        let text = BASE64_STANDARD.decode(self.auth.trim()).ok();
        let text = text.and_then(|text| String::from_utf8(text).ok());
        let parts = text.as_deref().and_then(|text| text.split_once(':'));
        let (user, secret) = parts.ok_or("auth is not NAME:PASSWORD in base64")?;
        Ok(Credential::Password {
            user: user.to_owned(),
            // Some programs end it so.
            secret: secret.trim_end_matches('\0').to_owned(),
        })
    }
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn find(text: &str, host: &str) -> Result<Credential> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        DockerConfig::new(file).find(host).await
    }

    fn password(user: &str, secret: &str) -> Credential {
        let (user, secret) = (user.to_owned(), secret.to_owned());
        Credential::Password { user, secret }
    }

    #[tokio::test]
    async fn logins_by_registry() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpwOnE="},
            "r.example:5000": {"username": "a", "password": "b"},
            "https://t.example/v2/": {"auth": "dTpw", "identitytoken": "it"},
            "bad.example": {"auth": "%"}
        }}"#;
        assert_eq!(
            find(text, "registry-1.docker.io").await.unwrap(),
            password("u", "p:q")
        );
        assert_eq!(
            find(text, "r.example:5000").await.unwrap(),
            password("a", "b")
        );
        assert_eq!(find(text, "r.example").await.unwrap(), Credential::None);
        let token = Credential::Identity("it".to_owned());
        assert_eq!(find(text, "t.example").await.unwrap(), token);
        let error = find(text, "bad.example").await.unwrap_err().to_string();
        assert!(
            error.contains("config.json") && error.contains("bad.example"),
            "{error}"
        );
        assert!(find("{", "x").await.is_err());
    }

    #[tokio::test]
    async fn no_file_no_credentials() {
        let config = DockerConfig::new("/nonexistent/config.json".into());
        assert_eq!(config.find("x").await.unwrap(), Credential::None);
    }

    #[tokio::test]
    async fn helpers() {
        let dir = tempfile::tempdir().unwrap();
        let helper = |script: &str| {
            let file = dir.path().join("helper");
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
            file.to_str().unwrap().to_owned()
        };
        let says = helper(r#"read -r server; echo "{\"Username\":\"$1\",\"Secret\":\"$server\"}""#);
        let output = run(&says, "r.example").await.unwrap().unwrap();
        assert_eq!(output, b"{\"Username\":\"get\",\"Secret\":\"r.example\"}\n");
        let fails = helper("echo credentials not found in native keychain; exit 1");
        assert_eq!(run(&fails, "r.example").await.unwrap(), None);
        let error = find(r#"{"credsStore": "../x"}"#, "r").await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let error = find(r#"{"credHelpers": {"r": "knarr-nonexistent"}}"#, "r")
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(
            find(r#"{"credHelpers": {"r": "x"}}"#, "s").await.unwrap(),
            Credential::None
        );
    }
}
