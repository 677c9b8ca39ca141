//! What tests of the daemon share: the program, a connection to it, chance.
#![allow(dead_code, reason = "not every file of tests uses all of it")]

pub mod wire;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// A daemon that is killed when the test ends.
pub struct Daemon {
    pub child: Child,
    pub socket: PathBuf,
}

pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knarrd"));
    command.arg("--root").arg(dir.join("root"));
    command.arg("--state").arg(dir.join("state"));
    command.arg("--address").arg(dir.join("socket"));
    command
}

impl Daemon {
    pub fn start(dir: &Path) -> Self {
        Self::run(dir, command(dir))
    }

    /// Runs a command that serves at the socket below `dir`.
    pub fn run(dir: &Path, mut command: Command) -> Self {
        let socket = dir.join("socket");
        let child = command.spawn().unwrap();
        Self { child, socket }
    }

    pub async fn connect(&mut self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display())).unwrap();
        let start = Instant::now();
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(60), "{error}"),
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-namespace", "test".parse().unwrap());
    request
}

/// Numbers that look like chance and are the same each time.
#[derive(Debug)]
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// Something of a message's shape: fields of numbers, texts and further messages.
    pub fn message(&mut self, depth: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(5) {
            let field = u8::try_from(self.below(11) + 1).unwrap() << 3;
            if self.below(3) == 0 {
                bytes.extend([field, self.byte(), 1]);
                continue;
            }
            let texts = [
                "",
                "a",
                "labels",
                "labels.x",
                "overlayfs",
                "/a/b",
                "\0",
                "sha256:",
            ];
            let inner = match self.below(3) {
                0 if depth > 0 => self.message(depth - 1),
                1 => (0..self.below(20)).map(|_| self.byte()).collect(),
                _ => texts[usize::try_from(self.below(8)).unwrap()].into(),
            };
            let inner = &inner[..inner.len().min(127)];
            bytes.extend([field | 2, u8::try_from(inner.len()).unwrap()]);
            bytes.extend(inner);
        }
        bytes
    }
}
