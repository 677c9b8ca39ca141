//! cgroup v2: the walk down the tree, and the whole life where the host has v2 alone (needs root).

use super::super::testsuite;
use super::*;
use crate::cgroup::{Layout, manager};
use crate::container::CgroupDriver;

fn have_v2() -> bool {
    let usable = rustix::process::geteuid().is_root()
        && Layout::detect().is_ok_and(|layout| layout.v1.is_empty() && layout.unified.is_some());
    if !usable {
        eprintln!("skipped: needs root and a host with cgroup v2 alone");
    }
    usable
}

#[test]
fn walks_down_to_the_parent() {
    let path = "/sys/fs/cgroup/a/b/c";
    let found: Vec<_> = ancestors(path, "/sys/fs/cgroup".len()).collect();
    assert_eq!(
        found,
        ["/sys/fs/cgroup", "/sys/fs/cgroup/a", "/sys/fs/cgroup/a/b"]
    );
}

#[test]
fn files_belong_to_controllers() {
    assert_eq!(controller_of("memory.high"), Some("memory"));
    assert_eq!(controller_of("hugetlb.2MB.max"), Some("hugetlb"));
    assert_eq!(controller_of("cgroup.max.depth"), None);
}

#[test]
fn behaves_as_every_manager() {
    if have_v2() {
        testsuite::run("v2", |path| {
            let annotations = std::collections::BTreeMap::new();
            manager(&testsuite::request(
                path,
                CgroupDriver::Cgroupfs,
                &annotations,
            ))
            .unwrap()
        });
    }
}
