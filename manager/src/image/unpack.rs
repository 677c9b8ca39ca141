//! Layers into snapshots: which snapshot each layer becomes, and making those that are not there.
//!
//! A snapshot is named by the digests of its layer and of all below, without their compression
//! (image specification, config.md, "Layer ChainID"), so that images share what they have in common.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::Poll;

use tokio::sync::{Semaphore, oneshot};

use super::Context;
use super::archive::UNCOMPRESSED;
use super::model::{Config, Descriptor};
use super::platform::Platform;
use super::progress::Progress;
use super::walk;
use crate::error::{Code, Error, Result};
use crate::manager;
use crate::snapshot::{Local, Mount};
use crate::store::digest::{Algorithm, Digest};
use crate::store::name::Labels;
use crate::store::schema::SnapshotKind;

/// The snapshotter of those who name none.
pub const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

/// A layer and the snapshot that it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The layer.
    pub layer: Descriptor,
    /// Its digest without compression.
    pub diff_id: Digest,
    /// The name of its snapshot.
    pub chain_id: String,
}

/// The steps from nothing to the root file system of an image.
///
/// # Errors
/// `InvalidArgument` where the configuration has not one digest for each layer.
pub fn steps(config: &Config, layers: &[Descriptor]) -> Result<Vec<Step>> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(Error::invalid(format!(
            "number of layers and diffIDs don't match: {} != {}",
            layers.len(),
            diff_ids.len()
        )));
    }
    let mut chain_id: Option<String> = None;
    let steps = layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
        let next = match &chain_id {
            None => diff_id.to_string(),
            Some(below) => {
                let text = format!("{below} {diff_id}");
                Algorithm::Sha256.digest(text.as_bytes()).to_string()
            }
        };
        chain_id = Some(next.clone());
        Step {
            layer: layer.clone(),
            diff_id: diff_id.clone(),
            chain_id: next,
        }
    });
    Ok(steps.collect())
}

/// What is to be unpacked, with snapshotters that are there.
#[derive(Debug, Clone, Default)]
pub struct Targets(Vec<(Platform, Local)>);

impl Targets {
    /// What a client asks for.
    ///
    /// # Errors
    /// `InvalidArgument` where there is none of the snapshotters.
    pub fn new(context: &Context, unpacks: &[(Platform, String)]) -> Result<Self> {
        let known = unpacks.iter().filter_map(|(platform, name)| {
            let name = match &**name {
                "" => DEFAULT_SNAPSHOTTER,
                name => name,
            };
            let snapshots = context.manager.snapshotter(name).ok()?;
            Some((platform.clone(), snapshots.clone()))
        });
        let known: Vec<_> = known.collect();
        if known.is_empty() && !unpacks.is_empty() {
            return Err(Error::invalid(
                "unable to initialize unpacker: no unpack platforms defined",
            ));
        }
        Ok(Self(known))
    }

    /// The snapshotters for an image of this platform.
    pub fn of<'a>(&'a self, platform: &'a Platform) -> impl Iterator<Item = &'a Local> {
        let fits = |(wanted, _): &&(Platform, Local)| wanted.matches(platform);
        self.0.iter().filter(fits).map(|(_, snapshots)| snapshots)
    }

    /// Whether nothing is to be unpacked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where layers come from.
pub trait Layers {
    /// A layer to read from its start, perhaps while it arrives.
    ///
    /// # Errors
    /// Where it does not come.
    fn open(&self, layer: &Descriptor) -> impl Future<Output = Result<OwnedFd>> + Send;

    /// Waits until a layer is in the content store, whole and verified.
    ///
    /// # Errors
    /// Where it does not come.
    fn arrived(&self, layer: &Descriptor) -> impl Future<Output = Result<()>> + Send;
}

/// Layers that the content store has.
#[derive(Debug)]
pub struct Stored<'a>(pub &'a Context);

impl Layers for Stored<'_> {
    async fn open(&self, layer: &Descriptor) -> Result<OwnedFd> {
        let content = &self.0.manager.content;
        let reader = content.read(&self.0.namespace, &layer.digest)?;
        Ok(reader.into_file().into())
    }

    async fn arrived(&self, _: &Descriptor) -> Result<()> {
        Ok(())
    }
}

/// How many of the steps from the first one on have their snapshots already.
#[must_use]
pub fn done(context: &Context, snapshots: &Local, steps: &[Step]) -> usize {
    let there = |step: &Step| snapshots.stat(&context.namespace, &step.chain_id).is_ok();
    steps.iter().rposition(there).map_or(0, |last| last + 1)
}

/// Makes the snapshots of an image that are not there. `parent` is what news of its layers names as
/// their parent; without it there is no news.
///
/// Where snapshots can be given their parents at commit, layers are unpacked side by side, each upon
/// nothing. One that turns out to need what is below it is unpacked anew when that is there.
///
/// # Errors
/// `InvalidArgument` for layers that can't be unpacked; `FailedPrecondition` for one that is not
/// what the configuration says; what the sources of the layers fail with.
pub async fn unpack(
    context: &Context,
    snapshots: &Local,
    config: &Descriptor,
    steps: &[Step],
    layers: &(impl Layers + Sync),
    parent: Option<&str>,
) -> Result<()> {
    let Some(top) = steps.last() else {
        return Ok(());
    };
    let first = done(context, snapshots, steps);
    let rest = &steps[first..];
    let job = Job {
        context,
        snapshots,
        layers,
        parent,
        slots: Semaphore::new(at_once()),
    };
    let mut below = first
        .checked_sub(1)
        .map_or("", |last| &*steps[last].chain_id);
    if rest.len() > 1 && snapshots.capabilities().iter().any(|one| one == "rebase") {
        let mut waits: Option<oneshot::Receiver<()>> = None;
        let mut all: Vec<Later<'_>> = Vec::new();
        for step in rest {
            let (tell, next) = oneshot::channel();
            let before = waits.replace(next);
            all.push(Box::pin(job.beside(step, below, before, tell)));
            below = &step.chain_id;
        }
        every(all).await?;
    } else {
        for step in rest {
            job.tell("extracting", step, 0);
            job.upon(step, below).await?;
            job.finish(step).await?;
            below = &step.chain_id;
        }
    }
    let key = format!("containerd.io/gc.ref.snapshot.{}", snapshots.name());
    let labels = [(key, top.chain_id.clone())];
    let content = &context.manager.content;
    walk::label(content, &context.namespace, config, labels.into()).await
}

/// How many layers of an image are unpacked at once.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 8))
}

type Later<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Waits for all, or for the first that fails.
async fn every(mut all: Vec<Later<'_>>) -> Result<()> {
    std::future::poll_fn(|context| {
        let mut failed = None;
        all.retain_mut(|one| match one.as_mut().poll(context) {
            _ if failed.is_some() => true,
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            Some(error) => Poll::Ready(Err(error)),
            None if all.is_empty() => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await
}

/// What the steps of one image share.
struct Job<'a, L> {
    context: &'a Context,
    snapshots: &'a Local,
    layers: &'a L,
    parent: Option<&'a str>,
    slots: Semaphore,
}

impl<L: Layers + Sync> Job<'_, L> {
    fn tell(&self, event: &str, step: &Step, done: u64) {
        if let Some(parent) = self.parent {
            let mut progress = Progress::of(event, &step.layer, done);
            progress.parents.push(parent.to_owned());
            self.context.progress.tell(progress);
        }
    }

    /// Notes what a layer is without its compression.
    async fn finish(&self, step: &Step) -> Result<()> {
        self.tell("extracted", step, step.layer.size);
        let labels = [(UNCOMPRESSED.to_owned(), step.diff_id.to_string())];
        let (content, namespace) = (&self.context.manager.content, &self.context.namespace);
        walk::label(content, namespace, &step.layer, labels.into()).await
    }

    /// Unpacks a layer while those below are still unpacked: `before` tells when they are there,
    /// and `done` is told when this one is.
    async fn beside(
        &self,
        step: &Step,
        below: &str,
        before: Option<oneshot::Receiver<()>>,
        done: oneshot::Sender<()>,
    ) -> Result<()> {
        let slot = self.slots.acquire().await;
        let slot = slot.map_err(|_| Error::internal("nobody unpacks any longer"))?;
        self.tell("extracting", step, 0);
        let wait = async {
            match before {
                // Who is below tells itself why it failed.
                Some(before) => before
                    .await
                    .map_err(|_| Error::new(Code::Cancelled, "a layer below failed")),
                None => Ok(()),
            }
        };
        if below.is_empty() {
            self.upon(step, below).await?;
        } else {
            let prepared = self.prepare(step, "").await?;
            let applied = self.apply(step, &alone(&prepared.mounts)).await;
            drop(slot);
            match applied {
                Ok(()) => {
                    wait.await?;
                    self.commit(step, prepared, below).await?;
                }
                Err(error) if error.code() == Code::FailedPrecondition => {
                    drop(prepared);
                    wait.await?;
                    self.upon(step, below).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.finish(step).await?;
        // The last has nobody above.
        let _ = done.send(());
        Ok(())
    }

    /// Unpacks a layer upon what is below it.
    async fn upon(&self, step: &Step, below: &str) -> Result<()> {
        let prepared = self.prepare(step, below).await?;
        self.apply(step, &prepared.mounts).await?;
        self.commit(step, prepared, "").await
    }

    async fn prepare(&self, step: &Step, below: &str) -> Result<Prepared> {
        let (namespace, lease) = (&*self.context.namespace, Some(&*self.context.lease));
        let key = format!("extract-{} {}", manager::new_uuid()?, step.chain_id);
        let mut prepared = Prepared {
            snapshots: self.snapshots.clone(),
            namespace: namespace.to_owned(),
            key: key.clone(),
            mounts: Vec::new(),
        };
        let active = SnapshotKind::Active;
        let mounts = self
            .snapshots
            .prepare(namespace, &key, below, active, labels(step), lease);
        prepared.mounts = mounts.await?;
        Ok(prepared)
    }

    /// Puts a layer onto mounts, and checks that it was the right one.
    async fn apply(&self, step: &Step, mounts: &[Mount]) -> Result<()> {
        let source = self.layers.open(&step.layer).await?;
        let of = |error: Error| {
            let media_type = &step.layer.media_type;
            error.context(format!(
                "failed to extract layer ({media_type} {})",
                step.layer
            ))
        };
        let applied = self.context.manager.layers.apply(source, mounts, false);
        let applied = applied.await.map_err(of)?;
        self.layers.arrived(&step.layer).await?;
        if applied.diff_id != step.diff_id {
            return Err(of(Error::invalid(format!(
                "wrong diff id {:?}, expected {:?}",
                applied.diff_id.as_str(),
                step.diff_id.as_str()
            ))));
        }
        Ok(())
    }

    async fn commit(&self, step: &Step, mut prepared: Prepared, below: &str) -> Result<()> {
        let (namespace, lease) = (&*self.context.namespace, Some(&*self.context.lease));
        let (name, key) = (&step.chain_id, &prepared.key);
        let committed = self
            .snapshots
            .commit_upon(namespace, name, key, below, labels(step), lease)
            .await;
        match committed {
            // Somebody else was faster.
            Err(error) if error.code() == Code::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                prepared.key.clear();
                Ok(())
            }
        }
    }
}

/// A snapshot that a layer goes into. What was not committed is removed when this is dropped, also
/// where the client has gone.
struct Prepared {
    snapshots: Local,
    namespace: String,
    /// Empty once it is committed.
    key: String,
    mounts: Vec<Mount>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let Ok(handle) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.key.is_empty() {
            return;
        }
        let snapshots = self.snapshots.clone();
        let [namespace, key] = [&mut self.namespace, &mut self.key].map(std::mem::take);
        handle.spawn(async move {
            let _ = snapshots.remove(&namespace, &key).await;
        });
    }
}

fn labels(step: &Step) -> Labels {
    let chain_id = (
        "containerd.io/snapshot.ref".to_owned(),
        step.chain_id.clone(),
    );
    let diff_id = step.diff_id.to_string();
    [
        chain_id,
        ("containerd.io/snapshot/diff-id".to_owned(), diff_id),
    ]
    .into()
}

/// The mounts of a snapshot upon nothing, as a layer of an overlay whose other layers come later.
fn alone(mounts: &[Mount]) -> Vec<Mount> {
    let overlay = |mount: &Mount| match &*mount.kind {
        "bind" => Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![format!("upperdir={}", mount.source)],
        },
        _ => mount.clone(),
    };
    mounts.iter().map(overlay).collect()
}

#[cfg(test)]
mod tests {
    use super::super::model;
    use super::*;

    #[test]
    fn snapshots_are_named_by_all_layers_below() {
        let digest = |text: &str| Algorithm::Sha256.digest(text.as_bytes());
        let layer = |text| Descriptor::new("layer", digest(text), 1);
        let text = format!(
            r#"{{"rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#,
            digest("a"),
            digest("b")
        );
        let config: Config = model::parse(text.as_bytes()).unwrap();
        let steps = steps(&config, &[layer("x"), layer("y")]).unwrap();
        assert_eq!(steps[0].chain_id, digest("a").as_str());
        let chain = digest(&format!("{} {}", digest("a"), digest("b")));
        assert_eq!(steps[1].chain_id, chain.as_str());
        assert!(super::steps(&config, &[layer("x")]).is_err());
    }
}
