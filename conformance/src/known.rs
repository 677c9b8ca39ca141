//! The versioned list of tests where the suite itself is wrong, and the rule
//! that turns outcomes into verdicts. The list is data: `known.json`.

use crate::model::{Origin, Status, TestResult, Verdict};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;

/// The list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Raised with every change.
    pub version: u32,
    /// The suite's module version that the list speaks of.
    pub suite: String,
    /// One fault each.
    pub entries: Vec<Entry>,
}

/// One fault of the suite.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Short name, used in reports.
    pub id: String,
    /// Names of the suite's tests concerned.
    pub tests: Vec<String>,
    /// Parts of the descriptions of the assertions that are wrong.
    #[serde(default)]
    pub assertions: Vec<String>,
    /// Parts of what the test says when it gives up, or complains in other ways
    /// than by an assertion, and is wrong to do so.
    #[serde(default)]
    pub complaints: Vec<String>,
    /// If not empty: the failure must mention one of these (in any case), or it
    /// has another cause than the suite.
    #[serde(default)]
    pub mentions: Vec<String>,
    /// Whether the test ends well without an assertion.
    #[serde(default)]
    pub empty: bool,
    /// Where the fault shows.
    #[serde(default)]
    pub when: When,
    /// Whether a pass means nothing: the outcome depends on timing, or on what
    /// the specification lets runtimes choose.
    #[serde(default)]
    pub flaky: bool,
    /// What the suite does wrong.
    pub why: String,
    /// File and heading of the specification.
    pub clause: String,
    /// Its words.
    pub quote: String,
    /// The own test that contradicts the suite.
    pub check: String,
    /// Runtimes seen to fail there too.
    pub peers: Vec<String>,
    /// Own tests that do what the suite meant to do.
    #[serde(default)]
    pub covered_by: Vec<String>,
}

/// Conditions of the host; all must hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// cgroup layouts, empty for any.
    #[serde(default)]
    pub cgroups: Vec<String>,
    /// Paths that do not exist.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Paths that exist.
    #[serde(default)]
    pub present: Vec<String>,
    /// Capabilities by number that the caller cannot hand on.
    #[serde(default)]
    pub lacks_capability: Vec<u32>,
}

impl When {
    fn holds(&self, cgroups: &str) -> bool {
        (self.cgroups.is_empty() || self.cgroups.iter().any(|c| c == cgroups))
            && self.missing.iter().all(|p| !Path::new(p).exists())
            && self.present.iter().all(|p| Path::new(p).exists())
            && self
                .lacks_capability
                .iter()
                .all(|n| bounding_set() >> n & 1 == 0)
    }
}

impl Entry {
    fn mentioned(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        self.mentions.is_empty()
            || self
                .mentions
                .iter()
                .any(|m| text.contains(&m.to_ascii_lowercase()))
    }
}

fn bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

impl List {
    /// The list that is part of this program.
    pub fn embedded() -> Result<Self> {
        serde_json::from_str(include_str!("known.json")).context("embedded known.json")
    }

    /// Entries that concern the suite's test `name` on a host with this layout.
    pub fn for_test<'a>(
        &'a self,
        name: &'a str,
        cgroups: &'a str,
    ) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .iter()
            .filter(move |e| e.tests.iter().any(|t| t == name) && e.when.holds(cgroups))
    }

    /// Sets `known`, `verdict` and `reason` of a finished test.
    pub fn judge(&self, test: &mut TestResult, cgroups: &str) {
        let name = test.id.strip_prefix("suite/").unwrap_or("").to_owned();
        let entries: Vec<&Entry> = match test.origin {
            Origin::Suite => self.for_test(&name, cgroups).collect(),
            Origin::Own => Vec::new(),
        };
        let mut used: Vec<&Entry> = Vec::new();
        let mut explained = true;
        let mut any_failed = false;
        for assertion in test.assertions.iter_mut().filter(|a| a.status.is_bad()) {
            any_failed = true;
            let comment = Some(assertion.comment.as_str()).filter(|text| !text.is_empty());
            let diagnostics = assertion.diagnostics.values().map(String::as_str);
            let own: Vec<&str> = diagnostics.chain(comment).collect();
            let said = if own.is_empty() {
                test.output.clone()
            } else {
                own.join("\n")
            };
            let entry = entries.iter().find(|e| {
                let wrong = |p: &String| assertion.description.contains(p.as_str());
                e.assertions.iter().any(wrong) && e.mentioned(&said)
            });
            match entry {
                Some(entry) => {
                    assertion.known = Some(entry.id.clone());
                    used.push(entry);
                }
                None => explained = false,
            }
        }
        // A program that gives up after a failed assertion says nothing new.
        let whole = test.status.is_bad() && (!any_failed || test.status == Status::Timeout);
        if whole {
            let empty = test.status == Status::Empty;
            let text = format!("{}\n{}", test.reason, test.output);
            let said = |e: &&&Entry| {
                e.complaints.iter().any(|c| text.contains(c.as_str())) && e.mentioned(&text)
            };
            match entries
                .iter()
                .find(|e| if empty { e.empty } else { said(e) })
            {
                Some(entry) => used.push(entry),
                None => explained = false,
            }
        }
        let idle = entries
            .iter()
            .any(|e| !e.flaky && !used.iter().any(|u| u.id == e.id));
        test.verdict = match (explained, idle) {
            (false, _) => Verdict::UnexpectedFailure,
            (true, true) if test.status != Status::Skipped => Verdict::UnexpectedPass,
            (true, _) => Verdict::Expected,
        };
        used.dedup_by(|a, b| a.id == b.id);
        test.known = used.iter().map(|e| e.id.clone()).collect();
        if test.status.is_bad() && explained {
            let why: Vec<&str> = used.iter().map(|e| e.why.as_str()).collect();
            test.reason = why.join(" ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Assertion, Leftovers};

    fn list(assertions: &[&str], empty: bool, flaky: bool) -> List {
        List {
            version: 1,
            suite: String::new(),
            entries: vec![Entry {
                id: "e".into(),
                tests: vec!["t".into()],
                assertions: assertions.iter().map(|a| (*a).to_owned()).collect(),
                complaints: Vec::new(),
                mentions: Vec::new(),
                empty,
                when: When::default(),
                flaky,
                why: "because".into(),
                clause: "x.md#y".into(),
                quote: String::new(),
                check: String::new(),
                peers: Vec::new(),
                covered_by: Vec::new(),
            }],
        }
    }

    fn test(status: Status, lines: &[(&str, Status)]) -> TestResult {
        TestResult {
            id: "suite/t".into(),
            origin: Origin::Suite,
            title: String::new(),
            status,
            verdict: Verdict::Expected,
            reason: String::new(),
            millis: 0,
            assertions: lines
                .iter()
                .enumerate()
                .map(|(i, (d, s))| Assertion {
                    number: i + 1,
                    status: *s,
                    description: (*d).to_owned(),
                    reference: None,
                    comment: String::new(),
                    diagnostics: Default::default(),
                    known: None,
                })
                .collect(),
            output: String::new(),
            leftovers: Leftovers::default(),
            known: Vec::new(),
        }
    }

    #[test]
    fn explained_failure_is_expected() {
        let mut t = test(
            Status::Failed,
            &[("weight is set", Status::Failed), ("b", Status::Passed)],
        );
        list(&["weight"], false, false).judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::Expected);
        assert_eq!(t.assertions[0].known.as_deref(), Some("e"));
        assert_eq!(t.reason, "because");
    }

    #[test]
    fn another_failure_beside_it_is_not() {
        let mut t = test(
            Status::Failed,
            &[("weight", Status::Failed), ("b", Status::Failed)],
        );
        list(&["weight"], false, false).judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::UnexpectedFailure);
    }

    #[test]
    fn another_cause_is_not_the_suites_fault() {
        let mut l = list(&["weight"], false, false);
        l.entries[0].mentions = vec!["No such file".to_owned()];
        let mut t = test(Status::Failed, &[("weight", Status::Failed)]);
        t.output = "panicked".to_owned();
        l.judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::UnexpectedFailure);
        let mut t = test(Status::Failed, &[("weight", Status::Failed)]);
        t.output = "x: no such file".to_owned();
        l.judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::Expected);
    }

    #[test]
    fn a_listed_test_that_passes_is_reported() {
        let mut t = test(Status::Passed, &[("weight", Status::Passed)]);
        list(&["weight"], false, false).judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::UnexpectedPass);
        let mut t = test(Status::Passed, &[("weight", Status::Passed)]);
        list(&["weight"], false, true).judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::Expected);
    }

    #[test]
    fn empty_needs_an_entry_for_the_whole_test() {
        let mut t = test(Status::Empty, &[]);
        list(&["weight"], false, false).judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::UnexpectedFailure);
        let mut t = test(Status::Empty, &[]);
        list(&[], true, false).judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::Expected);
        // The same test complaining is another matter.
        let mut t = test(Status::Failed, &[]);
        list(&[], true, true).judge(&mut t, "v1");
        assert_eq!(t.verdict, Verdict::UnexpectedFailure);
    }

    #[test]
    fn conditions_of_the_host() {
        let when = When {
            cgroups: vec!["v2".into()],
            ..When::default()
        };
        assert!(when.holds("v2") && !when.holds("v1"));
        let when = When {
            missing: vec!["/proc/self".into()],
            ..When::default()
        };
        assert!(!when.holds("v1"));
    }

    #[test]
    fn the_embedded_list_is_sound() {
        let list = List::embedded().unwrap();
        assert_eq!(list.suite, crate::fetch::VERSION);
        let own = crate::own::cases();
        for e in &list.entries {
            assert!(
                !e.complaints.is_empty() || e.empty || !e.assertions.is_empty(),
                "{}: explains nothing",
                e.id
            );
            assert!(
                e.clause.contains(".md#") && !e.quote.is_empty() && !e.why.is_empty(),
                "{}",
                e.id
            );
            assert!(!e.peers.is_empty(), "{}: no peer", e.id);
            for id in e.covered_by.iter().chain([&e.check]) {
                assert!(
                    own.iter().any(|c| c.id == *id),
                    "{}: no own test {id}",
                    e.id
                );
            }
        }
    }
}
