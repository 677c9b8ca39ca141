//! bpf(2) as the device filter of cgroup v2 needs it: load, attach, query, detach.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::last_errno;

/// One instruction: `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source in the high four.
    pub registers: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Size of the attribute given to the kernel: more than it has ever read or
/// written. Linux 6.17 to 7.1 write the `revision` of BPF_PROG_QUERY (at byte
/// 56) whatever size is stated, so that a tighter one would be overrun.
const ATTRIBUTE: usize = 192;

/// `union bpf_attr`, as bytes of which each command uses a part.
#[repr(C, align(8))]
struct Attribute([u8; ATTRIBUTE]);

impl Attribute {
    fn new() -> Attribute {
        Attribute([0; ATTRIBUTE])
    }

    fn set<const N: usize>(mut self, at: usize, value: [u8; N]) -> Attribute {
        if let Some(field) = self.0.get_mut(at..at + N) {
            field.copy_from_slice(&value);
        }
        self
    }

    fn u32(self, at: usize, value: u32) -> Attribute {
        self.set(at, value.to_ne_bytes())
    }

    fn fd(self, at: usize, fd: BorrowedFd<'_>) -> Attribute {
        self.set(at, fd.as_raw_fd().to_ne_bytes())
    }

    fn pointer<T>(self, at: usize, pointer: *const T) -> Attribute {
        self.set(at, (pointer.addr() as u64).to_ne_bytes())
    }

    fn get_u32(&self, at: usize) -> u32 {
        let mut value = [0; 4];
        if let Some(field) = self.0.get(at..at + 4) {
            value.copy_from_slice(field);
        }
        u32::from_ne_bytes(value)
    }

    /// # Safety
    /// Pointers within must be valid for what the command reads and writes.
    unsafe fn call(&mut self, command: libc::c_long, used: usize) -> Result<libc::c_long, Errno> {
        // SAFETY: the attribute is initialised for its whole length, outlives
        // the call and is longer than anything a kernel writes back; the
        // pointers in it are the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), used) };
        if result < 0 {
            Err(last_errno())
        } else {
            Ok(result)
        }
    }
}

fn own(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = libc::c_int::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel just returned this descriptor, and nobody else has it;
    // bpf(2) sets close-on-exec on every descriptor it makes.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads a device filter (`BPF_PROG_TYPE_CGROUP_DEVICE`).
///
/// # Errors
/// bpf(2): `EPERM` without CAP_BPF or CAP_SYS_ADMIN, `EINVAL` for a program that the verifier refuses.
pub fn load_device_filter(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let count = u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let license = c"Apache-2.0";
    let mut attribute = Attribute::new()
        .u32(0, BPF_PROG_TYPE_CGROUP_DEVICE)
        .u32(4, count)
        .pointer(8, program.as_ptr())
        .pointer(16, license.as_ptr());
    // SAFETY: the kernel reads `count` instructions and a string, both borrowed until after the call.
    let fd = unsafe { attribute.call(BPF_PROG_LOAD, 48) }?;
    own(fd)
}

/// Adds a filter to a cgroup, beside those that are there: a device is
/// accessible when all of them allow it.
///
/// # Errors
/// bpf(2).
pub fn attach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attribute = Attribute::new()
        .fd(0, cgroup)
        .fd(4, program)
        .u32(8, BPF_CGROUP_DEVICE)
        .u32(12, BPF_F_ALLOW_MULTI);
    // SAFETY: no pointers in this command.
    unsafe { attribute.call(BPF_PROG_ATTACH, 20) }.map(drop)
}

/// Takes a filter away from a cgroup.
///
/// # Errors
/// bpf(2).
pub fn detach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attribute = Attribute::new()
        .fd(0, cgroup)
        .fd(4, program)
        .u32(8, BPF_CGROUP_DEVICE);
    // SAFETY: no pointers in this command.
    unsafe { attribute.call(BPF_PROG_DETACH, 20) }.map(drop)
}

/// The filters attached to a cgroup itself, not those of its ancestors; at most 64.
///
/// # Errors
/// bpf(2).
pub fn device_filters(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    const ROOM: u32 = 64;
    let mut ids = [0_u32; ROOM as usize];
    let mut attribute = Attribute::new()
        .fd(0, cgroup)
        .u32(4, BPF_CGROUP_DEVICE)
        .pointer(16, ids.as_mut_ptr())
        .u32(24, ROOM);
    // SAFETY: the kernel writes up to `ROOM` numbers to `ids`, which is that long.
    unsafe { attribute.call(BPF_PROG_QUERY, 64) }?;
    let count = attribute.get_u32(24).min(ROOM) as usize;
    let mut programs = Vec::with_capacity(count);
    for id in ids.iter().take(count) {
        let mut attribute = Attribute::new().u32(0, *id);
        // SAFETY: no pointers in this command.
        match unsafe { attribute.call(BPF_PROG_GET_FD_BY_ID, 12) } {
            Ok(fd) => programs.push(own(fd)?),
            // Gone since the query.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}
