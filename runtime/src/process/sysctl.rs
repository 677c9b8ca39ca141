//! `linux.sysctl`: kernel parameters that belong to one of the container's namespaces.
//!
//! A parameter that no namespace holds would change the host, and is refused.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::procfs::ProcFs;
use crate::error::{Error, Kind, Result};
use crate::spec::Text;
use crate::spec::sysctl::{Holder, holder, path};

/// Which namespaces of the container are not the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnNamespaces {
    /// `ipc`.
    pub ipc: bool,
    /// `network`.
    pub network: bool,
    /// `uts`.
    pub uts: bool,
    /// `user`.
    pub user: bool,
}

/// A parameter to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Below /proc.
    path: String,
    key: String,
    value: String,
}

/// Reads `linux.sysctl`.
///
/// # Errors
/// `InvalidConfig` for names that are none, and parameters that `own` does not hold.
pub fn plan(sysctl: &BTreeMap<Text<'_>, Text<'_>>, own: OwnNamespaces) -> Result<Vec<Sysctl>> {
    sysctl
        .iter()
        .map(|(key, value)| {
            let refuse = |why: &dyn std::fmt::Display| {
                Err(Error::config(format_args!("linux.sysctl[{key:?}]"), why))
            };
            let Some(path) = path(key) else {
                return refuse(&"is no name of a parameter, such as net.ipv4.ip_forward");
            };
            match holder(&path) {
                Holder::Namespace(kind) if own.has(kind) => {}
                Holder::Namespace(kind) => {
                    return refuse(&format_args!(
                        "needs a {kind} namespace of the container's own in linux.namespaces, or it would change the host"
                    ));
                }
                Holder::Hostname => return refuse(&"set the field hostname instead"),
                Holder::Host => {
                    return refuse(&"belongs to no namespace and would change the host");
                }
            }
            if value.contains('\0') {
                return refuse(&"the value contains a NUL byte");
            }
            Ok(Sysctl {
                path: format!("sys/{path}"),
                key: key.to_string(),
                value: value.to_string(),
            })
        })
        .collect()
}

impl OwnNamespaces {
    fn has(self, kind: &str) -> bool {
        match kind {
            "ipc" => self.ipc,
            "network" => self.network,
            "uts" => self.uts,
            _ => self.user,
        }
    }
}

/// Sets the parameters in the namespaces of the caller.
///
/// # Errors
/// `Unsupported` for a parameter that the kernel does not have; those of writing it.
pub fn apply(sysctls: &[Sysctl], procfs: &ProcFs) -> Result<()> {
    for sysctl in sysctls {
        procfs
            .write(&sysctl.path, sysctl.value.as_bytes())
            .map_err(|error| {
                let missing = error.errno() == Some(Errno::NOENT);
                let error = error.context(format_args!("linux.sysctl[{:?}]", sysctl.key));
                if missing {
                    error.with_kind(Kind::Unsupported)
                } else {
                    error
                }
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, is_root, unshare_net};

    const ALL: OwnNamespaces = OwnNamespaces {
        ipc: true,
        network: true,
        uts: true,
        user: true,
    };

    fn one(key: &str, own: OwnNamespaces) -> Result<String> {
        let map = BTreeMap::from([(Text::from(key), Text::from("1"))]);
        Ok(plan(&map, own)?.remove(0).path)
    }

    #[test]
    fn only_what_the_container_owns() {
        let own = |kind: &str| OwnNamespaces {
            ipc: kind == "ipc",
            network: kind == "network",
            uts: kind == "uts",
            user: kind == "user",
        };
        for (key, kind) in [
            ("kernel.msgmax", "ipc"),
            ("kernel.sem", "ipc"),
            ("kernel.shm_rmid_forced", "ipc"),
            ("fs.mqueue.msg_max", "ipc"),
            ("net.core.somaxconn", "network"),
            ("kernel.domainname", "uts"),
            ("user.max_user_namespaces", "user"),
        ] {
            one(key, own(kind)).unwrap();
            let error = one(key, OwnNamespaces::default()).unwrap_err();
            assert!(
                error.to_string().contains(&format!("a {kind} namespace")),
                "{error}"
            );
        }
        for key in [
            "kernel.hostname",
            "kernel.panic",
            "vm.swappiness",
            "fs.file-max",
            "kernel.core_pattern",
            "fs.mqueue",
        ] {
            assert!(one(key, ALL).is_err(), "{key}");
        }
    }

    #[test]
    fn sets_the_namespace_of_the_caller_only() {
        if !is_root("sets_the_namespace_of_the_caller_only") {
            return;
        }
        let file = "/proc/sys/net/ipv4/ip_default_ttl";
        let before = std::fs::read_to_string(file).unwrap();
        let seen = in_child(|| {
            let procfs = ProcFs::open()?;
            unshare_net();
            let map = BTreeMap::from([("net.ipv4.ip_default_ttl".into(), "77".into())]);
            apply(&plan(&map, ALL)?, &procfs)?;
            Ok(std::fs::read_to_string(file).unwrap())
        });
        assert_eq!(seen.unwrap(), "77\n");
        assert_eq!(std::fs::read_to_string(file).unwrap(), before);
    }

    #[test]
    fn a_parameter_that_the_kernel_lacks_is_named() {
        let map = BTreeMap::from([("net.nothing.here".into(), "1".into())]);
        let sysctls = plan(&map, ALL).unwrap();
        let error = apply(&sysctls, &ProcFs::open().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error
                .to_string()
                .starts_with("linux.sysctl[\"net.nothing.here\"]: "),
            "{error}"
        );
    }
}
