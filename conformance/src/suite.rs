//! What each program of the validation suite is about: it prints clauses, but
//! no title of its own.

/// One line for reports; programs of a later suite get their name.
pub fn title(name: &str) -> String {
    TITLES.iter().find(|(n, ..)| *n == name).map_or_else(
        || name.replace('_', " "),
        |(_, title, _)| (*title).to_owned(),
    )
}

/// The heading of the specification that a program of the suite is about.
pub fn clause(name: &str) -> Option<&'static str> {
    TITLES
        .iter()
        .find(|(n, ..)| *n == name)
        .map(|(.., clause)| *clause)
}

/// Name, title and heading of every program.
pub const TITLES: &[(&str, &str, &str)] = &[
    (
        "config_updates_without_affect",
        "changes of config.json after create have no effect",
        "runtime.md#lifecycle",
    ),
    ("create", "create: ids and bundles", "runtime.md#create"),
    (
        "default",
        "the default configuration runs",
        "config-linux.md#default-filesystems",
    ),
    ("delete", "delete in each state", "runtime.md#delete"),
    (
        "delete_only_create_resources",
        "delete keeps what create did not make",
        "runtime.md#delete",
    ),
    (
        "delete_resources",
        "delete removes what create made",
        "runtime.md#delete",
    ),
    (
        "hooks",
        "hooks run in their order",
        "config.md#posix-platform-hooks",
    ),
    (
        "hooks_stdin",
        "hooks get the state on standard input",
        "config.md#posix-platform-hooks",
    ),
    ("hostname", "hostname", "config.md#hostname"),
    ("kill", "kill in each state", "runtime.md#kill"),
    (
        "kill_no_effect",
        "kill of a stopped container has no effect",
        "runtime.md#kill",
    ),
    (
        "killsig",
        "kill sends the signal it is told",
        "runtime.md#kill",
    ),
    (
        "linux_cgroups_blkio",
        "block IO limits, absolute path",
        "config-linux.md#block-io",
    ),
    (
        "linux_cgroups_cpus",
        "CPU limits, absolute path",
        "config-linux.md#cpu",
    ),
    (
        "linux_cgroups_devices",
        "device rules, absolute path",
        "config-linux.md#allowed-device-list",
    ),
    (
        "linux_cgroups_hugetlb",
        "huge page limits, absolute path",
        "config-linux.md#huge-page-limits",
    ),
    (
        "linux_cgroups_memory",
        "memory limits, absolute path",
        "config-linux.md#memory",
    ),
    (
        "linux_cgroups_network",
        "network class and priorities, absolute path",
        "config-linux.md#network",
    ),
    (
        "linux_cgroups_pids",
        "pids limit, absolute path",
        "config-linux.md#pids",
    ),
    (
        "linux_cgroups_relative_blkio",
        "block IO limits, relative path",
        "config-linux.md#cgroups-path",
    ),
    (
        "linux_cgroups_relative_cpus",
        "CPU limits, relative path",
        "config-linux.md#cgroups-path",
    ),
    (
        "linux_cgroups_relative_devices",
        "device rules, relative path",
        "config-linux.md#cgroups-path",
    ),
    (
        "linux_cgroups_relative_hugetlb",
        "huge page limits, relative path",
        "config-linux.md#cgroups-path",
    ),
    (
        "linux_cgroups_relative_memory",
        "memory limits, relative path",
        "config-linux.md#cgroups-path",
    ),
    (
        "linux_cgroups_relative_network",
        "network class and priorities, relative path",
        "config-linux.md#cgroups-path",
    ),
    (
        "linux_cgroups_relative_pids",
        "pids limit, relative path",
        "config-linux.md#cgroups-path",
    ),
    ("linux_devices", "devices", "config-linux.md#devices"),
    (
        "linux_masked_paths",
        "masked paths",
        "config-linux.md#masked-paths",
    ),
    (
        "linux_mount_label",
        "mount label",
        "config-linux.md#mount-label",
    ),
    (
        "linux_ns_itype",
        "a namespace type that is absent is inherited",
        "config-linux.md#namespaces",
    ),
    (
        "linux_ns_nopath",
        "a namespace without a path is new",
        "config-linux.md#namespaces",
    ),
    (
        "linux_ns_path",
        "a namespace with a path is joined",
        "config-linux.md#namespaces",
    ),
    (
        "linux_ns_path_type",
        "a path of another namespace type is an error",
        "config-linux.md#namespaces",
    ),
    (
        "linux_process_apparmor_profile",
        "AppArmor profile",
        "config.md#linux-process",
    ),
    (
        "linux_readonly_paths",
        "read-only paths",
        "config-linux.md#readonly-paths",
    ),
    (
        "linux_rootfs_propagation",
        "propagation of the root file system",
        "config-linux.md#rootfs-mount-propagation",
    ),
    ("linux_seccomp", "seccomp", "config-linux.md#seccomp"),
    ("linux_sysctl", "sysctl", "config-linux.md#sysctl"),
    (
        "linux_uid_mappings",
        "id mappings",
        "config-linux.md#user-namespace-mappings",
    ),
    (
        "misc_props",
        "unknown properties, invalid values, annotations",
        "config.md#extensibility",
    ),
    ("mounts", "mounts", "config.md#mounts"),
    ("pidfile", "create --pid-file", "runtime.md#create"),
    ("poststart", "poststart hooks", "config.md#poststart"),
    (
        "poststart_fail",
        "failing poststart hooks",
        "config.md#poststart",
    ),
    ("poststop", "poststop hooks", "config.md#poststop"),
    (
        "poststop_fail",
        "failing poststop hooks",
        "config.md#poststop",
    ),
    ("prestart", "prestart hooks", "config.md#prestart"),
    (
        "prestart_fail",
        "failing prestart hooks",
        "config.md#prestart",
    ),
    ("process", "process", "config.md#process"),
    (
        "process_capabilities",
        "capabilities",
        "config.md#linux-process",
    ),
    (
        "process_capabilities_fail",
        "invalid capabilities",
        "config.md#linux-process",
    ),
    (
        "process_oom_score_adj",
        "oomScoreAdj",
        "config.md#linux-process",
    ),
    ("process_rlimits", "rlimits", "config.md#posix-process"),
    (
        "process_rlimits_fail",
        "invalid rlimits",
        "config.md#posix-process",
    ),
    ("process_user", "user", "config.md#posix-platform-user"),
    ("root_readonly_true", "a read-only root", "config.md#root"),
    ("start", "start in each state", "runtime.md#start"),
    ("state", "state", "runtime.md#query-state"),
];
