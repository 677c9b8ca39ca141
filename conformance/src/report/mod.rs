//! The report in its formats. Each takes the finished [`Report`] and returns
//! text; nothing here runs or judges.
//!
//! [`Report`]: crate::model::Report

pub mod html;
pub mod junit;
pub mod table;
pub mod tap;

use crate::model::{TestResult, Verdict};

/// The word for people: like the status, but a failure that is the suite's own
/// fault is told apart.
pub fn word(test: &TestResult) -> &'static str {
    match (test.verdict, test.status.is_bad()) {
        (Verdict::Expected, true) => "suite fault",
        (Verdict::UnexpectedPass, _) => "passed (listed as suite fault)",
        _ => test.status.word(),
    }
}

/// Escapes text for HTML and XML. Control characters that XML 1.0 forbids are
/// replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
pub mod sample {
    //! A small report for the tests of the formats.
    use crate::model::*;

    /// One passed, one failed, one explained, one skipped test.
    pub fn report() -> Report {
        let assertion = |status, description: &str| Assertion {
            number: 1,
            status,
            description: description.to_owned(),
            reference: Some("https://example.org/config.md#mounts".to_owned()),
            comment: String::new(),
            diagnostics: [("error".to_owned(), "a <b> & \u{1}".to_owned())].into(),
            known: None,
        };
        let test = |id: &str, origin, status, verdict, reason: &str| TestResult {
            id: id.to_owned(),
            origin,
            title: "t".to_owned(),
            status,
            verdict,
            reason: reason.to_owned(),
            millis: 12,
            assertions: vec![assertion(status, "says <so>")],
            output: "]]> out".to_owned(),
            leftovers: Leftovers {
                processes: vec!["sleep 9".to_owned()],
                ..Leftovers::default()
            },
            known: Vec::new(),
        };
        Report {
            tool: "0".to_owned(),
            suite: "v0".to_owned(),
            known_list: 1,
            runtime: RuntimeInfo {
                name: "rt".to_owned(),
                ..RuntimeInfo::default()
            },
            host: HostInfo::default(),
            millis: 48,
            tests: vec![
                test(
                    "suite/a",
                    Origin::Suite,
                    Status::Passed,
                    Verdict::Expected,
                    "",
                ),
                test(
                    "suite/b",
                    Origin::Suite,
                    Status::Failed,
                    Verdict::Expected,
                    "wrong clause",
                ),
                test(
                    "own/c",
                    Origin::Own,
                    Status::Failed,
                    Verdict::UnexpectedFailure,
                    "",
                ),
                test(
                    "own/d",
                    Origin::Own,
                    Status::Skipped,
                    Verdict::Expected,
                    "no v2",
                ),
            ],
        }
    }
}
