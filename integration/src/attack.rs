//! What attacks on a runtime share: a canary on the host, somebody who exchanges paths meanwhile, a
//! copy of the runtime that may be overwritten, and the attacker's program inside a container.
//!
//! An attack ends in one of four ways: the test returns (held), [`fell!`](crate::fell),
//! [`unproven!`](crate::unproven) where it did not take place, or [`skip!`](crate::skip).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{Bundle, Outcome, Sandbox, runtime};

/// How the message of an attack that succeeded begins.
pub const FELL: &str = "fell: ";

/// How the message of an attack that did not take place begins.
pub const UNPROVEN: &str = "unproven: ";

/// No command that an attack makes hang may take longer.
#[must_use]
pub fn patience() -> Duration {
    crate::process::patient(Duration::from_secs(10))
}

/// How long a race is run: `ATTACK_SECONDS`, or 2 seconds.
#[must_use]
pub fn duration() -> Duration {
    let seconds = std::env::var("ATTACK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2.0);
    Duration::from_secs_f64(seconds)
}

/// Repeats `round` for the time of a race; tells how often that was.
pub fn race(mut round: impl FnMut(u32)) -> u32 {
    let end = Instant::now() + duration();
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        round(rounds);
        rounds += 1;
    }
    rounds
}

/// As [`race`], but goes on until `met` says that the attack took place, for a minute at most: on a
/// busy machine some things are seen late.
pub fn race_until(met: impl Fn() -> bool, mut round: impl FnMut(u32)) {
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds == 0
        || begin.elapsed() < duration()
        || begin.elapsed() < Duration::from_secs(60) && !met()
    {
        round(rounds);
        rounds += 1;
    }
}

/// Runs a command whose output goes into a pipe that is full, so that whoever writes there stays
/// as long as `stay` says; nobody reads then, and it gets an error.
///
/// # Panics
/// Where it does not end then.
pub fn hold(mut command: Command, stay: impl Fn() -> bool, how: &str) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    // Each try of an attacker to open the program for writing makes it busy for a moment, also one
    // that fails because the mount is read-only.
    let mut tries = 0;
    let mut child = loop {
        match command.spawn() {
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < 1000 =>
            {
                tries += 1;
            }
            result => break result.unwrap(),
        }
    };
    drop(command);
    let begin = Instant::now();
    while stay() && begin.elapsed() < Duration::from_millis(100) {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(reader);
    let ended = crate::process::ended_within(child.id(), patience());
    if !ended {
        let _ = child.kill();
    }
    let _ = child.wait();
    if !ended {
        crate::fell!("{how}: the runtime hangs");
    }
}

/// A directory of the host that no container may see or change.
#[derive(Debug)]
pub struct Canary {
    dir: PathBuf,
    token: String,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Makes one: with the files `secret` and `console`, and the directory `sub` with a file `secret`.
    ///
    /// # Panics
    /// Where files cannot be made.
    #[must_use]
    pub fn new(sb: &Sandbox) -> Self {
        let dir = sb.path("canary");
        let token = format!("token-of{}", sb.cgroup().replace('/', "-"));
        fs::create_dir_all(dir.join("sub")).unwrap();
        for file in ["secret", "console", "sub/secret"] {
            fs::write(dir.join(file), &token).unwrap();
        }
        let before = tree(&dir);
        Self { dir, token, before }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory as a text.
    ///
    /// # Panics
    /// Where it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    /// What stands in its files.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Insists that nothing about it has changed.
    ///
    /// # Panics
    /// Where something has.
    #[track_caller]
    pub fn untouched(&self, how: &str) {
        let now = tree(&self.dir);
        if now != self.before {
            crate::fell!("{how}: the host's directory changed to {now:#?}");
        }
    }

    /// Insists that an output does not show it, and that nothing about it has changed.
    ///
    /// # Panics
    /// Where it does or has.
    #[track_caller]
    pub fn safe_from(&self, out: &Outcome, how: &str) {
        if out.stdout.contains(&self.token) || out.stdout_now().contains(&self.token) {
            crate::fell!("{how}: the container read a file of the host: {out:#?}");
        }
        self.untouched(how);
    }
}

/// Every path below `dir` with all that can be said about it, but for times of access.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let content = if meta.is_file() {
            fs::read_to_string(&path).unwrap_or_default()
        } else {
            String::new()
        };
        if meta.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
        let text = format!(
            "{:o} {}:{} {} {content:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev()
        );
        found.insert(path, text);
    }
    found
}

/// Somebody who exchanges two paths all the time, as a process in another container with the same volume would.
#[derive(Debug)]
pub struct Swapper {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    /// Starts. Both paths have to exist.
    #[must_use]
    pub fn start(a: &Path, b: &Path) -> Self {
        let (stop, count) = (Arc::default(), Arc::default());
        let (a, b) = (a.to_owned(), b.to_owned());
        let (until, counter) = (
            Arc::<AtomicBool>::clone(&stop),
            Arc::<AtomicU64>::clone(&count),
        );
        let thread = std::thread::spawn(move || {
            let mut exchanged = false;
            while !until.load(Ordering::Relaxed) || exchanged {
                if renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).is_ok() {
                    counter.fetch_add(1, Ordering::Relaxed);
                    exchanged = !exchanged;
                } else if until.load(Ordering::Relaxed) {
                    break;
                }
                // Each side lasts a moment, of a length that is never the same.
                for _ in 0..counter.load(Ordering::Relaxed) % 97 * 20 {
                    std::hint::spin_loop();
                }
            }
        });
        Self {
            stop,
            count,
            thread: Some(thread),
        }
    }

    /// Stops, with both paths as they were at first.
    ///
    /// # Panics
    /// Where nothing was exchanged: then there was no race.
    pub fn finish(mut self) {
        self.end();
        if self.count.load(Ordering::Relaxed) < 10 {
            crate::unproven!("the paths were not exchanged");
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.end();
    }
}

/// A program of the host that attackers may try to overwrite.
#[derive(Debug)]
pub struct Victim {
    /// Where it is.
    pub path: PathBuf,
    before: (Vec<u8>, u32, u32, i64),
}

impl Victim {
    /// Copies `program` into the sandbox.
    ///
    /// # Panics
    /// Where it cannot be copied.
    #[must_use]
    pub fn copy(sb: &Sandbox, program: &Path) -> Self {
        let dir = sb.path("victim");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(program.file_name().unwrap());
        copy(program, &path);
        let before = Self::look(&path);
        Self { path, before }
    }

    /// A copy of the runtime under test.
    #[must_use]
    pub fn runtime(sb: &Sandbox) -> Self {
        Self::copy(sb, runtime::path())
    }

    /// Whether anything about it has changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        Self::look(&self.path) != self.before
    }

    fn look(path: &Path) -> (Vec<u8>, u32, u32, i64) {
        let meta = fs::metadata(path).unwrap();
        let text = fs::read(path).unwrap();
        (text, meta.mode(), meta.uid(), meta.mtime())
    }
}

/// Where [`install`] puts the attacker's program.
pub const ATTACKER: &str = "/bin/attacker";

/// The attacker's program on the host.
#[must_use]
pub fn program() -> PathBuf {
    runtime::beside("attacker")
}

/// Puts the attacker's program at [`ATTACKER`], and the libraries that it needs where it looks for them.
///
/// # Panics
/// Where files cannot be copied.
pub fn install(bundle: &Bundle) {
    let rootfs = bundle.rootfs();
    let own = rootfs.join(&ATTACKER[1..]);
    copy(&program(), &own);
    install_libraries(bundle, &program());
}

/// Puts the libraries of a program into the root file system, so that it runs in there.
///
/// # Panics
/// Where files cannot be copied.
pub fn install_libraries(bundle: &Bundle, program: &Path) {
    let rootfs = bundle.rootfs();
    for library in libraries(program) {
        let target = rootfs.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&library, &target).unwrap();
    }
}

/// Copies a program in a process of its own: a child of another test's thread would keep a file
/// open that is written here, and it could not be executed until that child has executed something.
fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg(from).arg(to).status();
    assert!(done.unwrap().success(), "cp {from:?} {to:?}");
}

/// The libraries of a program, its interpreter included; none where it is static.
#[must_use]
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let Ok(out) = Command::new("ldd").arg(program).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/') && Path::new(word).is_file())
        .map(PathBuf::from)
        .collect()
}

/// A second directory for all containers, as a volume: its path, and the mount that brings it to `destination`.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
pub fn volume(sb: &Sandbox, name: &str, destination: &str) -> (PathBuf, crate::Value) {
    let dir = sb.path(name);
    fs::create_dir_all(&dir).unwrap();
    let mount = crate::json!({
        "destination": destination, "type": "bind", "source": dir, "options": ["rbind", "rw"]
    });
    (dir, mount)
}

/// Replaces whatever is at `path` by a link to `target`.
///
/// # Panics
/// Where it cannot.
pub fn link(target: impl AsRef<Path>, path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
    symlink(target, path).unwrap();
}

/// Runs a bundle to its end, and insists that it has one.
///
/// # Panics
/// Where the runtime hangs.
#[track_caller]
#[must_use]
pub fn run(sb: &Sandbox, bundle: &Bundle, how: &str) -> Outcome {
    let command = sb.command(&["run", "--bundle", bundle.arg(), "runs"]);
    let out = ends(sb.spawn(command), how);
    // A runtime that failed half-way may have left its record; the next round is another container.
    if sb.root().join("runs").exists() {
        let _ = sb.rt(&["delete", "--force", "runs"]);
    }
    out
}

/// Waits for a command that an attack may have made hang.
///
/// # Panics
/// Where it does hang, or crashed.
#[track_caller]
#[must_use]
pub fn ends(running: runtime::Running, how: &str) -> Outcome {
    let Some(out) = running.wait_at_most(patience()) else {
        crate::fell!("{how}: the runtime hangs");
    };
    if ["panicked at", "panic:", "goroutine "]
        .iter()
        .any(|sign| out.stderr.contains(sign))
        || out.code == 128 + 11
    {
        crate::fell!("{how}: the runtime crashed: {out:#?}");
    }
    out
}

/// Insists that a run that is not the attack works, for else nothing would be proven.
///
/// # Panics
/// Where it failed.
#[track_caller]
pub fn baseline(out: &Outcome) {
    if out.code != 0 {
        crate::unproven!("an ordinary container does not run: {out:#?}");
    }
}
