//! `linux.sysctl`: a parameter may be set if a namespace of the container keeps it from the host.

use super::namespaces::has;
use super::{Key, Quoted, Report};
use crate::spec::Spec;
use crate::spec::linux::Linux;
use crate::spec::sysctl::{Holder, holder, path};

const CLAUSE: &str = "config-linux.md#sysctl";

/// Whether a parameter belongs to the network namespace.
pub(super) fn is_network(key: &str) -> bool {
    path(key).is_some_and(|path| holder(&path) == Holder::Namespace("network"))
}

pub(super) fn check(spec: &Spec<'_>, linux: &Linux<'_>, report: &mut Report) {
    for (name, value) in &linux.sysctl {
        let key = Key(name);
        report.no_nul(format_args!("linux.sysctl{key}"), value, CLAUSE);
        let Some(path) = path(name) else {
            report.error(
                format_args!("linux.sysctl{key}"),
                format_args!("{} is no name of a kernel parameter", Quoted(name)),
                CLAUSE,
                "write a name such as net.ipv4.ip_forward",
            );
            continue;
        };
        match holder(&path) {
            Holder::Hostname => report.error(
                format_args!("linux.sysctl{key}"),
                format_args!("the host name has a field of its own"),
                CLAUSE,
                "use hostname",
            ),
            Holder::Namespace(namespace) if has(spec, namespace) => {}
            Holder::Namespace(namespace) => report.error(
                format_args!("linux.sysctl{key}"),
                format_args!("without a {namespace} namespace this would change the host"),
                CLAUSE,
                &format!(
                    "add the {namespace} namespace to linux.namespaces, or remove the parameter"
                ),
            ),
            Holder::Host => report.error(
                format_args!("linux.sysctl{key}"),
                format_args!("no namespace holds this parameter, so that it would change the host"),
                CLAUSE,
                "set it on the host, and remove it here",
            ),
        }
    }
}
