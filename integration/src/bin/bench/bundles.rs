//! What is run: a bundle for each runtime, and the cycle of operations on it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use knarr_integration::{Value, bundle, cgroup, json, process};

use crate::measure::{Op, Sample, Warmer, measure};
use crate::trace::{self, Counts};
use crate::{Runtime, Which, floor};

/// The configuration dockerd writes, with root file system, bound files and cgroup path left open.
const DOCKER: &str = include_str!("../../../bundles/docker-like.json");

/// One runtime with its bundles, state root and cgroup.
#[derive(Debug)]
pub struct Place {
    /// Whose place it is.
    pub runtime: Runtime,
    dir: tempfile::TempDir,
    cgroup: String,
    count: u32,
}

impl Place {
    /// Makes two bundles: `stay`, whose process sleeps, and `true`, whose process ends at once.
    ///
    /// `knarr` compiles the filter for the floor.
    pub fn new(runtime: &Runtime, which: Which, knarr: Option<&Runtime>) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("knarr-bench-")
            .tempdir()
            .unwrap();
        let base = std::env::var(crate::density::BASE).unwrap_or_default();
        let cgroup = format!("{base}/knarr-bench-{}-{}", std::process::id(), runtime.name);
        for (name, args) in [
            ("stay", json!(["/bin/sleep", "600"])),
            ("true", json!(["/bin/true"])),
        ] {
            let bundle = dir.path().join(name);
            bundle::rootfs(&bundle.join("rootfs"));
            let mut config = match which {
                Which::Plain => plain(),
                _ => docker(&bundle),
            };
            config["process"]["args"] = args;
            config["linux"]["cgroupsPath"] = json!(format!("{cgroup}/{name}"));
            // crun 1.8 refuses 1.3.0 outright; the configuration is the same.
            if runtime.name.starts_with("crun") {
                config["ociVersion"] = json!("1.0.2");
            }
            fs::write(bundle.join("config.json"), config.to_string()).unwrap();
            if let Some(knarr) = knarr.filter(|_| runtime.name == floor::NAME) {
                floor::tell(knarr, &bundle, &format!("{cgroup}/{name}"));
            }
        }
        Self {
            runtime: runtime.clone(),
            dir,
            cgroup,
            count: 0,
        }
    }

    fn bundle(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pid_file(&self) -> PathBuf {
        self.bundle("pid")
    }

    /// The command of one operation.
    fn command(&self, op: Op, id: &str) -> Command {
        let mut command = knarr_integration::runtime::command(&self.runtime.path);
        command.arg("--root").arg(self.bundle("state"));
        match op {
            Op::Create => command
                .args(["create", "--pid-file"])
                .arg(self.pid_file())
                .arg("--bundle")
                .arg(self.bundle("stay"))
                .arg(id),
            Op::Start => command.args(["start", id]),
            Op::State => command.args(["state", id]),
            Op::Exec => command.args(["exec", id, "/bin/true"]),
            Op::Kill => command.args(["kill", id, "KILL"]),
            Op::Delete => command.args(["delete", id]),
            Op::Run => command
                .args(["run", "--bundle"])
                .arg(self.bundle("true"))
                .arg(id),
            Op::Cycle => unreachable!("no command"),
        };
        command
    }

    /// Every operation once, in the order of a container's life.
    pub fn cycle(&mut self, warmer: &Warmer, hot: bool) -> Vec<(Op, Option<Sample>)> {
        self.count += 1;
        let id = format!("b{}", self.count);
        let mut samples = Vec::new();
        for op in Op::ALL {
            warmer.prepare(hot);
            let name = if op == Op::Run {
                format!("{id}r")
            } else {
                id.clone()
            };
            let mut sample = measure(self.command(op, &name), op != Op::Kill);
            if let Some(sample) = &mut sample {
                self.after(op, sample);
            }
            let failed = sample.is_none();
            samples.push((op, sample));
            if failed {
                self.clean(&name);
                break;
            }
        }
        samples
    }

    /// One container's life without anybody measuring; whether every step succeeded.
    pub fn live(&mut self) -> bool {
        self.count += 1;
        let id = format!("d{}", self.count);
        let done = [Op::Create, Op::Start, Op::Exec, Op::Kill, Op::Delete]
            .into_iter()
            .all(|op| {
                let sample = measure(self.command(op, &id), false);
                sample.is_some_and(|mut sample| {
                    self.after(op, &mut sample);
                    true
                })
            });
        if !done {
            self.clean(&id);
        }
        done
    }

    /// What is left of containers that are gone: entries of the state root, cgroups, mounts.
    pub fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.bundle("state"));
        let states = entries.into_iter().flatten().flatten().filter_map(|entry| {
            // crun keeps a cache there.
            let name = entry.file_name().into_string().ok()?;
            (!name.starts_with('.')).then(|| format!("state {name}"))
        });
        let cgroups = cgroup::hierarchies().into_iter().filter_map(|hierarchy| {
            let dir = hierarchy
                .join(self.cgroup.trim_start_matches('/'))
                .join("stay");
            dir.exists().then(|| dir.display().to_string())
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = self.dir.path().to_string_lossy().into_owned();
        let mounts = mounts
            .lines()
            .filter(|line| line.contains(&own))
            .map(str::to_owned);
        states.chain(cgroups).chain(mounts).collect()
    }

    /// Where the configuration with the seccomp profile is.
    pub fn config(&self) -> PathBuf {
        self.bundle("true").join("config.json")
    }

    /// What belongs to an operation after the runtime has ended.
    fn after(&self, op: Op, sample: &mut Sample) {
        match op {
            Op::Create => sample.cpu += crate::measure::scheduled(self.init()),
            Op::Kill => {
                let init = self.init();
                process::eventually(Duration::from_secs(5), || !process::alive(init));
                crate::measure::reap();
            }
            _ => {}
        }
    }

    fn init(&self) -> u32 {
        fs::read_to_string(self.pid_file())
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Every operation twice, for counting: under strace and for its memory.
    pub fn traced(&mut self) -> Vec<(Op, Option<Counts>, Option<u64>)> {
        let log = self.bundle("log");
        let mut all = Vec::new();
        for op in Op::ALL {
            let id = self.prepared(op);
            let counts = trace::count(&self.command(op, &id), &log);
            self.clean(&id);
            let id = self.prepared(op);
            let memory = trace::memory(&self.command(op, &id), &log);
            self.clean(&id);
            all.push((op, counts, memory));
        }
        all
    }

    /// A container in the state in which `op` makes sense.
    fn prepared(&mut self, op: Op) -> String {
        self.count += 1;
        let id = format!("t{}", self.count);
        let before: &[Op] = match op {
            Op::Create | Op::Run | Op::Cycle => &[],
            Op::Start | Op::State => &[Op::Create],
            Op::Exec | Op::Kill => &[Op::Create, Op::Start],
            Op::Delete => &[Op::Create, Op::Start, Op::Kill],
        };
        for step in before {
            if let Some(mut sample) = measure(self.command(*step, &id), false) {
                self.after(*step, &mut sample);
            }
        }
        id
    }

    /// Removes a container whatever its state.
    fn clean(&self, id: &str) {
        let mut command = knarr_integration::runtime::command(&self.runtime.path);
        command
            .arg("--root")
            .arg(self.bundle("state"))
            .args(["delete", "--force", id]);
        let _ = measure(command, false);
        for name in ["stay", "true"] {
            cgroup::remove(&format!("{}/{name}", self.cgroup));
        }
        crate::measure::reap();
        let _ = fs::remove_dir_all(self.bundle("state").join(id));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        cgroup::remove(&self.cgroup);
        crate::measure::reap();
    }
}

/// What `runc spec` writes, without the terminal; with the ten masks that the figures were taken with.
fn plain() -> Value {
    let mut config = bundle::runc_spec();
    config["linux"]["maskedPaths"] = json!([
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/sys/firmware",
        "/proc/scsi",
    ]);
    config
}

/// The Docker-like configuration with its four bound files made below the bundle.
fn docker(bundle: &std::path::Path) -> Value {
    let files = bundle.join("files");
    fs::create_dir_all(&files).unwrap();
    let mut config: Value = serde_json::from_str(DOCKER).unwrap();
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "bind" {
            let name = mount["source"].as_str().unwrap().to_owned();
            let path = bundle.join(&name);
            fs::write(&path, format!("{name}\n")).unwrap();
            mount["source"] = json!(path);
        }
    }
    config
}
