//! Platforms: operating system, architecture and its variant, in Go's words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A platform.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// The version of the operating system.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// What the operating system has to offer.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The variant of the architecture: `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The one that this program is for.
    #[must_use]
    pub fn own() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
            os: std::env::consts::OS.to_owned(),
            ..Self::default()
        }
    }

    /// The same platform, said as most say it.
    #[must_use]
    fn normal(&self) -> Self {
        let os = match &*self.os.to_lowercase() {
            "" => std::env::consts::OS.to_owned(),
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) = (
            self.architecture.to_lowercase(),
            self.variant.to_lowercase(),
        );
        let (architecture, variant) = match (&*architecture, &*variant) {
            ("i386" | "386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os,
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// Whether what is made for `other` is what is asked for here.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        let (own, other) = (self.normal(), other.normal());
        (&own.os, &own.architecture, &own.variant)
            == (&other.os, &other.architecture, &other.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let normal = self.normal();
        write!(f, "{}/{}", normal.os, normal.architecture)?;
        match normal.variant.is_empty() {
            true => Ok(()),
            false => write!(f, "/{}", normal.variant),
        }
    }
}

/// The platforms that somebody wants; all where none is named. The first is the best.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted(pub Vec<Platform>);

impl Wanted {
    /// Whether this platform is wanted.
    #[must_use]
    pub fn takes(&self, platform: &Platform) -> bool {
        self.0.is_empty() || self.rank(platform) < self.0.len()
    }

    /// How far behind in the order of wishes it is.
    #[must_use]
    pub fn rank(&self, platform: &Platform) -> usize {
        let mut wishes = self.0.iter();
        let found = wishes.position(|wish| wish.matches(platform));
        found.unwrap_or(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next().unwrap_or_default(),
            ..Platform::default()
        }
    }

    #[test]
    fn different_words_for_one_platform() {
        for (one, other) in [
            ("linux/amd64", "linux/x86_64"),
            ("linux/amd64", "Linux/amd64/v1"),
            ("linux/arm64", "linux/aarch64/v8"),
            ("linux/arm", "linux/armhf"),
            ("linux/arm/v6", "linux/armel"),
            ("linux/386", "linux/i386"),
        ] {
            assert!(platform(one).matches(&platform(other)), "{one} {other}");
        }
        for (one, other) in [
            ("linux/amd64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v6"),
            ("linux/amd64", "windows/amd64"),
            ("linux/amd64", "linux/amd64/v3"),
        ] {
            assert!(!platform(one).matches(&platform(other)), "{one} {other}");
        }
    }

    #[test]
    fn wishes_have_an_order() {
        let wanted = Wanted(vec![platform("linux/arm64"), platform("linux/amd64")]);
        assert_eq!(wanted.rank(&platform("linux/amd64")), 1);
        assert!(!wanted.takes(&platform("linux/s390x")));
        assert!(Wanted::default().takes(&platform("linux/s390x")));
    }
}
