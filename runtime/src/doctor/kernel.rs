//! The kernel: its version, system calls, namespaces and what containers need mounted.

use std::path::Path;

use super::{Check, State};
use crate::host::{Host, read_small};
use crate::spec::names;
use crate::sys::probe::{Answer, Call, answer};

const AREA: &str = "kernel";

/// The oldest kernel the runtime is written for.
const OLDEST: (u32, u32) = (5, 10);

/// System calls, what knarr does without them, and the kernel that brought them.
const CALLS: [(&str, Call, &str, &str); 10] = [
    (
        "openat2",
        Call::Openat2,
        "paths below a root file system are resolved step by step, which is slower",
        "Linux 5.6 or newer has it",
    ),
    (
        "clone3",
        Call::Clone3,
        "processes are made with clone and moved into their cgroup afterwards, which is slower; \
         joined time namespaces need it",
        "Linux 5.3 or newer has it",
    ),
    (
        "fsopen",
        Call::Fsopen,
        "file systems are mounted by path in /proc/self/fd",
        "Linux 5.2 or newer has it",
    ),
    (
        "open_tree",
        Call::OpenTree,
        "bind mounts are made by path in /proc/self/fd, and the runtime protects itself by a copy in \
         memory",
        "Linux 5.2 or newer has it",
    ),
    (
        "move_mount",
        Call::MoveMount,
        "mounts are attached by path in /proc/self/fd",
        "Linux 5.2 or newer has it",
    ),
    (
        "mount_setattr",
        Call::MountSetattr,
        "recursive mount options (rro and its like) and id-mapped mounts are refused",
        "Linux 5.12 or newer has it",
    ),
    (
        "pidfd_open",
        Call::PidfdOpen,
        "processes are told apart by their start time alone",
        "Linux 5.3 or newer has it",
    ),
    (
        "pidfd_getfd",
        Call::PidfdGetfd,
        "seccomp's SCMP_ACT_NOTIFY is refused",
        "Linux 5.6 or newer has it",
    ),
    (
        "close_range",
        Call::CloseRange,
        "descriptors are closed one by one, which is slower",
        "Linux 5.9 or newer has it",
    ),
    (
        "keyctl",
        Call::Keyctl,
        "containers keep the session keyring of the caller",
        "a kernel with CONFIG_KEYS has it",
    ),
];

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let mut checks = vec![version(), proc(), state_root(host)];
    for (name, call, effect, help) in CALLS {
        let (state, found) = match answer(call) {
            Answer::There => (State::Present, ""),
            Answer::Absent => (State::Absent, "the call does not exist"),
            // keyctl(2) and the mount calls ask for a privilege first.
            Answer::Forbidden if host.rootless() => (State::Present, "not permitted to this user"),
            Answer::Forbidden => (State::Absent, "forbidden by a filter around this process"),
        };
        checks.push(Check::new(AREA, name, state, found, effect, help));
    }
    for kind in names::NAMESPACES {
        checks.push(Check::new(
            AREA,
            format!("{kind} namespaces"),
            match (host.has_namespace(kind), kind) {
                (true, _) => State::Present,
                (false, "mount") => State::Fatal,
                (false, _) => State::Absent,
            },
            "",
            "a configuration that asks for one is refused",
            "a kernel with that kind of namespace (CONFIG_NAMESPACES and its like)",
        ));
    }
    checks.push(Check::new(
        AREA,
        "resctrl",
        State::present_if(host.resctrl()),
        "",
        "linux.intelRdt is refused",
        "mount -t resctrl resctrl /sys/fs/resctrl, where the processor has it",
    ));
    checks
}

fn version() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    Check::new(
        AREA,
        "version",
        State::present_if(parse_version(&release).is_none_or(|version| version >= OLDEST)),
        release,
        "older than anything this runtime was tried with",
        "Linux 5.10 or newer",
    )
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn proc() -> Check {
    let mounted = Path::new("/proc/self/ns").exists();
    Check::new(
        AREA,
        "/proc",
        if mounted {
            State::Present
        } else {
            State::Fatal
        },
        "",
        "processes cannot be told apart, nor descriptors mounted",
        "mount -t proc proc /proc",
    )
}

/// Where states are kept: the nearest directory above that exists must be writable.
fn state_root(host: &Host) -> Check {
    let root = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if host.rootless() => Path::new(&dir).join("knarr"),
        _ => Path::new("/run/knarr").to_owned(),
    };
    let existing = root.ancestors().find(|dir| dir.is_dir());
    let writable =
        existing.is_some_and(|dir| rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok());
    Check::new(
        AREA,
        "state directory",
        State::present_if(writable),
        root.display().to_string(),
        "containers cannot be made without --root",
        "set XDG_RUNTIME_DIR to a directory of your own, or give --root",
    )
}

/// The first line of a setting of the kernel.
pub(super) fn setting(path: &str) -> Option<String> {
    let text = read_small(path)?;
    Some(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_of_distributions() {
        assert_eq!(parse_version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse_version("5.10"), Some((5, 10)));
        assert_eq!(parse_version("7.0-rc1"), Some((7, 0)));
        assert_eq!(parse_version("odd"), None);
    }
}
