//! How a task ends: a client deletes it, or its shim dies.
//!
//! Whatever happens, the log gets one exit and one deletion of a task. Its shim tells them as a rule;
//! where it can't any more, they are told here. `Noted` says who does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use knarr_proto::any;
use knarr_proto::containerd::task::v2::{DeleteRequest, DeleteResponse, ShutdownRequest};
use knarr_proto::events::{TaskDelete, TaskExit};
use knarr_proto::prost::{Message, Name};
use knarr_proto::ttrpc;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use super::bundle::Bundle;
use super::shim::{Shim, call};
use super::table::{Exit, Key, Notes, Task, not_here};
use super::{LONG, Tasks, complain, to_the_end};
use crate::error::{Code, Error, Result};
use crate::store::database::now;
use crate::store::schema::Event;

/// How long a shim that lives may take to tell of a deletion that it has answered.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a shim may take to end.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// How often cleaning up is tried, and how long after a failure the next time is.
const TRIES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// How long a task may take to be gone whose shim has died.
const GONE: Duration = Duration::from_secs(120);

/// 128 and SIGKILL: how a process ends whose shim dies.
const KILLED: u32 = 137;

impl Tasks {
    /// Deletes a task that has stopped; how it ended.
    ///
    /// # Errors
    /// `NotFound`; what its shim says, `FailedPrecondition` while it runs.
    pub async fn delete(&self, namespace: &str, id: &str) -> Result<Exit> {
        let key = (namespace.to_owned(), id.to_owned());
        let task = self.0.table.find(&key).await?;
        let this = self.clone();
        let work = async move {
            task.deleting.fetch_add(1, Ordering::SeqCst);
            let deleted = this.delete_now(&task).await;
            task.deleting.fetch_sub(1, Ordering::SeqCst);
            deleted
        };
        to_the_end(work).await
    }

    async fn delete_now(&self, task: &Arc<Task>) -> Result<Exit> {
        let Bundle { namespace, id, .. } = &task.bundle;
        let request = DeleteRequest {
            id: id.clone(),
            exec_id: String::new(),
        };
        let deleted = task.shim.task();
        let deleted = deleted.delete(&request, &call(namespace, Some(LONG))).await;
        match deleted {
            Ok(response) => {
                self.0.log.known(namespace, id);
                let exit = exit_of(response, task.pid);
                // Hidden already, its shim has died at once.
                if self.0.table.hide(task) {
                    tokio::spawn(self.clone().finish(Arc::clone(task), Some(exit)));
                }
                Ok(exit)
            }
            Err(ttrpc::Error::Closed(_)) => self.end_of(task).await,
            Err(error) => {
                let error = Error::from(error);
                if error.code() != Code::NotFound {
                    return Err(error);
                }
                // Another client was faster, or is just now; or the shim has lost it.
                let alone = task.deleting.load(Ordering::SeqCst) == 1;
                if alone && self.0.table.hide(task) {
                    tokio::spawn(self.clone().finish(Arc::clone(task), None));
                }
                Err(not_here(id))
            }
        }
    }

    /// How a task ended whose shim has died, once nothing is left of it.
    pub(super) async fn end_of(&self, task: &Task) -> Result<Exit> {
        let mut notes = task.notes.subscribe();
        let gone = notes.wait_for(|noted| noted.gone);
        let exit = match timeout(GONE, gone).await {
            Ok(Ok(noted)) => noted.exit,
            _ => None,
        };
        exit.ok_or_else(|| Error::late(format!("task {}: its shim has died", task.bundle.id)))
    }

    /// Sees a deleted task off: what is told of it has to be in the log before its shim may end.
    pub(super) async fn finish(self, task: Arc<Task>, exit: Option<Exit>) {
        self.see_off(&task.bundle, &task.shim, &task.notes, exit)
            .await;
        task.dismiss();
        self.0.table.remove(&task.key());
    }

    pub(super) async fn see_off(
        &self,
        bundle: &Bundle,
        shim: &Shim,
        notes: &Notes,
        exit: Option<Exit>,
    ) {
        let key = (bundle.namespace.clone(), bundle.id.clone());
        if let Some(exit) = exit {
            let mut noted = notes.subscribe();
            let logged = noted.wait_for(|noted| noted.delete_logged);
            let told = timeout(LAST_WORDS, logged)
                .await
                .is_ok_and(|told| told.is_ok());
            if !told {
                self.tell_end(bundle, notes, exit).await;
            }
        }
        if !bundle.is_shared()
            && !self.let_go(&key, shim).await
            && let Some(program) = bundle.program()
        {
            let _ = self.0.shims.clean_up(bundle, &program).await;
        }
        remove(bundle);
    }

    /// Asks a shim to end unless others need it, and waits until it has; whether all is well.
    async fn let_go(&self, key: &Key, shim: &Shim) -> bool {
        let others = self.0.table.shares(key, &shim.at.address);
        let request = ShutdownRequest {
            id: key.1.clone(),
            now: false,
        };
        let options = call(&key.0, Some(SHUTDOWN));
        let asked = shim.task().shutdown(&request, &options).await;
        if others {
            return true;
        }
        // It may end before it answers.
        let ended = timeout(SHUTDOWN, shim.client.closed()).await.is_ok();
        if !ended {
            let said = asked
                .err()
                .map_or(String::new(), |error| format!(": {error}"));
            complain(format_args!(
                "shim of {}/{} does not end{said}",
                key.0, key.1
            ));
        }
        ended
    }

    /// Takes back what was done for a task that could not be made.
    pub(super) async fn undo(&self, key: &Key, bundle: &Bundle, program: &Path) {
        let ended = match bundle.bootstrap() {
            _ if bundle.is_shared() => true,
            Some(at) => match self.0.shims.connect(at).await {
                Ok(shim) => self.let_go(key, &shim).await,
                Err(_) => false,
            },
            None => false,
        };
        if !ended {
            // It may not be a shim at all.
            let _ = self.0.shims.clean_up(bundle, program).await;
        }
        remove(bundle);
    }

    /// What there is to do where a shim has died that was not to.
    pub(super) async fn shim_died(self, task: Arc<Task>) {
        if !self.0.table.hide(&task) {
            return;
        }
        let Bundle { namespace, id, .. } = &task.bundle;
        complain(format_args!("the shim of {namespace}/{id} has died"));
        self.clean_up(&task.bundle, &task.notes, task.pid).await;
        self.0.table.remove(&task.key());
    }

    /// Cleans up after a shim that is gone, and tells what it can't tell any more.
    pub(super) async fn clean_up(&self, bundle: &Bundle, notes: &Notes, pid: u32) {
        let mut answer = None;
        if let Some(program) = bundle.program() {
            for pause in TRIES {
                sleep(pause).await;
                match self.0.shims.clean_up(bundle, &program).await {
                    Ok(response) => {
                        answer = Some(response);
                        break;
                    }
                    Err(error) => {
                        let name = format!("{}/{}", bundle.namespace, bundle.id);
                        complain(format_args!(
                            "cleaning up after the shim of {name}: {error}"
                        ));
                    }
                }
            }
        }
        let answer = answer.unwrap_or(DeleteResponse {
            pid,
            exit_status: KILLED,
            exited_at: None,
        });
        let exit = exit_of(answer, pid);
        let mut execs = BTreeMap::new();
        notes.send_modify(|noted| execs = std::mem::take(&mut noted.execs));
        for (id, pid) in execs {
            let event = TaskExit {
                container_id: bundle.id.clone(),
                id,
                pid,
                exit_status: KILLED,
                exited_at: exit.at,
            };
            self.tell(bundle, "/tasks/exit", &event).await;
        }
        self.tell_end(bundle, notes, exit).await;
        self.0.shims.remove_socket(bundle);
        remove(bundle);
    }

    /// Tells of the end and the deletion of a task, unless its shim has or does.
    pub(super) async fn tell_end(&self, bundle: &Bundle, notes: &Notes, exit: Exit) {
        self.tell_exit(bundle, notes, exit).await;
        let exit = notes.borrow().exit.unwrap_or(exit);
        if notes.send_if_modified(|noted| !std::mem::replace(&mut noted.delete_told, true)) {
            let event = TaskDelete {
                container_id: bundle.id.clone(),
                pid: exit.pid,
                exit_status: exit.code,
                exited_at: exit.at,
                id: String::new(),
            };
            self.tell(bundle, "/tasks/delete", &event).await;
        }
    }

    /// Tells of the end of a task, unless its shim has or does.
    pub(super) async fn tell_exit(&self, bundle: &Bundle, notes: &Notes, exit: Exit) {
        let mut first = false;
        notes.send_modify(|noted| {
            first = !std::mem::replace(&mut noted.exit_told, true);
            noted.exit.get_or_insert(exit);
        });
        if first {
            let event = TaskExit {
                container_id: bundle.id.clone(),
                id: bundle.id.clone(),
                pid: exit.pid,
                exit_status: exit.code,
                exited_at: exit.at,
            };
            self.tell(bundle, "/tasks/exit", &event).await;
        }
    }

    async fn tell<M: Message + Name>(&self, bundle: &Bundle, topic: &str, event: &M) {
        let event = Event {
            time: now(),
            namespace: bundle.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(any::pack(event).into()),
        };
        if let Err(error) = self.record(event).await {
            complain(format_args!("{topic} of {}: {error}", bundle.id));
        }
    }
}

fn exit_of(response: DeleteResponse, pid: u32) -> Exit {
    Exit {
        pid: match response.pid {
            0 => pid,
            own => own,
        },
        code: response.exit_status,
        at: Some(
            response
                .exited_at
                .unwrap_or_else(|| SystemTime::now().into()),
        ),
    }
}

fn remove(bundle: &Bundle) {
    if let Err(error) = block_in_place(|| bundle.remove()) {
        complain(error);
    }
}
