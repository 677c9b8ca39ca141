//! The names that images get when they come: what the client says, and what the archive says.

use std::collections::BTreeMap;

use super::model::Descriptor;
use super::platform::{Platform, Wanted};
use crate::store::name::Labels;

/// The annotation with the whole name of an image.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// The annotation with the name of an image, or with its tag alone.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where images go to: how they are called, and what of them is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destination {
    /// The name; empty where the images bring names along.
    pub name: String,
    /// Labels for the images.
    pub labels: Labels,
    /// The platforms that are wanted.
    pub platforms: Wanted,
    /// Manifests and configurations of the other platforms as well, though not their layers.
    pub all_metadata: bool,
    /// How many manifests of an index at most, 0 for all.
    pub manifest_limit: usize,
    /// More names.
    pub references: Vec<Reference>,
    /// What is to be unpacked, each for a platform with a snapshotter.
    pub unpacks: Vec<(Platform, String)>,
}

/// A name, or a rule for names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    /// The name, or what a name begins with.
    pub name: String,
    /// Whether it is what a name begins with.
    pub is_prefix: bool,
    /// Whether a name of the archive that does not begin so is taken all the same.
    pub allow_overwrite: bool,
    /// Whether there is to be a name with the digest.
    pub add_digest: bool,
    /// Not for images that have another name.
    pub skip_named_digest: bool,
}

impl Reference {
    /// The name that an archive's annotations give an image, if this rule takes it.
    fn of_annotations(&self, annotations: &BTreeMap<String, String>) -> Option<String> {
        let get = |key| annotations.get(key).filter(|name| !name.is_empty());
        if let Some(name) = get(IMAGE_NAME) {
            // A whole name is taken as it is, or not at all.
            let taken = self.complete(name).filter(|complete| complete == name);
            return taken;
        }
        self.complete(get(REF_NAME)?)
    }

    /// A name that begins as it must.
    fn complete(&self, name: &str) -> Option<String> {
        if !name.contains(['/', ':', '@']) {
            return Some(format!("{}:{name}", self.name)).filter(|_| !self.name.is_empty());
        }
        let fits = self.allow_overwrite || starts_with(name, &self.name);
        fits.then(|| name.to_owned())
    }
}

/// Whether a name begins with whole parts of another.
fn starts_with(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

impl Destination {
    /// The names of what the client itself asked for.
    #[must_use]
    pub fn names(&self, target: &Descriptor) -> Vec<String> {
        let mut names = Vec::new();
        if !self.name.is_empty() {
            names.push(self.name.clone());
        }
        for reference in &self.references {
            if !reference.is_prefix && !reference.name.is_empty() {
                names.push(reference.name.clone());
            }
            if reference.add_digest {
                names.push(format!("{}@{}", reference.name, target.digest));
            }
        }
        names
    }

    /// The names of something that an archive has, by its annotations.
    #[must_use]
    pub fn names_of_archived(&self, target: &Descriptor) -> Vec<String> {
        let mut names = Vec::new();
        for reference in self
            .references
            .iter()
            .filter(|reference| reference.is_prefix)
        {
            let name = reference.of_annotations(&target.annotations);
            let digest = reference.add_digest && !(reference.skip_named_digest && name.is_some());
            names.extend(name);
            if digest {
                names.push(format!("{}@{}", reference.name, target.digest));
            }
        }
        names
    }
}

/// What an image's name ends with, as archives tell it: the tag or the digest, or the whole where
/// the name has no host.
#[must_use]
pub fn object(name: &str) -> &str {
    let Some((host, path)) = name.split_once('/') else {
        return name;
    };
    if host.is_empty() {
        return name;
    }
    match path.find([':', '@']) {
        Some(at) if path.as_bytes().get(at) == Some(&b':') => &path[at + 1..],
        Some(at) => &path[at..],
        None => "",
    }
}

/// A name as Docker shows it: without what it adds by itself.
#[must_use]
pub fn familiar(name: &str) -> &str {
    let Some(rest) = name.strip_prefix("docker.io/") else {
        return name;
    };
    rest.strip_prefix("library/").unwrap_or(rest)
}

/// A name as Docker means it: with host, path and tag. `None` for what is no name.
#[must_use]
pub fn whole(name: &str) -> Option<String> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", rest),
    };
    let host = if host == "index.docker.io" {
        "docker.io"
    } else {
        host
    };
    let library = if host == "docker.io" && !path.contains('/') {
        "library/"
    } else {
        ""
    };
    let (repository, tag) = match path.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (path, None),
    };
    let is_word =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
    if repository.is_empty() || !repository.bytes().all(is_word) {
        return None;
    }
    let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if tag.is_some_and(|tag| tag.is_empty() || !tag.bytes().all(is_tag)) {
        return None;
    }
    let tag = match (tag, digest) {
        (Some(tag), _) => format!(":{tag}"),
        (None, None) => ":latest".to_owned(),
        (None, Some(_)) => String::new(),
    };
    let digest = digest
        .map(|digest| format!("@{digest}"))
        .unwrap_or_default();
    Some(format!("{host}/{library}{repository}{tag}{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::Algorithm;

    fn archived(annotations: &[(&str, &str)], references: &[Reference]) -> Vec<String> {
        let mut target = Descriptor::new("x", Algorithm::Sha256.digest(b""), 1);
        let annotations = annotations.iter();
        target.annotations = annotations
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let destination = Destination {
            references: references.to_vec(),
            ..Destination::default()
        };
        let names = destination.names_of_archived(&target).into_iter();
        names
            .map(|name| name.replace(target.digest.as_str(), "DIGEST"))
            .collect()
    }

    #[test]
    fn archives_name_what_they_have() {
        let prefix = |name: &str| Reference {
            name: name.to_owned(),
            is_prefix: true,
            ..Reference::default()
        };
        let any = Reference {
            allow_overwrite: true,
            ..prefix("base")
        };
        let whole = [(IMAGE_NAME, "example.com/a:1"), (REF_NAME, "1")];
        assert_eq!(
            archived(&whole, std::slice::from_ref(&any)),
            ["example.com/a:1"]
        );
        assert_eq!(archived(&whole, &[prefix("base")]), [""; 0]);
        assert_eq!(
            archived(&whole, &[prefix("example.com/a")]),
            ["example.com/a:1"]
        );
        assert_eq!(
            archived(&whole, &[prefix("example.com")]),
            ["example.com/a:1"]
        );
        assert_eq!(archived(&whole, &[prefix("exam")]), [""; 0]);
        assert_eq!(
            archived(&[(REF_NAME, "v7")], &[prefix("base")]),
            ["base:v7"]
        );
        assert_eq!(archived(&[(REF_NAME, "b/c:7")], &[prefix("base")]), [""; 0]);
        assert_eq!(archived(&[(IMAGE_NAME, "short")], &[any]), [""; 0]);
        let digest = Reference {
            add_digest: true,
            ..prefix("pre")
        };
        assert_eq!(
            archived(&[(REF_NAME, "v7")], std::slice::from_ref(&digest)),
            ["pre:v7", "pre@DIGEST"]
        );
        let skip = Reference {
            skip_named_digest: true,
            ..digest.clone()
        };
        assert_eq!(
            archived(&[(REF_NAME, "v7")], std::slice::from_ref(&skip)),
            ["pre:v7"]
        );
        assert_eq!(archived(&[], &[skip]), ["pre@DIGEST"]);
    }

    #[test]
    fn parts_of_names() {
        for (name, expected) in [
            ("example.com/a/b:1", "1"),
            ("example.com/a@sha256:00", "@sha256:00"),
            ("pre@sha256:00", "pre@sha256:00"),
            ("foo", "foo"),
            ("localhost:5000/a:2", "2"),
        ] {
            assert_eq!(object(name), expected, "{name}");
        }
        for (name, expected) in [
            ("short:2", Some("docker.io/library/short:2")),
            ("a/b", Some("docker.io/a/b:latest")),
            ("localhost/a", Some("localhost/a:latest")),
            ("example.com:5000/a:1", Some("example.com:5000/a:1")),
            ("Upper", None),
            ("a:", None),
            ("", None),
        ] {
            assert_eq!(whole(name).as_deref(), expected, "{name}");
        }
        assert_eq!(familiar("docker.io/library/short:2"), "short:2");
    }
}
