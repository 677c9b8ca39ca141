//! Names and labels that clients choose: what they may look like.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Labels, annotations and the like, in the order of their keys.
pub type Labels = BTreeMap<String, String>;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 76;

/// What a name looks like, as clients are told.
const PATTERN: &str = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$";

/// The longest key and value of a label together, in bytes.
const LONGEST_LABEL: usize = 4096;

/// Checks the name of a namespace, a container, a sandbox: runs of letters and digits, joined by
/// one of `.`, `_` and `-` each, at most 76 bytes. Such a name is a file name as well.
///
/// # Errors
/// `InvalidArgument`, which says what a name looks like.
pub fn check(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("identifier must not be empty"));
    }
    if name.len() > LONGEST_NAME {
        return Err(Error::invalid(format!(
            "identifier {name:?} greater than maximum length ({LONGEST_NAME} characters)"
        )));
    }
    let runs = name.split(['.', '_', '-']);
    for run in runs {
        if run.is_empty() || !run.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::invalid(format!(
                "identifier {name:?} must match {PATTERN}"
            )));
        }
    }
    Ok(())
}

/// Drops labels without a value, since to give none is how one is removed, and checks the others: a key
/// with its value has at most 4096 bytes.
///
/// # Errors
/// `InvalidArgument` for the first label that is too long.
pub fn tidy_labels(labels: &mut Labels) -> Result<()> {
    labels.retain(|_, value| !value.is_empty());
    for (key, value) in &*labels {
        let length = key.len() + value.len();
        if length > LONGEST_LABEL {
            let start: String = key.chars().take(64).collect();
            return Err(Error::invalid(format!(
                "label key and value length ({length} bytes) greater than maximum size ({LONGEST_LABEL} bytes), key: {start}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_runs_of_letters_and_digits() {
        for good in ["a", "default", "k8s.io", "a-b_c.d", "0", &"x".repeat(76)] {
            check(good).unwrap();
        }
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "-a",
            "a-",
            "a/b",
            "a b",
            "ä",
            "a\0",
            &"x".repeat(77),
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_have_a_limit() {
        let labels = |size: usize| Labels::from([("k".to_owned(), "v".repeat(size))]);
        tidy_labels(&mut labels(4095)).unwrap();
        let error = tidy_labels(&mut labels(4096)).unwrap_err();
        assert!(error.to_string().contains("4097 bytes"), "{error}");
        let mut without = labels(0);
        tidy_labels(&mut without).unwrap();
        assert!(without.is_empty());
    }
}
