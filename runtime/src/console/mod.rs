//! The terminal of a container: a pseudoterminal of its own devpts, pty(7).
//!
//! Belongs here: making the pair, handing the master to whoever asked for it,
//! and making the slave the process's terminal. Does not: mounting devpts or
//! /dev/console, which the root file system does with the slave's descriptor.

mod relay;

pub use relay::wait;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, FsWord, Mode, OFlags, fstat, fstatfs, major, minor, openat};
use rustix::io::{Errno, IoSlice};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use rustix::process::{getpid, getsid, ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{Context, Error, Kind, Result};
use crate::spec::config::ConsoleSize;

/// The magic number of devpts, statfs(2).
const DEVPTS_SUPER_MAGIC: FsWord = 0x1cd1;
/// The inode of ptmx in every devpts.
const PTMX_INODE: u64 = 2;

/// What a master is called on the socket; receivers take it as the name of the file.
pub const MASTER_NAME: &str = "/dev/ptmx";

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    rows: u16,
    columns: u16,
}

/// Reads `process.consoleSize`; to be asked only when there is a terminal.
///
/// # Errors
/// `InvalidConfig` for what does not fit into the kernel's structure.
pub fn plan(size: ConsoleSize) -> Result<Size> {
    let fit = |field: &str, value: u64| {
        u16::try_from(value).map_err(|_| {
            Error::config(
                format_args!("process.consoleSize.{field}"),
                format_args!("{value} is above 65535"),
            )
        })
    };
    Ok(Size {
        rows: fit("height", size.height)?,
        columns: fit("width", size.width)?,
    })
}

/// A pseudoterminal.
#[derive(Debug)]
pub struct Terminal {
    /// The end of whoever uses the container.
    pub master: OwnedFd,
    /// The end of the container's process.
    pub slave: OwnedFd,
}

impl Terminal {
    /// Makes a pair in the devpts that is mounted at `devpts`.
    ///
    /// The image could have put something else there, and a path to the slave could lead to a terminal of
    /// the host (CVE-2025-52565): so ptmx is checked to be that of a devpts, and the slave is
    /// asked from the master.
    ///
    /// # Errors
    /// A directory that is no devpts; those of openat(2) and ioctl_tty(2).
    pub fn open(devpts: BorrowedFd<'_>, size: Option<Size>) -> Result<Terminal> {
        let not_devpts = || {
            Error::new(
                Kind::InvalidConfig,
                "process.terminal: /dev/pts is no devpts; mount one there in mounts",
            )
        };
        if !is_devpts(devpts)? {
            return Err(not_devpts());
        }
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let master = openat(devpts, "ptmx", flags, Mode::empty())
            .context(|| "process.terminal: openat(\"/dev/pts/ptmx\")")?;
        let stat = fstat(&master).context(|| "fstat(\"/dev/pts/ptmx\")")?;
        // Something may be mounted over the file.
        let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2)
            && stat.st_ino == PTMX_INODE
            && is_devpts(master.as_fd())?;
        if !is_ptmx {
            return Err(not_devpts());
        }
        unlockpt(&master).context(|| "process.terminal: ioctl(TIOCSPTLCK)")?;
        let slave = peer(&master).context(|| "process.terminal: ioctl(TIOCGPTPEER)")?;
        if let Some(size) = size {
            let size = Winsize {
                ws_row: size.rows,
                ws_col: size.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&slave, size).context(|| "process.consoleSize: ioctl(TIOCSWINSZ)")?;
        }
        Ok(Terminal { master, slave })
    }
}

fn peer(master: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    ioctl_tiocgptpeer(master, flags)
}

fn is_devpts(fd: BorrowedFd<'_>) -> Result<bool> {
    let statfs = fstatfs(fd).context(|| "fstatfs(\"/dev/pts\")")?;
    Ok(statfs.f_type == DEVPTS_SUPER_MAGIC)
}

/// Makes `slave` the controlling terminal and the standard streams of the calling process, which
/// becomes the leader of a session where it is none.
///
/// # Errors
/// Those of setsid(2), ioctl_tty(2) and dup2(2).
pub fn attach(slave: &OwnedFd) -> Result<()> {
    match setsid() {
        // The leader of a process group cannot make a session; it is fine if it leads one already.
        Err(Errno::PERM) if getsid(None) == Ok(getpid()) => {}
        result => drop(result.context(|| "setsid()")?),
    }
    ioctl_tiocsctty(slave).context(|| "ioctl(TIOCSCTTY)")?;
    rustix::stdio::dup2_stdin(slave).context(|| "dup2(terminal, 0)")?;
    rustix::stdio::dup2_stdout(slave).context(|| "dup2(terminal, 1)")?;
    rustix::stdio::dup2_stderr(slave).context(|| "dup2(terminal, 2)")
}

/// Connects to the unix socket of `--console-socket` or `--pidfd-socket`; `option` names it in errors.
/// Paths of any length work.
///
/// # Errors
/// Those of socket(2) and connect(2).
pub fn connect_to(path: &Path, option: &str) -> Result<OwnedFd> {
    let call = || format!("{option}: connect({path:?})");
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| format!("{option}: socket(AF_UNIX)"))?;
    match SocketAddrUnix::new(path) {
        Ok(address) => connect(&socket, &address).context(call)?,
        // Longer than sun_path: by way of a descriptor.
        Err(Errno::NAMETOOLONG) => {
            use std::os::fd::AsRawFd;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let place = openat(CWD, path, flags, Mode::empty()).context(call)?;
            let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", place.as_raw_fd()))
                .context(call)?;
            connect(&socket, &address).context(call)?;
        }
        Err(errno) => return Err(errno).context(call),
    }
    Ok(socket)
}

/// Sends `fd` in one message with `name` as its payload: unix(7), SCM_RIGHTS.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let payload = [IoSlice::new(name.as_bytes())];
    loop {
        match sendmsg(socket, &payload, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => {
                return result
                    .map(drop)
                    .context(|| format!("sendmsg({name:?}, SCM_RIGHTS)"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, is_root, private_mounts};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// A devpts of its own, in a mount namespace of the calling child.
    fn devpts() -> (tempfile::TempDir, OwnedFd) {
        private_mounts();
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount(
            "devpts",
            dir.path(),
            "devpts",
            rustix::mount::MountFlags::empty(),
            Some(c"newinstance,ptmxmode=0666"),
        )
        .unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap().into();
        (dir, fd)
    }

    #[test]
    fn the_process_gets_the_terminal() {
        if !is_root("the_process_gets_the_terminal") {
            return;
        }
        let seen = in_child(|| {
            let (_dir, devpts) = devpts();
            let size = plan(ConsoleSize {
                height: 31,
                width: 117,
            })?;
            let terminal = Terminal::open(devpts.as_fd(), Some(size))?;
            let in_terminal = in_child(|| {
                attach(&terminal.slave)?;
                let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).unwrap();
                let own = rustix::termios::tcgetsid(rustix::stdio::stdin()) == Ok(getpid());
                // Not println!, which the test harness catches.
                rustix::io::write(rustix::stdio::stdout(), b"hello\n").unwrap();
                Ok(format!("{} {} {own}", size.ws_row, size.ws_col))
            })?;
            let mut buffer = [0; 100];
            let count = std::fs::File::from(terminal.master)
                .read(&mut buffer)
                .unwrap();
            Ok(in_terminal + " " + std::str::from_utf8(&buffer[..count]).unwrap())
        });
        assert_eq!(seen.unwrap(), "31 117 true hello\r\n");
    }

    #[test]
    fn only_a_devpts_will_do() {
        if !is_root("only_a_devpts_will_do") {
            return;
        }
        let other = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(other.path()).unwrap();
        let error = Terminal::open(fd.as_fd(), None).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("process.terminal: /dev/pts is no devpts")
        );
        let error = in_child(|| {
            let (dir, devpts) = devpts();
            rustix::mount::mount_bind("/dev/null", dir.path().join("ptmx")).unwrap();
            Terminal::open(devpts.as_fd(), None)?;
            Ok(String::new())
        });
        let text = error.unwrap_err().to_string();
        assert!(
            text.starts_with("process.terminal: /dev/pts is no devpts"),
            "{text}"
        );
    }

    #[test]
    fn a_size_that_does_not_fit_is_refused() {
        let size = ConsoleSize {
            height: 65535,
            width: 65536,
        };
        assert_eq!(
            plan(size).unwrap_err().to_string(),
            "process.consoleSize.width: 65536 is above 65535"
        );
    }

    #[test]
    fn a_descriptor_arrives_with_its_name_in_one_message() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        std::fs::create_dir(&long).unwrap();
        for path in [dir.path().join("s"), long.join("s")] {
            // The listener of a long path is bound by way of its directory, too.
            let place = std::fs::File::open(path.parent().unwrap()).unwrap();
            let listener = {
                use std::os::fd::AsRawFd;
                UnixListener::bind(format!("/proc/self/fd/{}/s", place.as_raw_fd())).unwrap()
            };
            let socket = connect_to(&path, "--console-socket").unwrap();
            let (reader, mut writer) = std::io::pipe().unwrap();
            send_fd(socket.as_fd(), reader.as_fd(), MASTER_NAME).unwrap();
            drop((socket, reader));

            let (stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 100];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                &stream,
                &mut [std::io::IoSliceMut::new(&mut bytes)],
                &mut control,
                rustix::net::RecvFlags::CMSG_CLOEXEC,
            )
            .unwrap();
            assert_eq!(&bytes[..received.bytes], b"/dev/ptmx");
            let mut fds = control.drain().flat_map(|message| match message {
                rustix::net::RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => vec![],
            });
            let copy = fds.next().unwrap();
            assert!(fds.next().is_none());
            writer.write_all(b"through").unwrap();
            drop(writer);
            let mut text = String::new();
            std::fs::File::from(copy).read_to_string(&mut text).unwrap();
            assert_eq!(text, "through");
        }
        let error = connect_to(&dir.path().join("absent"), "--pidfd-socket").unwrap_err();
        assert!(
            error.to_string().starts_with("--pidfd-socket: connect("),
            "{error}"
        );
    }
}
