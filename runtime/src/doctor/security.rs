//! What confines a container: seccomp and the Linux security modules.

use super::kernel::setting;
use super::{Check, State};
use crate::host::Host;
use crate::sys::probe::{Answer, Call, answer};

const AREA: &str = "security";

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let actions = setting("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let filters = answer(Call::Seccomp) != Answer::Absent;
    vec![
        Check::new(
            AREA,
            "seccomp",
            State::present_if(filters),
            actions.clone(),
            "a configuration with linux.seccomp is refused",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
        Check::new(
            AREA,
            "seccomp notify",
            State::present_if(actions.split(' ').any(|action| action == "user_notif")),
            "",
            "SCMP_ACT_NOTIFY is refused",
            "Linux 5.0 or newer has it",
        ),
        Check::new(
            AREA,
            "AppArmor",
            State::present_if(host.apparmor()),
            "",
            "process.apparmorProfile is refused",
            "a kernel booted with AppArmor (apparmor=1 security=apparmor)",
        ),
        Check::new(
            AREA,
            "SELinux",
            State::present_if(host.selinux()),
            "",
            "process.selinuxLabel and linux.mountLabel are refused",
            "a system with an SELinux policy loaded",
        ),
    ]
}
