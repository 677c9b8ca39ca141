//! Where state is kept when `--root` does not say it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

mod cli_support;
mod skips;

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cli_support::program;

const NOBODY: u32 = 65534;

/// A command that wants to make a container but has no bundle.
const CREATE: [&str; 4] = ["create", "-b", "/nonexistent", "x"];

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skips::note("needs root");
    }
    root
}

/// Whether somebody without privileges can execute the program where it was built.
fn reachable(program: &Path) -> bool {
    let open = program
        .ancestors()
        .all(|path| path.as_os_str().is_empty() || path.metadata().unwrap().mode() & 1 == 1);
    if !open {
        skips::note(format_args!("{} is not for everybody", program.display()));
    }
    open
}

#[test]
fn users_have_a_directory_of_their_own_that_cleaners_spare() {
    if !is_root() || !reachable(Path::new(env!("CARGO_BIN_EXE_knarr"))) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let output = program()
        .env("XDG_RUNTIME_DIR", dir.path())
        .args(CREATE)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let made = dir.path().join("knarr").metadata().unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid()), (0o1700, NOBODY));
}

/// Runs a create in a mount namespace whose /run is its own, with an environment.
fn create_as_root(unshare: &[&str], user: Option<&str>, runtime_dir: &Path) -> Option<bool> {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .args(unshare)
        .args(["sh", "-c", "mount -t tmpfs none /run && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_knarr"))
        .args(CREATE)
        .env_remove("USER")
        .env("XDG_RUNTIME_DIR", runtime_dir);
    if let Some(user) = user {
        command.env("USER", user);
    }
    let output = command.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    if !err.starts_with("time=") {
        skips::note(&err);
        return None;
    }
    let made = runtime_dir.join("knarr");
    let used = made.exists();
    if used {
        std::fs::remove_dir(made).unwrap();
    }
    Some(used)
}

#[test]
fn root_of_a_user_namespace_counts_as_a_user_unless_it_logged_in_as_root() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (unshare, user, expected) in [
        (&[][..], None, false),
        (&[], Some("alice"), false),
        (&["--user", "--map-root-user"], None, true),
        (&["--user", "--map-root-user"], Some("alice"), true),
        (&["--user", "--map-root-user"], Some("root"), false),
    ] {
        if let Some(used) = create_as_root(unshare, user, dir.path()) {
            assert_eq!(used, expected, "{unshare:?} {user:?}");
        }
    }
}

#[test]
fn a_runtime_directory_that_cannot_be_used_is_named() {
    if !is_root() || !reachable(Path::new(env!("CARGO_BIN_EXE_knarr"))) {
        return;
    }
    let output = program()
        .env("XDG_RUNTIME_DIR", "/proc/nonexistent")
        .args(CREATE)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("/proc/nonexistent/knarr"), "{err}");
}
