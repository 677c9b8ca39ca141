//! Field masks: which parts of a record an update changes.

use std::collections::BTreeMap;

use super::name::Labels;
use crate::error::{Error, Result};

/// Changes a map as far as `path` says, which begins with the map's own name: all of it
/// (`labels`), or the one entry whose key follows (`labels.a.b`), which an empty value removes.
/// Whether the path was about this map.
pub fn apply<V: Clone + Default + PartialEq>(
    path: &str,
    map: &str,
    old: &mut BTreeMap<String, V>,
    new: &BTreeMap<String, V>,
) -> bool {
    if path == map {
        old.clone_from(new);
        return true;
    }
    let key = path
        .strip_prefix(map)
        .and_then(|rest| rest.strip_prefix('.'));
    let Some(key) = key else { return false };
    match new.get(key) {
        Some(value) if *value != V::default() => {
            old.insert(key.to_owned(), value.clone());
        }
        _ => {
            old.remove(key);
        }
    }
    true
}

/// Changes labels as a request with a field mask wants it: without one, all of them. `what` is
/// theirs.
///
/// # Errors
/// `InvalidArgument` for a path to something else.
pub fn relabel(paths: &[String], old: &mut Labels, new: &Labels, what: &str) -> Result<()> {
    if paths.is_empty() {
        old.clone_from(new);
    }
    for path in paths {
        if !apply(path, "labels", old, new) {
            return Err(Error::invalid(format!(
                "cannot update {path:?} field on {what}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn one_entry_or_all() {
        let new = map(&[("a.b", "2"), ("c", "")]);
        let mut old = map(&[("a.b", "1"), ("c", "1"), ("d", "1")]);
        assert!(apply("labels.a.b", "labels", &mut old, &new));
        assert!(apply("labels.c", "labels", &mut old, &new));
        assert!(!apply("labelsx", "labels", &mut old, &new));
        assert!(!apply("target", "labels", &mut old, &new));
        assert_eq!(old, map(&[("a.b", "2"), ("d", "1")]));
        assert!(apply("labels", "labels", &mut old, &new));
        assert_eq!(old, new);
    }
}
