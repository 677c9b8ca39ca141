//! Kernel parameters: where their files are, and what keeps them from the host.
//!
//! Belongs here: reading names of `linux.sysctl`, and the one list of
//! parameters that belong to a namespace. Does not: which namespaces a
//! container has, and setting anything.

/// What holds the value of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Each namespace of this type (as in `linux.namespaces`) has its own value.
    Namespace(&'static str),
    /// Each UTS namespace has its own, but `hostname` sets it.
    Hostname,
    /// There is one value, that of the host.
    Host,
}

/// The path of the kernel parameter `key` below /proc/sys, without a slash at
/// either end; `None` if the key names no file there (`a..b`, `../x`).
///
/// As in sysctl(8), the first separator decides: after a dot, a slash is a dot
/// of a name (`net.ipv4.conf.eth0/1.forwarding`), after a slash nothing is changed.
#[must_use]
pub fn path(key: &str) -> Option<String> {
    let path: String = match key.chars().find(|c| matches!(c, '.' | '/')) {
        Some('.') => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    };
    // Every part must be the name of a file: the path must not leave /proc/sys.
    let name = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
    (path.contains('/') && path.split('/').all(name)).then_some(path)
}

/// What holds the parameter at `path` (of [`path()`]): namespaces(7) and the
/// kernel's Documentation/admin-guide/sysctl.
#[must_use]
pub fn holder(path: &str) -> Holder {
    if let Some(name) = path.strip_prefix("kernel/") {
        return match name {
            "domainname" => Holder::Namespace("uts"),
            "hostname" => Holder::Hostname,
            "sem" | "auto_msgmni" => Holder::Namespace("ipc"),
            _ if name.starts_with("msg") || name.starts_with("shm") || name.starts_with("sem_") => {
                Holder::Namespace("ipc")
            }
            _ => Holder::Host,
        };
    }
    match path.split_once('/') {
        Some(("net", _)) => Holder::Namespace("network"),
        Some(("user", _)) => Holder::Namespace("user"),
        Some(("fs", rest)) if rest.starts_with("mqueue/") => Holder::Namespace("ipc"),
        _ => Holder::Host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_lead_to_one_path() {
        for (key, expected) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                "net/ipv4/conf/eth0.1/forwarding",
            ),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "net/ipv4/conf/eth0.1/forwarding",
            ),
        ] {
            assert_eq!(path(key).as_deref(), Some(expected), "{key}");
        }
        for wrong in [
            "",
            ".",
            "net",
            "a..b",
            "net/../kernel/x",
            "net.ipv4.",
            "/net/x",
            "../x",
            "net.//.x",
            "net.//.kernel",
            "net./.x",
            "net/x\n",
            "net/x\0",
        ] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_namespace_or_the_host_holds_a_parameter() {
        for (path, expected) in [
            ("kernel/msgmax", Holder::Namespace("ipc")),
            ("kernel/sem", Holder::Namespace("ipc")),
            ("kernel/sem_next_id", Holder::Namespace("ipc")),
            ("kernel/shm_rmid_forced", Holder::Namespace("ipc")),
            ("fs/mqueue/msg_max", Holder::Namespace("ipc")),
            ("net/core/somaxconn", Holder::Namespace("network")),
            ("kernel/domainname", Holder::Namespace("uts")),
            ("user/max_user_namespaces", Holder::Namespace("user")),
            ("kernel/hostname", Holder::Hostname),
            ("kernel/panic", Holder::Host),
            ("kernel/seminar", Holder::Host),
            ("vm/swappiness", Holder::Host),
            ("fs/file-max", Holder::Host),
            ("fs/mqueue", Holder::Host),
        ] {
            assert_eq!(holder(path), expected, "{path}");
        }
    }
}
