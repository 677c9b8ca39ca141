//! Filters: which objects of a list a client wants.
//!
//! A filter is a list of selectors, all of which must hold; of several filters one must. A selector
//! names a field (`name`, `labels."a.b"`), alone or with `==`, `!=` or `~=` (a regular expression,
//! RE2's syntax) and a value. Names and values may be quoted as in Go; a regular expression also
//! between slashes or bars. No filter at all, or an empty one, takes everything.

use regex::Regex;

use crate::error::{Error, Result};

/// The longest filter, in bytes: regular expressions take time and memory.
const LONGEST: usize = 64 * 1024;

/// The most memory of one regular expression, in bytes.
const LARGEST_EXPRESSION: usize = 1 << 20;

/// An object with fields to look at.
pub trait Fields {
    /// The value of a field, `None` where the object has none. The path has one element at least.
    fn field(&self, path: &[&str]) -> Option<String>;
}

/// The value of a map's entry: what follows the map's own name, joined by dots, is the key.
pub fn entry(map: &super::name::Labels, path: &[&str]) -> Option<String> {
    map.get(&path.join(".")).cloned()
}

/// A set of filters.
#[derive(Debug, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    Unequal(String),
    Matches(Regex),
}

impl Filters {
    /// Reads filters.
    ///
    /// # Errors
    /// `InvalidArgument` with the filter and the place where it goes wrong.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self> {
        filters
            .iter()
            .map(|text| parse(text.as_ref()))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Whether one of the filters takes the object.
    pub fn take(&self, object: &impl Fields) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|selectors| selectors.iter().all(|selector| selector.holds(object)))
    }
}

impl Selector {
    fn holds(&self, object: &impl Fields) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = object.field(&path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            // What is not there is different from every value but the empty one.
            Test::Unequal(other) => value.unwrap_or_default() != *other,
            Test::Matches(expression) => expression.is_match(&value.unwrap_or_default()),
        }
    }
}

fn parse(text: &str) -> Result<Vec<Selector>> {
    if text.len() > LONGEST {
        return Err(Error::invalid(format!(
            "filter of {} bytes: at most {LONGEST} are allowed",
            text.len()
        )));
    }
    let mut scanner = Scanner { text, at: 0 };
    let mut selectors = Vec::new();
    if text.is_empty() {
        return Ok(selectors);
    }
    loop {
        selectors.push(scanner.selector()?);
        scanner.space();
        if scanner.at == text.len() {
            return Ok(selectors);
        }
        if !scanner.eat(",") {
            return Err(scanner.error("expected `,` and a further selector"));
        }
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Passes over space, which may be between any two parts of a filter.
    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn eat(&mut self, what: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(what);
        if found {
            self.at += what.len();
        }
        found
    }

    fn error(&self, what: &str) -> Error {
        let (before, rest) = self.text.split_at(self.at);
        let place = match rest.chars().next() {
            None => self.text.to_owned(),
            Some(token) => {
                let after = rest.get(token.len_utf8()..).unwrap_or_default();
                format!("{before} >|{token}|< {after}")
            }
        };
        Error::invalid(format!("filters: parse error: [{place}]: {what}"))
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        // A field alone ends where its name does.
        let mut end = self.at;
        while self.eat(".") {
            path.push(self.field()?);
            end = self.at;
        }
        let test = if self.eat("==") {
            Test::Equal(self.value(&['"'])?)
        } else if self.eat("!=") {
            Test::Unequal(self.value(&['"'])?)
        } else if self.eat("~=") {
            let start = self.at;
            let pattern = self.value(&['"', '/', '|'])?;
            let expression = regex::RegexBuilder::new(&pattern)
                .size_limit(LARGEST_EXPRESSION)
                .build();
            Test::Matches(expression.map_err(|error| {
                self.at = start;
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default();
                self.error(last.trim_start_matches("error: "))
            })?)
        } else if self.at == end && (self.rest().is_empty() || self.rest().starts_with(',')) {
            Test::Present
        } else {
            return Err(self.error(&match self.rest().chars().next() {
                None => "expected an operator".to_owned(),
                Some(token) => format!("unsupported operator {:?}", token.to_string()),
            }));
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        self.space();
        if self.rest().starts_with('"') {
            return self.quoted('"');
        }
        let length = self
            .rest()
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest().len());
        let name = self.rest().get(..length).unwrap_or_default();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(self.error("expected the name of a field"));
        }
        self.at += length;
        Ok(name.to_owned())
    }

    fn value(&mut self, quotes: &[char]) -> Result<String> {
        self.space();
        if let Some(quote) = self.rest().chars().next().filter(|c| quotes.contains(c)) {
            return self.quoted(quote);
        }
        let length = self
            .rest()
            .find(|c: char| c == ',' || c.is_whitespace())
            .unwrap_or(self.rest().len());
        let value = self.rest().get(..length).unwrap_or_default();
        if value.is_empty() {
            return Err(self.error("expected value or quoted"));
        }
        self.at += length;
        Ok(value.to_owned())
    }

    /// What stands between quotes; between others than `"` a backslash only hides the quote itself.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        self.at += quote.len_utf8();
        let mut out = Vec::new();
        loop {
            let Some(next) = self.rest().chars().next() else {
                self.at = start;
                return Err(self.error("quoted literal not terminated"));
            };
            self.at += next.len_utf8();
            if next == quote {
                break;
            }
            if next != '\\' {
                out.extend_from_slice(next.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            let Some(escaped) = self.rest().chars().next() else {
                continue;
            };
            if quote != '"' {
                if escaped == quote {
                    self.at += escaped.len_utf8();
                    out.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
                } else {
                    out.push(b'\\');
                }
                continue;
            }
            self.at += escaped.len_utf8();
            let digits = match escaped {
                'a' => Err(7),
                'b' => Err(8),
                't' => Err(b'\t'),
                'n' => Err(b'\n'),
                'v' => Err(11),
                'f' => Err(12),
                'r' => Err(b'\r'),
                '\\' => Err(b'\\'),
                '"' => Err(b'"'),
                '\'' => Err(b'\''),
                'x' => Ok((2, 16)),
                'u' => Ok((4, 16)),
                'U' => Ok((8, 16)),
                '0'..='7' => {
                    self.at -= 1;
                    Ok((3, 8))
                }
                _ => return Err(self.error("an escape that is none")),
            };
            match digits {
                Err(byte) => out.push(byte),
                Ok((count, radix)) => {
                    let number = self
                        .rest()
                        .get(..count)
                        .and_then(|digits| u32::from_str_radix(digits, radix).ok())
                        .ok_or_else(|| self.error("an escape lacks digits"))?;
                    self.at += count;
                    if count < 4 {
                        let byte = u8::try_from(number);
                        out.push(byte.map_err(|_| self.error("an escape is more than a byte"))?);
                    } else {
                        let character = char::from_u32(number)
                            .ok_or_else(|| self.error("an escape is no character"))?;
                        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                }
            }
        }
        String::from_utf8(out).map_err(|_| self.error("the quoted text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::name::Labels;

    struct Object(Labels);

    impl Fields for Object {
        fn field(&self, path: &[&str]) -> Option<String> {
            match path {
                ["name"] => Some("busybox".to_owned()),
                ["size"] => Some("12".to_owned()),
                ["labels", key @ ..] => entry(&self.0, key),
                _ => None,
            }
        }
    }

    fn takes(filters: &[&str]) -> bool {
        let labels = [("a.b", "1"), ("c", "x,y"), ("empty", ""), ("q\"", "ü\n")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Filters::parse(filters)
            .unwrap()
            .take(&Object(labels.into()))
    }

    #[test]
    fn everything_passes_without_filters() {
        assert!(takes(&[]));
        assert!(takes(&[""]));
        assert!(takes(&["name==other", ""]));
    }

    #[test]
    fn selectors_are_all_and_filters_any() {
        assert!(takes(&["name==busybox,size==12"]));
        assert!(!takes(&["name==busybox,size==13"]));
        assert!(takes(&["size==13", "name==busybox"]));
    }

    #[test]
    fn values_are_compared() {
        assert!(takes(&["name!=alpine"]));
        assert!(!takes(&["name!=busybox"]));
        assert!(takes(&["labels.none!=x"]));
        assert!(!takes(&["labels.none==x"]));
        assert!(takes(&["name~=^busy"]));
        assert!(takes(&["name~=/^bu.*x$/,size"]));
        assert!(takes(&["name~=|^bu|"]));
        assert!(!takes(&["name~=^x"]));
    }

    #[test]
    fn presence_is_asked_for_by_the_name_alone() {
        assert!(takes(&["labels.a.b"]));
        assert!(takes(&["labels.\"a.b\""]));
        assert!(takes(&["labels.empty,name"]));
        assert!(!takes(&["labels.z"]));
    }

    #[test]
    fn quotes_hold_what_would_end_a_value() {
        assert!(takes(&["labels.c==\"x,y\",name"]));
        assert!(takes(&[r#"labels."q\""=="\u00fc\n""#]));
        assert!(takes(&[r#"labels."q\""=="\xc3\xbc\012""#]));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_its_place() {
        for bad in [
            "=",
            "==x",
            "name=",
            "name==",
            "name=x",
            "name==a b",
            "name,",
            ",name",
            "name~=(",
            "\"name",
            "name==\"\\q\"",
            "name==\"\\x1\"",
            "name==\"\\xff\"",
            "a..b",
            "1a",
            "name ",
        ] {
            let error = Filters::parse(&[bad]).expect_err(bad).to_string();
            assert!(error.starts_with("filters: parse error: ["), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_ends_the_program(text in ".{0,60}") {
            let _ = Filters::parse(&[text]);
        }
    }
}
