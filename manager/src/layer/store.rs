//! New layers as blobs.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::{Applied, Compression, Layers};
use crate::error::{Code, Error, Result};
use crate::snapshot::Mount;
use crate::store::content::{Content, Info, Order, Writer};
use crate::store::name::Labels;

/// The label that says what a layer is without its compression.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// How much is taken out of the pipe at once, in bytes: what it holds.
const PIECE: usize = 64 << 10;

/// A layer that is to be made.
#[derive(Debug, Clone)]
pub struct New {
    /// How it is packed.
    pub compression: Compression,
    /// The name under which it is written; empty: a new one.
    pub reference: String,
    /// Of the blob, beside the one that names the diffID.
    pub labels: Labels,
    /// The latest time in it, in nanoseconds since 1970.
    pub epoch: Option<i64>,
    /// What keeps it.
    pub lease: Option<String>,
}

impl Layers {
    /// Makes a layer of what `upper` has that `lower` has not, and a blob of it. See
    /// [`Layers::diff`].
    ///
    /// # Errors
    /// Those of `diff` and of [`Content::write`]; then no ingest of a new name is left.
    pub async fn store(
        &self,
        content: &Content,
        namespace: &str,
        lower: &[Mount],
        upper: &[Mount],
        new: New,
    ) -> Result<Info> {
        let reference = match &*new.reference {
            "" => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                format!("layer-{}-{}", now.as_nanos(), std::process::id())
            }
            given => given.to_owned(),
        };
        let order = Order {
            reference: reference.clone(),
            lease: new.lease.clone(),
            ..Order::default()
        };
        let mut writer = content.write(namespace, order).await?;
        let written = async {
            // Half of another layer is of no use.
            writer.truncate(0)?;
            self.fill(&mut writer, lower, upper, &new).await
        };
        let layer = match written.await {
            Ok(layer) => layer,
            Err(error) => {
                drop(writer);
                if new.reference.is_empty() {
                    let _ = content.abort(namespace, &reference).await;
                }
                return Err(error);
            }
        };
        let mut labels = new.labels;
        let diff_id = layer.diff_id.to_string();
        labels.insert(UNCOMPRESSED.to_owned(), diff_id.clone());
        let digest = writer.digest();
        match writer.commit(0, None, labels).await {
            Err(error) if error.code() == Code::AlreadyExists => {
                let label = move |labels: &mut Labels| {
                    labels.insert(UNCOMPRESSED.to_owned(), diff_id.clone());
                    Ok(())
                };
                content.relabel(namespace, &digest, label).await
            }
            committed => committed,
        }
    }

    async fn fill(
        &self,
        writer: &mut Writer,
        lower: &[Mount],
        upper: &[Mount],
        new: &New,
    ) -> Result<Applied> {
        let broken = |error| Error::io("a pipe", &error);
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| broken(errno.into()))?;
        let mut ours = pipe::Receiver::from_owned_fd(ours).map_err(broken)?;
        let work = self.diff(lower, upper, new.compression, new.epoch, theirs);
        let copy = async {
            let mut buffer = vec![0; PIECE];
            loop {
                match ours.read(&mut buffer).await.map_err(broken)? {
                    0 => return Ok(()),
                    length => tokio::task::block_in_place(|| writer.write(&buffer[..length]))?,
                }
            }
        };
        let (layer, ()) = tokio::try_join!(work, copy)?;
        Ok(layer)
    }
}
