//! Podman with the runtime under test: storage, state and configuration of its own, an image made
//! of busybox, and for root mounts and a network of its own too.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::bundle;
use crate::runtime::{self, Outcome, Running};

/// No command of Podman takes longer, in an emulated machine that is busy.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The image that [`get`] makes.
pub const IMAGE: &str = "localhost/bb";

/// One Podman for all tests of a program.
#[derive(Debug)]
pub struct Podman {
    dir: PathBuf,
    keeper: Child,
    root: bool,
}

static PODMAN: OnceLock<Option<Podman>> = OnceLock::new();

/// The Podman of this program's tests; `None` where it is not installed.
///
/// # Panics
/// Where it is installed but cannot be set up.
pub fn get() -> Option<&'static Podman> {
    PODMAN
        .get_or_init(|| {
            ["podman", "conmon"]
                .iter()
                .all(|name| runtime::find(name.as_ref()).is_some())
                .then(Podman::set_up)
        })
        .as_ref()
}

/// Whether systemd runs this machine.
#[must_use]
pub fn systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// The configuration: what docs/install-podman.md asks for, and what keeps tests apart from the host.
fn configuration(dir: &Path) -> String {
    let name = runtime::name();
    let path = runtime::path().display();
    let manager = if systemd() { "systemd" } else { "cgroupfs" };
    let dir = dir.display();
    let lists = format!("[\"{name}\", \"crun\", \"runc\"]");
    let mut text = String::new();
    let _ = write!(
        text,
        r#"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "{name}"
runtime_supports_json = {lists}
runtime_supports_nocgroup = {lists}
runtime_supports_kvm = []
cgroup_manager = "{manager}"
events_logger = "file"
tmp_dir = "{dir}/tmp"
volume_path = "{dir}/volumes"
[engine.runtimes]
"{name}" = ["{path}"]
[secrets]
driver = "file"
[secrets.opts]
path = "{dir}/secrets"
[network]
network_backend = "netavark"
network_config_dir = "{dir}/networks"
"#
    );
    text
}

/// Lives as long as the tests' program holds its input, then removes everything. For root it has
/// mounts and a network of its own, which Podman's commands join. Without systemd nothing in /run is
/// needed from the host.
const KEEPER: &str = r#"
[ "$(id -u)" != 0 ] || ip link set lo up
[ -d /run/systemd/system ] || [ "$(id -u)" != 0 ] || mount -t tmpfs -o mode=755 tmpfs /run
echo ready
cat >/dev/null
podman --root "$0/storage" --runroot "$0/run" rm --all --force --time 0
podman --root "$0/storage" --runroot "$0/run" unmount --all
[ -d /run/systemd/system ] || find /sys/fs/cgroup/*/libpod_parent -depth -type d -exec rmdir {} \;
if [ "$(id -u)" = 0 ]; then rm -rf "$0"; else podman unshare rm -rf "$0"; fi
"#;

impl Podman {
    fn set_up() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("knarr-it-podman-")
            .tempdir()
            .unwrap()
            .keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        for sub in ["io", "networks", "volumes"] {
            fs::create_dir(dir.join(sub)).unwrap();
        }
        fs::write(dir.join("containers.conf"), configuration(&dir)).unwrap();
        let root = rustix::process::geteuid().is_root();
        let mut command = Command::new("setsid");
        if root {
            command.args(["unshare", "--mount", "--net"]);
        }
        command.args(["sh", "-c", KEEPER]).arg(&dir);
        let mut keeper = command
            .env("CONTAINERS_CONF", dir.join("containers.conf"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "no namespaces for podman");
        let this = Self { dir, keeper, root };
        this.import();
        this
    }

    fn import(&self) {
        let rootfs = self.dir.join("rootfs");
        bundle::rootfs(&rootfs);
        // As tests of systemd's notifications mount the host's programs.
        for dir in ["usr", "lib", "lib64", "run", "home"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        let tar = self.dir.join("image.tar");
        let made = Command::new("tar")
            .args(["--owner=0", "--group=0", "--numeric-owner", "-C"])
            .args([&rootfs, Path::new("-cf"), &tar, Path::new(".")])
            .status()
            .unwrap();
        assert!(made.success(), "tar");
        self.run("import -q", &[tar.to_str().unwrap(), IMAGE]).ok();
        fs::remove_file(tar).unwrap();
    }

    /// Whether it runs as root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.root
    }

    /// Makes an empty directory for a test's files.
    ///
    /// # Panics
    /// Where it cannot.
    #[must_use]
    pub fn fresh(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }

    /// The words that run the rest of a command line in Podman's namespaces.
    #[must_use]
    pub fn enter(&self) -> Vec<String> {
        if !self.root {
            return Vec::new();
        }
        let pid = self.keeper.id();
        vec![
            "nsenter".into(),
            format!("--mount=/proc/{pid}/ns/mnt"),
            format!("--net=/proc/{pid}/ns/net"),
            "--wdns=/".into(),
        ]
    }

    /// A command line in Podman's surroundings: its namespaces and environment.
    #[must_use]
    pub fn around(&self, program: &str) -> Command {
        let mut words = self.enter();
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null());
        command
    }

    /// The words that begin each command line of Podman.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let dir = self.dir.display();
        vec![
            "podman".into(),
            "--root".into(),
            format!("{dir}/storage"),
            "--runroot".into(),
            format!("{dir}/run"),
            "--storage-driver".into(),
            "overlay".into(),
        ]
    }

    /// Podman with the words of `line` and then `more`, which may have white space, as arguments.
    #[must_use]
    pub fn command(&self, line: &str, more: &[&str]) -> Command {
        let words = self.words();
        let mut command = self.around(&words[0]);
        command
            .args(&words[1..])
            .args(line.split_whitespace())
            .args(more);
        command
    }

    /// Starts a command of [`Podman::command`] or [`Podman::around`].
    #[must_use]
    pub fn spawn(&self, command: Command) -> Running {
        Running::start(command, &self.dir.join("io"))
    }

    /// Runs Podman to its end.
    #[track_caller]
    pub fn run(&self, line: &str, more: &[&str]) -> Outcome {
        self.spawn(self.command(line, more)).wait_within(LIMIT)
    }

    /// Runs Podman on a terminal of its own, with script(1). For each pair of `talk`: once the first
    /// text was printed, the second is typed.
    ///
    /// # Panics
    /// Where it does not end.
    #[track_caller]
    pub fn on_terminal(&self, line: &str, more: &[&str], talk: &[(&str, &str)]) -> Outcome {
        use std::io::Write as _;

        let mut shell = String::from("exec");
        for word in self
            .words()
            .iter()
            .map(String::as_str)
            .chain(line.split_whitespace())
            .chain(more.iter().copied())
        {
            let _ = write!(shell, " '{word}'");
        }
        let mut command = self.around("script");
        command.args(["-qec", &shell, "/dev/null"]);
        let (input, mut keyboard) = std::io::pipe().unwrap();
        command.env("SHELL", "/bin/sh").stdin(input);
        let running = self.spawn(command);
        for (wait_for, text) in talk {
            assert!(
                crate::process::eventually(LIMIT, || running.stdout_now().contains(wait_for)),
                "{wait_for:?} should appear in {:?}",
                running.stdout_now()
            );
            keyboard.write_all(text.as_bytes()).unwrap();
        }
        running.wait_within(LIMIT)
    }

    /// A field of `inspect`, as a Go template names it.
    #[track_caller]
    pub fn inspect(&self, container: &str, field: &str) -> String {
        let format = format!("{{{{{field}}}}}");
        self.run("inspect --format", &[&format, container])
            .ok()
            .text()
            .to_owned()
    }

    /// All of `inspect`.
    #[track_caller]
    pub fn inspect_all(&self, container: &str) -> Value {
        self.run("inspect", &[container]).ok().json()[0].clone()
    }
}
