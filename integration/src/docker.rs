//! A dockerd in a [`Pen`], with the runtime under test as its default, and its client; on containerd, or
//! on the daemon under test in containerd's place.
#![allow(
    clippy::missing_panics_doc,
    reason = "everything here fails by panicking"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::cgroup::Driver;
use crate::daemon::{PATIENCE, Pen, Watch};
use crate::peers::{self, Source};
use crate::runtime::{self, Outcome, Running};
use crate::{bundle, cgroup, containerd, json, pair, process};

/// The image that every test uses.
pub const IMAGE: &str = "box:1";

/// The name under which the runtime is configured.
pub const RUNTIME: &str = "knarr";

/// A daemon and its image.
#[derive(Debug)]
pub struct Docker {
    /// Which one it is.
    pub source: Source,
    /// Who makes the cgroups of its containers.
    pub driver: Driver,
    /// Where it runs.
    pub pen: Pen,
    manager: Manager,
}

/// What dockerd gives its containers and images to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// containerd, whose shim calls the runtime under test.
    Containerd,
    /// knarrd, with its own shim.
    Knarrd,
}

/// A container in the background, gone at the end of the test.
#[derive(Debug)]
pub struct Detached<'a> {
    daemon: &'a Docker,
    /// Its name.
    pub name: &'static str,
}

impl Docker {
    /// Starts the daemon and loads the image.
    ///
    /// The runtime under test is its default runtime, and stands as `runc` at the head of `PATH`:
    /// both ways in which an operator can put it in runc's place.
    #[must_use]
    pub fn new(source: Source, driver: Driver) -> Self {
        Self::upon(Manager::Containerd, source, driver)
    }

    /// The same with knarrd instead of containerd, and with nothing configured but its socket. The newest
    /// daemons keep images there too.
    ///
    /// # Panics
    /// Where the shim is not built.
    #[must_use]
    pub fn on_knarrd(source: Source, driver: Driver) -> Self {
        Self::upon(Manager::Knarrd, source, driver)
    }

    fn upon(manager: Manager, source: Source, driver: Driver) -> Self {
        let mut pen = Pen::new(&source.path(), driver);
        let socket = format!("unix://{}", pen.path("docker.sock").display());
        pen.set_env("DOCKER_HOST", &socket);
        pen.set_env("DOCKER_CONFIG", pen.path("client"));
        let this = Self {
            source,
            driver,
            pen,
            manager,
        };
        symlink(
            peers::client("docker").unwrap(),
            this.pen.bin().join("docker"),
        )
        .unwrap();
        symlink(runtime::path(), this.pen.bin().join("runc")).unwrap();
        if let Ok(tini) = Path::new("/usr/bin/tini-static").canonicalize() {
            symlink(tini, this.pen.bin().join("docker-init")).unwrap();
        }
        let plugins = this.pen.path("client/cli-plugins");
        fs::create_dir_all(&plugins).unwrap();
        for name in ["docker-compose", "docker-buildx"] {
            if let Some(client) = peers::client(name) {
                symlink(client, plugins.join(name)).unwrap();
            }
        }
        let name = match driver {
            Driver::Cgroupfs => "cgroupfs",
            Driver::Systemd => "systemd",
        };
        let mut config = json!({
            "hosts": [socket],
            "containerd": this.socket(),
            "data-root": this.pen.path("data"),
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "cgroup-parent": match driver {
                Driver::Cgroupfs => this.pen.cgroup(),
                Driver::Systemd => this.pen.cgroup().trim_start_matches('/'),
            },
            "exec-opts": [format!("native.cgroupdriver={name}")],
            // For checkpoints.
            "experimental": true,
            "live-restore": true,
        });
        match manager {
            Manager::Containerd => {
                config["default-runtime"] = RUNTIME.into();
                config["runtimes"] = json!({RUNTIME: {"path": runtime::path()}});
                let text = format!(
                    "version = 2\nroot = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri', \
                     'io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images']\n",
                    this.pen.path("containerd").display()
                );
                fs::write(this.pen.path("containerd.toml"), text).unwrap();
            }
            Manager::Knarrd => {
                let shim = containerd::shim().expect("containerd-shim-knarr-v2 is not built");
                symlink(shim, this.pen.bin().join(containerd::SHIM)).unwrap();
            }
        }
        fs::write(this.pen.path("daemon.json"), config.to_string()).unwrap();
        this.start();
        let image = this.pen.path("box.tar");
        bundle::image(&this.pen.path("image"), &image, IMAGE, &["/bin/sh"]);
        this.docker(&["load", "-i", image.to_str().unwrap()]).ok();
        this
    }

    /// The socket of what is in containerd's place.
    #[must_use]
    pub fn socket(&self) -> &'static str {
        match self.manager {
            Manager::Containerd => "/run/containerd/containerd.sock",
            Manager::Knarrd => "/run/knarrd/knarrd.sock",
        }
    }

    /// Starts the daemon, also again, and its containerd beside it, as distributions do: dockerd gives one that
    /// it starts itself 15 seconds, which are too few for a slow machine.
    pub fn start(&self) {
        self.start_manager();
        self.start_dockerd();
    }

    /// Starts what is in containerd's place, also again.
    pub fn start_manager(&self) {
        let (name, program, rest) = match self.manager {
            Manager::Containerd => {
                let program = self.source.find("containerd").unwrap();
                let config = self.pen.path("containerd.toml");
                ("containerd", program, ["--config".into(), config])
            }
            Manager::Knarrd => {
                let root = self.pen.path("knarrd");
                ("knarrd", pair::knarrd(), ["--root".into(), root])
            }
        };
        let args = [&program, &rest[0], &rest[1]].map(|arg| arg.to_str().unwrap());
        self.pen.daemon(name, &args);
        let answers = || self.pen.run(&["ctr", "-a", self.socket(), "version"]).code == 0;
        self.pen.wait_for(name, answers);
    }

    /// Starts dockerd, also again.
    pub fn start_dockerd(&self) {
        let program = self.source.find("dockerd").unwrap();
        let config = self.pen.path("daemon.json");
        let args = [
            program.to_str().unwrap(),
            "--config-file",
            config.to_str().unwrap(),
        ];
        self.pen.daemon("dockerd", &args);
        self.pen
            .wait_for("dockerd", || self.docker(&["version"]).code == 0);
    }

    /// Shows what the daemon logs from here on, if the test fails.
    #[must_use]
    pub fn watch(&self) -> Watch<'_> {
        self.pen.watch("dockerd")
    }

    /// Runs the client to its end.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Outcome {
        self.pen.run(&[&["docker"], args].concat())
    }

    /// Starts the client.
    #[must_use]
    pub fn spawn(&self, args: &[&str]) -> Running {
        let args = [&["docker"], args].concat();
        self.pen.spawn(self.pen.command(&args))
    }

    /// `docker run --rm` with a shell script, to its end.
    #[track_caller]
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome {
        let args = [&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat();
        self.docker(&args)
    }

    /// `docker run -d` with a shell script.
    #[track_caller]
    pub fn detached<'a>(
        &'a self,
        flags: &[&str],
        name: &'static str,
        script: &str,
    ) -> Detached<'a> {
        let args = [
            &["run", "-d", "--name", name],
            flags,
            &[IMAGE, "sh", "-c", script],
        ]
        .concat();
        self.docker(&args).ok();
        Detached { daemon: self, name }
    }
}

impl Detached<'_> {
    /// One field of `docker inspect`, by its Go template.
    #[track_caller]
    pub fn inspect(&self, template: &str) -> String {
        let out = self
            .daemon
            .docker(&["inspect", "-f", template, self.name])
            .ok();
        out.text().to_owned()
    }

    /// The status of the container.
    #[track_caller]
    pub fn status(&self) -> String {
        self.inspect("{{.State.Status}}")
    }

    /// Waits until a field has that value.
    #[track_caller]
    pub fn becomes(&self, template: &str, value: &str) {
        assert!(
            process::eventually(PATIENCE, || self.inspect(template) == value),
            "{template} of {} should become {value}, is {}",
            self.name,
            self.inspect(template)
        );
    }

    /// `docker exec` with a shell script.
    #[track_caller]
    pub fn exec(&self, flags: &[&str], script: &str) -> Outcome {
        let args = [&["exec"], flags, &[self.name, "sh", "-c", script]].concat();
        self.daemon.docker(&args)
    }

    /// Waits until a command inside succeeds.
    #[track_caller]
    pub fn wait_until(&self, script: &str) {
        assert!(
            process::eventually(PATIENCE, || self.exec(&[], script).code == 0),
            "never true in {}: {script}",
            self.name
        );
    }

    /// The container's cgroup.
    #[track_caller]
    pub fn cgroup(&self) -> String {
        let (parent, id) = (self.daemon.pen.cgroup(), self.inspect("{{.Id}}"));
        match self.daemon.driver {
            Driver::Cgroupfs => format!("{parent}/{id}"),
            Driver::Systemd => format!("{parent}/docker-{id}.scope"),
        }
    }

    /// A file of the container's cgroup: its name with version 1, and with version 2.
    #[track_caller]
    pub fn figure(&self, controller: &str, v1: &str, v2: &str) -> String {
        let file = if cgroup::unified() { v2 } else { v1 };
        cgroup::read(controller, &self.cgroup(), file)
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.daemon.docker(&["rm", "-f", self.name]);
        }
    }
}
