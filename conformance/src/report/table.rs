//! A table for people.

use crate::model::{Counts, Origin, Report, Status, Verdict};
use std::fmt::Write as _;

/// The table; `verbose` shows each assertion, otherwise those that failed.
pub fn render(report: &Report, verbose: bool) -> String {
    let mut out = String::new();
    let width = report.tests.iter().map(|t| t.id.len()).max().unwrap_or(0);
    for test in &report.tests {
        let held = test
            .assertions
            .iter()
            .filter(|a| a.status == Status::Passed)
            .count();
        let _ = writeln!(
            out,
            "{:width$}  {:<12} {:>3}/{:<3} {:>6.2} s  {}",
            test.id,
            super::word(test),
            held,
            test.assertions.len(),
            std::time::Duration::from_millis(test.millis).as_secs_f64(),
            test.reason.lines().next().unwrap_or(""),
        );
        let shown = test.assertions.iter().filter(|a| {
            verbose
                || (a.status == Status::Failed
                    && (a.known.is_none() || test.verdict != Verdict::Expected))
        });
        for a in shown {
            let note = match &a.known {
                Some(id) => format!(" [suite fault: {id}]"),
                None => String::new(),
            };
            let _ = writeln!(out, "    {:<7} {}{note}", a.status.word(), a.description);
            if a.status == Status::Failed {
                if let Some(reference) = &a.reference {
                    let _ = writeln!(out, "            {reference}");
                }
                for (key, value) in &a.diagnostics {
                    let _ = writeln!(out, "            {key}: {}", clip(value));
                }
            }
        }
        if verbose && !test.leftovers.is_empty() {
            let l = &test.leftovers;
            for (what, list) in [
                ("process", &l.processes),
                ("mount", &l.mounts),
                ("cgroup", &l.cgroups),
                ("file", &l.state),
            ] {
                list.iter().for_each(|item| {
                    let _ = writeln!(out, "    left behind: {what} {item}");
                });
            }
        }
    }
    out.push('\n');
    out.push_str(&summary(report));
    out
}

fn clip(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}...", line.get(..at).unwrap_or("")),
        None => line,
    }
}

/// The lines at the end.
pub fn summary(report: &Report) -> String {
    let mut out = String::new();
    let r = &report.runtime;
    let _ = writeln!(out, "runtime  {} ({})", r.path, r.version);
    if let Some(version) = &r.lowered {
        let _ = writeln!(
            out,
            "         handed ociVersion {version} instead of {}",
            crate::fetch::OCI_VERSION
        );
    }
    for note in &r.notes {
        let _ = writeln!(out, "         {note}");
    }
    let h = &report.host;
    let _ = writeln!(
        out,
        "host     Linux {} {}, cgroups {}",
        h.kernel, h.arch, h.cgroups
    );
    let _ = writeln!(out, "suite    {} {}", crate::fetch::MODULE, report.suite);
    for (name, origin) in [("suite", Origin::Suite), ("own", Origin::Own)] {
        let line = |c: Counts| {
            format!(
                "{} passed, {} failed, {} failed by the suite's fault, {} skipped",
                c.passed, c.failed, c.explained, c.skipped
            )
        };
        let tests = report.count_tests(origin);
        if tests != Counts::default() {
            let _ = writeln!(out, "{name:<8} tests: {}", line(tests));
            let _ = writeln!(
                out,
                "         assertions: {}",
                line(report.count_assertions(origin))
            );
        }
    }
    let seconds = std::time::Duration::from_millis(report.millis).as_secs_f64();
    let unexpected: Vec<&str> = report.unexpected().map(|t| t.id.as_str()).collect();
    let _ = match unexpected.len() {
        0 => writeln!(out, "result   as expected, {seconds:.1} s"),
        n => writeln!(
            out,
            "result   {n} unexpected: {}; {seconds:.1} s",
            unexpected.join(" ")
        ),
    };
    out
}

#[cfg(test)]
mod tests {
    use crate::report::sample;

    #[test]
    fn failures_are_shown_and_explained_ones_named() {
        let text = super::render(&sample::report(), false);
        assert!(text.contains("suite fault"), "{text}");
        assert!(text.contains("failed  says <so>"), "{text}");
        assert!(text.contains("1 unexpected: own/c"), "{text}");
        assert!(text.contains("no v2"), "{text}");
    }
}
