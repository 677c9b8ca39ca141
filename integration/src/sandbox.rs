//! A surrounding for one test: directory, state root, cgroup parent; all gone at its end, however it ends.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bundle::{self, Bundle};
use crate::runtime::{self, Outcome, Running};
use crate::{cgroup, process};

/// Where one test lives. Dropping it kills and removes whatever is left.
#[derive(Debug)]
pub struct Sandbox {
    dir: tempfile::TempDir,
    cgroup: String,
    /// Whether systemd makes the cgroups.
    systemd: bool,
    bundles: RefCell<Vec<Bundle>>,
}

/// A container that was made for a test.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: Bundle,
    /// Its init, as the host counts.
    pub pid: u32,
    /// What create answered; the container's output goes on there.
    pub created: Outcome,
}

impl Sandbox {
    /// How directories and cgroups of tests begin.
    pub const PREFIX: &'static str = "knarr-it-";

    /// Makes a sandbox.
    ///
    /// # Panics
    /// Where the caller is not root, or the directory cannot be made.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "making one has effects")]
    pub fn new() -> Self {
        Self::with(cgroup::Driver::Cgroupfs)
    }

    /// As [`Sandbox::new`], with the cgroups made by `driver`. systemd's are in a slice of the
    /// sandbox's own, so that paths below [`Sandbox::cgroup`] mean the same with both.
    ///
    /// # Panics
    /// As [`Sandbox::new`].
    #[must_use]
    pub fn with(driver: cgroup::Driver) -> Self {
        let systemd = driver == cgroup::Driver::Systemd;
        assert!(
            rustix::process::geteuid().is_root(),
            "the end-to-end tests need root"
        );
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new()
            .prefix(Self::PREFIX)
            .tempdir()
            .unwrap();
        // A container with a user namespace walks through it as another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("io")).unwrap();
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = if systemd {
            // A dash would make it a slice within another.
            format!("/knarrit{pid}x{count}.slice")
        } else {
            format!("/{}{pid}-{count}", Self::PREFIX)
        };
        Self {
            dir,
            cgroup,
            systemd,
            bundles: RefCell::default(),
        }
    }

    /// The sandbox's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path below the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// The runtime's state root.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("state")
    }

    /// The cgroup that is the parent of all of this sandbox.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Whether systemd makes the cgroups.
    #[must_use]
    pub fn is_systemd(&self) -> bool {
        self.systemd
    }

    /// What the environment of every process that this sandbox starts carries.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("KNARR_SANDBOX={}", self.cgroup)
    }

    /// The bundles made so far.
    #[must_use]
    pub fn bundles(&self) -> Vec<Bundle> {
        self.bundles.borrow().clone()
    }

    /// Makes a bundle with the ordinary configuration, changed by `edit`.
    ///
    /// # Panics
    /// Where files cannot be made.
    pub fn bundle(&self, edit: impl FnOnce(&mut Value)) -> Bundle {
        let n = self.bundles.borrow().len();
        let dir = self.path(&format!("bundle{n}"));
        bundle::rootfs(&dir.join("rootfs"));
        let slice = self.cgroup.trim_start_matches('/');
        let (cgroup, cgroups_path) = if self.systemd {
            // A unit's name is the host's, wherever it is.
            let prefix = slice.trim_end_matches(".slice");
            (
                format!("/{slice}/{prefix}-c{n}.scope"),
                format!("{slice}:{prefix}:c{n}"),
            )
        } else {
            (format!("/{slice}/c{n}"), format!("/{slice}/c{n}"))
        };
        let bundle = Bundle { dir, cgroup };
        let mut config = bundle::config(&cgroups_path, runtime::oci_version());
        edit(&mut config);
        bundle.raw_config(&serde_json::to_vec_pretty(&config).unwrap());
        self.bundles.borrow_mut().push(bundle.clone());
        bundle
    }

    /// A bundle whose process is a shell with that script.
    pub fn sh_bundle(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Bundle {
        self.bundle(|config| {
            config["process"]["args"] = json!(["/bin/sh", "-c", script]);
            edit(config);
        })
    }

    /// The runtime as a command: `--root`, then `args`.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(runtime::path(), args)
    }

    /// The same with a copy of the runtime.
    #[must_use]
    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = runtime::call(program);
        command
            .env("KNARR_SANDBOX", &self.cgroup)
            .arg("--root")
            .arg(self.root());
        if self.systemd {
            command.arg("--systemd-cgroup");
        }
        command.args(args);
        command
    }

    /// The runtime as a command without the system calls of `list`, as `KNARR_WITHOUT` has it.
    #[must_use]
    pub fn without(&self, list: &str, args: &[&str]) -> Command {
        let plain = self.command(args);
        let mut command = runtime::command(&crate::without::launcher());
        command
            .env("KNARR_SANDBOX", &self.cgroup)
            .args(["without", list])
            .arg(plain.get_program())
            .args(plain.get_args());
        command
    }

    /// The runtime as a command that [`crate::trace::kill_at`] takes; its output goes nowhere.
    #[must_use]
    pub fn traced(&self, args: &[&str]) -> Command {
        let plain = self.command(args);
        let mut command = runtime::command(&crate::without::launcher());
        command
            .env("KNARR_SANDBOX", &self.cgroup)
            .arg("traced")
            .arg(plain.get_program())
            .args(plain.get_args())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs the runtime to its end in a mount namespace of its own that `script` has changed, with
    /// further variables.
    #[must_use]
    pub fn elsewhere(&self, script: &str, variables: &[(&str, &str)], args: &[&str]) -> Outcome {
        let plain = self.command(args);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "/bin/sh", "-c"])
            .args([&format!("{script} && exec \"$@\""), "sh"])
            .arg(plain.get_program())
            .args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.envs(variables.iter().copied());
        self.spawn(command).wait()
    }

    /// Starts a command prepared by [`Sandbox::command`].
    #[must_use]
    pub fn spawn(&self, command: Command) -> Running {
        Running::start(command, &self.path("io"))
    }

    /// Runs the runtime to its end.
    #[track_caller]
    pub fn rt(&self, args: &[&str]) -> Outcome {
        self.spawn(self.command(args)).wait()
    }

    /// Runs the runtime with `text` on standard input.
    ///
    /// # Panics
    /// Where the input file cannot be made.
    #[track_caller]
    pub fn rt_stdin(&self, args: &[&str], text: &str) -> Outcome {
        let path = self.path("io/stdin");
        fs::write(&path, text).unwrap();
        let mut command = self.command(args);
        command.stdin(fs::File::open(path).unwrap());
        self.spawn(command).wait()
    }

    /// `create` with that bundle.
    #[track_caller]
    pub fn create(&self, id: &str, bundle: &Bundle) -> Outcome {
        self.rt(&["create", "--bundle", bundle.arg(), id])
    }

    /// `run` with that bundle, in the foreground.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Outcome {
        self.rt(&["run", "--bundle", bundle.arg(), "runs"])
    }

    /// Runs a shell script in an ordinary container changed by `edit`, to its end.
    #[track_caller]
    pub fn sh(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Outcome {
        let bundle = self.sh_bundle(script, edit);
        self.run(&bundle)
    }

    /// `state` as JSON.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        self.rt(&["state", id]).ok().json()
    }

    /// The status that `state` gives.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    /// Waits for that status.
    ///
    /// # Panics
    /// Where it does not come in ten seconds.
    #[track_caller]
    pub fn wait_status(&self, id: &str, status: &str) {
        assert!(
            process::eventually(Duration::from_secs(10), || self.status(id) == status),
            "{id} should become {status}, is {}",
            self.status(id)
        );
    }

    /// Makes a container and leaves it in `created`.
    ///
    /// # Panics
    /// Where create fails.
    #[track_caller]
    pub fn created(&self, id: &str, bundle: &Bundle) -> Container {
        let created = self.create(id, bundle).ok();
        let pid = self.state(id)["pid"].as_u64().unwrap();
        Container {
            id: id.to_owned(),
            bundle: bundle.clone(),
            pid: u32::try_from(pid).unwrap(),
            created,
        }
    }

    /// Makes a container from `bundle` and starts it.
    ///
    /// # Panics
    /// Where create or start fails.
    #[track_caller]
    pub fn started(&self, id: &str, bundle: &Bundle) -> Container {
        let container = self.created(id, bundle);
        self.rt(&["start", id]).ok();
        container
    }

    /// A running container that sleeps.
    #[track_caller]
    pub fn sleeper(&self, id: &str, edit: impl FnOnce(&mut Value)) -> Container {
        let bundle = self.bundle(|config| {
            config["process"]["args"] = json!(["/bin/sleep", "600"]);
            edit(config);
        });
        self.started(id, &bundle)
    }

    /// Kills and deletes, insisting on success.
    #[track_caller]
    pub fn finish(&self, id: &str) {
        self.rt(&["delete", "--force", id]).ok();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Ok(entries) = fs::read_dir(self.root()) {
            for entry in entries.flatten() {
                if let Some(id) = entry.file_name().to_str() {
                    let mut command = self.command(&["delete", "--force", id]);
                    if let Ok(mut child) =
                        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
                    {
                        if !process::ended_within(child.id(), Duration::from_secs(10)) {
                            let _ = child.kill();
                        }
                        let _ = child.wait();
                    }
                }
            }
        }
        if self.systemd {
            let slice = self.cgroup.trim_start_matches('/');
            // Init may ignore SIGTERM, and systemd would wait for it for a minute and a half.
            for arguments in [&["kill", "--signal=KILL", slice][..], &["stop", slice]] {
                let mut systemctl = Command::new("systemctl");
                let _ = systemctl.args(arguments).stderr(Stdio::null()).status();
            }
        }
        cgroup::remove(&self.cgroup);
        let own = self.dir().to_path_buf();
        if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") {
            for line in mounts.lines().rev() {
                if let Some(point) = line.split(' ').nth(4).map(Path::new)
                    && point.starts_with(&own)
                {
                    let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
                }
            }
        }
    }
}
