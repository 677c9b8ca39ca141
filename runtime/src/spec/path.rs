//! The text of a JSON path: `linux.devices[3].path`, `annotations["com.example"]`.

use std::fmt::Write as _;

/// Keys longer than this are cut, in characters: they come from the document.
const MAX_KEY: usize = 80;

/// A JSON path that grows from left to right.
#[derive(Debug, Clone, Default)]
pub(super) struct PathText(String);

impl PathText {
    /// Appends a member of an object; a key that is no identifier is quoted.
    pub(super) fn key(&mut self, key: &str) {
        let plain = !key.is_empty()
            && key.len() <= MAX_KEY
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if plain {
            if !self.0.is_empty() {
                self.0.push('.');
            }
            self.0.push_str(key);
        } else {
            self.0.push_str("[\"");
            for char in key.chars().take(MAX_KEY) {
                let _ = write!(self.0, "{}", char.escape_debug());
            }
            self.0.push_str("\"]");
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
