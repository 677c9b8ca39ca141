//! Users without privileges: user namespaces, subordinate ids and the programs that map them.

use super::kernel::setting;
use super::{Check, State};
use crate::host::Host;
use crate::{id_maps, proc};

const AREA: &str = "rootless";

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let mut checks = vec![user_namespaces()];
    for name in ["newuidmap", "newgidmap"] {
        let path = id_maps::find_helper(name);
        checks.push(Check::new(
            AREA,
            name,
            State::present_if(path.is_some()),
            path.map(|path| path.display().to_string())
                .unwrap_or_default(),
            "users without privileges can map their own id only",
            "install the package uidmap (shadow-utils)",
        ));
    }
    // Root maps any id.
    if host.euid() != 0 {
        for file in ["/etc/subuid", "/etc/subgid"] {
            checks.push(subordinate(host.euid(), file));
        }
    }
    checks
}

fn user_namespaces() -> Check {
    let forbidden = [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
        ),
    ]
    .into_iter()
    .find(|(path, off)| setting(path).is_some_and(|value| value == *off));
    Check::new(
        AREA,
        "user namespaces without privileges",
        State::present_if(forbidden.is_none()),
        forbidden.map_or(String::new(), |(path, off)| format!("{path} is {off}")),
        "users other than root cannot run containers",
        "allow them with that setting (sysctl)",
    )
}

/// The ids that `file` gives to this user, by name or by number. subuid(5).
fn subordinate(uid: u32, file: &str) -> Check {
    let name = proc::user_name(uid);
    let ids: u64 = id_maps::granted(file, &name, uid)
        .iter()
        .fold(0, |sum, (_, count)| sum.saturating_add(*count));
    Check::new(
        AREA,
        file,
        State::present_if(ids >= 65536),
        format!("{ids} ids for {name}"),
        "containers with more users than root cannot be mapped",
        "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
    )
}
