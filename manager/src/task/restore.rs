//! Finding the tasks of an earlier run of the daemon: each by its bundle, all at once.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use knarr_proto::any;
use knarr_proto::containerd::task::v2::StateRequest;
use knarr_proto::containerd::v1::types::Status;
use knarr_proto::events::{TaskCreate, TaskDelete, TaskExit};
use knarr_proto::prost_types::Any;
use knarr_proto::ttrpc;
use tokio::time::{sleep, timeout};

use super::bundle::Bundle;
use super::create::read_log;
use super::shim::{Shim, call};
use super::table::{Exit, Key, Notes, Task, Waits};
use super::{Tasks, complain};
use crate::error::Result;

/// How long a shim may take to say that it is there.
const FIRST_WORDS: Duration = Duration::from_secs(5);

/// How long a shim may take to tell itself what happened while the daemon was away.
const NEWS: Duration = Duration::from_secs(3);

/// After how long a shim that was just being started has noted its address.
const STARTING: Duration = Duration::from_millis(300);

/// What the log says last of each task.
pub(super) type Told = HashMap<Key, Last>;

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Last {
    created: bool,
    exit: Option<Exit>,
    deleted: bool,
}

impl Tasks {
    /// Begins: finds the tasks that are there, and starts and finds shims from now on.
    /// `address` is the daemon's main socket.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub fn begin(&self, address: &Path) -> Result<()> {
        self.0.shims.set_address(address);
        let bundles = self.0.shims.bundles();
        self.0.shims.remove_dead_sockets(&bundles);
        if bundles.is_empty() {
            return Ok(());
        }
        self.remember()?;
        let keys = bundles.iter();
        let keys = keys.map(|bundle| (bundle.namespace.clone(), bundle.id.clone()));
        self.0.log.started_with(keys);
        for bundle in bundles {
            let key = (bundle.namespace.clone(), bundle.id.clone());
            let notes = self.0.table.load(key);
            tokio::spawn(self.clone().restore(bundle, notes));
        }
        Ok(())
    }

    async fn restore(self, bundle: Bundle, notes: Arc<Notes>) {
        let key = (bundle.namespace.clone(), bundle.id.clone());
        let mut at = bundle.bootstrap();
        if at.is_none() {
            sleep(STARTING).await;
            at = bundle.bootstrap();
        }
        let shim = match at {
            Some(at) => self.0.shims.connect(at).await.ok(),
            None => None,
        };
        let Some(shim) = shim else {
            return self.restore_dead(key, &bundle, &notes).await;
        };
        let request = StateRequest {
            id: bundle.id.clone(),
            exec_id: String::new(),
        };
        let (client, options) = (shim.task(), call(&bundle.namespace, Some(FIRST_WORDS)));
        let pid = match client.state(&request, &options).await {
            Ok(state) => {
                if state.status() == Status::Stopped {
                    let exit = Exit {
                        pid: state.pid,
                        code: state.exit_status,
                        at: state.exited_at,
                    };
                    notes.send_modify(|noted| noted.exit = Some(exit));
                    tokio::spawn(
                        self.clone()
                            .missed(bundle.clone(), Arc::clone(&notes), exit),
                    );
                }
                state.pid
            }
            Err(ttrpc::Error::Closed(_)) => return self.restore_dead(key, &bundle, &notes).await,
            Err(ttrpc::Error::Status(status)) if status.code == ttrpc::Code::NotFound => {
                return self.restore_deleted(key, &bundle, &shim, &notes).await;
            }
            Err(error) => {
                // It may come round.
                complain(format_args!("the shim of {}/{}: {error}", key.0, key.1));
                0
            }
        };
        let log = read_log(&bundle);
        let task = Arc::new(Task {
            bundle,
            shim,
            pid,
            notes,
            _log: log,
            watch: OnceLock::new(),
            waits: Waits::default(),
            deleting: AtomicU32::default(),
        });
        self.0.table.show(&task);
        self.attend(&task);
    }

    /// Tells of an exit that neither the log has nor the shim tells.
    async fn missed(self, bundle: Bundle, notes: Arc<Notes>, exit: Exit) {
        let mut noted = notes.subscribe();
        let told = noted.wait_for(|noted| noted.exit_told);
        let told = timeout(NEWS, told).await.is_ok();
        if told {
            return;
        }
        if self.last_of(&bundle).await.exit.is_some() {
            notes.send_modify(|noted| noted.exit_told = true);
            return;
        }
        self.tell_exit(&bundle, &notes, exit).await;
    }

    /// A task whose shim has died meanwhile, or that was not made to the end.
    async fn restore_dead(&self, key: Key, bundle: &Bundle, notes: &Notes) {
        self.0.table.end(&key);
        let last = self.last_of(bundle).await;
        let made = bundle.pid();
        // Of what nobody heard to begin with nobody hears that it ends.
        let known = last.created || made.is_some();
        notes.send_modify(|noted| {
            noted.exit = last.exit;
            noted.exit_told |= last.exit.is_some() || !known;
            noted.delete_told |= last.deleted || !known;
        });
        let pid = last.exit.map(|exit| exit.pid).or(made).unwrap_or(0);
        self.clean_up(bundle, notes, pid).await;
        self.0.table.remove(&key);
    }

    /// A task that its shim does not know: being made or being deleted when the daemon ended.
    async fn restore_deleted(&self, key: Key, bundle: &Bundle, shim: &Shim, notes: &Notes) {
        self.0.table.end(&key);
        let last = self.last_of(bundle).await;
        if last.created && !last.deleted {
            // The shim keeps what it has not told yet.
            let mut noted = notes.subscribe();
            let told = timeout(NEWS, noted.wait_for(|noted| noted.delete_logged));
            drop(told.await);
        }
        self.see_off(bundle, shim, notes, None).await;
        self.0.table.remove(&key);
    }

    async fn last_of(&self, bundle: &Bundle) -> Last {
        let told = self.0.told.get_or_init(|| async {
            let this = self.clone();
            let read = move || this.read_log();
            let read = tokio::task::spawn_blocking(read).await;
            read.unwrap_or_default()
        });
        let key = (bundle.namespace.clone(), bundle.id.clone());
        told.await.get(&key).copied().unwrap_or_default()
    }

    /// What the log says of the tasks that there are.
    fn read_log(&self) -> Told {
        let mut told = Told::new();
        let read = self.0.log.last(u64::MAX, |event| {
            let any = event.event.map(Any::from).unwrap_or_default();
            let namespace = event.namespace;
            match event.topic.as_str() {
                "/tasks/create" => {
                    if let Ok(event) = any::unpack::<TaskCreate>(&any) {
                        let last = Last {
                            created: true,
                            ..Last::default()
                        };
                        told.insert((namespace, event.container_id), last);
                    }
                }
                "/tasks/exit" => {
                    if let Ok(event) = any::unpack::<TaskExit>(&any)
                        && event.id == event.container_id
                    {
                        let last = told.entry((namespace, event.container_id)).or_default();
                        last.exit = Some(Exit {
                            pid: event.pid,
                            code: event.exit_status,
                            at: event.exited_at,
                        });
                    }
                }
                "/tasks/delete" => {
                    if let Ok(event) = any::unpack::<TaskDelete>(&any)
                        && (event.id.is_empty() || event.id == event.container_id)
                    {
                        let last = told.entry((namespace, event.container_id)).or_default();
                        last.deleted = true;
                    }
                }
                _ => {}
            }
        });
        told.retain(|(namespace, id), _| self.0.table.notes(namespace, id).is_some());
        told.shrink_to_fit();
        if let Err(error) = read {
            complain(format_args!("what was told of tasks: {error}"));
        }
        told
    }
}
