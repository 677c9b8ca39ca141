//! What a task can be asked and told, passed on to its shim.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use knarr_proto::containerd::task::v2::{
    CloseIoRequest, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, ResizePtyRequest, ResumeRequest, StartRequest, StateRequest, StateResponse,
    StatsRequest, UpdateTaskRequest,
};
use knarr_proto::containerd::v1::types::ProcessInfo;
use knarr_proto::prost_types::{Any, Timestamp};
use knarr_proto::ttrpc::services::TaskClient;
use knarr_proto::ttrpc::{self, Options};
use tokio::task::JoinSet;

use super::bundle::Bundle;
use super::shim::call;
use super::table::{Task, not_here};
use super::{CALL, LONG, Listed, STATE, Tasks, complain, to_the_end};
use crate::error::{Code, Error, Result};
use crate::store::filter::{Fields, Filters};
use crate::store::name::{self, Labels};

/// 128 and SIGKILL: how a process ends whose shim dies.
const KILLED: u32 = 137;

/// SIGKILL.
const KILL: u32 = 9;

/// How long a shim may take to say how one process is.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a shim may take to kill its container.
const FORCE: Duration = Duration::from_secs(10);

/// What filters see of a task.
struct Named<'a> {
    namespace: &'a str,
    id: &'a str,
}

impl Fields for Named<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.to_owned()),
            ["namespace"] => Some(self.namespace.to_owned()),
            _ => None,
        }
    }
}

/// A process of a task: namespace, id, and the exec's id, which is empty for the first one.
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The id of the container.
    pub id: &'a str,
    /// The id of the exec.
    pub exec_id: &'a str,
}

impl<'a> Process<'a> {
    /// That process.
    #[must_use]
    pub fn new(namespace: &'a str, id: &'a str, exec_id: &'a str) -> Self {
        Self {
            namespace,
            id,
            exec_id,
        }
    }
}

impl Tasks {
    async fn find(&self, namespace: &str, id: &str) -> Result<Arc<Task>> {
        let key = (namespace.to_owned(), id.to_owned());
        self.0.table.find(&key).await
    }

    /// Asks the shim of a task; where that has died, there is no such task any more.
    async fn ask<T, F>(
        &self,
        process: Process<'_>,
        limit: Duration,
        question: impl FnOnce(TaskClient, Options) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, ttrpc::Error>>,
    {
        let task = self.find(process.namespace, process.id).await?;
        let options = call(process.namespace, Some(limit));
        match question(task.shim.task(), options).await {
            Err(ttrpc::Error::Closed(_)) => Err(not_here(process.id)),
            answer => answer.map_err(Error::from),
        }
    }

    /// Lets a process run; its number on the host.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn start(&self, process: Process<'_>) -> Result<u32> {
        let request = StartRequest {
            id: process.id.to_owned(),
            exec_id: process.exec_id.to_owned(),
        };
        let ask = async |task: TaskClient, options| task.start(&request, &options).await;
        Ok(self.ask(process, LONG, ask).await?.pid)
    }

    /// How a process is; nothing but its number is known of a container whose shim does not answer.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn state(&self, process: Process<'_>) -> Result<StateResponse> {
        let request = StateRequest {
            id: process.id.to_owned(),
            exec_id: process.exec_id.to_owned(),
        };
        let ask = async |task: TaskClient, options| task.state(&request, &options).await;
        match self.ask(process, ANSWER, ask).await {
            // Clients ask before they kill.
            Err(error) if error.code() == Code::DeadlineExceeded && process.exec_id.is_empty() => {
                let task = self.find(process.namespace, process.id).await?;
                Ok(StateResponse {
                    id: process.id.to_owned(),
                    pid: task.pid,
                    ..StateResponse::default()
                })
            }
            state => state,
        }
    }

    /// All tasks of a namespace, in the order of their ids.
    pub async fn list(&self, namespace: &str) -> Vec<Listed> {
        let mut asked = JoinSet::new();
        for key in self.0.table.keys(namespace) {
            let this = self.clone();
            asked.spawn(async move {
                let found = tokio::time::timeout(STATE, this.0.table.find(&key)).await;
                let task = match found {
                    Ok(Ok(task)) => task,
                    Ok(Err(_)) => return None,
                    Err(_) => return Some((key.1, 0, None)),
                };
                let request = StateRequest {
                    id: key.1.clone(),
                    exec_id: String::new(),
                };
                let client = task.shim.task();
                match client.state(&request, &call(&key.0, Some(STATE))).await {
                    Ok(state) => Some((key.1, state.pid, Some(state))),
                    Err(ttrpc::Error::Closed(_)) => None,
                    Err(_) => Some((key.1, task.pid, None)),
                }
            });
        }
        let mut all: Vec<Listed> = asked.join_all().await.into_iter().flatten().collect();
        all.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        all
    }

    /// Sends a signal to a process, or to all of the container. A shim that does not answer to
    /// SIGKILL is killed itself, unless it holds other containers, and its container with it.
    ///
    /// # Errors
    /// `NotFound`, also where it has ended; what the shim says.
    pub async fn kill(&self, process: Process<'_>, signal: u32, all: bool) -> Result<()> {
        let request = KillRequest {
            id: process.id.to_owned(),
            exec_id: process.exec_id.to_owned(),
            signal,
            all,
        };
        let ask = async |task: TaskClient, options| task.kill(&request, &options).await;
        if signal != KILL || !process.exec_id.is_empty() {
            return self.ask(process, CALL, ask).await;
        }
        match self.ask(process, FORCE, ask).await {
            Err(error) if error.code() == Code::DeadlineExceeded => {
                let task = self.find(process.namespace, process.id).await?;
                self.force(&task).await.ok_or(error)
            }
            killed => killed,
        }
    }

    /// Kills a shim that hangs, which [`Tasks::shim_died`] cleans up after.
    async fn force(&self, task: &Arc<Task>) -> Option<()> {
        let Bundle { namespace, id, .. } = &task.bundle;
        let request = StateRequest {
            id: id.clone(),
            exec_id: String::new(),
        };
        let client = task.shim.task();
        let state = client.state(&request, &call(namespace, Some(STATE))).await;
        let hangs = matches!(state, Err(ttrpc::Error::Deadline));
        if !hangs || self.0.table.shares(&task.key(), &task.shim.at.address) {
            return None;
        }
        let (shims, bundle) = (self.0.shims.clone(), task.bundle.clone());
        let killed = tokio::task::spawn_blocking(move || shims.kill(&bundle)).await;
        killed.ok().filter(|killed| *killed)?;
        complain(format_args!(
            "the shim of {namespace}/{id} does not answer and was killed"
        ));
        Some(())
    }

    /// Prepares another process in a task.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for an id that is none; what the shim says.
    pub async fn exec(&self, namespace: &str, request: ExecProcessRequest) -> Result<()> {
        name::check(&request.exec_id)?;
        let process = Process {
            namespace,
            id: &request.id.clone(),
            exec_id: "",
        };
        let ask = async |task: TaskClient, options| task.exec(&request, &options).await;
        self.ask(process, CALL, ask).await
    }

    /// Deletes a process that was prepared by exec.
    ///
    /// # Errors
    /// `NotFound`; what the shim says, `FailedPrecondition` while it runs.
    pub async fn delete_process(
        &self,
        namespace: &str,
        id: &str,
        exec_id: &str,
    ) -> Result<DeleteResponse> {
        if exec_id.is_empty() {
            return Err(Error::invalid("the id of the process is missing"));
        }
        let (this, namespace) = (self.clone(), namespace.to_owned());
        let request = DeleteRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
        };
        let work = async move {
            let process = Process {
                namespace: &namespace,
                id: &request.id,
                exec_id: "",
            };
            let ask = async |task: TaskClient, options| task.delete(&request, &options).await;
            let deleted = this.ask(process, LONG, ask).await?;
            if let Ok(task) = this.find(&namespace, &request.id).await {
                task.forget_waits(&request.exec_id);
            }
            Ok(deleted)
        };
        to_the_end(Box::pin(work)).await
    }

    /// Sets the size of a process's terminal.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn resize(&self, process: Process<'_>, width: u32, height: u32) -> Result<()> {
        let request = ResizePtyRequest {
            id: process.id.to_owned(),
            exec_id: process.exec_id.to_owned(),
            width,
            height,
        };
        let ask = async |task: TaskClient, options| task.resize_pty(&request, &options).await;
        self.ask(process, CALL, ask).await
    }

    /// Closes the input of a process.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn close_input(&self, process: Process<'_>) -> Result<()> {
        let request = CloseIoRequest {
            id: process.id.to_owned(),
            exec_id: process.exec_id.to_owned(),
            stdin: true,
        };
        let ask = async |task: TaskClient, options| task.close_io(&request, &options).await;
        self.ask(process, CALL, ask).await
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn pause(&self, namespace: &str, id: &str) -> Result<()> {
        let request = PauseRequest { id: id.to_owned() };
        let ask = async |task: TaskClient, options| task.pause(&request, &options).await;
        self.ask(whole(namespace, id), CALL, ask).await
    }

    /// Thaws a container.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn resume(&self, namespace: &str, id: &str) -> Result<()> {
        let request = ResumeRequest { id: id.to_owned() };
        let ask = async |task: TaskClient, options| task.resume(&request, &options).await;
        self.ask(whole(namespace, id), CALL, ask).await
    }

    /// The processes of a container.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn pids(&self, namespace: &str, id: &str) -> Result<Vec<ProcessInfo>> {
        let request = PidsRequest { id: id.to_owned() };
        let ask = async |task: TaskClient, options| task.pids(&request, &options).await;
        Ok(self.ask(whole(namespace, id), CALL, ask).await?.processes)
    }

    /// Changes the limits of a container.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn update(
        &self,
        namespace: &str,
        id: &str,
        resources: Option<Any>,
        annotations: Labels,
    ) -> Result<()> {
        let request = UpdateTaskRequest {
            id: id.to_owned(),
            resources,
            annotations,
        };
        let ask = async |task: TaskClient, options| task.update(&request, &options).await;
        self.ask(whole(namespace, id), LONG, ask).await
    }

    /// The figures of the tasks that filters take, by their ids and in their order. Those whose shim
    /// says nothing are left out.
    pub async fn metrics(&self, namespace: &str, filters: &Filters) -> Vec<(String, Option<Any>)> {
        let mut asked = JoinSet::new();
        for key in self.0.table.keys(namespace) {
            let (namespace, id) = (&*key.0, &*key.1);
            if !filters.take(&Named { namespace, id }) {
                continue;
            }
            let this = self.clone();
            asked.spawn(async move {
                let found = tokio::time::timeout(STATE, this.0.table.find(&key)).await;
                let task = found.ok()?.ok()?;
                let request = StatsRequest { id: key.1.clone() };
                let client = task.shim.task();
                let stats = client.stats(&request, &call(&key.0, Some(STATE))).await;
                Some((key.1, stats.ok()?.stats))
            });
        }
        let mut all: Vec<(String, Option<Any>)> =
            asked.join_all().await.into_iter().flatten().collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// Waits for the end of a process, however long that takes; its code, and when it was.
    ///
    /// # Errors
    /// `NotFound`; what the shim says.
    pub async fn wait(&self, process: Process<'_>) -> Result<(u32, Option<Timestamp>)> {
        let task = self.find(process.namespace, process.id).await?;
        match task.wait(process.exec_id).await {
            Ok(response) => Ok((response.exit_status, response.exited_at)),
            Err(ttrpc::Error::Closed(_)) => {
                let exit = self.end_of(&task).await?;
                match process.exec_id {
                    "" => Ok((exit.code, exit.at)),
                    _ => Ok((KILLED, Some(SystemTime::now().into()))),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn whole<'a>(namespace: &'a str, id: &'a str) -> Process<'a> {
    Process {
        namespace,
        id,
        exec_id: "",
    }
}
