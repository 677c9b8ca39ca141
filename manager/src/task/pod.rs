//! Sandboxes that a shim holds: made, asked and ended through it.
//!
//! A sandbox has a bundle of its own and a shim, in which containers' tasks are made later. Of its
//! life the log is told three times: made, started, ended. Nothing is locked while a shim is asked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knarr_proto::any;
use knarr_proto::containerd::runtime::sandbox::v1 as calls;
use knarr_proto::containerd::types::{Metric, Mount, Platform};
use knarr_proto::events as told;
use knarr_proto::prost::{Message, Name};
use knarr_proto::prost_types::{Any, Timestamp};
use knarr_proto::ttrpc::services::SandboxClient;
use knarr_proto::ttrpc::{self, Options};
use tokio::task::block_in_place;

use super::bundle::{Bootstrap, Bundle};
use super::create::{LogReader, read_log};
use super::runtime::Programs;
use super::shim::{Shim, Shims, call};
use super::{CALL, LONG, complain, to_the_end};
use crate::error::{Code, Error, Result};
use crate::store::database::now;
use crate::store::events::Log;
use crate::store::schema::{Event, Sandbox};

/// The directory of bundles below the state directory.
const KIND: &str = "io.containerd.sandbox.controller.v1.shim";

/// How much longer than its own limit a stop may take.
const SLACK: Duration = Duration::from_secs(30);

/// 128 and SIGKILL: how a sandbox ends whose shim dies.
const KILLED: u32 = 137;

type Key = (String, String);

/// What a client wants to have made.
#[derive(Debug, Default)]
pub struct PodOrder {
    /// What the sandbox is.
    pub sandbox: Sandbox,
    /// What makes the root file system of its process, if it has one.
    pub rootfs: Vec<Mount>,
    /// Options of the runtime.
    pub options: Option<Any>,
    /// The network namespace, or empty.
    pub netns: String,
    /// Annotations.
    pub annotations: crate::store::name::Labels,
}

/// A sandbox that is there.
#[derive(Debug)]
struct Pod {
    bundle: Bundle,
    program: PathBuf,
    shim: Shim,
    _log: LogReader,
}

impl Pod {
    fn client(&self) -> SandboxClient {
        SandboxClient::new(self.shim.client.clone())
    }
}

/// The sandboxes of one manager that shims hold. Clones share them.
#[derive(Debug, Clone)]
pub struct Pods(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shims: Shims,
    log: Log,
    /// `None` while one is being made.
    table: Mutex<HashMap<Key, Option<Arc<Pod>>>>,
}

impl Pods {
    /// Sandboxes with bundles below the directory `state`, whose runtimes have these programs.
    #[must_use]
    pub fn new(state: &Path, log: Log, programs: Programs) -> Self {
        Self(Arc::new(Inner {
            shims: Shims::new(state, KIND, programs),
            log,
            table: Mutex::default(),
        }))
    }

    /// Tells where the daemon listens, and finds the sandboxes of an earlier run.
    pub fn begin(&self, address: &Path) {
        self.0.shims.set_address(address);
        for bundle in self.0.shims.bundles() {
            let key = (bundle.namespace.clone(), bundle.id.clone());
            self.table().insert(key, None);
            tokio::spawn(self.clone().restore(bundle));
        }
    }

    async fn restore(self, bundle: Bundle) {
        let key = (bundle.namespace.clone(), bundle.id.clone());
        let program = bundle.program().unwrap_or_default();
        let shim = match bundle.bootstrap() {
            Some(at) => self.0.shims.connect(at).await.ok(),
            None => None,
        };
        let Some(shim) = shim else {
            self.clean_up(&bundle, &program).await;
            self.table().remove(&key);
            // It ended while nobody listened.
            return self.tell_exit(&key, KILLED, None).await;
        };
        self.show(Pod {
            _log: read_log(&bundle),
            bundle,
            program,
            shim,
        });
    }

    /// Makes a sandbox.
    ///
    /// # Errors
    /// `AlreadyExists`; whatever its shim says.
    pub async fn create(&self, namespace: &str, id: &str, order: PodOrder) -> Result<()> {
        let key = (namespace.to_owned(), id.to_owned());
        crate::store::name::check(id).map_err(|error| error.context("sandbox id"))?;
        {
            let mut table = self.table();
            if table.contains_key(&key) {
                return Err(Error::exists(format!("sandbox {id} already running")));
            }
            table.insert(key.clone(), None);
        }
        let this = self.clone();
        to_the_end(async move {
            let made = this.create_now(&key, order).await;
            if made.is_err() {
                this.table().remove(&key);
            }
            made
        })
        .await
    }

    async fn create_now(&self, key: &Key, order: PodOrder) -> Result<()> {
        let (namespace, id) = key;
        let PodOrder {
            sandbox,
            rootfs,
            options,
            netns,
            annotations,
        } = order;
        let failed =
            |error: Error| error.context(format!("failed to start new shim for sandbox {id}"));
        let own = sandbox.runtime_options.map(Any::from);
        let programs = self.0.shims.programs();
        let program = programs.find(&sandbox.runtime, &[options.as_ref(), own.as_ref()]);
        let program =
            program.map_err(|error| failed(error.context("failed to resolve runtime path")))?;
        let spec = sandbox.spec.map(|spec| spec.value).unwrap_or_default();
        let spec = if spec.is_empty() {
            b"{}".to_vec()
        } else {
            spec
        };
        let bundle = self.0.shims.bundle(namespace, id);
        block_in_place(|| {
            if bundle.path.exists() {
                // Nobody has it any more.
                bundle.remove()?;
            }
            bundle.create(&spec, &program)
        })
        .map_err(failed)?;
        let log = read_log(&bundle);
        let made = async {
            let shim = self.0.shims.start(&bundle, &program, own.clone()).await;
            let shim = shim.map_err(failed)?;
            block_in_place(|| bundle.set_bootstrap(&shim.at)).map_err(failed)?;
            let request = calls::CreateSandboxRequest {
                sandbox_id: id.clone(),
                bundle_path: bundle.path.display().to_string(),
                rootfs,
                options: options.or(own),
                netns_path: netns,
                annotations,
            };
            let client = SandboxClient::new(shim.client.clone());
            let limit = call(namespace, Some(LONG));
            let created = client.create_sandbox(&request, &limit).await;
            let created = created.map_err(Error::from);
            created.map_err(|error| error.context(format!("failed to create sandbox {id}")))?;
            Ok(shim)
        };
        match made.await {
            Ok(shim) => {
                self.tell(
                    key,
                    "/sandboxes/create",
                    &told::SandboxCreate {
                        sandbox_id: id.clone(),
                    },
                )
                .await;
                self.show(Pod {
                    bundle,
                    program,
                    shim,
                    _log: log,
                });
                Ok(())
            }
            Err(error) => {
                self.clean_up(&bundle, &program).await;
                Err(error)
            }
        }
    }

    /// Puts a sandbox into the table, and waits for its end and for that of its shim.
    fn show(&self, pod: Pod) {
        let key = (pod.bundle.namespace.clone(), pod.bundle.id.clone());
        let pod = Arc::new(pod);
        self.table().insert(key.clone(), Some(Arc::clone(&pod)));
        let this = self.clone();
        tokio::spawn(async move {
            let request = calls::WaitSandboxRequest {
                sandbox_id: key.1.clone(),
            };
            let ended = pod
                .client()
                .wait_sandbox(&request, &call(&key.0, None))
                .await;
            let (code, at) = ended.map_or((KILLED, None), |end| (end.exit_status, end.exited_at));
            this.tell_exit(&key, code, at).await;
            pod.shim.client.closed().await;
            if this.claim(&key, &pod) {
                this.clean_up(&pod.bundle, &pod.program).await;
                this.table().remove(&key);
            }
        });
    }

    /// Keeps a sandbox in the table by its name only: who claims it ends it. Whether it was there.
    fn claim(&self, key: &Key, pod: &Arc<Pod>) -> bool {
        let mut table = self.table();
        match table.get_mut(key) {
            Some(slot) if slot.as_ref().is_some_and(|found| Arc::ptr_eq(found, pod)) => {
                *slot = None;
                true
            }
            _ => false,
        }
    }

    async fn clean_up(&self, bundle: &Bundle, program: &Path) {
        if program.is_absolute()
            && let Err(error) = self.0.shims.clean_up(bundle, program).await
        {
            complain(format_args!("sandbox {}: {error}", bundle.id));
        }
        if let Err(error) = block_in_place(|| bundle.remove()) {
            complain(format_args!("sandbox {}: {error}", bundle.id));
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Key, Option<Arc<Pod>>>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, namespace: &str, id: &str) -> Result<Arc<Pod>> {
        let key = (namespace.to_owned(), id.to_owned());
        let found = self.table().get(&key).cloned().flatten();
        found.ok_or_else(|| not_here(id))
    }

    /// Asks a sandbox's shim.
    async fn ask<T, F>(
        &self,
        namespace: &str,
        id: &str,
        limit: Option<Duration>,
        question: impl FnOnce(SandboxClient, Options) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, ttrpc::Error>>,
    {
        let pod = self.find(namespace, id)?;
        match question(pod.client(), call(namespace, limit)).await {
            Err(ttrpc::Error::Closed(_)) => Err(not_here(id)),
            answer => answer.map_err(Error::from),
        }
    }

    /// Where the shim of a sandbox listens, for the tasks in it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn address(&self, namespace: &str, id: &str) -> Result<Bootstrap> {
        Ok(self.find(namespace, id)?.shim.at.clone())
    }

    /// Lets a sandbox run.
    ///
    /// # Errors
    /// `NotFound`; whatever its shim says.
    pub async fn start(&self, namespace: &str, id: &str) -> Result<calls::StartSandboxResponse> {
        let request = calls::StartSandboxRequest {
            sandbox_id: id.to_owned(),
        };
        let started = self.ask(namespace, id, Some(LONG), async move |client, options| {
            client.start_sandbox(&request, &options).await
        });
        let started = started.await?;
        let key = (namespace.to_owned(), id.to_owned());
        let event = told::SandboxStart {
            sandbox_id: id.to_owned(),
        };
        self.tell(&key, "/sandboxes/start", &event).await;
        Ok(started)
    }

    /// What the containers of a sandbox run on.
    ///
    /// # Errors
    /// `NotFound`; whatever its shim says.
    pub async fn platform(&self, namespace: &str, id: &str) -> Result<Option<Platform>> {
        let request = calls::PlatformRequest {
            sandbox_id: id.to_owned(),
        };
        let asked = self.ask(namespace, id, Some(CALL), async move |client, options| {
            client.platform(&request, &options).await
        });
        Ok(asked.await?.platform)
    }

    /// Ends what runs in a sandbox. One that is not there has ended.
    ///
    /// # Errors
    /// Whatever its shim says.
    pub async fn stop(&self, namespace: &str, id: &str, seconds: u32) -> Result<()> {
        let request = calls::StopSandboxRequest {
            sandbox_id: id.to_owned(),
            timeout_secs: seconds,
        };
        let limit = Duration::from_secs(seconds.into()) + SLACK;
        let stopped = self.ask(namespace, id, Some(limit), async move |client, options| {
            client.stop_sandbox(&request, &options).await
        });
        match stopped.await {
            Err(error) if error.code() != Code::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the end of a sandbox.
    ///
    /// # Errors
    /// `NotFound`; whatever its shim says.
    pub async fn wait(&self, namespace: &str, id: &str) -> Result<calls::WaitSandboxResponse> {
        let request = calls::WaitSandboxRequest {
            sandbox_id: id.to_owned(),
        };
        let pod = self.find(namespace, id)?;
        match pod
            .client()
            .wait_sandbox(&request, &call(namespace, None))
            .await
        {
            Err(ttrpc::Error::Closed(_)) => Ok(calls::WaitSandboxResponse {
                exit_status: KILLED,
                exited_at: Some(timestamp()),
            }),
            answer => answer.map_err(Error::from),
        }
    }

    /// How a sandbox is.
    ///
    /// # Errors
    /// `NotFound`; whatever its shim says.
    pub async fn status(
        &self,
        namespace: &str,
        id: &str,
        verbose: bool,
    ) -> Result<calls::SandboxStatusResponse> {
        let request = calls::SandboxStatusRequest {
            sandbox_id: id.to_owned(),
            verbose,
        };
        let asked = self.ask(namespace, id, Some(CALL), async move |client, options| {
            client.sandbox_status(&request, &options).await
        });
        asked.await
    }

    /// Ends a sandbox, its shim with it, and removes what is left.
    ///
    /// # Errors
    /// `NotFound`; whatever its shim says.
    pub async fn shutdown(&self, namespace: &str, id: &str) -> Result<()> {
        let pod = self.find(namespace, id)?;
        let (this, key) = (self.clone(), (namespace.to_owned(), id.to_owned()));
        if !self.claim(&key, &pod) {
            return Err(not_here(id));
        }
        to_the_end(async move {
            let request = calls::ShutdownSandboxRequest {
                sandbox_id: key.1.clone(),
            };
            let done = pod.client();
            let done = done
                .shutdown_sandbox(&request, &call(&key.0, Some(LONG)))
                .await;
            match done {
                Ok(_) | Err(ttrpc::Error::Closed(_)) => {}
                Err(error) => {
                    this.table().insert(key, Some(pod));
                    return Err(Error::from(error));
                }
            }
            let _ = tokio::time::timeout(CALL, pod.shim.client.closed()).await;
            this.clean_up(&pod.bundle, &pod.program).await;
            this.table().remove(&key);
            Ok(())
        })
        .await
    }

    /// What a sandbox uses.
    ///
    /// # Errors
    /// `NotFound`; whatever its shim says.
    pub async fn metrics(&self, namespace: &str, id: &str) -> Result<Option<Metric>> {
        let request = calls::SandboxMetricsRequest {
            sandbox_id: id.to_owned(),
        };
        let asked = self.ask(namespace, id, Some(CALL), async move |client, options| {
            client.sandbox_metrics(&request, &options).await
        });
        Ok(asked.await?.metrics)
    }

    /// Tells a sandbox's shim of a change. One that knows no changes needs none.
    ///
    /// # Errors
    /// `NotFound`; whatever its shim says.
    pub async fn update(
        &self,
        namespace: &str,
        id: &str,
        sandbox: knarr_proto::types::Sandbox,
        fields: Vec<String>,
    ) -> Result<()> {
        let request = calls::UpdateSandboxRequest {
            sandbox_id: id.to_owned(),
            sandbox: Some(sandbox),
            fields,
            ..calls::UpdateSandboxRequest::default()
        };
        let asked = self.ask(namespace, id, Some(LONG), async move |client, options| {
            client.update_sandbox(&request, &options).await
        });
        match asked.await {
            Err(error) if error.code() != Code::Unimplemented => Err(error),
            _ => Ok(()),
        }
    }

    async fn tell_exit(&self, key: &Key, code: u32, at: Option<Timestamp>) {
        let event = told::SandboxExit {
            sandbox_id: key.1.clone(),
            exit_status: code,
            exited_at: Some(at.unwrap_or_else(timestamp)),
        };
        self.tell(key, "/sandboxes/exit", &event).await;
    }

    async fn tell<M: Message + Name>(&self, key: &Key, topic: &str, event: &M) {
        let event = Event {
            time: now(),
            namespace: key.0.clone(),
            topic: topic.to_owned(),
            event: Some(any::pack(event).into()),
        };
        if let Err(error) = self.0.log.add(event).await {
            complain(format_args!("{topic} of sandbox {}: {error}", key.1));
        }
    }
}

fn timestamp() -> Timestamp {
    std::time::SystemTime::now().into()
}

fn not_here(id: &str) -> Error {
    Error::not_found(format!("sandbox {id:?}"))
}
