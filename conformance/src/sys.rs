//! The only unsafe code of this crate: system calls of the probe that no safe
//! crate wraps. Each function is sound for every argument it takes.
#![allow(unsafe_code)]

use std::io;

fn result(value: libc::c_long) -> io::Result<i64> {
    if value < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

/// The I/O priority of the calling thread (ioprio_get(2)): class << 13 | level.
pub fn ioprio_get() -> io::Result<i64> {
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    // SAFETY: takes three integers and touches no memory of the process.
    result(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0 as libc::c_long) })
}

/// What sched_getattr(2) says of the calling thread.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct SchedAttr {
    size: u32,
    /// SCHED_* policy.
    pub policy: u32,
    /// SCHED_FLAG_* bits.
    pub flags: u64,
    /// Nice value of SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// Priority of SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// SCHED_DEADLINE, in nanoseconds.
    pub runtime: u64,
    /// SCHED_DEADLINE, in nanoseconds.
    pub deadline: u64,
    /// SCHED_DEADLINE, in nanoseconds.
    pub period: u64,
}

/// Scheduling policy and attributes of the calling thread (sched_getattr(2)).
pub fn sched_getattr() -> io::Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    let pointer: *mut SchedAttr = &mut attr;
    // SAFETY: the kernel writes at most `size` bytes, the size of the live
    // structure behind the pointer, every bit pattern of which is valid.
    result(unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            0 as libc::c_long,
            pointer,
            size,
            0 as libc::c_long,
        )
    })?;
    Ok(attr)
}

/// The calling thread's memory policy (get_mempolicy(2)): mode with flags, and
/// the first 64 nodes.
pub fn get_mempolicy() -> io::Result<(i32, u64)> {
    let mut mode: libc::c_int = 0;
    let mut nodes = [0u64; 16];
    let mode_pointer: *mut libc::c_int = &mut mode;
    // SAFETY: the kernel writes one int and at most 1024 bits, the size of the
    // array; both outlive the call.
    result(unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            mode_pointer,
            nodes.as_mut_ptr(),
            1024 as libc::c_ulong,
            0 as libc::c_long,
            0 as libc::c_long,
        )
    })?;
    Ok((mode, nodes[0]))
}

/// A system call that changes nothing with these arguments: its name, its number, its first three
/// arguments. All further arguments are zero.
type Call = (&'static str, libc::c_long, [libc::c_long; 3]);

/// System calls that with zeros fail, read an id or do nothing: null pointers, sizes of zero,
/// requests that do not exist. Descriptor 0 is only read or refused.
const CALLS: &[Call] = &[
    ("getppid", libc::SYS_getppid, [0; 3]),
    ("getpgid", libc::SYS_getpgid, [0; 3]),
    ("sched_yield", libc::SYS_sched_yield, [0; 3]),
    ("setns", libc::SYS_setns, [0; 3]),
    ("unshare", libc::SYS_unshare, [0; 3]),
    ("openat2", libc::SYS_openat2, [0; 3]),
    ("clone3", libc::SYS_clone3, [0; 3]),
    ("faccessat2", libc::SYS_faccessat2, [0; 3]),
    ("pidfd_open", libc::SYS_pidfd_open, [0; 3]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 3]),
    ("mount", libc::SYS_mount, [0; 3]),
    ("umount2", libc::SYS_umount2, [0; 3]),
    ("pivot_root", libc::SYS_pivot_root, [0; 3]),
    ("chroot", libc::SYS_chroot, [0; 3]),
    ("fsopen", libc::SYS_fsopen, [0; 3]),
    ("open_tree", libc::SYS_open_tree, [0; 3]),
    ("move_mount", libc::SYS_move_mount, [0; 3]),
    ("mount_setattr", libc::SYS_mount_setattr, [0; 3]),
    ("personality", libc::SYS_personality, [0; 3]),
    (
        "personality query",
        libc::SYS_personality,
        [0xffff_ffff, 0, 0],
    ),
    ("keyctl", libc::SYS_keyctl, [0; 3]),
    ("add_key", libc::SYS_add_key, [0; 3]),
    ("request_key", libc::SYS_request_key, [0; 3]),
    ("bpf", libc::SYS_bpf, [0; 3]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 3]),
    ("reboot", libc::SYS_reboot, [0; 3]),
    ("swapon", libc::SYS_swapon, [0; 3]),
    ("swapoff", libc::SYS_swapoff, [0; 3]),
    ("init_module", libc::SYS_init_module, [0; 3]),
    ("delete_module", libc::SYS_delete_module, [0; 3]),
    ("quotactl", libc::SYS_quotactl, [0; 3]),
    ("clock_settime", libc::SYS_clock_settime, [0; 3]),
    ("clock_adjtime", libc::SYS_clock_adjtime, [0; 3]),
    ("adjtimex", libc::SYS_adjtimex, [0; 3]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [0; 3]),
    ("kcmp", libc::SYS_kcmp, [0; 3]),
    ("name_to_handle_at", libc::SYS_name_to_handle_at, [0; 3]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 3]),
    ("fanotify_init", libc::SYS_fanotify_init, [-1, 0, 0]),
    ("move_pages", libc::SYS_move_pages, [0; 3]),
    ("get_mempolicy", libc::SYS_get_mempolicy, [0; 3]),
    ("syslog", libc::SYS_syslog, [0; 3]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 3]),
    ("userfaultfd", libc::SYS_userfaultfd, [-1, 0, 0]),
    ("memfd_create", libc::SYS_memfd_create, [0; 3]),
    ("memfd_secret", libc::SYS_memfd_secret, [-1, 0, 0]),
    (
        "landlock_create_ruleset",
        libc::SYS_landlock_create_ruleset,
        [0; 3],
    ),
    ("process_madvise", libc::SYS_process_madvise, [-1, 0, 0]),
    ("futex_waitv", libc::SYS_futex_waitv, [0; 3]),
    ("quotactl_fd", libc::SYS_quotactl_fd, [-1, 0, 0]),
    (
        "set_mempolicy_home_node",
        libc::SYS_set_mempolicy_home_node,
        [0; 3],
    ),
    ("close_range", libc::SYS_close_range, [2, 1, 0]),
    ("statx", libc::SYS_statx, [0; 3]),
    ("rseq", libc::SYS_rseq, [0; 3]),
    ("seccomp", libc::SYS_seccomp, [-1, 0, 0]),
    ("prctl", libc::SYS_prctl, [-1, 0, 0]),
    ("prlimit64", libc::SYS_prlimit64, [0; 3]),
    ("ioprio_set", libc::SYS_ioprio_set, [0; 3]),
    ("sched_setattr", libc::SYS_sched_setattr, [0; 3]),
    ("sched_setscheduler", libc::SYS_sched_setscheduler, [0; 3]),
    ("kill", libc::SYS_kill, [0; 3]),
    ("capget", libc::SYS_capget, [0; 3]),
    ("capset", libc::SYS_capset, [0; 3]),
    ("mq_open", libc::SYS_mq_open, [0; 3]),
    ("semget", libc::SYS_semget, [0; 3]),
    ("shmget", libc::SYS_shmget, [0; 3]),
    ("splice", libc::SYS_splice, [0; 3]),
    ("ioctl", libc::SYS_ioctl, [0; 3]),
    ("ioctl TIOCSTI", libc::SYS_ioctl, [0, 0x5412, 0]),
    ("socket", libc::SYS_socket, [0; 3]),
    ("socket AF_VSOCK of no type", libc::SYS_socket, [40, 0, 0]),
    ("socket AF_NETLINK of no type", libc::SYS_socket, [16, 0, 0]),
    ("fchmodat2", 452, [0; 3]),
    ("cachestat", 451, [0; 3]),
    ("map_shadow_stack", 453, [0; 3]),
    ("futex_wake", 454, [0; 3]),
    ("statmount", 457, [0; 3]),
    ("listmount", 458, [0; 3]),
    ("lsm_get_self_attr", 459, [0; 3]),
    ("mseal", 462, [0; 3]),
    ("setxattrat", 463, [0; 3]),
    ("open_tree_attr", 467, [0; 3]),
    ("file_getattr", 468, [0; 3]),
    // Beyond every number a kernel has assigned.
    ("unassigned", 0x7fff, [0; 3]),
];

/// Those of [`CALLS`] that only some architectures have.
#[cfg(target_arch = "x86_64")]
const CALLS_HERE: &[Call] = &[
    ("chown", libc::SYS_chown, [0; 3]),
    ("mknod", libc::SYS_mknod, [0; 3]),
    ("iopl", libc::SYS_iopl, [0; 3]),
    ("ioperm", libc::SYS_ioperm, [0; 3]),
    ("modify_ldt", libc::SYS_modify_ldt, [0; 3]),
    ("arch_prctl", libc::SYS_arch_prctl, [0; 3]),
    ("uselib", libc::SYS_uselib, [0; 3]),
    ("ustat", libc::SYS_ustat, [0; 3]),
    ("sysfs", libc::SYS_sysfs, [0; 3]),
    ("time", libc::SYS_time, [0; 3]),
];

#[cfg(not(target_arch = "x86_64"))]
const CALLS_HERE: &[Call] = &[];

/// The names of all calls that [`harmless`] makes.
pub fn harmless_names() -> impl Iterator<Item = &'static str> {
    CALLS.iter().chain(CALLS_HERE).map(|(name, ..)| *name)
}

/// Makes a system call of the short list of those that then do nothing.
pub fn harmless(name: &str) -> Option<io::Result<i64>> {
    let (_, number, [a, b, c]) = CALLS.iter().chain(CALLS_HERE).find(|call| call.0 == name)?;
    let zero: libc::c_long = 0;
    // SAFETY: each listed call takes null pointers and zero sizes for an error,
    // or ignores its arguments; none writes to memory or changes the process.
    Some(result(unsafe {
        libc::syscall(*number, *a, *b, *c, zero, zero, zero)
    }))
}

/// The session keyring's serial number and its description `type;uid;gid;permissions;name` (keyctl(2)).
pub fn session_keyring() -> io::Result<(i64, String)> {
    const GET_KEYRING_ID: libc::c_long = 0;
    const DESCRIBE: libc::c_long = 6;
    const SESSION: libc::c_long = -3;
    let zero: libc::c_long = 0;
    // SAFETY: takes integers only; nothing is created, since the last one is zero.
    let serial = result(unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION, zero) })?;
    let mut text = [0u8; 256];
    // SAFETY: the kernel writes at most the length given, the size of the live array.
    let length = result(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            DESCRIBE,
            serial,
            text.as_mut_ptr(),
            text.len(),
        )
    })?;
    let length = usize::try_from(length)
        .unwrap_or(0)
        .saturating_sub(1)
        .min(text.len());
    let text = text.get(..length).unwrap_or_default();
    Ok((serial, String::from_utf8_lossy(text).into_owned()))
}

/// getpid through the 32 bit entry of x86 (int 0x80): a system call of a
/// foreign architecture as seccomp sees it.
#[cfg(target_arch = "x86_64")]
pub fn getpid_i386() -> i64 {
    const GETPID: u32 = 20;
    let result: u32;
    // SAFETY: getpid takes no pointer; the gate keeps every register but eax
    // (and r8 to r11, which are declared lost).
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") GETPID => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, options(nostack));
    }
    i64::from(result.cast_signed())
}

/// Answers one notification of a seccomp listener (seccomp_unotify(2)): the
/// system call returns `-errno`. Gives number and arguments of the call.
pub fn answer_notification(
    fd: std::os::fd::BorrowedFd<'_>,
    errno: i32,
) -> io::Result<(i32, [u64; 6], u32)> {
    use std::os::fd::AsRawFd;
    #[repr(C)]
    #[derive(Default)]
    struct Notification {
        id: u64,
        pid: u32,
        flags: u32,
        number: i32,
        arch: u32,
        instruction: u64,
        arguments: [u64; 6],
    }
    #[repr(C)]
    struct Response {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    // _IOWR('!', 0, struct seccomp_notif) and _IOWR('!', 1, struct seccomp_notif_resp)
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    let mut notification = Notification::default();
    let pointer: *mut Notification = &mut notification;
    // SAFETY: the request's size field equals the size of the structure, which
    // is zeroed as the kernel demands and of which every bit pattern is valid.
    if unsafe { libc::ioctl(fd.as_raw_fd(), RECEIVE as _, pointer) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut response = Response {
        id: notification.id,
        value: 0,
        error: -errno,
        flags: 0,
    };
    let pointer: *mut Response = &mut response;
    // SAFETY: the request's size field equals the size of the structure.
    if unsafe { libc::ioctl(fd.as_raw_fd(), SEND as _, pointer) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((
        notification.number,
        notification.arguments,
        notification.pid,
    ))
}
