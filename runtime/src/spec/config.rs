//! The types of config.json that every platform shares: process, root, mounts, hooks.
//!
//! Source: runtime-spec 1.3.0, config.md. Names follow the specification;
//! values stay as they were written (a capability is still text here), so that
//! the validation can name what is wrong with them. `null` counts as absent,
//! because configurations written by Go programs carry `null` for empty lists.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::linux::Linux;
use super::text::Text;

/// Reads `null` as the default value.
pub(super) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A whole config.json.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct Spec<'a> {
    /// Version of the specification, SemVer.
    pub oci_version: Text<'a>,
    /// The process to run; optional at create, needed by start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process<'a>>,
    /// The root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root<'a>>,
    /// Host name set in the UTS namespace.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub hostname: Text<'a>,
    /// NIS domain name set in the UTS namespace.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub domainname: Text<'a>,
    /// Mounts beyond the root, in the order in which they are made.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub mounts: Vec<Mount<'a>>,
    /// Programs to run at points of the life cycle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks<'a>>,
    /// Free metadata.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<Text<'a>, Text<'a>>,
    /// What only Linux has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux<'a>>,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `process`: what runs, as whom, with which limits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct Process<'a> {
    /// Whether a pseudoterminal is attached.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub terminal: bool,
    /// Size of the terminal, ignored without `terminal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// User and groups.
    #[serde(deserialize_with = "null_default")]
    pub user: User,
    /// Program and its arguments.
    #[serde(deserialize_with = "null_default")]
    pub args: Vec<Text<'a>>,
    /// Environment, `NAME=value` each.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub env: Vec<Text<'a>>,
    /// Absolute working directory in the container.
    #[serde(deserialize_with = "null_default")]
    pub cwd: Text<'a>,
    /// The five capability sets; absent means empty sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities<'a>>,
    /// Resource limits.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub rlimits: Vec<Rlimit<'a>>,
    /// Whether `execve` may grant privileges no more.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub no_new_privileges: bool,
    /// AppArmor profile.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub apparmor_profile: Text<'a>,
    /// SELinux label.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub selinux_label: Text<'a>,
    /// Value for oom_score_adj; untouched when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// CPU scheduling policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler<'a>>,
    /// I/O priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority<'a>>,
    /// CPU affinity of an exec'ed process, before and after it enters the cgroup.
    #[serde(rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
    pub exec_cpu_affinity: Option<ExecCpuAffinity<'a>>,
}

/// `process.consoleSize`, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u64,
    /// Columns.
    pub width: u64,
}

/// `process.user`, ids as the container sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// File mode creation mask; unchanged when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`: names such as `CAP_KILL`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Capabilities<'a> {
    /// Bounding set.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub bounding: Vec<Text<'a>>,
    /// Effective set.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub effective: Vec<Text<'a>>,
    /// Inheritable set.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub inheritable: Vec<Text<'a>>,
    /// Permitted set.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub permitted: Vec<Text<'a>>,
    /// Ambient set.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub ambient: Vec<Text<'a>>,
}

/// One of `process.rlimits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Rlimit<'a> {
    /// Name such as `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub kind: Text<'a>,
    /// Ceiling of `soft`.
    pub hard: u64,
    /// The limit in force.
    pub soft: u64,
}

/// `process.scheduler`, sched_setattr(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Scheduler<'a> {
    /// Name such as `SCHED_BATCH`.
    pub policy: Text<'a>,
    /// Nice value for SCHED_OTHER and SCHED_BATCH.
    #[serde(deserialize_with = "null_default")]
    pub nice: i32,
    /// Priority for SCHED_FIFO and SCHED_RR.
    #[serde(deserialize_with = "null_default")]
    pub priority: i32,
    /// Names such as `SCHED_FLAG_RESET_ON_FORK`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub flags: Vec<Text<'a>>,
    /// Nanoseconds, SCHED_DEADLINE.
    #[serde(deserialize_with = "null_default")]
    pub runtime: u64,
    /// Nanoseconds, SCHED_DEADLINE.
    #[serde(deserialize_with = "null_default")]
    pub deadline: u64,
    /// Nanoseconds, SCHED_DEADLINE.
    #[serde(deserialize_with = "null_default")]
    pub period: u64,
}

/// `process.ioPriority`, ioprio_set(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct IoPriority<'a> {
    /// `IOPRIO_CLASS_RT`, `_BE` or `_IDLE`.
    pub class: Text<'a>,
    /// 0 (highest) to 7.
    #[serde(deserialize_with = "null_default")]
    pub priority: i32,
}

/// `process.execCPUAffinity`: CPU lists such as `0-3,7`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct ExecCpuAffinity<'a> {
    /// In force before the process enters the container's cgroup.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub initial: Text<'a>,
    /// In force after it.
    #[serde(
        rename = "final",
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub after: Text<'a>,
}

/// `root`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Root<'a> {
    /// Path of the root file system, relative to the bundle unless absolute.
    pub path: Text<'a>,
    /// Whether it is mounted read-only.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub readonly: bool,
}

/// One of `mounts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct Mount<'a> {
    /// Where, in the container; relative paths count from its root.
    pub destination: Text<'a>,
    /// File system type; a dummy for bind mounts.
    #[serde(
        rename = "type",
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub kind: Text<'a>,
    /// Device, or for bind mounts a path (relative to the bundle).
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub source: Text<'a>,
    /// Mount options.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub options: Vec<Text<'a>>,
    /// Id mapping of an idmapped mount.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Id mapping of an idmapped mount.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub gid_mappings: Vec<IdMapping>,
}

/// A range of ids: `size` ids from `container_id` on are `host_id` and on outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// `hooks`, each list in the order in which it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct Hooks<'a> {
    /// Deprecated; before `create_runtime`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub prestart: Vec<Hook<'a>>,
    /// Runtime namespace, before the root is changed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub create_runtime: Vec<Hook<'a>>,
    /// Container namespace, before the root is changed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub create_container: Vec<Hook<'a>>,
    /// Container namespace, right before the program.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub start_container: Vec<Hook<'a>>,
    /// Runtime namespace, after the program started.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub poststart: Vec<Hook<'a>>,
    /// Runtime namespace, after the container was destroyed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub poststop: Vec<Hook<'a>>,
}

/// One hook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Hook<'a> {
    /// Absolute path of the program.
    pub path: Text<'a>,
    /// Arguments, the program's name first; absent means the path alone.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub args: Vec<Text<'a>>,
    /// The whole environment.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub env: Vec<Text<'a>>,
    /// Seconds until the hook is killed; greater than 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}
