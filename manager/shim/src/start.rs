//! `start`: makes the shim of a group, or finds the one that is there, and tells its address.
//!
//! A group is a pod: its containers name its sandbox in an annotation. The socket's name is made
//! of daemon, namespace and group, so that whoever starts the second container finds the first
//! one's shim.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use knarr_proto::containerd::runc::v1::Options;
use knarr_proto::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use knarr_proto::prost::Message;
use knarr_proto::prost_types::Any;
use knarr_runtime::error::{Context, Error, Kind, Result};
use rustix::fs::OFlags;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::args::Args;
use crate::options;

/// Annotations that name the group, the first one that is there.
const GROUP: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];
/// Where sockets go unless the daemon says where.
const SOCKETS: &str = "/run/containerd/s";
/// Where the hierarchies of cgroups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The most that is read from standard input and config.json, in bytes.
const MAX_INPUT: u64 = 10 << 20;
/// The file in the bundle from which older daemons connect again.
pub const ADDRESS: &str = "address";

/// Starts a shim unless there is one; returns what to write to standard output.
///
/// # Errors
/// What standard input says too much of; a socket that cannot be made.
pub fn start(args: &Args) -> Result<Vec<u8>> {
    let input = read_input()?;
    // Older daemons send other messages, which may well decode as this one.
    let params = BootstrapParams::decode(input.as_slice())
        .ok()
        .filter(|params| params.instance_id == args.id && params.namespace == args.namespace);
    let options = match &params {
        Some(params) => {
            let values = params
                .extensions
                .iter()
                .filter_map(|one| one.value.as_ref());
            values.map(|value| options::read(Some(value))).find(|read| {
                read.as_ref()
                    .map_or(true, |options| *options != Options::default())
            })
        }
        None => Any::decode(input.as_slice())
            .ok()
            .map(|any| options::read(Some(&any))),
    };
    let options = options.transpose()?.unwrap_or_default();
    let directory = params
        .as_ref()
        .and_then(|params| params.socket_dir.as_deref())
        .filter(|directory| directory.starts_with('/'))
        .unwrap_or(SOCKETS);
    let group = group(Path::new("config.json"))?.unwrap_or_else(|| args.id.clone());
    let socket = socket_path(directory, args, &group);
    let address = format!("unix://{}", socket.display());
    if let Some(listener) = listen(&socket)? {
        launch(args, &group, &socket, listener, &options.shim_cgroup).inspect_err(|_| {
            let _ = fs::remove_file(&socket);
        })?;
    }
    fs::write(ADDRESS, &address).context(|| "write(address)")?;
    Ok(match params {
        Some(_) => BootstrapResult {
            version: 3,
            address,
            protocol: "ttrpc".to_owned(),
            ..BootstrapResult::default()
        }
        .encode_to_vec(),
        None => address.into_bytes(),
    })
}

/// All of standard input.
///
/// # Errors
/// More than can make sense.
pub fn read_input() -> Result<Vec<u8>> {
    read_all(io::stdin().lock(), "standard input")
}

fn read_all(from: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut input = Vec::new();
    from.take(MAX_INPUT + 1)
        .read_to_end(&mut input)
        .context(|| format!("read({name})"))?;
    match u64::try_from(input.len()) {
        Ok(length) if length <= MAX_INPUT => Ok(input),
        _ => Err(Error::new(
            Kind::InvalidArgument,
            format!("{name}: more than {MAX_INPUT} bytes"),
        )),
    }
}

/// The part of config.json that names the group.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

fn group(config: &Path) -> Result<Option<String>> {
    let name = config.display().to_string();
    let file = match fs::File::open(config) {
        // A sandbox of the sandbox service has none.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result.context(|| format!("open({name})"))?,
    };
    let text = read_all(file, &name)?;
    let config: Config = serde_json::from_slice(&text)
        .map_err(|error| Error::new(Kind::InvalidConfig, format!("{name}: {error}")))?;
    let mut annotations = config.annotations.unwrap_or_default();
    Ok(GROUP.iter().find_map(|key| annotations.remove(*key)))
}

/// The socket of a group, where clients that talk to shims themselves (`ctr shim`) look for it.
fn socket_path(directory: &str, args: &Args, group: &str) -> PathBuf {
    let path = Path::new(&args.address).join(&args.namespace).join(group);
    let name: String = Sha256::digest(path.as_os_str().as_encoded_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Path::new(directory).join(name)
}

/// Listens at the socket; `None` where somebody does already.
fn listen(socket: &Path) -> Result<Option<UnixListener>> {
    let name = socket.display();
    if let Some(directory) = socket.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory)
            .context(|| format!("mkdir({})", directory.display()))?;
    }
    let bound = match UnixListener::bind(socket) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(socket).is_ok() {
                return Ok(None);
            }
            // Its shim has died.
            fs::remove_file(socket).context(|| format!("unlink({name})"))?;
            UnixListener::bind(socket)
        }
        bound => bound,
    };
    let listener = bound.context(|| format!("bind({name})"))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))
        .context(|| format!("chmod({name})"))?;
    Ok(Some(listener))
}

/// Executes this program as the shim, with the socket as standard input.
fn launch(
    args: &Args,
    group: &str,
    socket: &Path,
    listener: UnixListener,
    cgroup: &str,
) -> Result<()> {
    if !cgroup.is_empty() {
        enter(Path::new(CGROUPS), cgroup)?;
    }
    let own = std::env::args_os().next().unwrap_or_default();
    Command::new("/proc/self/exe")
        .arg0(own)
        .args(["-namespace", &args.namespace, "-id", group])
        .args(["-address", &args.address, "-socket"])
        .arg(socket)
        // What a service manager told the daemon is not meant for containers.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log())
        .spawn()
        // Older daemons take what is written to standard error for a part of the answer.
        .map(|shim| spare(shim.id()).unwrap_or_default())
        .context(|| "execve(/proc/self/exe)")
}

/// Moves this process, whose child the shim will be, into a cgroup that is there, in all hierarchies
/// that have it.
fn enter(mounted: &Path, cgroup: &str) -> Result<()> {
    let below = cgroup.trim_start_matches('/');
    let mut hierarchies = vec![mounted.to_owned()];
    if let Ok(entries) = fs::read_dir(mounted) {
        let directories = entries.flatten().filter(|entry| entry.path().is_dir());
        hierarchies.extend(directories.map(|entry| entry.path()));
    }
    let mut found = false;
    for hierarchy in hierarchies {
        let file = hierarchy.join(below).join("cgroup.procs");
        match fs::write(&file, "0") {
            Ok(()) => found = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .context(|| format!("options: shim_cgroup: write({})", file.display()));
            }
        }
    }
    match found {
        true => Ok(()),
        false => Err(Error::new(
            Kind::NotFound,
            format!("options: shim_cgroup: there is no cgroup {cgroup}"),
        )),
    }
}

/// Has the kernel end the shim for want of memory sooner than its daemon, and no sooner than that.
fn spare(shim: u32) -> io::Result<()> {
    let daemon = std::os::unix::process::parent_id();
    let of = |pid: u32| format!("/proc/{pid}/oom_score_adj");
    // A daemon of another process namespace has no number here.
    let Ok(score) = fs::read_to_string(of(daemon)) else {
        return Ok(());
    };
    let score: i32 = score.trim().parse().map_err(io::Error::other)?;
    fs::write(of(shim), (score + 1).min(1000).to_string())
}

/// The daemon's end of the shim's log, a fifo in the bundle, where it reads one.
fn log() -> Stdio {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    fs::OpenOptions::new()
        .write(true)
        .custom_flags(nonblocking)
        .open("log")
        .map_or_else(|_| Stdio::null(), Stdio::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_one_socket() {
        let args = |id: &str| {
            let line = ["-namespace", "n", "-address", "/a", "-id", id, "start"];
            Args::parse(line.into_iter().map(Into::into)).unwrap()
        };
        let one = socket_path("/run/s", &args("x"), "pod");
        assert_eq!(one, socket_path("/run/s", &args("y"), "pod"));
        assert_ne!(one, socket_path("/run/s", &args("x"), "x"));
        // As sha256sum(1) has it of "/a/n/pod".
        let name = "38a945c1b223469ae9243d9e93038361026aaa6b5887ab28835d7be19e5ff2b5";
        assert_eq!(one, Path::new("/run/s").join(name));
        // Its name fits into sockaddr_un below the default directory.
        assert!(socket_path(SOCKETS, &args("x"), "x").as_os_str().len() < 108);
    }
}
