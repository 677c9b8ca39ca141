//! The configuration file: where things are, and programs that serve a part of the API.
//!
//! Everything has a default, so that no file is needed. A key that nobody knows is an error: it is
//! most often a known one, misspelt.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Where the file is looked for when nobody names one.
pub const DEFAULT: &str = "/etc/knarrd/config.toml";

/// The configuration of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory for images, snapshots and records.
    pub root: PathBuf,
    /// Directory for what need not survive a restart of the machine.
    pub state: PathBuf,
    /// Socket that clients connect to.
    pub address: PathBuf,
    /// Directories of registries' `hosts.toml`, the first that has one counts.
    pub registry_hosts: Vec<PathBuf>,
    /// Which runtime serves the name of another.
    pub runtimes: BTreeMap<String, String>,
    /// The overlayfs snapshotter.
    pub overlayfs: Overlayfs,
    /// Programs that serve a part of the API, by the name that clients choose them by.
    pub proxy_plugins: BTreeMap<String, Proxy>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/knarrd".into(),
            state: "/run/knarrd".into(),
            address: "/run/knarrd/knarrd.sock".into(),
            registry_hosts: ["/etc/containerd/certs.d", "/etc/docker/certs.d"]
                .map(PathBuf::from)
                .into(),
            runtimes: BTreeMap::new(),
            overlayfs: Overlayfs::default(),
            proxy_plugins: BTreeMap::new(),
        }
    }
}

/// The overlayfs snapshotter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overlayfs {
    /// Snapshots that are written to are mounted without regard to power cuts: nothing waits for
    /// the disk when they are unmounted. A container's changes may be torn after one.
    pub volatile: bool,
}

/// A program that serves a part of the API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// Which part.
    #[serde(rename = "type")]
    pub kind: ProxyKind,
    /// Its socket.
    pub address: PathBuf,
    /// What it is called there, where that is not its name here.
    #[serde(default)]
    pub snapshotter: Option<String>,
    /// What clients may ask of it beyond what all can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// For clients: values that they look up by name.
    #[serde(default)]
    pub exports: BTreeMap<String, String>,
    /// How long a call may take, in seconds.
    #[serde(default = "Proxy::timeout")]
    pub timeout: u32,
}

impl Proxy {
    fn timeout() -> u32 {
        30
    }

    /// How long a call may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

/// The parts of the API that another program can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyKind {
    /// A snapshotter.
    Snapshot,
    /// What unpacks and makes layers.
    Diff,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument`, with the line, for what is no configuration.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| match error.kind() {
            ErrorKind::InvalidData => Error::invalid(format!("{} is no text", path.display())),
            _ => Error::io(path.display(), &error),
        })?;
        Self::parse(&text).map_err(|error| error.context(path.display()))
    }

    /// The same as a file that says all of it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // A text is written in both alike.
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let path = |path: &Path| text(&path.to_string_lossy());
        let list = |values: Vec<String>| format!("[{}]", values.join(", "));
        let hosts = self.registry_hosts.iter().map(|dir| path(dir)).collect();
        let mut out = format!(
            "root = {}\nstate = {}\naddress = {}\nregistry_hosts = {}\n\n[runtimes]\n",
            path(&self.root),
            path(&self.state),
            path(&self.address),
            list(hosts)
        );
        for (name, served) in &self.runtimes {
            out += &format!("{} = {}\n", text(name), text(served));
        }
        out += &format!("\n[overlayfs]\nvolatile = {}\n", self.overlayfs.volatile);
        for (name, proxy) in &self.proxy_plugins {
            let kind = match proxy.kind {
                ProxyKind::Snapshot => "snapshot",
                ProxyKind::Diff => "diff",
            };
            out += &format!(
                "\n[proxy_plugins.{}]\ntype = \"{kind}\"\naddress = {}\ntimeout = {}\n",
                text(name),
                path(&proxy.address),
                proxy.timeout
            );
            if let Some(name) = &proxy.snapshotter {
                out += &format!("snapshotter = {}\n", text(name));
            }
            let capabilities = proxy.capabilities.iter().map(|name| text(name)).collect();
            let exports = proxy.exports.iter();
            let exports = exports.map(|(key, value)| format!("{} = {}", text(key), text(value)));
            let exports: Vec<String> = exports.collect();
            out += &format!(
                "capabilities = {}\nexports = {{ {} }}\n",
                list(capabilities),
                exports.join(", ")
            );
        }
        out
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            Error::invalid(format!(
                "line {line}: {}",
                error.message().replace('\n', " ")
            ))
        })?;
        for (name, proxy) in &config.proxy_plugins {
            crate::store::name::check(name)
                .map_err(|error| error.context(format!("proxy_plugins.{name}")))?;
            if !proxy.address.is_absolute() {
                return Err(Error::invalid(format!(
                    "proxy_plugins.{name}.address: {} is no absolute path",
                    proxy.address.display()
                )));
            }
            if proxy.timeout == 0 {
                return Err(Error::invalid(format!(
                    "proxy_plugins.{name}.timeout: it is at least 1"
                )));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_has_a_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let config = Config::parse(
            "root = '/r'\n[runtimes]\n'io.containerd.runc.v2' = 'io.containerd.runc.v2'\n\
             [overlayfs]\nvolatile = true\n\
             [proxy_plugins.far]\ntype = 'snapshot'\naddress = '/run/far.sock'\n\
             capabilities = ['rebase']\nexports = { root = '/far' }\n",
        );
        let config = config.unwrap();
        assert_eq!(config.root, Path::new("/r"));
        assert_eq!(config.state, Path::new("/run/knarrd"));
        assert!(config.overlayfs.volatile);
        let far = &config.proxy_plugins["far"];
        assert_eq!(far.kind, ProxyKind::Snapshot);
        assert_eq!(far.deadline(), Duration::from_secs(30));
        assert_eq!(far.exports["root"], "/far");
        assert_eq!(Config::parse(&config.to_toml()).unwrap(), config);
        let default = Config::default();
        assert_eq!(Config::parse(&default.to_toml()).unwrap(), default);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, word) in [
            ("root = '/r'\nrot = '/x'\n", "line 2", "rot"),
            ("\n\nroot = 7\n", "line 3", "string"),
            ("[overlayfs]\nvolatil = true\n", "line 2", "volatil"),
            ("root = \n", "line 1", ""),
            (
                "[proxy_plugins.a]\ntype = 'other'\naddress = '/a'\n",
                "line 2",
                "other",
            ),
            (
                "[proxy_plugins.a]\ntype = 'snapshot'\n",
                "line 1",
                "address",
            ),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(
                error.contains(line) && error.contains(word),
                "{text}: {error}"
            );
        }
        for text in [
            "[proxy_plugins.'a/b']\ntype = 'snapshot'\naddress = '/a'\n",
            "[proxy_plugins.a]\ntype = 'snapshot'\naddress = 'a'\n",
            "[proxy_plugins.a]\ntype = 'snapshot'\naddress = '/a'\ntimeout = 0\n",
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains("proxy_plugins.a"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let error = Config::read(Path::new("/no/such/file")).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
