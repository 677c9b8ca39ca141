//! A server's side of a connection: what came in becomes calls, results become bytes.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::frame::{self, Decoder, Incoming, Kind, TooLong};
use super::{Code, KeyValue, NAMESPACE, Request, Response, Status};
use crate::google::rpc;

/// One call that waits for its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Where the answer goes, on the connection that the call came from.
    pub stream: u32,
    /// Full name of the service.
    pub service: String,
    /// Name of the method.
    pub method: String,
    /// The encoded request.
    pub payload: Bytes,
    /// How long the caller waits, from when it sent the call.
    pub timeout: Option<Duration>,
    /// What else the caller told.
    pub metadata: Vec<KeyValue>,
}

impl Call {
    /// The namespace that the call is about, if the caller named one.
    pub fn namespace(&self) -> Option<&str> {
        let named = self.metadata.iter().find(|pair| pair.key == NAMESPACE);
        named.map(|pair| pair.value.as_str())
    }

    /// The request as a message.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` where it is none.
    pub fn request<M: Message + Default>(&self) -> Result<M, Status> {
        M::decode(self.payload.clone()).map_err(|error| {
            let message = format!("request of {}/{}: {error}", self.service, self.method);
            Status::new(Code::InvalidArgument, message)
        })
    }

    /// The answer to a call of what is not there.
    pub fn unimplemented(&self) -> Status {
        let message = format!("there is no {}/{}", self.service, self.method);
        Status::new(Code::Unimplemented, message)
    }
}

/// What a method has done with a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<T> {
    /// It is done.
    Now(T),
    /// The method has noted the call's stream, and [`answer`] follows when there is one.
    Later,
}

impl<T> From<T> for Reply<T> {
    fn from(response: T) -> Self {
        Self::Now(response)
    }
}

/// What came in.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A call to be answered.
    Call(Call),
    /// Nothing that can be served: bytes to send to the caller, who is told why.
    Refused(Vec<u8>),
}

/// Makes calls of the bytes of one connection.
#[derive(Debug, Default)]
pub struct Receiver {
    decoder: Decoder,
}

impl Receiver {
    /// Adds what was read from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The next call, if it is complete.
    pub fn take(&mut self) -> Option<Received> {
        loop {
            let (stream, status) = match self.decoder.take()? {
                Incoming::TooLong(header) => {
                    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                    (header.stream, too_long(TooLong { length }))
                }
                Incoming::Frame(header, message) => match header.kind {
                    Kind::Request if header.stream % 2 == 0 => {
                        let message =
                            format!("stream {} is even, so not a client's", header.stream);
                        (header.stream, Status::new(Code::InvalidArgument, message))
                    }
                    Kind::Request => match Request::decode(message) {
                        Ok(request) => return Some(Received::Call(call(header.stream, request))),
                        Err(error) => {
                            let message = format!("not a request: {error}");
                            (header.stream, Status::new(Code::InvalidArgument, message))
                        }
                    },
                    Kind::Data => {
                        let message = format!("no stream {} is open", header.stream);
                        (header.stream, Status::new(Code::InvalidArgument, message))
                    }
                    // An answer to a refusal would never end.
                    Kind::Response | Kind::Other(_) => continue,
                },
            };
            let mut bytes = Vec::new();
            reply(&mut bytes, stream, Err(status));
            return Some(Received::Refused(bytes));
        }
    }
}

fn call(stream: u32, request: Request) -> Call {
    let nanos = u64::try_from(request.timeout_nano).unwrap_or(0);
    Call {
        stream,
        service: request.service,
        method: request.method,
        payload: request.payload,
        timeout: (nanos > 0).then(|| Duration::from_nanos(nanos)),
        metadata: request.metadata,
    }
}

pub(super) fn too_long(error: TooLong) -> Status {
    Status::new(Code::ResourceExhausted, error.to_string())
}

/// Appends the answer to the call of this stream. One that is too long becomes
/// `RESOURCE_EXHAUSTED`.
pub fn answer<M: Message>(out: &mut Vec<u8>, stream: u32, result: Result<M, Status>) {
    let result = result.map(|response| Reply::Now(response.encode_to_vec().into()));
    reply(out, stream, result);
}

/// Appends what a dispatcher of [`services`](super::services) returned for the call of
/// this stream: nothing if that comes later.
pub fn reply(out: &mut Vec<u8>, stream: u32, result: Result<Reply<Bytes>, Status>) {
    let response = match result {
        Ok(Reply::Later) => return,
        Ok(Reply::Now(payload)) => Response {
            // Some clients want a status in success too, and none minds.
            status: Some(rpc::Status::default()),
            payload,
        },
        Err(status) => failure(status),
    };
    if let Err(error) = frame::encode(out, stream, Kind::Response, &response) {
        // Short, so it fits.
        let _ = frame::encode(out, stream, Kind::Response, &failure(too_long(error)));
    }
}

fn failure(mut status: Status) -> Response {
    truncate(&mut status.message);
    Response {
        status: Some(status.into()),
        payload: Bytes::new(),
    }
}

/// Keeps a message of an error in bounds, so that any can be sent.
fn truncate(message: &mut String) {
    const LONGEST: usize = 64 << 10;
    if message.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::task::v2::{StateRequest, WaitResponse};
    use crate::ttrpc::frame::{HEADER_LEN, Header, MAX_MESSAGE};
    use proptest::prelude::*;

    fn received(bytes: &[u8]) -> Vec<Received> {
        let mut receiver = Receiver::default();
        receiver.push(bytes);
        std::iter::from_fn(|| receiver.take()).collect()
    }

    /// The stream and the response in the bytes of an answer.
    fn answered(bytes: &[u8]) -> (u32, Response) {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        let Some(Incoming::Frame(header, message)) = decoder.take() else {
            panic!("no answer in {bytes:?}");
        };
        assert_eq!(header.kind, Kind::Response);
        assert!(decoder.is_idle());
        (header.stream, Response::decode(message).unwrap())
    }

    fn refused(bytes: &[u8]) -> (u32, Code, String) {
        match &received(bytes)[..] {
            [Received::Refused(answer)] => {
                let (stream, response) = answered(answer);
                let status = response.status.unwrap();
                (stream, status.code.into(), status.message)
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_request_becomes_a_call() {
        // As containerd sends it: service, method, payload, timeout, metadata.
        let message = b"\x0a\x17containerd.task.v3.Task\x12\x05State\x1a\x05\x0a\x03web\x20\x80\x94\xeb\xdc\x03\
            \x2a\x22\x0a\x1acontainerd-namespace-ttrpc\x12\x04k8s.";
        let mut bytes = vec![
            0,
            0,
            0,
            u8::try_from(message.len()).unwrap(),
            0,
            0,
            0,
            7,
            1,
            0,
        ];
        bytes.extend(message);
        let [Received::Call(call)] = &received(&bytes)[..] else {
            panic!("no call");
        };
        assert_eq!(
            (call.stream, call.service.as_str(), call.method.as_str()),
            (7, "containerd.task.v3.Task", "State")
        );
        assert_eq!(call.timeout, Some(Duration::from_secs(1)));
        assert_eq!(call.namespace(), Some("k8s."));
        assert_eq!(call.request::<StateRequest>().unwrap().id, "web");
    }

    #[test]
    fn answers_are_as_on_the_wire() {
        let mut out = Vec::new();
        let response = WaitResponse {
            exit_status: 137,
            exited_at: None,
        };
        answer(&mut out, 7, Ok(response));
        assert_eq!(out, b"\0\0\0\x07\0\0\0\x07\x02\0\x0a\0\x12\x03\x08\x89\x01");

        out.clear();
        answer::<WaitResponse>(&mut out, 9, Err(Status::new(Code::NotFound, "no web")));
        assert_eq!(
            out,
            b"\0\0\0\x0c\0\0\0\x09\x02\0\x0a\x0a\x08\x05\x12\x06no web"
        );

        out.clear();
        reply(&mut out, 9, Ok(Reply::Later));
        assert_eq!(out, b"");
    }

    #[test]
    fn what_no_frame_can_hold_is_answered_so() {
        let mut out = Vec::new();
        answer(&mut out, 3, Ok("x".repeat(MAX_MESSAGE)));
        let (stream, response) = answered(&out);
        assert_eq!(
            (stream, response.status.unwrap().code),
            (3, Code::ResourceExhausted.into())
        );

        out.clear();
        answer::<()>(
            &mut out,
            3,
            Err(Status::new(Code::Internal, "\u{20ac}".repeat(MAX_MESSAGE))),
        );
        let (_, response) = answered(&out);
        let status = response.status.unwrap();
        assert_eq!(status.code, i32::from(Code::Internal));
        assert_eq!(status.message.len(), (64 << 10) / 3 * 3);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let long = Header {
            length: u32::MAX,
            stream: 11,
            kind: Kind::Request,
            flags: 0,
        };
        let (stream, code, message) = refused(&long.to_bytes());
        assert_eq!((stream, code), (11, Code::ResourceExhausted));
        assert_eq!(
            message,
            "a message of 4294967295 bytes, of which 4194304 are allowed"
        );

        let (stream, code, message) = refused(b"\0\0\0\0\0\0\0\x02\x01\0");
        assert_eq!((stream, code), (2, Code::InvalidArgument));
        assert_eq!(message, "stream 2 is even, so not a client's");

        let (stream, code, message) = refused(b"\0\0\0\x01\0\0\0\x03\x01\0\xff");
        assert_eq!((stream, code), (3, Code::InvalidArgument));
        assert!(message.starts_with("not a request: "), "{message}");

        let (stream, code, _) = refused(b"\0\0\0\0\0\0\0\x05\x03\x04");
        assert_eq!((stream, code), (5, Code::InvalidArgument));

        assert_eq!(
            received(b"\0\0\0\0\0\0\0\x05\x02\0\0\0\0\0\0\0\0\x05\x63\0"),
            []
        );
    }

    proptest! {
        #[test]
        fn no_input_panics(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let mut receiver = Receiver::default();
            for piece in &pieces {
                receiver.push(piece);
                while receiver.take().is_some() {}
            }
        }

        #[test]
        fn no_frame_panics(kind in 0..5_u8, stream: u32, flags: u8, message in prop::collection::vec(any::<u8>(), 0..200)) {
            let header = Header {
                length: u32::try_from(message.len()).unwrap(),
                stream,
                kind: kind.into(),
                flags,
            };
            let mut bytes = header.to_bytes().to_vec();
            bytes.extend(&message);
            for received in received(&bytes) {
                if let Received::Refused(answer) = received {
                    prop_assert_eq!(answered(&answer).0, stream);
                    prop_assert!(answer.len() > HEADER_LEN);
                }
            }
        }
    }
}
