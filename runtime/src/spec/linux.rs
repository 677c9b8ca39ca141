//! The `linux` section of config.json, but for resources and seccomp.
//!
//! Source: runtime-spec 1.3.0, config-linux.md.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::{IdMapping, is_default, null_default};
use super::resources::Resources;
use super::seccomp::Seccomp;
use super::text::Text;

/// `linux`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct Linux<'a> {
    /// Namespaces to make or to join.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub namespaces: Vec<Namespace<'a>>,
    /// User ids of a new user namespace.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of a new user namespace.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub gid_mappings: Vec<IdMapping>,
    /// Clock offsets of a new time namespace, by clock (`monotonic`, `boottime`).
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub time_offsets: BTreeMap<Text<'a>, TimeOffset>,
    /// Device nodes.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub devices: Vec<Device<'a>>,
    /// Network devices moved into the network namespace, by their name outside.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub net_devices: BTreeMap<Text<'a>, NetDevice<'a>>,
    /// Where the container's cgroup is.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub cgroups_path: Text<'a>,
    /// Limits of the cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources<'a>>,
    /// Intel Resource Director Technology.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt<'a>>,
    /// NUMA memory policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<MemoryPolicy<'a>>,
    /// Kernel parameters, set through /proc/sys.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub sysctl: BTreeMap<Text<'a>, Text<'a>>,
    /// System call filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp<'a>>,
    /// `shared`, `slave`, `private` or `unbindable`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub rootfs_propagation: Text<'a>,
    /// Absolute paths that cannot be read.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub masked_paths: Vec<Text<'a>>,
    /// Absolute paths that cannot be written.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub readonly_paths: Vec<Text<'a>>,
    /// SELinux context of the mounts.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub mount_label: Text<'a>,
    /// Execution domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<Personality<'a>>,
}

/// One of `linux.namespaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Namespace<'a> {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup` or `time`.
    #[serde(rename = "type")]
    pub kind: Text<'a>,
    /// Namespace to join; a new one is made where empty.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub path: Text<'a>,
}

/// One of `linux.timeOffsets`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Seconds.
    #[serde(deserialize_with = "null_default")]
    pub secs: i64,
    /// Nanoseconds.
    #[serde(deserialize_with = "null_default")]
    pub nanosecs: u32,
}

/// One of `linux.devices`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct Device<'a> {
    /// `c`, `b`, `u` or `p`.
    #[serde(rename = "type")]
    pub kind: Text<'a>,
    /// Where, in the container.
    pub path: Text<'a>,
    /// Major number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// Minor number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner, as the container sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group, as the container sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// One of `linux.netDevices`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct NetDevice<'a> {
    /// Name inside; the one outside where empty. May end in `%d`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub name: Text<'a>,
}

/// `linux.intelRdt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct IntelRdt<'a> {
    /// Class of service; the container's id where absent.
    #[serde(rename = "closID", skip_serializing_if = "Option::is_none")]
    pub clos_id: Option<Text<'a>>,
    /// Lines written to `schemata` after the two below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schemata: Option<Vec<Text<'a>>>,
    /// Cache lines of `schemata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_schema: Option<Text<'a>>,
    /// Memory bandwidth lines of `schemata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_schema: Option<Text<'a>>,
    /// Whether a monitoring group of its own is made.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub enable_monitoring: bool,
}

/// `linux.memoryPolicy`, set_mempolicy(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct MemoryPolicy<'a> {
    /// Name such as `MPOL_BIND`.
    pub mode: Text<'a>,
    /// NUMA nodes, a list such as `0-1,3`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub nodes: Text<'a>,
    /// Names such as `MPOL_F_STATIC_NODES`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub flags: Vec<Text<'a>>,
}

/// `linux.personality`, personality(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Personality<'a> {
    /// `LINUX` or `LINUX32`.
    pub domain: Text<'a>,
    /// No flag is defined by the specification.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub flags: Vec<Text<'a>>,
}
