//! Blobs from a registry into the content store, and to whoever reads a layer while it arrives.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::Context;
use super::model::{Descriptor, Document};
use super::progress::Progress;
use super::unpack::Layers;
use super::walk;
use crate::error::{Code, Error, Result};
use crate::registry::Client;
use crate::store::content::{Order, Writer};
use crate::store::digest::Digest;
use crate::store::name::Labels;

/// How many blobs are fetched at once.
const AT_ONCE: usize = 6;

/// How many pieces of a blob wait for the disk.
const PIECES: usize = 32;

/// How often to look whether somebody else has fetched a blob that is wanted here as well.
const LOOK: Duration = Duration::from_millis(100);

/// How much goes into a pipe at once, in bytes.
const PIPE: usize = 1 << 20;

/// How far a blob is that arrives.
#[derive(Debug, Clone, Default)]
struct Arrival {
    file: Option<Arc<File>>,
    length: u64,
    done: bool,
}

/// Waits for a place.
async fn place(of: Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    let place = of.acquire_owned().await;
    place.map_err(|_| Error::internal("nobody fetches any longer"))
}

/// Fetches blobs for one pull.
#[derive(Debug)]
pub struct Fetcher {
    context: Context,
    client: Client,
    slots: Semaphore,
    arrivals: Mutex<HashMap<Digest, watch::Sender<Arrival>>>,
}

impl Fetcher {
    /// Fetches with a client.
    #[must_use]
    pub fn new(context: Context, client: Client) -> Self {
        Self {
            context,
            client,
            slots: Semaphore::new(AT_ONCE),
            arrivals: Mutex::default(),
        }
    }

    /// For whom.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    fn tell(&self, event: &str, target: &Descriptor, parent: &str, done: u64) {
        let mut progress = Progress::of(event, target, done);
        if !parent.is_empty() {
            progress.parents.push(parent.to_owned());
        }
        self.context.progress.tell(progress);
    }

    /// Tells that something will be fetched.
    pub fn announce(&self, target: &Descriptor, parent: &str) {
        self.tell("waiting", target, parent, 0);
    }

    fn arrival(&self, digest: &Digest) -> watch::Sender<Arrival> {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.entry(digest.clone()).or_default().clone()
    }

    /// Puts a blob into the content store, if it is not there.
    ///
    /// # Errors
    /// What the registry fails with; `FailedPrecondition` where the blob is not what its
    /// descriptor says.
    pub async fn fetch(&self, target: &Descriptor, parent: &str) -> Result<()> {
        let arrival = self.arrival(&target.digest);
        let fetched = self.fetch_as(target, parent, &arrival).await;
        if fetched.is_ok() {
            arrival.send_modify(|arrival| arrival.done = true);
        }
        fetched.map_err(|error| error.context(format!("failed to fetch {}", target.reference())))
    }

    async fn fetch_as(
        &self,
        target: &Descriptor,
        parent: &str,
        arrival: &watch::Sender<Arrival>,
    ) -> Result<()> {
        let slot = self.slots.acquire().await;
        let slot = slot.map_err(|_| Error::internal("nobody fetches any longer"))?;
        let (content, namespace) = (&self.context.manager.content, &*self.context.namespace);
        let order = Order {
            reference: target.reference(),
            total: target.size,
            expected: Some(target.digest.clone()),
            lease: Some(self.context.lease.clone()),
        };
        let mut writer = loop {
            match content.write(namespace, order.clone()).await {
                Ok(writer) => break writer,
                Err(error) if error.code() == Code::AlreadyExists => {
                    self.source_of(target).await?;
                    self.tell("already exists", target, "", target.size);
                    return Ok(());
                }
                // Somebody else fetches it.
                Err(error) if error.code() == Code::Unavailable => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error),
            }
        };
        let done = async {
            if Document::is_one(&target.media_type) {
                walk::check_size(target)?;
            }
            if let Some(bytes) = embedded(target)? {
                writer.truncate(0)?;
                writer.write(&bytes)?;
            } else if Document::is_one(&target.media_type) {
                let bytes = self.client.manifest(target).await?;
                writer.truncate(0)?;
                writer.write(&bytes)?;
            } else {
                writer = self.transfer(target, parent, writer, arrival).await?;
            }
            Ok::<_, Error>(writer)
        };
        let writer = done.await?;
        let labels = self.labels(&Labels::new());
        let committed = writer
            .commit(target.size, Some(&target.digest), labels)
            .await;
        match committed {
            Err(error) if error.code() == Code::AlreadyExists => {}
            Err(error) => {
                // Going on with wrong bytes leads nowhere.
                let _ = content.abort(namespace, &order.reference).await;
                return Err(error);
            }
            Ok(_) => {}
        }
        drop(slot);
        self.tell("complete", target, parent, target.size);
        Ok(())
    }

    /// Writes what comes from the registry, from where an earlier pull stopped.
    async fn transfer(
        &self,
        target: &Descriptor,
        parent: &str,
        mut writer: Writer,
        arrival: &watch::Sender<Arrival>,
    ) -> Result<Writer> {
        if writer.status().offset > target.size {
            writer.truncate(0)?;
        }
        let start = writer.status().offset;
        // Perhaps in the file of another namespace: it is read when it is committed here.
        if start == target.size {
            return Ok(writer);
        }
        let file = Arc::new(writer.file()?);
        arrival.send_modify(|arrival| {
            arrival.file = Some(file);
            arrival.length = start;
        });
        // Other pulls may have them all: the writing below has a thread as long as the blob comes.
        let arriving = Arc::clone(&self.context.manager.arriving);
        let _place = place(arriving).await?;
        let mut blob = self.client.blob(target, start).await?;
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        let written = arrival.clone();
        let writing = tokio::task::spawn_blocking(move || -> Result<Writer> {
            while let Some(piece) = pieces.blocking_recv() {
                writer.write(&piece)?;
                let length = writer.status().offset;
                written.send_modify(|arrival| arrival.length = length);
            }
            Ok(writer)
        });
        let mut received = start;
        let fetched = loop {
            match blob.chunk().await {
                Ok(Some(piece)) => {
                    received += u64::try_from(piece.len()).unwrap_or(0);
                    self.tell("downloading", target, parent, received);
                    // The writer says why it stopped.
                    if received > target.size || sender.send(piece).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(sender);
        let writer = writing
            .await
            .map_err(|_| Error::internal("writing a blob panicked"))??;
        fetched?;
        if received != target.size {
            return Err(Error::precondition(format!(
                "{received} bytes came, and the descriptor says {}",
                target.size
            )));
        }
        Ok(writer)
    }

    /// Labels with the repository that a blob can be fetched from, besides those that are known.
    fn labels(&self, known: &Labels) -> Labels {
        let reference = self.client.reference();
        let host = reference.host();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let key = format!("containerd.io/distribution.source.{host}");
        let mut repositories: Vec<&str> = known
            .get(&key)
            .map(|known| known.split(',').filter(|part| !part.is_empty()).collect())
            .unwrap_or_default();
        if !repositories.contains(&reference.repository()) {
            repositories.push(reference.repository());
            repositories.sort_unstable();
        }
        [(key, repositories.join(","))].into()
    }

    /// Notes that a blob which is there can be fetched from this repository as well.
    async fn source_of(&self, target: &Descriptor) -> Result<()> {
        let (content, namespace) = (&self.context.manager.content, &self.context.namespace);
        let known = content.info(namespace, &target.digest)?.blob.labels;
        let labels = self.labels(&known);
        // A label can't grow for ever.
        if labels.values().any(|value| value.len() > 3000) {
            return Ok(());
        }
        walk::label(content, namespace, target, labels).await
    }
}

/// What the descriptor brings along itself.
fn embedded(target: &Descriptor) -> Result<Option<Vec<u8>>> {
    let Some(data) = &target.data else {
        return Ok(None);
    };
    let wrong = |what: &str| {
        Err(Error::invalid(format!(
            "the data in the descriptor of {target} {what}"
        )))
    };
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(data) else {
        return wrong("is no base64");
    };
    if u64::try_from(bytes.len()).ok() != Some(target.size) {
        return wrong("has another length than the descriptor says");
    }
    if target.digest.algorithm().digest(&bytes) != target.digest {
        return wrong("has another digest than the descriptor says");
    }
    Ok(Some(bytes))
}

impl Layers for Fetcher {
    async fn open(&self, layer: &Descriptor) -> Result<OwnedFd> {
        let mut arrival = self.arrival(&layer.digest).subscribe();
        let gone = |_| Error::new(Code::Cancelled, format!("layer {layer} does not come"));
        let now = arrival
            .wait_for(|arrival| arrival.done || arrival.file.is_some())
            .await
            .map_err(gone)?
            .clone();
        let file = match (now.done, now.file) {
            (false, Some(file)) => file,
            _ => {
                let content = &self.context.manager.content;
                let reader = content.read(&self.context.namespace, &layer.digest)?;
                return Ok(reader.into_file().into());
            }
        };
        let broken = |errno: rustix::io::Errno| Error::io("a pipe", &errno.into());
        let (output, input) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(broken)?;
        // Where the limit for this user is lower, it stays as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE);
        let handle = Handle::current();
        let place = place(Arc::clone(&self.context.manager.reading)).await?;
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut offset = 0;
            loop {
                let more = arrival.wait_for(|arrival| arrival.done || arrival.length > offset);
                // The fetch has failed, and tells it itself.
                let Ok(now) = handle.block_on(more).map(|now| now.clone()) else {
                    return;
                };
                while offset < now.length {
                    let length = usize::try_from(now.length - offset)
                        .unwrap_or(PIPE)
                        .min(PIPE);
                    let flags = rustix::pipe::SpliceFlags::empty();
                    match rustix::pipe::splice(
                        &*file,
                        Some(&mut offset),
                        &input,
                        None,
                        length,
                        flags,
                    ) {
                        Ok(0) => return,
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        // The reader has gone.
                        Err(_) => return,
                    }
                }
                if now.done {
                    return;
                }
            }
        });
        Ok(output)
    }

    async fn arrived(&self, layer: &Descriptor) -> Result<()> {
        let mut arrival = self.arrival(&layer.digest).subscribe();
        let done = arrival.wait_for(|arrival| arrival.done).await;
        done.map(|_| ())
            .map_err(|_| Error::new(Code::Cancelled, format!("layer {layer} does not come")))
    }
}
