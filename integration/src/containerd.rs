//! A containerd in a [`Pen`], and its command line client.
#![allow(
    clippy::missing_panics_doc,
    reason = "everything here fails by panicking"
)]

use std::fs;
use std::path::PathBuf;

use crate::cgroup::Driver;
use crate::daemon::{PATIENCE, Pen, Watch};
use crate::peers::Source;
use crate::runtime::{self, Outcome, Running};
use crate::{bundle, cgroup, process};

/// The image that every test uses.
pub const IMAGE: &str = "knarr.test/box:1";

/// The name of our shim.
pub const SHIM: &str = "containerd-shim-knarr-v2";

/// Our shim: `KNARR_SHIM_BIN`, or the newest that cargo built here, if it did.
#[must_use]
pub fn shim() -> Option<PathBuf> {
    match std::env::var_os("KNARR_SHIM_BIN") {
        Some(path) => Some(path.into()),
        None => runtime::newest_built(SHIM),
    }
}

/// A daemon and its image.
#[derive(Debug)]
pub struct Containerd {
    /// Which one it is.
    pub source: Source,
    /// Who makes the cgroups of its containers.
    pub driver: Driver,
    /// Whether its containers are held by our shim, and not by runc's with the runtime under test.
    pub shim: bool,
    /// Where it runs.
    pub pen: Pen,
}

impl Containerd {
    /// Starts the daemon with its Kubernetes side, whose only runtime is the one under test under the
    /// name `knarr`, configured as operators do it.
    #[must_use]
    pub fn for_pods(source: Source, driver: Driver) -> Self {
        let runtime = runtime::path().display();
        let systemd = driver == Driver::Systemd;
        // Version 3 has the plugin in two parts; the pause image belongs to the other one.
        let (version, plugin, own, other) = match source {
            Source::Newest => (
                3,
                "plugins.'io.containerd.cri.v1.runtime'",
                String::new(),
                format!(
                    "[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{IMAGE}'\n"
                ),
            ),
            Source::Debian => (
                2,
                "plugins.'io.containerd.grpc.v1.cri'",
                format!("sandbox_image = '{IMAGE}'\n"),
                String::new(),
            ),
        };
        // Not on every machine may root lower what the OOM killer goes by.
        let config = format!(
            "[{plugin}]\nrestrict_oom_score_adj = true\n{own}\
             [{plugin}.containerd]\ndefault_runtime_name = 'knarr'\n\
             [{plugin}.containerd.runtimes.knarr]\nruntime_type = 'io.containerd.runc.v2'\n\
             [{plugin}.containerd.runtimes.knarr.options]\nBinaryName = '{runtime}'\n\
             SystemdCgroup = {systemd}\n{other}"
        );
        Self::configured(source, driver, version, &config, &["sleep", "6000"])
    }

    /// As [`Containerd::new`], with our shim to hold its containers.
    #[must_use]
    pub fn with_shim(source: Source, driver: Driver) -> Self {
        let mut this = Self::new(source, driver);
        let shim = shim().expect("no shim below target/");
        std::os::unix::fs::symlink(shim, this.pen.bin().join(SHIM)).unwrap();
        this.shim = true;
        this
    }

    /// Starts the daemon and imports the image.
    #[must_use]
    pub fn new(source: Source, driver: Driver) -> Self {
        // Of no use to ctr, and it looks for network plugins.
        let config = "disabled_plugins = ['io.containerd.grpc.v1.cri', \
            'io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images']\n";
        Self::configured(source, driver, 2, config, &["/bin/sh"])
    }

    fn configured(
        source: Source,
        driver: Driver,
        version: u32,
        config: &str,
        command: &[&str],
    ) -> Self {
        let this = Self {
            source,
            driver,
            shim: false,
            pen: Pen::new(&source.path(), driver),
        };
        // /run is private, so the default places below it will do.
        let root = this.pen.path("root");
        let text = format!("version = {version}\nroot = '{}'\n{config}", root.display());
        fs::write(this.pen.path("config.toml"), text).unwrap();
        this.start();
        let image = this.pen.path("box.tar");
        bundle::image(&this.pen.path("image"), &image, IMAGE, command);
        for namespace in ["default", "k8s.io"] {
            let image = image.to_str().unwrap();
            this.ctr(&["-n", namespace, "image", "import", image]).ok();
        }
        this
    }

    /// Starts the daemon, also again.
    pub fn start(&self) {
        let program = self.source.find("containerd").unwrap();
        let config = self.pen.path("config.toml");
        self.pen.daemon(
            "containerd",
            &[
                program.to_str().unwrap(),
                "--config",
                config.to_str().unwrap(),
            ],
        );
        self.pen
            .wait_for("containerd", || self.ctr(&["version"]).code == 0);
    }

    /// Shows what the daemon logs from here on, if the test fails.
    pub fn watch(&self) -> Watch<'_> {
        self.pen.watch("containerd")
    }

    /// Runs ctr to its end.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> Outcome {
        self.pen.run(&self.args(args))
    }

    /// The command line of ctr with these arguments.
    pub fn args<'a>(&self, args: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["ctr"];
        all.extend(args);
        all
    }

    /// Starts ctr.
    pub fn spawn(&self, args: &[&str]) -> Running {
        self.pen.spawn(self.pen.command(&self.args(args)))
    }

    /// The arguments of `ctr run` with the runtime under test and a cgroup of this pen.
    pub fn run_args<'a>(&'a self, flags: &[&'a str], id: &'a str, script: &'a str) -> Vec<String> {
        let mut all = vec!["run".to_owned()];
        all.extend(match self.shim {
            true => ["--runtime".to_owned(), "io.containerd.knarr.v2".to_owned()],
            false => [
                "--runc-binary".to_owned(),
                runtime::path().to_str().unwrap().to_owned(),
            ],
        });
        match self.driver {
            Driver::Cgroupfs => all.extend(["--cgroup".to_owned(), self.cgroup(id)]),
            Driver::Systemd => {
                if self.shim {
                    // The flag below is for runc's shim alone.
                    let table = self.pen.path("options.toml");
                    fs::write(&table, "SystemdCgroup = true\n").unwrap();
                    all.push("--runtime-config-path".to_owned());
                    all.push(table.to_str().unwrap().to_owned());
                } else {
                    all.push("--runc-systemd-cgroup".to_owned());
                }
                let place = format!("{}:ctr:{id}", self.pen.cgroup().trim_start_matches('/'));
                all.extend(["--cgroup".to_owned(), place]);
            }
        }
        all.extend(flags.iter().map(ToString::to_string));
        all.extend([IMAGE, id, "/bin/sh", "-c", script].map(String::from));
        all
    }

    /// The cgroup of that container.
    pub fn cgroup(&self, id: &str) -> String {
        match self.driver {
            Driver::Cgroupfs => format!("{}/{id}", self.pen.cgroup()),
            Driver::Systemd => format!("{}/ctr-{id}.scope", self.pen.cgroup()),
        }
    }

    /// `ctr run --rm` with a shell script, in the foreground.
    #[track_caller]
    pub fn run(&self, flags: &[&str], id: &str, script: &str) -> Outcome {
        let flags: Vec<&str> = [&["--rm"], flags].concat();
        let args = self.run_args(&flags, id, script);
        self.ctr(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A container in the background; gone at the end of the test.
    #[track_caller]
    pub fn detached(&self, flags: &[&str], id: &'static str, script: &str) -> Detached<'_> {
        let flags: Vec<&str> = [&["-d"], flags].concat();
        let args = self.run_args(&flags, id, script);
        self.ctr(&args.iter().map(String::as_str).collect::<Vec<_>>())
            .ok();
        Detached { daemon: self, id }
    }

    /// The root directory that a container's init sees, from the host.
    pub fn root_of(&self, id: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init_of(id)))
    }

    /// A container's init, as this process counts.
    pub fn init_of(&self, id: &str) -> u32 {
        *cgroup::processes(&self.cgroup(id))
            .first()
            .expect("processes of the container")
    }

    /// A file of the container's cgroup: its name with version 1, and with version 2.
    pub fn figure(&self, id: &str, controller: &str, v1: &str, v2: &str) -> String {
        let file = if cgroup::unified() { v2 } else { v1 };
        cgroup::read(controller, &self.cgroup(id), file)
    }
}

/// A running container.
#[derive(Debug)]
pub struct Detached<'a> {
    daemon: &'a Containerd,
    /// Its id.
    pub id: &'static str,
}

impl Detached<'_> {
    /// The status that `ctr task ls` shows.
    pub fn status(&self) -> Option<String> {
        let listed = self.daemon.ctr(&["task", "ls"]).ok();
        listed.stdout.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(self.id)).then(|| words.nth(1).unwrap().to_owned())
        })
    }

    /// Waits for that status.
    #[track_caller]
    pub fn becomes(&self, status: &str) {
        assert!(
            process::eventually(PATIENCE, || self.status().as_deref() == Some(status)),
            "{} should become {status}, is {:?}",
            self.id,
            self.status()
        );
    }

    /// Deletes the task: its end may take containerd a moment to notice.
    #[track_caller]
    pub fn delete(&self) {
        let mut last = None;
        let gone = process::eventually(PATIENCE, || {
            last = Some(self.daemon.ctr(&["task", "rm", self.id]));
            self.status().is_none()
        });
        assert!(gone, "cannot be deleted: {last:#?}");
    }

    /// `ctr task exec` with a shell script.
    #[track_caller]
    pub fn exec(&self, flags: &[&str], script: &str) -> Outcome {
        let name = exec_name();
        let args = [
            &["task", "exec", "--exec-id", &name],
            flags,
            &[self.id, "/bin/sh", "-c", script],
        ]
        .concat();
        self.daemon.ctr(&args)
    }

    /// Waits until a command inside succeeds.
    #[track_caller]
    pub fn wait_until(&self, script: &str) {
        assert!(
            process::eventually(PATIENCE, || self.exec(&[], script).code == 0),
            "never true in {}: {script}",
            self.id
        );
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.daemon.ctr(&["task", "rm", "--force", self.id]);
            self.daemon.ctr(&["container", "rm", self.id]);
        }
    }
}

/// A name that no other exec has.
pub fn exec_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("e{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// `ctr events` while something happens: the topics and their text.
#[derive(Debug)]
pub struct Events {
    running: Option<Running>,
}

impl Events {
    /// Starts to listen.
    pub fn listen(it: &Containerd) -> Self {
        let this = Self {
            running: Some(it.spawn(&["events"])),
        };
        // It says nothing when it is ready: what happens until an event is seen does not count.
        let seen = process::eventually(PATIENCE, || {
            it.ctr(&["namespace", "create", "probe"]);
            it.ctr(&["namespace", "rm", "probe"]);
            this.text().contains("/namespaces/")
        });
        assert!(seen, "ctr events stays silent");
        this
    }

    /// All that was told so far.
    pub fn text(&self) -> String {
        self.running.as_ref().unwrap().stdout_now()
    }

    /// The topics of that container, in order.
    pub fn topics(&self, id: &str) -> Vec<String> {
        self.text()
            .lines()
            .filter(|line| line.contains(&format!("\"{id}\"")))
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
            .map(str::to_owned)
            .collect()
    }

    /// Waits for an event of that topic, and gives all topics of that container.
    #[track_caller]
    pub fn wait(&self, id: &str, topic: &str) -> Vec<String> {
        assert!(
            process::eventually(PATIENCE, || self
                .topics(id)
                .iter()
                .any(|seen| seen == topic)),
            "no {topic} of {id}:\n{}",
            self.text()
        );
        self.topics(id)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
            let _ = running.wait();
        }
    }
}
