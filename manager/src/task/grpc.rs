//! Shims that are spoken to over gRPC: the same services and messages, another carrier.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper_util::rt::TokioIo;
use knarr_proto::prost::bytes::{Buf as _, BufMut as _};
use knarr_proto::ttrpc::{Carrier, Client, Code, Error, Options, Status as Answer};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The largest answer, in bytes.
const LARGEST: usize = 16 << 20;

/// Connects to the socket at a path.
///
/// # Errors
/// Where nobody listens.
pub(super) async fn connect(path: &Path) -> io::Result<Client> {
    let (alive, ended) = watch::channel(());
    let connector = Connector {
        path: path.to_owned(),
        alive: Some(alive),
    };
    // The name is part of the protocol, and of no use.
    let endpoint = Endpoint::from_static("http://shim");
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(io::Error::other)?;
    Ok(Client::over(Connection { channel, ended }))
}

/// One connection, which is not made anew when it has ended: then the shim has.
#[derive(Debug)]
struct Connection {
    channel: Channel,
    ended: watch::Receiver<()>,
}

impl Connection {
    /// The connection keeps the sender, and drops it when it ends.
    async fn wait(mut ended: watch::Receiver<()>) {
        while ended.changed().await.is_ok() {}
    }
}

impl Carrier for Connection {
    fn call(
        &self,
        service: &str,
        method: &str,
        request: Vec<u8>,
        options: &Options,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>> + Send + '_>> {
        let path = format!("/{service}/{method}");
        let options = options.clone();
        Box::pin(async move {
            let wrong = |what: String| Error::Status(Answer::new(Code::InvalidArgument, what));
            let path: PathAndQuery = path
                .parse()
                .map_err(|_| wrong(format!("{path:?} is no method")))?;
            let mut request = Request::new(request);
            if !options.namespace.is_empty() {
                let name = options.namespace.parse();
                let name = name.map_err(|_| wrong(format!("namespace {:?}", options.namespace)))?;
                request.metadata_mut().insert("containerd-namespace", name);
            }
            if let Some(limit) = options.timeout {
                request.set_timeout(limit);
            }
            let exchange = async {
                let mut client = tonic::client::Grpc::new(self.channel.clone())
                    .max_decoding_message_size(LARGEST);
                let ready = client.ready().await;
                ready.map_err(|error| Error::Closed(error.to_string()))?;
                let answer = client.unary(request, path, Bytes).await;
                answer.map_err(told)
            };
            let answer = match options.timeout {
                None => exchange.await?,
                Some(limit) => tokio::time::timeout(limit, exchange)
                    .await
                    .unwrap_or(Err(Error::Deadline))?,
            };
            Ok(answer.into_inner())
        })
    }

    fn closed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(Self::wait(self.ended.clone()))
    }
}

/// A status as the other side's answer, or as the end of the connection: the latter has a source.
fn told(status: Status) -> Error {
    match (std::error::Error::source(&status), status.code()) {
        (None, _) => Error::Status(status.into()),
        (_, tonic::Code::DeadlineExceeded | tonic::Code::Cancelled) => Error::Deadline,
        _ => Error::Closed(status.message().to_owned()),
    }
}

/// Connects once.
struct Connector {
    path: PathBuf,
    alive: Option<watch::Sender<()>>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (path, alive) = (self.path.clone(), self.alive.take());
        Box::pin(async move {
            let ended = || io::Error::new(io::ErrorKind::NotConnected, "the shim has ended");
            let _alive = alive.ok_or_else(ended)?;
            let stream = TokioIo::new(UnixStream::connect(path).await?);
            Ok(Stream { stream, _alive })
        })
    }
}

/// A connection that tells of its end by what it drops.
struct Stream {
    stream: TokioIo<UnixStream>,
    _alive: watch::Sender<()>,
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).into()))
    }
}
