//! Extended regular expressions of POSIX, regcomp(3) and regexec(3): the C
//! library has them, so a crate for the two commands that take one is not needed.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt;
use std::mem::MaybeUninit;

use crate::error::{Error, Kind, Result};

/// A compiled expression.
pub struct Regex(libc::regex_t);

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Regex")
    }
}

impl Regex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// `InvalidArgument`: no valid expression.
    pub fn new(pattern: &str) -> Result<Regex> {
        let invalid = || {
            Error::new(
                Kind::InvalidArgument,
                format!("{pattern:?} is not an extended regular expression, see regex(7)"),
            )
        };
        let text = CString::new(pattern).map_err(|_| invalid())?;
        let mut regex = MaybeUninit::uninit();
        // SAFETY: `text` ends in NUL and outlives the call; regcomp writes `regex` and keeps no pointer to either.
        let failed = unsafe {
            libc::regcomp(
                regex.as_mut_ptr(),
                text.as_ptr(),
                libc::REG_EXTENDED | libc::REG_NOSUB,
            )
        };
        if failed != 0 {
            return Err(invalid());
        }
        // SAFETY: regcomp returned 0, so it has filled in all of `regex`.
        Ok(Regex(unsafe { regex.assume_init() }))
    }

    /// Whether the expression matches a part of the text.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Ok(text) = CString::new(text) else {
            return false;
        };
        // SAFETY: the expression was compiled in `new` and is freed only in `drop`; `text` ends in NUL;
        // with REG_NOSUB and a count of 0 no match positions are written.
        let status =
            unsafe { libc::regexec(&raw const self.0, text.as_ptr(), 0, std::ptr::null_mut(), 0) };
        status == 0
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: compiled in `new`, freed once, not used afterwards.
        unsafe { libc::regfree(&raw mut self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_extended_expressions() {
        let regex = Regex::new("^(web|db)-[0-9]+$").unwrap();
        assert!(regex.matches("web-12"));
        assert!(!regex.matches("web-"));
        assert!(!regex.matches("xdb-1"));
    }

    #[test]
    fn refuses_what_does_not_compile() {
        for pattern in ["(", "[a", "a\0b"] {
            assert!(Regex::new(pattern).is_err(), "{pattern:?}");
        }
    }
}
