//! Where a container's cgroup is, for every area that looks at its files.

use crate::cgroup::Layout;
use std::fs;
use std::path::PathBuf;

/// The container's directories below every hierarchy for an absolute cgroupsPath.
pub fn find(path: &str) -> Vec<PathBuf> {
    let Ok(layout) = Layout::read() else {
        return Vec::new();
    };
    layout
        .hierarchies
        .iter()
        .map(|h| h.mount_point.join(path.trim_start_matches('/')))
        .filter(|p| p.is_dir())
        .collect()
}

/// The directory of one v1 controller.
pub fn v1(controller: &str, path: &str) -> Option<PathBuf> {
    let layout = Layout::read().ok()?;
    let h = layout
        .hierarchies
        .iter()
        .find(|h| !h.v2 && h.options.split(',').any(|o| o == controller))?;
    Some(h.mount_point.join(path.trim_start_matches('/')))
}

/// The directory in the unified hierarchy.
pub fn v2(path: &str) -> Option<PathBuf> {
    let layout = Layout::read().ok()?;
    let h = layout.hierarchies.iter().find(|h| h.v2)?;
    Some(h.mount_point.join(path.trim_start_matches('/')))
}

/// `v1`, `v2`, `hybrid` or `none`.
pub fn mode() -> &'static str {
    Layout::read().map_or("none", |l| l.mode())
}

/// Whether the unified hierarchy offers a controller.
pub fn v2_controller(name: &str) -> bool {
    let file = v2("/").map(|d| d.join("cgroup.controllers"));
    file.and_then(|f| fs::read_to_string(f).ok())
        .is_some_and(|t| t.split_whitespace().any(|c| c == name))
}
