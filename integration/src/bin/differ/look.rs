//! What is seen, made comparable: numbers that differ from run to run become relations or roles.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use knarr_integration::{Value, cgroup, json};
use serde_json::Map;

use crate::place::Place;

/// Fields of /proc/PID/status that say something about the runtime. The others are sizes, counts
/// and numbers of the process.
const STATUS: &[&str] = &[
    "CapAmb",
    "CapBnd",
    "CapEff",
    "CapInh",
    "CapPrm",
    "CoreDumping",
    "Cpus_allowed_list",
    "Gid",
    "Groups",
    "Mems_allowed_list",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "ShdPnd",
    "SigBlk",
    "SigCgt",
    "SigIgn",
    "SigPnd",
    "SpeculationIndirectBranch",
    "Speculation_Store_Bypass",
    "THP_enabled",
    "Threads",
    "TracerPid",
    "Uid",
    "Umask",
];

/// Files of a cgroup with these in their names count what happens; the others are settings.
const COUNTERS: &[&str] = &[
    "stat",
    "usage",
    "failcnt",
    "procs",
    "tasks",
    "io_service",
    "io_wait",
    "io_merged",
    "io_queued",
    "time_recursive",
    "sectors",
    "pressure",
    "events",
    "current",
    "peak",
    "threads",
    "cgroup.type",
    "event_control",
    "blkio.time",
    "reclaim",
    "rsvd.max_usage",
    "cgroup.kill",
];

/// What a report is compared with.
#[derive(Debug)]
pub struct Around<'a> {
    place: &'a Place,
    init: BTreeMap<String, String>,
    keyring: std::cell::RefCell<Option<Value>>,
}

impl<'a> Around<'a> {
    /// Of a living container.
    pub fn of(place: &'a Place, init: u32) -> Self {
        Self {
            place,
            init: namespaces(&format!("/proc/{init}/ns")),
            keyring: std::cell::RefCell::default(),
        }
    }

    fn role(&self, kind: &str, link: &str) -> &'static str {
        let plain = kind.trim_end_matches("_for_children");
        let own = fs::read_link(format!("/proc/self/ns/{plain}"));
        if own.is_ok_and(|own| own.as_os_str() == link) {
            "the host's"
        } else if self.place.gave(plain, link) {
            "the given one"
        } else if self.init.get(plain).is_some_and(|init| init == link) {
            "the container's"
        } else {
            "another"
        }
    }

    fn roles(&self, namespaces: &Value) -> Value {
        let mut roles = Map::new();
        for (kind, link) in namespaces.as_object().into_iter().flatten() {
            let role = self.role(kind, link.as_str().unwrap_or_default());
            roles.insert(kind.clone(), role.into());
        }
        roles.into()
    }
}

fn namespaces(dir: &str) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            Some((
                entry.file_name().to_string_lossy().into_owned(),
                link.to_string_lossy().into_owned(),
            ))
        })
        .collect()
}

/// The probe's report in comparable form.
pub fn normal(report: &Value, around: &Around<'_>) -> Value {
    let mut report = report.clone();
    let Some(all) = report.as_object_mut() else {
        return report;
    };
    for name in [
        "pid",
        "monotonic",
        "boottime",
        "session",
        "oom_score_adj",
        "personality",
        "attr",
    ] {
        all.remove(name);
    }
    let mut status = Map::new();
    for name in STATUS {
        if let Some(value) = all["status"].get(*name) {
            let value = if *name == "SigIgn" {
                without_own_signals(value)
            } else {
                value.clone()
            };
            status.insert((*name).to_owned(), value);
        }
    }
    all.insert("status".to_owned(), status.into());
    let mounts = mounts(all["mountinfo"].as_str().unwrap_or_default());
    all.remove("mountinfo");
    all.insert("mounts".to_owned(), mounts);
    all.insert("namespaces".to_owned(), around.roles(&all["namespaces"]));
    let net = all.remove("net_dev").unwrap_or_default();
    all.insert(
        "net devices".to_owned(),
        net_devices(net.as_str().unwrap_or_default()),
    );
    all.insert("fds".to_owned(), fds(&all["fds"]));
    all.insert("dev".to_owned(), own_terminals(&all["dev"]));
    let serial = all["keyring"]["serial"].take();
    if let Some(text) = all["keyring"]["description"].as_str() {
        let text = match text.rsplit_once(';') {
            Some((rest, name)) if name.starts_with("_ses") => format!("{rest};_ses"),
            _ => text.to_owned(),
        };
        all["keyring"]["description"] = text.into();
        let mut first = around.keyring.borrow_mut();
        let first = first.get_or_insert_with(|| serial.clone());
        all["keyring"]["serial"] = if *first == serial {
            "the container's"
        } else {
            "another"
        }
        .into();
    }
    // Which cgroups: a line for each hierarchy, whose numbers are the host's.
    // A masked file is some null device, which others may have chowned in the meantime.
    for path in all["paths"]
        .as_object_mut()
        .into_iter()
        .flat_map(|paths| paths.values_mut())
    {
        if path["what"] == "c 1:3" {
            path["owner"].take();
        }
    }
    let lines: Vec<&str> = all["cgroup"].as_str().unwrap_or_default().lines().collect();
    let cgroup: Map<String, Value> = lines
        .iter()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((format!("hierarchy {}", parts.next()?), parts.next()?.into()))
        })
        .collect();
    all.insert("cgroup".to_owned(), cgroup.into());
    report
}

/// A mask of signals without 32 to 34, which C libraries keep for themselves and ignore as they like.
fn without_own_signals(mask: &Value) -> Value {
    let bits = u64::from_str_radix(mask.as_str().unwrap_or_default(), 16).unwrap_or(u64::MAX);
    format!("{:016x}", bits & !(0b111 << 31)).into()
}

/// Mounts by mount point.
fn mounts(text: &str) -> Value {
    let mut found = Map::new();
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (&[id, parent, _, root, point, options, ..], &[kind, source, more]) =
            (&left[..], &right[..])
        else {
            continue;
        };
        // Numbers of peer groups differ; that there is one counts.
        let groups: Vec<&str> = left[6..]
            .iter()
            .filter_map(|tag| tag.split(':').next())
            .collect();
        let mut name = point.to_owned();
        while found.contains_key(&name) {
            name.push_str(" (above)");
        }
        names.insert(id, name.clone());
        found.insert(
            name,
            json!({
                "root": anonymous(root), "options": options, "propagation": groups.join(" "),
                "type": kind, "source": source, "file system": more, "on": parent,
            }),
        );
    }
    // Upon which mount, instead of its number: what covers what.
    for mount in found.values_mut() {
        let parent = mount["on"].as_str().and_then(|id| names.get(id));
        mount["on"] = parent.map_or("the host's", String::as_str).into();
    }
    found.into()
}

/// Inode numbers of namespaces and the like as a mount's root: `net:[4026531840]`.
fn anonymous(root: &str) -> String {
    match root.split_once(":[") {
        Some((kind, _)) => format!("{kind}:[]"),
        None => root.to_owned(),
    }
}

fn net_devices(text: &str) -> Value {
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim()).collect()
}

/// Open files; pipes and sockets by kind.
fn fds(fds: &Value) -> Value {
    let mut found = Map::new();
    for (number, link) in fds.as_object().into_iter().flatten() {
        found.insert(
            number.clone(),
            anonymous(link.as_str().unwrap_or_default()).into(),
        );
    }
    found.into()
}

/// The listing of /dev without terminals of a host's devpts, which come and go.
fn own_terminals(dev: &Value) -> Value {
    let mut dev = dev.clone();
    if let Some(dev) = dev.as_object_mut()
        && dev
            .keys()
            .filter(|path| path.starts_with("/dev/pts/"))
            .count()
            > 3
    {
        dev.retain(|path, _| !path.starts_with("/dev/pts/") || path.ends_with("ptmx"));
    }
    dev
}

/// The answer of `state`.
pub fn state(mut state: Value, init: u32) -> Value {
    let Some(all) = state.as_object_mut() else {
        return state;
    };
    if let Some(pid) = all.get_mut("pid") {
        *pid = match pid.as_u64() {
            Some(0) => "0".into(),
            Some(number) if number == u64::from(init) => "init".into(),
            _ => "another".into(),
        };
    }
    if let Some(created) = all.get_mut("created") {
        let text = created.as_str().unwrap_or_default();
        let digits = text
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c });
        let digits: String = digits.collect();
        let plain = digits.starts_with("0000-00-00T00:00:00") && digits.ends_with('Z');
        *created = if plain {
            "a time, RFC 3339"
        } else {
            "something else"
        }
        .into();
    }
    state
}

/// Every setting of the container's cgroups, by hierarchy.
pub fn cgroups(place: &Place) -> Value {
    let mut found = Map::new();
    for hierarchy in cgroup::hierarchies() {
        let dir = hierarchy.join(place.cgroup.trim_start_matches('/'));
        let name = hierarchy
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let Ok(meta) = fs::metadata(&dir) else {
            found.insert(name, "not there".into());
            continue;
        };
        let mut files = Map::new();
        files.insert(
            "owner".to_owned(),
            format!("{}:{}", meta.uid(), meta.gid()).into(),
        );
        files.insert("children".to_owned(), children(&dir));
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        files.insert("processes".to_owned(), procs.lines().count().into());
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if !is_file || COUNTERS.iter().any(|counter| file.contains(counter)) {
                continue;
            }
            let mut value = match fs::read_to_string(entry.path()) {
                Ok(text) => text.trim_end().to_owned(),
                Err(_) => continue,
            };
            if file == "devices.list" {
                let mut lines: Vec<&str> = value.lines().collect();
                lines.sort_unstable();
                value = lines.join(", ");
            }
            if let Ok(meta) = entry.metadata()
                && meta.uid() != 0
            {
                value = format!("{value} (owner {}:{})", meta.uid(), meta.gid());
            }
            files.insert(file, value.into());
        }
        found.insert(name, files.into());
    }
    found.into()
}

fn children(dir: &Path) -> Value {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into()
}

/// What the host sees of the container's init.
pub fn outside(init: u32) -> Value {
    let text = |file: &str| fs::read_to_string(format!("/proc/{init}/{file}")).unwrap_or_default();
    let cgroup: Map<String, Value> = text("cgroup")
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((format!("hierarchy {}", parts.next()?), parts.next()?.into()))
        })
        .collect();
    let environment = fs::read(format!("/proc/{init}/environ")).unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment);
    json!({
        "cgroup": cgroup,
        "uid_map": text("uid_map").split_whitespace().collect::<Vec<_>>().join(" "),
        "gid_map": text("gid_map").split_whitespace().collect::<Vec<_>>().join(" "),
        "oom_score_adj": text("oom_score_adj").trim(),
        "command": text("cmdline").replace('\0', " ").trim(),
        "environment": environment.trim_end_matches('\0').split('\0').collect::<Vec<_>>(),
    })
}

/// Every path of the root file system, with what it is.
pub fn rootfs(place: &Place) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![place.path("rootfs")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let kind = meta.file_type();
            let what = if kind.is_dir() {
                todo.push(entry.path());
                "directory"
            } else if kind.is_symlink() {
                "link"
            } else if kind.is_char_device() || kind.is_block_device() {
                "device"
            } else {
                "file"
            };
            let what = format!(
                "{what} {:04o} {}:{}",
                meta.mode() & 0o7777,
                meta.uid(),
                meta.gid()
            );
            found.insert(entry.path(), what);
        }
    }
    found
}

/// What a container that is gone has left: in the root file system, in the state root, of cgroups.
pub fn left(place: &Place, before: &BTreeMap<PathBuf, String>) -> Value {
    let rootfs: Map<String, Value> = rootfs(place)
        .into_iter()
        .filter(|(path, what)| before.get(path) != Some(what))
        .map(|(path, what)| (path.display().to_string(), what.into()))
        .collect();
    let state: Vec<String> = fs::read_dir(place.path("state"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    json!({
        "rootfs": rootfs,
        "state": state,
        "cgroups": cgroup::tree(&place.cgroup).len(),
        "mounts": fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines()
            .filter(|line| line.contains(place.dir.to_str().unwrap())).count(),
    })
}

/// What the hooks wrote down.
pub fn hooks(place: &Place, around: &Around<'_>) -> Value {
    let mut found = Map::new();
    let mut order = Vec::new();
    for log in ["hooks.log", "rootfs/hooks/log"] {
        let text = fs::read_to_string(place.path(log)).unwrap_or_default();
        for line in text.lines() {
            let Ok(mut seen) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let Some(all) = seen.as_object_mut() else {
                continue;
            };
            // Names of files of the host's root, and what runs as init before execve, tell nothing.
            for name in ["pid", "root", "program"] {
                all.remove(name);
            }
            let roles = around.roles(&all["namespaces"]);
            all.insert("namespaces".to_owned(), roles);
            if let Some(pid) = all["state"].get_mut("pid") {
                *pid = match pid.as_u64() {
                    Some(0) => "0".into(),
                    Some(1) => "1".into(),
                    Some(_) => "a number".into(),
                    None => Value::Null,
                };
            }
            let name = all["hook"].as_str().unwrap_or_default().to_owned();
            if log == "hooks.log" {
                order.push(name.clone());
            }
            found.insert(name, seen);
        }
    }
    if !order.is_empty() {
        found.insert("order".to_owned(), order.into());
    }
    found.into()
}
