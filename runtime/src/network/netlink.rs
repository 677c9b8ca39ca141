//! A small synchronous client of rtnetlink(7): requests, their answers, attributes.
//!
//! Belongs here: the format of messages. Does not: what they are for.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// Types of messages, rtnetlink(7).
pub(super) mod kind {
    pub const GET_LINK: u16 = 18;
    pub const SET_LINK: u16 = 19;
    pub const NEW_ADDRESS: u16 = 20;
    pub const GET_ADDRESS: u16 = 22;
    pub const NEW_ROUTE: u16 = 24;
    pub const GET_ROUTE: u16 = 26;
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
/// Make what is asked for.
pub(super) const NLM_F_CREATE: u16 = 0x400;
/// It must not be there.
pub(super) const NLM_F_EXCL: u16 = 0x200;

const HEADER: usize = 16;

/// A socket to rtnetlink in the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// A socket in the network namespace of the caller.
    pub(super) fn open() -> Result<Netlink, Errno> {
        // The protocol NETLINK_ROUTE is 0.
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Sends one request and returns the answers before its acknowledgement.
    pub(super) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<Vec<Vec<u8>>, Errno> {
        self.exchange(kind, flags | NLM_F_REQUEST | NLM_F_ACK, body)
            .map(|(answers, _)| answers)
    }

    /// Asks for all objects of a kind, again when they changed meanwhile.
    pub(super) fn dump(&mut self, kind: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        for _ in 0..16 {
            let (answers, whole) = self.exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, body)?;
            if whole {
                return Ok(answers);
            }
        }
        Err(Errno::AGAIN)
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<(Vec<Vec<u8>>, bool), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::MSGSIZE)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(body);
        send(&self.socket, &message, SendFlags::empty())?;

        let mut answers = Vec::new();
        let mut whole = true;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (count, full) = match recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            if full > count {
                return Err(Errno::MSGSIZE);
            }
            let mut rest = &buffer[..count];
            while let Some((message, next)) = Message::split(rest) {
                rest = next;
                if message.sequence != self.sequence {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        // The acknowledgement is an error of 0; the end of a dump carries one as well.
                        return match read_i32(message.body, 0).unwrap_or(0) {
                            0 => Ok((answers, whole)),
                            error => Err(Errno::from_raw_os_error(error.saturating_neg())),
                        };
                    }
                    _ => answers.push(message.body.to_vec()),
                }
            }
        }
    }
}

/// One message of a datagram.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
        let length = usize::try_from(read_u32(bytes, 0)?).ok()?;
        let message = Message {
            kind: read_u16(bytes, 4)?,
            flags: read_u16(bytes, 6)?,
            sequence: read_u32(bytes, 8)?,
            body: bytes.get(HEADER..length)?,
        };
        Some((message, bytes.get(align(length)..).unwrap_or(&[])))
    }
}

fn align(length: usize) -> usize {
    (length + 3) & !3
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn read_i32(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Appends an attribute to a request.
pub(super) fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Longer values than the field can say are never made here.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(align(body.len()), 0);
}

/// Appends a text with its NUL byte.
pub(super) fn put_text(body: &mut Vec<u8>, kind: u16, text: &str) {
    put(body, kind, &[text.as_bytes(), b"\0"].concat());
}

/// The attributes of an answer that follow a header of `header` bytes.
pub(super) fn attributes(body: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    /// The upper two bits of the type are flags.
    const NLA_TYPE_MASK: u16 = 0x3fff;
    let mut rest = body.get(header..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(rest, 0)?);
        let kind = read_u16(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_come_back() {
        let mut body = vec![9; 8];
        put_text(&mut body, 3, "lo");
        put(&mut body, 0x8001, &[1, 2, 3, 4, 5]);
        let all: Vec<_> = attributes(&body, 8).collect();
        assert_eq!(all, [(3, &b"lo\0"[..]), (1, &[1, 2, 3, 4, 5])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in 0usize..300) {
            prop_assert!(attributes(&bytes, header).count() <= 60);
            let mut rest = &bytes[..];
            let mut count = 0;
            while let Some((_, next)) = Message::split(rest) {
                prop_assert!(next.len() < rest.len());
                rest = next;
                count += 1;
            }
            prop_assert!(count <= 20);
        }
    }

    #[test]
    fn errors_of_the_kernel_are_errnos() {
        let mut netlink = Netlink::open().unwrap();
        let mut body = vec![0; 16];
        put_text(&mut body, 3, "no-such-device");
        let error = netlink.request(kind::GET_LINK, 0, &body);
        assert_eq!(error, Err(Errno::NODEV));
        let links = netlink.dump(kind::GET_LINK, &[0; 16]).unwrap();
        assert!(links.iter().any(|link| {
            attributes(link, 16).any(|(kind, value)| (kind, value) == (3, &b"lo\0"[..]))
        }));
    }
}
