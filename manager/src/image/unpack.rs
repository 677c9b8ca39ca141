//! Layers into snapshots: which snapshot each layer becomes, and making those that are not there.
//!
//! A snapshot is named by the digests of its layer and of all below, without their compression
//! (image specification, config.md, "Layer ChainID"), so that images share what they have in common.

use std::os::fd::OwnedFd;

use super::Context;
use super::archive::UNCOMPRESSED;
use super::model::{Config, Descriptor};
use super::platform::Platform;
use super::progress::Progress;
use super::walk;
use crate::error::{Code, Error, Result};
use crate::manager;
use crate::snapshot::Local;
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
/// # Errors
/// `InvalidArgument` for layers that can't be unpacked; `FailedPrecondition` for one that is not
/// what the configuration says; what the sources of the layers fail with.
pub async fn unpack(
    context: &Context,
    snapshots: &Local,
    config: &Descriptor,
    steps: &[Step],
    layers: &impl Layers,
    parent: Option<&str>,
) -> Result<()> {
    let first = done(context, snapshots, steps);
    let mut below = first
        .checked_sub(1)
        .map_or("", |last| &steps[last].chain_id);
    for step in &steps[first..] {
        let tell = |event, done| {
            if let Some(parent) = parent {
                let mut progress = Progress::of(event, &step.layer, done);
                progress.parents.push(parent.to_owned());
                context.progress.tell(progress);
            }
        };
        let source = layers.open(&step.layer).await?;
        tell("extracting", 0);
        add(context, snapshots, step, below, source, layers).await?;
        tell("extracted", step.layer.size);
        let labels = [(UNCOMPRESSED.to_owned(), step.diff_id.to_string())];
        let content = &context.manager.content;
        walk::label(content, &context.namespace, &step.layer, labels.into()).await?;
        below = &step.chain_id;
    }
    let Some(top) = steps.last() else {
        return Ok(());
    };
    let key = format!("containerd.io/gc.ref.snapshot.{}", snapshots.name());
    let labels = [(key, top.chain_id.clone())];
    walk::label(
        &context.manager.content,
        &context.namespace,
        config,
        labels.into(),
    )
    .await
}

/// Makes one snapshot.
async fn add(
    context: &Context,
    snapshots: &Local,
    step: &Step,
    below: &str,
    source: OwnedFd,
    layers: &impl Layers,
) -> Result<()> {
    let (namespace, lease) = (&*context.namespace, Some(&*context.lease));
    let key = format!("extract-{} {}", manager::new_uuid()?, step.chain_id);
    let labels: Labels = [
        (
            "containerd.io/snapshot.ref".to_owned(),
            step.chain_id.clone(),
        ),
        (
            "containerd.io/snapshot/diff-id".to_owned(),
            step.diff_id.to_string(),
        ),
    ]
    .into();
    let active = SnapshotKind::Active;
    let prepared = snapshots.prepare(namespace, &key, below, active, labels.clone(), lease);
    let mounts = prepared.await?;
    let made = async {
        let applied = context.manager.layers.apply(source, &mounts, false);
        let of = |error: Error| {
            let media_type = &step.layer.media_type;
            error.context(format!(
                "failed to extract layer ({media_type} {})",
                step.layer
            ))
        };
        let applied = applied.await.map_err(of)?;
        layers.arrived(&step.layer).await?;
        if applied.diff_id != step.diff_id {
            return Err(of(Error::precondition(format!(
                "wrong diff id {:?}, expected {:?}",
                applied.diff_id.as_str(),
                step.diff_id.as_str()
            ))));
        }
        let committed = snapshots.commit(namespace, &step.chain_id, &key, labels, lease);
        match committed.await {
            // Somebody else was faster.
            Err(error) if error.code() == Code::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        }
    };
    let made = made.await;
    if !matches!(made, Ok(true)) {
        let _ = snapshots.remove(namespace, &key).await;
    }
    made.map(|_| ())
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
