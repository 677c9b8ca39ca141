//! The log of what happened: written with each change, followed by subscribers.
//!
//! Whoever changes something calls `tell` within the change, so that an event is in the log if and
//! only if the change is on the disk, and in the order of the changes. What shims and clients report
//! gets a change of its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use knarr_proto::any;
use knarr_proto::prost::{Message, Name};
use tokio::sync::watch;

use super::database::{Database, Look, Write};
use super::filter::{Fields, Filters};
use super::schema::{EVENTS, Event, Typed, decode};
use super::{event_fields, name};
use crate::error::{Code, Error, Result};

/// How many events are read at once.
const BATCH: usize = 64;

/// How many events are kept. Subscribers are seconds behind at most; the rest is for those who ask
/// what happened before.
const KEPT: u64 = 100_000;

/// How long after a start the daemon's clients may take to come back and still hear what happened since.
const COMING_BACK: Duration = Duration::from_secs(120);

impl Fields for Event {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["namespace"] => Some(self.namespace.clone()),
            ["topic"] => Some(self.topic.clone()),
            ["event", path @ ..] => event_fields::field(self.event.as_ref()?, path),
            _ => None,
        }
    }
}

/// Adds to the log that `event` happened, as a part of a change.
pub(crate) fn tell<M: Message + Name>(write: &Write, namespace: &str, topic: &str, event: &M) {
    let any = any::pack(event);
    let (type_url, value) = (any.type_url, any.value);
    write.tell(namespace, topic, Typed { type_url, value });
}

/// The log of one manager.
#[derive(Debug, Clone)]
pub struct Log(Arc<Database>, Arc<Mutex<Missed>>);

/// What happens between a start of the daemon and the moment its clients are back: they do not hear it
/// while it happens, since their connections broke with the daemon that was there before.
#[derive(Debug, Default)]
struct Missed {
    /// The last event before the start.
    after: u64,
    /// When nobody is waited for any more.
    until: Option<Instant>,
    /// The tasks that outlived the start, by namespace and id, but for those whose end a client knows.
    tasks: HashSet<(String, String)>,
}

impl Missed {
    fn takes(&self, event: &Event) -> bool {
        let Some(id) = event.field(&["event", "container_id"]) else {
            return false;
        };
        event.topic.starts_with("/tasks/") && self.tasks.contains(&(event.namespace.clone(), id))
    }
}

impl Log {
    /// The log in a database.
    #[must_use]
    pub fn new(database: Arc<Database>) -> Self {
        Self(database, Arc::default())
    }

    fn missed(&self) -> MutexGuard<'_, Missed> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those who follow the log soon hear as well what these tasks do from now on.
    pub fn started_with(&self, tasks: impl Iterator<Item = (String, String)>) {
        let after = *self.0.newest_event().borrow();
        *self.missed() = Missed {
            after,
            until: Instant::now().checked_add(COMING_BACK),
            tasks: tasks.collect(),
        };
    }

    /// A client has made or deleted a task of this name: it knows what became of the one before.
    pub fn known(&self, namespace: &str, id: &str) {
        let mut missed = self.missed();
        if !missed.tasks.is_empty() {
            missed.tasks.remove(&(namespace.to_owned(), id.to_owned()));
        }
    }

    /// Adds an event that a client or a shim reports, at the time that it names.
    ///
    /// # Errors
    /// `InvalidArgument` for a topic or namespace that is none, or without a time.
    pub async fn add(&self, event: Event) -> Result<()> {
        check_topic(&event.topic)
            .map_err(|error| error.context(format!("envelope topic {:?}", event.topic)))?;
        name::check(&event.namespace).map_err(|error| error.context("event envelope"))?;
        if event.time == 0 {
            return Err(Error::invalid("event envelope: the timestamp is missing"));
        }
        let job = move |write: &Write| {
            write.tell_at(event.clone());
            Ok(())
        };
        self.0.write_soon(job).await
    }

    /// Follows the log from now on; soon after a start, also what happened since to tasks that had been there.
    #[must_use]
    pub fn follow(&self, filters: Filters) -> Follower {
        let news = self.0.newest_event();
        let now = *news.borrow();
        let mut missed = self.missed();
        let since = missed.until.is_some_and(|until| Instant::now() < until);
        if !since {
            missed.tasks = HashSet::new();
        }
        let after = if since { missed.after } else { now };
        drop(missed);
        Follower {
            log: self.clone(),
            filters,
            news,
            after,
            now,
        }
    }

    /// Gives the last `count` events to `row`, the oldest first.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub fn last(&self, count: u64, mut row: impl FnMut(Event)) -> Result<()> {
        let before = self.0.newest_event().borrow().saturating_sub(count);
        self.0.read(|read| {
            read.rows(EVENTS, before.saturating_add(1), |number, bytes| {
                row(decode(bytes, || format!("event {number}"))?);
                Ok(true)
            })
        })
    }

    /// Removes the oldest events where there are too many.
    ///
    /// # Errors
    /// Where the disk fails.
    pub async fn trim(&self) -> Result<()> {
        let first_kept = self.0.newest_event().borrow().saturating_sub(KEPT);
        loop {
            let job = move |write: &Write| {
                let mut old = Vec::new();
                write.rows(EVENTS, 0, |number, _| {
                    let remove = number <= first_kept && old.len() < BATCH;
                    if remove {
                        old.push(number);
                    }
                    Ok(remove)
                })?;
                for number in &old {
                    write.remove(EVENTS, *number)?;
                }
                Ok(old.len())
            };
            if self.0.write_soon(job).await? < BATCH {
                return Ok(());
            }
        }
    }
}

/// Reads a log on.
#[derive(Debug)]
pub struct Follower {
    log: Log,
    filters: Filters,
    news: watch::Receiver<u64>,
    after: u64,
    /// The last event when this began.
    now: u64,
}

impl Follower {
    /// The next events that the filters take, at least one; waits for it.
    ///
    /// # Errors
    /// Where the database can't be read, or is closed.
    pub async fn next(&mut self) -> Result<Vec<Event>> {
        loop {
            let after = self.after;
            let newest = *self
                .news
                .wait_for(|newest| *newest > after)
                .await
                .map_err(|_| Error::new(Code::Unavailable, "the database is closed"))?;
            let mut found = Vec::new();
            let mut seen = 0;
            let Log(database, _) = &self.log;
            database.read(|read| {
                read.rows(EVENTS, after.saturating_add(1), |number, bytes| {
                    if seen == BATCH {
                        return Ok(false);
                    }
                    seen += 1;
                    self.after = number;
                    let event = decode(bytes, || format!("event {number}"))?;
                    let heard = number > self.now || self.log.missed().takes(&event);
                    if heard && self.filters.take(&event) {
                        found.push(event);
                    }
                    Ok(true)
                })
            })?;
            if seen == 0 {
                // What was announced has been trimmed.
                self.after = newest;
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

/// A topic is a path of names: `/tasks/exit`.
fn check_topic(topic: &str) -> Result<()> {
    let Some(names) = topic.strip_prefix('/') else {
        return Err(Error::invalid("it must start with '/'"));
    };
    names.split('/').try_for_each(name::check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::database::now;

    fn event(topic: &str) -> Event {
        Event {
            time: now(),
            namespace: "default".to_owned(),
            topic: topic.to_owned(),
            event: None,
        }
    }

    #[tokio::test]
    async fn followers_see_what_they_asked_for_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&dir.path().join("db")).unwrap());
        let log = Log::new(database);
        log.add(event("/a/before")).await.unwrap();
        let mut follower = log.follow(Filters::parse(&["topic~=^/a/"]).unwrap());
        for topic in ["/a/one", "/b/one", "/a/two"] {
            log.add(event(topic)).await.unwrap();
        }
        let mut topics = Vec::new();
        while topics.len() < 2 {
            let next = follower.next().await.unwrap();
            topics.extend(next.into_iter().map(|event| event.topic));
        }
        assert_eq!(topics, ["/a/one", "/a/two"]);
    }

    #[tokio::test]
    async fn who_comes_back_hears_what_outlived_tasks_did() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(Arc::new(Database::open(&dir.path().join("db")).unwrap()));
        let exit = |id: &str| {
            let any = any::pack(&knarr_proto::events::TaskExit {
                container_id: id.to_owned(),
                ..Default::default()
            });
            Event {
                event: Some(any.into()),
                ..event("/tasks/exit")
            }
        };
        let ids = ["old", "other", "deleted"];
        log.add(exit("old")).await.unwrap();
        log.started_with(
            ids.map(|id| ("default".to_owned(), id.to_owned()))
                .into_iter(),
        );
        for id in ["other", "deleted", "new", "old"] {
            log.add(exit(id)).await.unwrap();
        }
        log.add(event("/a/one")).await.unwrap();
        log.known("default", "deleted");
        let mut follower = log.follow(Filters::parse(&[""; 0]).unwrap());
        log.add(exit("new")).await.unwrap();
        let mut heard = Vec::new();
        while heard.len() < 3 {
            let next = follower.next().await.unwrap();
            heard.extend(
                next.iter()
                    .map(|event| event.field(&["event", "container_id"])),
            );
        }
        assert_eq!(heard, ["other", "old", "new"].map(|id| Some(id.to_owned())));
    }

    #[tokio::test]
    async fn what_is_no_event_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(Arc::new(Database::open(&dir.path().join("db")).unwrap()));
        for topic in ["", "a", "/", "/a/", "//", "/a b"] {
            let error = log.add(event(topic)).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{topic:?}: {error}");
        }
        let no_time = Event {
            time: 0,
            ..event("/a")
        };
        assert!(log.add(no_time).await.is_err());
    }
}
