//! The programs that call a runtime, and the runtimes to compare with, where `integration/peers/fetch` puts them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::cgroup::Driver;
use crate::runtime;

/// Where a daemon comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The newest release, built here.
    Newest,
    /// Debian's package, unpacked.
    Debian,
}

/// The directory that all peers are below: `KNARR_PEERS`, or `target/peers`.
#[must_use]
pub fn dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("KNARR_PEERS") {
        return dir.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let dir = target.join("peers");
    dir.canonicalize().unwrap_or(dir)
}

impl Source {
    /// The directories for `PATH` with this source's daemons.
    #[must_use]
    pub fn path(self) -> Vec<PathBuf> {
        match self {
            Self::Newest => vec![dir().join("newest")],
            Self::Debian => vec![dir().join("debian/usr/bin"), dir().join("debian/usr/sbin")],
        }
    }

    /// The program of that name.
    #[must_use]
    pub fn find(self, name: &str) -> Option<PathBuf> {
        self.path()
            .into_iter()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    }
}

/// The client program of that name.
#[must_use]
pub fn client(name: &str) -> Option<PathBuf> {
    Some(dir().join("clients").join(name)).filter(|path| path.is_file())
}

/// The runc to compare with: the version that is brought, else an installed one.
#[must_use]
pub fn runc() -> Option<PathBuf> {
    runtime::find(&dir().join("runc/runc")).or_else(|| runtime::find(Path::new("runc")))
}

/// The crun programs to compare with: an installed one, and the newest that Debian packages.
#[must_use]
pub fn cruns() -> Vec<PathBuf> {
    let newest = dir().join("crun-new/crun");
    [Path::new("crun"), &newest]
        .into_iter()
        .filter_map(runtime::find)
        .collect()
}

/// Whether a program that `make peers` installs is there; else what [`missing`] says.
///
/// # Errors
/// The reason to skip.
///
/// # Panics
/// Where the peers are needed.
pub fn installed(name: &str) -> Result<(), String> {
    match runtime::find(Path::new(name)) {
        Some(_) => Ok(()),
        None => Err(missing(name)),
    }
}

/// What to do where a peer is missing: fails where `KNARR_NEED_PEERS` is set, else gives the reason to skip.
///
/// # Panics
/// Where the peers are needed.
#[must_use]
pub fn missing(name: &str) -> String {
    let text = format!(
        "{name} is neither installed nor below {}: `make peers` brings it",
        dir().display()
    );
    assert!(!needed(), "{text}");
    text
}

/// Whether a missing peer is a failure: `KNARR_NEED_PEERS` is set.
#[must_use]
pub fn needed() -> bool {
    std::env::var_os("KNARR_NEED_PEERS").is_some()
}

/// A daemon that the tests of a file share; the first that asks for it starts it.
#[derive(Debug)]
pub struct Shared<T> {
    /// Where it comes from.
    pub source: Source,
    /// Who makes the cgroups of its containers.
    pub driver: Driver,
    make: fn(Source, Driver) -> T,
    daemon: OnceLock<T>,
}

impl<T> Shared<T> {
    /// One that `make` starts.
    pub const fn new(source: Source, driver: Driver, make: fn(Source, Driver) -> T) -> Self {
        Self {
            source,
            driver,
            make,
            daemon: OnceLock::new(),
        }
    }

    /// The daemon.
    pub fn get(&self) -> &T {
        self.daemon
            .get_or_init(|| (self.make)(self.source, self.driver))
    }
}

/// Names tests of a file for one daemon, in a module of their own: the file has a function
/// `on(daemon, test)` that gets a [`Shared`] one.
#[macro_export]
macro_rules! with_daemon {
    ($module:ident, $daemon:ident: $($test:ident),* $(,)?) => {
        mod $module {
            $(#[test] fn $test() { super::on(&super::$daemon, super::$test); })*
        }
    };
}

/// Names every test of a file for both sources: the file has a [`Shared`] daemon of each, `NEWEST` and `DEBIAN`.
#[macro_export]
macro_rules! both {
    ($($test:ident),* $(,)?) => {
        $crate::with_daemon!(newest, NEWEST: $($test),*);
        $crate::with_daemon!(debian, DEBIAN: $($test),*);
    };
}
