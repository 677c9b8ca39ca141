//! Telling how far something is, without waiting for whoever listens.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::model::Descriptor;

/// One piece of news.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What happens, in the words that clients show.
    pub event: String,
    /// To what.
    pub name: String,
    /// What that is a part of.
    pub parents: Vec<String>,
    /// How much is done, in bytes.
    pub progress: u64,
    /// How much there is, in bytes; 0 where that is not known.
    pub total: u64,
    /// The blob, where it is one.
    pub target: Option<Descriptor>,
}

impl Progress {
    /// Something happens as a whole.
    #[must_use]
    pub fn step(event: impl Into<String>) -> Self {
        Self {
            event: event.into(),
            ..Self::default()
        }
    }

    /// Something happens to a blob.
    #[must_use]
    pub fn of(event: &str, target: &Descriptor, done: u64) -> Self {
        Self {
            event: event.to_owned(),
            name: target.reference(),
            parents: Vec::new(),
            progress: done,
            total: target.size,
            target: Some(target.clone()),
        }
    }
}

/// Where news goes. What nobody has heard yet is replaced by what says the same of a later moment,
/// so that a slow listener costs neither time nor memory.
#[derive(Debug, Clone, Default)]
pub struct Reporter(Option<Arc<Queue>>);

/// The other end.
#[derive(Debug)]
pub struct Listener(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    news: Mutex<(VecDeque<Progress>, bool)>,
    changed: Notify,
}

impl Queue {
    fn news(&self) -> MutexGuard<'_, (VecDeque<Progress>, bool)> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// A reporter and the one who listens to it.
    #[must_use]
    pub fn new() -> (Self, Listener) {
        let queue = Arc::new(Queue::default());
        (Self(Some(Arc::clone(&queue))), Listener(queue))
    }

    /// Tells something.
    pub fn tell(&self, progress: Progress) {
        let Some(queue) = &self.0 else { return };
        let mut news = queue.news();
        let same = |old: &&mut Progress| {
            !progress.name.is_empty()
                && (&old.event, &old.name) == (&progress.event, &progress.name)
        };
        match news.0.iter_mut().find(same) {
            Some(old) => *old = progress,
            None => news.0.push_back(progress),
        }
        drop(news);
        queue.changed.notify_one();
    }

    /// Nothing more will be told.
    pub fn end(&self) {
        if let Some(queue) = &self.0 {
            queue.news().1 = true;
            queue.changed.notify_one();
        }
    }
}

impl Listener {
    /// The next news; waits for it. `None` at the end.
    pub async fn next(&mut self) -> Option<Progress> {
        loop {
            {
                let mut news = self.0.news();
                if let Some(first) = news.0.pop_front() {
                    return Some(first);
                }
                if news.1 {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_hears_the_newest() {
        let (reporter, mut listener) = Reporter::new();
        let news = |event: &str, name: &str, progress| Progress {
            event: event.to_owned(),
            name: name.to_owned(),
            progress,
            ..Progress::default()
        };
        for done in 0..1000 {
            reporter.tell(news("downloading", "a", done));
            reporter.tell(news("downloading", "b", done));
        }
        reporter.tell(news("complete", "a", 1000));
        reporter.end();
        assert_eq!(listener.next().await, Some(news("downloading", "a", 999)));
        assert_eq!(listener.next().await, Some(news("downloading", "b", 999)));
        assert_eq!(listener.next().await, Some(news("complete", "a", 1000)));
        assert_eq!(listener.next().await, None);
    }
}
