//! Rules that depend on the host: what it lacks cannot be configured.
//!
//! Each fact is asked only if the configuration depends on it, because these
//! rules are part of every create.

use std::fmt;

use super::namespaces::{has, is_new};
use super::sysctl::is_network;
use super::{Key, Quoted, Report};
use crate::host::{CgroupLayout, Host};
use crate::id_maps;
use crate::spec::Spec;
use crate::spec::config::{Mount, Process};
use crate::spec::linux::Linux;
use crate::spec::resources::Resources;

const LINUX_PROCESS: &str = "config.md#linux-process";
const NAMESPACES: &str = "config-linux.md#namespaces";
const USER: &str = "config-linux.md#user-namespace-mappings";
const VALUES: &str = "config.md#valid-values";
const UNIFIED: &str = "config-linux.md#unified";

pub(super) fn check(spec: &Spec<'_>, host: &Host, report: &mut Report) {
    if let Some(process) = &spec.process {
        check_process(process, host, report);
    }
    if host.euid() != 0 && !has(spec, "user") {
        report.error(
            format_args!("linux.namespaces"),
            format_args!(
                "user {} may not make the other namespaces without a user namespace",
                host.euid()
            ),
            NAMESPACES,
            "add the user namespace with mappings, or run as root",
        );
    }
    check_ids(spec, host, report);
    if host.euid() != 0
        && let Some(at) = spec.mounts.iter().position(maps_ids)
    {
        report.error(
            format_args!("mounts[{at}]"),
            format_args!(
                "an id mapping needs privileges over the source's file system, which user {} has not",
                host.euid()
            ),
            "config.md#posix-platform-mounts",
            "remove the mapping, or run as root",
        );
    }
    if let Some(linux) = &spec.linux {
        check_linux(linux, host, report);
    }
}

fn maps_ids(mount: &Mount<'_>) -> bool {
    !mount.uid_mappings.is_empty()
        || mount
            .options
            .iter()
            .any(|option| matches!(option.as_str(), "idmap" | "ridmap"))
}

/// Ids that the caller may not give to a container.
fn check_ids(spec: &Spec<'_>, host: &Host, report: &mut Report) {
    if is_new(spec, "user") {
        let Some(linux) = &spec.linux else { return };
        for obstacle in id_maps::check(host, &linux.uid_mappings, &linux.gid_mappings) {
            report.error(
                format_args!("{}", obstacle.path),
                format_args!("{}", obstacle.message),
                USER,
                &obstacle.help,
            );
        }
        return;
    }
    let Some(process) = &spec.process else { return };
    if has(spec, "user") || !host.in_user_namespace() {
        return;
    }
    let user = &process.user;
    let mut check = |path: fmt::Arguments<'_>, map: &'static str, id: u32| {
        if !id_maps::exists(map, id) {
            report.error(
                path,
                format_args!("{id} is not mapped in the user namespace of the caller"),
                USER,
                &format!("use an id of /proc/self/{map}, or give the caller's namespace more"),
            );
        }
    };
    check(format_args!("process.user.uid"), "uid_map", user.uid);
    check(format_args!("process.user.gid"), "gid_map", user.gid);
    for (at, gid) in user.additional_gids.iter().enumerate() {
        check(
            format_args!("process.user.additionalGids[{at}]"),
            "gid_map",
            *gid,
        );
    }
}

pub(super) fn check_process(process: &Process<'_>, host: &Host, report: &mut Report) {
    let profile = &*process.apparmor_profile;
    if !profile.is_empty() && profile != "unconfined" && !host.apparmor() {
        report.error(
            format_args!("process.apparmorProfile"),
            format_args!(
                "{} cannot be applied: AppArmor is not enabled on this host",
                Quoted(profile)
            ),
            LINUX_PROCESS,
            "remove the profile, or boot with AppArmor",
        );
    }
    if !profile.is_empty() && host.apparmor() && Host::lacks_apparmor_profile(profile) {
        report.error(
            format_args!("process.apparmorProfile"),
            format_args!("{} is not loaded on this host", Quoted(profile)),
            LINUX_PROCESS,
            "load the profile (apparmor_parser -r FILE), or name one that is loaded",
        );
    }
    if !process.selinux_label.is_empty() && !host.selinux() {
        report.error(
            format_args!("process.selinuxLabel"),
            format_args!(
                "{} cannot be applied: SELinux is not enabled on this host",
                Quoted(&process.selinux_label)
            ),
            LINUX_PROCESS,
            "remove the label, or boot with SELinux",
        );
    }
}

fn check_linux(linux: &Linux<'_>, host: &Host, report: &mut Report) {
    if !linux.mount_label.is_empty() && !host.selinux() {
        report.error(
            format_args!("linux.mountLabel"),
            format_args!(
                "{} cannot be applied: SELinux is not enabled on this host",
                Quoted(&linux.mount_label)
            ),
            "config-linux.md#mount-label",
            "remove the label, or boot with SELinux",
        );
    }
    if !linux.net_devices.is_empty() && host.euid() != 0 {
        report.error(
            format_args!("linux.netDevices"),
            format_args!(
                "user {} may not take a network device from the host",
                host.euid()
            ),
            "config-linux.md#network-devices",
            "run as root, or remove the devices",
        );
    }
    if linux.intel_rdt.is_some() && !host.resctrl() {
        report.error(
            format_args!("linux.intelRdt"),
            format_args!("no resctrl file system is mounted on this host"),
            "config-linux.md#intelrdt",
            "mount resctrl at /sys/fs/resctrl (the CPU must have it), or remove intelRdt",
        );
    }
    if let Some(key) = linux.sysctl.keys().find(|key| is_network(key))
        && let Some(namespace) = linux
            .namespaces
            .iter()
            .find(|namespace| namespace.kind == "network" && !namespace.path.is_empty())
        && Host::is_own_network_namespace(&namespace.path)
    {
        report.error(
            format_args!("linux.sysctl{}", Key(key)),
            format_args!(
                "{} is the network namespace of the host, which this would change",
                Quoted(&namespace.path)
            ),
            "config-linux.md#sysctl",
            "set it on the host, or use another network namespace",
        );
    }
    if let Some(resources) = &linux.resources {
        check_resources(resources, host, report);
    }
}

/// "If the conversion [from cgroup v1 to v2] is not possible the runtime MUST
/// generate an error": config-linux.md#unified. 0 and -1 stand for the default
/// where they do in version 1.
pub(super) fn check_resources(resources: &Resources<'_>, host: &Host, report: &mut Report) {
    if !resources.unified.is_empty() && host.cgroup_layout() == CgroupLayout::V1 {
        report.error(
            format_args!("linux.resources.unified"),
            format_args!("this host has no cgroup v2"),
            UNIFIED,
            "use the fields of cgroup v1, such as memory and cpu",
        );
    }
    let positive = |value: Option<i64>| value.is_some_and(|value| value > 0);
    let memory = resources.memory.as_ref();
    let cpu = resources.cpu.as_ref();
    let block = resources.block_io.as_ref();
    let network = resources.network.as_ref();
    let v1_only = [
        (
            "memory.kernel",
            memory.is_some_and(|memory| positive(memory.kernel)),
        ),
        (
            "memory.kernelTCP",
            memory.is_some_and(|memory| positive(memory.kernel_tcp)),
        ),
        (
            "memory.swappiness",
            memory.is_some_and(|memory| memory.swappiness.is_some()),
        ),
        (
            "memory.disableOOMKiller",
            memory.is_some_and(|memory| memory.disable_oom_killer == Some(true)),
        ),
        (
            "cpu.realtimeRuntime",
            cpu.is_some_and(|cpu| positive(cpu.realtime_runtime)),
        ),
        (
            "cpu.realtimePeriod",
            cpu.is_some_and(|cpu| cpu.realtime_period.is_some_and(|period| period > 0)),
        ),
        (
            "blockIO.leafWeight",
            block.is_some_and(|block| block.leaf_weight.is_some_and(|weight| weight > 0)),
        ),
        (
            "network.classID",
            network.is_some_and(|network| network.class_id.is_some_and(|class| class > 0)),
        ),
        (
            "network.priorities",
            network.is_some_and(|network| !network.priorities.is_empty()),
        ),
    ];
    let swap_alone = memory
        .is_some_and(|memory| positive(memory.swap) && memory.limit.is_none_or(|limit| limit == 0));
    if !swap_alone && !v1_only.iter().any(|(_, set)| *set)
        || host.cgroup_layout() != CgroupLayout::V2
    {
        return;
    }
    for (field, _) in v1_only.iter().filter(|(_, set)| *set) {
        report.error(
            format_args!("linux.resources.{field}"),
            format_args!("cgroup v2, which this host uses, has nothing like it"),
            VALUES,
            "remove it, or use unified",
        );
    }
    if swap_alone {
        report.error(
            format_args!("linux.resources.memory.swap"),
            format_args!(
                "limits memory and swap together, which cgroup v2 can do with a memory limit only"
            ),
            "config-linux.md#memory",
            "set memory.limit too, or memory.swap.max in unified",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse::parse;
    use crate::spec::validate::{Context, Finding, Severity, validate};

    fn judge(host: &Host, linux: &str) -> Vec<Finding> {
        let text = format!(
            r#"{{"ociVersion": "1.3.0", "root": {{"path": "rootfs"}}, "linux": {{{linux}}}}}"#
        );
        let spec: Spec<'_> = parse("config.json", text.as_bytes()).unwrap();
        let context = Context {
            host: Some(host),
            systemd_cgroup: false,
        };
        validate(&spec, &context)
    }

    // A machine has one layout of cgroups; the others are assumed.
    #[test]
    fn what_cgroup_v2_lacks_is_refused_there_and_only_there() {
        for (resources, path) in [
            (r#""memory": {"kernel": 1}"#, "memory.kernel"),
            (r#""memory": {"kernelTCP": 1}"#, "memory.kernelTCP"),
            (r#""memory": {"swappiness": 0}"#, "memory.swappiness"),
            (
                r#""memory": {"disableOOMKiller": true}"#,
                "memory.disableOOMKiller",
            ),
            (r#""memory": {"swap": 10}"#, "memory.swap"),
            (r#""cpu": {"realtimeRuntime": 1}"#, "cpu.realtimeRuntime"),
            (r#""cpu": {"realtimePeriod": 1}"#, "cpu.realtimePeriod"),
            (r#""blockIO": {"leafWeight": 10}"#, "blockIO.leafWeight"),
            (r#""network": {"classID": 1}"#, "network.classID"),
            (
                r#""network": {"priorities": [{"name": "lo", "priority": 1}]}"#,
                "network.priorities",
            ),
        ] {
            let linux = format!(r#""resources": {{{resources}}}"#);
            let found = judge(&Host::assume(0, CgroupLayout::V2), &linux);
            assert_eq!(found.len(), 1, "{found:#?}");
            assert_eq!(found[0].path, format!("linux.resources.{path}"));
            for layout in [CgroupLayout::V1, CgroupLayout::Hybrid] {
                assert_eq!(judge(&Host::assume(0, layout), &linux), []);
            }
        }
        let harmless = r#""resources": {"memory": {"kernel": -1, "kernelTCP": 0, "disableOOMKiller": false,
            "limit": -1, "swap": -1, "useHierarchy": true}, "network": {"classID": 0}}"#;
        assert_eq!(judge(&Host::assume(0, CgroupLayout::V2), harmless), []);
        let unified = r#""resources": {"unified": {"memory.high": "1"}}"#;
        assert_eq!(judge(&Host::assume(0, CgroupLayout::V2), unified), []);
        assert_eq!(judge(&Host::assume(0, CgroupLayout::Hybrid), unified), []);
        let found = judge(&Host::assume(0, CgroupLayout::V1), unified);
        assert_eq!(found[0].path, "linux.resources.unified");
    }

    #[test]
    fn a_user_without_privileges_needs_a_user_namespace() {
        let user = Host::assume(1000, CgroupLayout::V2);
        let found = judge(&user, r#""namespaces": [{"type": "pid"}]"#);
        assert_eq!((found.len(), found[0].severity), (1, Severity::Error));
        let mapped = r#""namespaces": [{"type": "user"}, {"type": "network"}],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]"#;
        assert_eq!(judge(&user, mapped), []);
        let found = judge(
            &user,
            &format!(r#"{mapped}, "netDevices": {{"eth0": {{}}}}"#),
        );
        assert_eq!(found[0].path, "linux.netDevices");
    }

    #[test]
    fn the_network_of_the_host_is_protected() {
        let host = Host::new();
        let linux = |path: &str| {
            format!(
                r#""namespaces": [{{"type": "network", "path": "{path}"}}, {{"type": "user", "path": "/proc/self/ns/user"}}],
                "sysctl": {{"net.ipv4.ip_forward": "1"}}"#
            )
        };
        let found = judge(&host, &linux("/proc/self/ns/net"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].message.contains("network namespace of the host"));
        assert_eq!(judge(&host, &linux("/proc/self/ns/uts")), []);
    }

    #[test]
    fn security_modules_and_resctrl_must_be_there() {
        let host = Host::new();
        let found = judge(
            &host,
            r#""mountLabel": "system_u:object_r:x:s0", "intelRdt": {}"#,
        );
        let expected = [
            ("linux.mountLabel", host.selinux()),
            ("linux.intelRdt", host.resctrl()),
        ];
        for (path, there) in expected {
            assert_eq!(
                found.iter().any(|finding| finding.path == path),
                !there,
                "{path}"
            );
        }
    }
}
