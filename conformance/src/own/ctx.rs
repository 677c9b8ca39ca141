//! What a test works with: the runtime's five operations, the container's
//! output, and assertions that print TAP.

use super::{Bundle, Case, SPEC};
use crate::tap::Writer;
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a container may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// A runtime operation that failed: exit code and what it said.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard error, or standard output if that is empty.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}: {}", self.code, self.message.trim())
    }
}

impl std::error::Error for Failure {}

/// A container that has run to its end.
#[derive(Debug, Default)]
pub struct Ended {
    /// Exit code of the program.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error (with the runtime's).
    pub stderr: String,
}

impl Ended {
    /// The result of the probe's operation number `n`.
    pub fn result(&self, n: usize) -> Result<Value> {
        let line = self.stdout.lines().filter(|l| l.starts_with('{')).nth(n);
        let line = line.with_context(|| {
            format!(
                "the probe did not report operation {n}: {:?} {:?} {:?} {}",
                self.code, self.signal, self.stdout, self.stderr
            )
        })?;
        let mut value: Value = serde_json::from_str(line)?;
        Ok(value["result"].take())
    }

    /// What a successful operation `n` gave.
    pub fn value(&self, n: usize) -> Result<Value> {
        let mut result = self.result(n)?;
        if result.get("ok").is_none() {
            bail!("operation {n} failed inside the container: {result}");
        }
        Ok(result["ok"].take())
    }

    /// Errno of a failed operation `n`; `None` if it succeeded.
    pub fn errno(&self, n: usize) -> Result<Option<i64>> {
        Ok(self.result(n)?.get("errno").and_then(Value::as_i64))
    }
}

/// The surroundings of one test.
#[derive(Debug)]
pub struct Ctx {
    /// The runtime, or the stand-in that lowers ociVersion.
    pub runtime: PathBuf,
    /// A private directory.
    pub work: PathBuf,
    tap: RefCell<Writer>,
    reference: String,
    level: &'static str,
    made: RefCell<Vec<String>>,
    counter: Cell<usize>,
}

impl Ctx {
    /// Prepares a directory and adopts orphans, so that the exit status of a
    /// container's process arrives here.
    pub fn new(case: &Case) -> Result<Self> {
        let runtime = std::env::var_os("RUNTIME")
            .context("RUNTIME is not set: own tests run in the sandbox")?;
        let work = std::env::temp_dir().join("own");
        fs::create_dir_all(&work)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self {
            runtime: runtime.into(),
            work,
            tap: RefCell::default(),
            reference: format!("{SPEC}/{}", case.clause),
            level: case.level.word(),
            made: RefCell::default(),
            counter: Cell::new(0),
        })
    }

    /// Assertions so far.
    pub fn count(&self) -> usize {
        self.tap.borrow().count()
    }

    /// Prints one assertion.
    pub fn ok(&self, holds: bool, what: &str) {
        self.note(what, holds, &[]);
    }

    /// Prints one assertion on two values; they are shown when they differ.
    pub fn eq<A: fmt::Debug + PartialEq<B>, B: fmt::Debug>(
        &self,
        actual: A,
        expected: B,
        what: &str,
    ) {
        let holds = actual == expected;
        let (a, e) = (format!("{actual:?}"), format!("{expected:?}"));
        let both = [("actual", a.as_str()), ("expected", e.as_str())];
        self.note(what, holds, if holds { &[] } else { &both });
    }

    /// Prints one assertion with diagnostics.
    pub fn note(&self, what: &str, holds: bool, diagnostics: &[(&str, &str)]) {
        let reference = self.reference.clone();
        let mut all = vec![("level", self.level), ("reference", reference.as_str())];
        all.extend_from_slice(diagnostics);
        self.tap.borrow_mut().assert(holds, what, &all);
    }

    /// Prints a skipped assertion.
    pub fn skipped(&self, what: &str, reason: &str) {
        self.tap.borrow_mut().skip(what, reason);
    }

    /// A new bundle.
    pub fn bundle(&self) -> Result<Bundle> {
        self.counter.set(self.counter.get() + 1);
        Bundle::make(&self.work.join(format!("bundle{}", self.counter.get())))
    }

    /// An id that no other container of this test has.
    pub fn id(&self) -> String {
        self.counter.set(self.counter.get() + 1);
        format!("own-{}", self.counter.get())
    }

    /// Runs the runtime with these arguments.
    pub fn call(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = Command::new(&self.runtime)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Failure {
                code: -1,
                message: e.to_string(),
            })?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let message = if stderr.trim().is_empty() {
            stdout
        } else {
            stderr
        };
        Err(Failure {
            code: output.status.code().unwrap_or(-1),
            message,
        })
    }

    /// `create`, with the container's output going to files in the bundle.
    pub fn create(&self, bundle: &Bundle, id: &str) -> Result<(), Failure> {
        self.create_with(bundle, id, &[])
    }

    /// `create` with more options.
    pub fn create_with(&self, bundle: &Bundle, id: &str, options: &[&str]) -> Result<(), Failure> {
        let io = |e: std::io::Error| Failure {
            code: -1,
            message: e.to_string(),
        };
        bundle.write().map_err(|e| Failure {
            code: -1,
            message: e.to_string(),
        })?;
        let (out, err) = (bundle.dir.join("stdout"), bundle.dir.join("stderr"));
        let status = Command::new(&self.runtime)
            .arg("create")
            .arg("--bundle")
            .arg(&bundle.dir)
            .args(options)
            .arg(id)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).map_err(io)?)
            .stderr(fs::File::create(&err).map_err(io)?)
            .status()
            .map_err(io)?;
        if status.success() {
            self.made.borrow_mut().push(id.to_owned());
            return Ok(());
        }
        let read = |p: &Path| fs::read_to_string(p).unwrap_or_default();
        let message = if read(&err).trim().is_empty() {
            read(&out)
        } else {
            read(&err)
        };
        Err(Failure {
            code: status.code().unwrap_or(-1),
            message,
        })
    }

    /// `start`.
    pub fn start(&self, id: &str) -> Result<(), Failure> {
        self.call(&["start", id]).map(drop)
    }

    /// `kill`.
    pub fn kill(&self, id: &str, signal: &str) -> Result<(), Failure> {
        self.call(&["kill", id, signal]).map(drop)
    }

    /// `delete`.
    pub fn delete(&self, id: &str) -> Result<(), Failure> {
        self.call(&["delete", id]).map(drop)
    }

    /// `state`, parsed.
    pub fn state(&self, id: &str) -> Result<Value, Failure> {
        let text = self.call(&["state", id])?;
        serde_json::from_str(&text).map_err(|e| Failure {
            code: 0,
            message: format!("state is no JSON: {e}: {text}"),
        })
    }

    /// The container's status; empty when there is none.
    pub fn status(&self, id: &str) -> String {
        self.state(id)
            .ok()
            .and_then(|s| s["status"].as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// The container's process as the test sees it.
    pub fn pid(&self, id: &str) -> Result<Pid> {
        let state = self.state(id)?;
        let pid = state["pid"]
            .as_i64()
            .with_context(|| format!("state without pid: {state}"))?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }

    /// Waits for the container's process and gives its exit code or signal.
    pub fn wait(&self, pid: Pid) -> Result<(Option<i32>, Option<i32>)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => return Ok((Some(code), None)),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok((None, Some(signal as i32))),
                Ok(_) => {}
                // Not ours: a runtime may keep the process as its own child.
                Err(_) if !Path::new(&format!("/proc/{pid}")).exists() => return Ok((None, None)),
                Err(_) => {}
            }
            if Instant::now() > deadline {
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
                bail!("the container did not end within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `condition` holds, for at most some seconds.
    pub fn until(&self, mut condition: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if condition() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        condition()
    }

    /// What the container has written so far.
    pub fn output(&self, bundle: &Bundle) -> (String, String) {
        let read = |name: &str| {
            let bytes = fs::read(bundle.dir.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        (read("stdout"), read("stderr"))
    }

    /// create, start, wait, delete. A failure of create or start is the error.
    pub fn run(&self, bundle: &Bundle) -> Result<Ended> {
        let id = self.id();
        self.create(bundle, &id)
            .map_err(|f| anyhow::anyhow!("create: {f}"))?;
        let pid = self.pid(&id)?;
        self.start(&id).map_err(|f| anyhow::anyhow!("start: {f}"))?;
        self.finish(bundle, &id, pid)
    }

    /// Waits for the end of a started container and deletes it.
    pub fn finish(&self, bundle: &Bundle, id: &str, pid: Pid) -> Result<Ended> {
        let (code, signal) = self.wait(pid)?;
        let (stdout, stderr) = self.output(bundle);
        self.until(|| self.status(id) == "stopped");
        self.delete(id)
            .map_err(|f| anyhow::anyhow!("delete: {f}"))?;
        self.made.borrow_mut().retain(|m| m != id);
        Ok(Ended {
            code,
            signal,
            stdout,
            stderr,
        })
    }

    /// Asserts that the configuration is refused, at create or at start, and
    /// that nothing is left of the attempt.
    pub fn refused(&self, bundle: &Bundle, what: &str) -> Result<()> {
        let id = self.id();
        match self.create(bundle, &id) {
            Err(failure) => {
                let message = failure.to_string();
                self.note(what, failure.code > 0, &[("error", &message)]);
                let left = self.state(&id).is_ok();
                self.ok(!left, "a refused create leaves no container");
            }
            Ok(()) => {
                let started = self.start(&id);
                let message = started
                    .as_ref()
                    .err()
                    .map_or_else(|| "accepted".to_owned(), ToString::to_string);
                self.note(what, started.is_err(), &[("error", &message)]);
            }
        }
        Ok(())
    }
}

impl Drop for Ctx {
    /// Lets the runtime remove what the test left; the sandbox kills the rest.
    fn drop(&mut self) {
        for id in self.made.take() {
            let _ = self.call(&["delete", "--force", &id]);
        }
    }
}
