//! A private surrounding for daemons: namespaces, /run, cgroup parent and network of their own.
//!
//! `pen.sh` holds the namespaces. It ends with this process, and everything with it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::cgroup::Driver;
use crate::process;
use crate::runtime::{Outcome, Running};

/// How long a daemon may take to answer, emulated machines included.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The surrounding. It is gone some moments after it is dropped, or after this process ended.
#[derive(Debug)]
pub struct Pen {
    dir: PathBuf,
    cgroup: String,
    /// Its init, as this process counts.
    pid: u32,
    env: Vec<(OsString, OsString)>,
    supervisor: Child,
    daemons: Mutex<Vec<Child>>,
}

impl Pen {
    /// Makes one in which programs are looked up in [`Pen::bin`] first, then in `path`. With
    /// [`Driver::Systemd`], the machine's systemd is there to make cgroups, and processes keep the
    /// numbers that it knows.
    ///
    /// # Panics
    /// Where the caller is not root, or the namespaces cannot be made.
    #[must_use]
    pub fn new(path: &[PathBuf], driver: Driver) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "daemons in namespaces need root"
        );
        // pen.sh removes it: this process may end without a chance to.
        let dir = tempfile::Builder::new()
            .prefix("knarr-pen-")
            .tempdir()
            .unwrap()
            .keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.join("io")).unwrap();
        fs::create_dir(dir.join("bin")).unwrap();
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (cgroup, systemd) = match driver {
            Driver::Cgroupfs => (format!("/knarr-pen-{process}-{count}"), None),
            // A dash would put the slice into another one.
            Driver::Systemd => (format!("/knarrpen{process}x{count}.slice"), Some("systemd")),
        };
        let mut supervisor = Command::new("/bin/sh")
            .args(["-c", include_str!("pen.sh"), "pen"])
            .arg(&dir)
            .arg(&cgroup)
            .args(systemd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What ends this process from a terminal must not end the cleaning up.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(supervisor.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let pid = line
            .trim()
            .parse()
            .expect("the namespaces of the pen could not be made");
        let system = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        let path = std::env::join_paths(
            std::iter::once(dir.join("bin"))
                .chain(path.iter().cloned())
                .chain(std::env::split_paths(&system))
                .chain(sbin),
        )
        .unwrap();
        let dir_text = dir.clone().into();
        Self {
            dir,
            cgroup,
            pid,
            env: vec![("PATH".into(), path), ("HOME".into(), dir_text)],
            supervisor,
            daemons: Mutex::default(),
        }
    }

    /// A directory for this pen's files, seen from inside under the same name.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory for programs that are to be found before all others.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.path("bin")
    }

    /// A path below the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The cgroup that is to be the parent of all containers; with systemd, a slice.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Sets a variable in the environment of whatever is started inside from here on.
    pub fn set_env(&mut self, name: &str, value: impl Into<OsString>) {
        self.env.push((name.into(), value.into()));
    }

    /// A command that runs inside, with no input.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = crate::runtime::command(Path::new("nsenter"));
        command
            .args(["-t", &self.pid.to_string(), "-m", "-n", "-p", "--"])
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a command that was prepared by [`Pen::command`].
    #[must_use]
    pub fn spawn(&self, command: Command) -> Running {
        Running::start(command, &self.path("io"))
    }

    /// Runs a program inside to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.spawn(self.command(args)).wait()
    }

    /// Runs a command with a terminal of 33 lines and 111 columns, and `input` typed there.
    ///
    /// # Panics
    /// Where the input file cannot be made.
    #[track_caller]
    pub fn on_terminal(&self, args: &[&str], input: &str) -> Outcome {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let typed = self.path(&format!(
            "io/typed{}",
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::write(&typed, input).unwrap();
        let quoted: Vec<String> = args
            .iter()
            .map(|arg| format!("'{}'", arg.replace('\'', "'\\''")))
            .collect();
        let line = format!("stty rows 33 cols 111; exec {}", quoted.join(" "));
        let mut command = self.command(&["script", "-qefc", &line, "/dev/null"]);
        command.stdin(File::open(typed).unwrap());
        self.spawn(command).wait()
    }

    /// Starts a daemon whose output goes to the log of that name.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn daemon(&self, name: &str, args: &[&str]) {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log_path(name))
            .unwrap();
        let child = self
            .command(args)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemons.lock().unwrap().push(child);
    }

    /// Waits until a daemon answers.
    ///
    /// # Panics
    /// Where it does not in [`PATIENCE`].
    pub fn wait_for(&self, name: &str, answers: impl FnMut() -> bool) {
        assert!(
            process::eventually(PATIENCE, answers),
            "{name} does not answer:\n{}",
            tail(&self.log(name))
        );
    }

    /// What a daemon has logged so far.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        fs::read(self.log_path(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// The paths of the programs that run inside, one a process.
    #[must_use]
    pub fn programs(&self) -> Vec<PathBuf> {
        let ns = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let own = ns(&self.pid.to_string());
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && ns(name) == own)
            .filter_map(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok())
            .collect()
    }

    /// Shows what a daemon logs from here on, if the test fails.
    #[must_use]
    pub fn watch<'a>(&'a self, name: &'a str) -> Watch<'a> {
        Watch {
            pen: self,
            name,
            from: self.log(name).len(),
        }
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
        if let Ok(mut daemons) = self.daemons.lock() {
            for daemon in daemons.iter_mut() {
                let _ = daemon.wait();
            }
        }
    }
}

/// Prints the part of a log that was written in its life when a test panics.
#[derive(Debug)]
pub struct Watch<'a> {
    pen: &'a Pen,
    name: &'a str,
    from: usize,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.pen.log(self.name);
            let new = log.get(self.from..).unwrap_or(&log);
            eprintln!("-- log of {}:\n{}\n--", self.name, tail(new));
        }
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
