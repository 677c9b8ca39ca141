//! Setting the loopback device of a new network namespace up.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::error::{Context, Result};
use crate::sys::netdev::set_interface_flags;

const IFF_UP: u16 = 1;
const IFF_RUNNING: u16 = 0x40;

/// Sets `lo` up in the network namespace of the caller. Its addresses come by themselves.
///
/// Returns what it was done with, to be closed.
///
/// Three system calls: a unix socket is the cheapest one that takes SIOCSIFFLAGS, and works
/// without IPv4. The present flags are not asked for: the only one that may be set in a new
/// namespace, IFF_LOOPBACK, cannot be changed.
///
/// # Errors
/// Those of socket(2) and netdevice(7); `EPERM` without CAP_NET_ADMIN.
pub fn up() -> Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "socket(AF_UNIX, SOCK_DGRAM)")?;
    set_interface_flags(&socket, b"lo", IFF_UP | IFF_RUNNING)
        .context(|| "ioctl(SIOCSIFFLAGS, lo, IFF_UP | IFF_RUNNING)")?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use crate::sys::testing::{in_child, is_root, unshare_net};

    #[test]
    fn a_new_namespace_talks_to_itself() {
        if !is_root("a_new_namespace_talks_to_itself") {
            return;
        }
        let seen = in_child(|| {
            unshare_net();
            let talk = || {
                let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
                std::net::TcpStream::connect(listener.local_addr()?)
            };
            assert!(talk().is_err());
            super::up()?;
            talk().unwrap();
            Ok(String::new())
        });
        seen.unwrap();
    }

    #[test]
    fn says_what_was_tried_when_it_may_not() {
        if !is_root("says_what_was_tried_when_it_may_not") {
            return;
        }
        let error = in_child(|| {
            unshare_net();
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective
                .remove(rustix::thread::CapabilitySet::NET_ADMIN);
            rustix::thread::set_capabilities(None, sets).unwrap();
            super::up()?;
            Ok(String::new())
        });
        assert_eq!(
            error.unwrap_err().to_string(),
            "ioctl(SIOCSIFFLAGS, lo, IFF_UP | IFF_RUNNING): operation not permitted"
        );
    }
}
