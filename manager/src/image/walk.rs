//! From a descriptor to all that belongs to it.

use super::model::{self, Descriptor, Document, LARGEST_DOCUMENT, media};
use super::name::Destination;
use super::platform::Wanted;
use crate::error::{Code, Error, Result};
use crate::store::content::Content;
use crate::store::name::Labels;

/// How deep indexes nest at most.
pub const DEEPEST: usize = 8;

/// How many documents belong to one image at most.
pub const MOST: usize = 10_000;

/// Which of the things that belong together are wanted.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    platforms: Wanted,
    all_metadata: bool,
    manifest_limit: usize,
}

impl Choice {
    /// What is wanted at a destination.
    #[must_use]
    pub fn of(destination: &Destination) -> Self {
        Self {
            platforms: destination.platforms.clone(),
            all_metadata: destination.all_metadata,
            manifest_limit: destination.manifest_limit,
        }
    }

    /// What is for these platforms, and nothing else.
    #[must_use]
    pub fn only(platforms: Wanted) -> Self {
        Self {
            platforms,
            ..Self::default()
        }
    }

    /// Those of the children of `target` that are wanted.
    ///
    /// # Errors
    /// `NotFound` for an index that has nothing for these platforms, where some number is asked for.
    pub fn choose(
        &self,
        target: &Descriptor,
        mut children: Vec<Descriptor>,
    ) -> Result<Vec<Descriptor>> {
        let wanted = &self.platforms;
        let takes = |child: &Descriptor| {
            let platform = child.platform.as_ref();
            platform.is_none_or(|platform| wanted.takes(platform))
        };
        if !self.all_metadata {
            children.retain(takes);
        } else if media::is_manifest(&target.media_type) && !takes(target) {
            children.retain(|child| media::is_config(&child.media_type));
        }
        if self.manifest_limit > 0 && media::is_index(&target.media_type) {
            if children.is_empty() {
                let what = format!("index {target}: no match for platform in manifest");
                return Err(Error::not_found(what));
            }
            let rank = |child: &Descriptor| {
                let platform = child.platform.as_ref();
                platform.map_or(usize::MAX, |platform| wanted.rank(platform))
            };
            children.sort_by_key(rank);
            children.truncate(self.manifest_limit);
        }
        Ok(children)
    }
}

/// Reads a document of an image.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` where the blob has another size than the descriptor says;
/// `ResourceExhausted` where it is too large; `InvalidArgument` where it is no such document.
pub fn read(content: &Content, namespace: &str, target: &Descriptor) -> Result<Vec<u8>> {
    let noun = model::noun(&target.media_type);
    let of = |error: Error| error.context(format!("{noun} {target}"));
    let reader = content.read(namespace, &target.digest)?;
    let size = reader.size();
    if size != target.size {
        return Err(of(Error::precondition(format!(
            "it is {size} bytes long, and its descriptor says {}",
            target.size
        ))));
    }
    check_size(target)?;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    if reader.read_at(&mut bytes, 0)? != bytes.len() {
        return Err(of(Error::new(Code::DataLoss, "its file is cut short")));
    }
    Ok(bytes)
}

/// Checks that a document is none that is too large to be read.
///
/// # Errors
/// `ResourceExhausted`.
pub fn check_size(target: &Descriptor) -> Result<()> {
    if target.size > LARGEST_DOCUMENT {
        let noun = model::noun(&target.media_type);
        let what = format!(
            "{noun} {target}: it is {} bytes long, at most {LARGEST_DOCUMENT} are read",
            target.size
        );
        return Err(Error::new(Code::ResourceExhausted, what));
    }
    Ok(())
}

/// What a blob of the content store refers to; nothing for what is no document.
///
/// # Errors
/// Those of [`read`].
pub fn children(
    content: &Content,
    namespace: &str,
    target: &Descriptor,
) -> Result<Vec<Descriptor>> {
    if !Document::is_one(&target.media_type) {
        return Ok(Vec::new());
    }
    let bytes = read(content, namespace, target)?;
    Ok(Document::parse(target, &bytes)?.children())
}

/// Adds labels to a blob where they are not there yet.
///
/// # Errors
/// `NotFound`.
pub async fn label(
    content: &Content,
    namespace: &str,
    target: &Descriptor,
    labels: Labels,
) -> Result<()> {
    let known = content.info(namespace, &target.digest)?.blob.labels;
    if labels
        .iter()
        .all(|(key, value)| known.get(key) == Some(value))
    {
        return Ok(());
    }
    let add = move |old: &mut Labels| {
        old.extend(labels.clone());
        Ok(())
    };
    content.relabel(namespace, &target.digest, add).await?;
    Ok(())
}

/// What was found on the way from one descriptor.
#[derive(Debug, Default)]
pub struct Found {
    /// All that is wanted, each once, those that refer before those they refer to.
    pub all: Vec<Descriptor>,
    /// The manifests among it, each with its children that are wanted.
    pub manifests: Vec<(Descriptor, Vec<Descriptor>)>,
}

/// Goes through all that belongs to `roots` and is in the content store, and labels it, so that the
/// collector keeps together what belongs together.
///
/// # Errors
/// Those of [`read`]; `ResourceExhausted` where it is too much or too deep.
pub async fn walk(
    content: &Content,
    namespace: &str,
    roots: Vec<Descriptor>,
    choice: &Choice,
) -> Result<Found> {
    let mut found = Found::default();
    let mut seen = std::collections::HashSet::new();
    let mut todo: Vec<_> = roots.into_iter().rev().map(|root| (root, 0)).collect();
    while let Some((target, depth)) = todo.pop() {
        if !seen.insert((target.digest.clone(), target.media_type.clone())) {
            continue;
        }
        check_extent(&target, depth, seen.len())?;
        let all = children(content, namespace, &target)?;
        if !all.is_empty() {
            label(content, namespace, &target, model::references(&all)).await?;
        }
        let wanted = choice.choose(&target, all)?;
        if media::is_manifest(&target.media_type) {
            found.manifests.push((target.clone(), wanted.clone()));
        }
        found.all.push(target);
        todo.extend(wanted.into_iter().rev().map(|child| (child, depth + 1)));
    }
    Ok(found)
}

/// Checks that an image does not nest too deep and has not too much in it.
///
/// # Errors
/// `ResourceExhausted`.
pub fn check_extent(target: &Descriptor, depth: usize, count: usize) -> Result<()> {
    let noun = model::noun(&target.media_type);
    let exhausted = |what| {
        Err(Error::new(
            Code::ResourceExhausted,
            format!("{noun} {target}: {what}"),
        ))
    };
    if depth > DEEPEST {
        return exhausted(format!("indexes nest deeper than {DEEPEST}"));
    }
    if count > MOST {
        return exhausted(format!("more than {MOST} blobs belong to one image"));
    }
    Ok(())
}
