//! The features document: what this runtime implements, whatever the host has.
//!
//! Source: runtime-spec 1.3.0, features.md and features-linux.md. The content
//! is decided when the program is built. Where the JSON schema of the
//! specification is behind its prose (`memoryPolicy`, `intelRdt.schemata`,
//! `intelRdt.monitoring`), the prose counts.

use serde::Serialize;

use super::mount_options::option_names;
use super::names;

/// The oldest version of the specification whose configurations are accepted.
pub const OCI_VERSION_MIN: &str = "1.0.0";
/// The version of the specification that is implemented.
pub const OCI_VERSION: &str = "1.3.0";

/// A features document; every known property is set, so that nothing is `null` ("unknown").
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// Oldest accepted version of the specification.
    pub oci_version_min: &'static str,
    /// Newest known version of the specification; later ones of version 1 are accepted too.
    pub oci_version_max: &'static str,
    /// Kinds of hooks.
    pub hooks: &'static [&'static str],
    /// Mount options that are not passed to the file system.
    pub mount_options: Vec<&'static str>,
    /// Linux.
    pub linux: LinuxFeatures,
    /// Annotations of a configuration that change what the runtime does on
    /// the host; a name that ends in a dot is a prefix.
    pub potentially_unsafe_config_annotations: &'static [&'static str],
}

/// `linux`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxFeatures {
    /// Types of namespaces.
    pub namespaces: &'static [&'static str],
    /// Names of capabilities.
    pub capabilities: &'static [&'static str],
    /// Ways to manage cgroups.
    pub cgroup: CgroupFeatures,
    /// System call filters.
    pub seccomp: SeccompFeatures,
    /// AppArmor profiles.
    pub apparmor: Enabled,
    /// SELinux labels.
    pub selinux: Enabled,
    /// Intel Resource Director Technology.
    pub intel_rdt: IntelRdtFeatures,
    /// NUMA memory policies.
    pub memory_policy: MemoryPolicyFeatures,
    /// Id-mapped mounts.
    pub mount_extensions: MountExtensions,
    /// Moving of network devices.
    pub net_devices: Enabled,
}

/// `linux.cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupFeatures {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
    /// Through the system's systemd.
    pub systemd: bool,
    /// Through a user's systemd.
    pub systemd_user: bool,
    /// The RDMA controller.
    pub rdma: bool,
}

/// `linux.seccomp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompFeatures {
    /// Whether there are filters at all.
    pub enabled: bool,
    /// Names of actions.
    pub actions: &'static [&'static str],
    /// Names of comparisons.
    pub operators: &'static [&'static str],
    /// Names of architectures.
    pub archs: &'static [&'static str],
    /// Names of flags that are understood.
    pub known_flags: &'static [&'static str],
    /// Names of flags that are passed on to the kernel.
    pub supported_flags: &'static [&'static str],
}

/// `linux.intelRdt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IntelRdtFeatures {
    /// Whether `intelRdt` is carried out.
    pub enabled: bool,
    /// Whether `schemata` is.
    pub schemata: bool,
    /// Whether `enableMonitoring` is.
    pub monitoring: bool,
}

/// `linux.memoryPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryPolicyFeatures {
    /// Names of modes.
    pub modes: &'static [&'static str],
    /// Names of flags.
    pub flags: &'static [&'static str],
}

/// `linux.mountExtensions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountExtensions {
    /// Mounts with `uidMappings` and `gidMappings`.
    pub idmap: Enabled,
}

/// A feature that is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Enabled {
    /// Whether it is there.
    pub enabled: bool,
}

/// The features of this runtime.
#[must_use]
pub fn features() -> Features {
    let yes = Enabled { enabled: true };
    Features {
        oci_version_min: OCI_VERSION_MIN,
        oci_version_max: OCI_VERSION,
        hooks: &names::HOOKS,
        mount_options: option_names().collect(),
        linux: LinuxFeatures {
            namespaces: &names::NAMESPACES,
            capabilities: &names::CAPABILITIES,
            cgroup: CgroupFeatures {
                v1: true,
                v2: true,
                systemd: true,
                systemd_user: true,
                rdma: true,
            },
            seccomp: SeccompFeatures {
                enabled: true,
                actions: &names::SECCOMP_ACTIONS,
                operators: &names::SECCOMP_OPERATORS,
                archs: &names::SECCOMP_ARCHS,
                known_flags: &names::SECCOMP_FLAGS,
                supported_flags: &names::SECCOMP_FLAGS,
            },
            apparmor: yes,
            selinux: yes,
            intel_rdt: IntelRdtFeatures {
                enabled: true,
                schemata: true,
                monitoring: true,
            },
            memory_policy: MemoryPolicyFeatures {
                modes: &names::MEMORY_POLICY_MODES,
                flags: &names::MEMORY_POLICY_FLAGS,
            },
            mount_extensions: MountExtensions { idmap: yes },
            net_devices: yes,
        },
        potentially_unsafe_config_annotations: &[
            "org.criu.config",
            "org.systemd.property.",
            "run.oci.keep_original_groups",
        ],
    }
}
