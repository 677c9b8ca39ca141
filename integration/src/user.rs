//! A user without privileges, and a surrounding for one test of what such a user can do.
//!
//! Where the tests run as root, commands get another user id and no privilege; where they run as an
//! ordinary user, commands are called as they are.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bundle::{self, Bundle, drop_namespace, push};
use crate::process;
use crate::runtime::{self, Outcome, Running};

/// The user whom root becomes: nobody's id on any ordinary host.
const STRANGER: u32 = 54_321;

/// Directory, state and runtime of one test, all of one user. Dropping it deletes the containers.
#[derive(Debug)]
pub struct Ground {
    dir: tempfile::TempDir,
    /// The user's id.
    pub uid: u32,
    /// The user's group id.
    pub gid: u32,
    /// The words before a program that make it the user's.
    prefix: Vec<OsString>,
    session: Option<PathBuf>,
    program: PathBuf,
    bundles: std::cell::Cell<u32>,
}

/// A range of ids that the user may map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// A process in a user namespace (and a mount namespace), which commands can join.
#[derive(Debug)]
pub struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ground {
    /// Makes a place for a user without privileges.
    ///
    /// # Panics
    /// Where files cannot be made.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "making one has effects")]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("knarr-user-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join(runtime::name());
        fs::copy(runtime::path(), &program).unwrap();
        fs::create_dir(dir.path().join("io")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let (uid, gid) = if is_root() {
            (STRANGER, STRANGER)
        } else {
            (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            )
        };
        let mut this = Self {
            dir,
            uid,
            gid,
            prefix: Vec::new(),
            session: None,
            program,
            bundles: std::cell::Cell::new(0),
        };
        if is_root() {
            this.prefix = this.become_user().map(OsString::from).to_vec();
            this.give(&this.path("run"));
        }
        this
    }

    fn become_user(&self) -> [String; 5] {
        [
            "setpriv".to_owned(),
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.gid),
            "--clear-groups".to_owned(),
            "--".to_owned(),
        ]
    }

    /// A path below the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The user's `XDG_RUNTIME_DIR`.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.session.clone().unwrap_or_else(|| self.path("run"))
    }

    fn state(&self) -> PathBuf {
        self.path("run").join(runtime::name())
    }

    /// Makes the user the owner of all at and below `path`.
    ///
    /// # Panics
    /// Where that is refused.
    pub fn give(&self, path: &Path) {
        if !is_root() {
            return;
        }
        lchown(path, Some(self.uid), Some(self.gid)).unwrap();
        if path.is_dir() && !path.is_symlink() {
            for entry in fs::read_dir(path).unwrap().flatten() {
                self.give(&entry.path());
            }
        }
    }

    /// Lets the user map these ids, as /etc/subuid and /etc/subgid say: an ordinary user has what it
    /// has; for root's stranger the files are replaced, in a mount namespace that only its commands see.
    /// Gives the ranges, or why there are none.
    ///
    /// # Errors
    /// newuidmap is not installed, or the user has no range.
    ///
    /// # Panics
    /// Where files cannot be written.
    pub fn subids(&mut self, wanted: Range) -> Result<(Range, Range), String> {
        if runtime::find("newuidmap".as_ref()).is_none() {
            return Err("newuidmap is not installed (Debian package uidmap)".into());
        }
        if !is_root() {
            let own = |file| {
                first_range(file, self.uid).ok_or(format!("{file} has no range for this user"))
            };
            return Ok((own("/etc/subuid")?, own("/etc/subgid")?));
        }
        let line = format!("stranger:{}:{}\n", wanted.start, wanted.count);
        self.id_files(&line, &line);
        Ok((wanted, wanted))
    }

    /// Root only: what commands of the stranger find at /etc/subuid and /etc/subgid.
    ///
    /// # Panics
    /// Where files cannot be written.
    pub fn id_files(&mut self, subuid: &str, subgid: &str) {
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let (uid, gid) = (self.uid, self.gid);
        let passwd = format!("{passwd}\nstranger:x:{uid}:{gid}::/:/bin/sh\n");
        let mut script = "set -e; ".to_owned();
        for (name, text) in [("passwd", &*passwd), ("subuid", subuid), ("subgid", subgid)] {
            let own = self.path(name);
            fs::write(&own, text).unwrap();
            script += &format!("mount --bind {} /etc/{name}; ", own.display());
        }
        script += "exec \"$@\"";
        let mut prefix: Vec<OsString> = ["unshare", "--mount", "--propagation", "private"]
            .into_iter()
            .chain(["sh", "-c", &script, "sh"])
            .map(OsString::from)
            .collect();
        prefix.extend(self.become_user().map(OsString::from));
        self.prefix = prefix;
    }

    /// Starts a user namespace as the user, with these maps (lines of `inside outside count`), as
    /// Podman and rootlesskit do; later commands run in there, as its root.
    ///
    /// # Panics
    /// Where the kernel has none for users.
    #[must_use]
    pub fn enter_namespace(&mut self, uids: &str, gids: &str) -> Holder {
        let mut command = self.program_command("unshare".as_ref());
        command
            .args(["--user", "--mount", "sleep", "600"])
            .stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let holder = Holder(child);
        let pid = holder.0.id();
        // Through setpriv and the shell, unshare and sleep it stays the same process.
        let outside = process::namespace(std::process::id(), "user");
        assert!(process::eventually(Duration::from_secs(20), || {
            fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"sleep\n")
                && process::namespace(pid, "user") != outside
        }));
        let several = |map: &str| map.lines().count() > 1 || !map.ends_with(" 1");
        if is_root() {
            if !several(gids) {
                fs::write(format!("/proc/{pid}/setgroups"), "deny").unwrap();
            }
            fs::write(format!("/proc/{pid}/uid_map"), uids).unwrap();
            fs::write(format!("/proc/{pid}/gid_map"), gids).unwrap();
        } else {
            for (program, map) in [("newuidmap", uids), ("newgidmap", gids)] {
                let done = Command::new(program)
                    .arg(pid.to_string())
                    .args(map.split_whitespace())
                    .status();
                assert!(done.is_ok_and(|status| status.success()), "{program}");
            }
        }
        // setpriv alone: whoever joins needs no file of /etc.
        self.prefix = if is_root() {
            self.become_user().map(OsString::from).to_vec()
        } else {
            Vec::new()
        };
        let pid = pid.to_string();
        let join = ["nsenter", "--target", &pid, "--user", "--mount"];
        // Who became the user outside is root in there.
        self.prefix.extend(
            join.into_iter()
                .chain(["--preserve-credentials", "--"])
                .map(OsString::from),
        );
        holder
    }

    /// Lets commands reach the systemd of the caller's session, whose `XDG_RUNTIME_DIR` they get.
    pub fn keep_session(&mut self) {
        self.session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    }

    fn program_command(&self, program: &std::ffi::OsStr) -> Command {
        let mut words = self.prefix.iter().map(OsString::as_os_str).chain([program]);
        let mut command = runtime::command(Path::new(words.next().unwrap()));
        command
            .args(words)
            .env("XDG_RUNTIME_DIR", self.runtime_dir())
            .env_remove("USER")
            .current_dir("/");
        command
    }

    /// The runtime as the user calls it.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.program_command(self.program.as_os_str());
        if self.session.is_some() {
            command.arg("--root").arg(self.state());
        }
        command.args(args);
        command
    }

    /// Any program as the user calls it.
    #[must_use]
    pub fn other(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.program_command(program.as_ref());
        command.args(args);
        command
    }

    /// Runs a command to its end.
    #[must_use]
    pub fn finish(&self, command: Command) -> Outcome {
        Running::start(command, &self.path("io")).wait()
    }

    /// Runs the runtime to its end.
    #[must_use]
    #[track_caller]
    pub fn rt(&self, args: &[&str]) -> Outcome {
        self.finish(self.command(args))
    }

    /// Makes a bundle of the user's, with an ordinary configuration in a user namespace, where the
    /// user is root and nobody else exists.
    ///
    /// # Panics
    /// Where files cannot be made.
    #[must_use]
    pub fn bundle(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Bundle {
        let n = self.bundles.get();
        self.bundles.set(n + 1);
        let dir = self.path(&format!("bundle{n}"));
        bundle::rootfs(&dir.join("rootfs"));
        let mut config = bundle::config("", runtime::oci_version());
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        // Relative: below what is delegated to the user, if anything is.
        let own = self.dir.path().file_name().unwrap().to_string_lossy();
        config["linux"]["cgroupsPath"] = json!(format!("{own}/c{n}"));
        config["linux"].as_object_mut().unwrap().remove("resources");
        push(&mut config, "/linux/namespaces", json!({"type": "user"}));
        config["linux"]["uidMappings"] = map(&[(0, self.uid, 1)]);
        config["linux"]["gidMappings"] = map(&[(0, self.gid, 1)]);
        edit(&mut config);
        let bundle = Bundle {
            dir: dir.clone(),
            cgroup: String::new(),
        };
        bundle.raw_config(&serde_json::to_vec_pretty(&config).unwrap());
        self.give(&dir);
        bundle
    }

    /// `run` in the foreground.
    #[must_use]
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Outcome {
        self.rt(&["run", "--bundle", bundle.arg(), "runs"])
    }

    /// Runs a shell script in a container changed by `edit`, to its end.
    #[must_use]
    #[track_caller]
    pub fn sh(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Outcome {
        self.run(&self.bundle(script, edit))
    }

    /// Makes a container that sleeps, and starts it; gives the host's pid of its init.
    ///
    /// # Panics
    /// Where create or start fails.
    #[track_caller]
    pub fn sleeper(&self, id: &str, edit: impl FnOnce(&mut Value)) -> u32 {
        let bundle = self.bundle("exec sleep 600", edit);
        self.rt(&["create", "--bundle", bundle.arg(), id]).ok();
        self.rt(&["start", id]).ok();
        self.pid(id)
    }

    /// The pid of a container's init.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    #[must_use]
    pub fn pid(&self, id: &str) -> u32 {
        let pid = self.rt(&["state", id]).ok().json()["pid"].as_u64();
        u32::try_from(pid.unwrap()).unwrap()
    }

    /// The ids of the containers in the user's own state root.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state());
        let mut ids: Vec<String> = entries
            .map(|entries| {
                entries
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .collect()
            })
            .unwrap_or_default();
        ids.sort();
        ids
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for id in self.ids() {
            let mut command = self.command(&["delete", "--force", &id]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            if let Ok(mut child) = command.spawn() {
                if !process::ended_within(child.id(), Duration::from_secs(20)) {
                    let _ = child.kill();
                }
                let _ = child.wait();
            }
        }
    }
}

/// Whether the tests run as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An id map as the configuration has it, from (in the container, on the host, how many).
#[must_use]
pub fn map(entries: &[(u32, u32, u32)]) -> Value {
    entries
        .iter()
        .map(|(container, host, size)| json!({"containerID": container, "hostID": host, "size": size}))
        .collect()
}

/// Maps root to the user and the ids from 1 on to the ranges.
pub fn map_ranges(config: &mut Value, ground: &Ground, (uids, gids): (Range, Range)) {
    let linux = &mut config["linux"];
    linux["uidMappings"] = map(&[(0, ground.uid, 1), (1, uids.start, uids.count)]);
    linux["gidMappings"] = map(&[(0, ground.gid, 1), (1, gids.start, gids.count)]);
}

fn first_range(file: &str, uid: u32) -> Option<Range> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let id = uid.to_string();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then_some(name)
    });
    fs::read_to_string(file).ok()?.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let start = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        (Some(owner) == name || owner == id).then_some(Range { start, count })
    })
}

/// What a test needs that is about a delegated cgroup.
#[derive(Debug)]
pub enum Session {
    /// It is there: go on.
    Here,
    /// The test has run, as the user of that session.
    Done,
    /// There is none, for this reason.
    None(String),
}

/// Finds a cgroup that is delegated to an ordinary user by its own systemd. Root lets the test `name`
/// run once more, as the user that `KNARR_TEST_USER` names (`tester`), if that one has a session.
///
/// # Panics
/// Where the test fails there.
#[must_use]
pub fn session(name: &str) -> Session {
    if !crate::cgroup::unified() {
        return Session::None("needs cgroup v2".into());
    }
    if !is_root() {
        return match delegated() {
            Some(_) => Session::Here,
            None => Session::None("the cgroup of this user is not delegated".into()),
        };
    }
    let user = std::env::var("KNARR_TEST_USER").unwrap_or_else(|_| "tester".into());
    let Some(uid) = uid_of(&user) else {
        return Session::None(format!("there is no user {user}"));
    };
    let runtime_dir = format!("/run/user/{uid}");
    if !Path::new(&runtime_dir).join("bus").exists() {
        return Session::None(format!("{user} has no systemd of its own"));
    }
    let mut command = Command::new("runuser");
    command
        .args(["-u", &user, "--", "env"])
        .arg(format!("XDG_RUNTIME_DIR={runtime_dir}"))
        .arg(format!(
            "DBUS_SESSION_BUS_ADDRESS=unix:path={runtime_dir}/bus"
        ))
        .args(["systemd-run", "--user", "--quiet", "--collect", "--wait"])
        .args(["--pipe", "-p", "Delegate=yes", "-E", "PATH"])
        .arg("-E")
        .arg(format!("KNARR_BIN={}", runtime::path().display()))
        .args(["-E", "TMPDIR", "-E", "KNARR_SKIPS", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "as {user}: {text}"
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
    Session::Done
}

fn uid_of(name: &str) -> Option<u32> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// The directory beside this process's own cgroup, where the user may make others: version 2 only.
#[must_use]
pub fn delegated() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let above = Path::new("/sys/fs/cgroup").join(own).parent()?.to_owned();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let probe = above.join(format!("knarr-probe-{}-{n}", std::process::id()));
    fs::create_dir(&probe).ok()?;
    fs::remove_dir(&probe).ok()?;
    Some(above)
}

/// Ranges as adduser gives them.
pub const MANY: Range = Range {
    start: 200_000,
    count: 65_536,
};

/// Takes the user namespace away: the runtime is in one already.
pub fn no_user_namespace(config: &mut Value) {
    drop_namespace(config, "user");
    let linux = config["linux"].as_object_mut().unwrap();
    linux.remove("uidMappings");
    linux.remove("gidMappings");
}

/// A ground whose commands run as root of a user namespace with these many ids, 1 or more.
///
/// # Errors
/// The user has no ranges to map.
pub fn nested(count: u32) -> Result<(Ground, Holder), String> {
    let mut ground = Ground::new();
    let (uid, gid) = (ground.uid, ground.gid);
    if count == 1 {
        let holder = ground.enter_namespace(&format!("0 {uid} 1"), &format!("0 {gid} 1"));
        return Ok((ground, holder));
    }
    let (uids, gids) = if is_root() {
        (MANY, MANY)
    } else {
        ground.subids(MANY)?
    };
    let count = (count - 1).min(uids.count).min(gids.count);
    let holder = ground.enter_namespace(
        &format!("0 {uid} 1\n1 {} {count}", uids.start),
        &format!("0 {gid} 1\n1 {} {count}", gids.start),
    );
    Ok((ground, holder))
}
