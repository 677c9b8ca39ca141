//! `linux`: the parts with few rules, and the way to the files with many.

use super::namespaces::has;
use super::{Context, Quoted, Report, devices, network, resources, seccomp, sysctl};
use crate::spec::Spec;
use crate::spec::linux::{IntelRdt, Linux, MemoryPolicy};
use crate::spec::mount_options::parse_propagation;
use crate::spec::names::{MEMORY_POLICY_FLAGS, MEMORY_POLICY_MODES};
use crate::spec::ranges::ranges;

const MASKED: &str = "config-linux.md#masked-paths";
const READONLY: &str = "config-linux.md#readonly-paths";
const PROPAGATION: &str = "config-linux.md#rootfs-mount-propagation";
const LABEL: &str = "config-linux.md#mount-label";
const PERSONALITY: &str = "config-linux.md#personality";
const RDT: &str = "config-linux.md#intelrdt";
const POLICY: &str = "config-linux.md#memory-policy";

pub(super) fn check(
    spec: &Spec<'_>,
    linux: &Linux<'_>,
    context: &Context<'_>,
    report: &mut Report,
) {
    devices::check(linux, report);
    network::check(spec, linux, report);
    resources::check_path(linux, context, report);
    if let Some(value) = &linux.resources {
        resources::check(value, report);
    }
    if let Some(rdt) = &linux.intel_rdt {
        intel_rdt(rdt, report);
    }
    if let Some(policy) = &linux.memory_policy {
        memory_policy(policy, report);
    }
    sysctl::check(spec, linux, report);
    if let Some(value) = &linux.seccomp {
        seccomp::check(value, report);
    }
    let propagation = &*linux.rootfs_propagation;
    if !propagation.is_empty() && parse_propagation(propagation).is_none() {
        report.error(
            format_args!("linux.rootfsPropagation"),
            format_args!("{} is no kind of mount propagation", Quoted(propagation)),
            PROPAGATION,
            "use one of shared, slave, private, unbindable",
        );
    }
    for (field, paths, clause) in [
        ("maskedPaths", &linux.masked_paths, MASKED),
        ("readonlyPaths", &linux.readonly_paths, READONLY),
    ] {
        for (at, path) in paths.iter().enumerate() {
            report.absolute(format_args!("linux.{field}[{at}]"), path, clause);
        }
        if !paths.is_empty() && !has(spec, "mount") {
            report.error(
                format_args!("linux.{field}"),
                format_args!("without a mount namespace this would hide files of the host"),
                clause,
                "add the mount namespace to linux.namespaces, or remove the paths",
            );
        }
    }
    report.no_nul(format_args!("linux.mountLabel"), &linux.mount_label, LABEL);
    if let Some(personality) = &linux.personality {
        report.one_of(
            format_args!("linux.personality.domain"),
            &personality.domain,
            &["LINUX", "LINUX32"],
            "execution domain",
            PERSONALITY,
        );
        if let Some(flag) = personality.flags.first() {
            report.error(
                format_args!("linux.personality.flags[0]"),
                format_args!("{}: the specification defines no flag", Quoted(flag)),
                PERSONALITY,
                "remove the flags",
            );
        }
    }
}

fn intel_rdt(rdt: &IntelRdt<'_>, report: &mut Report) {
    if let Some(id) = rdt.clos_id.as_deref()
        && !id.is_empty()
        && id != "/"
        && (matches!(id, "." | ".." | "info" | "mon_data" | "mon_groups")
            || id.contains(['/', '\n', '\0']))
    {
        report.error(
            format_args!("linux.intelRdt.closID"),
            format_args!("{} cannot be the name of a class of service", Quoted(id)),
            RDT,
            "write a plain name, or / for the default class",
        );
    }
    if let Some(schema) = rdt.mem_bw_schema.as_deref()
        && !schema.is_empty()
        && (!schema.starts_with("MB:") || schema.contains('\n'))
    {
        report.error(
            format_args!("linux.intelRdt.memBwSchema"),
            format_args!("{} is not one line that begins with MB:", Quoted(schema)),
            RDT,
            "write a line such as MB:0=20;1=70",
        );
    }
    if let Some(schema) = rdt.l3_cache_schema.as_deref()
        && !schema.is_empty()
        && (!schema.starts_with("L3:") || schema.contains('\n'))
    {
        report.warn(
            format_args!("linux.intelRdt.l3CacheSchema"),
            format_args!("{} is not one line that begins with L3:", Quoted(schema)),
            RDT,
            "write a line such as L3:0=7f0;1=1f, or use schemata",
        );
    }
    for (at, line) in rdt.schemata.iter().flatten().enumerate() {
        if line.contains('\n') {
            report.error(
                format_args!("linux.intelRdt.schemata[{at}]"),
                format_args!("{} is more than one line", Quoted(line)),
                RDT,
                "make each line an element of its own",
            );
        }
    }
}

fn memory_policy(policy: &MemoryPolicy<'_>, report: &mut Report) {
    let mode = &*policy.mode;
    let known = report.one_of(
        format_args!("linux.memoryPolicy.mode"),
        mode,
        &MEMORY_POLICY_MODES,
        "memory policy",
        POLICY,
    );
    for (at, flag) in policy.flags.iter().enumerate() {
        report.one_of(
            format_args!("linux.memoryPolicy.flags[{at}]"),
            flag,
            &MEMORY_POLICY_FLAGS,
            "flag of a memory policy",
            POLICY,
        );
    }
    if let Some(wrong) = ranges(&policy.nodes).find_map(Result::err) {
        report.error(
            format_args!("linux.memoryPolicy.nodes"),
            format_args!(
                "{} is neither a memory node nor a range of them",
                Quoted(wrong)
            ),
            POLICY,
            "write a list such as 0-1,3",
        );
    }
    if !known {
        return;
    }
    // set_mempolicy(2): which modes take nodes and flags.
    let nodes = ranges(&policy.nodes).next().is_some();
    if nodes && matches!(mode, "MPOL_DEFAULT" | "MPOL_LOCAL") {
        report.error(
            format_args!("linux.memoryPolicy.nodes"),
            format_args!("{mode} takes no nodes"),
            POLICY,
            "remove them, or use another mode",
        );
    }
    if !nodes && !matches!(mode, "MPOL_DEFAULT" | "MPOL_LOCAL" | "MPOL_PREFERRED") {
        report.error(
            format_args!("linux.memoryPolicy.nodes"),
            format_args!("is missing or empty: {mode} needs at least one node"),
            POLICY,
            "write a list such as 0-1,3",
        );
    }
    let has = |name: &str| policy.flags.iter().any(|flag| flag == name);
    let (fixed, relative) = (has("MPOL_F_STATIC_NODES"), has("MPOL_F_RELATIVE_NODES"));
    if fixed && relative {
        report.error(
            format_args!("linux.memoryPolicy.flags"),
            format_args!("MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"),
            POLICY,
            "keep one of them",
        );
    } else if (fixed || relative) && !nodes {
        report.error(
            format_args!("linux.memoryPolicy.flags"),
            format_args!("without nodes, no flag says how they are meant"),
            POLICY,
            "remove the flag, or add nodes",
        );
    }
    if has("MPOL_F_NUMA_BALANCING") && !matches!(mode, "MPOL_BIND" | "MPOL_PREFERRED_MANY") {
        report.error(
            format_args!("linux.memoryPolicy.flags"),
            format_args!(
                "MPOL_F_NUMA_BALANCING goes with MPOL_BIND and MPOL_PREFERRED_MANY, not with {mode}"
            ),
            POLICY,
            "remove the flag, or use MPOL_BIND",
        );
    }
}
