//! TAP version 13: one line a test, its assertions as diagnostics.

use crate::model::{Report, Status, Verdict};
use crate::tap::one_line;
use std::fmt::Write as _;

/// The report as TAP. A failure by the suite's fault is a TODO, as TAP knows it.
pub fn render(report: &Report) -> String {
    let mut out = format!("TAP version 13\n1..{}\n", report.tests.len());
    for (i, test) in report.tests.iter().enumerate() {
        let ok = if test.status.is_bad() { "not ok" } else { "ok" };
        let directive = match (test.status, test.verdict) {
            (Status::Skipped, _) => format!(" # SKIP {}", one_line(&test.reason)),
            (s, Verdict::Expected) if s.is_bad() => {
                format!(" # TODO suite fault: {}", one_line(&test.reason))
            }
            _ => String::new(),
        };
        let _ = writeln!(out, "{ok} {} - {}{directive}", i + 1, one_line(&test.id));
        let _ = writeln!(out, "  ---");
        let value = serde_json::json!({
            "title": test.title,
            "status": test.status,
            "verdict": test.verdict,
            "reason": test.reason,
            "assertions": test.assertions,
        });
        if let Some(object) = value.as_object() {
            for (key, value) in object {
                let _ = writeln!(out, "  {key}: {value}");
            }
        }
        let _ = writeln!(out, "  ...");
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::model::Status;
    use crate::report::sample;

    #[test]
    fn reads_back() {
        let stream = crate::tap::parse(&super::render(&sample::report()));
        let status: Vec<Status> = stream.assertions.iter().map(|a| a.status).collect();
        assert_eq!(
            status,
            [
                Status::Passed,
                Status::Skipped,
                Status::Failed,
                Status::Skipped
            ]
        );
        assert_eq!(stream.planned, Some(4));
    }
}
