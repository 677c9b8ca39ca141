//! For tests: running code in a forked child, so that what it changes ends with it.
#![allow(unsafe_code)]

use std::io::{Read, Write};

use crate::error::{Error, Result};

#[path = "../../tests/skips/mod.rs"]
mod skips;

pub(crate) use skips::note as note_skip;

/// Runs `f` in a forked child and returns what it returned there.
pub(crate) fn in_child(f: impl FnOnce() -> Result<String>) -> Result<String> {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: the child runs only `f` and ends with _exit, never returning into the test harness;
    // both supported C libraries make malloc usable after fork.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            drop(reader);
            let bytes = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
                Ok(Ok(text)) => [b"+", text.as_bytes()].concat(),
                Ok(Err(error)) => [b"-", &error.to_bytes()[..]].concat(),
                Err(panic) => match panic.downcast_ref::<String>() {
                    Some(text) => [b"!", text.as_bytes()].concat(),
                    None => b"!panic".to_vec(),
                },
            };
            let _ = writer.write_all(&bytes);
            // SAFETY: _exit ends the process without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        pid => {
            drop(writer);
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            let mut status = 0;
            // SAFETY: waits for the child made above and writes its status into a local.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            match bytes.split_first() {
                Some((b'+', text)) => Ok(String::from_utf8(text.to_vec()).unwrap()),
                Some((b'-', error)) => Err(Error::from_bytes(error)),
                // The pipe closed at execve, and the program was content.
                None if status == 0 => Ok(String::new()),
                _ => panic!(
                    "the child ended with status {status:#x}: {}",
                    String::from_utf8_lossy(&bytes)
                ),
            }
        }
    }
}

/// The value of `field` in /proc/self/status.
pub(crate) fn status(field: &str) -> String {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap()
        .trim()
        .to_owned()
}

/// Whether the test runs as root; says why it is skipped where not.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        note_skip(format_args!("{test} needs root"));
    }
    root
}

/// Moves the calling process into a new user namespace.
pub(crate) fn unshare_user() {
    // SAFETY: changes only namespaces of the calling, single-threaded child.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWUSER) }, 0);
}

/// Moves the calling process into a new network namespace.
pub(crate) fn unshare_net() {
    // SAFETY: changes only namespaces of the calling, single-threaded child.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
}

/// The I/O priority of the calling process: ioprio_get(2).
pub(crate) fn ioprio_get() -> i64 {
    // SAFETY: takes numbers only; 1 is IOPRIO_WHO_PROCESS, 0 this process.
    unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) }
}

/// The serial number of the session keyring: keyctl_get_keyring_ID(3).
pub(crate) fn session_keyring() -> i64 {
    // SAFETY: takes numbers only; 0 is KEYCTL_GET_KEYRING_ID, -3 KEY_SPEC_SESSION_KEYRING.
    unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }
}

/// The mode of the memory policy of the calling process: get_mempolicy(2).
pub(crate) fn memory_policy() -> i32 {
    let mut mode = -1;
    // SAFETY: writes one int into a local; the other arguments are empty.
    unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, 0, 0, 0, 0) };
    mode
}

/// Moves the calling process into a new mount namespace that shares nothing with the host's.
pub(crate) fn private_mounts() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: changes only namespaces of the calling, single-threaded child.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).unwrap();
}

/// Has `f` called in the child of `command` before it becomes the program.
pub(crate) fn before_exec(
    command: &mut std::process::Command,
    f: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: the callers pass closures that make system calls only.
    unsafe { command.pre_exec(f) }
}

/// Whether CAP_SYS_RESOURCE is there, which some machines withhold from root; says why the test is skipped where not.
pub(crate) fn may_use_resources(test: &str) -> bool {
    let held = rustix::thread::capabilities(None).unwrap().effective;
    let has = held.contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    if !has {
        note_skip(format_args!("{test} needs CAP_SYS_RESOURCE"));
    }
    has
}

/// The scheduling attributes of the calling process: sched_getattr(2).
pub(crate) fn sched_getattr() -> super::sched::SchedAttr {
    let mut attr = super::sched::SchedAttr::default();
    // SAFETY: the kernel writes at most `size` bytes at the pointer; 0 is this thread.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            0,
            &raw mut attr,
            size_of_val(&attr),
            0,
        )
    };
    assert_eq!(result, 0);
    attr
}
