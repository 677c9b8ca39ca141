//! Whether the kernel has a system call: each is made with arguments that it must refuse.
#![allow(unsafe_code)]

use rustix::io::Errno;

use super::last_errno;

/// System calls that not every supported kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// openat2(2), Linux 5.6.
    Openat2,
    /// clone3(2), Linux 5.3.
    Clone3,
    /// fsopen(2), Linux 5.2.
    Fsopen,
    /// `open_tree(2)`, Linux 5.2.
    OpenTree,
    /// `move_mount(2)`, Linux 5.2.
    MoveMount,
    /// `mount_setattr(2)`, Linux 5.12.
    MountSetattr,
    /// `pidfd_open(2)`, Linux 5.3.
    PidfdOpen,
    /// `pidfd_getfd(2)`, Linux 5.6.
    PidfdGetfd,
    /// `close_range(2)`, Linux 5.9.
    CloseRange,
    /// seccomp(2), Linux 3.17.
    Seccomp,
    /// keyctl(2).
    Keyctl,
    /// bpf(2).
    Bpf,
}

/// What answers to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel has it.
    There,
    /// `ENOSYS`: the kernel, or a filter that wraps this process, does not have it.
    Absent,
    /// `EPERM`: a filter that wraps this process, or the lack of a privilege.
    Forbidden,
}

/// Makes `call` with arguments that no kernel accepts.
#[must_use]
pub fn answer(call: Call) -> Answer {
    // A descriptor, flag word, size or operation that does not exist.
    const NONE: libc::c_long = -1;
    let (number, first) = match call {
        Call::Openat2 => (libc::SYS_openat2, NONE),
        // A null structure of no size.
        Call::Clone3 => (libc::SYS_clone3, 0),
        Call::Fsopen => (libc::SYS_fsopen, 0),
        Call::OpenTree => (libc::SYS_open_tree, NONE),
        Call::MoveMount => (libc::SYS_move_mount, NONE),
        Call::MountSetattr => (libc::SYS_mount_setattr, NONE),
        Call::PidfdOpen => (libc::SYS_pidfd_open, NONE),
        Call::PidfdGetfd => (libc::SYS_pidfd_getfd, NONE),
        // From the last descriptor to the first: an empty range is refused.
        Call::CloseRange => (libc::SYS_close_range, NONE),
        Call::Seccomp => (libc::SYS_seccomp, NONE),
        Call::Keyctl => (libc::SYS_keyctl, NONE),
        Call::Bpf => (libc::SYS_bpf, NONE),
    };
    // SAFETY: all other arguments are zero: null pointers with no size, and flags and lengths that
    // make the kernel refuse before it touches anything.
    let result = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
    if result >= 0 {
        return Answer::There;
    }
    match last_errno() {
        Errno::NOSYS => Answer::Absent,
        Errno::PERM => Answer::Forbidden,
        _ => Answer::There,
    }
}
