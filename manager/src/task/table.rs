//! The tasks that there are, and what stage each is in.
//!
//! ```text
//!            create                         delete, or its shim dies
//! nothing ──▶ Making ──▶ Here ◀── Loading ◀── start of the daemon
//!    ▲                     │          │
//!    └───── Ending ◀───────┴──────────┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use knarr_proto::containerd::task::v2::{WaitRequest, WaitResponse};
use knarr_proto::prost_types::Timestamp;
use knarr_proto::ttrpc;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::bundle::Bundle;
use super::create::LogReader;
use super::shim::{Shim, call};
use crate::error::{Error, Result};

/// Namespace and id.
pub(super) type Key = (String, String);

/// How the first process of a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The number that it had.
    pub pid: u32,
    /// Its code, or 128 and the signal.
    pub code: u32,
    /// When.
    pub at: Option<Timestamp>,
}

/// What is known of a task beside what its shim says.
#[derive(Debug, Default, Clone)]
pub(super) struct Noted {
    /// How it ended.
    pub(super) exit: Option<Exit>,
    /// Whether somebody has told of its end, or is about to.
    pub(super) exit_told: bool,
    /// The same of its deletion.
    pub(super) delete_told: bool,
    /// Whether the log has its deletion.
    pub(super) delete_logged: bool,
    /// Whether nothing is left of it.
    pub(super) gone: bool,
    /// Further processes that run, as far as its shim has told, with their numbers.
    pub(super) execs: BTreeMap<String, u32>,
}

/// What is known of a task, and who waits to know more.
pub(super) type Notes = watch::Sender<Noted>;

/// A running container, or one that has stopped and was not deleted yet.
#[derive(Debug)]
pub struct Task {
    /// Its directory, with its names.
    pub bundle: Bundle,
    /// Who holds it.
    pub shim: Shim,
    /// Its first process, on the host.
    pub pid: u32,
    pub(super) notes: Arc<Notes>,
    /// What passes on its complaints, for as long as it is here.
    pub(super) _log: LogReader,
    /// What waits for its end.
    pub(super) watch: OnceLock<AbortHandle>,
    /// Who waits for its processes.
    pub(super) waits: Waits,
    /// How many clients delete it just now.
    pub(super) deleting: AtomicU32,
}

/// How a process ended, once it has.
pub(super) type Ended = Option<Result<WaitResponse, ttrpc::Error>>;

/// The processes that are waited for, by their exec ids. A shim is asked once for each, however
/// many clients come and go.
pub(super) type Waits = Mutex<HashMap<String, watch::Receiver<Ended>>>;

impl Task {
    pub(super) fn key(&self) -> Key {
        (self.bundle.namespace.clone(), self.bundle.id.clone())
    }

    /// Waits for the end of a process.
    pub(super) async fn wait(
        self: &Arc<Self>,
        exec_id: &str,
    ) -> Result<WaitResponse, ttrpc::Error> {
        let mut ended = {
            let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            match waits.get(exec_id) {
                Some(ended) => ended.clone(),
                None => {
                    let (sender, ended) = watch::channel(None);
                    waits.insert(exec_id.to_owned(), ended.clone());
                    tokio::spawn(ask(self, exec_id, sender));
                    ended
                }
            }
        };
        let ended = ended.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|ended| ended.clone());
        ended.unwrap_or_else(|| Err(ttrpc::Error::Closed("by this side".to_owned())))
    }

    /// Forgets who waits for a process that is deleted: another may get its id. A shim may leave those
    /// unanswered who wait for one that never ran.
    pub(super) fn forget_waits(&self, exec_id: &str) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.remove(exec_id);
    }

    /// Waits no longer for the end of the shim.
    pub(super) fn dismiss(&self) {
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
    }
}

/// Has a shim wait for a process.
fn ask(
    task: &Arc<Task>,
    exec_id: &str,
    answer: watch::Sender<Ended>,
) -> impl Future<Output = ()> + Send + use<> {
    let request = WaitRequest {
        id: task.bundle.id.clone(),
        exec_id: exec_id.to_owned(),
    };
    let (client, weak) = (task.shim.task(), Arc::downgrade(task));
    let options = call(&task.bundle.namespace, None);
    async move {
        let ended = client.wait(&request, &options).await;
        drop(client);
        if let Some(task) = weak.upgrade() {
            let mut waits = task.waits.lock().unwrap_or_else(PoisonError::into_inner);
            // A later process may have the same id.
            let own = |found: &watch::Receiver<Ended>| found.same_channel(&answer.subscribe());
            if waits.get(&request.exec_id).is_some_and(own) {
                waits.remove(&request.exec_id);
            }
        }
        answer.send_replace(Some(ended));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.dismiss();
    }
}

#[derive(Debug, Clone)]
enum Stage {
    /// Clients do not see it yet.
    Making,
    /// It was there before the daemon was.
    Loading,
    /// It can be asked.
    Here(Arc<Task>),
    /// Clients do not see it any more, and its name is not free yet.
    Ending,
}

#[derive(Debug)]
struct Entry {
    stage: Stage,
    notes: Arc<Notes>,
}

/// All tasks by namespace and id.
#[derive(Debug)]
pub(super) struct Table {
    entries: Mutex<HashMap<Key, Entry>>,
    changes: watch::Sender<()>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            changes: watch::Sender::new(()),
        }
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, key: &Key, stage: Stage) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.stage = stage;
        }
        self.changes.send_replace(());
    }

    /// Waits until `look` finds something in the stage of a task, `None` where there is none.
    async fn wait<T>(&self, key: &Key, look: impl Fn(Option<&Entry>) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let found = look(self.lock().get(key));
            if let Some(found) = found {
                return found;
            }
            // The sender is here: this does not fail.
            let _ = changes.changed().await;
        }
    }

    /// The task of that name; waits while it is being loaded.
    pub(super) async fn find(&self, key: &Key) -> Result<Arc<Task>> {
        let look = |entry: Option<&Entry>| match entry.map(|entry| &entry.stage) {
            Some(Stage::Here(task)) => Some(Some(Arc::clone(task))),
            Some(Stage::Loading) => None,
            _ => Some(None),
        };
        let found = self.wait(key, look).await;
        found.ok_or_else(|| not_here(&key.1))
    }

    /// Takes a name for a new task; waits until an earlier one is gone for good.
    ///
    /// # Errors
    /// `AlreadyExists`.
    pub(super) async fn claim(&self, key: &Key) -> Result<Arc<Notes>> {
        loop {
            let look = |entry: Option<&Entry>| match entry.map(|entry| &entry.stage) {
                None => Some(true),
                Some(Stage::Here(_) | Stage::Making) => Some(false),
                Some(Stage::Loading | Stage::Ending) => None,
            };
            if !self.wait(key, look).await {
                return Err(Error::exists(format!("task {}", key.1)));
            }
            let mut entries = self.lock();
            if entries.contains_key(key) {
                continue;
            }
            let notes = Arc::new(Notes::new(Noted::default()));
            let stage = Stage::Making;
            let entry = Entry {
                stage,
                notes: Arc::clone(&notes),
            };
            entries.insert(key.clone(), entry);
            return Ok(notes);
        }
    }

    /// Enters a task of an earlier run.
    pub(super) fn load(&self, key: Key) -> Arc<Notes> {
        let notes = Arc::new(Notes::new(Noted::default()));
        let entry = Entry {
            stage: Stage::Loading,
            notes: Arc::clone(&notes),
        };
        self.lock().insert(key, entry);
        notes
    }

    /// Lets clients see a task.
    pub(super) fn show(&self, task: &Arc<Task>) {
        self.set(&task.key(), Stage::Here(Arc::clone(task)));
    }

    /// Hides a task that is seen; whether it was this one.
    pub(super) fn hide(&self, task: &Arc<Task>) -> bool {
        let hidden = match self.lock().get_mut(&task.key()) {
            Some(entry) if matches!(&entry.stage, Stage::Here(seen) if Arc::ptr_eq(seen, task)) => {
                entry.stage = Stage::Ending;
                true
            }
            _ => false,
        };
        if hidden {
            self.changes.send_replace(());
        }
        hidden
    }

    /// Hides a task that nobody has seen yet.
    pub(super) fn end(&self, key: &Key) {
        self.set(key, Stage::Ending);
    }

    /// Frees a name.
    pub(super) fn remove(&self, key: &Key) {
        let entry = self.lock().remove(key);
        if let Some(entry) = entry {
            entry.notes.send_modify(|noted| noted.gone = true);
        }
        self.changes.send_replace(());
    }

    /// What is known of a task in whatever stage.
    pub(super) fn notes(&self, namespace: &str, id: &str) -> Option<Arc<Notes>> {
        let key = (namespace.to_owned(), id.to_owned());
        self.lock().get(&key).map(|entry| Arc::clone(&entry.notes))
    }

    /// The names of a namespace's tasks, in order.
    pub(super) fn keys(&self, namespace: &str) -> Vec<Key> {
        let entries = self.lock();
        let seen = entries.iter().filter(|((own, _), entry)| {
            own == namespace && matches!(entry.stage, Stage::Here(_) | Stage::Loading)
        });
        let mut keys: Vec<Key> = seen.map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys
    }

    /// Whether another task than the one of that name is held by the shim at an address.
    pub(super) fn shares(&self, key: &Key, address: &str) -> bool {
        self.lock().iter().any(|(other, entry)| {
            other != key
                && matches!(&entry.stage, Stage::Here(task) if task.shim.at.address == address)
        })
    }
}

pub(super) fn not_here(id: &str) -> Error {
    Error::not_found(format!("task {id} not found"))
}
