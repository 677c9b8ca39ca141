//! When to try again, and when no more.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use super::limits::Limits;

/// Counts attempts that got no further.
#[derive(Debug, Clone)]
pub(super) struct Attempts {
    done: u32,
    most: u32,
    pause: Duration,
    longest: Duration,
}

impl Attempts {
    /// None yet.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            done: 0,
            most: limits.attempts,
            pause: limits.pause,
            longest: limits.longest_pause,
        }
    }

    /// Fewer, where somebody else can be asked.
    pub(super) fn few(mut self) -> Self {
        self.most = self.most.min(2);
        self
    }

    /// Notes a failed attempt and waits for the next; false where there is none. The pause doubles,
    /// with a part at random so that clients that failed together do not come back together.
    pub(super) async fn again(&mut self, asked: Option<Duration>) -> bool {
        self.done += 1;
        if self.done >= self.most {
            return false;
        }
        let doubled = self.pause.saturating_mul(1 << (self.done - 1).min(16));
        let part = u32::try_from(RandomState::new().hash_one(0) & 0xff).unwrap_or(0);
        let random = doubled / 2 + doubled / 2 * part / 0xff;
        let pause = asked.map_or(random, |asked| asked + random / 4);
        tokio::time::sleep(pause.min(self.longest)).await;
        true
    }

    /// It got further.
    pub(super) fn reset(&mut self) {
        self.done = 0;
    }

    /// How many failed.
    pub(super) fn failed(&self) -> u32 {
        self.done
    }
}

/// Tells whether a transfer is too slow to be waited for. Only time spent waiting for the other side
/// counts.
#[derive(Debug)]
pub(super) struct Meter {
    waited: Duration,
    moved: u64,
    window: Duration,
    slowest: u64,
}

impl Meter {
    /// Nothing has moved.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            waited: Duration::ZERO,
            moved: 0,
            window: limits.window,
            slowest: limits.slowest,
        }
    }

    /// Notes bytes that were waited for since `start`; false where there were too few.
    pub(super) fn moved(&mut self, bytes: u64, start: Instant) -> bool {
        self.waited += start.elapsed();
        self.moved += bytes;
        if self.waited < self.window {
            return true;
        }
        let enough = self.moved >= self.slowest.saturating_mul(self.waited.as_secs().max(1));
        self.waited = Duration::ZERO;
        self.moved = 0;
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn attempts_end() {
        let limits = Limits {
            attempts: 3,
            pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(4),
            ..Limits::default()
        };
        let mut attempts = Attempts::new(&limits);
        let asked = Some(Duration::from_secs(3600));
        assert!(attempts.again(asked).await);
        assert!(attempts.again(None).await);
        assert!(!attempts.again(None).await);
        attempts.reset();
        assert!(attempts.again(None).await);
    }

    #[test]
    fn drips_are_too_slow() {
        let limits = Limits {
            window: Duration::from_secs(10),
            slowest: 100,
            ..Limits::default()
        };
        let ago = |seconds| {
            Instant::now()
                .checked_sub(Duration::from_secs(seconds))
                .unwrap()
        };
        let mut meter = Meter::new(&limits);
        assert!(meter.moved(500, ago(5)));
        assert!(meter.moved(600, ago(5)));
        assert!(meter.moved(1, ago(9)));
        assert!(!meter.moved(1, ago(2)));
    }
}
