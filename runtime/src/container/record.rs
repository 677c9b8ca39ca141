//! What the runtime remembers about a container: state.json in its state directory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::{SpecState, Status};
use crate::error::{Error, Kind, Result};

/// Version of the record's form. A record of an older version is converted when
/// it is read, or refused by name; one of a newer version is refused.
pub(crate) const VERSION: u32 = 1;

/// The record. Everything that a later command needs without reading the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Form of this record.
    pub version: u32,
    /// ociVersion of the configuration.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: String,
    /// Absolute path of the root file system.
    pub rootfs: String,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Who created it.
    pub owner: u32,
    /// Annotations of the configuration.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Pid of init on the host; 0 until it exists.
    pub pid: i32,
    /// Start time of init in clock ticks, which tells it from a later process with its pid.
    pub start_time: u64,
    /// Whether create came to its end.
    pub ready: bool,
    /// Whether the configuration has a process, without which the container cannot start.
    pub has_process: bool,
    /// Kinds of namespaces that are the container's, as clone flags.
    pub namespaces: u64,
    /// Whether init is pid 1 of a pid namespace of its own.
    pub private_pid: bool,
    /// The cgroup.
    pub cgroup: crate::cgroup::Record,
    /// Whether the container kept the session keyring of whoever created it, as its execs do of theirs.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// The filter of system calls as an exec loads it; not kept where there is none or it has a listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The resctrl group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<crate::intel_rdt::Made>,
    /// Whether there are hooks to run after start.
    pub poststart: bool,
    /// Whether there are hooks to run after delete.
    pub poststop: bool,
}

impl Record {
    /// Reads a record, whatever the file contains.
    pub fn from_json(id: &str, json: &[u8]) -> Result<Record> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |why: &dyn std::fmt::Display| {
            Error::new(
                Kind::State,
                format!(
                    "state of container {id} is damaged, or of another runtime ({why}): remove the container with that, or with delete --force"
                ),
            )
        };
        let read: std::result::Result<Record, _> = serde_json::from_slice(json);
        // The version first of all: where it is another, so may everything be.
        let version = match &read {
            Ok(record) => record.version,
            Err(_) => match serde_json::from_slice(json) {
                Ok(Versioned { version }) => version,
                Err(error) => return Err(damaged(&error)),
            },
        };
        if version != VERSION {
            return Err(Error::new(
                Kind::State,
                format!(
                    "state of container {id} has version {version}, this program knows version {VERSION}: use the program that made it"
                ),
            ));
        }
        let record = read.map_err(|error| damaged(&error))?;
        if record.id != id {
            return Err(damaged(&format_args!("it is that of {:?}", record.id)));
        }
        Ok(record)
    }

    /// The record as it is written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| {
            Error::new(
                Kind::State,
                format!("state of container {}: {error}", self.id),
            )
        })
    }

    /// The state as hooks and seccomp listeners get it: what the specification defines and no more.
    pub fn spec_state(&self, status: Status, pid: i32) -> SpecState<'_> {
        SpecState {
            oci_version: &self.oci_version,
            id: &self.id,
            status,
            pid,
            bundle: &self.bundle,
            annotations: &self.annotations,
        }
    }

    /// That state as JSON.
    pub fn hooks_state(&self, status: Status, pid: i32) -> Vec<u8> {
        serde_json::to_vec(&self.spec_state(status, pid)).unwrap_or_default()
    }
}
