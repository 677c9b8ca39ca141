//! Schedules the tests of one runtime: a sandbox each, several at once, and the
//! outcome turned into a result.

use crate::cgroup::{Layout, Place};
use crate::fetch::Suite;
use crate::known::List;
use crate::model::{HostInfo, Leftovers, Origin, Report, RuntimeInfo, Status, TestResult, Verdict};
use crate::sandbox::{self, End, Outcome, Plan};
use crate::{own, tap};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What to run and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Tests at once.
    pub jobs: usize,
    /// Time bound of one test.
    pub timeout: Duration,
    /// Parts of test ids; empty for all.
    pub select: Vec<String>,
    /// Parts of test ids to leave out.
    pub skip: Vec<String>,
    /// Only one origin.
    pub only: Option<Origin>,
    /// `auto`, a version, or `None` to keep the suite's.
    pub oci_version: Option<String>,
}

impl Options {
    /// Whether the options ask for the test `id`.
    pub fn wants(&self, origin: Origin, id: &str) -> bool {
        self.only.is_none_or(|o| o == origin)
            && (self.select.is_empty() || self.select.iter().any(|s| id.contains(s.as_str())))
            && !self.skip.iter().any(|s| id.contains(s.as_str()))
    }
}

struct Job {
    id: String,
    origin: Origin,
    title: String,
    argv: Vec<String>,
    cwd: PathBuf,
    /// Needs the host's whole realtime budget (cgroup v1).
    realtime: bool,
}

struct Surroundings<'a> {
    exe: PathBuf,
    layout: Layout,
    base: PathBuf,
    scratch: PathBuf,
    runtime: PathBuf,
    lowered: Option<String>,
    options: &'a Options,
    /// Controllers of the unified hierarchy reach the tests.
    controllers: bool,
    realtime: Mutex<()>,
    counter: AtomicUsize,
}

/// Runs everything the options ask for against one runtime.
pub fn run(
    runtime: &Path,
    suite: Option<&Suite>,
    options: &Options,
    progress: &(dyn Fn(&TestResult, usize, usize) + Sync),
) -> Result<Report> {
    if !rustix::process::geteuid().is_root() {
        bail!("the tests make namespaces, mounts and cgroups: run as root");
    }
    let start = Instant::now();
    let known = List::embedded()?;
    let layout = Layout::read()?;
    let mode = layout.mode();
    remove_stale(&layout);
    let name = format!("oci-conformance-{}", std::process::id());
    let scratch = std::env::temp_dir().join(&name);
    fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
    let _scratch = RemoveDir(scratch.clone());
    let _base = Place::make(&layout, Path::new(&name), true)?;
    let mut around = Surroundings {
        exe: std::env::current_exe().context("own path")?,
        layout,
        base: PathBuf::from(name),
        scratch,
        runtime: runtime.to_owned(),
        lowered: None,
        options,
        controllers: true,
        realtime: Mutex::new(()),
        counter: AtomicUsize::new(0),
    };
    let mut info = crate::runtime::info(runtime);
    negotiate(&mut around, &mut info)?;

    let jobs = jobs(suite, options, &around.exe);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(jobs.len()));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1).min(jobs.len()) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut result = one(&around, job).unwrap_or_else(|e| broken(job, &e));
                    known.judge(&mut result, mode);
                    let mut results = results.lock().unwrap_or_else(|p| p.into_inner());
                    results.push(result);
                    if let Some(last) = results.last() {
                        progress(last, results.len(), jobs.len());
                    }
                }
            });
        }
    });
    let mut tests = results.into_inner().unwrap_or_else(|p| p.into_inner());
    tests.sort_by(|a, b| (a.origin, &a.id).cmp(&(b.origin, &b.id)));
    Ok(Report {
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        suite: crate::fetch::VERSION.to_owned(),
        known_list: known.version,
        runtime: info,
        host: host(mode),
        millis: millis(start.elapsed()),
        tests,
    })
}

/// Removes what runs that were killed have left.
fn remove_stale(layout: &Layout) {
    const PREFIX: &str = "oci-conformance";
    crate::cgroup::remove_stale(layout, PREFIX);
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        if crate::cgroup::is_stale(&entry.file_name().to_string_lossy(), PREFIX) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn host(mode: &str) -> HostInfo {
    let uname = rustix::system::uname();
    HostInfo {
        kernel: uname.release().to_string_lossy().into_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        cgroups: mode.to_owned(),
    }
}

fn jobs(suite: Option<&Suite>, options: &Options, exe: &Path) -> Vec<Job> {
    let mut jobs = Vec::new();
    if let Some(suite) = suite {
        for name in &suite.tests {
            let program = suite.dir.join("tests").join(name);
            jobs.push(Job {
                id: format!("suite/{name}"),
                origin: Origin::Suite,
                title: crate::suite::title(name),
                argv: vec![program.display().to_string()],
                cwd: suite.dir.clone(),
                realtime: name.ends_with("_cpus"),
            });
        }
    }
    for case in own::cases() {
        jobs.push(Job {
            id: format!("own/{}", case.id),
            origin: Origin::Own,
            title: case.text.clone(),
            argv: vec![exe.display().to_string(), "own".to_owned(), case.id.clone()],
            cwd: PathBuf::from("/"),
            realtime: case.realtime,
        });
    }
    jobs.retain(|j| options.wants(j.origin, &j.id));
    // Those that wait for each other come first, or they make the tail.
    jobs.sort_by_key(|j| !j.realtime);
    jobs
}

/// Finds out whether the runtime takes the suite's ociVersion and lowers it if
/// that was asked for: 57 failures with one cause say less than one line.
fn negotiate(around: &mut Surroundings<'_>, info: &mut RuntimeInfo) -> Result<()> {
    let options = around.options;
    let probe = |around: &Surroundings<'_>| -> Result<Option<String>> {
        let job = Job {
            id: "preflight".to_owned(),
            origin: Origin::Own,
            title: String::new(),
            argv: vec![
                around.exe.display().to_string(),
                "own".to_owned(),
                own::PREFLIGHT.to_owned(),
            ],
            cwd: PathBuf::from("/"),
            realtime: false,
        };
        let result = one(around, &job)?;
        let refused = result
            .assertions
            .iter()
            .find(|a| a.status == Status::Failed);
        Ok(refused.map(|a| a.diagnostics.get("error").cloned().unwrap_or_default()))
    };
    let versions: &[Option<&str>] = match options.oci_version.as_deref() {
        None => &[None],
        Some("auto") => &[
            None,
            Some("1.2.1"),
            Some("1.1.0"),
            Some("1.0.2"),
            Some("1.0.0"),
        ],
        Some(version) => &[Some(version)],
    };
    // A runtime may not know controllers in the unified tree beside v1 ones.
    let hybrid = around.layout.mode() == "hybrid";
    let mut first = None;
    for version in versions {
        around.lowered = version.map(str::to_owned);
        for controllers in if hybrid { &[true, false][..] } else { &[true] } {
            around.controllers = *controllers;
            let Some(error) = probe(around)? else {
                info.lowered.clone_from(&around.lowered);
                if !controllers {
                    info.notes.push(
                        "refuses controllers in the unified hierarchy of a hybrid host: tests ran without them"
                            .to_owned(),
                    );
                }
                return Ok(());
            };
            first.get_or_insert(error);
        }
    }
    let error = first.unwrap_or_default();
    if options.oci_version.is_none() && error.to_ascii_lowercase().contains("version") {
        bail!(
            "{} refuses a configuration with ociVersion {}: {error}\n\
             Every test would fail for this one reason. With `--oci-version auto` (or a version) \
             a lower ociVersion is handed to it.",
            info.path,
            crate::fetch::OCI_VERSION
        );
    }
    // It fails for another reason: let the tests tell.
    around.lowered = options.oci_version.clone().filter(|v| v != "auto");
    info.lowered.clone_from(&around.lowered);
    around.controllers = true;
    info.notes
        .push(format!("cannot create a plain container here: {error}"));
    Ok(())
}

fn broken(job: &Job, error: &anyhow::Error) -> TestResult {
    result(job, Status::Failed, format!("{error:#}"))
}

fn result(job: &Job, status: Status, reason: String) -> TestResult {
    TestResult {
        id: job.id.clone(),
        origin: job.origin,
        title: job.title.clone(),
        status,
        verdict: Verdict::Expected,
        reason,
        millis: 0,
        assertions: Vec::new(),
        output: String::new(),
        leftovers: Leftovers::default(),
        known: Vec::new(),
    }
}

fn one(around: &Surroundings<'_>, job: &Job) -> Result<TestResult> {
    let number = around.counter.fetch_add(1, Ordering::Relaxed);
    let dir = around.scratch.join(number.to_string());
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let place = Place::make(
        &around.layout,
        &around.base.join(number.to_string()),
        around.controllers,
    )?;
    let _exclusive = job.realtime.then(|| {
        let guard = around.realtime.lock().unwrap_or_else(|p| p.into_inner());
        place.take_realtime(Duration::from_secs(60));
        guard
    });
    let plan = Plan {
        layout: around.layout.clone(),
        cgroups: place.dirs(),
        outcome: dir.join("outcome"),
        timeout: around.options.timeout,
        cwd: job.cwd.clone(),
        argv: job.argv.clone(),
        runtime: around.runtime.clone(),
        lowered: around.lowered.clone(),
        network: job.origin == Origin::Own,
        controllers: around.controllers,
    };
    let (out, err) = (dir.join("stdout"), dir.join("stderr"));
    let start = Instant::now();
    let mut child = sandbox::command(&around.exe, &plan)?
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(&err)?)
        .spawn()
        .context("start the sandbox")?;
    // The sandbox keeps the bound itself; this one is for a sandbox that hangs.
    let deadline = start + plan.timeout + Duration::from_secs(10);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let elapsed = start.elapsed();
    let outcome: Outcome = fs::read(&plan.outcome)
        .ok()
        .and_then(|b| serde_json::from_slice(&b).ok())
        .unwrap_or_default();
    let stdout = String::from_utf8_lossy(&fs::read(&out)?).into_owned();
    let stderr = String::from_utf8_lossy(&fs::read(&err)?).into_owned();
    let mut test = conclude(job, outcome, &stdout, &stderr);
    test.millis = millis(elapsed);
    let base = place.dirs();
    test.leftovers.cgroups = place
        .children()
        .into_iter()
        .filter_map(|c| {
            let (root, inner) = base
                .iter()
                .zip(&around.layout.hierarchies)
                .find_map(|(b, h)| Some((&h.mount_point, Path::new(&c).strip_prefix(b).ok()?)))?;
            (inner != Path::new("supervisor")).then(|| root.join(inner).display().to_string())
        })
        .collect();
    place.remove();
    fs::remove_dir_all(&dir)?;
    Ok(test)
}

/// Judges what a test printed together with how it ended.
fn conclude(job: &Job, outcome: Outcome, stdout: &str, stderr: &str) -> TestResult {
    let stream = tap::parse(stdout);
    let failed = stream.assertions.iter().any(|a| a.status == Status::Failed);
    let passed = stream.assertions.iter().any(|a| a.status == Status::Passed);
    let skipped = stream
        .assertions
        .iter()
        .find(|a| a.status == Status::Skipped);
    let complaint = || {
        let text = stderr.lines().chain(stream.rest.lines()).map(str::trim);
        let lines: Vec<&str> = text.filter(|l| !l.is_empty()).collect();
        // The suite ends with Go's words for a failed command; the command's own
        // come before.
        let telling = lines.iter().rev().find(|l| !l.starts_with("exit status"));
        telling
            .or(lines.last())
            .copied()
            .unwrap_or("no message")
            .to_owned()
    };
    let (status, reason) = match outcome.end {
        End::Timeout => (Status::Timeout, "the time bound was reached".to_owned()),
        End::Sandbox => (
            Status::Failed,
            format!("the sandbox failed: {}", complaint()),
        ),
        End::Signal(n) => (Status::Failed, format!("the test was killed by signal {n}")),
        End::Code(code) if code != 0 && !failed => (
            Status::Failed,
            format!("the test gave up (exit code {code}): {}", complaint()),
        ),
        End::Code(_) if failed => (Status::Failed, String::new()),
        End::Code(_) => match (&stream.bail_out, &stream.skip_all, passed, skipped) {
            (Some(why), ..) => (Status::Failed, format!("bailed out: {why}")),
            (_, Some(why), false, _) => (Status::Skipped, why.clone()),
            (.., true, _) => (Status::Passed, String::new()),
            _ if stream.orphans.contains_key("error") => (
                Status::Failed,
                stream.orphans.get("error").cloned().unwrap_or_default(),
            ),
            (.., false, Some(s)) => (Status::Skipped, s.comment.clone()),
            (.., false, None) => (Status::Empty, "the test asserted nothing".to_owned()),
        },
    };
    let mut test = result(job, status, reason);
    test.assertions = stream.assertions;
    test.output = stream.rest;
    test.output.push_str(stderr);
    test.leftovers = outcome.leftovers;
    test
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

struct RemoveDir(PathBuf);

impl Drop for RemoveDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            id: "suite/x".into(),
            origin: Origin::Suite,
            title: String::new(),
            argv: Vec::new(),
            cwd: PathBuf::new(),
            realtime: false,
        }
    }

    fn ended(end: End, stdout: &str, stderr: &str) -> TestResult {
        conclude(
            &job(),
            Outcome {
                end,
                leftovers: Leftovers::default(),
            },
            stdout,
            stderr,
        )
    }

    #[test]
    fn outcomes() {
        assert_eq!(ended(End::Code(0), "ok 1 - a\n", "").status, Status::Passed);
        assert_eq!(ended(End::Code(0), "", "").status, Status::Empty);
        assert_eq!(ended(End::Code(0), "1..0\n", "").status, Status::Empty);
        assert_eq!(
            ended(End::Code(0), "ok 1 # SKIP no\n", "").status,
            Status::Skipped
        );
        assert_eq!(
            ended(End::Code(0), "ok 1 - a\nnot ok 2 - b\n", "").status,
            Status::Failed
        );
        let gave_up = ended(End::Code(1), "ok 1 - a\n", "x\nno such file\n");
        assert_eq!(gave_up.status, Status::Failed);
        assert!(gave_up.reason.contains("no such file"));
        let silent = ended(
            End::Code(0),
            "TAP version 13\n  ---\n  error: 'too early'\n  ...\n1..0\n",
            "",
        );
        assert_eq!(
            (silent.status, silent.reason.as_str()),
            (Status::Failed, "too early")
        );
        assert_eq!(
            ended(End::Timeout, "ok 1 - a\n", "").status,
            Status::Timeout
        );
    }
}
