//! Making a task: bundle, shim, and the container in it.

use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use knarr_proto::containerd::task::v2::CreateTaskRequest;
use knarr_proto::containerd::types::Mount;
use knarr_proto::prost_types::Any;
use tokio::task::{AbortHandle, block_in_place};

use super::bundle::{Bootstrap, Bundle};
use super::checkpoint::{self, Scratch};
use super::shim::{call, open_log};
use super::table::{Key, Notes, Task, Waits};
use super::{LONG, Tasks, complain, to_the_end};
use crate::error::{Error, Result};
use crate::store::schema::{Descriptor, Typed};

/// The longest line of a shim's log that is passed on in one piece, in bytes.
const LONGEST_LINE: usize = 4096;

/// What a client wants to have made.
#[derive(Debug, Default)]
pub struct Order {
    /// Namespace of the container.
    pub namespace: String,
    /// Id of the container, and of the task.
    pub id: String,
    /// What makes its root file system.
    pub rootfs: Vec<Mount>,
    /// A fifo, or empty.
    pub stdin: String,
    /// A fifo, a URI, or empty.
    pub stdout: String,
    /// A fifo, a URI, or empty.
    pub stderr: String,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// A checkpoint to go on from.
    pub checkpoint: Option<Descriptor>,
    /// Options of the runtime; those of the container otherwise.
    pub options: Option<Any>,
    /// The shim's program, in place of the one of the container's runtime; or empty.
    pub runtime: String,
    /// A shim that is there already and takes the task; otherwise one is started.
    pub shim: Option<Bootstrap>,
}

/// A name that is free again where it comes to nothing.
struct Claim {
    tasks: Tasks,
    key: Key,
    kept: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            self.tasks.0.table.remove(&self.key);
        }
    }
}

impl Tasks {
    /// Makes a task whose first process waits to be started; its number on the host.
    ///
    /// # Errors
    /// `NotFound` where there is no such container, `AlreadyExists`; whatever its shim says.
    pub async fn create(&self, order: Order) -> Result<u32> {
        self.expect();
        let this = self.clone();
        to_the_end(async move { this.create_now(order).await }).await
    }

    async fn create_now(&self, order: Order) -> Result<u32> {
        let container = self.0.containers.get(&order.namespace, &order.id)?;
        let container = container.container;
        let key = (order.namespace.clone(), order.id.clone());
        let notes = self.0.table.claim(&key).await?;
        self.0.log.known(&key.0, &key.1);
        let mut claim = Claim {
            tasks: self.clone(),
            key,
            kept: false,
        };
        let spec = container.spec.unwrap_or(Typed {
            type_url: String::new(),
            value: b"{}".to_vec(),
        });
        let runtime = match order.runtime.as_str() {
            "" => &container.runtime,
            path => path,
        };
        let own = container.runtime_options.map(Any::from);
        let program = self.0.shims.programs();
        let program = program
            .find(runtime, &[order.options.as_ref(), own.as_ref()])
            .map_err(|error| {
                error.context("failed to start shim: failed to resolve runtime path")
            })?;
        let bundle = self.0.shims.bundle(&order.namespace, &order.id);
        block_in_place(|| {
            if bundle.path.exists() {
                // Nobody has it any more.
                bundle.remove()?;
            }
            bundle.create(&spec.value, &program)
        })?;
        match self.make(&bundle, &program, order, own, notes).await {
            Ok(task) => {
                let pid = task.pid;
                claim.kept = true;
                self.0.table.show(&task);
                self.attend(&task);
                Ok(pid)
            }
            Err(error) => {
                // The name stays taken until nothing is left.
                self.0.table.end(&claim.key);
                let this = self.clone();
                tokio::spawn(async move {
                    this.undo(&claim.key, &bundle, &program).await;
                    drop(claim);
                });
                Err(error)
            }
        }
    }

    async fn make(
        &self,
        bundle: &Bundle,
        program: &Path,
        order: Order,
        own: Option<Any>,
        notes: Arc<Notes>,
    ) -> Result<Arc<Task>> {
        let checkpoint = match &order.checkpoint {
            Some(blob) => {
                let to = bundle.path.join("checkpoint");
                let content = &self.0.content;
                Some(checkpoint::unpack(content, &bundle.namespace, blob, to).await?)
            }
            None => None,
        };
        let log = read_log(bundle);
        let failed = |error: Error| error.context("failed to start shim");
        let shim = match order.shim {
            Some(at) => {
                bundle.set_shared()?;
                self.0.shims.connect(at).await
            }
            None => self.0.shims.start(bundle, program, own.clone()).await,
        };
        let shim = shim.map_err(failed)?;
        block_in_place(|| bundle.set_bootstrap(&shim.at)).map_err(failed)?;
        let request = CreateTaskRequest {
            id: order.id,
            bundle: bundle.path.display().to_string(),
            rootfs: order.rootfs,
            terminal: order.terminal,
            stdin: order.stdin,
            stdout: order.stdout,
            stderr: order.stderr,
            checkpoint: checkpoint.as_ref().map_or(String::new(), Scratch::path),
            parent_checkpoint: String::new(),
            options: order.options.or(own),
        };
        let (client, options) = (shim.task(), call(&bundle.namespace, Some(LONG)));
        let created = client.create(&request, &options).await;
        let created =
            created.map_err(|error| Error::from(error).context("failed to create shim task"))?;
        bundle.set_pid(created.pid)?;
        Ok(Arc::new(Task {
            bundle: bundle.clone(),
            shim,
            pid: created.pid,
            notes,
            _log: log,
            watch: OnceLock::new(),
            waits: Waits::default(),
            deleting: AtomicU32::default(),
        }))
    }

    /// Waits for the end of a task's shim from now on.
    pub(super) fn attend(&self, task: &Arc<Task>) {
        let (this, weak) = (self.clone(), Arc::downgrade(task));
        let client = task.shim.client.clone();
        let watch = tokio::spawn(async move {
            client.closed().await;
            drop(client);
            if let Some(task) = weak.upgrade() {
                tokio::spawn(this.shim_died(task));
            }
        });
        let _ = task.watch.set(watch.abort_handle());
    }
}

/// Reads what a shim complains of; stops where it is dropped.
#[derive(Debug)]
pub(super) struct LogReader(Option<AbortHandle>);

impl Drop for LogReader {
    fn drop(&mut self) {
        if let Some(reader) = &self.0 {
            reader.abort();
        }
    }
}

/// Passes on what a shim writes into the log of its bundle.
pub(super) fn read_log(bundle: &Bundle) -> LogReader {
    let fifo = match open_log(bundle) {
        Ok(fifo) => fifo,
        Err(error) => {
            complain(error);
            return LogReader(None);
        }
    };
    let name = format!("{}/{}", bundle.namespace, bundle.id);
    let reader = tokio::spawn(async move {
        let mut bytes = [0; 512];
        let mut line = Vec::new();
        while fifo.readable().await.is_ok() {
            let Ok(count) = fifo.try_read(&mut bytes) else {
                continue;
            };
            for byte in bytes.iter().take(count) {
                line.push(*byte);
                if *byte == b'\n' || line.len() == LONGEST_LINE {
                    let text = String::from_utf8_lossy(&line);
                    complain(format_args!("shim of {name}: {}", text.trim_end()));
                    line.clear();
                }
            }
        }
    });
    LogReader(Some(reader.abort_handle()))
}
