//! Every command: its flags, its arguments and what its help says.

use super::flags::*;
use super::{Command, Flag, Positional};

const CONTAINER: Positional = Positional {
    name: "CONTAINER",
    help: "The container's id: letters, digits, _, +, - and .",
    required: true,
    rest: false,
};

/// A command with the container's id as its only argument.
const fn on_container(
    name: &'static str,
    about: &'static str,
    details: &'static str,
    flags: &'static [&'static Flag],
) -> Command {
    Command {
        name,
        about,
        details,
        flags,
        positionals: &[CONTAINER],
    }
}

/// A command without arguments.
const fn plain(
    name: &'static str,
    about: &'static str,
    details: &'static str,
    flags: &'static [&'static Flag],
) -> Command {
    Command {
        name,
        about,
        details,
        flags,
        positionals: &[],
    }
}

/// What the help of the program itself says.
pub static ABOUT: &str = "Run containers that are described by OCI bundles";

/// Further paragraphs of it.
pub static DETAILS: &str = "\
A bundle is a directory with a file config.json and a root file system. \
The id that a container gets must be unique below the root directory.

Flags have one or two dashes (-root DIR, --root DIR, --root=DIR); global flags stand before the command.";

/// `create`
pub static CREATE: Command = on_container(
    "create",
    "Create a container",
    "Everything is set up as config.json says; the program itself waits for start.",
    &[
        &BUNDLE,
        &CONFIG,
        &CONSOLE_SOCKET,
        &PIDFD_SOCKET,
        &PID_FILE,
        &NO_PIVOT,
        &NO_NEW_KEYRING,
        &PRESERVE_FDS,
        &NO_SUBREAPER_OBSOLETE,
        &DETACH_OBSOLETE,
    ],
);
/// `run`
pub static RUN: Command = on_container(
    "run",
    "Create and start a container",
    "Waits for the end of the program, exits with its exit code (128 and the signal's number where a signal ended it) \
and deletes the container.",
    &[
        &BUNDLE,
        &CONFIG,
        &CONSOLE_SOCKET,
        &PIDFD_SOCKET,
        &DETACH,
        &KEEP,
        &PID_FILE,
        &NO_SUBREAPER,
        &NO_PIVOT,
        &NO_NEW_KEYRING,
        &PRESERVE_FDS,
    ],
);
/// `start`
pub static START: Command =
    on_container("start", "Start the program of a created container", "", &[]);
/// `state`
pub static STATE: Command =
    on_container("state", "Print the state of a container as JSON", "", &[]);
/// `kill`
pub static KILL: Command = Command {
    name: "kill",
    about: "Send a signal to a container",
    details: "The signal goes to the container's first process; where that has no pid namespace of its own, \
KILL goes to every process of the container.",
    flags: &[&KILL_ALL, &REGEX],
    positionals: &[
        CONTAINER,
        Positional {
            name: "SIGNAL",
            help: "Number or name, with or without SIG [default: TERM]",
            required: false,
            rest: false,
        },
    ],
};
/// `delete`
pub static DELETE: Command = on_container(
    "delete",
    "Delete a stopped container",
    "Removes everything that create made.",
    &[&FORCE, &REGEX],
);
/// `list`
pub static LIST: Command = plain(
    "list",
    "List the containers below the root directory",
    "",
    &[&FORMAT, &QUIET],
);
/// `exec`
pub static EXEC: Command = Command {
    name: "exec",
    about: "Run a further process in a container",
    details: "Exits with the process's exit code, or with 255 where it could not be run.",
    flags: &[
        &CONSOLE_SOCKET,
        &PIDFD_SOCKET,
        &CWD,
        &ENV,
        &TTY,
        &USER,
        &ADDITIONAL_GIDS,
        &PROCESS,
        &DETACH,
        &PID_FILE,
        &PROCESS_LABEL,
        &APPARMOR,
        &NO_NEW_PRIVS,
        &CAP,
        &PRESERVE_FDS,
        &CGROUP,
        &IGNORE_PAUSED,
    ],
    positionals: &[
        CONTAINER,
        Positional {
            name: "COMMAND",
            help: "Program and its arguments; not needed with --process",
            required: false,
            rest: true,
        },
    ],
};
/// `ps`
pub static PS: Command = Command {
    name: "ps",
    about: "Show the processes of a container",
    details: "The table is that of ps(1), reduced to the container's processes.",
    flags: &[&FORMAT],
    positionals: &[
        CONTAINER,
        Positional {
            name: "OPTION",
            help: "Options of ps(1) [default: -ef]",
            required: false,
            rest: true,
        },
    ],
};
/// `pause`
pub static PAUSE: Command = on_container("pause", "Freeze all processes of a container", "", &[]);
/// `resume`
pub static RESUME: Command = on_container(
    "resume",
    "Let the processes of a paused container run on",
    "",
    &[],
);
/// `update`
pub static UPDATE: Command = on_container(
    "update",
    "Change the limits of a container",
    "Limits that are not named stay as they are; rules for devices are never touched.",
    &[
        &RESOURCES,
        &BLKIO_WEIGHT,
        &CPU_PERIOD,
        &CPU_QUOTA,
        &CPU_BURST,
        &CPU_SHARE,
        &CPU_RT_PERIOD,
        &CPU_RT_RUNTIME,
        &CPUSET_CPUS,
        &CPUSET_MEMS,
        &CPU_IDLE,
        &MEMORY,
        &MEMORY_RESERVATION,
        &MEMORY_SWAP,
        &KERNEL_MEMORY,
        &KERNEL_MEMORY_TCP,
        &PIDS_LIMIT,
        &L3_CACHE_SCHEMA,
        &MEM_BW_SCHEMA,
    ],
);
/// `events`
pub static EVENTS: Command = on_container(
    "events",
    "Print statistics and out-of-memory events of a container",
    "One line of JSON an event, until the container ends.",
    &[&INTERVAL, &STATS],
);
/// `spec`
pub static SPEC: Command = plain(
    "spec",
    "Write a config.json to start from",
    "An existing file is never overwritten.",
    &[&BUNDLE, &SPEC_FILE, &SPEC_ROOTLESS],
);
/// `features`
pub static FEATURES: Command = plain(
    "features",
    "Print what this runtime supports as JSON",
    "",
    &[],
);
/// `checkpoint`
pub static CHECKPOINT: Command = on_container(
    "checkpoint",
    "Save the state of a running container with criu",
    "",
    &[
        &IMAGE_PATH,
        &WORK_PATH,
        &PARENT_PATH,
        &LEAVE_RUNNING,
        &TCP_ESTABLISHED,
        &TCP_SKIP_IN_FLIGHT,
        &LINK_REMAP,
        &EXT_UNIX_SK,
        &SHELL_JOB,
        &LAZY_PAGES,
        &STATUS_FD,
        &PAGE_SERVER,
        &FILE_LOCKS,
        &PRE_DUMP,
        &MANAGE_CGROUPS_MODE,
        &EMPTY_NS,
        &AUTO_DEDUP,
        &NETWORK_LOCK,
    ],
);
/// `restore`
pub static RESTORE: Command = on_container(
    "restore",
    "Restore a container that checkpoint saved",
    "",
    &[
        &CONSOLE_SOCKET,
        &IMAGE_PATH,
        &WORK_PATH,
        &TCP_ESTABLISHED,
        &TCP_CLOSE,
        &EXT_UNIX_SK,
        &SHELL_JOB,
        &FILE_LOCKS,
        &MANAGE_CGROUPS_MODE,
        &BUNDLE,
        &DETACH,
        &PID_FILE,
        &NO_SUBREAPER,
        &NO_PIVOT,
        &EMPTY_NS,
        &AUTO_DEDUP,
        &LAZY_PAGES,
        &LSM_PROFILE,
        &LSM_MOUNT_CONTEXT,
        &NETWORK_LOCK,
    ],
);
/// `validate`
pub static VALIDATE: Command = Command {
    name: "validate",
    about: "Check a bundle without running it",
    details: "Prints each finding with its place in the configuration, the section of the specification and what to do. \
Fails where create would fail.",
    flags: &[&TEXT_OR_JSON],
    positionals: &[Positional {
        name: "PATH",
        help: "A bundle's directory, or a configuration in it [default: the current directory]",
        required: false,
        rest: false,
    }],
};
/// `doctor`
pub static DOCTOR: Command = Command {
    name: "doctor",
    about: "Tell what this host supports and what is missing",
    details: "Looks at the kernel, cgroups, security modules, user namespaces and criu, and changes nothing. \
For each thing that is missing it says what that means for containers and what to do. \
Fails only where no container can run.",
    flags: &[&TEXT_OR_JSON],
    positionals: &[],
};
/// `help`
pub static HELP_COMMAND: Command = Command {
    name: "help",
    about: "Print help, also for one command",
    details: "",
    flags: &[],
    positionals: &[Positional {
        name: "COMMAND",
        help: "The command",
        required: false,
        rest: false,
    }],
};

/// Every command, in the order of the help text.
pub static ALL: [&Command; 20] = [
    &CREATE,
    &START,
    &RUN,
    &EXEC,
    &STATE,
    &LIST,
    &PS,
    &KILL,
    &DELETE,
    &PAUSE,
    &RESUME,
    &UPDATE,
    &EVENTS,
    &CHECKPOINT,
    &RESTORE,
    &SPEC,
    &VALIDATE,
    &DOCTOR,
    &FEATURES,
    &HELP_COMMAND,
];
