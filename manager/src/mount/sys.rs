//! Loop devices: block devices whose content is a file. loop(4).
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

use crate::error::{Error, Result};

const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// How often another process may take the device that was free.
const TRIES: u32 = 64;

/// A loop device that is in use as long as this lives, and longer where it does not clear itself.
#[derive(Debug)]
pub(super) struct Device {
    /// Its file.
    pub(super) path: PathBuf,
    _file: File,
}

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A request whose argument is a number or nothing, and whose answer is one.
struct Plain<const OPCODE: Opcode>;

// SAFETY: the kernel takes no pointer for these requests: LOOP_CTL_GET_FREE and LOOP_CLR_FD ignore
// their argument.
unsafe impl<const OPCODE: Opcode> Ioctl for Plain<OPCODE> {
    type Output = i32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(output)
    }
}

// SAFETY: the opcode is LOOP_CONFIGURE, which reads one `struct loop_config`, and that is what the
// pointer leads to for as long as `self` lives.
unsafe impl Ioctl for Config {
    type Output = ();

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CONFIGURE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path, write: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    options.custom_flags(rustix::fs::OFlags::CLOEXEC.bits().cast_signed());
    let file = options.open(path);
    file.map_err(|error| Error::io(path.display(), &error))
}

/// Makes a block device of a file. One that clears itself goes when nobody has it open or mounted.
///
/// # Errors
/// Where there is no such file, or no device is left.
pub(super) fn attach(path: &Path, read_only: bool, clears_itself: bool) -> Result<Device> {
    let file = open(path, !read_only)?;
    let control = Path::new("/dev/loop-control");
    let control_file = open(control, true)?;
    let mut flags = 0;
    if read_only {
        flags |= LO_FLAGS_READ_ONLY;
    }
    if clears_itself {
        flags |= LO_FLAGS_AUTOCLEAR;
    }
    for _ in 0..TRIES {
        // SAFETY: `Plain` is right for LOOP_CTL_GET_FREE, and this is the control device.
        let number = unsafe { ioctl(&control_file, Plain::<LOOP_CTL_GET_FREE>) };
        let number = number.map_err(|errno| Error::io(control.display(), &errno.into()))?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let device_file = open(&device, !read_only)?;
        let config = Config {
            fd: u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX),
            block_size: 0,
            info: Info {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: `Config` is what LOOP_CONFIGURE reads; a device that is none refuses it.
        match unsafe { ioctl(&device_file, config) } {
            Ok(()) => {
                return Ok(Device {
                    path: device,
                    _file: device_file,
                });
            }
            // Somebody was faster.
            Err(Errno::BUSY) => {}
            Err(errno) => {
                let what = format!("{} as {}", path.display(), device.display());
                return Err(Error::io(what, &errno.into()));
            }
        }
    }
    let what = format!("a loop device for {}", path.display());
    Err(Error::io(what, &Errno::BUSY.into()))
}

/// Gives a device back. One that is free already is fine.
///
/// # Errors
/// What the kernel says.
pub(super) fn detach(device: &Path) -> Result<()> {
    if !device.starts_with("/dev") {
        return Ok(());
    }
    let file = match open(device, false) {
        Err(error) if error.code() == crate::error::Code::NotFound => return Ok(()),
        opened => opened?,
    };
    // SAFETY: `Plain` is right for LOOP_CLR_FD; a device that is no loop device refuses it.
    match unsafe { ioctl(&file, Plain::<LOOP_CLR_FD>) } {
        Ok(_) | Err(Errno::NXIO) => Ok(()),
        Err(errno) => Err(Error::io(device.display(), &errno.into())),
    }
}
