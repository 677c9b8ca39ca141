//! Rules that depend on the host: what it lacks cannot be configured.
//!
//! Each fact is asked only if the configuration depends on it, because these
//! rules are part of every create.

use super::namespaces::has;
use super::sysctl::is_network;
use super::{Key, Quoted, Report};
use crate::host::{CgroupLayout, Host};
use crate::spec::Spec;
use crate::spec::linux::Linux;
use crate::spec::resources::Resources;

const LINUX_PROCESS: &str = "config.md#linux-process";
const NAMESPACES: &str = "config-linux.md#namespaces";
const VALUES: &str = "config.md#valid-values";
const UNIFIED: &str = "config-linux.md#unified";

pub(super) fn check(spec: &Spec<'_>, host: &Host, report: &mut Report) {
    if let Some(process) = &spec.process {
        if !process.apparmor_profile.is_empty()
            && process.apparmor_profile != "unconfined"
            && !host.apparmor()
        {
            report.error(
                format_args!("process.apparmorProfile"),
                format_args!(
                    "{} cannot be applied: AppArmor is not enabled on this host",
                    Quoted(&process.apparmor_profile)
                ),
                LINUX_PROCESS,
                "remove the profile, or boot with AppArmor",
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
    if let Some(linux) = &spec.linux {
        check_linux(linux, host, report);
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
