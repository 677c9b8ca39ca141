//! What shims tell, on its way to the log.
//!
//! A shim sends one event after the other, and the next one when the last is answered: then it is in
//! the log, for good. One that was in the log already when the daemon was killed, before the answer,
//! comes again and is left out.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use knarr_proto::any;
use knarr_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use knarr_proto::events::{TaskDelete, TaskExecStarted, TaskExit};
use knarr_proto::prost::bytes::Bytes;
use knarr_proto::prost::{Message, Name};
use knarr_proto::prost_types::Any;
use knarr_proto::ttrpc::{self, Call, services};

use super::table::{Exit, Notes};
use super::{Tasks, complain};
use crate::error::{Code, Error, Result};
use crate::store::schema::Event;

/// How many events of the run before are known again. Each shim has one under way at most.
const BEFORE: u64 = 2048;

/// When a full disk is tried again.
const AGAIN: Duration = Duration::from_millis(500);

impl Tasks {
    /// Serves the events service of shims at a socket, for as long as the daemon is there.
    ///
    /// # Errors
    /// Where the socket is none.
    pub fn listen(&self, listener: UnixListener) -> Result<()> {
        let broken = |error| Error::io("the socket for events", &error);
        listener.set_nonblocking(true).map_err(broken)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(broken)?;
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => {
                        let this = this.clone();
                        let serve = async move {
                            let answer = |call| this.clone().answer(call);
                            let _ = ttrpc::serve(socket, answer).await;
                        };
                        tokio::spawn(serve);
                    }
                    Err(error) => {
                        complain(format_args!("a shim is turned away: {error}"));
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        });
        Ok(())
    }

    async fn answer(self, call: Call) -> Result<Bytes, ttrpc::Status> {
        if !services::EVENTS.contains(&&*call.service) || call.method != "Forward" {
            return Err(call.unimplemented());
        }
        let request: ForwardRequest = call.request()?;
        let refused =
            |error: Error| ttrpc::Status::new(ttrpc::Code::InvalidArgument, error.to_string());
        let envelope = request.envelope;
        let envelope = envelope.ok_or_else(|| refused(Error::invalid("envelope is missing")))?;
        let time = envelope.timestamp.unwrap_or_default();
        let seconds = time.seconds.saturating_mul(1_000_000_000);
        let event = Event {
            time: seconds.saturating_add(time.nanos.into()),
            namespace: envelope.namespace,
            topic: envelope.topic,
            event: envelope.event.map(Into::into),
        };
        self.forwarded(event).await.map_err(refused)?;
        Ok(Bytes::new())
    }

    async fn forwarded(&self, event: Event) -> Result<()> {
        if self.was_before(&event) {
            return Ok(());
        }
        let deleted = match event.topic.as_str() {
            "/tasks/exit" => match self.note_exit(&event) {
                true => None,
                false => return Ok(()),
            },
            "/tasks/exec-started" => {
                self.note_exec(&event);
                None
            }
            "/tasks/delete" => match self.note_delete(&event) {
                Some((true, notes)) => Some(notes),
                Some((false, _)) => return Ok(()),
                None => None,
            },
            _ => None,
        };
        self.record(event).await?;
        if let Some(notes) = deleted {
            notes.send_modify(|noted| noted.delete_logged = true);
        }
        Ok(())
    }

    fn was_before(&self, event: &Event) -> bool {
        let before = self.0.before.lock();
        let before = before.unwrap_or_else(PoisonError::into_inner);
        !before.is_empty() && before.contains(&hash(event))
    }

    /// Notes that a task has ended; whether that is news.
    fn note_exit(&self, event: &Event) -> bool {
        let Some(exit) = unpack::<TaskExit>(event) else {
            return true;
        };
        let Some(notes) = self.0.table.notes(&event.namespace, &exit.container_id) else {
            return true;
        };
        if exit.id != exit.container_id && !exit.id.is_empty() {
            notes.send_if_modified(|noted| noted.execs.remove(&exit.id).is_some());
            return true;
        }
        let mut news = false;
        notes.send_modify(|noted| {
            news = !std::mem::replace(&mut noted.exit_told, true);
            noted.exit = Some(Exit {
                pid: exit.pid,
                code: exit.exit_status,
                at: exit.exited_at,
            });
        });
        news
    }

    /// Notes that a further process runs.
    fn note_exec(&self, event: &Event) {
        if let Some(exec) = unpack::<TaskExecStarted>(event)
            && let Some(notes) = self.0.table.notes(&event.namespace, &exec.container_id)
        {
            notes.send_modify(|noted| {
                noted.execs.insert(exec.exec_id, exec.pid);
            });
        }
    }

    /// Notes that a task is deleted; whether that is news, and of which.
    fn note_delete(&self, event: &Event) -> Option<(bool, Arc<Notes>)> {
        let deleted = unpack::<TaskDelete>(event)?;
        if deleted.id != deleted.container_id && !deleted.id.is_empty() {
            return None;
        }
        let notes = self
            .0
            .table
            .notes(&event.namespace, &deleted.container_id)?;
        let news = notes.send_if_modified(|noted| !std::mem::replace(&mut noted.delete_told, true));
        Some((news, notes))
    }

    /// Puts an event into the log; where the disk is full, as soon as it is not.
    ///
    /// # Errors
    /// For what is no event.
    pub(super) async fn record(&self, event: Event) -> Result<()> {
        let mut complained = false;
        loop {
            match self.0.log.add(event.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) if error.code() == Code::InvalidArgument => return Err(error),
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        complain(format_args!("{} waits: {error}", event.topic));
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Reads what shims may tell again.
    pub(super) fn remember(&self) -> Result<()> {
        let before = self.0.before.lock();
        let mut before = before.unwrap_or_else(PoisonError::into_inner);
        self.0.log.last(BEFORE, |event| {
            before.insert(hash(&event));
        })
    }
}

fn unpack<M: Message + Name + Default>(event: &Event) -> Option<M> {
    let any = Any::from(event.event.clone()?);
    any::unpack(&any).ok()
}

fn hash(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    (event.time, &event.namespace, &event.topic).hash(&mut hasher);
    if let Some(any) = &event.event {
        (&any.type_url, &any.value).hash(&mut hasher);
    }
    hasher.finish()
}
