//! Reading archives of images: a tar, compressed or not, with an OCI layout (image specification,
//! image-layout.md) or with what `docker save` writes.
//!
//! All here runs on a thread that may wait: the archive comes as fast as its sender likes.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

use flate2::read::{GzEncoder, MultiGzDecoder};
use serde::Deserialize;
use tokio::runtime::Handle;

use super::Context;
use super::model::{self, Descriptor, Index, LARGEST_DOCUMENT, Manifest, media};
use super::name::{self, IMAGE_NAME, REF_NAME};
use super::platform::Platform;
use crate::error::{Code, Error, Result};
use crate::layer::tar::{Kind, Limits, Reader};
use crate::manager;
use crate::store::content::{Info, Order};
use crate::store::digest::Digest;
use crate::store::filter::Filters;
use crate::store::name::Labels;

/// How much is copied at once, in bytes.
const PIECE: usize = 256 * 1024;

/// The most files of an archive.
const MOST_FILES: u64 = 100_000;

/// The label of a layer with the digest that it has without compression.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The version of layouts that is known.
const LAYOUT_VERSION: &str = "1.0.0";

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// An entry of Docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// What an archive had in it.
#[derive(Default)]
struct Files {
    /// Files by path: digest and length.
    blobs: HashMap<String, (Digest, u64)>,
    /// Links by path, with what they lead to.
    links: HashMap<String, String>,
    layout: Option<Layout>,
    saved: Option<Vec<Saved>>,
}

/// Takes an archive into the content store. The descriptor of its index, which was written by the
/// archive's maker, or is made here where the archive has none.
///
/// # Errors
/// `InvalidArgument` for what is no archive of images; those of the store.
pub fn receive(context: &Context, input: impl Read + Send, compress: bool) -> Result<Descriptor> {
    let mut store = Store {
        context,
        handle: Handle::current(),
        id: manager::new_uuid()?,
        count: 0,
    };
    let input = BufReader::with_capacity(PIECE, plain(input)?);
    let files = store.files(input)?;
    let Files { layout, saved, .. } = &files;
    match (layout, saved) {
        (Some(layout), _) if layout.version != LAYOUT_VERSION => Err(Error::invalid(format!(
            "oci-layout: version {:?}, and only {LAYOUT_VERSION} is known",
            layout.version
        ))),
        (Some(_), _) => match files.blobs.get("index.json") {
            Some((digest, size)) => Ok(Descriptor::new(media::INDEX, digest.clone(), *size)),
            None => Err(Error::invalid(
                "the archive has oci-layout and no index.json",
            )),
        },
        (None, Some(saved)) => store.docker(&files, saved, compress),
        (None, None) => Err(Error::invalid("unrecognized image format")),
    }
}

/// What is wrong with the stream, or with the tar in it.
fn broken(error: io::Error) -> Error {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    {
        Some(own) => own.clone(),
        None => Error::invalid(format!("the archive cannot be read: {error}")),
    }
}

/// The archive without its compression.
fn plain<'a>(input: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(PIECE, input);
    let mut start = [0; 4];
    let mut length = 0;
    while length < start.len() {
        match input.read(&mut start[length..]).map_err(broken)? {
            0 => break,
            more => length += more,
        }
    }
    let start = &start[..length];
    let kind = compression(start);
    let whole = io::Cursor::new(start.to_vec()).chain(input);
    Ok(match kind {
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::Decoder::new(whole).map_err(broken)?),
        Compression::None => Box::new(whole),
    })
}

/// Takes the next bytes of something.
type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The compression of what starts so.
fn compression(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// A path of the archive without what says nothing: `./a//b/../c` is `a/c`.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Puts blobs into the content store, one after the other.
struct Store<'a> {
    context: &'a Context,
    handle: Handle,
    /// Tells the ingests of one archive from those of another.
    id: String,
    count: usize,
}

impl Store<'_> {
    /// Takes all files of the archive, to the end of what its sender has.
    fn files(&mut self, input: impl BufRead) -> Result<Files> {
        let of = |error: Error| error.context("the archive");
        let mut files = Files::default();
        let limits = Limits {
            entries: MOST_FILES,
            ..Limits::default()
        };
        let mut archive = Reader::new(input, limits);
        while let Some(entry) = archive.next_entry().map_err(of)? {
            let name = clean(&String::from_utf8_lossy(&entry.name));
            let target = String::from_utf8_lossy(&entry.link);
            match entry.kind {
                Kind::File => {}
                Kind::HardLink => {
                    files.links.insert(name, clean(&target));
                    continue;
                }
                Kind::Symlink => {
                    let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                    let target = clean(&format!("{dir}/{target}"));
                    files.links.insert(name, target);
                    continue;
                }
                _ => continue,
            }
            let size = entry.size;
            match &*name {
                "oci-layout" => files.layout = Some(document(&name, &mut archive, size)?),
                "manifest.json" => files.saved = Some(document(&name, &mut archive, size)?),
                _ => {
                    let digest = self.blob(&name, &mut archive, size)?;
                    files.blobs.insert(name, (digest, size));
                }
            }
        }
        archive.finish().map_err(of)?;
        Ok(files)
    }

    /// Stores one file of the archive. A path of an OCI layout says what its digest is.
    fn blob(
        &mut self,
        name: &str,
        archive: &mut Reader<impl BufRead>,
        size: u64,
    ) -> Result<Digest> {
        let expected = name
            .strip_prefix("blobs/")
            .and_then(|rest| rest.split_once('/'));
        let expected = expected.map(|(algorithm, hex)| format!("{algorithm}:{hex}"));
        let expected = expected.and_then(|text| text.parse::<Digest>().ok());
        let mut length = 0;
        let all = |take: Take<'_>| {
            archive.data(|bytes| {
                length += bytes.len();
                take(bytes)
            })
        };
        let stored = self.put(Some(size), expected, Labels::new(), all);
        let of = |error: Error| match error.code() {
            Code::InvalidArgument if u64::try_from(length).is_ok_and(|length| length < size) => {
                let what = format!("short read: expected {size} bytes but got {length}");
                Error::invalid(what)
            }
            _ => error,
        };
        let stored = stored.map_err(of);
        let (digest, _) =
            stored.map_err(|error| error.context(format!("failed to ingest {name:?}")))?;
        Ok(digest)
    }

    /// Stores bytes of which the length and the digest may be known; `all` hands them out.
    fn put(
        &mut self,
        size: Option<u64>,
        expected: Option<Digest>,
        labels: Labels,
        all: impl FnOnce(Take<'_>) -> Result<()>,
    ) -> Result<(Digest, u64)> {
        let (content, space) = (&self.context.manager.content, &self.context.namespace);
        self.count += 1;
        let order = Order {
            reference: format!("import-{}-{}", self.id, self.count),
            total: size.unwrap_or(0),
            expected: expected.clone(),
            lease: Some(self.context.lease.clone()),
        };
        let reference = order.reference.clone();
        let writer = self.handle.block_on(content.write(space, order));
        let mut writer = match (writer, expected) {
            (Err(error), Some(expected)) if error.code() == Code::AlreadyExists => {
                let size = content.info(space, &expected)?.blob.size;
                return Ok((expected, size));
            }
            (writer, _) => writer?,
        };
        let copied = all(&mut |bytes| writer.write(bytes));
        let committed = copied.and_then(|()| {
            let (digest, length) = (writer.digest(), writer.status().offset);
            match self.handle.block_on(writer.commit(length, None, labels)) {
                Ok(Info { digest, .. }) => Ok((digest, length)),
                Err(error) if error.code() == Code::AlreadyExists => Ok((digest, length)),
                Err(error) => Err(error),
            }
        });
        if committed.is_err() {
            let _ = self.handle.block_on(content.abort(space, &reference));
        }
        committed
    }

    /// Makes manifests and an index of what Docker saved.
    fn docker(&mut self, files: &Files, saved: &[Saved], compress: bool) -> Result<Descriptor> {
        let mut manifests = Vec::new();
        for image in saved {
            let of =
                |error: Error| error.context(format!("image {:?} of manifest.json", image.config));
            let target = self.docker_image(files, image, compress).map_err(of)?;
            for tag in image.repo_tags.iter().flatten() {
                let whole = name::whole(tag)
                    .ok_or_else(|| of(Error::invalid(format!("{tag:?} is no name of an image"))))?;
                let mut named = target.clone();
                let object = name::object(&whole).to_owned();
                named.annotations.insert(REF_NAME.to_owned(), object);
                named.annotations.insert(IMAGE_NAME.to_owned(), whole);
                manifests.push(named);
            }
            if image.repo_tags.as_ref().is_none_or(Vec::is_empty) {
                manifests.push(target);
            }
        }
        let index = Index {
            schema_version: 2,
            media_type: String::new(),
            manifests,
        };
        let bytes = model::to_json(&index)?;
        let (digest, size) = self.put(None, None, model::references(&index.manifests), |take| {
            take(&bytes)
        })?;
        Ok(Descriptor::new(media::INDEX, digest, size))
    }

    fn docker_image(&mut self, files: &Files, image: &Saved, compress: bool) -> Result<Descriptor> {
        let (digest, size) = files.find(&image.config)?;
        let config = Descriptor::new(media::DOCKER_CONFIG, digest, size);
        let bytes = super::walk::read(
            &self.context.manager.content,
            &self.context.namespace,
            &config,
        )?;
        let platform: Platform = model::parse(&bytes)?;
        let mut layers = Vec::new();
        for path in image.layers.iter().flatten() {
            let (digest, size) = files.find(path)?;
            layers.push(self.layer(digest, size, compress)?);
        }
        let mut children = vec![config.clone()];
        children.extend(layers.iter().cloned());
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::DOCKER_MANIFEST.to_owned(),
            config,
            layers,
            subject: None,
        };
        let bytes = model::to_json(&manifest)?;
        let (digest, size) = self.put(None, None, model::references(&children), |take| {
            take(&bytes)
        })?;
        let mut target = Descriptor::new(media::DOCKER_MANIFEST, digest, size);
        if !platform.os.is_empty() || !platform.architecture.is_empty() {
            target.platform = Some(platform);
        }
        Ok(target)
    }

    /// A layer as it is, or one with the same in it that is there in compressed form.
    fn layer(&mut self, digest: Digest, size: u64, compress: bool) -> Result<Descriptor> {
        let (content, space) = (&self.context.manager.content, &self.context.namespace);
        let filter = format!("labels.\"{UNCOMPRESSED}\"=={digest}");
        let (mut found, mut chosen) = (None, (digest.clone(), size));
        content.list(space, &Filters::parse(&[filter])?, |info| {
            found.get_or_insert((info.digest, info.blob.size));
        })?;
        if let Some(found) = found {
            chosen = found;
        }
        let reader = content.read(space, &chosen.0)?;
        let mut start = [0; 4];
        let length = reader.read_at(&mut start, 0)?;
        let kind = match compression(&start[..length]) {
            Compression::Gzip => media::DOCKER_LAYER_GZIP,
            Compression::Zstd => media::DOCKER_LAYER_ZSTD,
            Compression::None if compress => {
                let file = reader.into_file();
                let mut packed = GzEncoder::new(file, flate2::Compression::default());
                let labels = [(UNCOMPRESSED.to_owned(), digest.to_string())];
                chosen = self.put(None, None, labels.into(), |take| {
                    let mut buffer = vec![0; PIECE];
                    loop {
                        match packed.read(&mut buffer) {
                            Ok(0) => return Ok(()),
                            Ok(length) => take(&buffer[..length])?,
                            Err(error) => return Err(Error::io("a layer", &error)),
                        }
                    }
                })?;
                media::DOCKER_LAYER_GZIP
            }
            Compression::None => media::DOCKER_LAYER,
        };
        Ok(Descriptor::new(kind, chosen.0, chosen.1))
    }
}

impl Files {
    fn find(&self, path: &str) -> Result<(Digest, u64)> {
        let mut path = clean(path);
        // A link may lead to another.
        for _ in 0..16 {
            if let Some(found) = self.blobs.get(&path) {
                return Ok(found.clone());
            }
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        Err(Error::invalid(format!("{path:?} is not in the archive")))
    }
}

/// Reads a small file of the archive that is JSON.
fn document<T: for<'de> Deserialize<'de>>(
    name: &str,
    archive: &mut Reader<impl BufRead>,
    size: u64,
) -> Result<T> {
    if size > LARGEST_DOCUMENT {
        let what = format!("{name} is {size} bytes long, at most {LARGEST_DOCUMENT} are read");
        return Err(Error::new(Code::ResourceExhausted, what));
    }
    let mut bytes = Vec::new();
    let mut take = |more: &[u8]| {
        bytes.extend_from_slice(more);
        Ok(())
    };
    let of = |error: Error| error.context(name);
    archive.data(&mut take).map_err(of)?;
    model::parse(&bytes).map_err(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_without_what_says_nothing() {
        for (path, expected) in [
            ("./a//b", "a/b"),
            ("/a/../b", "b"),
            ("../../x", "x"),
            ("a/./b/../c", "a/c"),
            ("", ""),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
