//! A bundle as a whole: its configuration, and the files of the host that it names.
//!
//! What is looked at here may change before a create, which therefore finds
//! out for itself when it opens these files; this is for people who ask first.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, openat, readlinkat, statat,
};
use rustix::io::Errno;

use super::namespaces::is_new;
use super::{Context, Finding, Key, Quoted, Report, Severity, hooks, validate};
use crate::host::{CgroupLayout, Host, own_cgroups, read_small};
use crate::rootfs::{Links, open_in};
use crate::spec::Spec;
use crate::spec::config::{Mount, Process};
use crate::spec::linux::Linux;
use crate::spec::names::{NAMESPACES as KINDS, capability_number};
use crate::spec::parse::{parse_located, read_file};
use crate::spec::resources::Resources;
use crate::spec::sysctl;

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
    if let (Some(process), Some(root)) = (&spec.process, &spec.root) {
        program(spec, process, &bundle.join(&*root.path), report);
        newest_capability(process, report);
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
            && !matches!(&*mount.kind, "cgroup" | "none" | "bind")
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

/// Whether the program is in the root file system, as far as that can be seen
/// before anything is mounted.
fn program(spec: &Spec<'_>, process: &Process<'_>, root: &Path, report: &mut Report) {
    let Some(name) = process.args.first() else {
        return;
    };
    let Ok(root) = openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return;
    };
    let present = |path: &Path| {
        // Symbolic links of the container count from its root.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        path.to_str()
            .is_some_and(|path| open_in(root.as_fd(), path, flags, Links::Follow).is_ok())
    };
    let mounted = |path: &Path| {
        let hides = |mount: &Mount<'_>| path.starts_with(Path::new("/").join(&*mount.destination));
        spec.mounts.iter().any(hides)
    };
    let cwd = Path::new("/").join(&*process.cwd);
    let search = process
        .env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="));
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![cwd.join(&**name)]
    } else {
        let search =
            search.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        search
            .split(':')
            .map(|part| cwd.join(part).join(&**name))
            .collect()
    };
    if !candidates.iter().any(|path| mounted(path) || present(path)) {
        report.warn(
            format_args!("process.args[0]"),
            format_args!("{} is not in the root file system", Quoted(name)),
            "config.md#process",
            "install the program there, or correct its name or PATH",
        );
    }
}

/// Capabilities that are newer than the kernel.
fn newest_capability(process: &Process<'_>, report: &mut Report) {
    let Some(sets) = &process.capabilities else {
        return;
    };
    let Some(last) =
        read_small("/proc/sys/kernel/cap_last_cap").and_then(|text| text.trim().parse::<u8>().ok())
    else {
        return;
    };
    for (at, name) in sets.bounding.iter().enumerate() {
        if capability_number(name).is_some_and(|number| number > last) {
            report.warn(
                format_args!("process.capabilities.bounding[{at}]"),
                format_args!("this kernel does not know {name}, and will not grant it"),
                "config.md#linux-process",
                "remove it, or use a newer kernel",
            );
        }
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
        if !KINDS.contains(&kind) {
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
        if let Some(path) = sysctl::path(key)
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
    let v1 = own_cgroups().unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn bundle(config: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("rootfs/bin")).unwrap();
        fs::write(directory.path().join("rootfs/bin/sh"), "").unwrap();
        fs::write(directory.path().join("config.json"), config).unwrap();
        directory
    }

    /// A configuration with one more member.
    fn with(member: &str) -> String {
        format!(
            r#"{{"ociVersion": "1.3.0", "root": {{"path": "rootfs"}},
            "process": {{"cwd": "/", "args": ["sh"], "env": ["PATH=/bin"]}},
            "linux": {{"namespaces": [{{"type": "mount"}}, {{"type": "user", "path": "/proc/self/ns/user"}}]}}{member}}}"#
        )
    }

    fn paths(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| &*finding.path).collect()
    }

    #[test]
    fn a_good_bundle_has_no_findings_by_directory_and_by_file() {
        let bundle = bundle(&with(""));
        assert_eq!(check_bundle(bundle.path(), false), []);
        assert_eq!(check_bundle(&bundle.path().join("config.json"), false), []);
    }

    #[test]
    fn unreadable_configurations_are_findings() {
        let directory = bundle("{\"process\": {\"args\": 1}}");
        let found = check_bundle(directory.path(), false);
        assert_eq!(paths(&found), ["process.args"]);
        assert!(found[0].message.contains("(line 1 column 22)"), "{found:?}");
        fs::remove_file(directory.path().join("config.json")).unwrap();
        let found = check_bundle(directory.path(), false);
        assert_eq!(found[0].severity, Severity::Error);
        assert!(
            found[0].message.contains("no such file or directory"),
            "{found:?}"
        );
        symlink("config.json", directory.path().join("config.json")).unwrap();
        let found = check_bundle(directory.path(), false);
        // Each C library words ELOOP in its own way.
        assert!(found[0].message.contains("symbolic link"), "{found:?}");
    }

    #[test]
    fn missing_files_of_the_host_are_named() {
        let directory = bundle(&with(
            r#", "mounts": [
                {"destination": "/a", "source": "rootfs", "options": ["rbind"]},
                {"destination": "/b", "source": "nothing", "options": ["rbind"]},
                {"destination": "/c", "type": "nosuchfs"}],
            "hooks": {
                "prestart": [{"path": "/bin/sh"}, {"path": "/nonexistent/hook"}],
                "startContainer": [{"path": "/only/inside"}]}"#,
        ));
        let found = check_bundle(directory.path(), false);
        assert_eq!(
            paths(&found),
            [
                "mounts[1].source",
                "mounts[2].type",
                "hooks.prestart[1].path"
            ],
            "{found:#?}"
        );
        fs::remove_file(directory.path().join("rootfs/bin/sh")).unwrap();
        let found = check_bundle(directory.path(), false);
        assert_eq!(found[0].path, "process.args[0]");
        fs::remove_dir_all(directory.path().join("rootfs")).unwrap();
        let found = check_bundle(directory.path(), false);
        assert_eq!(found[0].path, "root.path");
        fs::write(directory.path().join("rootfs"), "").unwrap();
        let found = check_bundle(directory.path(), false);
        assert!(found[0].message.contains("not a directory"));
    }

    #[test]
    fn namespace_files_are_of_the_right_type() {
        let linux = |kind: &str, path: &str| {
            format!(
                r#"{{"ociVersion": "1.3.0", "root": {{"path": "rootfs"}}, "linux": {{"namespaces": [
                {{"type": "{kind}", "path": "{path}"}}, {{"type": "cgroup", "path": "/proc/self/ns/cgroup"}}]}}}}"#
            )
        };
        let judge = |kind: &str, path: &str| check_bundle(bundle(&linux(kind, path)).path(), false);
        let errors = |found: &[Finding]| -> Vec<String> {
            let ours = |finding: &&Finding| finding.path == "linux.namespaces[0].path";
            found.iter().filter(ours).map(ToString::to_string).collect()
        };
        assert_eq!(errors(&judge("network", "/proc/self/ns/net")), [""; 0]);
        assert!(errors(&judge("network", "/proc/self/ns/uts"))[0].contains("but a uts namespace"));
        assert!(errors(&judge("pid", "/etc/passwd"))[0].contains("but another file"));
        assert!(errors(&judge("pid", "/proc/self/ns/none"))[0].contains("no such file"));
    }

    #[test]
    fn missing_controllers_are_named() {
        let host = Host::new();
        let directory = bundle(
            r#"{"ociVersion": "1.3.0", "root": {"path": "rootfs"},
            "linux": {"resources": {"rdma": {"mlx5_1": {"hcaHandles": 3}}}}}"#,
        );
        let found = check_bundle(directory.path(), false);
        let known = [
            "/proc/self/cgroup",
            "/sys/fs/cgroup/cgroup.controllers",
            "/sys/fs/cgroup/unified/cgroup.controllers",
        ]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .any(|text| text.contains("rdma"));
        let named = found
            .iter()
            .any(|finding| finding.path == "linux.resources.rdma");
        assert_eq!(named, !known, "{:?}: {found:#?}", host.cgroup_layout());
    }
}
