//! Connections, and a caller's requests to one repository.

use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};

use super::auth::Credentials;
use super::hosts::{Host, Hosts};
use super::limits::Limits;
use super::reference::Reference;
use crate::error::Result;

/// Connections to registries; one a daemon, and shared when cloned.
#[derive(Debug, Clone)]
pub struct Registry {
    limits: Arc<Limits>,
}

/// How a caller wants registries to be spoken to.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where registries are.
    pub hosts: Hosts,
    /// Who the caller is.
    pub credentials: Arc<dyn Credentials>,
    /// Sent to registries with each request, beside those of hosts.toml. [`Access::header`] reads one.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Access {
    /// Without hosts.toml and without headers.
    #[must_use]
    pub fn new(credentials: Arc<dyn Credentials>) -> Self {
        Self {
            hosts: Hosts::default(),
            credentials,
            headers: Vec::new(),
        }
    }

    /// Adds a header.
    ///
    /// # Errors
    /// `InvalidArgument` where name or value cannot be sent.
    pub fn header(&mut self, name: &str, value: &str) -> Result<()> {
        let header = super::hosts::header(name, value).map_err(crate::error::Error::invalid)?;
        self.headers.push(header);
        Ok(())
    }
}

/// Speaks to one repository for one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    reference: Reference,
    hosts: Vec<Host>,
}

impl Client {
    /// What it was made for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.inner.reference
    }

    /// Where that is reached, in the order in which to try.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.inner.hosts
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Registry {
    /// Without any connection yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: Arc::new(limits),
        }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A client of the repository that `reference` names; nothing is asked yet.
    ///
    /// # Errors
    /// Where hosts.toml cannot be read or makes no sense.
    pub fn client(&self, reference: &Reference, access: &Access) -> Result<Client> {
        Ok(Client {
            inner: Arc::new(Inner {
                hosts: access.hosts.of(reference.host())?,
                reference: reference.clone(),
            }),
        })
    }
}
