//! Reads the Test Anything Protocol as the suite and the own tests print it:
//! version 13 lines, YAML diagnostics of `key: value` pairs, comments, and the
//! defects of real producers (several headers and plans in one stream, numbers
//! that start again, diagnostics before their line).

use crate::model::{Assertion, Status};
use std::collections::BTreeMap;

/// A parsed stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// Assertions in the order they were printed.
    pub assertions: Vec<Assertion>,
    /// The reason of `1..0 # SKIP reason` or `Bail out!`.
    pub skip_all: Option<String>,
    /// Text of a `Bail out!` line.
    pub bail_out: Option<String>,
    /// Assertions that plans announced, over all plans of the stream.
    pub planned: Option<usize>,
    /// Diagnostics that belong to no assertion: the suite's life cycle tests
    /// print their only complaint this way.
    pub orphans: BTreeMap<String, String>,
    /// Lines that are not TAP.
    pub rest: String,
}

/// Parses a whole stream; nothing is an error, what is not TAP goes to `rest`.
pub fn parse(text: &str) -> Stream {
    let mut out = Stream::default();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let bare = line.trim_end();
        if let Some(a) = assertion(bare, out.assertions.len() + 1) {
            out.assertions.push(a);
        } else if bare.trim() == "---" {
            let indent = bare.len() - bare.trim_start().len();
            let mut block = Vec::new();
            for l in lines.by_ref() {
                if l.trim() == "..." && l.len() - l.trim_start().len() <= indent {
                    break;
                }
                block.push(l);
            }
            let entries = entries(&block);
            match out.assertions.last_mut() {
                Some(last) => attach(last, entries),
                None => out.orphans.extend(entries),
            }
        } else if let Some(comment) = bare.strip_prefix('#') {
            if let Some(last) = out.assertions.last_mut() {
                if !last.comment.is_empty() {
                    last.comment.push('\n');
                }
                last.comment.push_str(comment.trim());
            } else {
                push_line(&mut out.rest, bare);
            }
        } else if let Some(reason) = bare.strip_prefix("Bail out!") {
            out.bail_out = Some(reason.trim().to_owned());
        } else if let Some(n) = plan(bare, &mut out.skip_all) {
            *out.planned.get_or_insert(0) += n;
        } else if !bare.is_empty() && !bare.starts_with("TAP version") {
            push_line(&mut out.rest, bare);
        }
    }
    out
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn plan(line: &str, skip_all: &mut Option<String>) -> Option<usize> {
    let rest = line.strip_prefix("1..")?;
    let (number, directive) = match rest.split_once('#') {
        Some((n, d)) => (n.trim(), d.trim()),
        None => (rest.trim(), ""),
    };
    let n = number.parse().ok()?;
    if n == 0 && directive.to_ascii_uppercase().starts_with("SKIP") {
        *skip_all = Some(directive.get(4..).unwrap_or("").trim().to_owned());
    }
    Some(n)
}

fn assertion(line: &str, next: usize) -> Option<Assertion> {
    let (ok, rest) = match line.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok")?),
    };
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return None;
    }
    let rest = rest.trim_start();
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number = rest
        .get(..digits)
        .and_then(|d| d.parse().ok())
        .unwrap_or(next);
    let text = rest.get(digits..).unwrap_or("").trim_start();
    let text = text.strip_prefix('-').unwrap_or(text).trim_start();
    let (mut status, mut description, mut comment) = (
        if ok { Status::Passed } else { Status::Failed },
        text.to_owned(),
        String::new(),
    );
    if let Some((before, directive)) = split_directive(text) {
        let word = directive.get(..4).unwrap_or("").to_ascii_uppercase();
        let reason = directive
            .get(4..)
            .unwrap_or("")
            .trim_start_matches("ped")
            .trim();
        if word == "SKIP" || word == "TODO" {
            status = Status::Skipped;
            comment = reason.to_owned();
            description = if before.is_empty() { reason } else { before }.to_owned();
        }
    }
    Some(Assertion {
        number,
        status,
        description,
        reference: None,
        comment,
        diagnostics: BTreeMap::new(),
        known: None,
    })
}

/// Splits `text # DIRECTIVE`; a `#` inside a word (a link's anchor) is no directive.
fn split_directive(text: &str) -> Option<(&str, &str)> {
    if let Some(d) = text.strip_prefix('#') {
        return Some(("", d.trim_start()));
    }
    let at = text.rfind(" #")?;
    Some((text.get(..at)?.trim_end(), text.get(at + 2..)?.trim_start()))
}

/// Reads a block of `key: value` lines; deeper indented lines continue a value.
///
/// The suite prints JSON there, which is YAML as well.
fn entries(block: &[&str]) -> Vec<(String, String)> {
    if let Ok(serde_json::Value::Object(map)) = serde_json::from_str(&block.join("\n")) {
        let text = |v: serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        return map.into_iter().map(|(k, v)| (k, text(v))).collect();
    }
    let indent = block
        .iter()
        .filter(|l| !l.trim().is_empty())
        .map(|l| l.len() - l.trim_start().len())
        .min()
        .unwrap_or(0);
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in block {
        let body = line.get(indent..).unwrap_or("");
        let pair = body.split_once(':').filter(|(k, _)| {
            !k.is_empty() && !k.contains(char::is_whitespace) && !body.starts_with(' ')
        });
        match (pair, entries.last_mut()) {
            (Some((key, value)), _) => {
                let value = value.trim();
                let block_scalar = matches!(value, "|" | "|-" | ">" | ">-");
                entries.push((
                    key.to_owned(),
                    if block_scalar { "" } else { value }.to_owned(),
                ));
            }
            (None, Some((_, value))) => {
                if !value.is_empty() {
                    value.push('\n');
                }
                value.push_str(body.trim());
            }
            (None, None) => {}
        }
    }
    entries
        .into_iter()
        .map(|(key, value)| (key, unquote(&value)))
        .collect()
}

fn attach(assertion: &mut Assertion, entries: Vec<(String, String)>) {
    for (key, value) in entries {
        if key == "reference" {
            assertion.reference = Some(value);
        } else {
            assertion.diagnostics.insert(key, value);
        }
    }
}

fn unquote(value: &str) -> String {
    if value.len() >= 2 && value.starts_with('"') && value.ends_with('"') {
        if let Ok(text) = serde_json::from_str(value) {
            return text;
        }
    }
    if value.len() >= 2 && value.starts_with('\'') && value.ends_with('\'') {
        return value
            .get(1..value.len() - 1)
            .unwrap_or("")
            .replace("''", "'");
    }
    value.to_owned()
}

/// Writes TAP for the own tests; the counterpart of [`parse`].
#[derive(Debug, Default)]
pub struct Writer {
    count: usize,
}

impl Writer {
    /// Prints one assertion with its diagnostics.
    pub fn assert(&mut self, ok: bool, description: &str, diagnostics: &[(&str, &str)]) {
        self.count += 1;
        let word = if ok { "ok" } else { "not ok" };
        println!("{word} {} - {}", self.count, one_line(description));
        println!("  ---");
        for (key, value) in diagnostics {
            println!("  {key}: {}", serde_json::Value::from(*value));
        }
        println!("  ...");
    }

    /// Prints a skipped assertion.
    pub fn skip(&mut self, description: &str, reason: &str) {
        self.count += 1;
        println!(
            "ok {} - {} # SKIP {}",
            self.count,
            one_line(description),
            one_line(reason)
        );
    }

    /// How many assertions were printed.
    pub const fn count(&self) -> usize {
        self.count
    }
}

/// The text on one line, with nothing that could be read as a directive.
pub fn one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(" #", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_assertions_with_yaml_reference() {
        let s = parse(
            "TAP version 13\nok 1 - has expected hostname\n  ---\n  {\n    \"x\": 1,\n    \"reference\": \"r\"\n  }\n  ...\n\
             not ok 2 - it MUST fail\n  ---\n  error: 'exit status 1'\n  reference: https://e/x.md#y\n  ...\n1..2\n",
        );
        assert_eq!(s.assertions.len(), 2);
        assert_eq!(s.assertions[0].diagnostics["x"], "1");
        assert_eq!(s.assertions[0].reference.as_deref(), Some("r"));
        assert_eq!(s.assertions[1].status, Status::Failed);
        assert_eq!(
            s.assertions[1].reference.as_deref(),
            Some("https://e/x.md#y")
        );
        assert_eq!(s.assertions[1].diagnostics["error"], "exit status 1");
        assert_eq!(s.planned, Some(2));
    }

    #[test]
    fn skip_directives_and_whole_skips() {
        let s = parse("ok 1 # SKIP no cgroups\nok 2 - a # skip b\n1..0 # SKIP nothing to do\n");
        assert_eq!(s.assertions[0].status, Status::Skipped);
        assert_eq!(s.assertions[0].comment, "no cgroups");
        assert_eq!(s.assertions[1].description, "a");
        assert_eq!(s.skip_all.as_deref(), Some("nothing to do"));
    }

    #[test]
    fn what_is_no_tap_is_kept() {
        let s = parse("okay\nfailed to create the container\n# note\nBail out! broken\n");
        assert!(s.assertions.is_empty());
        assert!(s.rest.contains("okay") && s.rest.contains("# note"));
        assert_eq!(s.bail_out.as_deref(), Some("broken"));
    }

    #[test]
    fn restarted_numbers_and_two_plans() {
        let s = parse("ok 1 - a\n1..1\nTAP version 13\nnot ok 1 - b\n1..1\n");
        assert_eq!(s.assertions.len(), 2);
        assert_eq!(s.planned, Some(2));
    }

    #[test]
    fn anchors_are_not_directives_and_blocks_continue() {
        let s = parse(
            "ok 3 - see config.md#mounts\n  ---\n  stdout: |\n    ok 1 - inner\n    not ok 2\n  a: \"x\\ny\"\n  ...\n",
        );
        assert_eq!(s.assertions.len(), 1);
        assert_eq!(s.assertions[0].description, "see config.md#mounts");
        assert_eq!(
            s.assertions[0].diagnostics["stdout"],
            "ok 1 - inner\nnot ok 2"
        );
        assert_eq!(s.assertions[0].diagnostics["a"], "x\ny");
    }

    #[test]
    fn unterminated_yaml_does_not_lose_the_assertion() {
        let s = parse("not ok 1 - a\n  ---\n  error: b");
        assert_eq!(s.assertions[0].diagnostics["error"], "b");
    }
}
