//! Who the caller is to a registry.

use std::fmt;
use std::pin::Pin;

use crate::error::Result;

/// What a method of a trait object answers with later.
pub type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;

/// What a caller has for a registry. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: go on without.
    None,
    /// Name and password.
    Password {
        /// Name.
        user: String,
        /// Password.
        secret: String,
    },
    /// An identity token, to be changed for access tokens.
    Identity(String),
    /// The value of an `Authorization` header as it is.
    Header(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
            Self::Header(_) => "Header",
        })
    }
}

/// Knows credentials.
pub trait Credentials: fmt::Debug + Send + Sync {
    /// Called when `host` (as connected to: name, with its port if not the usual one) does not serve
    /// `reference` without; `challenges` are the values of its `WWW-Authenticate` headers.
    ///
    /// # Errors
    /// Ends the request: use [`Credential::None`] to go on without.
    fn get<'a>(
        &'a self,
        host: &'a str,
        reference: &'a str,
        challenges: &'a [String],
    ) -> Future<'a, Result<Credential>>;
}

/// Has none.
#[derive(Debug, Clone, Copy)]
pub struct NoCredentials;

impl Credentials for NoCredentials {
    fn get<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a [String],
    ) -> Future<'a, Result<Credential>> {
        Box::pin(async { Ok(Credential::None) })
    }
}
