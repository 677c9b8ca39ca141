//! Where a registry is reached: directories with a `hosts.toml` for each registry, in the form that
//! containerd reads. Belongs here: finding and reading them. Does not: connections.
//!
//! ```text
//! DIR/docker.io/hosts.toml
//! DIR/registry.example_5000_/hosts.toml     for registry.example:5000; or DIR/registry.example:5000/
//! DIR/registry.example/*.crt *.cert *.key   where there is no hosts.toml, as Docker has them
//! DIR/_default/hosts.toml                   for all others
//! ```

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use toml::{Table, Value};

use super::reference::check_host;
use crate::error::{Error, Result};

/// The longest hosts.toml, in bytes.
const LONGEST_FILE: u64 = 1 << 20;

/// How to speak to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Over TLS.
    Https,
    /// In the clear.
    Http,
    /// Over TLS, and in the clear where the host does not know it.
    HttpsOrHttp,
}

/// What may be asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Content by digest.
    pub pull: bool,
    /// Digests by tag: whom to trust with that is a choice of its own.
    pub resolve: bool,
    /// Taking content.
    pub push: bool,
    /// Who refers to a digest.
    pub referrers: bool,
}

impl Capabilities {
    /// All of them.
    pub const ALL: Self = Self {
        pull: true,
        resolve: true,
        push: true,
        referrers: true,
    };
}

/// Whom to trust and as whom to appear.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Tls {
    /// Files with authorities, beside the system's.
    pub ca: Vec<PathBuf>,
    /// Files with a certificate and its key, which may be the same file.
    pub client: Vec<(PathBuf, PathBuf)>,
    /// Trust anybody.
    pub skip_verify: bool,
}

/// One place where a registry is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// How.
    pub scheme: Scheme,
    /// Name or address, with a port where it is not the scheme's own.
    pub name: String,
    /// What comes before `/REPOSITORY` in paths: `/v2`.
    pub path: String,
    /// What it is good for.
    pub capabilities: Capabilities,
    /// Certificates.
    pub tls: Tls,
    /// Sent with each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long a connection may take, where that is configured.
    pub dial_timeout: Option<Duration>,
    /// What a mirror is told of the registry that it stands for, as the query `ns=`.
    pub namespace: Option<String>,
}

/// Directories with configurations of registries; the first that knows a registry counts.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// The directories.
    pub dirs: Vec<PathBuf>,
    /// How to speak to registries of which the directories say nothing; absent: over TLS, but this
    /// machine itself as it likes.
    pub default_scheme: Option<Scheme>,
}

impl Hosts {
    /// Where a registry is reached, in the order in which to try.
    ///
    /// # Errors
    /// `InvalidArgument` for a hosts.toml that makes no sense, which names file and field; where a
    /// file cannot be read.
    pub fn of(&self, registry: &str) -> Result<Vec<Host>> {
        let mut hosts = Vec::new();
        match self.directory(registry) {
            Some(dir) => match read(&dir.join("hosts.toml"))? {
                Some(text) => {
                    let file = dir.join("hosts.toml");
                    hosts = parse(&text, &dir)
                        .map_err(|what| Error::invalid(format!("{}: {what}", file.display())))?;
                }
                None => hosts.push(Draft {
                    tls: docker_style(&dir)?,
                    ..Draft::default()
                }),
            },
            None => hosts.push(Draft::default()),
        }
        let finish = |draft: Draft| draft.finish(registry, self.default_scheme);
        Ok(hosts.into_iter().map(finish).collect())
    }

    /// The directory that knows a registry.
    fn directory(&self, registry: &str) -> Option<PathBuf> {
        // The name comes from a client: it must not lead elsewhere.
        if check_host(registry).is_err() || registry == "." || registry == ".." {
            return None;
        }
        let spelled = registry
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|(name, port)| format!("{name}_{port}_"));
        let names = spelled.iter().map(String::as_str);
        let names: Vec<&str> = names.chain([registry, "_default"]).collect();
        let all = self.dirs.iter();
        let mut all = all.flat_map(|dir| names.iter().map(|name| dir.join(name)));
        all.find(|dir| dir.is_dir())
    }
}

/// A host as a file has it: what is absent follows from the registry.
#[derive(Debug, Default)]
struct Draft {
    scheme: Option<Scheme>,
    name: Option<String>,
    path: Option<String>,
    capabilities: Option<Capabilities>,
    tls: Option<Tls>,
    headers: Vec<(HeaderName, HeaderValue)>,
    dial_timeout: Option<Duration>,
}

impl Draft {
    fn finish(self, registry: &str, default_scheme: Option<Scheme>) -> Host {
        let upstream = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let mut tls = self.tls.clone().unwrap_or_default();
        let scheme = match (self.scheme, &self.name) {
            // Whoever gives certificates for an http:// host wants them used where they can be.
            (Some(Scheme::Http), _) if self.tls.is_some() => Scheme::HttpsOrHttp,
            (Some(scheme), _) => scheme,
            (None, _) => match default_scheme {
                Some(Scheme::Http) if self.tls.is_some() => Scheme::HttpsOrHttp,
                Some(scheme) => scheme,
                None if is_this_machine(registry) => {
                    if self.tls.is_none() {
                        tls.skip_verify = true;
                    }
                    Scheme::HttpsOrHttp
                }
                None => Scheme::Https,
            },
        };
        let name = match self.name {
            Some(name) if name == "docker.io" => "registry-1.docker.io".to_owned(),
            Some(name) => name,
            None => upstream.to_owned(),
        };
        let namespace = (name != upstream && name != registry).then(|| registry.to_owned());
        Host {
            scheme,
            name,
            path: self.path.unwrap_or_else(|| "/v2".to_owned()),
            capabilities: self.capabilities.unwrap_or(Capabilities::ALL),
            tls,
            headers: self.headers,
            dial_timeout: self.dial_timeout,
            namespace,
        }
    }
}

/// Whether a registry's name is this machine's own.
pub(super) fn is_this_machine(registry: &str) -> bool {
    let name = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => registry.split(':').next().unwrap_or(""),
    };
    name == "localhost"
        || name
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A file's text, where there is one.
fn read(file: &Path) -> Result<Option<String>> {
    let broken = |error| Error::io(file.display(), &error);
    match fs::metadata(file) {
        Ok(meta) if meta.len() > LONGEST_FILE => Err(Error::invalid(format!(
            "{}: longer than {LONGEST_FILE} bytes",
            file.display()
        ))),
        Ok(_) => fs::read_to_string(file).map(Some).map_err(broken),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(broken(error)),
    }
}

/// Certificates as Docker has them in a directory: authorities end in `.crt`, certificates of the
/// client in `.cert` with a `.key` beside.
fn docker_style(dir: &Path) -> Result<Option<Tls>> {
    let broken = |error| Error::io(dir.display(), &error);
    let mut tls = Tls::default();
    for entry in fs::read_dir(dir).map_err(broken)? {
        let path = entry.map_err(broken)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                tls.client.push((path, key));
            }
            _ => {}
        }
    }
    tls.ca.sort();
    tls.client.sort();
    Ok((tls != Tls::default()).then_some(tls))
}

/// Reads a hosts.toml whose relative paths start at `dir`.
fn parse(text: &str, dir: &Path) -> Result<Vec<Draft>, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let first = error.message().to_owned();
        let line = error.span().map_or(0, |span| {
            text.get(..span.start).unwrap_or("").lines().count().max(1)
        });
        format!("line {line}: {first}")
    })?;
    let mut drafts = Vec::new();
    match table.get("host") {
        Some(Value::Table(hosts)) => {
            for (url, fields) in hosts {
                let Value::Table(fields) = fields else {
                    return Err(format!("host.{url:?} is no table"));
                };
                let draft = host(Some(url), fields, dir);
                drafts.push(draft.map_err(|what| format!("host.{url:?}: {what}"))?);
            }
        }
        Some(_) => return Err("host is no table".to_owned()),
        None => {}
    }
    let server = match table.get("server") {
        Some(Value::String(server)) if server.is_empty() => None,
        Some(Value::String(server)) => Some(server.as_str()),
        Some(_) => return Err("server is no string".to_owned()),
        None => None,
    };
    drafts.push(host(server, &table, dir).map_err(|what| format!("server: {what}"))?);
    Ok(drafts)
}

/// Reads the fields of one host.
fn host(url: Option<&str>, fields: &Table, dir: &Path) -> Result<Draft, String> {
    let mut draft = Draft::default();
    let mut tls = Tls::default();
    let mut tls_given = false;
    let mut override_path = false;
    for (key, value) in fields {
        let wrong = |expected: &str| format!("{key} is no {expected}");
        match (key.as_str(), value) {
            ("capabilities", value) => {
                draft.capabilities = Some(capabilities(value)?);
            }
            ("ca", value) => {
                for file in strings(value).ok_or_else(|| wrong("path or list of paths"))? {
                    tls.ca.push(dir.join(file));
                }
                tls_given = true;
            }
            ("client", value) => {
                tls.client = client(value, dir).ok_or_else(|| {
                    wrong("path, list of paths or list of pairs of certificate and key")
                })?;
                tls_given = true;
            }
            ("skip_verify", Value::Boolean(skip)) => {
                tls.skip_verify = *skip;
                tls_given = true;
            }
            ("override_path", Value::Boolean(is)) => override_path = *is,
            ("skip_verify" | "override_path", _) => return Err(wrong("truth value")),
            ("dial_timeout", Value::String(text)) => {
                let time = duration(text).ok_or_else(|| wrong("time such as \"30s\""))?;
                draft.dial_timeout = (!time.is_zero()).then_some(time);
            }
            ("dial_timeout", _) => return Err(wrong("time such as \"30s\"")),
            ("header", Value::Table(all)) => {
                for (name, values) in all {
                    let values = strings(values)
                        .ok_or_else(|| format!("header.{name} is no string or list of strings"))?;
                    for value in values {
                        draft.headers.push(header(name, value)?);
                    }
                }
            }
            ("header", _) => return Err(wrong("table")),
            _ => {}
        }
    }
    draft.tls = tls_given.then_some(tls);
    if let Some(url) = url {
        let (scheme, name, path) = place(url)?;
        draft.scheme = Some(scheme);
        draft.name = Some(name.to_owned());
        let path = path.trim_end_matches('/');
        draft.path = Some(match (path, override_path) {
            (path, true) => path.to_owned(),
            (path, false) if path.ends_with("/v2") => path.to_owned(),
            (path, false) => format!("{path}/v2"),
        });
    }
    Ok(draft)
}

/// A name and a value as HTTP sends them.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed: Result<HeaderName, _> = name.parse();
    let parsed = parsed.map_err(|_| format!("{name:?} is no name of a header"))?;
    let mut content: HeaderValue = value
        .parse()
        .map_err(|_| format!("the value of header {name} has characters that cannot be sent"))?;
    // It may be a secret: then it is not shown.
    content.set_sensitive(true);
    Ok((parsed, content))
}

fn capabilities(value: &Value) -> Result<Capabilities, String> {
    let mut found = Capabilities {
        pull: false,
        resolve: false,
        push: false,
        referrers: false,
    };
    let Value::Array(all) = value else {
        return Err("capabilities is no list".to_owned());
    };
    for one in all {
        match one.as_str() {
            Some("pull") => found.pull = true,
            Some("resolve") => found.resolve = true,
            Some("push") => found.push = true,
            Some("referrers") => found.referrers = true,
            other => {
                return Err(format!(
                    "unknown capability {:?}: known are pull, resolve, push, referrers",
                    other.unwrap_or("")
                ));
            }
        }
    }
    Ok(found)
}

/// A string, or a list of them.
fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(one) => Some(vec![one]),
        Value::Array(all) => all.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// A file, files, or pairs of files.
fn client(value: &Value, dir: &Path) -> Option<Vec<(PathBuf, PathBuf)>> {
    let both = |file: &str| (dir.join(file), dir.join(file));
    let Value::Array(all) = value else {
        return Some(vec![both(value.as_str()?)]);
    };
    let one = |value: &Value| match (value, strings(value)?.as_slice()) {
        (_, [file]) | (Value::Array(_), [file, ""]) => Some(both(file)),
        (Value::Array(_), [certificate, key]) => Some((dir.join(certificate), dir.join(key))),
        _ => None,
    };
    all.iter().map(one).collect()
}

/// Takes a URL apart: scheme, host and path. Without a scheme, it is https.
fn place(url: &str) -> Result<(Scheme, &str, &str), String> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        Some((other, _)) => return Err(format!("unknown scheme {other:?}: http or https")),
        None => (Scheme::Https, url),
    };
    let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    check_host(name)?;
    if !path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte))
    {
        return Err(format!(
            "the path {path:?} has characters that do not belong there"
        ));
    }
    Ok((scheme, name, path))
}

/// A time in Go's form: `1m30s`, `1.5s`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(total);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|digit: char| !digit.is_ascii_digit() && digit != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|letter: char| letter.is_ascii_digit() || letter == '.');
        let (unit, next) = after.split_at(letters.unwrap_or(after.len()));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = next;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(files: &[(&str, &str)], registry: &str) -> Result<Vec<Host>> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let hosts = Hosts {
            dirs: vec![dir.path().to_owned()],
            default_scheme: None,
        };
        let mut found = hosts.of(registry)?;
        for host in &mut found {
            let strip = |path: &mut PathBuf| {
                if let Ok(short) = path.strip_prefix(dir.path()) {
                    *path = short.to_owned();
                }
            };
            host.tls.ca.iter_mut().for_each(strip);
            for (certificate, key) in &mut host.tls.client {
                strip(certificate);
                strip(key);
            }
        }
        Ok(found)
    }

    #[test]
    fn registries_without_configuration() {
        let docker = &of(&[], "docker.io").unwrap()[0];
        assert_eq!(docker.name, "registry-1.docker.io");
        assert_eq!(
            (docker.scheme, docker.path.as_str()),
            (Scheme::Https, "/v2")
        );
        assert_eq!(docker.namespace, None);
        for name in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            let local = &of(&[], name).unwrap()[0];
            assert_eq!(local.scheme, Scheme::HttpsOrHttp);
            assert!(local.tls.skip_verify);
        }
        let other = &of(&[], "registry.example:5000").unwrap()[0];
        assert_eq!(other.name, "registry.example:5000");
        assert!(!other.tls.skip_verify);
    }

    #[test]
    fn every_field() {
        let text = r#"
            server = "https://docker.io"
            ca = "up.crt"
            [host."https://b.example:5000/mirror"]
              capabilities = ["pull", "resolve"]
              ca = ["a.crt", "/b.crt"]
              client = [["c.cert", "c.key"], ["d.pem", ""], "e.pem"]
              skip_verify = true
              dial_timeout = "1m1.5s"
              [host."https://b.example:5000/mirror".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."http://a.example/x/y"]
              override_path = true
        "#;
        let hosts = of(&[("docker.io/hosts.toml", text)], "docker.io").unwrap();
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(
            names,
            ["b.example:5000", "a.example", "registry-1.docker.io"]
        );
        let first = &hosts[0];
        assert_eq!(first.path, "/mirror/v2");
        assert_eq!(first.namespace.as_deref(), Some("docker.io"));
        assert!(first.capabilities.pull && !first.capabilities.push);
        assert_eq!(first.dial_timeout, Some(Duration::from_millis(61_500)));
        assert_eq!(first.headers.len(), 3);
        assert_eq!(
            first.tls.ca,
            ["docker.io/a.crt", "/b.crt"].map(PathBuf::from)
        );
        let pairs = [("c.cert", "c.key"), ("d.pem", "d.pem"), ("e.pem", "e.pem")];
        let join = |file: &str| Path::new("docker.io").join(file);
        let pairs = pairs.map(|(one, two)| (join(one), join(two)));
        assert_eq!(first.tls.client, pairs);
        assert_eq!(
            (hosts[1].scheme, hosts[1].path.as_str()),
            (Scheme::Http, "/x/y")
        );
        assert_eq!(hosts[2].tls.ca, [PathBuf::from("docker.io/up.crt")]);
        assert_eq!(hosts[2].namespace, None);
    }

    #[test]
    fn which_directory() {
        let file = |dir: &str| {
            (
                format!("{dir}/hosts.toml"),
                format!("server = \"https://{dir}.example\""),
            )
        };
        let first = |dirs: &[&str], registry: &str| {
            let files: Vec<_> = dirs.iter().map(|dir| file(dir)).collect();
            let files: Vec<_> = files
                .iter()
                .map(|(path, text)| (path.as_str(), text.as_str()))
                .collect();
            of(&files, registry).unwrap()[0].name.clone()
        };
        assert_eq!(first(&["r_5000_", "_default"], "r:5000"), "r_5000_.example");
        assert_eq!(first(&["r", "_default"], "r:5000"), "_default.example");
        assert_eq!(first(&["_default"], "s"), "_default.example");
        assert_eq!(first(&[], "s"), "s");
        let colon = [("r:5000/hosts.toml", "server = \"http://c\"")];
        assert_eq!(of(&colon, "r:5000").unwrap()[0].name, "c");
    }

    #[test]
    fn certificates_as_docker_has_them() {
        let files = [("r/x.crt", ""), ("r/me.cert", ""), ("r/me.key", "")];
        let host = &of(&files, "r").unwrap()[0];
        assert_eq!(host.tls.ca, [PathBuf::from("r/x.crt")]);
        assert_eq!(
            host.tls.client,
            [(PathBuf::from("r/me.cert"), PathBuf::from("r/me.key"))]
        );
        assert_eq!(host.name, "r");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, says) in [
            ("server = 1", "server is no string"),
            ("server = \"ftp://x\"", "unknown scheme"),
            ("= x", "line 1"),
            ("host = 1", "host is no table"),
            (
                "[host.\"https://a\"]\ncapabilities = [\"fly\"]",
                "unknown capability",
            ),
            ("[host.\"https://a\"]\nskip_verify = 1", "no truth value"),
            ("[host.\"https://a b\"]", "other characters"),
            ("dial_timeout = \"soon\"", "dial_timeout"),
            ("[header]\n\"a b\" = \"c\"", "no name of a header"),
            ("client = 1", "client is no path"),
        ] {
            let error = of(&[("r/hosts.toml", text)], "r").unwrap_err().to_string();
            assert!(
                error.contains(says) && error.contains("hosts.toml"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(
            text in "(server|ca|client|host|header|\\[|\\]|\"|=|\\.|[a-z0-9:/ ]|\n){0,40}|.*"
        ) {
            let _ = parse(&text, Path::new("/"));
        }

        #[test]
        fn any_time_is_read_or_refused(text in "[0-9.]{0,30}(ns|us|ms|s|m|h|x)?[0-9.hms]{0,9}|.*") {
            let _ = duration(&text);
        }

        #[test]
        fn no_registry_leads_out_of_the_directory(registry in "[./a:]{1,12}") {
            let hosts = Hosts { dirs: vec!["/proc/self".into()], default_scheme: None };
            let found = hosts.directory(&registry);
            prop_assert!(found.is_none_or(|dir| dir.parent() == Some(Path::new("/proc/self"))));
        }
    }
}
