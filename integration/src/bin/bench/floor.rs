//! The floor: a C program (integration/floor) that makes only the calls that cannot be done without.
//!
//! Belongs here: building it, and what it is told instead of a configuration.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use knarr_integration::cgroup;

use crate::{Runtime, seccomp_program};

/// Its name in the tables.
pub const NAME: &str = "floor";

/// Builds the program where there is a C compiler.
pub fn build(knarr: Option<&Runtime>) -> Option<PathBuf> {
    if !seccomp_program(knarr?).exists() {
        println!("floor: not measured, there is no seccomp_compile beside knarr");
        return None;
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("floor/build");
    let program = std::env::current_exe().ok()?.with_file_name(NAME);
    let built = Command::new(&build).arg(&program).output();
    let built = built.is_ok_and(|output| output.status.success());
    // Where it is only run, another machine may have built it.
    if !built && !program.exists() {
        println!("floor: not measured, {} failed", build.display());
        return None;
    }
    Some(program)
}

/// Writes what the program is told beside a bundle's config.json.
pub fn tell(knarr: &Runtime, bundle: &Path, path: &str) {
    let written = Command::new(seccomp_program(knarr))
        .arg(bundle.join("config.json"))
        .arg(bundle.join("filter"))
        .status();
    assert!(written.is_ok_and(|status| status.success()));
    fs::write(bundle.join("plan"), plan(path)).unwrap();
}

/// The cgroups and limits of the Docker-like configuration, line by line.
fn plan(path: &str) -> String {
    let (parent, _) = path.rsplit_once('/').unwrap();
    let mut text = String::new();
    if cgroup::unified() {
        let root = "/sys/fs/cgroup";
        let _ = write!(
            text,
            "parent {root}{parent}\ndir {root}{path}\n\
             set {root}/cgroup.subtree_control +cpu +memory +pids\n\
             set {root}{parent}/cgroup.subtree_control +cpu +memory +pids\n\
             set {root}{path}/cpu.max 50000 100000\nset {root}{path}/cpu.weight 59\n\
             set {root}{path}/memory.max 209715200\nset {root}{path}/memory.low 104857600\n\
             set {root}{path}/memory.swap.max 209715200\nset {root}{path}/pids.max 100\n\
             unified {root}{path}\n"
        );
        return text;
    }
    for hierarchy in cgroup::hierarchies() {
        let name = hierarchy
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let root = hierarchy.display();
        let _ = writeln!(text, "parent {root}{parent}\ndir {root}{path}");
        match name.as_str() {
            "unified" => {}
            "systemd" => {
                let _ = writeln!(text, "mount {root} none,name=systemd");
            }
            controllers => {
                let _ = writeln!(text, "mount {root} {controllers}");
            }
        }
        for (file, value) in settings(&name) {
            let _ = writeln!(text, "set {root}{path}/{file} {value}");
        }
        if name == "cpuset" {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read_to_string(hierarchy.join(file)).unwrap();
                let value = value.trim_end();
                let _ = write!(
                    text,
                    "set {root}{parent}/{file} {value}\nset {root}{path}/{file} {value}\n"
                );
            }
        }
    }
    text
}

/// What is written below one hierarchy of version 1.
fn settings(controller: &str) -> &'static [(&'static str, &'static str)] {
    match controller {
        "cpu" | "cpu,cpuacct" => &[
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.shares", "512"),
        ],
        "memory" => &[
            ("memory.limit_in_bytes", "209715200"),
            ("memory.memsw.limit_in_bytes", "419430400"),
            ("memory.soft_limit_in_bytes", "104857600"),
        ],
        "pids" => &[("pids.max", "100")],
        "devices" => &[
            ("devices.deny", "a"),
            ("devices.allow", "c 1:3 rwm"),
            ("devices.allow", "c 1:5 rwm"),
            ("devices.allow", "c 1:7 rwm"),
            ("devices.allow", "c 1:8 rwm"),
            ("devices.allow", "c 1:9 rwm"),
            ("devices.allow", "c 5:0 rwm"),
            ("devices.allow", "c 5:1 rwm"),
            ("devices.allow", "c 5:2 rwm"),
            ("devices.allow", "c 136:* rwm"),
            ("devices.allow", "c *:* m"),
            ("devices.allow", "b *:* m"),
        ],
        _ => &[],
    }
}
