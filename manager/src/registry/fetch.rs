//! Finding and fetching.

use bytes::Bytes;

use super::client::Client;
use super::descriptor::Descriptor;
use crate::error::{Code, Error, Result};
use crate::store::digest::Digest;

impl Client {
    /// What the client's reference names now: by its digest where it has one, else by its tag.
    ///
    /// # Errors
    /// `NotFound` where no host has it.
    pub async fn resolve(&self) -> Result<Descriptor> {
        Err(Error::new(Code::Unimplemented, "resolve"))
    }

    /// A manifest as a whole, with the size and digest that the descriptor says.
    ///
    /// # Errors
    /// `NotFound` where no host has it; `FailedPrecondition` where it is not what the descriptor says;
    /// `ResourceExhausted` where it is too long.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let _ = descriptor;
        Err(Error::new(Code::Unimplemented, "manifest"))
    }

    /// The bytes of a blob from `offset` on, in order, by ranges side by side where it is long.
    /// Its digest is not checked. A descriptor's `urls` are tried where no host has it.
    ///
    /// # Errors
    /// `NotFound` where no host has it.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<Blob> {
        let _ = (descriptor, offset);
        Err(Error::new(Code::Unimplemented, "blob"))
    }

    /// Who refers to a manifest, of one type or all.
    ///
    /// # Errors
    /// Where the registry cannot be asked.
    pub async fn referrers(&self, subject: &Digest, kind: Option<&str>) -> Result<Vec<Descriptor>> {
        let _ = (subject, kind);
        Err(Error::new(Code::Unimplemented, "referrers"))
    }

    /// All tags of the repository.
    ///
    /// # Errors
    /// `NotFound` where there is no such repository.
    pub async fn tags(&self) -> Result<Vec<String>> {
        Err(Error::new(Code::Unimplemented, "tags"))
    }
}

/// Bytes that arrive. Broken and stalled connections are made anew inside.
#[derive(Debug)]
pub struct Blob {
    offset: u64,
    size: u64,
}

impl Blob {
    /// The next bytes, or nothing at the end: exactly `size` bytes have come then. May be dropped
    /// while it waits and called again.
    ///
    /// # Errors
    /// `Unavailable` where the transfer got no further in several attempts; `FailedPrecondition`
    /// where the registry has more or fewer bytes than the descriptor says.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    /// How many bytes of the blob have been given out, with those before the offset it began at.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How long the blob is.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}
