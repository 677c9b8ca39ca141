//! An image from a registry into the stores.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Context;
use super::fetch::Fetcher;
use super::model::{self, Config, Descriptor, media};
use super::name::Destination;
use super::progress::Progress;
use super::unpack::{self, Step, Targets};
use super::walk::{self, Choice};
use crate::error::{Error, Result};
use crate::registry::Client;
use crate::snapshot::Local;

/// An image of which the layers are on their way.
#[derive(Debug)]
struct Unpack {
    snapshots: Local,
    manifest: Descriptor,
    config: Descriptor,
    steps: Vec<Step>,
}

/// Something to fetch.
#[derive(Debug)]
struct Wish {
    target: Descriptor,
    parent: String,
    depth: usize,
}

/// Pulls what a client's reference names; `reference` is how that was said.
///
/// # Errors
/// `NotFound` where the registry does not have it; what the registry fails with, or its content.
pub async fn pull(
    context: &Context,
    client: Client,
    reference: &str,
    to: &Destination,
) -> Result<()> {
    let from = format!("OCI Registry ({reference})");
    let step = |event: String| context.progress.tell(Progress::step(event));
    let targets = Targets::new(context, &to.unpacks)?;
    step(format!("Resolving from {from}"));
    let resolved = client.resolve().await;
    let resolved = resolved.map_err(|error| error.context("failed to resolve image"))?;
    let root = Descriptor::new(&resolved.media_type, resolved.digest, resolved.size);
    step(format!("Pulling from {from}"));
    context.progress.tell(Progress {
        event: "fetching image content".to_owned(),
        name: reference.to_owned(),
        target: Some(root.clone()),
        ..Progress::default()
    });
    let fetcher = Arc::new(Fetcher::new(context.clone(), client));
    let (unpacks, mut unpacked) = mpsc::unbounded_channel();
    let pull = Arc::new(Pull {
        fetcher: Arc::clone(&fetcher),
        choice: Choice::of(to),
        targets,
        unpacks,
    });
    let first = Wish {
        target: root.clone(),
        parent: reference.to_owned(),
        depth: 0,
    };
    // Unpacking ends when this has let go of its end of the channel.
    let fetching = pull.all(first);
    let unpacking = async {
        while let Some(next) = unpacked.recv().await {
            let parent = next.manifest.reference();
            let (config, steps) = (&next.config, &next.steps);
            unpack::unpack(
                context,
                &next.snapshots,
                config,
                steps,
                &*fetcher,
                Some(&parent),
            )
            .await?;
        }
        Ok(())
    };
    tokio::try_join!(fetching, unpacking)?;
    context.save_all(&to.names(&root), &root, to).await?;
    step(format!("Completed pull from {from}"));
    Ok(())
}

/// What the tasks of one pull share.
#[derive(Debug)]
struct Pull {
    fetcher: Arc<Fetcher>,
    choice: Choice,
    targets: Targets,
    /// Images that are to be unpacked, as they become known.
    unpacks: mpsc::UnboundedSender<Unpack>,
}

impl Pull {
    /// Fetches a blob and all that belongs to it and is wanted.
    async fn all(self: Arc<Self>, first: Wish) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut seen = HashSet::new();
        let mut wishes = vec![first];
        loop {
            for wish in wishes.drain(..) {
                if !seen.insert(wish.target.digest.clone()) {
                    continue;
                }
                walk::check_extent(&wish.target, wish.depth, seen.len())?;
                self.fetcher.announce(&wish.target, &wish.parent);
                tasks.spawn(Arc::clone(&self).one(wish));
            }
            match tasks.join_next().await {
                None => return Ok(()),
                Some(Ok(done)) => wishes = done?,
                Some(Err(_)) => return Err(Error::internal("a fetch panicked")),
            }
        }
    }

    /// Fetches one blob. What belongs to it and is wanted.
    async fn one(self: Arc<Self>, wish: Wish) -> Result<Vec<Wish>> {
        let Wish {
            target,
            parent,
            depth,
        } = wish;
        self.fetcher.fetch(&target, &parent).await?;
        let context = self.fetcher.context();
        let (content, namespace) = (&context.manager.content, &context.namespace);
        let children = walk::children(content, namespace, &target)?;
        if children.is_empty() {
            return Ok(Vec::new());
        }
        walk::label(content, namespace, &target, model::references(&children)).await?;
        let mut wanted = self.choice.choose(&target, children)?;
        if media::is_manifest(&target.media_type) {
            wanted = self.unpack(&target, wanted).await?;
        }
        let parent = target.reference();
        let wishes = wanted.into_iter().map(|target| Wish {
            target,
            parent: parent.clone(),
            depth: depth + 1,
        });
        Ok(wishes.collect())
    }

    /// Has an image unpacked while its layers arrive, if that is wanted. What of its parts is still
    /// to be fetched: not the layers that are unpacked already.
    async fn unpack(
        &self,
        manifest: &Descriptor,
        parts: Vec<Descriptor>,
    ) -> Result<Vec<Descriptor>> {
        let (layers, others): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .partition(|part| media::is_layer(&part.media_type));
        let config = others
            .iter()
            .find(|part| media::is_config(&part.media_type));
        let (Some(config), false) = (config, layers.is_empty() || self.targets.is_empty()) else {
            return Ok(others.into_iter().chain(layers).collect());
        };
        self.fetcher.announce(config, &manifest.reference());
        self.fetcher.fetch(config, &manifest.reference()).await?;
        let context = self.fetcher.context();
        let bytes = walk::read(&context.manager.content, &context.namespace, config)?;
        let parsed = Config::parse(config, &bytes)?;
        let mut unpacked: Option<usize> = None;
        for snapshots in self.targets.of(&parsed.platform) {
            let steps = unpack::steps(&parsed, &layers)?;
            let done = unpack::done(context, snapshots, &steps);
            unpacked = Some(unpacked.map_or(done, |least| least.min(done)));
            let unpack = Unpack {
                snapshots: snapshots.clone(),
                manifest: manifest.clone(),
                config: config.clone(),
                steps,
            };
            self.unpacks
                .send(unpack)
                .map_err(|_| Error::internal("nobody unpacks any longer"))?;
        }
        let rest = others.iter().filter(|part| part.digest != config.digest);
        let missing = layers.iter().skip(unpacked.unwrap_or(0));
        Ok(rest.chain(missing).cloned().collect())
    }
}
