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

/// Makes the system call `number` with six zeros, for a number from the short
/// list of those that then do nothing: they fail, or read an id.
pub fn harmless(name: &str) -> Option<io::Result<i64>> {
    let number = match name {
        "getppid" => libc::SYS_getppid,
        "getpgid" => libc::SYS_getpgid,
        "sched_yield" => libc::SYS_sched_yield,
        "setns" => libc::SYS_setns,
        "openat2" => libc::SYS_openat2,
        "clone3" => libc::SYS_clone3,
        "faccessat2" => libc::SYS_faccessat2,
        "pidfd_getfd" => libc::SYS_pidfd_getfd,
        "mount_setattr" => libc::SYS_mount_setattr,
        "personality" => libc::SYS_personality,
        "keyctl" => libc::SYS_keyctl,
        "bpf" => libc::SYS_bpf,
        // Beyond every number a kernel has assigned.
        "unassigned" => 0x7fff,
        _ => return None,
    };
    let zero: libc::c_long = 0;
    // SAFETY: each listed call takes null pointers and zero sizes for an error,
    // or ignores its arguments; none writes to memory or changes the process.
    Some(result(unsafe {
        libc::syscall(number, zero, zero, zero, zero, zero, zero)
    }))
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
