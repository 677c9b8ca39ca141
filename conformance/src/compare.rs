//! The matrix: tests down, runtimes across.

use crate::model::{Origin, Report, Status, TestResult, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The matrix as text. `differences` leaves out rows on which all agree.
pub fn render(reports: &[Report], differences: bool) -> String {
    let mut rows: BTreeMap<(Origin, &str), Vec<Option<&TestResult>>> = BTreeMap::new();
    for (i, report) in reports.iter().enumerate() {
        for test in &report.tests {
            let row = rows
                .entry((test.origin, test.id.as_str()))
                .or_insert_with(|| vec![None; reports.len()]);
            if let Some(slot) = row.get_mut(i) {
                *slot = Some(test);
            }
        }
    }
    let names: Vec<String> = reports.iter().map(|r| r.runtime.name.clone()).collect();
    let first = rows
        .keys()
        .map(|(_, id)| id.len())
        .max()
        .unwrap_or(4)
        .max(10);
    let widths: Vec<usize> = names.iter().map(|n| n.len().max(12)).collect();
    let mut out = format!("{:first$}", "");
    for (name, width) in names.iter().zip(&widths) {
        let _ = write!(out, "  {name:width$}");
    }
    out.push('\n');
    for ((_, id), row) in &rows {
        let cells: Vec<String> = row
            .iter()
            .map(|t| t.map_or_else(|| "-".to_owned(), cell))
            .collect();
        if differences && cells.windows(2).all(|w| w.first() == w.last()) {
            continue;
        }
        let _ = write!(out, "{id:first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(out, "  {cell:width$}");
        }
        out.push('\n');
    }
    out.push('\n');
    for (name, origin) in [("suite", Origin::Suite), ("own", Origin::Own)] {
        for what in ["passed", "failed", "suite fault", "skipped"] {
            let _ = write!(out, "{:first$}", format!("{name} tests {what}"));
            for (report, width) in reports.iter().zip(&widths) {
                let c = report.count_tests(origin);
                let n = match what {
                    "passed" => c.passed,
                    "failed" => c.failed,
                    "suite fault" => c.explained,
                    _ => c.skipped,
                };
                let _ = write!(out, "  {n:<width$}");
            }
            out.push('\n');
        }
    }
    for r in reports {
        let _ = write!(
            out,
            "\n{:8} {} ({})",
            r.runtime.name, r.runtime.path, r.runtime.version
        );
        if let Some(version) = &r.runtime.lowered {
            let _ = write!(
                out,
                "\n         refuses ociVersion {}: it was handed {version} instead",
                crate::fetch::OCI_VERSION
            );
        }
        for note in &r.runtime.notes {
            let _ = write!(out, "\n         {note}");
        }
    }
    out.push('\n');
    out
}

/// Short, and with the number of assertions where some failed.
fn cell(test: &TestResult) -> String {
    let bad = test
        .assertions
        .iter()
        .filter(|a| a.status == Status::Failed && a.known.is_none())
        .count();
    match (test.verdict, test.status) {
        (Verdict::Expected, s) if s.is_bad() => "suite fault".to_owned(),
        (_, Status::Failed) if bad > 0 => format!("FAILED {bad}/{}", test.assertions.len()),
        (_, Status::Failed) => "FAILED".to_owned(),
        (_, s) => s.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::report::sample;

    #[test]
    fn differences_only() {
        let (a, mut b) = (sample::report(), sample::report());
        b.tests[0].status = crate::model::Status::Skipped;
        b.runtime.lowered = Some("1.0.2".to_owned());
        let text = super::render(&[a, b], true);
        assert!(
            text.contains("suite/a") && !text.contains("own/c"),
            "{text}"
        );
        assert!(text.contains("was handed 1.0.2"), "{text}");
    }
}
