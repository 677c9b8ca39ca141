//! How long, how often and how much: what keeps a registry from holding the daemon up or filling it.

use std::time::Duration;

/// Times, counts and sizes for everything that is asked of registries.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For a connection and its handshake, where hosts.toml says nothing.
    pub connect: Duration,
    /// From a request's end to the beginning of its answer.
    pub answer: Duration,
    /// The same where the registry has just been given a blob, which it may copy before it answers.
    pub commit: Duration,
    /// Without a byte, until a transfer is begun anew from where it was.
    pub idle: Duration,
    /// Over this time a transfer must have moved `slowest` bytes a second, or is begun anew.
    pub window: Duration,
    /// Bytes a second.
    pub slowest: u64,
    /// How often something is tried without getting any further.
    pub attempts: u32,
    /// How far a transfer must have come for its attempts to be counted anew, in bytes.
    pub progress: u64,
    /// The first pause between attempts; each is twice the one before.
    pub pause: Duration,
    /// The longest pause, whatever a registry asks for.
    pub longest_pause: Duration,
    /// Redirects that are followed for one request.
    pub redirects: u32,
    /// The longest manifest, in bytes.
    pub manifest: u64,
    /// The longest of other answers that are read as a whole: errors, tokens, lists.
    pub answer_body: u64,
    /// Pages of a list.
    pub pages: u32,
    /// Blobs longer than this are fetched in ranges side by side.
    pub split: u64,
    /// The length of such a range. As many as `ranges` are held in memory.
    pub range: u64,
    /// How many ranges of a blob are fetched at once.
    pub ranges: usize,
    /// How long a connection stays open for the next request.
    pub keep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            answer: Duration::from_secs(120),
            commit: Duration::from_secs(900),
            idle: Duration::from_secs(30),
            window: Duration::from_secs(60),
            slowest: 1024,
            attempts: 6,
            progress: 128 << 10,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(60),
            redirects: 10,
            manifest: 8 << 20,
            answer_body: 1 << 20,
            pages: 1000,
            split: 64 << 20,
            range: 4 << 20,
            ranges: 4,
            keep: Duration::from_secs(30),
        }
    }
}
