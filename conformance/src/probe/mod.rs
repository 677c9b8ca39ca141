//! What this program does inside a container: it is copied into the root file
//! system and reports what it sees, one JSON line for each operation. Nothing
//! here judges.

mod hook;
mod look;
mod see;

pub use hook::main as hook_main;

use crate::sys;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::time::{Duration, Instant};

/// Performs the operations in order; `exit:N` ends with that code.
pub fn main(operations: &[String]) -> i32 {
    for operation in operations {
        let (name, argument) = operation.split_once(':').unwrap_or((operation, ""));
        if name == "exit" {
            return argument.parse().unwrap_or(0);
        }
        // A thread of its own, so that what kills a thread does not kill the report.
        let line = match name.strip_prefix("thread-") {
            Some(inner) => {
                let (inner, argument) = (inner.to_owned(), argument.to_owned());
                match threaded(move || one(&inner, &argument)) {
                    Some(value) => value,
                    None => json!({ "died": true }),
                }
            }
            None => one(name, argument),
        };
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{}", json!({ "op": operation, "result": line }));
        let _ = out.flush();
    }
    0
}

/// Runs `f` in a thread; `None` when the kernel killed it: then it never joins,
/// so its answer is waited for a bounded time.
fn threaded(f: impl FnOnce() -> Value + Send + 'static) -> Option<Value> {
    let (send, receive) = std::sync::mpsc::channel();
    let spawned = std::thread::Builder::new().spawn(move || {
        let _ = send.send(f());
    });
    match spawned {
        Ok(_) => receive.recv_timeout(Duration::from_millis(500)).ok(),
        Err(e) => Some(failure(&e)),
    }
}

fn failure(e: &io::Error) -> Value {
    json!({ "errno": e.raw_os_error(), "error": e.to_string() })
}

fn one(name: &str, argument: &str) -> Value {
    match perform(name, argument) {
        Ok(value) => json!({ "ok": value }),
        Err(e) => failure(&e),
    }
}

fn perform(name: &str, argument: &str) -> io::Result<Value> {
    let bad = || io::Error::other(format!("unknown operation {name}:{argument}"));
    Ok(match name {
        "report" => look::report(),
        "see" => see::report(),
        "access" => see::access(argument),
        "tree" => see::tree(argument),
        "stat" => stat(&fs::symlink_metadata(argument)?),
        "follow" => stat(&fs::metadata(argument)?),
        "readlink" => fs::read_link(argument)?.to_string_lossy().into(),
        "read" => read_some(argument)?.into(),
        "ls" => {
            let mut names: Vec<String> = fs::read_dir(argument)?
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names.into()
        }
        "write" => {
            let (path, data) = argument.split_once('=').ok_or_else(bad)?;
            fs::OpenOptions::new()
                .write(true)
                .open(path)?
                .write_all(data.as_bytes())?;
            Value::Null
        }
        "touch" => {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(argument)?;
            Value::Null
        }
        "mkdir" => {
            fs::DirBuilder::new().mode(0o777).create(argument)?;
            Value::Null
        }
        "open" => {
            let mut file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(argument)?;
            let mut byte = [0];
            file.read(&mut byte)?.into()
        }
        "mknod" => {
            // PATH,KIND,MAJOR,MINOR
            let parts: Vec<&str> = argument.split(',').collect();
            let [path, kind, major, minor] = parts.as_slice() else {
                return Err(bad());
            };
            let number = |s: &str| s.parse::<u32>().map_err(|_| bad());
            let kind = if *kind == "b" {
                rustix::fs::FileType::BlockDevice
            } else {
                rustix::fs::FileType::CharacterDevice
            };
            let device = rustix::fs::makedev(number(major)?, number(minor)?);
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, *path, kind, mode, device)?;
            Value::Null
        }
        "exec" => {
            let status = std::process::Command::new(argument)
                .args(["probe", "exit:42"])
                .status()?;
            status.code().into()
        }
        "statfs" => {
            let s = rustix::fs::statvfs(argument)?;
            json!({ "flags": s.f_flag.bits() })
        }
        "lseek" => {
            // The offset is a 64 bit argument of a system call that changes nothing.
            let offset = argument.parse().map_err(|_| bad())?;
            fs::File::open("/probe")?
                .seek(SeekFrom::Start(offset))?
                .into()
        }
        "syscall" => sys::harmless(argument).ok_or_else(bad)??.into(),
        "i386" => i386()?,
        "sleep" => {
            std::thread::sleep(Duration::from_millis(argument.parse().map_err(|_| bad())?));
            Value::Null
        }
        "await" => {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !std::path::Path::new(argument).exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            Value::Null
        }
        "kill" => {
            let number: i32 = argument.parse().map_err(|_| bad())?;
            let signal = nix::sys::signal::Signal::try_from(number)?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(0), signal)?;
            Value::Null
        }
        _ => return Err(bad()),
    })
}

#[cfg(target_arch = "x86_64")]
fn i386() -> io::Result<Value> {
    match sys::getpid_i386() {
        n if n < 0 => Err(io::Error::from_raw_os_error(i32::try_from(-n).unwrap_or(0))),
        n => Ok(n.into()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn i386() -> io::Result<Value> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

fn read_some(path: &str) -> io::Result<String> {
    let mut data = Vec::new();
    fs::File::open(path)?
        .take(64 << 10)
        .read_to_end(&mut data)?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

fn stat(m: &fs::Metadata) -> Value {
    let t = m.file_type();
    let kind = if t.is_char_device() {
        "c"
    } else if t.is_block_device() {
        "b"
    } else if t.is_fifo() {
        "p"
    } else if t.is_dir() {
        "d"
    } else if t.is_symlink() {
        "l"
    } else {
        "f"
    };
    json!({
        "type": kind,
        "mode": m.mode() & 0o7777,
        "uid": m.uid(),
        "gid": m.gid(),
        "major": rustix::fs::major(m.rdev()),
        "minor": rustix::fs::minor(m.rdev()),
        "dev": m.dev(),
        "ino": m.ino(),
        "size": m.size(),
    })
}
