//! containerd-shim-knarr-v2: holds the containers of one pod for a daemon that may come and go.
//!
//! One thread around epoll; the runtime is a library, so creating, starting and executing are
//! calls and no programs.
//!
//! | file | |
//! |---|---|
//! | `args.rs` | the command line, as daemons call it |
//! | `start.rs` | `start`: makes or finds the shim of a group, and tells its address |
//! | `cleanup.rs` | `delete`: removes what a shim that died has left |
//! | `options.rs` | options of the runtime, in the forms that daemons send |
//! | `info.rs` | `-info` |
//! | `server.rs` | the loop: connections, signals, descriptors |
//! | `service.rs` | the task service; below it the sandbox service and the life of processes |
//! | `task.rs` | containers and their processes as the shim remembers them |
//! | `stdio.rs` | standard streams of processes |
//! | `logger.rs` | log URIs, and programs that log |
//! | `pump.rs` | copying between two descriptors |
//! | `rootfs.rs` | mounts that make a container's root |
//! | `idmap.rs` | those of user namespaces |
//! | `metrics.rs` | figures of cgroups in the form that daemons read |
//! | `events.rs` | telling the daemon what happens |
//! | `poll.rs` | epoll and its tokens |

#![deny(clippy::print_stderr, clippy::print_stdout)]

/// Writes a line to the log, which nobody may read any more: that must not end the shim.
macro_rules! complain {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod args;
mod cleanup;
mod events;
mod idmap;
mod info;
mod logger;
mod metrics;
mod options;
mod poll;
mod pump;
mod rootfs;
mod server;
mod service;
mod start;
mod stdio;
mod task;

use std::process::ExitCode;

use knarr_runtime::error::{Context, Result};
use knarr_runtime::sys::heap::Heap;

use args::{Action, Args};

#[global_allocator]
static HEAP: Heap = Heap::new();

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("containerd-shim-knarr-v2: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args = Args::parse(std::env::args_os().skip(1))?;
    match args.action {
        Action::Version => print(
            concat!(
                "containerd-shim-knarr-v2 version ",
                env!("CARGO_PKG_VERSION"),
                "\n"
            )
            .as_bytes(),
        ),
        Action::Info => print(&info::info()?),
        Action::Start => print(&start::start(&args)?),
        Action::Delete => print(&cleanup::delete(&args)?),
        Action::Serve => {
            knarr_runtime::protect::reexec()?;
            knarr_runtime::sys::process::keep_statuses();
            server::serve(args)
        }
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .context(|| "write(standard output)")
}
