//! Everything a process can say of itself, in one JSON object.

use crate::sys;
use serde_json::{Map, Value, json};
use std::fs;

/// The object: identity, limits, namespaces, mounts, open files, clocks.
pub fn report() -> Value {
    let text = |path: &str| {
        fs::read_to_string(path)
            .map(|t| t.trim_end().to_owned())
            .ok()
    };
    let mut status = Map::new();
    for line in text("/proc/self/status").unwrap_or_default().lines() {
        if let Some((key, value)) = line.split_once(':') {
            status.insert(key.to_owned(), value.trim().into());
        }
    }
    let uname = rustix::system::uname();
    let clock = |id| {
        let t = rustix::time::clock_gettime(id);
        t.tv_sec
    };
    json!({
        "pid": std::process::id(),
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
        "cwd": std::env::current_dir().ok().map(|p| p.display().to_string()),
        "hostname": uname.nodename().to_string_lossy(),
        "domainname": uname.domainname().to_string_lossy(),
        "machine": uname.machine().to_string_lossy(),
        "status": status,
        "rlimits": rlimits(&text("/proc/self/limits").unwrap_or_default()),
        "oom_score_adj": text("/proc/self/oom_score_adj"),
        "personality": text("/proc/self/personality"),
        "attr": text("/proc/self/attr/current"),
        "cgroup": text("/proc/self/cgroup"),
        "mountinfo": text("/proc/self/mountinfo"),
        "uid_map": text("/proc/self/uid_map"),
        "gid_map": text("/proc/self/gid_map"),
        "timens_offsets": text("/proc/self/timens_offsets"),
        "namespaces": namespaces(),
        "fds": fds(),
        "interfaces": names("/sys/class/net"),
        "net_dev": text("/proc/net/dev"),
        "monotonic": clock(rustix::time::ClockId::Monotonic),
        "boottime": clock(rustix::time::ClockId::Boottime),
        "session": stat_field(3),
        "tty": tty(),
        "scheduler": scheduler(),
        "ioprio": sys::ioprio_get().ok(),
        "mempolicy": sys::get_mempolicy().ok(),
    })
}

/// A number of /proc/self/stat after the name, counted from the state on. rustix has no word for
/// the 0 that stands for a process outside the namespace.
pub fn stat_field(index: usize) -> Option<i64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(index)?.parse().ok()
}

fn scheduler() -> Value {
    match sys::sched_getattr() {
        Err(e) => json!({ "error": e.to_string() }),
        Ok(a) => json!({
            "policy": a.policy, "flags": a.flags, "nice": a.nice, "priority": a.priority,
            "runtime": a.runtime, "deadline": a.deadline, "period": a.period,
        }),
    }
}

/// Rows and columns of the terminal on standard output, if it is one.
fn tty() -> Value {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) => json!({ "rows": size.ws_row, "columns": size.ws_col }),
        Err(_) => Value::Null,
    }
}

fn rlimits(text: &str) -> Value {
    let mut limits = Map::new();
    for line in text.lines().skip(1) {
        // "Max open files            1024                 4096                 files"
        let name = line.get(..26).unwrap_or("").trim().to_owned();
        let mut values = line.get(26..).unwrap_or("").split_whitespace();
        limits.insert(name, json!([values.next(), values.next()]));
    }
    limits.into()
}

fn names(dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The namespaces of the calling process, as `type:[inode]`.
pub fn namespaces() -> Value {
    let mut found = Map::new();
    for name in names("/proc/self/ns") {
        if let Ok(link) = fs::read_link(format!("/proc/self/ns/{name}")) {
            found.insert(name, link.to_string_lossy().into());
        }
    }
    found.into()
}

fn fds() -> Value {
    let mut found = Map::new();
    for name in names("/proc/self/fd") {
        if let Ok(link) = fs::read_link(format!("/proc/self/fd/{name}")) {
            let link = link.to_string_lossy().into_owned();
            // The directory handle of this very listing.
            if !link.starts_with("/proc/") {
                found.insert(name, link.into());
            }
        }
    }
    found.into()
}
