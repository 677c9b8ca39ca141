//! One HTML page without scripts or other files.

use super::{escape, word};
use crate::model::{Counts, Origin, Report, Status, TestResult, Verdict};
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;\
color:#222;background:#fff}table{border-collapse:collapse;width:100%}td,th{padding:.25em .6em;text-align:left;\
vertical-align:top;border-bottom:1px solid #ddd}.passed{color:#176b2c}.failed,.unexpected{color:#b00020;\
font-weight:600}.skipped{color:#666}.fault{color:#8a5a00}pre{white-space:pre-wrap;background:#f5f5f5;padding:.6em;\
overflow-x:auto}summary{cursor:pointer}code{font-size:.95em}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}td,th{border-color:#333}pre{background:#222}\
.passed{color:#6fcf8a}.failed,.unexpected{color:#ff7a7a}.fault{color:#e0b060}.skipped{color:#999}a{color:#8ab4ff}}";

/// The page.
pub fn render(report: &Report) -> String {
    let r = &report.runtime;
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>OCI conformance of {0}</title><style>{STYLE}</style></head><body>\n<h1>OCI conformance of {0}</h1>\n",
        escape(&r.name)
    );
    let _ = writeln!(
        out,
        "<p><code>{}</code>, {}.{} Linux {} {}, cgroups {}. Suite {} {}.</p>",
        escape(&r.path),
        escape(&r.version),
        r.lowered.as_ref().map_or(String::new(), |v| format!(
            " It was handed ociVersion {} instead of {}.",
            escape(v),
            crate::fetch::OCI_VERSION
        )),
        escape(&report.host.kernel),
        escape(&report.host.arch),
        escape(&report.host.cgroups),
        crate::fetch::MODULE,
        escape(&report.suite),
    );
    out.push_str("<table><tr><th></th><th>passed</th><th>failed</th><th>suite's fault</th><th>skipped</th></tr>\n");
    for (name, origin) in [("suite", Origin::Suite), ("own", Origin::Own)] {
        row(
            &mut out,
            &format!("{name}: tests"),
            report.count_tests(origin),
        );
        row(
            &mut out,
            &format!("{name}: assertions"),
            report.count_assertions(origin),
        );
    }
    out.push_str("</table>\n");
    let bad: Vec<&TestResult> = report.unexpected().collect();
    if bad.is_empty() {
        out.push_str("<p class=\"passed\">Every result is as expected.</p>\n");
    } else {
        out.push_str("<h2>Unexpected</h2>\n");
        table(&mut out, bad.into_iter());
    }
    out.push_str("<h2>All tests</h2>\n");
    table(&mut out, report.tests.iter());
    out.push_str("</body></html>\n");
    out
}

fn row(out: &mut String, name: &str, c: Counts) {
    let _ = writeln!(
        out,
        "<tr><td>{name}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        c.passed, c.failed, c.explained, c.skipped
    );
}

fn table<'a>(out: &mut String, tests: impl Iterator<Item = &'a TestResult>) {
    out.push_str("<table><tr><th>test</th><th>result</th><th>what it says</th></tr>\n");
    for test in tests {
        let class = match (test.verdict, test.status) {
            (Verdict::UnexpectedFailure | Verdict::UnexpectedPass, _) => "unexpected",
            (_, Status::Passed) => "passed",
            (_, Status::Skipped) => "skipped",
            _ => "fault",
        };
        let _ = write!(
            out,
            "<tr><td><code>{}</code></td><td class=\"{class}\">{}</td><td>{}",
            escape(&test.id),
            word(test),
            escape(&test.title)
        );
        if !test.reason.is_empty() {
            let _ = write!(out, "<br>{}", escape(&test.reason));
        }
        if !test.assertions.is_empty() {
            let held = test
                .assertions
                .iter()
                .filter(|a| a.status == Status::Passed)
                .count();
            let _ = write!(
                out,
                "<details><summary>{held} of {} hold</summary><ul>",
                test.assertions.len()
            );
            for a in &test.assertions {
                let class = if a.known.is_some() {
                    "fault"
                } else {
                    a.status.word()
                };
                let _ = write!(
                    out,
                    "<li class=\"{class}\">{}: {}",
                    a.status.word(),
                    escape(&a.description)
                );
                if let Some(reference) = &a.reference {
                    let _ = write!(out, " (<a href=\"{0}\">clause</a>)", escape(reference));
                }
                if a.status != Status::Passed {
                    for (key, value) in &a.diagnostics {
                        let _ = write!(out, "<pre>{}: {}</pre>", escape(key), escape(value));
                    }
                }
                out.push_str("</li>");
            }
            out.push_str("</ul></details>");
        }
        let l = &test.leftovers;
        if !l.is_empty() {
            let all: Vec<&str> = [&l.processes, &l.mounts, &l.cgroups, &l.state]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            let _ = write!(
                out,
                "<details><summary>left behind: {}</summary><pre>{}</pre></details>",
                all.len(),
                escape(&all.join("\n"))
            );
        }
        if !test.output.trim().is_empty() && test.status != Status::Passed {
            let _ = write!(
                out,
                "<details><summary>output</summary><pre>{}</pre></details>",
                escape(&test.output)
            );
        }
        out.push_str("</td></tr>\n");
    }
    out.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use crate::report::sample;

    #[test]
    fn page_is_whole_and_escaped() {
        let page = super::render(&sample::report());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(page.contains("says &lt;so&gt;") && !page.contains("<so>"));
        assert!(page.contains("href=\"https://example.org/config.md#mounts\""));
        assert!(page.contains("<h2>Unexpected</h2>"));
    }
}
