//! An image from the stores to a registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Context;
use super::model::{Descriptor, Document, media};
use super::platform::Wanted;
use super::progress::Progress;
use super::walk::{self, Choice};
use crate::error::{Code, Error, Result};
use crate::registry::{Client, Future, Pushed, Source};
use crate::store::content::Reader;
use crate::store::digest::Digest;
use crate::store::name::Labels;

/// How many blobs are sent at once.
const AT_ONCE: usize = 4;

/// How often it is told how much has been sent.
const TELL: Duration = Duration::from_millis(100);

/// A part of the image and what it is a part of.
#[derive(Debug, Clone)]
struct Part {
    target: Descriptor,
    parent: String,
    depth: usize,
    /// Repositories of the same registry that have it, as far as is known here.
    sources: Vec<String>,
}

/// A blob of the content store, or the name of one that is not there.
#[derive(Debug)]
struct Stored(Result<Arc<Reader>, Digest>);

impl Source for Stored {
    fn read(&self, offset: u64, length: usize) -> Future<'_, Result<Bytes>> {
        let reader = self.0.clone();
        Box::pin(async move {
            let reader = reader.map_err(|digest| missing(&digest))?;
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; length];
                let count = reader.read_at(&mut bytes, offset)?;
                bytes.truncate(count);
                match count {
                    0 => Err(Error::new(
                        Code::DataLoss,
                        "the file of a blob is cut short",
                    )),
                    _ => Ok(Bytes::from(bytes)),
                }
            });
            read.await
                .map_err(|_| Error::internal("reading a blob panicked"))?
        })
    }
}

fn missing(digest: &Digest) -> Error {
    Error::not_found(format!("content digest {digest}"))
}

/// Pushes an image under what the client's reference names; `reference` is how that was said.
///
/// # Errors
/// `NotFound` where the image, or a part of it, is not there; what the registry fails with.
pub async fn push(
    context: &Context,
    client: Client,
    reference: &str,
    name: &str,
    platforms: Wanted,
) -> Result<()> {
    let to = format!("OCI Registry ({reference})");
    let image = context.manager.images.get(&context.namespace, name)?.image;
    let root = Descriptor::from_target(&image.target)?;
    let tell = |event: String, name: &str, target: Option<&Descriptor>| {
        context.progress.tell(Progress {
            event,
            name: name.to_owned(),
            target: target.cloned(),
            ..Progress::default()
        });
    };
    tell(format!("Pushing to {to}"), "", None);
    tell("pushing content".to_owned(), name, Some(&root));
    let parts = parts(context, &client, &root, name, &Choice::only(platforms))?;
    for part in &parts {
        told(context, "waiting", part, 0);
    }
    let pusher = Arc::new(Pusher {
        context: context.clone(),
        client,
        slots: Semaphore::new(AT_ONCE),
    });
    let (documents, blobs): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .partition(|part| Document::is_one(&part.target.media_type));
    let mut tasks = JoinSet::new();
    for part in blobs {
        tasks.spawn(Arc::clone(&pusher).blob(part));
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|_| Error::internal("a push panicked"))??;
    }
    // What refers comes after what it refers to.
    for part in documents.iter().rev() {
        pusher.document(part).await?;
    }
    tell("pushed content".to_owned(), name, Some(&root));
    tell(format!("Completed push to {to}"), "", Some(&root));
    Ok(())
}

fn told(context: &Context, event: &str, part: &Part, done: u64) {
    let mut progress = Progress::of(event, &part.target, done);
    progress.parents.push(part.parent.clone());
    context.progress.tell(progress);
}

/// All parts of an image that are to be pushed, each once, nearest to the root first.
fn parts(
    context: &Context,
    client: &Client,
    root: &Descriptor,
    name: &str,
    choice: &Choice,
) -> Result<Vec<Part>> {
    let (content, namespace) = (&context.manager.content, &context.namespace);
    let mut parts: Vec<Part> = Vec::new();
    let mut todo = vec![Part {
        target: root.clone(),
        parent: name.to_owned(),
        depth: 0,
        sources: Vec::new(),
    }];
    let mut seen = std::collections::HashMap::new();
    while let Some(part) = todo.pop() {
        let target = &part.target;
        // Its maker does not want it there.
        if media::is_foreign(&target.media_type) {
            continue;
        }
        // Once more further down: it must come before what refers to it there, too.
        let known = seen.insert(target.digest.clone(), part.depth);
        if known.is_some_and(|known| known >= part.depth) {
            continue;
        }
        walk::check_extent(target, part.depth, seen.len())?;
        let mut part = part;
        let target = &part.target;
        match content.info(namespace, &target.digest) {
            Ok(info) => part.sources.extend(sources(client, &info.blob.labels)),
            // It may be in the registry already: what refers to it came from there.
            Err(error) if error.code() == Code::NotFound => {
                if Document::is_one(&target.media_type) {
                    return Err(missing(&target.digest));
                }
            }
            Err(error) => return Err(error),
        }
        part.sources.sort_unstable();
        part.sources.dedup();
        let target = &part.target;
        let children = choice.choose(target, walk::children(content, namespace, target)?)?;
        let parent = target.reference();
        todo.extend(children.into_iter().rev().map(|target| Part {
            target,
            parent: parent.clone(),
            depth: part.depth + 1,
            sources: part.sources.clone(),
        }));
        parts.retain(|other| other.target.digest != part.target.digest);
        parts.push(part);
    }
    // The root carries the tag and comes last of all.
    parts.sort_by_key(|part| part.depth);
    Ok(parts)
}

#[derive(Debug)]
struct Pusher {
    context: Context,
    client: Client,
    slots: Semaphore,
}

impl Pusher {
    async fn blob(self: Arc<Self>, part: Part) -> Result<()> {
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|_| Error::internal("nobody pushes any longer"))?;
        let target = &part.target;
        let content = &self.context.manager.content;
        let reader = match content.read(&self.context.namespace, &target.digest) {
            Ok(reader) => Ok(Arc::new(reader)),
            Err(error) if error.code() == Code::NotFound => Err(target.digest.clone()),
            Err(error) => return Err(error),
        };
        let source = Arc::new(Stored(reader));
        let sources: Vec<&str> = part.sources.iter().map(String::as_str).collect();
        let sent = Arc::new(AtomicU64::new(0));
        let descriptor = target.clone();
        let pushing = self
            .client
            .push_blob(&descriptor, source, &sources, Arc::clone(&sent));
        let telling = async {
            let mut before = 0;
            loop {
                tokio::time::sleep(TELL).await;
                let now = sent.load(Ordering::Relaxed);
                if now != before {
                    told(&self.context, "uploading", &part, now);
                    before = now;
                }
            }
        };
        let pushed = tokio::select! {
            pushed = pushing => pushed,
            () = telling => return Ok(()),
        };
        self.done(&part, pushed)
    }

    async fn document(&self, part: &Part) -> Result<()> {
        let bytes = walk::read(
            &self.context.manager.content,
            &self.context.namespace,
            &part.target,
        )?;
        let tag = match part.depth {
            0 => self.client.reference().tag(),
            _ => None,
        };
        let descriptor = part.target.clone();
        let pushed = self.client.push_manifest(&descriptor, bytes.into(), tag);
        self.done(part, pushed.await)
    }

    fn done(&self, part: &Part, pushed: Result<Pushed>) -> Result<()> {
        let event = match pushed? {
            Pushed::Existed | Pushed::Mounted => "already exists",
            Pushed::Sent => "complete",
        };
        told(&self.context, event, part, part.target.size);
        Ok(())
    }
}

/// Other repositories of the client's registry that have what has these labels.
fn sources(client: &Client, labels: &Labels) -> Vec<String> {
    let reference = client.reference();
    let host = reference.host();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let known = labels.get(&format!("containerd.io/distribution.source.{host}"));
    let known = known.map(String::as_str).unwrap_or_default().split(',');
    let other = |name: &&str| !name.is_empty() && *name != reference.repository();
    known.filter(other).map(str::to_owned).collect()
}
