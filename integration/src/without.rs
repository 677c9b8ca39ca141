//! The runtime on an older kernel: named system calls fail, by a seccomp filter that all of its
//! processes inherit, those of the container too.
//!
//! `KNARR_WITHOUT=openat2,clone3` makes every test run so. A call fails with `ENOSYS`, as on a
//! kernel that lacks it, or with `EPERM` where its name is followed by `=EPERM`, as under the
//! profiles of older container engines.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::runtime;

/// The environment variable that names the calls.
pub const VARIABLE: &str = "KNARR_WITHOUT";

/// What can be taken away: every call that is newer than Linux 5.0 and that the runtime makes, or
/// has had reason to make. `waitid_pidfd` is waitid(2) with `P_PIDFD`, which fails with `EINVAL`.
pub const CALLS: [(&str, libc::c_long); 21] = [
    ("openat2", libc::SYS_openat2),
    ("clone3", libc::SYS_clone3),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("fsopen", libc::SYS_fsopen),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fspick", libc::SYS_fspick),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("waitid_pidfd", libc::SYS_waitid),
    ("close_range", libc::SYS_close_range),
    ("statx", libc::SYS_statx),
    ("faccessat2", libc::SYS_faccessat2),
    ("fchmodat2", FCHMODAT2),
    ("epoll_pwait2", libc::SYS_epoll_pwait2),
    ("set_mempolicy_home_node", libc::SYS_set_mempolicy_home_node),
    ("statmount", STATMOUNT),
    ("open_tree_attr", OPEN_TREE_ATTR),
];

/// Numbers that are the same on every architecture, and that the C library's headers may lack.
const FCHMODAT2: libc::c_long = 452;
const STATMOUNT: libc::c_long = 457;
const OPEN_TREE_ATTR: libc::c_long = 467;

/// The program that [`crate::runtime`] and tests start others through: built with the tests.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn launcher() -> PathBuf {
    runtime::beside("launch")
}

/// Executes `program` in place of the caller, with the calls of `list` taken away.
///
/// # Errors
/// A name that is unknown, a filter that cannot be loaded, and those of execve(2).
pub fn exec(list: &str, program: &Path, args: &[impl AsRef<OsStr>]) -> io::Error {
    use std::os::unix::process::CommandExt;
    match filter(list).and_then(|filter| load(&filter)) {
        Ok(()) => std::process::Command::new(program).args(args).exec(),
        Err(error) => error,
    }
}

/// Offsets in `struct seccomp_data`, seccomp(2).
const NUMBER: u32 = 0;
const FIRST_ARGUMENT: u32 = 16;

fn filter(list: &str) -> io::Result<Vec<libc::sock_filter>> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let fail = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
    // No look at the architecture: the runtime and busybox are of this one.
    let mut program = vec![step(LOAD, 0, 0, NUMBER)];
    for name in list.split(',').filter(|name| !name.is_empty()) {
        let (name, errno) = match name.split_once('=') {
            None => (name, libc::ENOSYS),
            Some((name, "EPERM")) => (name, libc::EPERM),
            Some(_) => return Err(io::Error::other(format!("{VARIABLE}: {name:?}"))),
        };
        let Some((_, number)) = CALLS.iter().find(|(known, _)| *known == name) else {
            return Err(io::Error::other(format!("{VARIABLE}: unknown: {name:?}")));
        };
        let number = u32::try_from(*number).unwrap();
        if name == "waitid_pidfd" {
            program.extend([
                step(EQUAL, 0, 4, number),
                step(LOAD, 0, 0, FIRST_ARGUMENT),
                step(EQUAL, 0, 1, libc::P_PIDFD),
                step(RETURN, 0, 0, fail(libc::EINVAL)),
                step(LOAD, 0, 0, NUMBER),
            ]);
        } else {
            program.extend([step(EQUAL, 0, 1, number), step(RETURN, 0, 0, fail(errno))]);
        }
    }
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    Ok(program)
}

fn load(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions, which the kernel copies and does not change;
    // both live across the call.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
