//! The configuration that `knarr spec` writes: a shell in the root file system `rootfs`.

use super::Spec;
use super::config::{Capabilities, IdMapping, Mount, Process, Rlimit, Root, User};
use super::features::OCI_VERSION;
use super::linux::{Linux, Namespace};
use super::resources::{DeviceRule, Resources};
use super::text::Text;

/// A user that runs containers without being root of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rootless {
    /// The caller's user id, which becomes root in the container.
    pub uid: u32,
    /// The caller's group id.
    pub gid: u32,
}

/// What the template depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Template {
    /// For a user without privileges: with a user namespace, without what needs
    /// more than that.
    pub rootless: Option<Rootless>,
    /// With a cgroup namespace: where cgroup v2 is in use.
    pub cgroup_namespace: bool,
}

/// The configuration, ready to run with a root file system that has `sh`.
#[must_use]
pub fn template(template: Template) -> Spec<'static> {
    let capabilities = texts(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    Spec {
        oci_version: Text::from(OCI_VERSION),
        process: Some(Process {
            terminal: true,
            user: User::default(),
            args: texts(&["sh"]),
            env: texts(&[
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ]),
            cwd: Text::from("/"),
            capabilities: Some(Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
                ..Capabilities::default()
            }),
            rlimits: vec![Rlimit {
                kind: Text::from("RLIMIT_NOFILE"),
                hard: 1024,
                soft: 1024,
            }],
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(Root {
            path: Text::from("rootfs"),
            readonly: true,
        }),
        hostname: Text::from("knarr"),
        mounts: mounts(template.rootless.is_some()),
        linux: Some(linux(template)),
        ..Spec::default()
    }
}

fn texts(list: &[&'static str]) -> Vec<Text<'static>> {
    list.iter().copied().map(Text::from).collect()
}

fn mounts(rootless: bool) -> Vec<Mount<'static>> {
    let mount = |destination: &'static str,
                 kind: &'static str,
                 source: &'static str,
                 options: &[&'static str]| Mount {
        destination: Text::from(destination),
        kind: Text::from(kind),
        source: Text::from(source),
        options: texts(options),
        ..Mount::default()
    };
    // The group tty (5) is not mapped for a single user, and sysfs can be
    // mounted only by the owner of the network namespace.
    let pts: &[&str] = &[
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    let pts = if rootless {
        pts.split_last().map_or(pts, |(_, rest)| rest)
    } else {
        pts
    };
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("/dev/pts", "devpts", "devpts", pts),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        if rootless {
            mount(
                "/sys",
                "none",
                "/sys",
                &["rbind", "nosuid", "noexec", "nodev", "ro"],
            )
        } else {
            mount(
                "/sys",
                "sysfs",
                "sysfs",
                &["nosuid", "noexec", "nodev", "ro"],
            )
        },
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

fn linux(template: Template) -> Linux<'static> {
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    let mut linux = Linux::default();
    match template.rootless {
        Some(user) => {
            namespaces.push("user");
            let map = |host_id| {
                vec![IdMapping {
                    container_id: 0,
                    host_id,
                    size: 1,
                }]
            };
            linux.uid_mappings = map(user.uid);
            linux.gid_mappings = map(user.gid);
        }
        None => {
            // A user without privileges keeps the network of the host, and may set no limits.
            namespaces.insert(1, "network");
            linux.resources = Some(Resources {
                devices: vec![DeviceRule {
                    allow: false,
                    access: Text::from("rwm"),
                    ..DeviceRule::default()
                }],
                ..Resources::default()
            });
        }
    }
    if template.cgroup_namespace {
        namespaces.push("cgroup");
    }
    linux.namespaces = namespaces
        .into_iter()
        .map(|kind| Namespace {
            kind: Text::from(kind),
            ..Namespace::default()
        })
        .collect();
    // Files of /proc and /sys that tell about the host or change it.
    linux.masked_paths = texts(&[
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/firmware",
    ]);
    linux.readonly_paths = texts(&[
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ]);
    linux
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse::parse;
    use crate::spec::validate::{Context, validate};

    #[test]
    fn templates_have_no_findings_and_are_read_back() {
        let rootless = Some(Rootless {
            uid: 1000,
            gid: 1001,
        });
        for choice in [
            Template::default(),
            Template {
                cgroup_namespace: true,
                ..Template::default()
            },
            Template {
                rootless,
                cgroup_namespace: false,
            },
        ] {
            let spec = template(choice);
            assert_eq!(validate(&spec, &Context::default()), []);
            let text = serde_json::to_string_pretty(&spec).unwrap();
            let copy: Spec<'_> = parse("config.json", text.as_bytes()).unwrap();
            assert_eq!(serde_json::to_string_pretty(&copy).unwrap(), text);
            let linux = copy.linux.unwrap();
            let has = |kind: &str| {
                linux
                    .namespaces
                    .iter()
                    .any(|namespace| namespace.kind == kind)
            };
            assert_eq!(has("cgroup"), choice.cgroup_namespace);
            assert_eq!(has("user"), choice.rootless.is_some());
            if choice.rootless.is_some() {
                assert_eq!(linux.uid_mappings[0].host_id, 1000);
                assert_eq!(linux.gid_mappings[0].host_id, 1001);
            }
        }
    }
}
