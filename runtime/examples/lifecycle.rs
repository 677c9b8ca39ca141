//! Creates a container, executes into it, starts and deletes it, with the library alone.
//!
//! The argument is a bundle whose process runs until it is told to stop, and
//! whose root has a shell. As root:
//!
//! ```text
//! demo/bundle /tmp/bundle sleep 1000
//! cargo run -p knarr-runtime --example lifecycle -- /tmp/bundle
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use knarr_runtime::container::{Container, CreateOptions, ExecOptions};
use knarr_runtime::error::{Context, Error, Kind, Result};
use knarr_runtime::protect;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lifecycle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // Before anything else, and with one thread: what runs inside the container could otherwise
    // overwrite this very program through /proc (CVE-2019-5736).
    protect::reexec()?;

    let bundle = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or_else(|| Error::new(Kind::InvalidArgument, "usage: lifecycle BUNDLE"))?;
    // Where containers are kept; a manager would take a directory below /run.
    let root = std::env::temp_dir().join(format!("knarr-lifecycle-{}", std::process::id()));

    let container = Container::create(
        &root,
        &CreateOptions {
            id: format!("lifecycle-{}", std::process::id()),
            bundle,
            ..CreateOptions::default()
        },
    )?;
    for warning in &container.warnings {
        eprintln!("warning: {warning}");
    }
    // Whatever happens to it, it does not stay.
    let used = use_it(&container);
    let deleted = container.delete(true);
    let _ = std::fs::remove_dir(&root);
    used?;
    for failed_hook in deleted? {
        eprintln!("warning: {failed_hook}");
    }
    gone(&root, &container.id)
}

fn use_it(container: &Container) -> Result<()> {
    show("after create", container)?;
    container.start()?;
    show("after start", container)?;

    let script =
        "echo \"exec: pid $$ on $(hostname), beside: $(cat /proc/1/cmdline | tr '\\0' ' ')\"";
    let (code, _) = container.exec(&ExecOptions {
        args: ["sh", "-c", script].map(str::to_owned).into(),
        ..ExecOptions::default()
    })?;
    println!("exec: exit code {code}");
    // The exit code of what ran is a value, not an error.
    let (code, _) = container.exec(&ExecOptions {
        args: ["sh", "-c", "exit 7"].map(str::to_owned).into(),
        ..ExecOptions::default()
    })?;
    println!("exec: exit code {code}");
    println!("processes: {}", container.pids()?.len());
    Ok(())
}

fn show(when: &str, container: &Container) -> Result<()> {
    let state = container.state().context(|| when)?;
    println!("{when}: {}, pid {}", state.status.as_str(), state.pid);
    Ok(())
}

/// There is no such container any more, and the error says so by its kind.
fn gone(root: &Path, id: &str) -> Result<()> {
    match Container::load(root, id) {
        Err(error) if error.kind() == Kind::NotFound => {
            println!("after delete: {error}");
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Err(Error::new(Kind::State, "the container is still there")),
    }
}
