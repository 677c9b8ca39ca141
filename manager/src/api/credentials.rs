//! Credentials that a client has: asked for over a stream when a registry wants them.

use std::fmt;

use knarr_proto::any;
use knarr_proto::types::transfer::{AuthRequest, AuthResponse, AuthType};
use tokio::sync::Mutex;

use super::streaming::Channel;
use super::unpack;
use crate::error::{Code, Error, Result};
use crate::registry::{Credential, Credentials, Future};

/// Asks one client, one question at a time.
pub(super) struct Asked(Mutex<Channel>);

impl Asked {
    pub(super) fn new(channel: Channel) -> Self {
        Self(Mutex::new(channel))
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl Credentials for Asked {
    fn get<'a>(
        &'a self,
        host: &'a str,
        reference: &'a str,
        challenges: &'a [String],
    ) -> Future<'a, Result<Credential>> {
        Box::pin(async move {
            let mut channel = self.0.lock().await;
            let question = AuthRequest {
                host: host.to_owned(),
                reference: reference.to_owned(),
                wwwauthenticate: challenges.to_vec(),
            };
            let gone = || {
                Error::new(
                    Code::Cancelled,
                    "the client gives no credentials any longer",
                )
            };
            let asked = channel.outgoing.send(Ok(any::pack(&question))).await;
            asked.map_err(|_| gone())?;
            let answer = channel.incoming.message().await.map_err(|_| gone())?;
            let answer: AuthResponse = unpack(&answer.ok_or_else(gone)?)?;
            Ok(match answer.auth_type() {
                AuthType::None => Credential::None,
                AuthType::Credentials => Credential::Password {
                    user: answer.username.clone(),
                    secret: answer.secret.clone(),
                },
                AuthType::Refresh => Credential::Identity(answer.secret.clone()),
                AuthType::Header => Credential::Header(answer.secret.clone()),
            })
        })
    }
}
