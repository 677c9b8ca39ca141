//! The runtime under test as a program: which one, how it is called, what it answered.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::{process, without};

/// No command of a runtime takes longer than this; a hang is a failure.
pub const LIMIT: Duration = Duration::from_secs(60);

static PATH: OnceLock<PathBuf> = OnceLock::new();

/// Makes a knarr the runtime under test in which any step can be made to fail, and builds it:
/// `KNARR_FAULTS_BIN` names one that is built already. To be called before anything else.
///
/// # Panics
/// Where it cannot be built.
pub fn use_faults() {
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("KNARR_FAULTS_BIN") {
            return path.into();
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace.join("target"), PathBuf::from)
            .join("faults");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .current_dir(&workspace)
            .args(["build", "--locked", "--quiet", "-p", "knarr-runtime"])
            .args(["--bin", "knarr", "--features", "faults", "--target-dir"])
            .arg(&target)
            .status()
            .expect("cargo");
        assert!(built.success(), "knarr with faults cannot be built");
        target.join("debug/knarr")
    });
}

/// The runtime under test: `KNARR_BIN`, or the newest knarr that cargo built here.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn path() -> &'static Path {
    PATH.get_or_init(|| {
        let path = std::env::var_os("KNARR_BIN").map_or_else(built, |name| which(name.as_ref()));
        eprintln!("runtime under test: {}", path.display());
        path
    })
}

/// The newest knarr below target/.
fn built() -> PathBuf {
    newest_built("knarr").expect("no knarr below target/: run `make` first, or set KNARR_BIN")
}

/// The program of that name that cargo built last, below target/.
#[must_use]
pub fn newest_built(name: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let mut found: Vec<PathBuf> = Vec::new();
    for triple in ["x86_64-unknown-linux-musl", "x86_64-unknown-linux-gnu", "."] {
        for profile in ["runtime", "release", "debug"] {
            found.push(target.join(triple).join(profile).join(name));
        }
    }
    found
        .into_iter()
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path.canonicalize().unwrap_or(path))
}

/// A program that is built with the tests and lies beside them, wherever they were taken to.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn beside(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let dirs = test.ancestors().skip(1).take(2);
    dirs.map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("no program {name} beside the tests: cargo test -p knarr-integration builds it")
        })
}

/// Finds a program like execvp(3) does.
///
/// # Panics
/// Where it does not exist.
#[must_use]
pub fn which(name: &Path) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("{}: no such program", name.display()))
}

/// Finds a program like execvp(3) does.
#[must_use]
pub fn find(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.canonicalize().ok();
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// The name of the runtime under test, for what only one of them does.
#[must_use]
pub fn name() -> String {
    path()
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The version the configurations carry. crun 1.8 refuses 1.3.0 outright, so it gets 1.0.2.
#[must_use]
pub fn oci_version() -> &'static str {
    if name() == "crun" { "1.0.2" } else { "1.3.0" }
}

/// Says on stderr, and in the file that `KNARR_SKIPS` names, that a test did not run.
pub fn note_skip(module: &str, reason: &str) {
    let thread = std::thread::current();
    let line = format!(
        "skipped: {module}::{}: {reason}\n",
        thread.name().unwrap_or("?")
    );
    eprint!("{line}");
    if let Some(file) = std::env::var_os("KNARR_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(file);
        if let Ok(mut file) = file {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// What one call of the runtime gave.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// The exit code, 128 + signal where it was killed.
    pub code: i32,
    /// What stood on standard output when the runtime ended.
    pub stdout: String,
    /// What stood on standard error when the runtime ended.
    pub stderr: String,
    out: PathBuf,
}

impl Outcome {
    /// Insists on success.
    ///
    /// # Panics
    /// Where the runtime failed.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "should succeed: {self:#?}");
        self
    }

    /// Insists on that exit code.
    ///
    /// # Panics
    /// Where it is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == code, "should exit with {code}: {self:#?}");
        self
    }

    /// Insists on failure with code 1 and one readable error on stderr.
    ///
    /// # Panics
    /// Where the runtime succeeded, crashed or said nothing.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(self.code == 1, "should fail with code 1: {self:#?}");
        assert!(
            !self.stderr.trim().is_empty(),
            "failed in silence: {self:#?}"
        );
        assert!(
            !self.stderr.contains("panicked at"),
            "crashed instead of failing: {self:#?}"
        );
        self
    }

    /// Insists that it failed and that the message has `needle`, in whatever case.
    ///
    /// # Panics
    /// Where it is otherwise.
    #[track_caller]
    pub fn fails_with(self, needle: &str) -> Self {
        let this = self.fails();
        assert!(
            this.stderr.to_lowercase().contains(&needle.to_lowercase()),
            "the message should have {needle:?}: {this:#?}"
        );
        this
    }

    /// The lines of standard output, without what ends them: a terminal adds a carriage return.
    #[must_use]
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().map(str::trim_end).collect()
    }

    /// Standard output without the white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// Where it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:#?}"))
    }

    /// Standard output as it stands now: a container goes on writing after create and start.
    ///
    /// # Panics
    /// Where the file cannot be read.
    #[must_use]
    pub fn stdout_now(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap()).into_owned()
    }
}

/// A call that still runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Starts a command with its output in files below `dir`: a pipe would stay open as long as the container.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(mut command: Command, dir: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (dir.join(format!("{n}.out")), dir.join(format!("{n}.err")));
        command
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap());
        let text = format!("{command:?}");
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        Self {
            child,
            command: text,
            out,
            err,
        }
    }

    /// The runtime's own pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What stands on standard output now.
    #[must_use]
    pub fn stdout_now(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Kills the runtime itself, with nothing else.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for the end, bounded by [`LIMIT`].
    ///
    /// # Panics
    /// Where it hangs: it is killed, and the test fails.
    #[track_caller]
    pub fn wait(self) -> Outcome {
        self.wait_within(LIMIT)
    }

    /// Waits for the end, bounded by `limit`.
    ///
    /// # Panics
    /// Where it hangs: it is killed, and the test fails.
    #[track_caller]
    pub fn wait_within(self, limit: Duration) -> Outcome {
        let command = self.command.clone();
        self.wait_at_most(limit)
            .unwrap_or_else(|| panic!("still running after {limit:?}: {command}"))
    }

    /// Waits for the end; what has not ended then is killed, and there is no outcome.
    ///
    /// # Panics
    /// Where the kernel cannot wait.
    pub fn wait_at_most(mut self, limit: Duration) -> Option<Outcome> {
        if !process::ended_within(self.child.id(), limit) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return None;
        }
        let status = self.child.wait().unwrap();
        // A runtime under attack may have removed even these.
        let read =
            |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        Some(Outcome {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: read(&self.out),
            stderr: read(&self.err),
            command: self.command,
            out: self.out,
        })
    }
}

/// A runtime as a command without arguments, and without the system calls that `KNARR_WITHOUT`
/// names.
#[must_use]
pub fn call(program: &Path) -> Command {
    match std::env::var(without::VARIABLE) {
        Ok(calls) if !calls.is_empty() => {
            let mut command = command(&without::launcher());
            command.args(["without", &calls]).arg(program);
            command
        }
        _ => command(program),
    }
}

/// A command of `program` with no input and nothing of the caller's environment that runtimes read.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for name in [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "XDG_RUNTIME_DIR",
    ] {
        command.env_remove(name);
    }
    command
}
