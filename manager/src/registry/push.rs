//! Pushing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;

use super::auth::Future;
use super::client::Client;
use super::descriptor::Descriptor;
use crate::error::{Code, Error, Result};

/// Where the bytes of a blob come from when it is pushed.
pub trait Source: fmt::Debug + Send + Sync {
    /// Bytes from `offset` on, some of the `length` that are asked for, at least one: `offset` is
    /// below the descriptor's size.
    ///
    /// # Errors
    /// Ends the push.
    fn read(&self, offset: u64, length: usize) -> Future<'_, Result<Bytes>>;
}

/// How content came to be in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another repository of its own.
    Mounted,
    /// It was sent.
    Sent,
}

impl Client {
    /// Pushes a blob; `mount_from` are repositories of the same registry that may have it, and
    /// `sent` counts bytes as they go out: it falls when an attempt begins anew.
    ///
    /// # Errors
    /// `Unavailable` where it could not be sent in several attempts.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        source: Arc<dyn Source>,
        mount_from: &[&str],
        sent: Arc<AtomicU64>,
    ) -> Result<Pushed> {
        let _ = (descriptor, source, mount_from, sent);
        Err(Error::new(Code::Unimplemented, "push"))
    }

    /// Pushes a manifest as it is, under a tag or else by its digest. Where it has a `subject` that
    /// the registry does not note, the list of referrers under the subject's tag is brought up to date.
    ///
    /// # Errors
    /// Where the registry refuses it, as it does when content that it refers to is missing.
    pub async fn push_manifest(
        &self,
        descriptor: &Descriptor,
        manifest: Bytes,
        tag: Option<&str>,
    ) -> Result<Pushed> {
        let _ = (descriptor, manifest, tag);
        Err(Error::new(Code::Unimplemented, "push"))
    }
}
