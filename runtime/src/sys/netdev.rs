//! Interface flags by ioctl, netdevice(7).
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use rustix::io::{self, Errno};
use rustix::ioctl::{Opcode, Setter, ioctl};

const SIOCSIFFLAGS: Opcode = 0x8914;

/// Sets the flags of the interface `name` in the network namespace of `socket`: netdevice(7), SIOCSIFFLAGS.
///
/// # Errors
/// `EINVAL` for a name of 16 bytes or more, and those of the ioctl.
pub fn set_interface_flags<Fd: AsFd>(socket: Fd, name: &[u8], flags: u16) -> io::Result<()> {
    // struct ifreq: 16 bytes of name, then a union of 24 bytes that starts with the flags.
    #[repr(C)]
    struct IfReq {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    let mut request = IfReq {
        name: [0; 16],
        flags,
        rest: [0; 22],
    };
    if name.len() >= request.name.len() {
        return Err(Errno::INVAL);
    }
    request.name[..name.len()].copy_from_slice(name);
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, 40 bytes on 64-bit kernels, which IfReq is; it writes nothing.
    unsafe { ioctl(socket, Setter::<SIOCSIFFLAGS, IfReq>::new(request)) }
}
