//! Frames: ten bytes of header and an encoded message.
//!
//! ```text
//! 0       4       8    9     10
//! +-------+-------+----+-----+-------------
//! |length |stream |kind|flags| message
//! +-------+-------+----+-----+-------------
//! ```
//!
//! Numbers are big endian; the length is that of the message alone.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

/// Bytes of a header.
pub const HEADER_LEN: usize = 10;
/// The longest message, in bytes: 4 MiB. One that is longer fails its call, not the connection.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Flag: the sender sends no more on this stream.
pub const REMOTE_CLOSED: u8 = 1;
/// Flag: more messages follow on this stream.
pub const REMOTE_OPEN: u8 = 2;
/// Flag: no message is in this frame, which only closes the stream.
pub const NO_DATA: u8 = 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a stream; the message is a [`Request`](super::Request).
    Request,
    /// Ends a stream; the message is a [`Response`](super::Response).
    Response,
    /// A further message on a stream. No service here has calls with streams.
    Data,
    /// None of those above.
    Other(u8),
}

impl From<u8> for Kind {
    fn from(byte: u8) -> Self {
        match byte {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Data,
            other => Self::Other(other),
        }
    }
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Request => 1,
            Kind::Response => 2,
            Kind::Data => 3,
            Kind::Other(other) => other,
        }
    }
}

/// What stands before a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the message.
    pub length: u32,
    /// Which call. Streams that a client opens have odd numbers that rise.
    pub stream: u32,
    /// What the message is.
    pub kind: Kind,
    /// [`REMOTE_CLOSED`], [`REMOTE_OPEN`], [`NO_DATA`].
    pub flags: u8,
}

impl Header {
    /// Reads a header.
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = bytes;
        Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind: kind.into(),
            flags,
        }
    }

    /// The bytes of the header.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, l3, s0, s1, s2, s3, self.kind.into(), self.flags]
    }
}

/// What came in.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A whole frame.
    Frame(Header, Bytes),
    /// A frame whose message is longer than [`MAX_MESSAGE`], and which is passed over.
    TooLong(Header),
}

/// Makes frames of bytes, in whatever pieces these come. Holds no more than what came
/// in and was not taken, and no memory between frames.
#[derive(Debug, Default)]
pub struct Decoder {
    received: BytesMut,
    /// Bytes to come of a message that is passed over.
    skip: usize,
}

impl Decoder {
    /// Adds what was read from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.received.extend_from_slice(&bytes[skipped..]);
    }

    /// The next frame, if it is complete.
    pub fn take(&mut self) -> Option<Incoming> {
        let header = Header::from_bytes(*self.received.first_chunk()?);
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            self.received.advance(HEADER_LEN);
            let here = length.min(self.received.len());
            self.received.advance(here);
            self.skip = length - here;
            return Some(Incoming::TooLong(header));
        }
        if self.received.len() < HEADER_LEN + length {
            return None;
        }
        self.received.advance(HEADER_LEN);
        let message = self.received.split_to(length).freeze();
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        Some(Incoming::Frame(header, message))
    }

    /// Whether the connection may end here: no frame has begun.
    pub fn is_idle(&self) -> bool {
        self.received.is_empty() && self.skip == 0
    }
}

/// A message that no frame can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Its length in bytes.
    pub length: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { length } = self;
        write!(
            f,
            "a message of {length} bytes, of which {MAX_MESSAGE} are allowed"
        )
    }
}

impl std::error::Error for TooLong {}

/// Appends a frame.
///
/// # Errors
/// [`TooLong`], and nothing is appended.
pub fn encode(
    out: &mut Vec<u8>,
    stream: u32,
    kind: Kind,
    message: &impl Message,
) -> Result<(), TooLong> {
    let length = message.encoded_len();
    let error = TooLong { length };
    if length > MAX_MESSAGE {
        return Err(error);
    }
    let header = Header {
        length: u32::try_from(length).map_err(|_| error)?,
        stream,
        kind,
        flags: 0,
    };
    out.reserve(HEADER_LEN + length);
    out.extend_from_slice(&header.to_bytes());
    // Fails only where there is no room, and a vector makes some.
    message.encode(out).map_err(|_| error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ttrpc::Request;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Vec<Incoming> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        std::iter::from_fn(|| decoder.take()).collect()
    }

    #[test]
    fn a_frame_byte_by_byte() {
        let request = Request {
            service: "containerd.task.v3.Task".into(),
            method: "Wait".into(),
            payload: Bytes::from_static(b"\x0a\x03web"),
            ..Request::default()
        };
        let mut frame = Vec::new();
        encode(&mut frame, 0x0102_0305, Kind::Request, &request).unwrap();
        let mut expected = b"\0\0\0\x26\x01\x02\x03\x05\x01\0".to_vec();
        expected.extend(b"\x0a\x17containerd.task.v3.Task\x12\x04Wait\x1a\x05\x0a\x03web");
        assert_eq!(frame, expected);

        let mut decoder = Decoder::default();
        for byte in &frame {
            assert_eq!(decoder.take(), None);
            decoder.push(&[*byte]);
            assert!(!decoder.is_idle());
        }
        let Some(Incoming::Frame(header, message)) = decoder.take() else {
            panic!("no frame");
        };
        assert_eq!(
            (header.stream, header.kind, header.flags),
            (0x0102_0305, Kind::Request, 0)
        );
        assert_eq!(Request::decode(message), Ok(request));
        assert!(decoder.is_idle());
    }

    #[test]
    fn a_message_that_is_too_long_is_passed_over() {
        let long = Header {
            length: u32::try_from(MAX_MESSAGE).unwrap() + 1,
            stream: 3,
            kind: Kind::Request,
            flags: 0,
        };
        let mut bytes = long.to_bytes().to_vec();
        bytes.resize(HEADER_LEN + MAX_MESSAGE + 1, 0);
        bytes.extend(b"\0\0\0\x01\0\0\0\x05\x02\x01x");
        let after = Header {
            length: 1,
            stream: 5,
            kind: Kind::Response,
            flags: REMOTE_CLOSED,
        };
        let expected = [
            Incoming::TooLong(long),
            Incoming::Frame(after, Bytes::from_static(b"x")),
        ];
        assert_eq!(decode(&bytes), expected);

        // In pieces nothing of it is kept.
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(65536) {
            decoder.push(piece);
            assert!(decoder.received.len() <= 65536);
            found.extend(std::iter::from_fn(|| decoder.take()));
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn the_longest_message_is_taken() {
        let message = "x".repeat(MAX_MESSAGE - 5);
        let mut frame = Vec::new();
        encode(&mut frame, 1, Kind::Data, &message).unwrap();
        assert!(
            matches!(&decode(&frame)[..], [Incoming::Frame(_, message)] if message.len() == MAX_MESSAGE)
        );
        let longer = "x".repeat(MAX_MESSAGE - 4);
        let error = encode(&mut frame, 1, Kind::Data, &longer).unwrap_err();
        assert_eq!(error.length, MAX_MESSAGE + 1);
        assert_eq!(frame.len(), HEADER_LEN + MAX_MESSAGE);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            frames in prop::collection::vec((any::<u32>(), any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            size in 1..30_usize,
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (stream, kind, flags, message) in frames {
                let header = Header { length: u32::try_from(message.len()).unwrap(), stream, kind: kind.into(), flags };
                bytes.extend(header.to_bytes());
                bytes.extend(&message);
                expected.push(Incoming::Frame(header, message.into()));
            }
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                found.extend(std::iter::from_fn(|| decoder.take()));
            }
            prop_assert_eq!(found, expected);
            prop_assert!(decoder.is_idle());
        }
    }
}
