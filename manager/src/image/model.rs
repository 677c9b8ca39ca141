//! Documents of images: descriptors, indexes, manifests and configurations. Image specification 1.1,
//! and the types that Docker had before, which differ in name only.
//!
//! What is read here comes from strangers: sizes are checked before hashes, names within an object
//! are there once, and what has a known place has its type. What is not known is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::platform::Platform;
pub use crate::descriptor::Descriptor;
use crate::descriptor::or_null;
use crate::error::{Error, Result};
use crate::store::digest::Digest;
use crate::store::name::Labels;
use crate::store::schema;

/// The largest document that is read, in bytes. Registries take 4 MiB at least.
pub const LARGEST_DOCUMENT: u64 = 8 << 20;

/// The most entries of an index or layers of a manifest.
const MOST_CHILDREN: usize = 10_000;

/// Media types.
pub mod media {
    /// An index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Docker's index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, not compressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's layer, compressed with gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's layer, compressed with zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    const LAYER: &str = "application/vnd.oci.image.layer.";
    const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
    const NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.";

    /// Whether it is an index.
    #[must_use]
    pub fn is_index(kind: &str) -> bool {
        matches!(kind, INDEX | DOCKER_INDEX)
    }

    /// Whether it is a manifest.
    #[must_use]
    pub fn is_manifest(kind: &str) -> bool {
        matches!(kind, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether it is the configuration of a container's image.
    #[must_use]
    pub fn is_config(kind: &str) -> bool {
        matches!(kind, CONFIG | DOCKER_CONFIG)
    }

    /// Whether it is a layer of a root file system.
    #[must_use]
    pub fn is_layer(kind: &str) -> bool {
        kind.starts_with(LAYER) || kind.starts_with(DOCKER_LAYER) || is_foreign(kind)
    }

    /// Whether it is a layer that its maker does not let others distribute.
    #[must_use]
    pub fn is_foreign(kind: &str) -> bool {
        kind.starts_with(NONDISTRIBUTABLE) || kind.starts_with(DOCKER_FOREIGN)
    }
}

impl Descriptor {
    /// The descriptor of an image, as the database has it.
    ///
    /// # Errors
    /// `InvalidArgument` for a digest or a size that is none.
    pub fn from_target(target: &schema::Descriptor) -> Result<Self> {
        let size = u64::try_from(target.size)
            .map_err(|_| Error::invalid(format!("size {} is negative", target.size)))?;
        let mut this = Self::new(&target.media_type, target.digest.parse()?, size);
        this.annotations.clone_from(&target.annotations);
        Ok(this)
    }

    /// The reverse of [`Descriptor::from_target`].
    #[must_use]
    pub fn to_target(&self) -> schema::Descriptor {
        schema::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.to_string(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            annotations: self.annotations.clone(),
        }
    }

    /// The name under which it is fetched and sent, and told of: `layer-sha256:…`.
    #[must_use]
    pub fn reference(&self) -> String {
        let kind = match &*self.media_type {
            kind if media::is_manifest(kind) => "manifest",
            kind if media::is_index(kind) => "index",
            kind if media::is_layer(kind) => "layer",
            kind if media::is_config(kind) => "config",
            "application/vnd.in-toto+json" => "attestation",
            _ => "unknown",
        };
        format!("{kind}-{}", self.digest)
    }
}

/// An index: one thing for several platforms, or several things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// What it is, where it says so.
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    /// Its entries.
    #[serde(default, deserialize_with = "or_null")]
    pub manifests: Vec<Descriptor>,
}

/// A manifest: a configuration and layers, or any other thing with its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// What it is, where it says so.
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "or_null")]
    pub layers: Vec<Descriptor>,
    /// What this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
}

/// What unpacking needs of an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// The layers once more, not compressed.
    #[serde(default)]
    pub rootfs: Rootfs,
}

/// The layers of an image, not compressed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Rootfs {
    /// `layers`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The digests of the layers without compression, the lowest first.
    #[serde(default, deserialize_with = "digests")]
    pub diff_ids: Vec<Digest>,
}

/// A document that refers to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An index.
    Index(Index),
    /// A manifest.
    Manifest(Box<Manifest>),
}

impl Document {
    /// Whether a blob of this type refers to others.
    #[must_use]
    pub fn is_one(media_type: &str) -> bool {
        media::is_index(media_type) || media::is_manifest(media_type)
    }

    /// Reads a document; `target` says of which type it is.
    ///
    /// # Errors
    /// `InvalidArgument` for bytes that are none of that type.
    pub fn parse(target: &Descriptor, bytes: &[u8]) -> Result<Self> {
        let kind = &*target.media_type;
        let of = |error: Error| error.context(format!("{} {target}", noun(kind)));
        let document = match media::is_index(kind) {
            true => Self::Index(parse(bytes).map_err(of)?),
            false => Self::Manifest(Box::new(parse(bytes).map_err(of)?)),
        };
        let shape: Shape = parse(bytes).map_err(of)?;
        let wrong = |what: &str| Err(of(Error::invalid(format!("media-type: {what}"))));
        let said = match &document {
            Self::Index(index) => &index.media_type,
            Self::Manifest(manifest) => &manifest.media_type,
        };
        if shape.fs_layers {
            return wrong("schema 1 not supported");
        }
        let count = match &document {
            Self::Index(index) => {
                if shape.config || shape.layers || media::is_manifest(said) {
                    return wrong(&format!("expected index but found manifest ({said})"));
                }
                index.manifests.len()
            }
            Self::Manifest(manifest) => {
                if shape.manifests || media::is_index(said) {
                    return wrong(&format!("expected manifest but found index ({said})"));
                }
                manifest.layers.len()
            }
        };
        if count > MOST_CHILDREN {
            let what = format!("it has {count} entries, at most {MOST_CHILDREN} are taken");
            return Err(of(Error::invalid(what)));
        }
        Ok(document)
    }

    /// What it refers to and can't be without, in its order.
    #[must_use]
    pub fn children(self) -> Vec<Descriptor> {
        match self {
            Self::Index(index) => index.manifests,
            Self::Manifest(manifest) => {
                let mut all = vec![manifest.config];
                all.extend(manifest.layers);
                all
            }
        }
    }
}

impl Config {
    /// Reads the configuration of a container's image.
    ///
    /// # Errors
    /// `InvalidArgument` for bytes that are none.
    pub fn parse(target: &Descriptor, bytes: &[u8]) -> Result<Self> {
        let of = |error: Error| error.context(format!("config {target}"));
        let this: Self = parse(bytes).map_err(of)?;
        match &*this.rootfs.kind {
            "layers" => Ok(this),
            "" if this.rootfs.diff_ids.is_empty() => Ok(this),
            kind => Err(of(Error::invalid(format!(
                "rootfs.type is {kind:?}, and only \"layers\" is known"
            )))),
        }
    }
}

/// Which fields are there that tell one type from another.
#[derive(Debug, Default)]
struct Shape {
    manifests: bool,
    config: bool,
    layers: bool,
    fs_layers: bool,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            #[serde(default)]
            manifests: Option<de::IgnoredAny>,
            #[serde(default)]
            config: Option<de::IgnoredAny>,
            #[serde(default)]
            layers: Option<de::IgnoredAny>,
            #[serde(default, rename = "fsLayers")]
            fs_layers: Option<de::IgnoredAny>,
        }
        let fields = Fields::deserialize(deserializer)?;
        Ok(Self {
            manifests: fields.manifests.is_some(),
            config: fields.config.is_some(),
            layers: fields.layers.is_some(),
            fs_layers: fields.fs_layers.is_some(),
        })
    }
}

/// What a blob of this type is called.
#[must_use]
pub fn noun(media_type: &str) -> &'static str {
    match media_type {
        kind if media::is_index(kind) => "index",
        kind if media::is_manifest(kind) => "manifest",
        kind if media::is_config(kind) => "config",
        kind if media::is_layer(kind) => "layer",
        _ => "blob",
    }
}

/// Reads JSON whose objects have each name once.
///
/// # Errors
/// `InvalidArgument` for what is no such JSON.
pub fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    let wrong = |error: serde_json::Error| Error::invalid(error.to_string());
    let mut all = serde_json::Deserializer::from_slice(bytes);
    Once.deserialize(&mut all).map_err(wrong)?;
    all.end().map_err(wrong)?;
    serde_json::from_slice(bytes).map_err(wrong)
}

/// A document as Go's encoder writes it, which other tools compute the same digest of.
///
/// # Errors
/// `Internal`, where a value can't be JSON.
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let text = serde_json::to_string(value).map_err(|error| Error::internal(error.to_string()))?;
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            other => escaped.push(other),
        }
    }
    Ok(escaped.into_bytes())
}

/// Looks at any JSON: whether a name is twice in an object.
struct Once;

impl<'de> DeserializeSeed<'de> for Once {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = entries.next_key::<String>()? {
            entries.next_value_seed(Self)?;
            if let Some(name) = names.replace(name) {
                return Err(de::Error::custom(format_args!("duplicate name {name:?}")));
            }
        }
        Ok(())
    }
}

fn digests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Digest>, D::Error> {
    let texts: Vec<String> = or_null(deserializer)?;
    let digests = texts.iter().map(|text| text.parse());
    digests.collect::<Result<_>>().map_err(de::Error::custom)
}

/// Names of labels that the collector follows from a blob to those it refers to: the children, in
/// order, each with the label that stands for it.
#[must_use]
pub fn references(children: &[Descriptor]) -> Labels {
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut labels = Labels::new();
    for child in children {
        let kind = &*child.media_type;
        let key = if media::is_config(kind) {
            "containerd.io/gc.ref.content.config"
        } else if media::is_manifest(kind) {
            "containerd.io/gc.ref.content.m."
        } else if media::is_layer(kind) {
            "containerd.io/gc.ref.content.l."
        } else {
            "containerd.io/gc.ref.content."
        };
        let count = counts.entry(key).or_default();
        let key = match key.ends_with('.') || *count > 0 {
            true => format!("{key}{count}"),
            false => key.to_owned(),
        };
        *count += 1;
        labels.insert(key, child.digest.to_string());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::Algorithm;

    fn descriptor(kind: &str) -> Descriptor {
        Descriptor::new(kind, Algorithm::Sha256.digest(kind.as_bytes()), 3)
    }

    fn document(kind: &str, text: &str) -> Result<Document> {
        Document::parse(&descriptor(kind), text.as_bytes())
    }

    #[test]
    fn a_manifest_has_a_configuration_and_layers() {
        let config = to_json(&descriptor(media::CONFIG)).unwrap();
        let config = String::from_utf8(config).unwrap();
        let text =
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":null,"x":[{{"y":1}}]}}"#);
        let parsed = document(media::MANIFEST, &text).unwrap();
        assert_eq!(parsed.children(), [descriptor(media::CONFIG)]);
        let error = document(media::INDEX, &text).unwrap_err().to_string();
        assert!(
            error.contains("expected index but found manifest"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for (kind, text) in [
            (media::INDEX, ""),
            (media::INDEX, "[]"),
            (media::INDEX, r#"{"schemaVersion":2,"manifests":[]} x"#),
            (
                media::INDEX,
                r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
            ),
            (media::INDEX, r#"{"schemaVersion":2,"a":[{"b":1,"b":2}]}"#),
            (
                media::INDEX,
                r#"{"schemaVersion":2,"manifests":[{"size":1}]}"#,
            ),
            (media::MANIFEST, r#"{"schemaVersion":1,"fsLayers":[]}"#),
            (media::MANIFEST, r#"{"schemaVersion":2,"manifests":[]}"#),
        ] {
            assert!(document(kind, text).is_err(), "{kind}: {text}");
        }
        let deep = "[".repeat(100_000);
        assert!(document(media::INDEX, &deep).is_err());
        let negative = r#"{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":-1}"#;
        assert!(parse::<Descriptor>(negative.as_bytes()).is_err());
    }

    #[test]
    fn labels_say_what_is_referred_to() {
        let children = [
            media::CONFIG,
            media::DOCKER_LAYER_GZIP,
            media::DOCKER_LAYER,
            "x/y",
        ];
        let labels = references(&children.map(descriptor));
        let keys: Vec<_> = labels.keys().map(|key| &key[29..]).collect();
        assert_eq!(keys, ["0", "config", "l.0", "l.1"]);
        let labels = references(&[media::INDEX, media::MANIFEST].map(descriptor));
        let keys: Vec<_> = labels.keys().map(|key| &key[29..]).collect();
        assert_eq!(keys, ["0", "m.0"]);
    }

    #[test]
    fn unknown_kinds_of_root_file_systems_are_refused() {
        let target = descriptor(media::CONFIG);
        let config = |text: &str| Config::parse(&target, text.as_bytes());
        assert!(config(r#"{"rootfs":{"type":"blocks","diff_ids":[]}}"#).is_err());
        assert!(config("{}").is_ok());
        let plain = config(
            r#"{"os":"linux","architecture":"arm","variant":"v7","rootfs":{"type":"layers","diff_ids":null}}"#,
        );
        assert_eq!(plain.unwrap().platform.to_string(), "linux/arm/v7");
    }

    #[test]
    fn json_is_written_as_go_writes_it() {
        assert_eq!(
            to_json(&"<&>\u{2028}").unwrap(),
            br#""\u003c\u0026\u003e\u2028""#
        );
    }
}
