//! The shim's services, called as a daemon calls them, without a daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::io::Read;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use knarr_integration::cgroup::Driver;
use knarr_integration::shim::{Shim, Station};
use knarr_integration::{cgroup, containerd, process, skip};
use knarr_proto::containerd::runtime::sandbox::v1 as sandbox;
use knarr_proto::containerd::task::v2 as task;
use knarr_proto::prost::Message;
use knarr_proto::ttrpc::{Code, Status};

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
                "log URI npipe:///x",
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
