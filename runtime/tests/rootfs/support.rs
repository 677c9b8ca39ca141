//! Runs a test in namespaces of its own and makes bundles.
//!
//! A mount namespace can only be thrown away with its process, so each test
//! runs this test program again, for itself alone, under unshare(1).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use knarr_runtime::rootfs::{self, HostSources, RootFd, Rootfs};
use knarr_runtime::spec::{Spec, parse};

/// Names the test that runs inside.
const INSIDE: &str = "KNARR_ROOTFS_TEST";

/// Names the directory that the test may use.
const DIRECTORY: &str = "KNARR_ROOTFS_DIRECTORY";

/// Runs `body` in new namespaces; `unshare` are options of unshare(1) beyond `--mount`.
pub fn isolated(name: &str, unshare: &[&str], body: impl FnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        body();
        return;
    }
    if !rustix::process::geteuid().is_root() {
        crate::skips::note(format_args!("{name} needs root"));
        return;
    }
    isolated_with(name, unshare, &[]);
}

/// Runs the test `name` again in new namespaces, with further `variables` (`NAME=value`).
pub fn isolated_with(name: &str, unshare: &[&str], variables: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "unchanged"])
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .env(DIRECTORY, directory.path())
        .envs(
            variables
                .iter()
                .filter_map(|variable| variable.split_once('=')),
        )
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{name} {variables:?} failed inside:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// All namespaces but the user's.
pub const ALL: &[&str] = &["--pid", "--fork", "--ipc", "--net", "--uts", "--cgroup"];

/// A directory with an empty `rootfs`.
///
/// It is removed from outside: the test that enters it cannot reach it any more.
pub struct Bundle(PathBuf);

impl Bundle {
    /// Makes one where [`isolated`] has said.
    pub fn new() -> Bundle {
        let path = PathBuf::from(std::env::var_os(DIRECTORY).unwrap()).join("bundle");
        fs::create_dir_all(path.join("rootfs")).unwrap();
        Bundle(path)
    }

    /// One that exists.
    pub fn at(path: PathBuf) -> Bundle {
        Bundle(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// Makes a directory in the image.
    pub fn dir(&self, path: &str) -> &Bundle {
        fs::create_dir_all(self.rootfs().join(path)).unwrap();
        self
    }

    /// Makes a file in the image.
    pub fn file(&self, path: &str, text: &str) -> &Bundle {
        let path = self.rootfs().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Makes a link in the image.
    pub fn link(&self, path: &str, target: &str) -> &Bundle {
        std::os::unix::fs::symlink(target, self.rootfs().join(path)).unwrap();
        self
    }

    /// Prepares the root file system of `config` up to the point where hooks run.
    pub fn prepare<T>(
        &self,
        config: &str,
        then: impl FnOnce(Rootfs<'_>) -> T,
    ) -> Result<T, String> {
        let spec: Spec<'_> = parse::parse("config.json", config.as_bytes()).unwrap();
        let mut plan = rootfs::plan(&spec, self.path()).map_err(|e| e.to_string())?;
        plan.mount_namespace = true;
        let sources = HostSources::open(&plan).map_err(|e| e.to_string())?;
        rootfs::prepare(&plan, sources, &mut || Ok(()))
            .map(then)
            .map_err(|e| e.to_string())
    }

    /// The error of a configuration that cannot work.
    pub fn refuse(&self, config: &str) -> String {
        self.enter(config).map(drop).unwrap_err()
    }

    /// Goes all the way; afterwards `/` is the container's root.
    pub fn enter(&self, config: &str) -> Result<RootFd, String> {
        self.prepare(config, |mut rootfs| {
            rootfs.pivot(false)?;
            rootfs.finish()
        })?
        .map_err(|e| e.to_string())
    }
}

/// A configuration with `mounts` and members of `linux`, both JSON.
pub fn config(mounts: &str, linux: &str) -> String {
    format!(
        r#"{{"ociVersion":"1.3.0","root":{{"path":"rootfs"}},"mounts":[{mounts}],"linux":{{{linux}}}}}"#
    )
}

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone)]
pub struct MountInfo {
    pub root: String,
    pub options: Vec<String>,
    pub optional: Vec<String>,
    pub kind: String,
    pub source: String,
}

impl MountInfo {
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }
}

/// The mounts that this process sees, the topmost of each place; needs a /proc.
pub fn mountinfo() -> HashMap<String, MountInfo> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let words = |text: &str| text.split(',').map(str::to_owned).collect();
    text.lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").unwrap();
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            (
                left[4].to_owned(),
                MountInfo {
                    root: left[3].to_owned(),
                    options: words(left[5]),
                    optional: left[6..].iter().map(|s| (*s).to_owned()).collect(),
                    kind: right[0].to_owned(),
                    source: right[1].to_owned(),
                },
            )
        })
        .collect()
}

/// The errno of a failed file operation.
pub fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}
