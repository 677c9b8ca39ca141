//! Differs that other programs serve over the API's own Diff service.
//!
//! They are asked before the one of this program, in the order of their names, and one that does not
//! know a media type says `Unimplemented`. They read and write blobs of this daemon over its socket.

use knarr_proto::services::diff::v1::diff_client::DiffClient;
use knarr_proto::services::diff::v1::{ApplyRequest, DiffRequest};
use knarr_proto::types::Descriptor;
use tonic::Request;

use crate::config;
use crate::error::{Code, Error, Result};
use crate::proxy::{LARGEST, Remote, about};

/// A differ of another program.
#[derive(Debug)]
pub struct Differ {
    name: String,
    remote: Remote,
    client: DiffClient<tonic::transport::Channel>,
}

impl Differ {
    /// The differ `name` as the configuration describes it. It need not run yet.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is none.
    pub fn new(name: &str, config: &config::Proxy) -> Result<Self> {
        let remote = Remote::new("differ", name, config)?;
        let client = DiffClient::new(remote.channel.clone());
        Ok(Self {
            name: name.to_owned(),
            client: client.max_decoding_message_size(LARGEST),
            remote,
        })
    }

    /// The name that the configuration gives it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has a layer unpacked there. `None` where it does not know its kind.
    ///
    /// # Errors
    /// What it says; `DeadlineExceeded`, `Unavailable`.
    pub async fn apply(
        &self,
        namespace: &str,
        request: &ApplyRequest,
    ) -> Result<Option<Descriptor>> {
        let mut client = self.client.clone();
        let request = about(namespace, request.clone())?;
        let answer = self.remote.call("Apply", client.apply(request)).await;
        self.known(answer.map(|answer| answer.into_inner().applied))
    }

    /// Has a layer made there, which `lease` keeps. `None` where it does not know its kind.
    ///
    /// # Errors
    /// What it says; `DeadlineExceeded`, `Unavailable`.
    pub async fn diff(
        &self,
        namespace: &str,
        request: &DiffRequest,
        lease: Option<&str>,
    ) -> Result<Option<Descriptor>> {
        let mut client = self.client.clone();
        let mut request: Request<_> = about(namespace, request.clone())?;
        if let Some(lease) = lease {
            let value = lease
                .parse()
                .map_err(|_| Error::invalid(format!("lease {lease:?}")))?;
            request.metadata_mut().insert("containerd-lease", value);
        }
        let answer = self.remote.call("Diff", client.diff(request)).await;
        self.known(answer.map(|answer| answer.into_inner().diff))
    }

    fn known(&self, answer: Result<Option<Descriptor>>) -> Result<Option<Descriptor>> {
        match answer {
            Err(error) if error.code() == Code::Unimplemented => Ok(None),
            Ok(None) => Err(Error::internal(format!(
                "differ {} tells of no layer",
                self.name
            ))),
            answer => answer,
        }
    }
}
