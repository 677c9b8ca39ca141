//! Every flag of the command line. A flag that several commands share stands here once.

use super::{Flag, Kind};

// Global flags.

/// `--root`
pub static ROOT: Flag = Flag::valued(
    "root",
    Kind::Path,
    "DIR",
    "Directory for the state of containers, best on a tmpfs [default: /run/knarr]",
);
/// `--log`
pub static LOG: Flag = Flag::valued(
    "log",
    Kind::Path,
    "FILE",
    "Where messages go: a file, syslog:NAME or journald:NAME [default: standard error]",
);
/// `--log-format`
pub static LOG_FORMAT: Flag = Flag::valued(
    "log-format",
    Kind::Text,
    "FORMAT",
    "Form of messages: text or json [default: text]",
);
/// `--log-level`
pub static LOG_LEVEL: Flag = Flag::valued(
    "log-level",
    Kind::Text,
    "LEVEL",
    "Least level of messages: debug, info, warning or error [default: error with --log, else warning]",
);
/// `--debug`
pub static DEBUG: Flag = Flag::switch("debug", "The same as --log-level debug");
/// `--systemd-cgroup`
pub static SYSTEMD_CGROUP: Flag = Flag::switch(
    "systemd-cgroup",
    "Let systemd manage cgroups; cgroupsPath then reads slice:prefix:name",
);
/// `--cgroup-manager`
pub static CGROUP_MANAGER: Flag = Flag::valued(
    "cgroup-manager",
    Kind::Text,
    "MANAGER",
    "Who manages cgroups: cgroupfs, systemd or disabled [default: cgroupfs]",
);
/// `--rootless`
pub static ROOTLESS: Flag = Flag::valued(
    "rootless",
    Kind::Text,
    "WHEN",
    "Go on where permission for cgroups is missing: true, false or auto [default: auto]",
);
/// `--help`
pub static HELP: Flag = Flag::switch("help", "Print this help").short('h');
/// `--version`
pub static VERSION: Flag = Flag::switch("version", "Print the version").short('v');
/// `-V`, another name of `--version`.
pub static VERSION_CAPITAL: Flag = Flag::switch("V", "Print the version").hidden();

/// Flags before the command.
pub static GLOBALS: [&Flag; 11] = [
    &ROOT,
    &LOG,
    &LOG_FORMAT,
    &LOG_LEVEL,
    &DEBUG,
    &SYSTEMD_CGROUP,
    &CGROUP_MANAGER,
    &ROOTLESS,
    &VERSION,
    &VERSION_CAPITAL,
    &HELP,
];

// create, run, restore, exec.

/// `--bundle`
pub static BUNDLE: Flag = Flag::valued(
    "bundle",
    Kind::Path,
    "DIR",
    "Directory of the bundle [default: the current directory]",
)
.short('b');
/// `--config`
pub static CONFIG: Flag = Flag::valued(
    "config",
    Kind::Path,
    "FILE",
    "Configuration to use in place of the bundle's config.json",
)
.short('f');
/// `--console-socket`
pub static CONSOLE_SOCKET: Flag = Flag::valued(
    "console-socket",
    Kind::Path,
    "SOCKET",
    "Unix socket that receives the terminal's master",
);
/// `--pidfd-socket`
pub static PIDFD_SOCKET: Flag = Flag::valued(
    "pidfd-socket",
    Kind::Path,
    "SOCKET",
    "Unix socket that receives a pidfd of the process",
);
/// `--pid-file`
pub static PID_FILE: Flag = Flag::valued(
    "pid-file",
    Kind::Path,
    "FILE",
    "File that receives the process id",
);
/// `--no-pivot`
pub static NO_PIVOT: Flag = Flag::switch(
    "no-pivot",
    "Do not use pivot_root(2), which a root file system on a ramdisk does not allow",
);
/// `--no-new-keyring`
pub static NO_NEW_KEYRING: Flag = Flag::switch(
    "no-new-keyring",
    "Keep the caller's session keyring instead of making a new one",
);
/// `--preserve-fds`
pub static PRESERVE_FDS: Flag = Flag::valued(
    "preserve-fds",
    Kind::Number,
    "N",
    "Hand N further descriptors to the process, after the standard ones and LISTEN_FDS",
);
/// `--detach`
pub static DETACH: Flag = Flag::switch("detach", "Return as soon as the process runs").short('d');
/// `--detach` of create, where it is always so.
pub static DETACH_OBSOLETE: Flag = Flag::switch("detach", "No effect").hidden();
/// `--keep`
pub static KEEP: Flag = Flag::switch("keep", "Keep the container after its end");
/// `--no-subreaper`
pub static NO_SUBREAPER: Flag = Flag::switch(
    "no-subreaper",
    "Do not become the reaper of orphaned processes",
);
/// `--no-subreaper` of create, where there is never a reaper.
pub static NO_SUBREAPER_OBSOLETE: Flag = Flag::switch("no-subreaper", "No effect").hidden();

// exec.

/// `--cwd`
pub static CWD: Flag = Flag::valued(
    "cwd",
    Kind::Text,
    "DIR",
    "Working directory in the container",
);
/// `--env`
pub static ENV: Flag = Flag::valued(
    "env",
    Kind::List,
    "NAME=VALUE",
    "Set a variable of the environment",
)
.short('e');
/// `--tty`
pub static TTY: Flag = Flag::switch("tty", "Allocate a terminal").short('t');
/// `--user`
pub static USER: Flag = Flag::valued(
    "user",
    Kind::Text,
    "UID[:GID]",
    "User and group of the process",
)
.short('u');
/// `--additional-gids`
pub static ADDITIONAL_GIDS: Flag = Flag::valued(
    "additional-gids",
    Kind::Numbers,
    "GID",
    "Further group of the process",
)
.short('g');
/// `--process`
pub static PROCESS: Flag = Flag::valued(
    "process",
    Kind::Path,
    "FILE",
    "File with the process as JSON, in place of a command",
)
.short('p');
/// `--process-label`
pub static PROCESS_LABEL: Flag = Flag::valued(
    "process-label",
    Kind::Text,
    "LABEL",
    "SELinux label of the process",
);
/// `--apparmor`
pub static APPARMOR: Flag = Flag::valued(
    "apparmor",
    Kind::Text,
    "PROFILE",
    "AppArmor profile of the process",
);
/// `--no-new-privs`
pub static NO_NEW_PRIVS: Flag = Flag::switch(
    "no-new-privs",
    "Let the process never gain privileges by executing a program",
);
/// `--cap`
pub static CAP: Flag = Flag::valued(
    "cap",
    Kind::List,
    "CAP",
    "Give the process a further capability",
)
.short('c');
/// `--cgroup`
pub static CGROUP: Flag = Flag::valued(
    "cgroup",
    Kind::List,
    "[CONTROLLER:]PATH",
    "Run the process in an existing cgroup below the container's",
);
/// `--ignore-paused`
pub static IGNORE_PAUSED: Flag = Flag::switch(
    "ignore-paused",
    "Enter a paused container; the process runs once it is resumed",
);

// kill, delete, list, ps, events, spec.

/// `--all`
pub static KILL_ALL: Flag =
    Flag::switch("all", "Obsolete: a container that does not run is no error")
        .short('a')
        .hidden();
/// `--regex` of kill and delete.
pub static REGEX: Flag = Flag::switch(
    "regex",
    "The id is an extended regular expression; every container that matches is meant",
)
.short('r');
/// `--force`
pub static FORCE: Flag = Flag::switch(
    "force",
    "Kill the container first if it still runs; one that does not exist is no error",
)
.short('f');
/// `--format`
pub static FORMAT: Flag = Flag::valued(
    "format",
    Kind::Text,
    "FORMAT",
    "Form of the output: table or json [default: table]",
)
.short('f');
/// `--format` of validate and doctor.
pub static TEXT_OR_JSON: Flag = Flag::valued(
    "format",
    Kind::Text,
    "FORMAT",
    "Form of the output: text or json [default: text]",
)
.short('f');
/// `--quiet`
pub static QUIET: Flag = Flag::switch("quiet", "Print ids only").short('q');
/// `--interval`
pub static INTERVAL: Flag = Flag::valued(
    "interval",
    Kind::Duration,
    "DURATION",
    "Time between statistics, such as 500ms or 1m30s [default: 5s]",
);
/// `--stats`
pub static STATS: Flag = Flag::switch("stats", "Print the statistics once and end");
/// `--rootless` of spec.
pub static SPEC_ROOTLESS: Flag =
    Flag::switch("rootless", "Write a configuration that needs no privileges");
/// `--file` of spec.
pub static SPEC_FILE: Flag = Flag::valued(
    "file",
    Kind::Path,
    "FILE",
    "File to write in place of config.json",
)
.short('f');

// update.

/// `--resources`
pub static RESOURCES: Flag = Flag::valued(
    "resources",
    Kind::Path,
    "FILE",
    "File with linux.resources as JSON, - for standard input; flags for single limits are then ignored",
)
.short('r');
/// `--blkio-weight`
pub static BLKIO_WEIGHT: Flag = Flag::valued(
    "blkio-weight",
    Kind::Number,
    "WEIGHT",
    "Weight for block devices, 10 to 1000",
);
/// `--cpu-period`
pub static CPU_PERIOD: Flag = Flag::valued(
    "cpu-period",
    Kind::Text,
    "USEC",
    "Length of a period of CPU time",
);
/// `--cpu-quota`
pub static CPU_QUOTA: Flag = Flag::valued(
    "cpu-quota",
    Kind::Text,
    "USEC",
    "CPU time in a period; negative for no limit",
);
/// `--cpu-burst`
pub static CPU_BURST: Flag = Flag::valued(
    "cpu-burst",
    Kind::Text,
    "USEC",
    "Unused CPU time that may be saved up",
);
/// `--cpu-share`
pub static CPU_SHARE: Flag = Flag::valued(
    "cpu-share",
    Kind::Text,
    "SHARES",
    "Weight for CPU time among containers",
);
/// `--cpu-rt-period`
pub static CPU_RT_PERIOD: Flag = Flag::valued(
    "cpu-rt-period",
    Kind::Text,
    "USEC",
    "Length of a period of real-time CPU time",
);
/// `--cpu-rt-runtime`
pub static CPU_RT_RUNTIME: Flag = Flag::valued(
    "cpu-rt-runtime",
    Kind::Text,
    "USEC",
    "Real-time CPU time in a period",
);
/// `--cpuset-cpus`
pub static CPUSET_CPUS: Flag = Flag::valued(
    "cpuset-cpus",
    Kind::Text,
    "LIST",
    "CPUs to use, such as 0-3,7",
);
/// `--cpuset-mems`
pub static CPUSET_MEMS: Flag =
    Flag::valued("cpuset-mems", Kind::Text, "LIST", "Memory nodes to use");
/// `--cpu-idle`
pub static CPU_IDLE: Flag = Flag::valued(
    "cpu-idle",
    Kind::Text,
    "0|1",
    "1 to run only where nothing else would (SCHED_IDLE)",
);
/// `--memory`
pub static MEMORY: Flag = Flag::valued(
    "memory",
    Kind::Text,
    "BYTES",
    "Limit of memory; units such as 200M are allowed, -1 for no limit",
);
/// `--memory-reservation`
pub static MEMORY_RESERVATION: Flag = Flag::valued(
    "memory-reservation",
    Kind::Text,
    "BYTES",
    "Soft limit of memory",
);
/// `--memory-swap`
pub static MEMORY_SWAP: Flag = Flag::valued(
    "memory-swap",
    Kind::Text,
    "BYTES",
    "Limit of memory and swap together; -1 for no limit",
);
/// `--kernel-memory`
pub static KERNEL_MEMORY: Flag = Flag::valued(
    "kernel-memory",
    Kind::Text,
    "BYTES",
    "Obsolete: kernels have no such limit any more",
)
.hidden();
/// `--kernel-memory-tcp`
pub static KERNEL_MEMORY_TCP: Flag = Flag::valued(
    "kernel-memory-tcp",
    Kind::Text,
    "BYTES",
    "Obsolete: limit of memory for TCP buffers",
)
.hidden();
/// `--pids-limit`
pub static PIDS_LIMIT: Flag = Flag::valued(
    "pids-limit",
    Kind::Number,
    "N",
    "Limit of processes and threads; -1 for no limit",
);
/// `--l3-cache-schema`
pub static L3_CACHE_SCHEMA: Flag = Flag::valued(
    "l3-cache-schema",
    Kind::Text,
    "SCHEMA",
    "Intel RDT: schema of the L3 cache",
);
/// `--mem-bw-schema`
pub static MEM_BW_SCHEMA: Flag = Flag::valued(
    "mem-bw-schema",
    Kind::Text,
    "SCHEMA",
    "Intel RDT: schema of the memory bandwidth",
);

// checkpoint, restore.

/// `--image-path`
pub static IMAGE_PATH: Flag = Flag::valued(
    "image-path",
    Kind::Path,
    "DIR",
    "Directory of criu's images [default: checkpoint in the current directory]",
);
/// `--work-path`
pub static WORK_PATH: Flag = Flag::valued(
    "work-path",
    Kind::Path,
    "DIR",
    "Directory of criu's work files and logs",
);
/// `--parent-path`
pub static PARENT_PATH: Flag = Flag::valued(
    "parent-path",
    Kind::Path,
    "DIR",
    "Directory of an earlier dump, relative to the images",
);
/// `--leave-running`
pub static LEAVE_RUNNING: Flag =
    Flag::switch("leave-running", "Let the container run on after the dump").short('R');
/// `--tcp-established`
pub static TCP_ESTABLISHED: Flag = Flag::switch("tcp-established", "Allow open TCP connections");
/// `--tcp-skip-in-flight`
pub static TCP_SKIP_IN_FLIGHT: Flag = Flag::switch(
    "tcp-skip-in-flight",
    "Leave out TCP connections that are being made",
);
/// `--tcp-close`
pub static TCP_CLOSE: Flag = Flag::switch("tcp-close", "Restore TCP connections as closed");
/// `--link-remap`
pub static LINK_REMAP: Flag = Flag::switch(
    "link-remap",
    "Allow open files without a name, linked back where possible",
);
/// `--ext-unix-sk`
pub static EXT_UNIX_SK: Flag = Flag::switch(
    "ext-unix-sk",
    "Allow Unix sockets whose other end is outside",
);
/// `--shell-job`
pub static SHELL_JOB: Flag = Flag::switch("shell-job", "Allow the session of a shell");
/// `--lazy-pages`
pub static LAZY_PAGES: Flag = Flag::switch(
    "lazy-pages",
    "Move memory pages only when they are used (userfaultfd)",
);
/// `--status-fd`
pub static STATUS_FD: Flag = Flag::valued(
    "status-fd",
    Kind::Number,
    "FD",
    "Descriptor to which criu writes a zero byte when lazy pages are ready",
);
/// `--page-server`
pub static PAGE_SERVER: Flag = Flag::valued(
    "page-server",
    Kind::Text,
    "ADDRESS:PORT",
    "Server that takes the memory pages",
);
/// `--file-locks`
pub static FILE_LOCKS: Flag = Flag::switch("file-locks", "Allow file locks");
/// `--pre-dump`
pub static PRE_DUMP: Flag =
    Flag::switch("pre-dump", "Dump memory only and let the container run on");
/// `--manage-cgroups-mode`
pub static MANAGE_CGROUPS_MODE: Flag = Flag::valued(
    "manage-cgroups-mode",
    Kind::Text,
    "MODE",
    "What criu does with cgroups: soft, full, strict or ignore [default: soft]",
);
/// `--empty-ns`
pub static EMPTY_NS: Flag = Flag::valued(
    "empty-ns",
    Kind::List,
    "NAMESPACE",
    "Make a namespace but do not restore its contents: network, which is always so",
);
/// `--auto-dedup`
pub static AUTO_DEDUP: Flag = Flag::switch(
    "auto-dedup",
    "Remove from the images what an earlier dump holds already",
);
/// `--network-lock`
pub static NETWORK_LOCK: Flag = Flag::valued(
    "network-lock",
    Kind::Text,
    "METHOD",
    "How criu locks the network: iptables, nftables or skip",
);
/// `--lsm-profile`
pub static LSM_PROFILE: Flag = Flag::valued(
    "lsm-profile",
    Kind::Text,
    "TYPE:NAME",
    "Security profile of the restored processes",
);
/// `--lsm-mount-context`
pub static LSM_MOUNT_CONTEXT: Flag = Flag::valued(
    "lsm-mount-context",
    Kind::Text,
    "CONTEXT",
    "Security context of the restored mounts",
);
