//! Names of images: `registry/repository:tag@digest`, in full. Short names as Docker knows them are
//! the clients' affair.

use std::fmt;

use crate::error::{Error, Result};
use crate::store::digest::Digest;

/// The longest reference, in bytes.
const LONGEST: usize = 4096;

/// The longest tag, in bytes. Distribution specification, "Pulling manifests".
const LONGEST_TAG: usize = 128;

/// What is fetched or pushed: a repository of a registry, and in it a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads `host[:port]/repository[:tag][@digest]`.
    ///
    /// # Errors
    /// `InvalidArgument`, which says what is missing or what is not allowed.
    pub fn parse(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(200).collect();
        let wrong = |what: &str| Error::invalid(format!("invalid reference {shown:?}: {what}"));
        if text.len() > LONGEST {
            return Err(wrong(&format!("longer than {LONGEST} bytes")));
        }
        if text.contains("://") {
            return Err(wrong("a reference has no scheme in front"));
        }
        let Some((host, path)) = text.split_once('/') else {
            return Err(wrong(
                "hostname required, as in docker.io/library/alpine:latest",
            ));
        };
        check_host(host).map_err(|what| wrong(&what))?;
        let (name, digest) = match path.split_once('@') {
            Some((name, digest)) => {
                let digest: Result<Digest> = digest.parse();
                (
                    name,
                    Some(digest.map_err(|error| wrong(&error.to_string()))?),
                )
            }
            None => (path, None),
        };
        let (repository, tag) = match name.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (name, None),
        };
        check_repository(repository).map_err(|what| wrong(&what))?;
        if let Some(tag) = tag {
            check_tag(tag).map_err(|what| wrong(&what))?;
        }
        Ok(Self {
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry's name, with a port where one was given. Not necessarily where it is reached:
    /// `docker.io` is not.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name inside the registry: `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The name without tag and digest: `docker.io/library/alpine`.
    #[must_use]
    pub fn locator(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which counts more than the tag.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository with a digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest.clone()),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A name or address with or without a port.
pub(super) fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, Some(port.strip_prefix(':').unwrap_or(""))),
            None => return Err("no ] after the address of the registry".to_owned()),
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if name.is_empty() {
        return Err("hostname required, as in docker.io/library/alpine:latest".to_owned());
    }
    if host.starts_with('[') {
        if name.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("[{name}] is no IPv6 address"));
        }
    } else if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    {
        return Err(
            "the registry's name has other characters than letters, digits, . - _".to_owned(),
        );
    }
    match port {
        Some(port)
            if !port.bytes().all(|byte| byte.is_ascii_digit())
                || !matches!(port.parse::<u16>(), Ok(1..)) =>
        {
            Err(format!(
                "the registry's port {port:?} is no number from 1 to 65535"
            ))
        }
        _ => Ok(()),
    }
}

/// Components joined by slashes, of characters that mean nothing else in a URL.
pub(super) fn check_repository(repository: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    for component in repository.split('/') {
        if component.is_empty() {
            return Err("a component of the repository's name is empty".to_owned());
        }
        if component == "." || component == ".." || !component.bytes().all(allowed) {
            return Err(
                "the repository's name has other characters than letters, digits, . - _ /"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// Distribution specification, "Pulling manifests": the form of a tag.
pub(super) fn check_tag(tag: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if tag.is_empty() || tag.len() > LONGEST_TAG {
        return Err(format!("a tag has 1 to {LONGEST_TAG} characters"));
    }
    if tag.starts_with(['.', '-']) || !tag.bytes().all(allowed) {
        return Err(format!(
            "the tag {tag:?} is not of letters, digits, . - _, or begins with . or -"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn its_parts() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let text = format!("localhost:5000/a/b-c:v1@{digest}");
        let reference = Reference::parse(&text).unwrap();
        assert_eq!(reference.host(), "localhost:5000");
        assert_eq!(reference.repository(), "a/b-c");
        assert_eq!(reference.tag(), Some("v1"));
        assert_eq!(reference.digest().unwrap().as_str(), digest);
        assert_eq!(reference.to_string(), text);
        assert_eq!(reference.locator(), "localhost:5000/a/b-c");
        for good in ["docker.io/library/alpine", "[::1]:5000/x:y", "a_b/c/d/e"] {
            assert_eq!(Reference::parse(good).unwrap().to_string(), good);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = format!("a/{}", "b".repeat(5000));
        for bad in [
            "",
            "alpine",
            "alpine:latest",
            "/alpine",
            ":5000/alpine",
            "http://a/b",
            "a/",
            "a//b",
            "a/b:",
            "a/b:-x",
            "a/b@",
            "a/b@sha256:00",
            "a/../b",
            "a/b?c",
            "a/b#c",
            "a/b%2fc",
            "a b/c",
            "a/b c",
            "a/b:c:d",
            "u@h/c",
            "a:/b",
            "a:0/b",
            "a:65536/b",
            "[::1/b",
            "[x]/b",
            "a/b\n",
            "a:+1/b",
            &long,
        ] {
            let error = Reference::parse(bad).unwrap_err();
            assert!(
                error.to_string().starts_with("invalid reference"),
                "{bad:?}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z0-9./:@\\[\\]%_-]{0,60}|.*") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
