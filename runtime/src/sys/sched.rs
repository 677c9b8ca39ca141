//! Scheduling: policy, I/O priority, CPUs, execution domain.
#![allow(unsafe_code)]

use rustix::io::{self, Errno};

/// struct sched_attr, version 1: sched_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Size of the structure in bytes; set by [`sched_setattr`].
    pub size: u32,
    /// SCHED_*.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub period: u64,
    /// Lower clamp of the utilisation.
    pub util_min: u32,
    /// Upper clamp of the utilisation.
    pub util_max: u32,
}

fn result(value: libc::c_long) -> io::Result<libc::c_long> {
    if value == -1 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    Ok(value)
}

/// Sets policy and attributes of the calling thread: sched_setattr(2).
///
/// # Errors
/// Those of the call.
pub fn sched_setattr(mut attr: SchedAttr) -> io::Result<()> {
    attr.size = u32::try_from(size_of::<SchedAttr>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads `size` bytes at the pointer, and SchedAttr is that large; 0 is this thread.
    result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Sets the I/O priority of the calling thread: ioprio_set(2), IOPRIO_WHO_PROCESS.
///
/// # Errors
/// Those of the call.
pub fn ioprio_set(priority: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: takes three numbers; 0 is this thread.
    result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })
        .map(drop)
}

/// Sets the CPUs on which the calling thread may run: sched_setaffinity(2).
/// rustix has the call for at most 1024 CPUs; the kernel knows up to 8192.
///
/// # Errors
/// `EINVAL` when none of the CPUs is there and allowed.
pub fn sched_setaffinity(words: &[u64]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes at the pointer as the slice has; 0 is this thread.
    result(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(words),
            words.as_ptr(),
        )
    })
    .map(drop)
}

/// The CPUs on which the calling thread may run: sched_getaffinity(2).
///
/// # Errors
/// Those of the call.
pub fn sched_getaffinity() -> io::Result<Vec<u64>> {
    // As many as the kernel can be built for.
    let mut words = vec![0; 8192 / 64];
    // SAFETY: the kernel writes at most as many bytes at the pointer as the vector has; 0 is this thread.
    let written = result(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            0,
            size_of_val(words.as_slice()),
            words.as_mut_ptr(),
        )
    })?;
    words.truncate(usize::try_from(written).map_err(|_| Errno::OVERFLOW)? / size_of::<u64>());
    Ok(words)
}

/// Sets the execution domain: personality(2).
///
/// # Errors
/// Those of the call.
pub fn personality(domain: u32) -> io::Result<()> {
    // SAFETY: takes one number.
    result(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) }).map(drop)
}

/// Sets the memory policy of the calling thread: set_mempolicy(2).
///
/// # Errors
/// Those of the call; `ENOSYS` for a kernel without NUMA.
pub fn set_mempolicy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel reads one bit less than it is told.
    let count = if nodes.is_empty() {
        0
    } else {
        nodes.len() * 64 + 1
    };
    let pointer = if nodes.is_empty() {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // SAFETY: the kernel reads `count - 1` bits at the pointer, which the slice has; none where it is null.
    result(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, count) }).map(drop)
}
