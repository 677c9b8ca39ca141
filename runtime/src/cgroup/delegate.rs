//! Giving a container its cgroup: config-linux.md, Cgroup ownership.

use rustix::fs::Uid;
use rustix::io::Errno;

use super::file;
use crate::error::{Error, Result};
use crate::spec::Spec;

/// Used where the kernel does not say what may be given away.
const FALLBACK: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads";

/// Whether the container's user becomes the owner of its cgroup (on v2): the
/// container has a cgroup namespace of its own and its cgroups mounted writable.
#[must_use]
pub fn owner_changes(spec: &Spec<'_>) -> bool {
    let own_namespace = spec.linux.as_ref().is_some_and(|linux| {
        linux
            .namespaces
            .iter()
            .any(|namespace| namespace.kind == "cgroup" && namespace.path.is_empty())
    });
    own_namespace
        && spec.mounts.iter().any(|mount| {
            mount.source == "cgroup"
                && mount.destination == "/sys/fs/cgroup"
                && !mount.options.iter().any(|option| option == "ro")
        })
}

/// Makes `uid` the owner of a cgroup and of those of its files that the kernel lists.
pub(super) fn delegate(dir: &str, uid: u32) -> Result<()> {
    let uid = Some(Uid::from_raw(uid));
    rustix::fs::chown(dir, uid, None)
        .map_err(|errno| Error::system(format!("chown(\"{dir}\")"), errno))?;
    let listed = file::read_path("/sys/kernel/cgroup/delegate");
    for name in listed.as_deref().unwrap_or(FALLBACK).lines() {
        let path = file::join(dir, name);
        match rustix::fs::chown(&path, uid, None) {
            // Not every listed file is in every cgroup.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::system(format!("chown(\"{path}\")"), errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_a_namespace_and_a_writable_mount() {
        let case = |namespaces: &str, mount: &str| {
            let json = format!(
                r#"{{"ociVersion":"1.0.0","mounts":[{mount}],"linux":{{"namespaces":[{namespaces}]}}}}"#
            );
            owner_changes(&serde_json::from_str::<Spec<'_>>(&json).unwrap())
        };
        let own = r#"{"type":"cgroup"}"#;
        let mount = r#"{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["rw"]}"#;
        assert!(case(own, mount));
        assert!(!case("", mount));
        assert!(!case(
            r#"{"type":"cgroup","path":"/proc/1/ns/cgroup"}"#,
            mount
        ));
        assert!(!case(own, &mount.replace("rw", "ro")));
        assert!(!case(own, &mount.replace("/sys/fs/cgroup", "/cg")));
        assert!(!case(own, ""));
    }
}
