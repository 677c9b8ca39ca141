//! The text of a JSON path: `linux.devices[3].path`, `annotations["com.example"]`.

use std::fmt::{self, Write as _};

/// Strings of a document are cut to this many characters in messages.
const MAX_SHOWN: usize = 80;

/// A member of an object in a path: `.name`, or `["name"]` if it is no identifier.
pub(super) struct Key<'a>(pub(super) &'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = !self.0.is_empty()
            && self.0.len() <= MAX_SHOWN
            && self
                .0
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if plain {
            write!(f, ".{}", self.0)
        } else {
            write!(f, "[{}]", Quoted(self.0))
        }
    }
}

/// A string of the document in a message: in quotes, escaped, cut.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        f.write_char('"')?;
        for char in chars.by_ref().take(MAX_SHOWN) {
            write!(f, "{}", char.escape_debug())?;
        }
        f.write_str(if chars.next().is_some() {
            "...\""
        } else {
            "\""
        })
    }
}

/// A JSON path that grows from left to right.
#[derive(Debug, Clone, Default)]
pub(super) struct PathText(String);

impl PathText {
    /// Appends a member of an object.
    pub(super) fn key(&mut self, key: &str) {
        let first = self.0.is_empty();
        let _ = write!(self.0, "{}", Key(key));
        if first && self.0.starts_with('.') {
            self.0.remove(0);
        }
    }

    /// Appends an element of a list.
    pub(super) fn index(&mut self, index: usize) {
        let _ = write!(self.0, "[{index}]");
    }

    /// The text.
    pub(super) fn into_string(self) -> String {
        self.0
    }
}
