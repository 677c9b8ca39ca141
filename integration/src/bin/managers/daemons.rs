//! The two daemons: started in a pen, each in a cgroup of its own that counts its CPU time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_integration::daemon::{PATIENCE, Pen};
use knarr_integration::peers::Source;
use knarr_integration::{cgroup, containerd, process, runtime};

use crate::IMAGE;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// containerd with its shim and runc.
    Containerd,
    /// knarrd with its shim.
    Knarrd,
}

impl Kind {
    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Containerd, Self::Knarrd];

    /// The daemon's program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Knarrd => "knarrd",
        }
    }
}

/// Puts knarr's shim where knarrd looks for it.
pub fn provide_shim(pen: &Pen) {
    let shim = containerd::shim().expect("no containerd-shim-knarr-v2: see `make bench`");
    std::os::unix::fs::symlink(shim, pen.bin().join(containerd::SHIM)).unwrap();
}

/// A daemon that runs until it is dropped.
#[derive(Debug)]
pub struct Daemon<'a> {
    /// Which one it is.
    pub kind: Kind,
    pen: &'a Pen,
    /// The directory in the pen that it keeps everything below; it may be seen in there alone.
    root: String,
}

impl<'a> Daemon<'a> {
    /// Starts it with everything that it keeps below `root`, a name in the pen.
    pub fn start(pen: &'a Pen, kind: Kind, root: &str) -> Self {
        let this = Self {
            kind,
            pen,
            root: root.to_owned(),
        };
        this.up();
        this
    }

    fn up(&self) {
        self.launch();
        self.pen.wait_for(self.kind.name(), || {
            self.command(&["version"])
                .output()
                .unwrap()
                .status
                .success()
        });
    }

    /// Starts its program and waits for nothing.
    pub fn launch(&self) {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let program = match self.kind {
            Kind::Containerd => Source::Newest
                .find("containerd")
                .expect("no containerd: `make peers` brings it"),
            Kind::Knarrd => knarrd(),
        };
        let root = self.pen.path(&self.root).join(self.kind.name());
        let root = root.to_str().unwrap();
        let config = format!(
            "version = 3\nroot = '{root}'\nstate = '{}'\n\
             disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.runtime', \
             'io.containerd.cri.v1.images']\n[grpc]\naddress = '{}'\n",
            path("state"),
            self.socket().display()
        );
        fs::write(path("config.toml"), config).unwrap();
        let socket = self.socket();
        let args = match self.kind {
            Kind::Containerd => vec!["--config".to_owned(), path("config.toml")],
            Kind::Knarrd => vec![
                "--root".to_owned(),
                root.to_owned(),
                "--state".to_owned(),
                path("state"),
                "--address".to_owned(),
                socket.to_str().unwrap().to_owned(),
            ],
        };
        let place = self.cgroup_dir();
        fs::create_dir_all(&place).unwrap();
        // So that all that it starts is counted with it.
        let line = format!("echo 0 >{}/cgroup.procs; exec \"$@\"", place.display());
        let mut all = vec!["/bin/sh", "-c", &line, "sh", program.to_str().unwrap()];
        all.extend(args.iter().map(String::as_str));
        self.pen.daemon(self.kind.name(), &all);
    }

    /// Ends it and starts it again.
    pub fn restart(&mut self) {
        self.down("-TERM");
        self.up();
    }

    /// Ends it as the kernel ends a process that has too much memory.
    pub fn kill(&mut self) {
        self.down("-KILL");
    }

    fn down(&self, signal: &str) {
        let pid = self.pid().to_string();
        let killed = runtime::command(Path::new("kill"))
            .args([signal, &pid])
            .status();
        assert!(killed.unwrap().success());
        let gone = || !Path::new("/proc").join(&pid).join("exe").exists();
        assert!(
            process::eventually(PATIENCE, gone),
            "{} stays",
            self.kind.name()
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        let root = self.root.replace('/', "-");
        self.pen
            .path(&format!("{root}-{}-{name}", self.kind.name()))
    }

    /// Where clients connect to.
    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// The cgroup in which a container's own is made.
    pub fn cgroup_of(&self, id: &str) -> String {
        format!("{}/{}-{id}", self.pen.cgroup(), self.kind.name())
    }

    fn cgroup_dir(&self) -> PathBuf {
        let root = match cgroup::unified() {
            true => "/sys/fs/cgroup",
            false => "/sys/fs/cgroup/cpuacct",
        };
        PathBuf::from(format!("{root}{}/{}", self.pen.cgroup(), self.kind.name()))
    }

    /// The CPU time of the daemon and of all that it has started, containers aside.
    pub fn cpu(&self) -> Duration {
        let read = |name| fs::read_to_string(self.cgroup_dir().join(name)).unwrap();
        if !cgroup::unified() {
            return Duration::from_nanos(read("cpuacct.usage").trim().parse().unwrap());
        }
        let stat = read("cpu.stat");
        let usage = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        Duration::from_micros(usage.unwrap().parse().unwrap())
    }

    /// Processes of the daemon's cgroup whose program has this name.
    fn processes(&self, is_ours: impl Fn(&str) -> bool) -> Vec<u32> {
        let list = fs::read_to_string(self.cgroup_dir().join("cgroup.procs")).unwrap();
        let pids = list.lines().map(|line| line.parse().unwrap());
        pids.filter(|pid: &u32| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            is_ours(&name)
        })
        .collect()
    }

    fn pid(&self) -> u32 {
        let found = self.processes(|name| name == self.kind.name());
        *found.first().expect("the daemon has ended")
    }

    /// Proportional memory of the daemon, in MB.
    pub fn memory(&self) -> f64 {
        pss(self.pid())
    }

    /// The same of all shims together.
    pub fn shim_memory(&self) -> f64 {
        // Our shim's program has no path: it runs from a clone that nothing can write to.
        let shims = self.processes(|name| name != self.kind.name());
        shims.into_iter().map(pss).sum()
    }

    /// ctr, about to be started in the pen.
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let ctr = Source::Newest
            .find("ctr")
            .expect("no ctr: `make peers` brings it");
        let socket = self.socket();
        let start = [ctr.to_str().unwrap(), "-a", socket.to_str().unwrap()];
        self.pen.command(&[&start, args].concat())
    }

    /// Runs ctr to its end; what it printed.
    pub fn ctr(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(
            out.status.success(),
            "{}: ctr {args:?}: {}",
            self.kind.name(),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a container.
    pub fn run(&self, flags: &[&str], id: &str, args: &[&str]) {
        let cgroup = self.cgroup_of(id);
        let start = ["run", "--cgroup", &cgroup];
        self.ctr(&[&start, flags, &[IMAGE, id], args].concat());
    }

    /// Ends a container and removes all of it.
    pub fn remove(&self, id: &str) {
        self.ctr(&["task", "rm", "-f", id]);
        self.ctr(&["container", "rm", id]);
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.down("-TERM");
        }
    }
}

/// The daemon that is measured: `KNARRD_BIN`, or the one beside this program.
fn knarrd() -> PathBuf {
    match std::env::var_os("KNARRD_BIN") {
        Some(path) => path.into(),
        None => std::env::current_exe().unwrap().with_file_name("knarrd"),
    }
}

/// Proportional set size in MB.
fn pss(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
