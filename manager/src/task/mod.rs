//! Tasks: running containers, each held by a shim, which outlives the daemon.
//!
//! | file | |
//! |---|---|
//! | `bundle.rs` | the directory of a task |
//! | `runtime.rs` | which program a runtime's name stands for |
//! | `program.rs` | running a program |
//! | `shim.rs` | starting, finding and cleaning up after shims |
//! | `grpc.rs` | speaking to those that speak gRPC |
//! | `table.rs` | the tasks that there are, and what stage each is in |
//! | `create.rs` | making a task |
//! | `cgroups.rs` | a wait of the kernel that passes meanwhile |
//! | `end.rs` | how a task ends: deleted, or with its shim |
//! | `restore.rs` | finding the tasks of an earlier run of the daemon |
//! | `events.rs` | what shims tell, on its way to the log |
//! | `checkpoint.rs` | what CRIU writes of a task, as content |
//! | `calls.rs` | everything else that a task can be asked |
//! | `pod.rs` | sandboxes that shims hold |
//!
//! Nothing is locked while a shim is asked, and no shim is waited for without a limit, but for the
//! end of a process.

pub mod bundle;
mod calls;
mod cgroups;
mod checkpoint;
mod create;
mod end;
mod events;
mod grpc;
mod pod;
mod program;
mod restore;
pub mod runtime;
pub mod shim;
mod table;

use std::collections::HashSet;
use std::fmt::Display;
use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use knarr_proto::containerd::task::v2::StateResponse;
use tokio::sync::OnceCell;

pub use calls::Process;
pub use checkpoint::Dump;
pub use create::Order;
pub use pod::{PodOrder, Pods};
pub use program::raise_descriptor_limit;
pub use runtime::Programs;
pub use shim::{Shim, Shims};
pub use table::{Exit, Task};

use crate::error::{Error, Result};
use crate::store::containers::Containers;
use crate::store::content::Content;
use crate::store::events::Log;
use table::Table;

/// The directory of bundles below the state directory, named as others know it.
const KIND: &str = "io.containerd.runtime.v2.task";

/// How long a shim may take for what it does at once.
const CALL: Duration = Duration::from_secs(30);

/// How long a shim may take for what depends on the size of a container, on hooks and on disks.
const LONG: Duration = Duration::from_secs(600);

/// How long a shim may take to say how a process is, where many are asked.
const STATE: Duration = Duration::from_secs(2);

/// A task with the state of its first process, `None` where its shim does not answer.
pub type Listed = (String, u32, Option<StateResponse>);

/// The tasks of one manager. Clones share them.
#[derive(Debug, Clone)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shims: Shims,
    containers: Containers,
    content: Content,
    log: Log,
    table: Table,
    ahead: cgroups::Ahead,
    /// Hashes of the last events of the run before, which shims may tell again.
    before: Mutex<HashSet<u64>>,
    /// What the log says of tasks of earlier runs.
    told: OnceCell<restore::Told>,
}

impl Tasks {
    /// Tasks with bundles below the directory `state`, whose runtimes have these programs.
    #[must_use]
    pub fn new(
        state: &Path,
        containers: Containers,
        content: Content,
        log: Log,
        programs: Programs,
    ) -> Self {
        Self(Arc::new(Inner {
            shims: Shims::new(state, KIND, programs),
            containers,
            content,
            log,
            table: Table::default(),
            ahead: cgroups::Ahead::default(),
            before: Mutex::default(),
            told: OnceCell::new(),
        }))
    }

    /// A container is being made, which a task will soon be made of as a rule.
    pub fn expect(&self) {
        self.0.ahead.begin();
    }

    /// The shims.
    #[must_use]
    pub fn shims(&self) -> &Shims {
        &self.0.shims
    }
}

/// Does what must not be left half done, also where whoever asked for it goes away.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|error| Err(Error::internal(format!("the request failed: {error}"))))
}

/// Writes a line to the daemon's log, which nobody may read any more.
fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "knarrd: {line}");
}
