//! The client: many calls at once over one connection, each with a deadline of its
//! own. When the connection breaks, all of them end.
//!
//! Two tasks hold a connection: one writes whole frames, so that a caller who goes away
//! leaves no half of one, and one reads and gives each answer to who waits for it.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::frame::{self, Decoder, Incoming, Kind};
use super::server::too_long;
use super::{Code, KeyValue, NAMESPACE, Request, Response, Status};

/// Frames that wait to be written. More make their callers wait.
const QUEUE: usize = 32;

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The other side answered so, or the request could not be sent in the first place.
    Status(Status),
    /// No answer in time. Whether the call had an effect is not known.
    Deadline,
    /// The connection has ended, and why. Whether the call had an effect is not known.
    Closed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::Deadline => f.write_str("no answer in time"),
            Self::Closed(reason) => write!(f, "connection closed: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Status(status) => status,
            Error::Deadline => Self::new(Code::DeadlineExceeded, error.to_string()),
            Error::Closed(_) => Self::new(Code::Unavailable, error.to_string()),
        }
    }
}

/// What goes with a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The namespace that it is about; empty: none.
    pub namespace: String,
    /// How long to wait, and what the other side is told of it. `None` waits for ever, as
    /// for the end of a process.
    pub timeout: Option<Duration>,
}

/// What carries calls elsewhere than over ttrpc, for services that are the same.
pub trait Carrier: fmt::Debug + Send + Sync + 'static {
    /// As [`Client::call`], with messages as they are on the wire.
    fn call(
        &self,
        service: &str,
        method: &str,
        request: Vec<u8>,
        options: &Options,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>> + Send + '_>>;

    /// As [`Client::closed`].
    fn closed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// One connection. Clones share it, and it ends with the last of them.
#[derive(Clone)]
pub struct Client {
    way: Way,
}

#[derive(Clone)]
enum Way {
    Ttrpc(Arc<Connection>),
    Other(Arc<dyn Carrier>),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = match &self.way {
            Way::Ttrpc(connection) => connection,
            Way::Other(carrier) => return carrier.fmt(f),
        };
        let calls = connection.calls.lock();
        f.debug_struct("Client")
            .field("waiting", &calls.waiting.len())
            .field("ended", &calls.ended)
            .finish()
    }
}

struct Connection {
    queue: mpsc::Sender<Vec<u8>>,
    calls: Calls,
    tasks: [AbortHandle; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The calls that wait for answers.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// Streams that were opened so far.
    opened: u32,
    waiting: HashMap<u32, oneshot::Sender<Result<Response, Error>>>,
    /// Why no call can be made any more.
    ended: Option<String>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an answer to who waits for it, if anybody still does.
    fn answer(&self, stream: u32, result: Result<Response, Error>) {
        if let Some(waiting) = self.lock().waiting.remove(&stream) {
            let _ = waiting.send(result);
        }
    }

    /// Lets no call begin any more. The first reason stays.
    fn refuse(&self, reason: &str) -> String {
        let mut calls = self.lock();
        calls.ended.get_or_insert_with(|| reason.to_owned()).clone()
    }

    /// Ends all calls.
    fn end(&self, reason: &str) {
        let reason = self.refuse(reason);
        let mut calls = self.lock();
        for (_, waiting) in calls.waiting.drain() {
            let _ = waiting.send(Err(Error::Closed(reason.clone())));
        }
    }

    fn closed(&self) -> Error {
        let reason = self.lock().ended.clone();
        Error::Closed(reason.unwrap_or_else(|| "by this side".to_owned()))
    }
}

/// Forgets a call whose caller has gone.
struct Forget<'a> {
    calls: &'a Calls,
    stream: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.calls.lock().waiting.remove(&self.stream);
    }
}

impl Client {
    /// Connects to the socket at a path.
    ///
    /// # Errors
    /// Those of connect(2).
    pub async fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(path).await?))
    }

    /// Takes a connection. Has to be called inside of a tokio runtime.
    pub fn new(stream: UnixStream) -> Self {
        let (reading, writing) = stream.into_split();
        let (queue, frames) = mpsc::channel(QUEUE);
        let calls = Calls::default();
        let writer = tokio::spawn(write(writing, frames, calls.clone())).abort_handle();
        let reader = tokio::spawn(read(reading, calls.clone(), writer.clone())).abort_handle();
        let connection = Connection {
            queue,
            calls,
            tasks: [reader, writer],
        };
        Self {
            way: Way::Ttrpc(Arc::new(connection)),
        }
    }

    /// Takes another carrier.
    pub fn over(carrier: impl Carrier) -> Self {
        Self {
            way: Way::Other(Arc::new(carrier)),
        }
    }

    /// Waits until the connection has ended from the other side, as it does when a shim dies.
    pub async fn closed(&self) {
        match &self.way {
            Way::Ttrpc(connection) => connection.queue.closed().await,
            Way::Other(carrier) => carrier.closed().await,
        }
    }

    /// Makes a call and waits for its answer. A caller that drops this is no longer waited
    /// for; the other side does not learn of it.
    ///
    /// # Errors
    /// [`Error::Status`] is the answer, or tells that there is no sending this request; the
    /// others tell that none came.
    pub async fn call<Q: Message, P: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        options: &Options,
    ) -> Result<P, Error> {
        let wrong = |error: prost::DecodeError| {
            let message = format!("answer of {service}/{method}: {error}");
            Error::Status(Status::new(Code::Internal, message))
        };
        let connection = match &self.way {
            Way::Ttrpc(connection) => connection,
            Way::Other(carrier) => {
                let request = request.encode_to_vec();
                let answer = carrier.call(service, method, request, options).await?;
                return P::decode(&*answer).map_err(wrong);
            }
        };
        let mut metadata = Vec::new();
        if !options.namespace.is_empty() {
            metadata.push(KeyValue {
                key: NAMESPACE.to_owned(),
                value: options.namespace.clone(),
            });
        }
        let nanos = options
            .timeout
            .map_or(0, |timeout| timeout.as_nanos().max(1));
        let message = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec().into(),
            timeout_nano: i64::try_from(nanos).unwrap_or(i64::MAX),
            metadata,
        };
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, 0, Kind::Request, &message)
            .map_err(|error| Error::Status(too_long(error)))?;
        drop(message);

        let exchange = connection.exchange(bytes);
        let response = match options.timeout {
            None => exchange.await?,
            Some(timeout) => tokio::time::timeout(timeout, exchange)
                .await
                .unwrap_or(Err(Error::Deadline))?,
        };
        if let Some(status) = response.status.filter(|status| status.code != 0) {
            return Err(Error::Status(status.into()));
        }
        P::decode(response.payload).map_err(wrong)
    }
}

impl Connection {
    /// Sends a frame under the next stream and waits for what comes back on it.
    async fn exchange(&self, mut frame: Vec<u8>) -> Result<Response, Error> {
        let Connection { queue, calls, .. } = self;
        let place = queue.reserve().await.map_err(|_| calls.closed())?;
        let (sender, receiver) = oneshot::channel();
        let stream = {
            // Numbers have to rise on the wire, so choosing one and queueing are one step.
            let mut calls = self.calls.lock();
            if let Some(reason) = &calls.ended {
                return Err(Error::Closed(reason.clone()));
            }
            let Some(next) = calls
                .opened
                .checked_add(1)
                .filter(|next| *next <= u32::MAX / 2)
            else {
                return Err(Error::Closed("all stream numbers are used".to_owned()));
            };
            let stream = calls.opened * 2 + 1;
            calls.opened = next;
            frame[4..8].copy_from_slice(&stream.to_be_bytes());
            calls.waiting.insert(stream, sender);
            place.send(frame);
            stream
        };
        let _forget = Forget { calls, stream };
        receiver.await.unwrap_or_else(|_| Err(calls.closed()))
    }
}

async fn write(mut socket: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>, calls: Calls) {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = socket.write_all(&frame).await {
            // Answers may have come before the end, so the reader ends the calls.
            calls.refuse(&error.to_string());
            return;
        }
    }
}

async fn read(socket: OwnedReadHalf, calls: Calls, writer: AbortHandle) {
    let reason = match answers(&socket, &calls).await {
        Ok(()) => "by the other side".to_owned(),
        Err(error) => error.to_string(),
    };
    calls.end(&reason);
    // Ends the queue, and with it those who wait for a place there and for `closed`.
    writer.abort();
}

async fn answers(socket: &OwnedReadHalf, calls: &Calls) -> io::Result<()> {
    let mut decoder = Decoder::default();
    loop {
        socket.readable().await?;
        // Not held while waiting: idle connections have no buffer.
        let mut bytes = [0; 8192];
        match socket.try_read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => decoder.push(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        while let Some(incoming) = decoder.take() {
            match incoming {
                Incoming::Frame(header, message) if header.kind == Kind::Response => {
                    let response = Response::decode(message).map_err(|error| {
                        Error::Status(Status::new(
                            Code::Internal,
                            format!("not an answer: {error}"),
                        ))
                    });
                    calls.answer(header.stream, response);
                }
                // Nobody is called from the other side, and no call here has a stream.
                Incoming::Frame(..) => {}
                Incoming::TooLong(header) => {
                    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                    let status = too_long(frame::TooLong { length });
                    calls.answer(header.stream, Err(Error::Status(status)));
                }
            }
        }
    }
}
