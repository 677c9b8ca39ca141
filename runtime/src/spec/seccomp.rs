//! `linux.seccomp` of config.json.
//!
//! Source: runtime-spec 1.3.0, config-linux.md, section Seccomp.

use serde::{Deserialize, Serialize};

use super::config::{is_default, null_default};
use super::text::Text;

/// `linux.seccomp`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct Seccomp<'a> {
    /// Action for system calls that no rule matches, such as `SCMP_ACT_ERRNO`.
    pub default_action: Text<'a>,
    /// errno of the default action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Architectures beyond the native one, such as `SCMP_ARCH_X86`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub architectures: Vec<Text<'a>>,
    /// Names such as `SECCOMP_FILTER_FLAG_LOG`; absent is not the same as empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<Text<'a>>>,
    /// Unix socket that gets the notify descriptor.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub listener_path: Text<'a>,
    /// Opaque data sent to the listener.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub listener_metadata: Text<'a>,
    /// The rules.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub syscalls: Vec<SyscallRule<'a>>,
}

/// One of `linux.seccomp.syscalls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "'de: 'a"))]
pub struct SyscallRule<'a> {
    /// System calls; not empty.
    #[serde(deserialize_with = "null_default")]
    pub names: Vec<Text<'a>>,
    /// Action when all `args` match.
    pub action: Text<'a>,
    /// errno or trace data of the action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions; all of them must hold.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub args: Vec<SyscallArg<'a>>,
}

/// A condition on one argument of a system call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct SyscallArg<'a> {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// What it is compared with; the mask of `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// What the masked argument is compared with.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub value_two: u64,
    /// Operator such as `SCMP_CMP_EQ`.
    pub op: Text<'a>,
}
