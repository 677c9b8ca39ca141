//! Descriptors: what a blob is, how long, and its digest. Image specification, descriptor.md.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::image::platform::Platform;
use crate::store::digest::Digest;
use crate::store::name::Labels;

/// A reference to a blob: type, name, length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the blob; empty where nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The name of the blob.
    #[serde(with = "digest")]
    pub digest: Digest,
    /// The length of the blob in bytes.
    pub size: u64,
    /// Where else it can be fetched from.
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// What else is known of it.
    #[serde(
        default,
        deserialize_with = "or_null",
        skip_serializing_if = "Labels::is_empty"
    )]
    pub annotations: Labels,
    /// The blob itself in base64, as a service to those who would fetch it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What the artifact is that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor of a blob.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: Labels::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digest.as_str())
    }
}

/// A value, or nothing of it where there is null.
pub(crate) fn or_null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Digests as text.
mod digest {
    use serde::de::{self, Deserialize as _, Deserializer};
    use serde::ser::Serializer;

    use crate::store::digest::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(digest.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}
