//! The report as data: what ran, what each assertion said, what was expected.
//! Every output format is written from these types and from nothing else.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a test comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The opencontainers/runtime-tools validation suite.
    Suite,
    /// This program.
    Own,
}

/// How a test or an assertion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every assertion held.
    Passed,
    /// An assertion did not hold, or the test program gave up.
    Failed,
    /// Could not be tried here; the reason is beside it.
    Skipped,
    /// The program ended well without a single assertion: it says nothing.
    Empty,
    /// The time bound was reached.
    Timeout,
}

impl Status {
    /// The word printed in every format.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Empty => "empty",
            Self::Timeout => "timeout",
        }
    }

    /// Whether this counts against the runtime unless it is explained.
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Timeout | Self::Empty)
    }
}

/// One line of a test: what was claimed and whether it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertion {
    /// Number within the test, as printed.
    pub number: usize,
    /// Outcome (never `Timeout`).
    pub status: Status,
    /// The claim.
    pub description: String,
    /// Link to the clause of the specification, if the test names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Why it was skipped, or the comment lines that went with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The other diagnostics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub diagnostics: BTreeMap<String, String>,
    /// The entry of the list of suite faults that explains a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
}

/// What a test left behind in its surroundings (all of it removed since).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftovers {
    /// Command lines of processes that were still alive.
    pub processes: Vec<String>,
    /// Mount points that were not there at the beginning.
    pub mounts: Vec<String>,
    /// Cgroups below the test's own.
    pub cgroups: Vec<String>,
    /// Files and directories in /run that were not there at the beginning.
    pub state: Vec<String>,
}

impl Leftovers {
    /// Whether nothing was left.
    pub const fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.mounts.is_empty()
            && self.cgroups.is_empty()
            && self.state.is_empty()
    }
}

/// Whether an outcome is the one to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Passed or skipped, or failed as the list of suite faults says.
    Expected,
    /// Failed, and nothing explains it.
    UnexpectedFailure,
    /// Passed although the list says that the suite is wrong here.
    UnexpectedPass,
}

/// One test with its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestResult {
    /// `suite/NAME` or `own/AREA.NAME`.
    pub id: String,
    /// Where the test comes from.
    pub origin: Origin,
    /// One line on what is tested.
    pub title: String,
    /// Outcome.
    pub status: Status,
    /// Expected or not.
    pub verdict: Verdict,
    /// Why it was skipped, failed as a whole, or is expected to fail.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Wall time.
    pub millis: u64,
    /// The assertions in order.
    pub assertions: Vec<Assertion>,
    /// What the program wrote that is no TAP, and its standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// What was left behind.
    #[serde(default, skip_serializing_if = "Leftovers::is_empty")]
    pub leftovers: Leftovers,
    /// Entries of the list of suite faults that were used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
}

/// The runtime under test.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RuntimeInfo {
    /// Name for tables: the file name.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// First line of `--version`.
    pub version: String,
    /// What was adapted so that it runs here at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The ociVersion handed to it, when it is not the suite's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lowered: Option<String>,
}

/// The machine the tests ran on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HostInfo {
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture.
    pub arch: String,
    /// `v1`, `v2`, `hybrid` or `none`.
    pub cgroups: String,
}

/// All results of one runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Version of this program.
    pub tool: String,
    /// Module version of the suite.
    pub suite: String,
    /// Version of the list of suite faults.
    pub known_list: u32,
    /// The runtime under test.
    pub runtime: RuntimeInfo,
    /// The machine.
    pub host: HostInfo,
    /// Wall time of the whole run.
    pub millis: u64,
    /// Results in the order of their ids.
    pub tests: Vec<TestResult>,
}

/// Numbers of tests and assertions by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: usize,
    /// Failed or timed out, and nothing explains it.
    pub failed: usize,
    /// Failed because the suite is wrong.
    pub explained: usize,
    /// Skipped.
    pub skipped: usize,
}

impl Report {
    /// Tests of one origin by outcome.
    pub fn count_tests(&self, origin: Origin) -> Counts {
        let mut c = Counts::default();
        for t in self.tests.iter().filter(|t| t.origin == origin) {
            match t.status {
                Status::Passed => c.passed += 1,
                Status::Skipped => c.skipped += 1,
                _ if t.verdict == Verdict::Expected => c.explained += 1,
                _ => c.failed += 1,
            }
        }
        c
    }

    /// Assertions of one origin by outcome.
    pub fn count_assertions(&self, origin: Origin) -> Counts {
        let mut c = Counts::default();
        let tests = self.tests.iter().filter(|t| t.origin == origin);
        for a in tests.flat_map(|t| &t.assertions) {
            match a.status {
                Status::Passed => c.passed += 1,
                Status::Skipped => c.skipped += 1,
                _ if a.known.is_some() => c.explained += 1,
                _ => c.failed += 1,
            }
        }
        c
    }

    /// Tests whose outcome nobody expects.
    pub fn unexpected(&self) -> impl Iterator<Item = &TestResult> {
        self.tests.iter().filter(|t| t.verdict != Verdict::Expected)
    }
}
