//! Shims: starting one, connecting to one, and cleaning up after one.
//!
//! A shim is a program that is called `start` in a bundle, reads what it has to know from standard
//! input, leaves a process behind that listens at a socket, and answers where that is. Older ones
//! answer with the bare address, or in JSON.

use std::collections::HashSet;
use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use knarr_proto::containerd::runtime::bootstrap::v1::{
    BootstrapParams, BootstrapResult, Extension, LogLevel,
};
use knarr_proto::containerd::task::v2::DeleteResponse;
use knarr_proto::containerd::types::RuntimeInfo;
use knarr_proto::prost::Message as _;
use knarr_proto::prost_types::Any;
use knarr_proto::ttrpc::services::TaskClient;
use knarr_proto::ttrpc::{self, Client, Options};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::bundle::{Bootstrap, Bundle, Protocol};
use super::grpc;
use super::program::{self, Output};
use super::runtime::Programs;
use crate::error::{Code, Error, Result};

/// How long a shim's program may take to start the shim.
const PROGRAM: Duration = Duration::from_secs(30);

/// How long it may take to clean up after the shim.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// How long a shim may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How many programs run at once: more would only get in each other's way.
const AT_ONCE: usize = 16;

/// For how long one of them keeps its place.
const PLACE: Duration = Duration::from_secs(3);

/// The longest path of a socket, in bytes. unix(7)
const LONGEST_SOCKET: usize = 107;

/// The length of a socket's name: a hash.
const SOCKET_NAME: usize = 65;

/// What shims are told of this daemon.
#[derive(Debug)]
struct Daemon {
    /// The main socket.
    address: String,
    /// The socket for events.
    ttrpc: String,
    /// This program.
    program: PathBuf,
}

/// Everything that is needed to start shims whose bundles are below one directory. Clones share it.
#[derive(Debug, Clone)]
pub struct Shims(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bundles: PathBuf,
    /// Where shims make their sockets; `None` where paths there would be too long.
    sockets: Option<String>,
    daemon: OnceLock<Daemon>,
    at_once: Semaphore,
    programs: Programs,
}

/// A connection to a shim. Clones share it.
#[derive(Debug, Clone)]
pub struct Shim {
    /// Calls go through this one.
    pub client: Client,
    /// How it is reached.
    pub at: Bootstrap,
}

impl Shim {
    /// Its task service.
    #[must_use]
    pub fn task(&self) -> TaskClient {
        match self.at.version {
            3 => TaskClient::v3(self.client.clone()),
            _ => TaskClient::v2(self.client.clone()),
        }
    }
}

impl Shims {
    /// Shims with bundles below `STATE/kind`, of these programs.
    #[must_use]
    pub fn new(state: &Path, kind: &str, programs: Programs) -> Self {
        let absolute = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
        let sockets = absolute.join("s").to_str().map(str::to_owned);
        let fits = |dir: &String| dir.len() + SOCKET_NAME <= LONGEST_SOCKET;
        Self(Arc::new(Inner {
            bundles: absolute.join(kind),
            sockets: sockets.filter(fits),
            daemon: OnceLock::new(),
            at_once: Semaphore::new(AT_ONCE),
            programs,
        }))
    }

    /// Tells where the daemon listens. Nothing is started before.
    pub fn set_address(&self, address: &Path) {
        let address = std::path::absolute(address).unwrap_or_else(|_| address.to_owned());
        let address = address.display().to_string();
        let _ = self.0.daemon.set(Daemon {
            ttrpc: format!("{address}.ttrpc"),
            address,
            program: std::env::current_exe().unwrap_or_default(),
        });
    }

    /// The bundle of a task, whether there is one or not.
    #[must_use]
    pub fn bundle(&self, namespace: &str, id: &str) -> Bundle {
        Bundle::new(&self.0.bundles, namespace, id)
    }

    /// All bundles.
    #[must_use]
    pub fn bundles(&self) -> Vec<Bundle> {
        Bundle::list(&self.0.bundles)
    }

    /// The programs of runtimes.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.0.programs
    }

    /// Starts the shim of a bundle, or finds the one of its group, and connects to it.
    ///
    /// # Errors
    /// Where the program fails, says what makes no sense, or takes too long.
    pub async fn start(
        &self,
        bundle: &Bundle,
        program: &Path,
        options: Option<Any>,
    ) -> Result<Shim> {
        let daemon = self.daemon()?;
        if let Some(dir) = &self.0.sockets {
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(dir);
            made.map_err(|error| Error::io(dir, &error))?;
        }
        let bare = options.as_ref().map(Any::encode_to_vec);
        let params = BootstrapParams {
            instance_id: bundle.id.clone(),
            namespace: bundle.namespace.clone(),
            log_level: LogLevel::Info.into(),
            containerd_version: concat!("knarr ", env!("CARGO_PKG_VERSION")).to_owned(),
            containerd_ttrpc_address: daemon.ttrpc.clone(),
            containerd_grpc_address: daemon.address.clone(),
            containerd_binary: daemon.program.display().to_string(),
            extensions: Vec::from_iter(options.map(|value| Extension { value: Some(value) })),
            socket_dir: self.0.sockets.clone(),
        };
        let run = async |input| {
            let mut command = self.command(bundle, program)?;
            command.arg("start");
            self.run(command, input, PROGRAM).await
        };
        let answer = async {
            let mut output = run(params.encode_to_vec()).await?;
            if !output.status.success() && took_for_options(&output) {
                output = run(bare.unwrap_or_default()).await?;
            }
            if !output.status.success() {
                return Err(failed(&output));
            }
            let at = parse_answer(&output.stdout)?;
            self.connect(at).await
        };
        answer.await.map_err(|error| error.context("start failed"))
    }

    /// Connects to a shim that is there.
    ///
    /// # Errors
    /// `Unavailable` where nobody listens there any more; `DeadlineExceeded`.
    pub async fn connect(&self, at: Bootstrap) -> Result<Shim> {
        let path = at.address.strip_prefix("unix://");
        let path = path.filter(|path| path.starts_with('/')).ok_or_else(|| {
            let what = "it is no unix:// address of an absolute path";
            Error::invalid(format!("address {:?} of a shim: {what}", at.address))
        })?;
        let (protocol, place) = (at.protocol, Path::new(path));
        let failed = |what: &dyn fmt::Display| {
            let name = protocol.name().to_uppercase();
            format!("failed to create {name} connection: {what}")
        };
        let connect = async {
            match protocol {
                Protocol::Ttrpc => Client::connect(place).await,
                Protocol::Grpc => grpc::connect(place).await,
            }
        };
        match timeout(CONNECT, connect).await {
            Ok(Ok(client)) => Ok(Shim { client, at }),
            Ok(Err(error)) => {
                let what = failed(&format_args!("dial {path}: {error}"));
                Err(Error::new(Code::Unavailable, what))
            }
            Err(_) => Err(Error::late(failed(&format_args!("dial {path}")))),
        }
    }

    /// Has the program of a shim that is gone clean up what it has left.
    ///
    /// # Errors
    /// Where the program fails or takes too long.
    pub async fn clean_up(&self, bundle: &Bundle, program: &Path) -> Result<DeleteResponse> {
        let mut command = self.command(bundle, program)?;
        command.arg("-bundle").arg(&bundle.path).arg("delete");
        let output = self.run(command, Vec::new(), CLEAN_UP).await?;
        if !output.status.success() {
            return Err(failed(&output).context(format!("{} delete", program.display())));
        }
        DeleteResponse::decode(output.stdout.as_slice()).map_err(|error| {
            let what = format!("{} delete: no answer: {error}", program.display());
            Error::new(Code::Unknown, what)
        })
    }

    /// What a runtime says of itself.
    ///
    /// # Errors
    /// Those of [`Programs::find`]; where the program fails or takes too long.
    pub async fn info(&self, runtime: &str, options: Option<&Any>) -> Result<RuntimeInfo> {
        let program = self.0.programs.find(runtime, &[options]);
        let program = program.map_err(|error| error.context("failed to resolve runtime path"))?;
        let mut command = Command::new(&program);
        command.arg("-info");
        let input = options.map(Any::encode_to_vec).unwrap_or_default();
        let output = self.run(command, input, PROGRAM).await?;
        let named =
            |error: Error| error.context(format!("failed to run {} -info", program.display()));
        if !output.status.success() {
            return Err(named(failed(&output)));
        }
        RuntimeInfo::decode(output.stdout.as_slice())
            .map_err(|error| named(Error::new(Code::Unknown, error.to_string())))
    }

    /// Removes the socket of a shim that has died.
    pub fn remove_socket(&self, bundle: &Bundle) {
        if let Some(at) = bundle.bootstrap()
            && let Some(path) = at.address.strip_prefix("unix://").map(Path::new)
            && path.parent().and_then(Path::to_str) == self.0.sockets.as_deref()
            && is_dead(path)
        {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Removes sockets at which nobody listens, but for those of bundles.
    pub(super) fn remove_dead_sockets(&self, bundles: &[Bundle]) {
        let known = bundles.iter().filter_map(Bundle::bootstrap);
        let known: HashSet<String> = known.map(|at| at.address).collect();
        let dir = self.0.sockets.as_deref().map(std::fs::read_dir);
        for entry in dir.into_iter().flatten().flatten().flatten() {
            let path = entry.path();
            if !known.contains(&format!("unix://{}", path.display())) && is_dead(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn daemon(&self) -> Result<&Daemon> {
        let daemon = self.0.daemon.get();
        daemon.ok_or_else(|| Error::new(Code::Unavailable, "the daemon does not listen yet"))
    }

    fn command(&self, bundle: &Bundle, program: &Path) -> Result<Command> {
        let daemon = self.daemon()?;
        let mut command = Command::new(program);
        command
            .current_dir(&bundle.path)
            .args(["-namespace", &bundle.namespace])
            .args(["-address", &daemon.address])
            .arg("-publish-binary")
            .arg(&daemon.program)
            .args(["-id", &bundle.id])
            .env("TTRPC_ADDRESS", &daemon.ttrpc)
            .env("GRPC_ADDRESS", &daemon.address)
            .env("NAMESPACE", &bundle.namespace)
            .env("MAX_SHIM_VERSION", "2")
            .env("GOMAXPROCS", "2");
        Ok(command)
    }

    async fn run(&self, command: Command, input: Vec<u8>, limit: Duration) -> Result<Output> {
        let place = self.0.at_once.acquire().await;
        let mut work = std::pin::pin!(program::run(command, input, limit));
        if let Ok(output) = timeout(PLACE, &mut work).await {
            return output;
        }
        // It waits for something else than the processor, and holds up nobody else's.
        drop(place);
        work.await
    }

    /// Kills the shim that was started for a bundle; whether there is one. It is found by how it
    /// was started, since one that hangs can't be asked.
    pub(super) fn kill(&self, bundle: &Bundle) -> bool {
        let Ok(daemon) = self.daemon() else {
            return false;
        };
        let said = [
            ["-namespace", &*bundle.namespace],
            ["-id", &*bundle.id],
            ["-address", &*daemon.address],
        ];
        let is_it = |pid: Pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            said.iter().all(|said| {
                let pairs = words.windows(2);
                pairs
                    .into_iter()
                    .any(|pair| pair == said.map(str::as_bytes))
            })
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut killed = false;
        for pid in names.filter_map(Pid::from_raw).filter(|pid| is_it(*pid)) {
            // The number may have been given to another meanwhile.
            if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
                && is_it(pid)
            {
                killed |= pidfd_send_signal(process, Signal::KILL).is_ok();
            }
        }
        killed
    }
}

/// Whether nobody listens at a socket.
fn is_dead(socket: &Path) -> bool {
    UnixStream::connect(socket)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// A fifo that is read here, whether somebody writes to it or not.
///
/// # Errors
/// Where it can't be opened.
pub(super) fn open_log(bundle: &Bundle) -> Result<tokio::net::unix::pipe::Receiver> {
    let path = bundle.log();
    tokio::net::unix::pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(&path)
        .map_err(|error| Error::io(path.display(), &error))
}

/// Whether a program has failed because it wants nothing but the options, as shims before containerd 2.3 do: what
/// they do not know they take for a type.
fn took_for_options(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains("type with url")
}

/// What a program that failed has said of it.
fn failed(output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let status = match (output.status.code(), said.trim()) {
        (Some(code), "") => format!("exit status {code}"),
        (None, "") => output.status.to_string(),
        (Some(code), said) => format!("{said}: exit status {code}"),
        (None, said) => format!("{said}: {}", output.status),
    };
    Error::new(Code::Unknown, status)
}

/// Where a shim listens, by what its program wrote.
fn parse_answer(bytes: &[u8]) -> Result<Bootstrap> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    let (version, address, protocol) = if text.starts_with("unix://") {
        (2, text.to_owned(), "ttrpc".to_owned())
    } else if text.starts_with('{') {
        let value: Value = serde_json::from_str(text).map_err(|error| nonsense(bytes, &error))?;
        let string = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let version = value["version"].as_i64().unwrap_or_default();
        (version, string("address"), string("protocol"))
    } else {
        let result = BootstrapResult::decode(bytes).map_err(|error| nonsense(bytes, &error))?;
        (result.version.into(), result.address, result.protocol)
    };
    let protocol = Protocol::named(&protocol).ok_or_else(|| {
        let what = format!("unexpected protocol: {protocol:?}");
        Error::new(Code::Unknown, what)
    })?;
    match u32::try_from(version) {
        Ok(version @ (2 | 3)) => Ok(Bootstrap {
            version,
            address,
            protocol,
        }),
        _ => Err(Error::new(
            Code::Unknown,
            format!("unsupported shim version ({version}): 2 and 3 are known"),
        )),
    }
}

fn nonsense(bytes: &[u8], error: &dyn fmt::Display) -> Error {
    let start: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
    let what = format!("the shim's program answers {start:?}, which is no address: {error}");
    Error::new(Code::Unknown, what)
}

/// What goes with a call about a namespace.
pub(super) fn call(namespace: &str, timeout: Option<Duration>) -> Options {
    Options {
        namespace: namespace.to_owned(),
        timeout,
    }
}

impl From<ttrpc::Error> for Error {
    fn from(error: ttrpc::Error) -> Self {
        let status = match error {
            ttrpc::Error::Status(status) => status,
            ttrpc::Error::Deadline => return Self::late("the shim does not answer"),
            error => return Self::new(Code::Unavailable, format!("ttrpc: {error}")),
        };
        let code = match status.code {
            ttrpc::Code::Cancelled => Code::Cancelled,
            ttrpc::Code::InvalidArgument => Code::InvalidArgument,
            ttrpc::Code::DeadlineExceeded => Code::DeadlineExceeded,
            ttrpc::Code::NotFound => Code::NotFound,
            ttrpc::Code::AlreadyExists => Code::AlreadyExists,
            ttrpc::Code::PermissionDenied => Code::PermissionDenied,
            ttrpc::Code::ResourceExhausted => Code::ResourceExhausted,
            ttrpc::Code::FailedPrecondition => Code::FailedPrecondition,
            ttrpc::Code::OutOfRange => Code::OutOfRange,
            ttrpc::Code::Unimplemented => Code::Unimplemented,
            ttrpc::Code::Internal => Code::Internal,
            ttrpc::Code::Unavailable => Code::Unavailable,
            ttrpc::Code::DataLoss => Code::DataLoss,
            _ => Code::Unknown,
        };
        // They are added again where the message is shown.
        let message = status.message;
        let words = message.strip_suffix(code.words());
        let bare = words.and_then(|rest| rest.strip_suffix(": "));
        Self::new(code, bare.unwrap_or(&message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_all_generations() {
        let at = |version| Bootstrap {
            version,
            address: "unix:///run/s".to_owned(),
            protocol: Protocol::Ttrpc,
        };
        assert_eq!(parse_answer(b"unix:///run/s\n").unwrap(), at(2));
        let json = br#"{"version": 3, "address": "unix:///run/s", "protocol": "ttrpc"}"#;
        assert_eq!(parse_answer(json).unwrap(), at(3));
        let result = BootstrapResult {
            version: 3,
            address: "unix:///run/s".to_owned(),
            protocol: "ttrpc".to_owned(),
            ..BootstrapResult::default()
        };
        assert_eq!(parse_answer(&result.encode_to_vec()).unwrap(), at(3));
        let json = br#"{"version": 3, "address": "unix:///run/s", "protocol": "grpc"}"#;
        assert_eq!(parse_answer(json).unwrap().protocol, Protocol::Grpc);
        for wrong in [
            &b""[..],
            b"hello",
            b"{",
            b"{}",
            b"\xff\xff\xff",
            br#"{"version": 4, "address": "unix:///run/s", "protocol": "ttrpc"}"#,
            br#"{"version": 3, "address": "unix:///run/s", "protocol": "http"}"#,
        ] {
            assert!(parse_answer(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn errors_keep_their_words() {
        let status = |code, message: &str| {
            let status = ttrpc::Status::new(code, message);
            Error::from(ttrpc::Error::Status(status)).to_string()
        };
        let said = "process already finished: not found";
        assert_eq!(status(ttrpc::Code::NotFound, said), said);
        assert_eq!(status(ttrpc::Code::Unknown, "OCI"), "OCI");
        assert_eq!(status(ttrpc::Code::Aborted, "try"), "try");
    }
}
