//! Keeps the runtime's own binary out of reach of containers.
//!
//! A process inside a container can name our binary as `/proc/PID/exe` while we
//! set the container up, or be made to execute `/proc/self/exe` in our place,
//! and later open it for writing (CVE-2019-5736). So the process that makes
//! containers runs from a copy that cannot be written by anyone: a private
//! read-only clone of the mount under the file, closed and so beyond
//! mount_setattr(2) and remounting before anything of the container runs; or,
//! where mounts cannot be cloned, a sealed copy in memory.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create, open,
};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::{self, fds};

const SELF: &CStr = c"/proc/self/exe";
const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// Whether this process, or one that it comes from by fork(2), is known to be protected.
static PROTECTED: AtomicBool = AtomicBool::new(false);

/// The clone that this process runs from.
static CLONE: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Whether this process runs from a binary that nobody can write.
#[must_use]
pub fn is_protected() -> bool {
    if !PROTECTED.load(Ordering::Relaxed) {
        PROTECTED.store(runs_from_a_copy(), Ordering::Relaxed);
    }
    PROTECTED.load(Ordering::Relaxed)
}

fn runs_from_a_copy() -> bool {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
    let Ok((name, _)) = rustix::fs::readlinkat_raw(rustix::fs::CWD, SELF, &mut buffer) else {
        return false;
    };
    match &*name {
        // Only a file that is the root of a mount outside every namespace has this name.
        b"/" => true,
        name if name.starts_with(b"/memfd:") => {
            open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .is_ok_and(|file| fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS)))
        }
        _ => false,
    }
}

/// Makes sure that this process runs from a binary that nobody can write, by
/// executing itself once more with the same arguments where it does not yet.
/// To be called first thing in `main`, before any thread exists and before
/// anything has been read from standard input. Whoever executes the program
/// from a clone of its own keeps no descriptor of that clone: it could be made
/// writable by it.
///
/// # Errors
/// Neither a read-only clone nor a copy in memory could be made or run.
pub fn reexec() -> Result<()> {
    if is_protected() {
        sys::process::set_name(c"knarr");
        hold();
        return Ok(());
    }
    if let Ok(clone) = read_only_clone() {
        // Fails where the kernel does not execute from it; the copy in memory is next.
        let _ = sys::process::reexec(clone.as_fd());
    }
    let copy = sealed_copy().context(|| "cannot copy the runtime's own binary into memory")?;
    let errno = sys::process::reexec(copy.as_fd());
    Err(Error::system("execveat(copy of /proc/self/exe)", errno))
}

/// Takes over the descriptor of the clone that this process runs from, if there is one that nobody
/// has taken yet: from then on no program inherits it that this process executes. [`reexec`] does the
/// same; for a process that may have been executed from a clone and does not call that.
pub fn hold() {
    if let Ok(mut clone) = CLONE.lock()
        && clone.is_none()
    {
        *clone = fds::executed_from();
    }
}

/// Closes the descriptor of the clone that this process runs from. To be called before a program of
/// the container's runs: until then the clone can be made writable by whoever gets hold of it.
pub(crate) fn let_go() {
    if let Ok(mut clone) = CLONE.lock() {
        *clone = None;
    }
}

/// Refuses to go on in an unprotected process.
///
/// # Errors
/// The process did not call [`reexec`].
pub(crate) fn require() -> Result<()> {
    if is_protected() {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidArgument,
        "this process could be overwritten from inside a container: call protect::reexec() first in main()",
    ))
}

fn read_only_clone() -> Result<OwnedFd> {
    let tree = open_tree(rustix::fs::CWD, SELF, OpenTreeFlags::OPEN_TREE_CLONE)
        .context(|| "open_tree(/proc/self/exe)")?;
    let read_only = sys::mount::MountAttr {
        attr_set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
        ..Default::default()
    };
    sys::mount::mount_setattr(tree.as_fd(), c"", false, &read_only)
        .context(|| "mount_setattr(MOUNT_ATTR_RDONLY)")?;
    Ok(tree)
}

fn sealed_copy() -> Result<OwnedFd> {
    let binary = open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open(/proc/self/exe)")?;
    let copy = memfd_create("knarr", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .context(|| "memfd_create()")?;
    while rustix::fs::sendfile(&copy, &binary, None, 1 << 30)
        .context(|| "sendfile(/proc/self/exe)")?
        > 0
    {}
    fcntl_add_seals(&copy, SEALS).context(|| "fcntl(F_ADD_SEALS)")?;
    Ok(copy)
}
