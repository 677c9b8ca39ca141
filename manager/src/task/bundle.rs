//! Bundles: the directory that a shim works in, one a task.
//!
//! ```text
//! DIR/NAMESPACE/ID     the bundle; in it:
//!   config.json        what to run
//!   rootfs             where the shim mounts the root file system
//!   work               for the shim
//!   log                fifo: what the shim complains of
//!   shim-binary-path   the shim's program, which can clean up as well
//!   bootstrap.json     where the shim listens
//!   shared-shim        there where the shim is a sandbox's, and does not end with the task
//!   init.pid           the first process; written once the container is made
//! ```

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::manager::make_dirs;

const PROGRAM: &str = "shim-binary-path";
const BOOTSTRAP: &str = "bootstrap.json";
const ADDRESS: &str = "address";
const SHARED: &str = "shared-shim";
const PID: &str = "init.pid";

/// What names of bundles that are being removed begin with: no id does.
const GONE: &str = ".gone-";

/// What carries calls to a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// ttrpc.
    Ttrpc,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// As shims say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttrpc => "ttrpc",
            Self::Grpc => "grpc",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut all = [Self::Ttrpc, Self::Grpc].into_iter();
        all.find(|protocol| protocol.name() == name)
    }
}

/// How to reach a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Of the task service: 2 or 3.
    pub version: u32,
    /// `unix://` and a path.
    pub address: String,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A bundle.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The namespace of the task.
    pub namespace: String,
    /// The id of the task.
    pub id: String,
    /// The directory.
    pub path: PathBuf,
}

impl Bundle {
    /// The bundle of a task below `dir`, whether there is one or not.
    #[must_use]
    pub fn new(dir: &Path, namespace: &str, id: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            id: id.to_owned(),
            path: dir.join(namespace).join(id),
        }
    }

    /// All bundles below `dir`. Finishes what was being removed.
    pub fn list(dir: &Path) -> Vec<Self> {
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok())
        };
        let mut found = Vec::new();
        for namespace in names(dir) {
            for id in names(&dir.join(&namespace)) {
                if id.starts_with(GONE) {
                    let _ = remove_tree(&dir.join(&namespace).join(id));
                } else {
                    found.push(Self::new(dir, &namespace, &id));
                }
            }
        }
        found
    }

    /// Makes the directory with what the shim's program needs.
    ///
    /// # Errors
    /// `AlreadyExists`; where the disk fails.
    pub fn create(&self, spec: &[u8], program: &Path) -> Result<()> {
        if let Some(dir) = self.path.parent() {
            make_dirs(dir)?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&self.path)
            .map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => Error::exists(format!("bundle of task {}", self.id)),
                _ => Error::io(self.path.display(), &error),
            })?;
        self.fill(spec, program).inspect_err(|_| {
            let _ = self.remove();
        })
    }

    fn fill(&self, spec: &[u8], program: &Path) -> Result<()> {
        self.write("config.json", spec)?;
        self.write(PROGRAM, program.as_os_str().as_bytes())?;
        for (name, mode) in [("rootfs", 0o711), ("work", 0o711)] {
            let path = self.path.join(name);
            let made = fs::DirBuilder::new().mode(mode).create(&path);
            made.map_err(|error| Error::io(path.display(), &error))?;
        }
        let log = self.log();
        mknodat(CWD, &log, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(|errno| Error::io(log.display(), &errno.into()))?;
        if let Some(group) = root_group(spec) {
            // Root of the container passes through, as members of its group do.
            let broken = |error| Error::io(self.path.display(), &error);
            std::os::unix::fs::chown(&self.path, None, Some(group)).map_err(broken)?;
            let mode = fs::Permissions::from_mode(0o710);
            fs::set_permissions(&self.path, mode).map_err(broken)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, bytes).map_err(|error| Error::io(path.display(), &error))
    }

    /// The fifo for complaints of the shim.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Notes how the shim is reached.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn set_bootstrap(&self, shim: &Bootstrap) -> Result<()> {
        let text = json!({
            "version": shim.version,
            "address": shim.address,
            "protocol": shim.protocol.name(),
        });
        self.write(BOOTSTRAP, text.to_string().as_bytes())
    }

    /// Notes that the shim is a sandbox's.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn set_shared(&self) -> Result<()> {
        self.write(SHARED, b"")
    }

    /// Whether the shim is a sandbox's.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.path.join(SHARED).exists()
    }

    /// Notes the first process.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn set_pid(&self, pid: u32) -> Result<()> {
        self.write(PID, pid.to_string().as_bytes())
    }

    /// The first process, if the container was made.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.path.join(PID)).ok()?;
        text.trim().parse().ok()
    }

    /// How the shim is reached, as far as anybody got to note it. The shim notes its address, too.
    #[must_use]
    pub fn bootstrap(&self) -> Option<Bootstrap> {
        if let Ok(text) = fs::read(self.path.join(BOOTSTRAP))
            && let Ok(value) = serde_json::from_slice::<Value>(&text)
            && let Some(address) = value["address"].as_str()
        {
            return Some(Bootstrap {
                version: value["version"]
                    .as_u64()
                    .map_or(2, |v| if v == 3 { 3 } else { 2 }),
                address: address.to_owned(),
                protocol: value["protocol"]
                    .as_str()
                    .and_then(Protocol::named)
                    .unwrap_or(Protocol::Ttrpc),
            });
        }
        let address = fs::read_to_string(self.path.join(ADDRESS)).ok()?;
        // What older ones speak, and newer ones as well.
        Some(Bootstrap {
            version: 2,
            address,
            protocol: Protocol::Ttrpc,
        })
        .filter(|shim| !shim.address.is_empty())
    }

    /// The shim's program, if it was noted.
    #[must_use]
    pub fn program(&self) -> Option<PathBuf> {
        let bytes = fs::read(self.path.join(PROGRAM)).ok()?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes));
        path.is_absolute().then_some(path)
    }

    /// Removes the directory. What may still be mounted for the task is unmounted before, and the
    /// files below such a mount stay.
    ///
    /// # Errors
    /// Where something is mounted there and stays so; where the disk fails.
    pub fn remove(&self) -> Result<()> {
        let gone = self.path.with_file_name(format!("{GONE}{}", self.id));
        let broken = |error| Error::io(self.path.display(), &error);
        unmount_all(&self.path.join("rootfs"))?;
        if gone.exists() {
            remove_tree(&gone)?;
        }
        match fs::rename(&self.path, &gone) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(broken)?,
        }
        remove_tree(&gone)
    }
}

/// Removes a bundle's tree, nothing of which is a mount.
fn remove_tree(path: &Path) -> Result<()> {
    unmount_all(&path.join("rootfs"))?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path.display(), &error)),
        _ => Ok(()),
    }
}

fn unmount_all(target: &Path) -> Result<()> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => {
                let what = format!("unmount {}", target.display());
                return Err(Error::io(what, &errno.into()));
            }
        }
    }
}

/// The group that is the container's root group, where it has a user namespace.
fn root_group(spec: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"\"gidMappings\"";
    if !spec.windows(NAME.len()).any(|part| part == NAME) {
        return None;
    }
    let spec: Value = serde_json::from_slice(spec).ok()?;
    let mappings = spec["linux"]["gidMappings"].as_array()?;
    let root = mappings.iter().find(|mapping| {
        mapping["containerID"].as_u64() == Some(0) && mapping["size"].as_u64() > Some(0)
    })?;
    u32::try_from(root["hostID"].as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(dir.path(), "ns", "one");
        bundle.create(b"{}", Path::new("/bin/shim")).unwrap();
        assert_eq!(bundle.program(), Some("/bin/shim".into()));
        assert_eq!(bundle.bootstrap(), None);
        fs::write(bundle.path.join(ADDRESS), "unix:///old").unwrap();
        assert_eq!(bundle.bootstrap().unwrap().version, 2);
        let shim = Bootstrap {
            version: 3,
            address: "unix:///new".to_owned(),
            protocol: Protocol::Grpc,
        };
        bundle.set_bootstrap(&shim).unwrap();
        assert_eq!(bundle.bootstrap(), Some(shim));
        let all = Bundle::list(dir.path());
        assert_eq!(all.len(), 1);
        assert_eq!((&*all[0].namespace, &*all[0].id), ("ns", "one"));
        assert!(bundle.create(b"{}", Path::new("/bin/shim")).is_err());
        bundle.remove().unwrap();
        bundle.remove().unwrap();
        assert!(Bundle::list(dir.path()).is_empty());
    }

    #[test]
    fn a_mapped_root_can_pass() {
        let spec = br#"{"linux": {"gidMappings": [
            {"containerID": 1, "hostID": 5, "size": 9}, {"containerID": 0, "hostID": 7000, "size": 1}
        ]}}"#;
        assert_eq!(root_group(spec), Some(7000));
        assert_eq!(root_group(b"{}"), None);
        assert_eq!(root_group(b"\"gidMappings\""), None);
    }
}
