//! Images into an archive: an OCI layout, with Docker's manifest.json beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write};

use serde::Serialize;

use super::Context;
use super::model::{self, Descriptor, Document, Index, media};
use super::name::{self, IMAGE_NAME, REF_NAME};
use super::platform::{Platform, Wanted};
use super::progress::Progress;
use super::walk::{self, Choice};
use crate::error::{Code, Error, Result};
use crate::store::digest::Digest;

/// The length of a header, and what files are padded to, in bytes.
const BLOCK: usize = 512;

/// What of an image goes into the archive.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The platforms; this machine's where none is named.
    pub platforms: Vec<Platform>,
    /// All platforms.
    pub all_platforms: bool,
    /// No manifest.json.
    pub skip_docker: bool,
    /// No layers that their makers do not let others distribute.
    pub skip_foreign: bool,
}

/// An entry of Docker's manifest.json.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// What goes into an archive, known before it begins.
#[derive(Debug, Default)]
struct Plan {
    blobs: BTreeMap<Digest, u64>,
    documents: Vec<(&'static str, Vec<u8>)>,
}

/// Writes an archive of images, by their names, to `output`.
///
/// # Errors
/// `NotFound` for an image, or a part of one, that is not there; what `output` fails with.
pub async fn export(
    context: &Context,
    names: &[String],
    options: &Options,
    output: impl Write + Send + 'static,
) -> Result<()> {
    context.progress.tell(Progress::step("Exporting"));
    let (context_, names, options) = (context.clone(), names.to_vec(), options.clone());
    let done = tokio::task::spawn_blocking(move || {
        let plan = plan(&context_, &names, &options)?;
        write(&context_, &plan, output)
    });
    done.await
        .map_err(|_| Error::internal("writing an archive panicked"))??;
    context.progress.tell(Progress::step("Completed export"));
    Ok(())
}

fn plan(context: &Context, names: &[String], options: &Options) -> Result<Plan> {
    let (content, namespace) = (&context.manager.content, &*context.namespace);
    let wanted = match (options.all_platforms, options.platforms.is_empty()) {
        (true, _) => Wanted::default(),
        (false, true) => Wanted(vec![Platform::own()]),
        (false, false) => Wanted(options.platforms.clone()),
    };
    let choice = Choice::only(wanted.clone());
    let best = match options.platforms.is_empty() {
        true => Wanted(vec![Platform::own()]),
        false => wanted,
    };
    let mut plan = Plan::default();
    let mut index = Index {
        schema_version: 2,
        media_type: media::INDEX.to_owned(),
        manifests: Vec::new(),
    };
    // By manifest, in the order in which they were first seen.
    let mut saved: Vec<(Digest, Saved)> = Vec::new();
    for name in names {
        let image = context.manager.images.get(namespace, name)?.image;
        let mut target = Descriptor::from_target(&image.target)?;
        let mut seen = BTreeSet::new();
        let mut todo = vec![(target.clone(), 0)];
        let mut manifests = Vec::new();
        while let Some((blob, depth)) = todo.pop() {
            if options.skip_foreign && media::is_foreign(&blob.media_type) {
                continue;
            }
            if !seen.insert(blob.digest.clone()) {
                continue;
            }
            walk::check_extent(&blob, depth, seen.len())?;
            let info = content.info(namespace, &blob.digest);
            let info = info.map_err(|error| match error.code() {
                // Of documents clients know another text, of which they read the children.
                Code::NotFound
                    if !media::is_manifest(&blob.media_type)
                        && !media::is_index(&blob.media_type) =>
                {
                    error.context("failed to get reader")
                }
                _ => error,
            })?;
            plan.blobs.insert(blob.digest.clone(), info.blob.size);
            let children = choice.choose(&blob, walk::children(content, namespace, &blob)?)?;
            todo.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
            if media::is_manifest(&blob.media_type) {
                manifests.push(blob);
            }
        }
        if !options.skip_docker {
            let rank = |manifest: &Descriptor| {
                let platform = manifest.platform.as_ref();
                platform.map_or(0, |platform| best.rank(platform))
            };
            manifests.retain(|manifest| rank(manifest) < best.0.len());
            manifests.sort_by_key(rank);
            for manifest in manifests.iter().take(1) {
                add(context, manifest, name, &mut saved)?;
            }
        }
        target.annotations.clear();
        target
            .annotations
            .insert(IMAGE_NAME.to_owned(), name.clone());
        let object = name::object(name);
        if !object.is_empty() {
            target
                .annotations
                .insert(REF_NAME.to_owned(), object.to_owned());
        }
        index.manifests.push(target);
    }
    plan.documents.push(("index.json", model::to_json(&index)?));
    if !saved.is_empty() {
        let saved: Vec<Saved> = saved.into_iter().map(|(_, saved)| saved).collect();
        plan.documents
            .push(("manifest.json", model::to_json(&saved)?));
    }
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    plan.documents.push(("oci-layout", layout.to_vec()));
    Ok(plan)
}

/// Adds what Docker reads of an image.
fn add(
    context: &Context,
    manifest: &Descriptor,
    name: &str,
    saved: &mut Vec<(Digest, Saved)>,
) -> Result<()> {
    let familiar = name::familiar(name).to_owned();
    if let Some((_, known)) = saved
        .iter_mut()
        .find(|(digest, _)| *digest == manifest.digest)
    {
        known.repo_tags.push(familiar);
        return Ok(());
    }
    let bytes = walk::read(&context.manager.content, &context.namespace, manifest)?;
    let Document::Manifest(parsed) = Document::parse(manifest, &bytes)? else {
        return Ok(());
    };
    // An artifact is nothing for Docker.
    if !media::is_config(&parsed.config.media_type) {
        return Ok(());
    }
    let layers = parsed.layers.iter().map(|layer| path(&layer.digest));
    let entry = Saved {
        config: path(&parsed.config.digest),
        repo_tags: vec![familiar],
        layers: layers.collect(),
    };
    saved.push((manifest.digest.clone(), entry));
    Ok(())
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Writes the archive. The order of its files is that of their names.
fn write(context: &Context, plan: &Plan, mut output: impl Write) -> Result<()> {
    let failed = |error: io::Error| Error::io("the archive", &error);
    let output = &mut output;
    header(output, "blobs/", 0, Kind::Directory).map_err(failed)?;
    let mut algorithm = None;
    for (digest, size) in &plan.blobs {
        if algorithm != Some(digest.algorithm()) {
            algorithm = Some(digest.algorithm());
            let dir = format!("blobs/{}/", digest.algorithm().name());
            header(output, &dir, 0, Kind::Directory).map_err(failed)?;
        }
        header(output, &path(digest), *size, Kind::Blob).map_err(failed)?;
        let reader = context.manager.content.read(&context.namespace, digest)?;
        let mut file = reader.into_file().take(*size);
        if io::copy(&mut file, output).map_err(failed)? != *size {
            let what = format!("content {digest}: its file is cut short");
            return Err(Error::new(Code::DataLoss, what));
        }
        pad(output, *size).map_err(failed)?;
    }
    for (name, bytes) in &plan.documents {
        let kind = match *name {
            "oci-layout" => Kind::Blob,
            _ => Kind::Document,
        };
        file(output, name, bytes, kind).map_err(failed)?;
    }
    let end = output.write_all(&[0; 2 * BLOCK]);
    end.and_then(|()| output.flush()).map_err(failed)
}

/// What a file of the archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Blob,
    Document,
    /// Says of the next file what its header has no room for. pax(1).
    Extension,
}

fn file(output: &mut impl Write, name: &str, bytes: &[u8], kind: Kind) -> io::Result<()> {
    let size = u64::try_from(bytes.len()).unwrap_or(0);
    header(output, name, size, kind)?;
    output.write_all(bytes)?;
    pad(output, size)
}

/// The header of a file, of the year 1970 and of root. tar(5), "POSIX ustar Archives".
fn header(output: &mut impl Write, name: &str, size: u64, kind: Kind) -> io::Result<()> {
    let (mut short, mut octal) = (name, format!("{size:011o}"));
    let mut extension = String::new();
    if name.len() > 100 {
        extension.push_str(&record("path", name));
        short = name.get(..100).unwrap_or("long");
    }
    if octal.len() > 11 {
        extension.push_str(&record("size", &size.to_string()));
        octal = format!("{:011o}", 0);
    }
    if !extension.is_empty() {
        file(
            output,
            "PaxHeaders.0/long",
            extension.as_bytes(),
            Kind::Extension,
        )?;
    }
    let (mode, flag) = match kind {
        Kind::Directory => ("0000755", b'5'),
        Kind::Blob => ("0000444", b'0'),
        Kind::Document => ("0000644", b'0'),
        Kind::Extension => ("0000000", b'x'),
    };
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, short.as_bytes());
    put(100, mode.as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, octal.as_bytes());
    put(136, b"00000000000");
    // Counted as blanks in its own sum.
    put(148, b"        ");
    put(156, &[flag]);
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    output.write_all(&block)
}

/// A line of an extension, which begins with its own length.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

/// What fills up the last block.
fn pad(output: &mut impl Write, size: u64) -> io::Result<()> {
    let used = usize::try_from(size % 512).unwrap_or(0);
    match used {
        0 => Ok(()),
        used => output.write_all(&[0; BLOCK][used..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::{Limits, Reader};

    #[test]
    fn long_names_and_large_files_have_room() {
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        let mut bytes = Vec::new();
        file(&mut bytes, &long, b"x", Kind::Blob).unwrap();
        file(&mut bytes, "short", b"yy", Kind::Document).unwrap();
        bytes.extend([0; 2 * BLOCK]);
        let mut archive = Reader::new(&*bytes, Limits::default());
        let mut names = Vec::new();
        while let Some(entry) = archive.next_entry().unwrap() {
            let mut text = Vec::new();
            let take = |bytes: &[u8]| {
                text.extend_from_slice(bytes);
                Ok(())
            };
            archive.data(take).unwrap();
            let name = String::from_utf8(entry.name).unwrap();
            names.push((name, String::from_utf8(text).unwrap()));
        }
        assert_eq!(
            names,
            [
                (long, "x".to_owned()),
                ("short".to_owned(), "yy".to_owned())
            ]
        );
        let mut large = Vec::new();
        header(&mut large, "large", 10 << 30, Kind::Blob).unwrap();
        let text = String::from_utf8_lossy(&large).into_owned();
        assert!(text.contains("20 size=10737418240\n"), "{text}");
    }

    #[test]
    fn lengths_of_records_count_themselves() {
        assert_eq!(record("path", "abc"), "12 path=abc\n");
        let long = record("path", &"x".repeat(92));
        assert!(long.starts_with(&format!("{} ", long.len())), "{long}");
    }
}
