//! A server on tokio: the calls of one connection, one after the other.
//!
//! Calls are answered in the order in which they came, and the next is not read before that: so
//! events keep their order, and whoever sends faster than is served waits.

use std::future::Future;
use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::{Call, Received, Receiver, Reply, Status, reply};

/// Serves a connection until the other side closes it. `answer` gives the encoded response to a
/// call.
///
/// # Errors
/// Those of read(2) and write(2).
pub async fn serve<F>(mut stream: UnixStream, mut answer: impl FnMut(Call) -> F) -> io::Result<()>
where
    F: Future<Output = Result<Bytes, Status>>,
{
    let mut receiver = Receiver::default();
    let mut out = Vec::new();
    loop {
        stream.readable().await?;
        {
            // Not held while waiting: idle connections have no buffer.
            let mut bytes = [0; 4096];
            match stream.try_read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => receiver.push(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
        }
        while let Some(received) = receiver.take() {
            match received {
                Received::Refused(refusal) => out.extend(refusal),
                Received::Call(call) => {
                    let number = call.stream;
                    let result = answer(call).await;
                    reply(&mut out, number, result.map(Reply::Now));
                }
            }
            stream.write_all(&out).await?;
            out = Vec::new();
        }
    }
}
