//! The daemon: reads its command line, opens a manager, serves the API until it is told to end.

mod args;
mod publish;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use args::{Arguments, Command, Show};
use clap::Parser as _;
use knarr_manager::api;
use knarr_manager::config::{self, Config};
use knarr_manager::error::{Code, Error, Result};
use knarr_manager::image;
use knarr_manager::layer::worker;
use knarr_manager::manager::{self, Manager};
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// How long requests that are under way may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Threads that serve requests. What waits for the disk has others.
const WORKERS: usize = 2;

/// Threads that wait for disks and programs. More than what waits for a registry or an arriving
/// layer may hold, so that there is always one left to make those go on.
const WAITING: usize = 4 * image::AT_ONCE;

/// What the file says, but for what the command line does.
fn configured(arguments: &Arguments) -> Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => match Config::read(Path::new(config::DEFAULT)) {
            Err(error) if error.code() == Code::NotFound => Config::default(),
            read => read?,
        },
    };
    for (value, place) in [
        (&arguments.root, &mut config.root),
        (&arguments.state, &mut config.state),
        (&arguments.address, &mut config.address),
    ] {
        if let Some(value) = value {
            place.clone_from(value);
        }
    }
    // Clients and shims get these names, and have other working directories.
    for place in [&mut config.root, &mut config.state, &mut config.address] {
        let whole = std::path::absolute(&*place);
        *place = whole.map_err(|error| Error::io(place.display(), &error))?;
    }
    Ok(config)
}

/// Long flags with one dash, as programs in Go take them: shims call this one so.
fn with_two_dashes(argument: OsString) -> OsString {
    const FLAGS: [&str; 6] = ["address", "config", "root", "state", "topic", "namespace"];
    let name = argument.to_str().and_then(|text| text.strip_prefix('-'));
    let is_flag = |name: &&str| FLAGS.contains(&name.split('=').next().unwrap_or_default());
    match name.filter(is_flag) {
        Some(name) => format!("--{name}").into(),
        None => argument,
    }
}

fn main() -> ExitCode {
    // Before anything else: a worker has no arguments of its own, and no threads yet.
    if worker::asked() {
        return worker::main();
    }
    let arguments = Arguments::parse_from(std::env::args_os().map(with_two_dashes));
    match act(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knarrd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(mut arguments: Arguments) -> Result<()> {
    let command = arguments.command.take();
    if let Some(Command::Config(Show::Default)) = command {
        print!("{}", Config::default().to_toml());
        return Ok(());
    }
    let config = configured(&arguments)?;
    match command {
        None => run(&config),
        Some(Command::Config(_)) => {
            print!("{}", config.to_toml());
            Ok(())
        }
        Some(Command::Publish { topic, namespace }) => {
            publish::run(&config.address, topic, namespace)
        }
    }
}

fn run(config: &Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(WAITING)
        .enable_all()
        .build()
        .map_err(|error| Error::io("the threads", &error))?;
    let entered = runtime.enter();
    // First of all: only one process gets past this.
    let manager = Arc::new(Manager::open(config)?);
    drop(entered);
    let events = ttrpc_address(&config.address);
    let listeners = [listen(&config.address)?, listen(&events)?];
    knarr_manager::task::raise_descriptor_limit();
    let served = runtime.block_on(serve(manager, listeners, &config.address));
    // Streams of clients that do not let go end here.
    runtime.shutdown_timeout(GRACE);
    for socket in [&config.address, &events] {
        let _ = fs::remove_file(socket);
    }
    served
}

/// The socket that shims tell events at.
fn ttrpc_address(address: &Path) -> PathBuf {
    let mut path = address.as_os_str().to_owned();
    path.push(".ttrpc");
    path.into()
}

/// A socket at `path` that only the user of this process can connect to.
fn listen(path: &Path) -> Result<UnixListener> {
    let broken = |error| Error::io(path.display(), &error);
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        manager::make_dirs(dir)?;
    }
    // What an earlier process has left, never anything else.
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path).map_err(broken)?;
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path).map_err(broken);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true).map_err(broken)?;
    Ok(listener)
}

async fn serve(
    manager: Arc<Manager>,
    [listener, events]: [UnixListener; 2],
    address: &Path,
) -> Result<()> {
    let broken = |error| Error::io("the socket", &error);
    let listener = tokio::net::UnixListener::from_std(listener).map_err(broken)?;
    let signals = |error| Error::io("signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    // Before anybody can ask for a task.
    manager.tasks.begin(address)?;
    manager.pods.begin(address);
    manager.tasks.listen(events)?;
    let routes = api::routes(Arc::clone(&manager)).await?;
    let tidy = Arc::clone(&manager);
    tokio::spawn(async move { tidy.keep_tidy().await });
    let ending = Arc::clone(&manager);
    let server = Server::builder()
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            ending.ended().await;
        });
    tokio::pin!(server);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut server => return ended.map_err(failed),
    }
    manager.end();
    // Clients may keep idle connections open for as long as they like.
    match tokio::time::timeout(GRACE, server).await {
        Ok(ended) => ended.map_err(failed),
        Err(_) => Ok(()),
    }
}

fn failed(error: tonic::transport::Error) -> Error {
    Error::internal(format!("the server failed: {error}"))
}
