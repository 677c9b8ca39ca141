//! Cgroups: the layout, controllers, delegation, device rules, systemd.

use rustix::fs::{Access, access};

use super::kernel::setting;
use super::{Check, State};
use crate::cgroup::systemd_answers;
use crate::host::{CgroupLayout, Host, own_cgroups, read_small};
use crate::sys::probe::{Answer, Call, answer};

const AREA: &str = "cgroups";

/// Controllers and what is refused without them.
const CONTROLLERS: [(&str, &str); 8] = [
    ("cpu", "limits on processor time are refused"),
    ("cpuset", "linux.resources.cpu.cpus and mems are refused"),
    ("memory", "limits on memory are refused"),
    ("pids", "limits on the number of processes are refused"),
    ("io", "limits on block devices are refused"),
    ("hugetlb", "limits on huge pages are refused"),
    ("rdma", "limits on RDMA are refused"),
    ("misc", "limits of the misc controller are refused"),
];

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let layout = host.cgroup_layout();
    let mut checks = vec![Check::new(
        AREA,
        "layout",
        State::present_if(layout != CgroupLayout::None),
        match layout {
            CgroupLayout::None => "nothing is mounted at /sys/fs/cgroup",
            CgroupLayout::V1 => "version 1",
            CgroupLayout::Hybrid => "version 1, with version 2 at /sys/fs/cgroup/unified",
            CgroupLayout::V2 => "version 2",
        },
        "containers get no limits and cannot be paused",
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
    )];
    let known = controllers(layout);
    for (name, effect) in CONTROLLERS {
        // Version 1 calls it blkio, and has no misc.
        let present = known
            .iter()
            .any(|known| known == name || (name == "io" && known == "blkio"));
        checks.push(Check::new(
            AREA,
            format!("controller {name}"),
            State::present_if(present),
            "",
            effect,
            "a kernel with this controller, not switched off by cgroup_disable=",
        ));
    }
    if layout == CgroupLayout::V2 {
        checks.push(device_rules());
    }
    if host.rootless() {
        checks.push(delegation(layout));
    }
    checks.push(systemd(host));
    checks
}

/// The controllers that the kernel offers in the layout.
fn controllers(layout: CgroupLayout) -> Vec<String> {
    let unified = match layout {
        CgroupLayout::V2 => read_small("/sys/fs/cgroup/cgroup.controllers"),
        CgroupLayout::Hybrid => read_small("/sys/fs/cgroup/unified/cgroup.controllers"),
        CgroupLayout::V1 | CgroupLayout::None => None,
    };
    let mut names: Vec<String> = unified
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    // "4:cpu,cpuacct:/path"
    for line in own_cgroups().unwrap_or_default().lines() {
        if let Some(list) = line.split(':').nth(1) {
            names.extend(list.split(',').map(str::to_owned));
        }
    }
    names
}

fn device_rules() -> Check {
    let there = answer(Call::Bpf) == Answer::There;
    Check::new(
        AREA,
        "device rules (eBPF)",
        State::present_if(there),
        "",
        "linux.resources.devices cannot be enforced",
        "a kernel with CONFIG_CGROUP_BPF, and CAP_BPF or CAP_SYS_ADMIN",
    )
}

/// Whether this user may make cgroups below its own, and with which controllers.
fn delegation(layout: CgroupLayout) -> Check {
    let own = setting("/proc/self/cgroup")
        .and_then(|line| line.strip_prefix("0::").map(str::to_owned))
        .filter(|_| layout == CgroupLayout::V2);
    let (state, found) = match own {
        None => (State::Absent, "only version 2 can be delegated".to_owned()),
        Some(own) => {
            let dir = format!("/sys/fs/cgroup{own}");
            // systemd delegates to the user's manager: its cgroup is above ours.
            let delegated = std::path::Path::new(&dir)
                .ancestors()
                .take_while(|dir| *dir != std::path::Path::new("/sys/fs/cgroup"))
                .filter(|dir| access(dir.join("cgroup.subtree_control"), Access::WRITE_OK).is_ok())
                .last();
            match delegated {
                Some(top) => {
                    let list = read_small(&top.join("cgroup.controllers").to_string_lossy());
                    let list = list.unwrap_or_default();
                    (
                        State::Present,
                        format!("{}: {}", top.display(), list.trim()),
                    )
                }
                None => (State::Absent, format!("{dir} is not this user's")),
            }
        }
    };
    Check::new(
        AREA,
        "delegation",
        state,
        found,
        "containers of this user get no limits and cannot be paused",
        "a session of systemd with Delegate=yes for user@.service; see systemd.resource-control(5)",
    )
}

fn systemd(host: &Host) -> Check {
    let user = host.rootless();
    let (state, found) = match systemd_answers(user) {
        Ok(()) if user => (State::Present, "the user's manager answers".to_owned()),
        Ok(()) => (State::Present, "answers".to_owned()),
        Err(error) => (State::Absent, error.to_string()),
    };
    Check::new(
        AREA,
        "systemd",
        state,
        found,
        "--systemd-cgroup is refused",
        "nothing, if nothing asks for systemd's cgroups: knarr makes its own",
    )
}
