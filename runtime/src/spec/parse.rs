//! Reading JSON documents, bounded in size and depth, with errors that name the place.
//!
//! Belongs here: from a file to bytes, from bytes to types, and the JSON path
//! of a syntax or type error. Does not: whether the values make sense
//! ([`super::validate`]).
//!
//! The path is found by reading the text once more up to the place that
//! serde_json reports, so that a correct document costs nothing for it.
//! serde_json itself stops at 128 levels of known properties and skips unknown
//! ones without recursion.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use serde::Deserialize;

use super::path::PathText;
use super::strict::Strict;
use crate::error::{Context as _, Error, Kind, Result};

/// The largest config.json that is read, in bytes.
pub const MAX_CONFIG: usize = 16 << 20;

/// More levels than these are not spelled out in an error.
const MAX_SHOWN_DEPTH: usize = 32;

/// A reason longer than this is cut, in bytes: it may quote the document.
const MAX_REASON: usize = 512;

/// Reads the regular file `path`, relative to `dir`, of at most [`MAX_CONFIG`] bytes.
///
/// # Errors
/// `System` if it cannot be opened or read, `InvalidConfig` if it is no
/// regular file (a fifo would block for ever) or too large.
pub fn read_file(dir: impl AsFd, path: &Path) -> Result<Vec<u8>> {
    // O_NONBLOCK: opening a fifo without a writer returns instead of waiting.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        openat(dir, path, flags, Mode::empty()).context(|| format!("open {}", path.display()))?;
    let stat = fstat(&file).context(|| format!("fstat {}", path.display()))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(Error::new(
            Kind::InvalidConfig,
            format!(
                "{}: this is a {}, not a regular file",
                path.display(),
                file_type_name(kind)
            ),
        ));
    }
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if size > MAX_CONFIG {
        return Err(too_large(path));
    }
    read(file, path, size, size > 0)
}

/// Reads `file` to its end: at most [`MAX_CONFIG`] bytes. `name` stands in
/// errors, `size` is a guess of the length. For input that may be a pipe
/// (standard input); blocks as the file blocks.
///
/// # Errors
/// `System` if reading fails, `InvalidConfig` if there is more.
pub fn read_all(file: impl AsFd, name: &Path, size: usize) -> Result<Vec<u8>> {
    read(file, name, size, false)
}

/// As [`read_all`]; where the size is `known`, less than a byte more than that is the end.
fn read(file: impl AsFd, name: &Path, size: usize, known: bool) -> Result<Vec<u8>> {
    // One byte more than expected, so that the end is seen without growing.
    let mut bytes = Vec::with_capacity(size.min(MAX_CONFIG) + 1);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(64 << 10);
        }
        match rustix::io::read(&file, spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > MAX_CONFIG => return Err(too_large(name)),
            Ok(_) if known && bytes.len() == size => return Ok(bytes),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::system(format!("read {}", name.display()), errno));
            }
        }
    }
}

fn too_large(name: &Path) -> Error {
    Error::new(
        Kind::InvalidConfig,
        format!(
            "{}: larger than {} MiB, which no configuration needs",
            name.display(),
            MAX_CONFIG >> 20
        ),
    )
}

fn file_type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "directory",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "special file",
    }
}

/// A syntax or type error and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    /// JSON path of the value; empty for the document.
    pub(super) path: String,
    /// What is wrong.
    pub(super) reason: String,
    /// From 1; 0 if unknown.
    pub(super) line: usize,
    /// From 1, in bytes.
    pub(super) column: usize,
}

/// Parses `text`, the contents of the file `name`.
///
/// # Errors
/// `InvalidConfig` with the JSON path, the reason, line and column:
/// `config.json: linux.resources.memory.limit: invalid type: string "1g", expected i64 (line 3 column 20)`.
pub fn parse<'a, T: Deserialize<'a>>(name: &str, text: &'a [u8]) -> Result<T> {
    parse_located(text).map_err(|error| located_error(name, &error))
}

/// Parses `text`.
///
/// # Errors
/// The first error and its place.
pub(super) fn parse_located<'a, T: Deserialize<'a>>(
    text: &'a [u8],
) -> std::result::Result<T, Located> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    T::deserialize(Strict(&mut reader))
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| locate(text, &error))
}

#[cold]
fn locate(text: &[u8], error: &serde_json::Error) -> Located {
    let (line, column) = (error.line(), error.column());
    let mut reason = error.to_string();
    // serde_json ends with the place, which has fields of its own here.
    if let Some(end) = reason.rfind(" at line ") {
        reason.truncate(end);
    }
    if reason.len() > MAX_REASON {
        let end = (0..=MAX_REASON)
            .rev()
            .find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or(0));
        reason.push_str("...");
    }
    Located {
        path: path_at(text, offset(text, line, column)),
        reason,
        line,
        column,
    }
}

#[cold]
fn located_error(name: &str, located: &Located) -> Error {
    let mut message = format!("{name}: ");
    if !located.path.is_empty() {
        let _ = write!(message, "{}: ", located.path);
    }
    message.push_str(&located.reason);
    if located.line > 0 {
        let _ = write!(
            message,
            " (line {} column {})",
            located.line, located.column
        );
    }
    Error::new(Kind::InvalidConfig, message)
}

/// How many bytes of `text` come before the end of `column` in `line` (both from 1).
fn offset(text: &[u8], line: usize, column: usize) -> usize {
    let start = match line {
        0 | 1 => 0,
        _ => text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(line - 2)
            .map_or(text.len(), |(at, _)| at + 1),
    };
    start.saturating_add(column).min(text.len())
}

/// A level that the scanner is in.
enum Level<'a> {
    /// In an object, at a member, if one has begun; its key as it was written.
    Object(Option<&'a [u8]>),
    /// In a list, at an element.
    List(usize),
}

/// The JSON path of the value that the first `end` bytes of `text` lead to.
fn path_at(text: &[u8], end: usize) -> String {
    let text = text.get(..end).unwrap_or(text);
    let mut levels: Vec<Level<'_>> = Vec::new();
    // Whether the next string is a key: after `{`, and after `,` in an object.
    let mut key_next = false;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' => {
                levels.push(Level::Object(None));
                key_next = true;
            }
            b'[' => {
                levels.push(Level::List(0));
                key_next = false;
            }
            b'}' | b']' => {
                levels.pop();
                key_next = false;
            }
            b',' => match levels.last_mut() {
                Some(Level::Object(key)) => {
                    *key = None;
                    key_next = true;
                }
                Some(Level::List(index)) => *index += 1,
                None => {}
            },
            b'"' => {
                let start = at;
                while let Some(byte) = text.get(at) {
                    match byte {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                let string = text.get(start..at.min(text.len())).unwrap_or_default();
                at += 1;
                if key_next && let Some(Level::Object(key)) = levels.last_mut() {
                    *key = Some(string);
                }
                key_next = false;
            }
            _ => {}
        }
    }
    let mut path = PathText::default();
    for level in levels.iter().take(MAX_SHOWN_DEPTH) {
        match level {
            Level::Object(Some(key)) => path.key(&String::from_utf8_lossy(key)),
            Level::Object(None) => {}
            Level::List(index) => path.index(*index),
        }
    }
    let mut path = path.into_string();
    if levels.len() > MAX_SHOWN_DEPTH {
        path.push_str("...");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use proptest::prelude::*;

    fn error_of(text: &str) -> String {
        match parse::<Spec<'_>>("config.json", text.as_bytes()) {
            Ok(spec) => panic!("{text} was read as {spec:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn errors_name_the_place() {
        for (text, place) in [
            (
                r#"{"linux": {"resources": {"memory": {"swap": 1, "limit": "1g"}}}}"#,
                "config.json: linux.resources.memory.limit: invalid type: string \"1g\", expected i64 (line 1 column 60)",
            ),
            (
                "{\"process\": {\n\"args\": [\"a\", [] ]}}",
                "config.json: process.args[1]: invalid type: sequence, expected a string",
            ),
            (
                r#"{"mounts": [{}, {"destination": {}}]}"#,
                "config.json: mounts[1].destination: invalid type: map",
            ),
            (
                r#"{"process": {"rlimits": [{"type": "RLIMIT_AS", "soft": 1}]}}"#,
                "config.json: process.rlimits[0]: missing field `hard`",
            ),
            (
                r#"{"process": {"user": {"uid": -1}}}"#,
                "config.json: process.user.uid: invalid value: integer `-1`, expected u32",
            ),
            (
                r#"{"linux": {"resources": {"memory": {"limit": 9223372036854775808}}}}"#,
                "config.json: linux.resources.memory.limit: invalid value",
            ),
            (
                r#"{"annotations": {"com.example/x": 1}}"#,
                "config.json: annotations[\"com.example/x\"]: invalid type: integer `1`",
            ),
            (
                r#"{"linux": {"sysctl": {"a": "b""#,
                "config.json: linux.sysctl.a: EOF",
            ),
            (
                r#"{"hostname": "a", "hostname": "b"}"#,
                "duplicate field `hostname`",
            ),
            (
                r#"{"hooks": []}"#,
                "config.json: hooks: invalid type: sequence, expected struct Hooks",
            ),
            (
                r#"{"linux": {"resources": {"devices": [{}, []]}}}"#,
                "config.json: linux.resources.devices[1]: invalid type: sequence",
            ),
            (
                r#"{"linux": {"timeOffsets": {"boottime": [1, 2]}}}"#,
                "config.json: linux.timeOffsets.boottime: invalid type: sequence",
            ),
            (
                "[]",
                "config.json: invalid type: sequence, expected struct Spec",
            ),
            ("", "config.json: EOF while parsing a value"),
            ("{} x", "config.json: trailing characters"),
        ] {
            let message = error_of(text);
            assert!(message.contains(place), "{message} lacks {place}");
        }
    }

    /// Replaces every object of a document by a list, one at a time: none is
    /// taken, but where the specification does not look.
    #[test]
    fn no_object_may_be_a_list() {
        let text = include_str!("../../tests/data/docker.json");
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut objects = Vec::new();
        collect_objects(&document, String::new(), &mut objects);
        assert!(objects.len() > 50, "{objects:?}");
        for pointer in objects {
            for list in [
                serde_json::json!([]),
                serde_json::json!([null]),
                serde_json::json!(["a", "b", "c"]),
            ] {
                let mut changed = document.clone();
                *changed.pointer_mut(&pointer).unwrap() = list;
                let message = error_of(&changed.to_string());
                assert!(message.contains("sequence"), "{pointer}: {message}");
            }
        }
    }

    fn collect_objects(value: &serde_json::Value, at: String, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(members) => {
                for (key, value) in members {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    collect_objects(value, format!("{at}/{key}"), found);
                }
                found.push(at);
            }
            serde_json::Value::Array(elements) => {
                for (index, value) in elements.iter().enumerate() {
                    collect_objects(value, format!("{at}/{index}"), found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = format!("{{\"mounts\": {}", "[".repeat(1 << 20));
        assert!(error_of(&deep).len() < 1000);
        let deep = format!("{{\"unknown\": {}", "[".repeat(1 << 20));
        assert!(error_of(&deep).len() < 1000);
        let deep = format!(
            "{{\"unknown\": {}1{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(parse::<Spec<'_>>("config.json", deep.as_bytes()).is_ok());
        let long = format!("{{\"hostname\": [\"{}\"]}}", "x".repeat(1 << 20));
        assert!(error_of(&long).len() < 1000);
        let long = format!("{{\"process\": \"{}\"}}", "\u{e9}".repeat(1 << 20));
        assert!(error_of(&long).len() < 1000);
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| {
            read_file(rustix::fs::CWD, &dir.path().join(name)).map_err(|error| error.to_string())
        };
        std::fs::write(dir.path().join("small"), b"{}").unwrap();
        assert_eq!(read("small").unwrap(), b"{}");
        std::fs::write(dir.path().join("empty"), b"").unwrap();
        assert_eq!(read("empty").unwrap(), b"");
        let large = std::fs::File::create(dir.path().join("large")).unwrap();
        large.set_len(1 + (MAX_CONFIG as u64)).unwrap();
        assert!(read("large").unwrap_err().contains("larger than 16 MiB"));
        large.set_len(MAX_CONFIG as u64).unwrap();
        assert_eq!(read("large").unwrap().len(), MAX_CONFIG);
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), Mode::RWXU).unwrap();
        assert!(read("fifo").unwrap_err().contains("this is a fifo"));
        assert!(read("").unwrap_err().contains("this is a directory"));
        assert!(
            read("none")
                .unwrap_err()
                .contains("no such file or directory")
        );
        let zero = std::fs::File::open("/dev/zero").unwrap();
        assert!(
            read_all(zero, Path::new("-"), 0)
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<Spec<'_>>("config.json", &bytes);
        }

        #[test]
        fn any_damage_to_a_document_is_survived(
            cut in 0usize..2000,
            at in 0usize..2000,
            byte in any::<u8>(),
        ) {
            let text = include_bytes!("../../tests/data/docker.json");
            let mut bytes = text.to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = parse::<Spec<'_>>("config.json", &bytes);
            bytes.truncate(cut);
            let _ = parse::<Spec<'_>>("config.json", &bytes);
        }

        #[test]
        fn the_scanner_survives_any_place(text in "[\\[\\]{}\",:\\\\a ]{0,60}", end in 0usize..70) {
            let _ = path_at(text.as_bytes(), end);
            let _ = offset(text.as_bytes(), end, end);
        }
    }
}
