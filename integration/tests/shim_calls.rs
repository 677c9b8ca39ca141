//! The shim's services, called as a daemon calls them, without a daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::io::Read;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use knarr_integration::cgroup::Driver;
use knarr_integration::shim::{Shim, Station};
use knarr_integration::{cgroup, containerd, process, skip};
use knarr_proto::any;
use knarr_proto::containerd::runc::v1::{CheckpointOptions, Options};
use knarr_proto::containerd::runtime::bootstrap::v1::Extension;
use knarr_proto::containerd::runtime::sandbox::v1 as sandbox;
use knarr_proto::containerd::task::v2 as task;
use knarr_proto::events::{TaskCheckpointed, TaskDelete, TaskExit, TaskStart};
use knarr_proto::prost::Message;
use knarr_proto::runtimeoptions::v1::Options as Table;
use knarr_proto::ttrpc::{Code, Status};
use knarr_proto::types::Mount;

/// The place that all tests share.
fn on(test: impl FnOnce(&Station)) {
    static STATION: OnceLock<Station> = OnceLock::new();
    if containerd::shim().is_none() {
        skip!("{} is not built", containerd::SHIM);
    }
    test(STATION.get_or_init(|| Station::new(Driver::Cgroupfs)));
}

/// A sandbox with a bundle.
struct Pod<'a> {
    shim: Shim<'a>,
    id: String,
}

impl<'a> Pod<'a> {
    fn new(station: &'a Station, id: &str, script: Option<&str>) -> Self {
        let bundle = station.bundle(id, script.unwrap_or_default(), |_| {});
        if script.is_none() {
            std::fs::remove_file(bundle.join("config.json")).unwrap();
        }
        let pod = Pod {
            shim: station.shim(id, &bundle),
            id: id.to_owned(),
        };
        let request = sandbox::CreateSandboxRequest {
            sandbox_id: id.to_owned(),
            bundle_path: bundle.display().to_string(),
            ..sandbox::CreateSandboxRequest::default()
        };
        pod.call::<sandbox::CreateSandboxResponse>("CreateSandbox", &request)
            .unwrap();
        let again: Result<(), _> = pod.call("CreateSandbox", &request);
        assert_eq!(again.unwrap_err().code, Code::AlreadyExists);
        pod
    }

    fn call<R: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        self.shim.call_sandbox(method, request)
    }

    /// Calls a method whose request is the id alone.
    fn ask<R: Message + Default>(&self, method: &str) -> Result<R, Status> {
        let sandbox_id = self.id.clone();
        self.call(method, &sandbox::PingRequest { sandbox_id })
    }

    fn status(&self) -> sandbox::SandboxStatusResponse {
        self.ask("SandboxStatus").unwrap()
    }

    fn stop(&self, timeout_secs: u32) {
        let sandbox_id = self.id.clone();
        let request = sandbox::StopSandboxRequest {
            sandbox_id,
            timeout_secs,
        };
        self.call::<()>("StopSandbox", &request).unwrap();
    }

    fn ends(self) {
        self.ask::<()>("ShutdownSandbox").unwrap();
        assert!(self.shim.ends());
        assert!(process::eventually(Duration::from_secs(5), || {
            !self.shim.socket().exists()
        }));
    }
}

#[test]
fn a_sandbox_of_the_shim_alone() {
    on(|station| {
        let pod = Pod::new(station, "alone", None);
        assert_eq!(pod.status().state, "SANDBOX_NOTREADY");
        let started: sandbox::StartSandboxResponse = pod.ask("StartSandbox").unwrap();
        assert_eq!(started.pid, 0);
        assert!(started.created_at.is_some());
        let again = pod.ask::<()>("StartSandbox").unwrap_err();
        assert_eq!(again.code, Code::FailedPrecondition);
        let status = pod.status();
        assert_eq!((&*status.state, status.pid), ("SANDBOX_READY", 0));
        assert_eq!(status.exited_at, None);
        let platform: sandbox::PlatformResponse = pod.ask("Platform").unwrap();
        assert_eq!(platform.platform.unwrap().os, "linux");
        pod.ask::<()>("PingSandbox").unwrap();
        let metrics: sandbox::SandboxMetricsResponse = pod.ask("SandboxMetrics").unwrap();
        assert_eq!(metrics.metrics.unwrap().id, "alone");
        pod.ask::<()>("UpdateSandbox").unwrap();

        // A container in it, which a stop ends.
        let bundle = station.bundle("inside", "sleep 600", |_| {});
        let create = task::CreateTaskRequest {
            id: "inside".to_owned(),
            bundle: bundle.display().to_string(),
            ..task::CreateTaskRequest::default()
        };
        pod.shim.create(create).unwrap();
        let id = "inside".to_owned();
        let start = task::StartRequest {
            id,
            exec_id: String::new(),
        };
        pod.shim.call::<()>("Start", &start).unwrap();
        // As after the last container: the sandbox is there still.
        pod.shim
            .call::<()>("Shutdown", &task::ShutdownRequest::default())
            .unwrap();
        pod.ask::<()>("PingSandbox").unwrap();
        pod.stop(1);
        assert!(cgroup::processes(&station.cgroup("inside")).is_empty());
        let status = pod.status();
        assert_eq!(status.state, "SANDBOX_NOTREADY");
        assert!(status.exited_at.is_some());
        let ended: sandbox::WaitSandboxResponse = pod.ask("WaitSandbox").unwrap();
        assert_eq!(ended.exit_status, 0);
        pod.stop(1);
        pod.ends();
        assert!(cgroup::tree(&station.cgroup("inside")).is_empty());
    });
}

#[test]
fn a_sandbox_with_a_process() {
    on(|station| {
        let pod = Pod::new(
            station,
            "pause",
            Some("trap 'exit 3' TERM; sleep 600 & wait"),
        );
        let started: sandbox::StartSandboxResponse = pod.ask("StartSandbox").unwrap();
        assert!(started.pid > 1);
        assert_eq!(pod.status().pid, started.pid);
        let metrics: sandbox::SandboxMetricsResponse = pod.ask("SandboxMetrics").unwrap();
        assert!(metrics.metrics.unwrap().data.is_some());
        // The trap may not be set yet; then SIGTERM does nothing to a process 1.
        std::thread::sleep(Duration::from_millis(500));
        pod.stop(20);
        let ended: sandbox::WaitSandboxResponse = pod.ask("WaitSandbox").unwrap();
        assert_eq!(ended.exit_status, 3);
        assert_eq!(station.topics("pause"), [""; 0], "no events of tasks");
        pod.ends();
        assert!(cgroup::tree(&station.cgroup("pause")).is_empty());
    });
}

#[test]
fn a_sandbox_that_does_not_stop_is_killed() {
    on(|station| {
        let pod = Pod::new(station, "stubborn", Some("trap '' TERM; sleep 600"));
        pod.ask::<()>("StartSandbox").unwrap();
        let start = Instant::now();
        pod.stop(1);
        assert!(start.elapsed() >= Duration::from_secs(1));
        let ended: sandbox::WaitSandboxResponse = pod.ask("WaitSandbox").unwrap();
        assert_eq!(ended.exit_status, 137);
        pod.ends();
    });
}

#[test]
fn a_sandbox_that_is_not_there() {
    on(|station| {
        let bundle = station.bundle("none", "true", |_| {});
        let shim = station.shim("none", &bundle);
        for method in [
            "StartSandbox",
            "Platform",
            "StopSandbox",
            "WaitSandbox",
            "SandboxStatus",
            "PingSandbox",
            "ShutdownSandbox",
            "SandboxMetrics",
            "UpdateSandbox",
        ] {
            let sandbox_id = "none".to_owned();
            let request = sandbox::PingRequest { sandbox_id };
            let status = shim.call_sandbox::<()>(method, &request).unwrap_err();
            assert_eq!(status.code, Code::NotFound, "{method}");
        }
        shim.shutdown();
        assert!(shim.ends());
    });
}

/// A container with a shim of its own, created with these streams and started.
fn started<'a>(
    station: &'a Station,
    id: &str,
    script: &str,
    request: task::CreateTaskRequest,
) -> Shim<'a> {
    let terminal = request.terminal;
    let bundle = station.bundle(id, script, |config| {
        config["process"]["terminal"] = terminal.into();
    });
    let shim = station.shim(id, &bundle);
    shim.create(request).unwrap();
    shim.start("").unwrap();
    shim
}

fn ended(station: &Station, shim: &Shim<'_>, id: &str) {
    shim.shutdown();
    assert!(shim.ends());
    assert!(cgroup::tree(&station.cgroup(id)).is_empty());
}

/// Whoever reads a terminal slowly gets all that was written there before the container is gone.
#[test]
fn a_terminal_is_read_to_its_end() {
    on(|station| {
        let fifo = station.pen.path("slow");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let path = fifo.display().to_string();
        let reader = std::thread::spawn(move || {
            let mut file = std::fs::File::open(fifo).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text
        });
        let request = task::CreateTaskRequest {
            terminal: true,
            stdout: path,
            ..task::CreateTaskRequest::default()
        };
        let script = "n=0; while [ $n -lt 10000 ]; do n=$((n+1)); echo line $n; done; exit 5";
        let shim = started(station, "slow", script, request);
        assert_eq!(shim.wait(""), 5);
        assert_eq!(shim.delete("").unwrap().exit_status, 5);
        let text = reader.join().unwrap();
        assert_eq!(text.lines().count(), 10_000);
        assert!(text.ends_with("line 10000\r\n"));
        ended(station, &shim, "slow");
    });
}

#[test]
fn a_terminal_goes_to_a_file_or_a_logger() {
    on(|station| {
        let (file, logged) = (station.pen.path("tty.log"), station.pen.path("tty.logged"));
        let logger = station.pen.path("tty.logger");
        // Slow enough that deletion would overtake it.
        let text = "#!/bin/sh\nexec 5>&-\n/bin/cat <&3 >\"$2\"\n/bin/sleep 0.3\n/bin/cat <&4 >>\"$2\"\necho end >>\"$2\"\n";
        knarr_integration::bundle::write_program(&logger, text);
        let logger = format!("binary://{}?to={}", logger.display(), logged.display());
        for (id, uri, path, end) in [
            ("ttyfile", format!("file://{}", file.display()), file, ""),
            ("ttylogger", logger, logged, "end\n"),
        ] {
            let request = task::CreateTaskRequest {
                terminal: true,
                stdout: uri,
                ..task::CreateTaskRequest::default()
            };
            let shim = started(station, id, "tty; echo err >&2", request);
            assert_eq!(shim.wait(""), 0);
            shim.delete("").unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("/dev/pts/0\r\nerr\r\n{end}"));
            ended(station, &shim, id);
        }
    });
}

#[test]
fn loggers_that_fail() {
    on(|station| {
        let logger = station.pen.path("idle.logger");
        knarr_integration::bundle::write_program(&logger, "#!/bin/sh\nsleep 600\n");
        let bundle = station.bundle("unlogged", "sleep 600", |_| {});
        let shim = station.shim("unlogged", &bundle);
        for (uri, code, text) in [
            (
                "npipe:///x".to_owned(),
                Code::Unimplemented,
                "unknown STDIO scheme npipe",
            ),
            (
                "binary:///no/logger".to_owned(),
                Code::Unknown,
                "no such file or directory",
            ),
            (
                format!("binary://{}", logger.display()),
                Code::DeadlineExceeded,
                "is not ready after 10 seconds",
            ),
        ] {
            let request = task::CreateTaskRequest {
                stdout: uri,
                ..task::CreateTaskRequest::default()
            };
            let status = shim.create(request).unwrap_err();
            assert_eq!(status.code, code, "{status:?}");
            assert!(status.message.contains(text), "{status:?}");
        }
        let pid = shim.pid();
        assert!(process::eventually(Duration::from_secs(5), || {
            process::descendants(pid).is_empty()
        }));
        ended(station, &shim, "unlogged");
    });
}

/// As daemons' configuration has them: the runtime's options in a table of TOML.
#[test]
fn options_of_the_runtime() {
    on(|station| {
        let own = format!("{}/shims", station.pen.cgroup());
        for controller in ["pids", "memory"] {
            std::fs::create_dir_all(cgroup::dir(controller, &own)).unwrap();
        }
        let root = station.pen.path("state");
        let table = Table {
            config_body: format!(
                "Root = '{}'\nShimCgroup = \"{own}\"\nBinaryName = 'runc'\n",
                root.display()
            )
            .into(),
            ..Table::default()
        };
        let told = vec![Extension {
            value: Some(any::pack(&table)),
        }];
        let bundle = station.bundle("options", "sleep 600", |_| {});
        let program = containerd::shim().unwrap();
        let shim = station.shim_of(&program, "options", &bundle, told);
        assert!(cgroup::processes(&own).contains(&shim.pid()));
        let request = |options| task::CreateTaskRequest {
            options: Some(options),
            ..task::CreateTaskRequest::default()
        };
        let other = Options {
            binary_name: "/usr/bin/crun".to_owned(),
            ..Options::default()
        };
        let status = shim.create(request(any::pack(&other))).unwrap_err();
        assert_eq!(status.code, Code::Unimplemented, "{status:?}");
        shim.create(request(any::pack(&table))).unwrap();
        shim.start("").unwrap();
        assert!(root.join("test/options").is_dir());
        process::kill(shim.pid(), 9);
        assert_eq!(shim.clean_up().exit_status, 137);
        assert!(!root.join("test/options").exists());
        assert!(!shim.socket().exists());
        assert!(cgroup::tree(&station.cgroup("options")).is_empty());
    });
}

/// Also of execs, loggers and what those started; the end of another container of the pod is its own
/// delete's business.
#[test]
fn nothing_is_left_of_a_killed_shim() {
    on(|station| {
        let logger = station.pen.path("left.logger");
        knarr_integration::bundle::write_program(
            &logger,
            "#!/bin/sh\nexec 5>&-\ncat <&3 >/dev/null\n",
        );
        let bundle = station.bundle("left", "sleep 600 & sleep 600", |_| {});
        let mount = |source: &str| Mount {
            r#type: "bind".to_owned(),
            source: source.to_owned(),
            options: vec!["rbind".to_owned(), "ro".to_owned()],
            ..Mount::default()
        };
        let root = station.pen.path("rootfs").display().to_string();
        let config = bundle.join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace(&root, "rootfs")).unwrap();
        let shim = station.shim("left", &bundle);
        let request = task::CreateTaskRequest {
            stdout: format!("binary://{}", logger.display()),
            rootfs: vec![mount(&root)],
            ..task::CreateTaskRequest::default()
        };
        shim.create(request).unwrap();
        shim.start("").unwrap();
        shim.exec(
            "more",
            "sleep 600 & sleep 600",
            task::ExecProcessRequest::default(),
        );
        shim.start("more").unwrap();
        let pid = shim.pid();
        let all = process::descendants(pid);
        assert!(all.len() >= 4, "{all:?}");
        process::kill(pid, 9);
        assert!(process::eventually(Duration::from_secs(5), || {
            !process::alive(pid)
        }));
        let response = shim.clean_up();
        assert_eq!(response.exit_status, 137);
        assert!(response.pid > 0 && response.exited_at.is_some());
        assert!(process::eventually(Duration::from_secs(5), || {
            all.iter().all(|pid| !process::alive(*pid))
        }));
        assert!(cgroup::tree(&station.cgroup("left")).is_empty());
        assert!(!shim.socket().exists());
        let left = station.pen.run(&[
            "sh",
            "-c",
            "find /run/containerd/knarr -name left; grep bundles/left /proc/self/mounts",
        ]);
        assert_eq!(left.stdout, "");
        // Once more, as daemons do after a clean end, says the same and does nothing.
        assert_eq!(shim.clean_up().exit_status, 137);
    });
}

/// A pod's containers have one shim by either label, and `delete` of one leaves the others alone.
#[test]
fn groups() {
    on(|station| {
        for (id, label) in [
            ("grouped", "io.containerd.runc.v2.group"),
            ("podded", "io.kubernetes.cri.sandbox-id"),
        ] {
            let annotate = |config: &mut knarr_integration::Value| {
                config["annotations"] = knarr_integration::json!({ label: id });
            };
            let first = station.bundle(id, "sleep 600", annotate);
            let second = format!("{id}2");
            let other = station.bundle(&second, "sleep 600", annotate);
            let one = station.shim(id, &first);
            let two = station.shim(&second, &other);
            assert_eq!(one.result.address, two.result.address);
            let request = task::CreateTaskRequest::default();
            one.create(request.clone()).unwrap();
            two.create(request).unwrap();
            one.start("").unwrap();
            two.start("").unwrap();
            // Its shim serves the other container still.
            two.clean_up();
            assert_eq!(two.wait(""), 137);
            two.delete("").unwrap();
            let state: task::StateResponse = one
                .call(
                    "State",
                    &task::StateRequest {
                        id: id.to_owned(),
                        ..Default::default()
                    },
                )
                .unwrap();
            assert_eq!(state.status, 2);
            assert!(one.socket().exists());
            one.kill(9).unwrap();
            assert_eq!(one.wait(""), 137);
            one.delete("").unwrap();
            ended(station, &one, id);
        }
    });
}

/// A daemon that is killed and comes back is told of every end, in order and once.
#[test]
fn events_wait_for_the_daemon() {
    on(|_| {
        // One of its own, which can go away.
        let station = &Station::new(Driver::Cgroupfs);
        let request = task::CreateTaskRequest::default();
        let shim = started(station, "away", "sleep 600", request);
        let _: TaskStart = station.told("away", "/tasks/start");
        station.vanish();
        for number in 1..=40 {
            let id = format!("e{number}");
            shim.exec(
                &id,
                &format!("exit {number}"),
                task::ExecProcessRequest::default(),
            );
            shim.start(&id).unwrap();
            assert_eq!(shim.wait(&id), number);
            shim.delete(&id).unwrap();
        }
        shim.kill(9).unwrap();
        assert_eq!(shim.wait(""), 137);
        station.listen();
        assert!(process::eventually(Duration::from_secs(10), || {
            let ends = station.topics("away");
            ends.iter().filter(|topic| *topic == "/tasks/exit").count() == 41
        }));
        let ends: Vec<TaskExit> = station
            .events("away")
            .iter()
            .filter(|(topic, _)| topic == "/tasks/exit")
            .map(|(_, event)| any::unpack(event).unwrap())
            .collect();
        let codes: Vec<u32> = ends.iter().map(|end| end.exit_status).collect();
        assert_eq!(codes, (1..=40).chain([137]).collect::<Vec<_>>());
        assert_eq!(ends[40].id, "away");
        shim.delete("").unwrap();
        let _: TaskDelete = station.told("away", "/tasks/delete");
        ended(station, &shim, "away");
    });
}

/// A link of the image's does not lead a mount of the root to the host's directories.
#[test]
fn mounts_stay_below_the_root() {
    on(|station| {
        let bundle = station.bundle("below", "cat /linked/it", |config| {
            config["root"] = knarr_integration::json!({"path": "rootfs"});
        });
        let outside = station.pen.path("outside");
        let content = station.pen.path("content");
        for directory in [&outside, &content] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(content.join("it"), "here").unwrap();
        let image = station.pen.path("rootfs");
        let inside = image.join(outside.strip_prefix("/").unwrap());
        std::fs::create_dir_all(&inside).unwrap();
        std::os::unix::fs::symlink(&outside, image.join("linked")).unwrap();
        let mount = |source: &std::path::Path, target: &str, option: &str| Mount {
            r#type: "bind".to_owned(),
            source: source.display().to_string(),
            target: target.to_owned(),
            options: vec![option.to_owned(), "ro".to_owned()],
        };
        let shim = station.shim("below", &bundle);
        let log = station.pen.path("below.log");
        let with = |target: &str| task::CreateTaskRequest {
            stdout: format!("file://{}", log.display()),
            rootfs: vec![mount(&image, "", "rbind"), mount(&content, target, "bind")],
            ..task::CreateTaskRequest::default()
        };
        let refused = shim.create(with("nowhere")).unwrap_err();
        assert!(refused.message.contains("rootfs[1]"), "{refused:?}");
        shim.create(with("/linked")).unwrap();
        let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", shim.pid())).unwrap();
        let point = format!(" {} ", outside.display());
        assert!(!table.contains(&point), "{table}");
        assert!(
            table.contains(&format!("{} ro,", outside.display())),
            "{table}"
        );
        shim.start("").unwrap();
        assert_eq!(shim.wait(""), 0);
        assert_eq!(std::fs::read_to_string(log).unwrap(), "here");
        shim.delete("").unwrap();
        ended(station, &shim, "below");
    });
}

/// The CPUs on which an exec begins are not those on which the shim goes on.
#[test]
fn an_exec_moves_the_shim_for_a_moment_only() {
    on(|station| {
        if std::thread::available_parallelism().unwrap().get() < 2 {
            skip!("one CPU only");
        }
        let request = task::CreateTaskRequest::default();
        let shim = started(station, "moved", "sleep 600", request);
        let cpus = || process::status_field(shim.pid(), "Cpus_allowed_list");
        let before = cpus();
        let process = knarr_integration::json!({
            "args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "execCPUAffinity": {"initial": "0"},
        });
        let request = task::ExecProcessRequest {
            id: "moved".to_owned(),
            exec_id: "e".to_owned(),
            spec: Some(any::pack_json(any::PROCESS, process.to_string().into())),
            ..task::ExecProcessRequest::default()
        };
        shim.call::<()>("Exec", &request).unwrap();
        shim.start("e").unwrap();
        assert_eq!(shim.wait("e"), 0);
        assert_eq!(cpus(), before);
        shim.kill(9).unwrap();
        shim.wait("");
        shim.delete("").unwrap();
        ended(station, &shim, "moved");
    });
}

/// As many as a probe makes in a day; `KNARR_EXECS` says how many.
#[test]
fn execs_cost_one_fork_and_leave_nothing() {
    on(|_| {
        let station = &Station::new(Driver::Cgroupfs);
        let count = std::env::var("KNARR_EXECS").map_or(1500, |count| count.parse().unwrap());
        let request = task::CreateTaskRequest::default();
        let shim = started(station, "probed", "sleep 600", request);
        let pid = shim.pid();
        let mut last = 0;
        let mut probe = |number: usize| {
            let id = format!("e{number}");
            shim.exec(&id, "exit 3", task::ExecProcessRequest::default());
            let process = shim.start(&id).unwrap();
            assert_eq!(shim.wait(&id), 3);
            shim.delete(&id).unwrap();
            // Numbers are given in turn, and nobody else makes processes here.
            assert!(
                process == last + 1 || last == 0 || process < last,
                "{last} {process}"
            );
            last = process;
            // How many events wait depends on this machine; here they do not wait.
            let told = || station.count() >= 2 + 3 * (number + 1);
            assert!(process::eventually(Duration::from_secs(10), told));
        };
        (0..100).for_each(&mut probe);
        let before = Held::by(pid);
        let start = Instant::now();
        (100..count).for_each(probe);
        let after = Held::by(pid);
        eprintln!(
            "{count} execs in {:?}: {before:?}, then {after:?}",
            start.elapsed()
        );
        assert_eq!(before.fds, after.fds);
        assert!(
            after.private_dirty <= before.private_dirty + 8,
            "{before:?} {after:?}"
        );

        shim.kill(9).unwrap();
        shim.wait("");
        shim.delete("").unwrap();
        ended(station, &shim, "probed");
    });
}

/// What a process holds, in kilobytes.
#[derive(Debug)]
struct Held {
    #[allow(
        dead_code,
        reason = "shown to people; it depends on what else shares the program"
    )]
    pss: u64,
    private_dirty: u64,
    fds: usize,
}

impl Held {
    fn by(pid: u32) -> Self {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let figure = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
            kilobytes.parse().unwrap()
        };
        Self {
            pss: figure("Pss:"),
            private_dirty: figure("Private_Dirty:"),
            fds: std::fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .count(),
        }
    }
}

/// Saved by one shim, and restored by another.
#[test]
fn checkpoint_and_restore() {
    on(|station| {
        if station.pen.run(&["criu", "check"]).code != 0 {
            skip!("criu is missing or does not work on this kernel");
        }
        let log = station.pen.path("count.log");
        let streams = task::CreateTaskRequest {
            stdout: format!("file://{}", log.display()),
            ..task::CreateTaskRequest::default()
        };
        let script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done";
        let shim = started(station, "first", script, streams.clone());
        let counted = || -> u64 {
            let text = std::fs::read_to_string(&log).unwrap();
            text.lines().last().map_or(0, |line| line.parse().unwrap())
        };
        assert!(process::eventually(Duration::from_secs(30), || counted() > 3));
        let images = station.pen.path("images").display().to_string();
        let request = task::CheckpointTaskRequest {
            id: "first".to_owned(),
            path: images.clone(),
            options: Some(any::pack(&CheckpointOptions {
                exit: true,
                ..CheckpointOptions::default()
            })),
        };
        shim.call::<()>("Checkpoint", &request).unwrap();
        assert_eq!(shim.wait(""), 137);
        let _: TaskCheckpointed = station.told("first", "/tasks/checkpointed");
        shim.delete("").unwrap();
        ended(station, &shim, "first");
        let last = counted();

        let bundle = station.bundle("second", script, |_| {});
        let shim = station.shim("second", &bundle);
        let request = task::CreateTaskRequest {
            checkpoint: images,
            ..streams
        };
        assert_eq!(shim.create(request).unwrap(), 0);
        assert!(shim.start("").unwrap() > 0);
        assert!(process::eventually(Duration::from_secs(30), || counted() > last));
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.matches("\n1\n").count(), 0, "begun anew");
        shim.kill(9).unwrap();
        assert_eq!(shim.wait(""), 137);
        shim.delete("").unwrap();
        ended(station, &shim, "second");
    });
}
