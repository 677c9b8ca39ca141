//! criu, the program that saves and restores process trees: finding it, driving it.
//!
//! Belongs here: the talk with `criu swrk` and its messages. Does not: what becomes of the
//! container (`container`), and which of its mounts are special (`rootfs`).
//!
//! `criu swrk FD` serves one request on a socket of its caller:
//!
//! ```text
//! runtime                                      criu
//!   DUMP, PRE_DUMP or RESTORE with options -->
//!                                          <-- NOTIFY: at one of its steps, and waits
//!   NOTIFY: go on, or give up              -->
//!                                          <-- DUMP or RESTORE: done, or what failed
//! ```
//!
//! Restored processes are children of ours, siblings of criu.

mod process;
mod rpc;
mod wire;

pub(crate) use process::{Criu, Inherit, Step, find};
pub(crate) use rpc::{Opts, Request};

use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};

/// Whether criu is installed and works with this kernel.
///
/// # Errors
/// `Unsupported`, with what criu said.
pub fn probe() -> Result<()> {
    let program = find()?;
    let output = Command::new(&program)
        .arg("check")
        .stdin(Stdio::null())
        .output()
        .context(|| format!("exec({})", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no reason given");
    Err(Error::unsupported(
        "checkpoint and restore",
        format!(
            "criu does not work here (criu check: {}): {}",
            output.status,
            reason.trim()
        ),
    ))
}
