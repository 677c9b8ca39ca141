//! Programs that serve a part of the API for this one: how they are called.
//!
//! Every call has a deadline, and nothing is locked while one is under way: who waits for a program
//! that hangs is who asked it.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::config;
use crate::error::{Code, Error, Result};

/// The largest answer, in bytes.
pub(crate) const LARGEST: usize = 16 << 20;

/// The other program.
#[derive(Debug)]
pub(crate) struct Remote {
    /// What it is, for messages: `snapshotter NAME`.
    what: String,
    deadline: Duration,
    /// Made when it is first needed, and anew when it has broken.
    pub(crate) channel: Channel,
}

impl Remote {
    /// The program `name` as the configuration describes it. It need not run yet.
    pub(crate) fn new(kind: &str, name: &str, config: &config::Proxy) -> Result<Self> {
        let address = format!("unix://{}", config.address.display());
        let endpoint = Endpoint::from_shared(address)
            .map_err(|error| Error::invalid(format!("proxy_plugins.{name}.address: {error}")))?;
        Ok(Self {
            what: format!("{kind} {name}"),
            deadline: config.deadline(),
            channel: endpoint.connect_lazy(),
        })
    }

    /// Waits for an answer as long as may be.
    pub(crate) async fn call<T>(
        &self,
        method: &str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(answer) => answer.map_err(|status| self.told(&status)),
            Err(_) => {
                let (what, limit) = (&self.what, self.deadline.as_secs());
                let message = format!("{what}: {method} takes longer than {limit} s");
                Err(Error::new(Code::DeadlineExceeded, message))
            }
        }
    }

    fn told(&self, status: &Status) -> Error {
        let code = match status.code() {
            tonic::Code::NotFound => Code::NotFound,
            tonic::Code::AlreadyExists => Code::AlreadyExists,
            tonic::Code::FailedPrecondition => Code::FailedPrecondition,
            tonic::Code::InvalidArgument => Code::InvalidArgument,
            // Nothing is cancelled from here: the other side went in the middle of the call.
            tonic::Code::Unavailable | tonic::Code::Cancelled => Code::Unavailable,
            tonic::Code::ResourceExhausted => Code::ResourceExhausted,
            tonic::Code::OutOfRange => Code::OutOfRange,
            tonic::Code::DataLoss => Code::DataLoss,
            tonic::Code::Unimplemented => Code::Unimplemented,
            tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
            tonic::Code::PermissionDenied => Code::PermissionDenied,
            _ => Code::Internal,
        };
        let message = status.message();
        let end = format!(": {}", code.words());
        let message = message.strip_suffix(&end).unwrap_or(message);
        Error::new(code, format!("{}: {message}", self.what))
    }
}

/// A request in a namespace.
pub(crate) fn about<T>(namespace: &str, message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let value = namespace
        .parse()
        .map_err(|_| Error::invalid(format!("namespace {namespace:?}")))?;
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}
