//! `linux.sysctl`: a parameter may be set if a namespace of the container keeps it from the host.

use super::namespaces::has;
use super::{Key, Quoted, Report};
use crate::spec::Spec;
use crate::spec::linux::Linux;

const CLAUSE: &str = "config-linux.md#sysctl";

/// The path of the kernel parameter `key` below /proc/sys, without a slash at
/// either end; `None` if the key names no file there (`a..b`, `../x`).
///
/// As in sysctl(8), the first separator decides: after a dot, a slash is a dot
/// of a name (`net.ipv4.conf.eth0/1.forwarding`), after a slash nothing is changed.
#[must_use]
pub fn sysctl_path(key: &str) -> Option<String> {
    if !is_name(key) {
        return None;
    }
    Some(match separator(key) {
        '/' => key.to_owned(),
        _ => key
            .chars()
            .map(|char| match char {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
    })
}

fn separator(key: &str) -> char {
    key.chars()
        .find(|char| matches!(char, '.' | '/'))
        .unwrap_or('.')
}

fn parts(key: &str) -> impl Iterator<Item = &str> {
    key.split(separator(key))
}

/// Whether every part is the name of a file: the path must not leave /proc/sys.
/// "/" and "//" between dots would become "." and "..".
fn is_name(key: &str) -> bool {
    !key.contains('\0') && !parts(key).any(|part| matches!(part, "" | "." | ".." | "/" | "//"))
}

/// The namespace that keeps a parameter from the host, if one does.
fn owner(key: &str) -> Option<&'static str> {
    let mut parts = parts(key);
    match (parts.next()?, parts.next()?) {
        ("net", _) => Some("network"),
        ("user", _) => Some("user"),
        ("fs", "mqueue") => Some("ipc"),
        ("kernel", "domainname") => Some("uts"),
        ("kernel", name)
            if name == "sem"
                || name.starts_with("sem_")
                || name.starts_with("msg")
                || name.starts_with("shm") =>
        {
            Some("ipc")
        }
        _ => None,
    }
}

/// Whether a parameter belongs to the network namespace.
pub(super) fn is_network(key: &str) -> bool {
    owner(key) == Some("network")
}

pub(super) fn check(spec: &Spec<'_>, linux: &Linux<'_>, report: &mut Report) {
    for (name, value) in &linux.sysctl {
        let key = Key(name);
        report.no_nul(format_args!("linux.sysctl{key}"), value, CLAUSE);
        // What is no path is found without building one.
        if !is_name(name) {
            report.error(
                format_args!("linux.sysctl{key}"),
                format_args!("{} is no name of a kernel parameter", Quoted(name)),
                CLAUSE,
                "write a name such as net.ipv4.ip_forward",
            );
            continue;
        }
        if parts(name).eq(["kernel", "hostname"]) {
            report.error(
                format_args!("linux.sysctl{key}"),
                format_args!("the host name has a field of its own"),
                CLAUSE,
                "use hostname",
            );
            continue;
        }
        match owner(name) {
            Some(namespace) if has(spec, namespace) => {}
            Some(namespace) => report.error(
                format_args!("linux.sysctl{key}"),
                format_args!("without a {namespace} namespace this would change the host"),
                CLAUSE,
                &format!(
                    "add the {namespace} namespace to linux.namespaces, or remove the parameter"
                ),
            ),
            None => report.error(
                format_args!("linux.sysctl{key}"),
                format_args!("no namespace holds this parameter, so that it would change the host"),
                CLAUSE,
                "set it on the host, and remove it here",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_lead_to_one_path() {
        let path = |key| sysctl_path(key);
        assert_eq!(
            path("net.ipv4.ip_forward").as_deref(),
            Some("net/ipv4/ip_forward")
        );
        assert_eq!(
            path("net/ipv4/ip_forward").as_deref(),
            Some("net/ipv4/ip_forward")
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding").as_deref(),
            Some("net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding").as_deref(),
            Some("net/ipv4/conf/eth0.1/forwarding")
        );
        for wrong in [
            "",
            ".",
            "a..b",
            "net/../kernel/x",
            "net.ipv4.",
            "/net/x",
            "net.//.x",
            "net./.x",
        ] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }
}
