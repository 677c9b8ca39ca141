//! `run`: a container of an image, from its snapshot to its removal.
//!
//! ```text
//! snapshot ▶ container ▶ task: create, wait, start ─ its end ▶ task, container, snapshot removed
//! ```
//! What the container writes comes through fifos that this side makes and reads.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result};
use knarr_proto::any;
use knarr_proto::prost_types::Any;
use knarr_proto::services::containers::v1::container::Runtime;
use knarr_proto::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest,
};
use knarr_proto::services::snapshots::v1::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use knarr_proto::services::tasks::v1::{
    CloseIoRequest, CreateTaskRequest, DeleteTaskRequest, KillRequest, StartRequest, WaitRequest,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::args::Options;
use crate::daemon::{Daemon, said, unique};
use crate::image::{self, Image, SNAPSHOTTER};
use crate::spec::{self, Choice};

/// Runs a container to its end; the exit code of its command.
///
/// # Errors
/// What the daemon says; then nothing is left of the container.
pub async fn run(daemon: &Daemon, options: &Options) -> Result<u8> {
    let image = image::find(daemon, &options.image).await?;
    let id = options.name.clone().unwrap_or_else(|| unique("run"));
    let spec = spec::of_image(
        &image.config,
        &Choice {
            id: &id,
            args: &options.command,
            env: &options.env,
            host_network: options.net_host,
        },
    )?;
    let container = Container {
        id: id.clone(),
        image: image.name.clone(),
        runtime: Some(Runtime {
            name: options.runtime.clone(),
            ..Default::default()
        }),
        spec: Some(Any {
            type_url: any::SPEC.to_owned(),
            value: spec.to_string().into_bytes(),
        }),
        snapshotter: SNAPSHOTTER.to_owned(),
        snapshot_key: id.clone(),
        ..Default::default()
    };
    // It comes first and goes last: the collector leaves alone what a container refers to.
    let container = Some(container);
    let create = daemon.request(CreateContainerRequest { container });
    let created = daemon.containers().create(create).await;
    created.map_err(|status| said(&status))?;
    let ended = contain(daemon, options, &id, &image).await;
    let delete = daemon.request(DeleteContainerRequest { id });
    let deleted = daemon.containers().delete(delete).await;
    let code = ended?;
    deleted.map_err(|status| said(&status))?;
    Ok(code)
}

/// The container's root file system, and its task on that.
async fn contain(daemon: &Daemon, options: &Options, id: &str, image: &Image) -> Result<u8> {
    let prepare = daemon.request(PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: id.to_owned(),
        parent: image.chain_id.clone(),
        ..Default::default()
    });
    let prepared = daemon.snapshots().prepare(prepare).await;
    let rootfs = prepared
        .map_err(|status| said(&status))?
        .into_inner()
        .mounts;
    let ended = work(daemon, options, id, rootfs).await;
    let remove = daemon.request(RemoveSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: id.to_owned(),
    });
    let removed = daemon.snapshots().remove(remove).await;
    let code = ended?;
    removed.map_err(|status| said(&status))?;
    Ok(code)
}

/// The container's task, from its making to its end.
async fn work(
    daemon: &Daemon,
    options: &Options,
    id: &str,
    rootfs: Vec<knarr_proto::types::Mount>,
) -> Result<u8> {
    let fifos = Fifos::new(id, options.interactive)?;
    let create = daemon.request(CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs,
        stdin: fifos
            .name("stdin")
            .filter(|_| options.interactive)
            .unwrap_or_default(),
        stdout: fifos.name("stdout").unwrap_or_default(),
        stderr: fifos.name("stderr").unwrap_or_default(),
        ..Default::default()
    });
    let mut tasks = daemon.tasks();
    let outputs = fifos.read();
    let input = options.interactive.then(|| fifos.write());
    tasks.create(create).await.map_err(|status| said(&status))?;
    let ended = follow(daemon, id, input).await;
    if ended.is_err() {
        let kill = KillRequest {
            container_id: id.to_owned(),
            signal: 9,
            all: true,
            ..Default::default()
        };
        // It may never have run.
        let _ = tasks.kill(daemon.request(kill)).await;
    }
    let container_id = id.to_owned();
    let delete = daemon.request(DeleteTaskRequest { container_id });
    let deleted = tasks.delete(delete).await;
    let code = ended?;
    deleted.map_err(|status| said(&status))?;
    for output in outputs {
        // All that was written comes before the prompt of the caller's shell.
        let _ = output.await;
    }
    Ok(code)
}

/// Starts the task and follows it to its end; the caller's signals go to it.
async fn follow(daemon: &Daemon, id: &str, input: Option<oneshot::Receiver<()>>) -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let container_id = id.to_owned();
    let wait = daemon.request(WaitRequest {
        container_id: container_id.clone(),
        ..Default::default()
    });
    let mut waiting = daemon.tasks();
    let waited = tokio::spawn(async move { waiting.wait(wait).await });
    let mut tasks = daemon.tasks();
    let start = daemon.request(StartRequest {
        container_id: container_id.clone(),
        ..Default::default()
    });
    tasks.start(start).await.map_err(|status| said(&status))?;
    if let Some(input) = input {
        let (mut tasks, daemon) = (daemon.tasks(), daemon.clone());
        let container_id = container_id.clone();
        tokio::spawn(async move {
            if input.await.is_ok() {
                let close = CloseIoRequest {
                    container_id,
                    stdin: true,
                    ..Default::default()
                };
                let _ = tasks.close_io(daemon.request(close)).await;
            }
        });
    }
    tokio::pin!(waited);
    let exit = loop {
        let signal = tokio::select! {
            exit = &mut waited => break exit?.map_err(|status| said(&status))?,
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
        };
        let kill = KillRequest {
            container_id: container_id.clone(),
            signal,
            ..Default::default()
        };
        // It may end in this moment.
        let _ = tasks.kill(daemon.request(kill)).await;
    };
    Ok(u8::try_from(exit.into_inner().exit_status).unwrap_or(u8::MAX))
}

/// Where the container's output comes through, in a directory that goes with this value.
#[derive(Debug)]
struct Fifos(PathBuf);

impl Fifos {
    fn new(id: &str, input: bool) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("knarrctl-{id}"));
        let place = || format!("cannot make {}", dir.display());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(place)?;
        let this = Self(dir.clone());
        let names = ["stdout", "stderr", "stdin"];
        for name in &names[..if input { 3 } else { 2 }] {
            let path = this.0.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).with_context(place)?;
        }
        Ok(this)
    }

    fn name(&self, name: &str) -> Option<String> {
        Some(self.0.join(name).to_str()?.to_owned())
    }

    /// Copies what comes to where it belongs; each tells its end.
    fn read(&self) -> [oneshot::Receiver<()>; 2] {
        let copy = |name: &str, mut to: Box<dyn Write + Send>| {
            let (done, end) = oneshot::channel();
            let path = self.0.join(name);
            thread::spawn(move || {
                let _ = pump(&path, &mut *to);
                let _ = done.send(());
            });
            end
        };
        [
            copy("stdout", Box::new(std::io::stdout())),
            copy("stderr", Box::new(std::io::stderr())),
        ]
    }

    /// Copies standard input; tells its end.
    fn write(&self) -> oneshot::Receiver<()> {
        let (done, end) = oneshot::channel();
        let path = self.0.join("stdin");
        thread::spawn(move || {
            let copied = File::options()
                .write(true)
                .open(path)
                .and_then(|mut fifo| std::io::copy(&mut std::io::stdin().lock(), &mut fifo));
            // A command that reads no more is no error.
            let _ = copied;
            let _ = done.send(());
        });
        end
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pump(from: &Path, to: &mut dyn Write) -> std::io::Result<()> {
    let mut fifo = File::open(from)?;
    let mut buffer = [0; 32 << 10];
    loop {
        let length = fifo.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length])?;
        to.flush()?;
    }
}
