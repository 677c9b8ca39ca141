//! Where a further process of a container goes: `exec --cgroup` and containers that split their cgroup.

use super::file;
use crate::error::{Error, Kind, Result};

/// One argument of `exec --cgroup`, `[controller,...:]path`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sub<'a> {
    /// The list before the colon.
    pub(super) controllers: Option<&'a str>,
    /// Relative to the container's cgroup, without `..`.
    pub(super) path: String,
}

impl<'a> Sub<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Sub<'a>> {
        let (controllers, path) = match text.split_once(':') {
            Some((list, path)) => (Some(list), path),
            None => (None, text),
        };
        if path.is_empty() || controllers == Some("") {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("--cgroup {text:?}: use [controller,...:]path"),
            ));
        }
        // ".." would be harmless after cleaning, but then not what was meant.
        if path.split('/').any(|part| part == "..") {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("--cgroup {text:?}: \"..\" leads out of the container's cgroup"),
            ));
        }
        Ok(Sub {
            controllers,
            path: file::clean(path),
        })
    }
}

/// Whether `path` is `base` or below it, component by component: `/a/bc` is not below `/a/b`.
pub(super) fn is_within(path: &str, base: &str) -> bool {
    match path.strip_prefix(base) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || base.is_empty(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        let sub = Sub::parse("cpu,memory:/a/b/").unwrap();
        assert_eq!(sub.controllers, Some("cpu,memory"));
        assert_eq!(sub.path, "a/b");
        assert_eq!(Sub::parse("/").unwrap().path, "");
        for bad in ["", "cpu:", ":a", "../x", "a/../../b"] {
            assert_eq!(
                Sub::parse(bad).unwrap_err().kind(),
                Kind::InvalidArgument,
                "{bad}"
            );
        }
    }

    #[test]
    fn compares_by_component() {
        assert!(is_within("/a/b", "/a/b"));
        assert!(is_within("/a/b/c", "/a/b"));
        assert!(!is_within("/a/bc", "/a/b"));
        assert!(!is_within("/a", "/a/b"));
    }
}
