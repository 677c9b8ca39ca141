//! JUnit XML: a suite for each test, a case for each assertion.

use super::escape;
use crate::model::{Report, Status, TestResult, Verdict};
use std::fmt::Write as _;

/// The report as JUnit XML.
pub fn render(report: &Report) -> String {
    let mut body = String::new();
    let (mut total, mut failures, mut skipped) = (0, 0, 0);
    for test in &report.tests {
        let cases = cases(test);
        let failed = cases
            .iter()
            .filter(|c| matches!(c.kind, Kind::Failed(_)))
            .count();
        let skips = cases
            .iter()
            .filter(|c| matches!(c.kind, Kind::Skipped(_)))
            .count();
        total += cases.len();
        failures += failed;
        skipped += skips;
        let _ = writeln!(
            body,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" skipped=\"{skips}\" time=\"{}\">",
            escape(&test.id),
            cases.len(),
            seconds(test.millis)
        );
        for case in &cases {
            let _ = write!(
                body,
                "    <testcase classname=\"{}\" name=\"{}\"",
                escape(&test.id.replace('/', ".")),
                escape(&case.name)
            );
            let _ = match &case.kind {
                Kind::Passed => writeln!(body, "/>"),
                Kind::Failed(text) => writeln!(
                    body,
                    "><failure message=\"{}\">{}</failure></testcase>",
                    escape(text.lines().next().unwrap_or("")),
                    escape(text)
                ),
                Kind::Skipped(text) => {
                    writeln!(body, "><skipped message=\"{}\"/></testcase>", escape(text))
                }
            };
        }
        if !test.output.is_empty() {
            let _ = writeln!(
                body,
                "    <system-out>{}</system-out>",
                escape(&test.output)
            );
        }
        let _ = writeln!(body, "  </testsuite>");
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"oci-conformance {}\" tests=\"{total}\" failures=\"{failures}\" skipped=\"{skipped}\" time=\"{}\">\n\
         {body}</testsuites>\n",
        escape(&report.runtime.name),
        seconds(report.millis)
    )
}

fn seconds(millis: u64) -> String {
    format!(
        "{:.3}",
        std::time::Duration::from_millis(millis).as_secs_f64()
    )
}

enum Kind {
    Passed,
    Failed(String),
    Skipped(String),
}

struct Case {
    name: String,
    kind: Kind,
}

fn cases(test: &TestResult) -> Vec<Case> {
    let mut cases: Vec<Case> = test
        .assertions
        .iter()
        .map(|a| {
            let mut text = a.reference.clone().unwrap_or_else(|| a.description.clone());
            for (key, value) in &a.diagnostics {
                let _ = write!(text, "\n{key}: {value}");
            }
            let kind = match (&a.known, a.status) {
                (Some(id), _) => Kind::Skipped(format!("suite fault: {id}")),
                (None, Status::Passed) => Kind::Passed,
                (None, Status::Skipped) => Kind::Skipped(a.comment.clone()),
                (None, _) => Kind::Failed(text),
            };
            Case {
                name: format!("{} {}", a.number, a.description),
                kind,
            }
        })
        .collect();
    // Failures of the test as a whole have no assertion to hang on.
    let shown = cases.iter().any(|c| matches!(c.kind, Kind::Failed(_)));
    let whole = match (test.verdict, test.status) {
        (Verdict::UnexpectedPass, _) => Some(Kind::Failed(
            "passed, but is listed as the suite's fault".to_owned(),
        )),
        (Verdict::UnexpectedFailure, _) if !shown => Some(Kind::Failed(test.reason.clone())),
        (Verdict::Expected, s) if s != Status::Passed => Some(Kind::Skipped(test.reason.clone())),
        _ => None,
    };
    if let Some(kind) = whole.filter(|k| matches!(k, Kind::Failed(_)) || cases.is_empty()) {
        cases.push(Case {
            name: "the test as a whole".to_owned(),
            kind,
        });
    }
    cases
}

#[cfg(test)]
mod tests {
    use crate::report::sample;

    #[test]
    fn counts_and_escapes() {
        let xml = super::render(&sample::report());
        assert!(
            xml.contains("tests=\"4\" failures=\"2\" skipped=\"1\""),
            "{xml}"
        );
        assert!(
            xml.contains("says &lt;so&gt;") && !xml.contains('\u{1}'),
            "{xml}"
        );
        assert!(xml.contains("]]&gt; out"), "{xml}");
    }
}
