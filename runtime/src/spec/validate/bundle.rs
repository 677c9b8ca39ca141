//! A bundle as a whole: its configuration, and the files of the host that it names.
//!
//! What is looked at here may change before a create, which therefore finds
//! out for itself when it opens these files; this is for people who ask first.

use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, openat, readlinkat, statat,
};
use rustix::io::Errno;

use super::namespaces::is_new;
use super::{Context, Finding, Key, Quoted, Report, Severity, hooks, sysctl_path, validate};
use crate::host::{CgroupLayout, Host, read_small};
use crate::spec::Spec;
use crate::spec::linux::Linux;
use crate::spec::parse::{parse_located, read_file};
use crate::spec::resources::Resources;

/// Judges the bundle in the directory `path`, or the configuration in the file
/// `path`, whose directory is then the bundle: everything that [`validate`]
/// finds, and whether the files that the configuration names are there. An
/// unreadable configuration is a finding too.
#[must_use]
pub fn check_bundle(path: &Path, systemd_cgroup: bool) -> Vec<Finding> {
    let (bundle, file) = if path.is_dir() {
        (path.to_owned(), path.join("config.json"))
    } else {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        (parent.to_owned(), path.to_owned())
    };
    let unreadable = |path: String, message: String, clause, help: &str| {
        vec![Finding {
            severity: Severity::Error,
            path,
            message,
            clause,
            help: help.to_owned(),
        }]
    };
    let bytes = match read_file(CWD, &file) {
        Ok(bytes) => bytes,
        Err(error) => {
            let help = "give the directory of a bundle, or its configuration file";
            return unreadable(
                String::new(),
                error.to_string(),
                "bundle.md#container-format",
                help,
            );
        }
    };
    let spec: Spec<'_> = match parse_located(&bytes) {
        Ok(spec) => spec,
        Err(located) => {
            return unreadable(
                located.path,
                format!(
                    "{} (line {} column {})",
                    located.reason, located.line, located.column
                ),
                "config.md#configuration",
                "correct the document",
            );
        }
    };
    let host = Host::new();
    let mut findings = validate(
        &spec,
        &Context {
            host: Some(&host),
            systemd_cgroup,
        },
    );
    let mut report = Report::default();
    files(&spec, &bundle, &host, &mut report);
    findings.append(&mut report.0);
    findings
}

fn files(spec: &Spec<'_>, bundle: &Path, host: &Host, report: &mut Report) {
    if let Some(root) = spec.root.as_ref().filter(|root| !root.path.is_empty()) {
        directory(&bundle.join(&*root.path), &root.path, report);
    }
    let file_systems = read_small("/proc/filesystems");
    for (at, mount) in spec.mounts.iter().enumerate() {
        let bind = mount
            .options
            .iter()
            .any(|option| option == "bind" || option == "rbind");
        if bind {
            let source: PathBuf = bundle.join(&*mount.source);
            if !mount.source.is_empty() && !mount.source.contains('\0') {
                missing(
                    format_args!("mounts[{at}].source"),
                    &source,
                    "config.md#mounts",
                    report,
                );
            }
        } else if let Some(known) = &file_systems
            && !mount.kind.is_empty()
            && mount.kind != "cgroup"
            && !known
                .lines()
                .any(|line| line.rsplit('\t').next() == Some(&*mount.kind))
        {
            report.warn(
                format_args!("mounts[{at}].type"),
                format_args!(
                    "{} is not among the kernel's file systems; a module may bring it",
                    Quoted(&mount.kind)
                ),
                "config.md#posix-platform-mounts",
                "see /proc/filesystems",
            );
        }
    }
    if let Some(all) = &spec.hooks {
        for (name, list) in hooks::lists(all) {
            // The path of startContainer counts in the container.
            for (at, hook) in list.iter().enumerate().filter(|_| name != "startContainer") {
                if hook.path.starts_with('/')
                    && let Err(errno) =
                        accessat(CWD, &*hook.path, Access::EXEC_OK, AtFlags::EACCESS)
                {
                    report.error(
                        format_args!("hooks.{name}[{at}].path"),
                        format_args!("{} cannot be executed: {}", Quoted(&hook.path), text(errno)),
                        "config.md#posix-platform-hooks",
                        "install the program, or correct the path",
                    );
                }
            }
        }
    }
    if let Some(linux) = &spec.linux {
        linux_files(spec, linux, host, report);
    }
}

fn directory(path: &Path, written: &str, report: &mut Report) {
    const CLAUSE: &str = "config.md#root";
    let found = statat(CWD, path, AtFlags::empty());
    match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Directory) => {}
        Ok(_) => report.error(
            format_args!("root.path"),
            format_args!("{} is not a directory", Quoted(written)),
            CLAUSE,
            "name the directory of the root file system",
        ),
        Err(errno) => report.error(
            format_args!("root.path"),
            format_args!("{}: {}", path.display(), text(errno)),
            CLAUSE,
            "make the directory, or correct the path",
        ),
    }
}

fn missing(place: std::fmt::Arguments<'_>, path: &Path, clause: &'static str, report: &mut Report) {
    // A symbolic link that leads nowhere counts as missing.
    if let Err(errno) = statat(CWD, path, AtFlags::empty()) {
        report.error(
            place,
            format_args!("{}: {}", path.display(), text(errno)),
            clause,
            "make it, or correct the path",
        );
    }
}

fn linux_files(spec: &Spec<'_>, linux: &Linux<'_>, host: &Host, report: &mut Report) {
    const NAMESPACES: &str = "config-linux.md#namespaces";
    for (at, namespace) in linux.namespaces.iter().enumerate() {
        let kind = &*namespace.kind;
        if !super::super::names::NAMESPACES.contains(&kind) {
            continue;
        }
        if !host.has_namespace(kind) {
            report.error(
                format_args!("linux.namespaces[{at}].type"),
                format_args!("this kernel has no {kind} namespaces"),
                NAMESPACES,
                "remove the entry, or use another kernel",
            );
        } else if namespace.path.starts_with('/') {
            match namespace_type(&namespace.path) {
                Ok(found) if found == Some(kind) => {}
                Ok(found) => report.error(
                    format_args!("linux.namespaces[{at}].path"),
                    format_args!(
                        "{} is no {kind} namespace, but {}",
                        Quoted(&namespace.path),
                        found.map_or("another file".into(), |found| format!(
                            "a {found} namespace"
                        ))
                    ),
                    NAMESPACES,
                    "correct type or path",
                ),
                Err(errno) => report.error(
                    format_args!("linux.namespaces[{at}].path"),
                    format_args!("{}: {}", Quoted(&namespace.path), text(errno)),
                    NAMESPACES,
                    "correct the path, or remove it to make a new namespace",
                ),
            }
        }
    }
    for name in linux.net_devices.keys() {
        let path = Path::new("/sys/class/net").join(&**name);
        if !name.is_empty() && !name.contains(['/', '\0']) {
            missing(
                format_args!("linux.netDevices{}", Key(name)),
                &path,
                "config-linux.md#network-devices",
                report,
            );
        }
    }
    for key in linux.sysctl.keys() {
        if let Some(path) = sysctl_path(key)
            && matches!(
                statat(CWD, Path::new("/proc/sys").join(&path), AtFlags::empty()),
                Err(Errno::NOENT)
            )
            // Interfaces and protocols of the host need not be those of a new namespace.
            && !(path.starts_with("net/") && is_new(spec, "network"))
        {
            report.warn(
                format_args!("linux.sysctl{}", Key(key)),
                format_args!("this host has no /proc/sys/{path}"),
                "config-linux.md#sysctl",
                "correct the name, or load the module that has it",
            );
        }
    }
    if let Some(seccomp) = &linux.seccomp
        && !seccomp.listener_path.is_empty()
        && !seccomp.listener_path.contains('\0')
        && seccomp
            .syscalls
            .iter()
            .any(|rule| rule.action == "SCMP_ACT_NOTIFY")
    {
        missing(
            format_args!("linux.seccomp.listenerPath"),
            Path::new(&*seccomp.listener_path),
            "config-linux.md#seccomp",
            report,
        );
    }
    if let Some(resources) = &linux.resources {
        controllers(resources, host, report);
    }
}

/// The specification's type of the namespace that the file `path` stands for;
/// `None` if it stands for none.
fn namespace_type(path: &str) -> Result<Option<&'static str>, Errno> {
    // O_NONBLOCK: the path may be a fifo.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(CWD, path, flags, Mode::empty())?;
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let target = readlinkat(CWD, link, Vec::new())?;
    let target = target.to_bytes();
    Ok(match target.split(|byte| *byte == b':').next() {
        _ if target.starts_with(b"/") => None,
        Some(b"mnt") => Some("mount"),
        Some(b"net") => Some("network"),
        Some(b"cgroup") => Some("cgroup"),
        Some(b"ipc") => Some("ipc"),
        Some(b"pid") => Some("pid"),
        Some(b"time") => Some("time"),
        Some(b"user") => Some("user"),
        Some(b"uts") => Some("uts"),
        _ => None,
    })
}

/// Whether the host has the controllers that the resources need.
fn controllers(resources: &Resources<'_>, host: &Host, report: &mut Report) {
    // Name in version 1 and in version 2 (empty: none is needed), field, whether it is set.
    let block = resources.block_io.as_ref();
    let cpu = resources.cpu.as_ref();
    let network = resources.network.as_ref();
    let time = cpu.is_some_and(|cpu| {
        cpu.shares.is_some() || cpu.quota.is_some() || cpu.period.is_some() || cpu.idle.is_some()
    });
    let sets = cpu.is_some_and(|cpu| !cpu.cpus.is_empty() || !cpu.mems.is_empty());
    let needs = [
        ("devices", "", "devices", !resources.devices.is_empty()),
        ("memory", "memory", "memory", resources.memory.is_some()),
        ("cpu", "cpu", "cpu", time),
        ("cpuset", "cpuset", "cpu.cpus", sets),
        ("pids", "pids", "pids", resources.pids.is_some()),
        (
            "blkio",
            "io",
            "blockIO",
            block.is_some_and(|block| *block != crate::spec::resources::BlockIo::default()),
        ),
        (
            "hugetlb",
            "hugetlb",
            "hugepageLimits",
            !resources.hugepage_limits.is_empty(),
        ),
        (
            "net_cls",
            "",
            "network.classID",
            network.is_some_and(|network| network.class_id.is_some()),
        ),
        (
            "net_prio",
            "",
            "network.priorities",
            network.is_some_and(|network| !network.priorities.is_empty()),
        ),
        ("rdma", "rdma", "rdma", !resources.rdma.is_empty()),
    ];
    let layout = host.cgroup_layout();
    let v1 = read_small("/proc/self/cgroup").unwrap_or_default();
    let v2 = match layout {
        CgroupLayout::V2 => read_small("/sys/fs/cgroup/cgroup.controllers"),
        CgroupLayout::Hybrid => read_small("/sys/fs/cgroup/unified/cgroup.controllers"),
        CgroupLayout::V1 | CgroupLayout::None => None,
    }
    .unwrap_or_default();
    let has_v1 = |name: &str| {
        v1.lines()
            .filter_map(|line| line.split(':').nth(1))
            .any(|list| list.split(',').any(|known| known == name))
    };
    for (old, new, field, set) in needs {
        let present = match layout {
            CgroupLayout::V2 => new.is_empty() || v2.split_whitespace().any(|known| known == new),
            _ => has_v1(old) || !new.is_empty() && v2.split_whitespace().any(|known| known == new),
        };
        if set && !present {
            report.error(
                format_args!("linux.resources.{field}"),
                format_args!("this host has no cgroup controller {old}"),
                "config-linux.md#control-groups",
                "remove the limit, or enable the controller",
            );
        }
    }
}

fn text(errno: Errno) -> String {
    crate::error::errno_text(errno.raw_os_error())
}
