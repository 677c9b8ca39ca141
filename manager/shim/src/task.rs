//! Containers and their processes as the shim remembers them.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::SystemTime;

use knarr_proto::containerd::v1::types::Status as Stage;
use knarr_proto::prost_types::Timestamp;
use knarr_runtime::cgroup::OomWatch;
use knarr_runtime::container::Container;

use crate::service::Saved;
use crate::stdio::Paths;

/// The state directory of the runtime, below which is one for each namespace.
pub const DEFAULT_ROOT: &str = "/run/containerd/knarr";
/// The file in a bundle that names the state directory, for whoever cleans up after this shim.
pub const ROOT_FILE: &str = "knarr.root";

/// A call that waits for a process's end.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// The client.
    pub client: u32,
    /// The call.
    pub stream: u32,
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Its code, or 128 and the signal.
    pub code: u32,
    /// When.
    pub at: SystemTime,
}

/// A process of a container, from its announcement until it is deleted.
#[derive(Debug, Default)]
pub struct Process {
    /// 0 before it exists.
    pub pid: i32,
    /// Where its streams lead.
    pub paths: Paths,
    /// Whether its program has been started.
    pub started: bool,
    /// Its end.
    pub exit: Option<Exit>,
    /// Who waits for that.
    pub waiters: Vec<Waiter>,
    /// The pump of its input.
    pub input: Option<u32>,
    /// The pump of its terminal's output.
    pub output: Option<u32>,
    /// Its terminal's master.
    pub console: Option<OwnedFd>,
    /// The program that logs its output, until that has ended.
    pub logger: Option<i32>,
    /// What has to stay open until it is deleted.
    pub kept: Vec<OwnedFd>,
    /// What to execute, as JSON, until it is started.
    pub spec: Vec<u8>,
}

impl Process {
    /// As clients see it.
    pub fn stage(&self) -> Stage {
        match (self.exit, self.started) {
            (Some(_), _) => Stage::Stopped,
            (None, true) => Stage::Running,
            (None, false) => Stage::Created,
        }
    }

    /// Its pid as clients see it.
    pub fn pid(&self) -> u32 {
        u32::try_from(self.pid).unwrap_or(0)
    }

    /// When it ended.
    pub fn exited_at(&self) -> Option<Timestamp> {
        self.exit.map(|exit| exit.at.into())
    }

    /// Whether it is there.
    pub fn is_alive(&self) -> bool {
        self.pid > 0 && self.exit.is_none()
    }
}

/// A container.
#[derive(Debug)]
pub struct Task {
    /// What the runtime knows it by.
    pub container: Container,
    /// Its directory.
    pub bundle: PathBuf,
    /// Its first process.
    pub init: Process,
    /// Further processes by their ids.
    pub execs: BTreeMap<String, Process>,
    /// Whether it is frozen.
    pub paused: bool,
    /// Word of processes killed for want of memory, and its token's number.
    pub oom: Option<(u32, OomWatch)>,
    /// The images that it begins with, before it is started.
    pub saved: Option<Saved>,
}

/// What can be done with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its program waits to be started.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

impl Task {
    /// What can be done with it.
    pub fn condition(&self) -> Condition {
        match self.init.stage() {
            Stage::Stopped => Condition::Stopped,
            _ if self.paused => Condition::Paused,
            Stage::Running => Condition::Running,
            _ => Condition::Created,
        }
    }

    /// The process of that id; the first one's is empty.
    pub fn process(&mut self, exec_id: &str) -> Option<&mut Process> {
        match exec_id {
            "" => Some(&mut self.init),
            id => self.execs.get_mut(id),
        }
    }

    /// All processes with their ids, the first one last: with it the others end.
    pub fn processes(&mut self) -> impl Iterator<Item = (&str, &mut Process)> {
        self.execs
            .iter_mut()
            .map(|(id, process)| (id.as_str(), process))
            .chain([("", &mut self.init)])
    }
}
