//! The daemon under test and containerd beside each other, each with directories of its own: every
//! command of ctr goes to both, and both must say the same.
#![allow(
    clippy::missing_panics_doc,
    reason = "everything here fails by panicking"
)]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::cgroup::Driver;
use crate::containerd;
use crate::daemon::Pen;
use crate::peers::{self, Source};
use crate::runtime::Outcome;

/// The daemon under test: `KNARRD_BIN`, or the newest that cargo built here.
#[must_use]
pub fn knarrd() -> PathBuf {
    if let Some(path) = std::env::var_os("KNARRD_BIN") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let built = ["release", "debug"].map(|profile| target.join(profile).join("knarrd"));
    let modified = |path: PathBuf| Some((fs::metadata(&path).ok()?.modified().ok()?, path));
    let newest = built.into_iter().filter_map(modified).max();
    let (_, path) =
        newest.expect("no knarrd below target/: build knarr-manager, or set KNARRD_BIN");
    path.canonicalize().unwrap()
}

/// knarrd and containerd.
#[derive(Debug)]
pub struct Pair {
    /// Where both run.
    pub pen: Pen,
    /// The client.
    pub ctr: PathBuf,
}

impl Pair {
    /// The names of both: of their directories, sockets and logs.
    pub const DAEMONS: [&str; 2] = ["knarrd", "containerd"];

    /// Starts both, with the newest ctr as the client. Containers run where our shim is built.
    ///
    /// # Errors
    /// What is missing: containerd or its client.
    pub fn new() -> Result<Self, String> {
        let find = |name| {
            Source::Newest
                .find(name)
                .ok_or_else(|| peers::missing(name))
        };
        let (containerd, ctr) = (find("containerd")?, find("ctr")?);
        let pen = Pen::new(&Source::Newest.path(), Driver::Cgroupfs);
        if let Some(shim) = containerd::shim() {
            symlink(shim, pen.bin().join(containerd::SHIM)).unwrap();
        }
        if let Some(runc) = peers::runc() {
            symlink(runc, pen.bin().join("runc")).unwrap();
        }
        let this = Self { pen, ctr };
        let path = |name: &str| this.pen.path(name).to_str().unwrap().to_owned();
        // containerd would let nobody else through, and users of namespaces need to get to their roots.
        fs::create_dir(path("containerd")).unwrap();
        let config = format!(
            "version = 3\nroot = '{}'\nstate = '{}'\n[grpc]\naddress = '{}'\n",
            path("containerd/root"),
            path("containerd/state"),
            path("containerd.sock")
        );
        let disabled = "disabled_plugins = ['io.containerd.grpc.v1.cri', \
            'io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images']\n";
        // Out of itself it unpacks for overlayfs alone.
        let unpack = ["overlayfs", "native"].map(|name| {
            let platform = if cfg!(target_arch = "aarch64") {
                "arm64"
            } else {
                "amd64"
            };
            format!(
                "[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n\
                 snapshotter = '{name}'\nplatform = 'linux/{platform}'\n"
            )
        });
        let config = config.replacen('\n', &format!("\n{disabled}"), 1) + &unpack.concat();
        fs::write(path("config.toml"), config).unwrap();
        let (program, config) = (containerd.to_str().unwrap(), path("config.toml"));
        this.pen
            .daemon("containerd", &[program, "--config", &config]);
        let program = knarrd();
        let args = [
            program.to_str().unwrap(),
            "--root",
            &path("knarrd/root"),
            "--state",
            &path("knarrd/state"),
            "--address",
            &path("knarrd.sock"),
        ];
        this.pen.daemon("knarrd", &args);
        for daemon in ["knarrd", "containerd"] {
            let answers = || this.on(daemon, &["version"], None).code == 0;
            this.pen.wait_for(daemon, answers);
        }
        Ok(this)
    }

    /// A command line of ctr for one of the daemons.
    #[must_use]
    pub fn command(&self, daemon: &str, args: &[&str]) -> std::process::Command {
        let socket = self.pen.path(&format!("{daemon}.sock"));
        let ctr = [self.ctr.to_str().unwrap(), "-a", socket.to_str().unwrap()];
        let mut command = self.pen.command(&[&ctr, args].concat());
        command.env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1");
        command
    }

    /// Runs ctr on one of the daemons.
    #[must_use]
    pub fn on(&self, daemon: &str, args: &[&str], input: Option<&Path>) -> Outcome {
        let mut command = self.command(daemon, args);
        if let Some(input) = input {
            command.stdin(File::open(input).unwrap());
        }
        self.pen.spawn(command).wait()
    }

    /// Runs a command on both and compares the code and, but for what differs from run to run, the
    /// output. What knarrd gave.
    #[track_caller]
    pub fn same(&self, args: &[&str]) -> Outcome {
        self.same_with(args, None)
    }

    /// The same, with standard input.
    #[track_caller]
    pub fn same_with(&self, args: &[&str], input: Option<&Path>) -> Outcome {
        let [ours, theirs] = ["knarrd", "containerd"].map(|daemon| self.on(daemon, args, input));
        assert_eq!(
            ours.code, theirs.code,
            "ctr {args:?}: {ours:#?} {theirs:#?}"
        );
        let [said, expected] = [&ours, &theirs].map(|out| plain(&out.stdout));
        assert_eq!(said, expected, "ctr {args:?}: {ours:#?} {theirs:#?}");
        ours
    }
}

/// Output without what differs between two daemons and moments: times, ages, directories, and the
/// width of columns with them.
#[must_use]
pub fn plain(text: &str) -> Vec<String> {
    let words = |line: &str| {
        let words = line.split_whitespace().map(|word| {
            if word.contains("/snapshots/") {
                let parts = word.split_inclusive([',', '=', ':']);
                let parts = parts.map(|part| match part.contains("/snapshots/") {
                    true => "DIR",
                    false => part,
                });
                return parts.collect();
            }
            let is_time = word.contains(':')
                && word.bytes().filter(u8::is_ascii_digit).count() >= 8
                && !word.contains("sha256");
            if is_time {
                "TIME".to_owned()
            } else {
                word.to_owned()
            }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let age = |line: String| match line.find(" Less than a second ") {
        Some(_) => line.replace(" Less than a second ", " AGE "),
        None => {
            let mut parts: Vec<&str> = line.split(' ').collect();
            // As "2 seconds" in the column of ages.
            if let Some(at) = parts.iter().position(|word| word.starts_with("second")) {
                parts.splice(at - 1..=at, ["AGE"]);
            }
            parts.join(" ")
        }
    };
    text.lines().map(words).map(age).collect()
}

/// Starts both daemons, or says why not.
#[macro_export]
macro_rules! pair {
    () => {
        match $crate::pair::Pair::new() {
            Ok(pair) => pair,
            Err(why) => $crate::skip!("{why}"),
        }
    };
}
