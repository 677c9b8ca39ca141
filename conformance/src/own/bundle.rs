//! A bundle for one test: a root file system with the probe, and a
//! configuration that a test changes by JSON pointers.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A bundle directory and its configuration.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The directory.
    pub dir: PathBuf,
    /// What will be written to config.json.
    pub config: Value,
}

impl Bundle {
    /// Makes the directory with a root file system that has the probe and the
    /// usual empty directories.
    pub fn make(dir: &Path) -> Result<Self> {
        let rootfs = dir.join("rootfs");
        for sub in ["proc", "sys", "dev", "tmp", "etc", "run", "bin", "mnt"] {
            fs::create_dir_all(rootfs.join(sub))
                .with_context(|| format!("make {}", rootfs.display()))?;
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        install_probe(&rootfs)?;
        Ok(Self {
            dir: dir.to_owned(),
            config: default_config(),
        })
    }

    /// The root file system seen from outside.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Sets a value, making objects on the way; `/a/-` appends to an array.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut slot = &mut self.config;
        for key in pointer.split('/').skip(1) {
            if key == "-" {
                if !slot.is_array() {
                    *slot = json!([]);
                }
                let Value::Array(list) = slot else {
                    return self;
                };
                list.push(Value::Null);
                let Some(last) = list.last_mut() else {
                    return self;
                };
                slot = last;
            } else if slot.is_array() {
                let Some(next) = key.parse::<usize>().ok().and_then(|i| slot.get_mut(i)) else {
                    return self;
                };
                slot = next;
            } else {
                if !slot.is_object() {
                    *slot = json!({});
                }
                let Value::Object(map) = slot else {
                    return self;
                };
                slot = map.entry(key).or_insert(Value::Null);
            }
        }
        *slot = value;
        self
    }

    /// Removes a key of an object.
    pub fn unset(&mut self, pointer: &str) -> &mut Self {
        if let Some((parent, key)) = pointer.rsplit_once('/') {
            if let Some(Value::Object(map)) = self.config.pointer_mut(parent) {
                map.remove(key);
            }
        }
        self
    }

    /// Runs the probe with these operations.
    pub fn probe(&mut self, operations: &[&str]) -> &mut Self {
        let mut args = vec!["/probe", "probe"];
        args.extend(operations);
        self.set("/process/args", json!(args))
    }

    /// Drops the namespace of this type from the configuration.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        if let Some(Value::Array(list)) = self.config.pointer_mut("/linux/namespaces") {
            list.retain(|n| n["type"] != kind);
        }
        self
    }

    /// Writes config.json.
    pub fn write(&self) -> Result<()> {
        let path = self.dir.join("config.json");
        fs::write(&path, serde_json::to_vec_pretty(&self.config)?)
            .with_context(|| format!("write {}", path.display()))
    }
}

/// Copies this program into a root file system. A build that is not static
/// brings the libraries that the running process has mapped.
pub fn install_probe(rootfs: &Path) -> Result<()> {
    fs::copy("/proc/self/exe", rootfs.join("probe")).context("copy this program as probe")?;
    fs::set_permissions(rootfs.join("probe"), fs::Permissions::from_mode(0o755))?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut libraries: Vec<&str> = maps
        .lines()
        .filter_map(|l| l.split_whitespace().nth(5))
        .filter(|p| p.contains(".so"))
        .collect();
    libraries.dedup();
    for library in libraries {
        let name = Path::new(library).file_name().unwrap_or_default();
        // The interpreter's path is fixed in the program; the rest is searched for.
        let dirs: &[&str] = if name.to_string_lossy().starts_with("ld-") {
            &["lib64", "lib"]
        } else {
            &["lib64"]
        };
        for dir in dirs {
            fs::create_dir_all(rootfs.join(dir))?;
            fs::copy(library, rootfs.join(dir).join(name))
                .with_context(|| format!("copy {library}"))?;
        }
    }
    Ok(())
}

fn default_config() -> Value {
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
    ]);
    json!({
        "ociVersion": crate::fetch::OCI_VERSION,
        "root": { "path": "rootfs" },
        "hostname": "conformance",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/probe", "probe", "report"],
            "env": ["PATH=/bin:/usr/bin", "LD_LIBRARY_PATH=/lib64"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_make_their_way() {
        let mut b = Bundle {
            dir: PathBuf::new(),
            config: default_config(),
        };
        b.set("/linux/resources/pids/limit", json!(7))
            .set("/mounts/-", json!({"destination": "/x"}));
        b.set("/process/rlimits/-/type", json!("RLIMIT_CORE"))
            .unset("/hostname");
        assert_eq!(b.config["linux"]["resources"]["pids"]["limit"], 7);
        assert_eq!(b.config["mounts"][5]["destination"], "/x");
        assert_eq!(b.config["process"]["rlimits"][0]["type"], "RLIMIT_CORE");
        assert!(b.config.get("hostname").is_none());
        b.without_namespace("uts");
        assert_eq!(b.config["linux"]["namespaces"].as_array().unwrap().len(), 4);
    }
}
