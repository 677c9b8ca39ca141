//! The long report, for comparing runtimes: what `look` says, and everything else that a process
//! can find out about itself and its surroundings without changing them.

use crate::sys;
use serde_json::{Map, Value, json};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// No listing is longer: a container may see the whole of a host's /dev.
const MOST_ENTRIES: usize = 500;

/// Files of /proc/self that are one value.
const OWN_FILES: &[&str] = &[
    "comm",
    "coredump_filter",
    "loginuid",
    "oom_score_adj",
    "personality",
    "sessionid",
    "setgroups",
    "timerslack_ns",
    "attr/current",
    "attr/exec",
    "attr/keycreate",
];

/// Settings that belong to a namespace, so that a container may have its own.
const SYSCTLS: &[&str] = &[
    "fs/mqueue/msg_max",
    "fs/mqueue/queues_max",
    "kernel/domainname",
    "kernel/hostname",
    "kernel/msgmax",
    "kernel/sem",
    "kernel/shm_rmid_forced",
    "kernel/shmmax",
    "net/core/somaxconn",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
    "user/max_user_namespaces",
];

/// Paths that runtimes mask, make read-only or ought to provide.
const PATHS: &[&str] = &[
    "/",
    "/dev",
    "/dev/console",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/etc",
    "/probe",
    "/proc",
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/irq",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/self/attr/current",
    "/proc/self/oom_score_adj",
    "/proc/self/setgroups",
    "/proc/sys",
    "/proc/sys/kernel/hostname",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/sys",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/cgroup.subtree_control",
    "/sys/fs/cgroup/memory/cgroup.procs",
    "/sys/kernel",
    "/tmp",
];

/// Device nodes to be made and opened: what a device cgroup says of them. None has an effect when opened.
const DEVICES: &[(&str, u32, u32)] = &[
    ("c", 1, 1),
    ("c", 1, 3),
    ("c", 1, 5),
    ("c", 1, 7),
    ("c", 1, 8),
    ("c", 1, 9),
    ("c", 1, 11),
    ("c", 4, 77),
    ("c", 5, 0),
    ("c", 5, 1),
    ("c", 5, 2),
    ("c", 10, 200),
    ("c", 10, 229),
    ("c", 10, 237),
    ("c", 136, 77),
    ("b", 7, 0),
    ("b", 254, 0),
    ("b", 254, 1),
];

/// The report.
pub fn report() -> Value {
    let mut all = super::look::report();
    let own: Map<String, Value> = OWN_FILES
        .iter()
        .map(|name| ((*name).to_owned(), text(&format!("/proc/self/{name}"))))
        .collect();
    let sysctls: Map<String, Value> = SYSCTLS
        .iter()
        .map(|name| ((*name).to_owned(), text(&format!("/proc/sys/{name}"))))
        .collect();
    let paths: Map<String, Value> = PATHS
        .iter()
        .map(|path| ((*path).to_owned(), access(path)))
        .collect();
    if let Some(all) = all.as_object_mut() {
        // In the order in which the process got it; a name may come twice.
        let env: Vec<String> = std::env::vars_os()
            .map(|(key, value)| format!("{}={}", key.to_string_lossy(), value.to_string_lossy()))
            .collect();
        all.insert("env".to_owned(), env.into());
        all.insert("own".to_owned(), own.into());
        all.insert("sysctl".to_owned(), sysctls.into());
        all.insert("paths".to_owned(), paths.into());
        all.insert("dev".to_owned(), tree("/dev"));
        all.insert("process".to_owned(), process());
        all.insert("attributes".to_owned(), attributes());
        all.insert("keyring".to_owned(), keyring());
        all.insert("loopback".to_owned(), loopback());
        all.insert("descriptors".to_owned(), descriptors());
        all.insert("terminal".to_owned(), terminal());
        all.insert("devices".to_owned(), devices());
        // Last: a filter may end the process for one of them.
        all.insert("verdicts".to_owned(), verdicts());
    }
    all
}

fn outcome<T>(result: io::Result<T>) -> Value {
    match result {
        Ok(_) => "ok".into(),
        Err(e) => errno(&e),
    }
}

fn errno(e: &io::Error) -> Value {
    match e.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)).into(),
        None => e.to_string().into(),
    }
}

fn text(path: &str) -> Value {
    match fs::read(path) {
        Ok(data) => String::from_utf8_lossy(&data)
            .trim_end_matches(['\n', '\0'])
            .into(),
        Err(e) => json!({ "errno": errno(&e) }),
    }
}

/// What a path is, and whether it can be read and written.
pub fn access(path: &str) -> Value {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) => return json!({ "errno": errno(&e) }),
    };
    let mut found = entry(&meta, Path::new(path));
    let (read, write) = if meta.is_dir() {
        let count = fs::read_dir(path).map(|entries| entries.count());
        // Some directories of /proc/PID count processes; only whether any is there is told.
        let read = match count {
            Ok(0) => "empty".into(),
            other => outcome(other),
        };
        (read, outcome(rustix_access(path)))
    } else if meta.is_file() {
        let read = match fs::File::open(path) {
            Ok(mut file) => match io::Read::read(&mut file, &mut [0; 16]) {
                Ok(0) => "empty".into(),
                other => outcome(other),
            },
            Err(e) => errno(&e),
        };
        (read, outcome(fs::OpenOptions::new().write(true).open(path)))
    } else {
        (outcome(fs::File::open(path)), outcome(rustix_access(path)))
    };
    if let Some(found) = found.as_object_mut() {
        found.insert("read".to_owned(), read);
        found.insert("write".to_owned(), write);
    }
    found
}

fn rustix_access(path: &str) -> io::Result<()> {
    Ok(rustix::fs::access(path, rustix::fs::Access::WRITE_OK)?)
}

fn entry(meta: &fs::Metadata, path: &Path) -> Value {
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_symlink() {
        let target = fs::read_link(path).unwrap_or_default();
        format!("link to {}", target.display())
    } else if kind.is_char_device() || kind.is_block_device() {
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        let (major, minor) = (
            rustix::fs::major(meta.rdev()),
            rustix::fs::minor(meta.rdev()),
        );
        format!("{letter} {major}:{minor}")
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else if kind.is_socket() {
        "socket".to_owned()
    } else {
        "file".to_owned()
    };
    json!({
        "what": what,
        "mode": format!("{:04o}", meta.mode() & 0o7777),
        "owner": format!("{}:{}", meta.uid(), meta.gid()),
    })
}

/// Every entry below a directory.
pub fn tree(root: &str) -> Value {
    let mut found = Map::new();
    let mut todo = vec![std::path::PathBuf::from(root)];
    while let Some(dir) = todo.pop() {
        let mut entries: Vec<_> = fs::read_dir(&dir)
            .map(|entries| entries.flatten().map(|e| e.path()).collect())
            .unwrap_or_default();
        entries.sort();
        for path in entries {
            if found.len() >= MOST_ENTRIES {
                return found.into();
            }
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                todo.push(path.clone());
            }
            found.insert(path.display().to_string(), entry(&meta, &path));
        }
    }
    found.into()
}

/// The place among other processes, as relations: numbers differ from run to run.
fn process() -> Value {
    let own = i64::from(std::process::id());
    let role = |index| match super::look::stat_field(index) {
        None => "unknown",
        Some(0) => "outside",
        Some(-1) => "none",
        Some(pid) if pid == own => "itself",
        Some(1) => "init",
        Some(_) => "another",
    };
    json!({
        "init": own == 1,
        "parent": role(1),
        "group": role(2),
        "session": role(3),
        "terminal": super::look::stat_field(4).is_some_and(|tty| tty != 0),
        "foreground": role(5),
        "executable": fs::read_link("/proc/self/exe").map(|p| p.display().to_string()).map_err(|e| errno(&e)).unwrap_or_else(|e| e.to_string()),
    })
}

/// What prctl(2) tells.
fn attributes() -> Value {
    json!({
        "securebits": rustix::thread::capabilities_secure_bits().map(|b| format!("{b:?}")).ok(),
        "parent death signal": rustix::process::parent_process_death_signal().map(|s| s.map(|s| s.as_raw())).ok(),
        "dumpable": rustix::process::dumpable_behavior().map(|b| format!("{b:?}")).ok(),
        "subreaper": rustix::process::child_subreaper().map(|p| p.is_some()).ok(),
        "keep capabilities": rustix::thread::get_keep_capabilities().ok(),
        "no huge pages": rustix::thread::transparent_huge_pages_are_disabled().ok(),
        "io flusher": rustix::process::is_io_flusher().ok(),
        "timer slack": rustix::thread::current_timer_slack().ok(),
    })
}

fn keyring() -> Value {
    match sys::session_keyring() {
        Ok((serial, description)) => json!({ "serial": serial, "description": description }),
        Err(e) => json!({ "errno": errno(&e) }),
    }
}

/// Whether the loopback device is up: a datagram to it arrives only then.
fn loopback() -> Value {
    let send = || -> io::Result<usize> {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(b"x", socket.local_addr()?)
    };
    outcome(send())
}

/// Flags and owner of each open descriptor.
fn descriptors() -> Value {
    let mut found = Map::new();
    for number in 0..64 {
        let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let owner = fs::metadata(format!("/proc/self/fd/{number}"));
        found.insert(
            number.to_string(),
            json!({
                "flags": flags.map(str::trim),
                "owner": owner.map(|m| format!("{}:{}", m.uid(), m.gid())).ok(),
            }),
        );
    }
    found.into()
}

fn terminal() -> Value {
    let stdin = io::stdin();
    let Ok(state) = rustix::termios::tcgetattr(&stdin) else {
        return Value::Null;
    };
    let meta = fs::metadata("/proc/self/fd/0");
    json!({
        "input": format!("{:?}", state.input_modes),
        "output": format!("{:?}", state.output_modes),
        "control": format!("{:?}", state.control_modes),
        "local": format!("{:?}", state.local_modes),
        "owner": meta.as_ref().map(|m| format!("{}:{}", m.uid(), m.gid())).ok(),
        "mode": meta.map(|m| format!("{:04o}", m.mode() & 0o7777)).ok(),
        "name": rustix::termios::ttyname(&stdin, Vec::new()).map(|n| n.to_string_lossy().into_owned()).ok(),
    })
}

/// For each device of the list: may it be made, read, written?
fn devices() -> Value {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let dir = ["/tmp", "/dev", "/dev/shm", "/var"]
        .into_iter()
        .find(|dir| rustix_access(dir).is_ok());
    let Some(dir) = dir else {
        return "no directory to write to".into();
    };
    let path = format!("{dir}/probe-node");
    let mut found = Map::new();
    for (letter, major, minor) in DEVICES {
        let kind = if *letter == "b" {
            FileType::BlockDevice
        } else {
            FileType::CharacterDevice
        };
        let made = mknodat(
            CWD,
            &path,
            kind,
            Mode::from_raw_mode(0o600),
            makedev(*major, *minor),
        );
        let open = |write: bool| {
            use rustix::fs::OFlags;
            let access = if write {
                OFlags::WRONLY
            } else {
                OFlags::RDONLY
            };
            let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            outcome(rustix::fs::open(&path, flags, Mode::empty()).map_err(Into::into))
        };
        let verdict = match made {
            // Block devices are never opened for writing: the first may be the host's disk.
            Ok(()) if *letter == "b" => json!({ "make": "ok", "read": open(false) }),
            Ok(()) => json!({ "make": "ok", "read": open(false), "write": open(true) }),
            Err(e) => json!({ "make": errno(&e.into()) }),
        };
        let _ = fs::remove_file(&path);
        found.insert(format!("{letter} {major}:{minor}"), verdict);
    }
    found.into()
}

/// What becomes of each harmless system call.
fn verdicts() -> Value {
    sys::harmless_names()
        .filter_map(|name| Some((name.to_owned(), outcome(sys::harmless(name)?))))
        .collect::<Map<_, _>>()
        .into()
}
