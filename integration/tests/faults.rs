//! Every step fails once, and kills its process once: nothing is left, and the next command works.
//! Where exec stops half-way, nothing of the host is in reach.
//!
//! The points are found by reading the runtime's sources for `fault!`; one that
//! no scenario reaches fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use knarr_integration::host::Snapshot;
use knarr_integration::socket::Receiver;
use knarr_integration::{Bundle, Outcome, Sandbox, Value, bundle, json, process, runtime};

/// The names of all points whose phase, the part before the first dot, is in `phases`.
fn points(phases: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    let mut todo = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src")];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            names.extend(
                text.split("fault!(\"")
                    .skip(1)
                    .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
            );
        }
    }
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two points have the same name");
    for name in &names {
        let phase = name.split('.').next().unwrap();
        assert!(
            CREATE.contains(&phase) || ["start", "run", "exec", "delete"].contains(&phase),
            "{name}: no test knows this phase"
        );
    }
    names.retain(|name| phases.contains(&name.split('.').next().unwrap()));
    assert!(!names.is_empty());
    names
}

/// The phases of create.
const CREATE: &[&str] = &["create", "cgroup", "pid_file", "init", "rootfs"];

/// Whether the point is in the process that becomes the container's, and not in the runtime.
fn inside(point: &str) -> bool {
    ["init.", "rootfs.", "exec.init."]
        .iter()
        .any(|prefix| point.starts_with(prefix))
        || ["start.hooks", "start.seccomp", "start.executing"].contains(&point)
}

/// A device for `linux.netDevices`, in a network namespace of this thread's own.
struct Network(bool);

const DEVICE: &str = "knif0";

impl Network {
    fn new() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let mut this = Self(true);
        this.0 = this.restore();
        this
    }

    /// Makes the device where it is not there: whether that worked.
    fn restore(&self) -> bool {
        let ip = |line: &str| {
            Command::new("ip")
                .args(line.split(' '))
                .output()
                .is_ok_and(|output| output.status.success())
        };
        if !self.0 || ip("link show knif0") {
            return self.0;
        }
        // The other end goes with the container's namespace, a while after the container.
        let _ = ip("link del knif1");
        ip("link add knif0 type veth peer name knif1")
            && ip("addr add 192.0.2.7/24 dev knif0")
            && ip("link set knif1 up")
            && ip("link set knif0 up")
            && ip("route add 198.51.100.0/24 via 192.0.2.1")
    }

    /// Addresses and routes of the device, without its number.
    fn look(&self) -> String {
        let text = |line: &str| {
            Command::new("ip")
                .args(line.split(' '))
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default()
        };
        if !self.0 {
            return String::new();
        }
        let addresses = text("-o -4 addr show dev knif0");
        let addresses = addresses.split_once(' ').map_or("", |(_, rest)| rest);
        format!("{addresses}{}", text("-4 route show dev knif0"))
    }
}

/// A bundle that uses much of what a runtime can do, and what a call of it needs besides.
struct Scene {
    sb: Sandbox,
    bundle: Bundle,
    network: Network,
    before: Snapshot,
    links: String,
}

impl Scene {
    fn new(edit: impl FnOnce(&mut Value)) -> Self {
        runtime::use_faults();
        let sb = Sandbox::new();
        let network = Network::new();
        let log = sb.path("log");
        fs::create_dir(&log).unwrap();
        // Hooks in a user namespace write here too.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::write(log.join("hooks"), "").unwrap();
        fs::set_permissions(log.join("hooks"), everybody).unwrap();
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sleep", "600"]);
            c["process"]["terminal"] = json!(true);
            c["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}]);
            bundle::push(c, "/mounts", json!({
                "destination": "/log", "source": log, "options": ["bind", "rw"],
            }));
            bundle::push(c, "/linux/devices", json!({
                "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438,
            }));
            c["linux"]["resources"]["pids"] = json!({"limit": 50});
            c["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
            c["linux"]["sysctl"] = json!({"kernel.shmmni": "100"});
            c["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "listenerPath": sb.path("io/seccomp"),
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_NOTIFY"}],
            });
            if network.0 {
                c["linux"]["netDevices"] = json!({DEVICE: {"name": "eth9"}});
            }
            for kind in ["prestart", "createRuntime", "createContainer", "startContainer",
                "poststart", "poststop"]
            {
                let log = if kind == "startContainer" { PathBuf::from("/log") } else { log.clone() };
                c["hooks"][kind] = json!([{"path": "/bin/sh", "args":
                    ["sh", "-c", format!("cat >/dev/null; echo {kind} >>{}/hooks", log.display())]}]);
            }
            edit(c);
        });
        // A mapped root may not make it in the host's file system.
        fs::create_dir(bundle.rootfs().join("log")).unwrap();
        let before = sb.look();
        let links = network.look();
        Self {
            sb,
            bundle,
            network,
            before,
            links,
        }
    }

    /// The hooks that ran since the last call.
    fn hooks(&self) -> Vec<String> {
        let path = self.sb.path("log/hooks");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn pid_file(&self) -> PathBuf {
        self.sb.path("io/pid")
    }

    /// Calls the runtime with the sockets that `command` (create, run, exec) takes there and the
    /// point named.
    fn call(&self, command: &[&str], rest: &[&str], fault: &str) -> Outcome {
        let sockets: Vec<Receiver> = ["io/console", "io/pidfd", "io/seccomp"]
            .iter()
            .map(|name| {
                let _ = fs::remove_file(self.sb.path(name));
                Receiver::bind(self.sb.path(name))
            })
            .collect();
        let pid_file = self.pid_file();
        let mut args = command.to_vec();
        args.extend(["--console-socket", sockets[0].arg()]);
        args.extend(["--pidfd-socket", sockets[1].arg()]);
        args.extend(["--pid-file", pid_file.to_str().unwrap()]);
        args.extend(rest);
        self.plain(&args, fault)
    }

    fn plain(&self, args: &[&str], fault: &str) -> Outcome {
        let mut command = self.sb.command(args);
        if !fault.is_empty() {
            command.env("KNARR_FAULT", fault);
        }
        self.sb.spawn(command).wait()
    }

    fn create(&self, fault: &str) -> Outcome {
        self.call(&["create"], &["--bundle", self.bundle.arg(), "c"], fault)
    }

    /// Insists that nothing is left, the parent cgroup and the device's addresses included.
    #[track_caller]
    fn nothing_left(&self, point: &str) {
        let mut left = Vec::new();
        let clean = process::eventually(Duration::from_secs(5), || {
            left = self.before.difference(&self.sb.look());
            left.is_empty()
        });
        assert!(clean, "{point}: the host changed:\n{}", left.join("\n"));
    }

    #[track_caller]
    fn same_links(&self, point: &str) {
        assert_eq!(
            self.network.look(),
            self.links,
            "{point}: the network changed"
        );
    }

    /// Removes what a killed runtime has left, and insists that this was all.
    #[track_caller]
    fn clean_up(&self, point: &str) {
        let out = self.sb.rt(&["delete", "--force", "c"]);
        assert_eq!(out.code, 0, "{point}: {out:#?}");
        self.nothing_left(point);
        // The pid file is the caller's, and nothing says who wrote it.
        let _ = fs::remove_file(self.pid_file());
        let _ = fs::remove_file(self.pid_file().with_extension("tmp"));
        let _ = self.hooks();
        // A virtual device goes with the namespace that a killed runtime could not take it out of.
        self.network.restore();
        assert_eq!(self.network.look(), self.links, "{point}: a new device");
    }

    /// Insists on that code, and on one line that names the point.
    #[track_caller]
    fn failed(&self, point: &str, out: &Outcome, code: i32) {
        assert_eq!(out.code, code, "{point}: {out:#?}");
        assert_eq!(out.stderr.lines().count(), 1, "{point}: {out:#?}");
        assert!(
            out.stderr.contains(&format!("fault at {point}: ")),
            "{point}: {out:#?}"
        );
    }

    /// What must be true after the runtime could not make a container.
    #[track_caller]
    fn as_if_never_attempted(&self, point: &str) {
        self.nothing_left(point);
        // A container that was made has the device for good.
        if point.starts_with("start.") || point.starts_with("run.") {
            self.network.restore();
        }
        self.same_links(point);
        assert!(!self.pid_file().exists(), "{point}: a pid file is left");
        assert!(!self.pid_file().with_extension("tmp").exists(), "{point}");
        let ran = self.hooks();
        let stops = ran.iter().filter(|kind| *kind == "poststop").count();
        let expected = usize::from(!ran.is_empty());
        assert_eq!(
            stops, expected,
            "{point}: poststop runs once if any hook ran: {ran:?}"
        );
    }

    /// A container that runs, without any fault.
    #[track_caller]
    fn running(&self) {
        self.create("").ok();
        self.sb.rt(&["start", "c"]).ok();
    }

    /// Creates, and insists on success: the id is free and all else as well.
    #[track_caller]
    fn works_again(&self, point: &str) {
        let out = self.create("");
        assert_eq!(out.code, 0, "after {point}: {out:#?}");
        self.clean_up(point);
    }
}

fn every_step_of_create(edit: impl FnOnce(&mut Value)) {
    let scene = Scene::new(edit);
    for point in points(CREATE) {
        let out = scene.create(&point);
        scene.failed(&point, &out, 1);
        scene.as_if_never_attempted(&point);
        scene.works_again(&point);

        let out = scene.create(&format!("{point}:kill"));
        if inside(&point) {
            assert_eq!(out.code, 1, "{point}: {out:#?}");
            assert_eq!(out.stderr.lines().count(), 1, "{point}: {out:#?}");
            scene.as_if_never_attempted(&point);
        } else {
            assert_eq!(out.code, 137, "{point}: {out:#?}");
            scene.clean_up(&point);
        }
        scene.works_again(&point);
    }
}

#[test]
fn every_step_of_create_fails() {
    every_step_of_create(|_| {});
}

#[test]
fn every_step_of_create_fails_with_a_user_namespace() {
    every_step_of_create(|c| {
        bundle::user_namespace(c);
        // A mapped root may not make nodes or move devices of the host.
        c["linux"].as_object_mut().unwrap().remove("devices");
    });
}

#[test]
fn every_step_of_create_fails_without_a_pid_namespace() {
    every_step_of_create(|c| bundle::drop_namespace(c, "pid"));
}

#[test]
fn every_step_of_run_fails() {
    let scene = Scene::new(|_| {});
    let run = |fault: &str| {
        scene.call(
            &["run", "--detach"],
            &["--bundle", scene.bundle.arg(), "c"],
            fault,
        )
    };
    let phases: Vec<&str> = CREATE.iter().copied().chain(["run", "start"]).collect();
    for point in points(&phases) {
        // Those of the command start itself.
        if point.starts_with("start.") && !inside(&point) {
            continue;
        }
        let out = run(&point);
        scene.failed(&point, &out, 1);
        scene.as_if_never_attempted(&point);

        let out = run(&format!("{point}:kill"));
        if !inside(&point) {
            assert_eq!(out.code, 137, "{point}: {out:#?}");
        } else if point != "start.executing" {
            assert_eq!(out.code, 1, "{point}: {out:#?}");
            scene.as_if_never_attempted(&point);
        }
        scene.clean_up(&point);
    }
}

#[test]
fn every_step_of_start_fails() {
    let scene = Scene::new(|_| {});
    for point in points(&["start"]) {
        for kill in [false, true] {
            let fault = if kill {
                format!("{point}:kill")
            } else {
                point.clone()
            };
            // Init reads its own environment, start its own.
            scene.create(&fault).ok();
            let out = scene.plain(&["start", "c"], &fault);
            match (kill, inside(&point)) {
                (false, _) => scene.failed(&point, &out, 1),
                (true, false) => assert_eq!(out.code, 137, "{point}: {out:#?}"),
                // Killed between its last word and the program: it ran, as far as start can tell.
                (true, true) if point == "start.executing" => {}
                (true, true) => {
                    assert_eq!(out.code, 1, "{point}: {out:#?}");
                    scene.sb.wait_status("c", "stopped");
                }
            }
            scene.clean_up(&point);
        }
        scene.works_again(&point);
    }
}

#[test]
fn every_step_of_exec_fails() {
    let scene = Scene::new(|_| {});
    scene.running();
    let pid = fs::read_to_string(scene.pid_file()).unwrap();
    fs::remove_file(scene.pid_file()).unwrap();
    let before = scene.sb.look();
    let exec = |fault: &str| {
        scene.call(
            &["exec", "--detach", "--tty"],
            &["c", "/bin/sleep", "600"],
            fault,
        )
    };
    for point in points(&["exec"]) {
        let out = exec(&point);
        scene.failed(&point, &out, 255);
        assert!(!scene.pid_file().exists(), "{point}: a pid file is left");
        scene.sb.same_as(&before);

        let out = exec(&format!("{point}:kill"));
        if !inside(&point) {
            assert_eq!(out.code, 137, "{point}: {out:#?}");
        } else if point != "exec.init.executing" {
            assert_eq!(out.code, 255, "{point}: {out:#?}");
        }
        let _ = fs::remove_file(scene.pid_file());
        if point != "exec.started" {
            scene.sb.same_as(&before);
        }
        assert_eq!(scene.sb.status("c"), "running", "{point}");
        assert_eq!(scene.sb.state("c")["pid"].to_string(), pid, "{point}");
        let tty = &["exec", "--detach", "--tty"];
        scene.call(tty, &["c", "/bin/true"], "").ok();
        let _ = fs::remove_file(scene.pid_file());
        scene.sb.same_as(&before);
    }
    scene.clean_up("exec");
}

#[test]
fn every_step_of_delete_fails() {
    let scene = Scene::new(|_| {});
    for point in points(&["delete"]) {
        for kill in [false, true] {
            for force in [false, true] {
                scene.running();
                let args: &[&str] = if force {
                    &["delete", "--force", "c"]
                } else {
                    scene.sb.rt(&["kill", "c", "KILL"]).ok();
                    scene.sb.wait_status("c", "stopped");
                    &["delete", "c"]
                };
                let fault = if kill {
                    format!("{point}:kill")
                } else {
                    point.clone()
                };
                let out = scene.plain(args, &fault);
                if kill {
                    assert_eq!(out.code, 137, "{point}: {out:#?}");
                } else {
                    scene.failed(&point, &out, 1);
                }
                // While the record is there, the container is: deleting it goes on.
                if scene.plain(&["state", "c"], "").code == 0 {
                    assert_eq!(
                        scene.sb.status("c") == "running",
                        point == "delete.locked" && force
                    );
                    if !force {
                        scene.sb.rt(args).ok();
                    }
                }
                scene.clean_up(&point);
            }
        }
        scene.works_again(&point);
    }
}

/// An exec of `true` in the container `c` that has stopped at the point named: its first process and the other one.
fn stopped(sb: &Sandbox, point: &str) -> (runtime::Running, u32) {
    let mut command = sb.command(&["exec", "c", "/bin/true"]);
    command.env("KNARR_FAULT", format!("{point}:stop"));
    let exec = sb.spawn(command);
    let mut child = 0;
    let there = process::eventually(Duration::from_secs(20), || {
        child = process::descendants(exec.pid()).pop().unwrap_or(0);
        let stops = if inside(point) { child } else { exec.pid() };
        stat(stops).is_some_and(|state| state == 'T')
    });
    assert!(there, "{point}: nobody stops");
    (exec, child)
}

/// The state of a process, as proc_pid_stat(5) has it.
fn stat(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Lets both processes of an exec go on, and insists that it succeeds.
#[track_caller]
fn goes_on(exec: runtime::Running, child: u32) {
    for pid in [child, exec.pid()] {
        process::kill(pid, 18);
    }
    assert_eq!(exec.wait().code, 0);
}

/// The descriptors of a process that are that file.
fn descriptors_of(pid: u32, file: &Path) -> Vec<String> {
    let wanted = fs::metadata(file).unwrap();
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries
        .filter(|entry| {
            fs::metadata(entry.path())
                .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn the_runtimes_program_is_closed_before_exec_goes_on() {
    runtime::use_faults();
    let sb = Sandbox::new();
    sb.sleeper("c", |_| {});
    // Whoever holds the clone that the runtime was executed from can make it writable.
    let (exec, _) = stopped(&sb, "exec.planned");
    let held = descriptors_of(exec.pid(), runtime::path());
    goes_on(exec, 0);
    if held.is_empty() {
        knarr_integration::skip!("mounts cannot be cloned here: it runs from a copy in memory");
    }
    // From here on the other process may go where the container's programs are.
    let (exec, child) = stopped(&sb, "exec.attach");
    assert_ne!(child, 0, "the process of exec is there");
    assert!(descriptors_of(exec.pid(), runtime::path()).is_empty());
    // It does not go on before the runtime, which has stopped, says so.
    let mut left = Vec::new();
    process::eventually(Duration::from_secs(20), || {
        left = descriptors_of(child, runtime::path());
        left.is_empty()
    });
    assert!(left.is_empty(), "the process of exec keeps {left:?}");
    goes_on(exec, child);
}

/// Which descriptors of other processes a container's process can name or open.
const REACHED: &str = "for fd in /proc/[0-9]*/fd/*; do \
    case $fd in /proc/$$/*|/proc/1/*) continue;; esac; \
    link=$(readlink $fd) && echo \"$fd is $link\"; \
    (: <$fd) 2>/dev/null && echo \"$fd opens\"; done; \
    for dir in /proc/[0-9]*; do case $dir in /proc/$$|/proc/1) continue;; esac; \
    for name in root cwd exe; do readlink $dir/$name && echo \"$dir/$name\"; done; done; echo end";

#[test]
fn a_process_of_exec_is_closed_to_the_container_until_its_program_runs() {
    runtime::use_faults();
    let sb = Sandbox::new();
    let container = sb.sleeper("c", |_| {});
    // The search finds what it looks for in a process that is open.
    let open = sb.spawn(sb.command(&["exec", "c", "/bin/sleep", "600"]));
    let mut seen = String::new();
    process::eventually(Duration::from_secs(20), || {
        seen = sb.rt(&["exec", "c", "/bin/sh", "-c", REACHED]).ok().stdout;
        seen.contains("/fd/0 is ") && seen.contains("/exe")
    });
    assert!(seen.contains("/fd/0 is "), "{seen}");
    for pid in process::descendants(open.pid()) {
        process::kill(pid, 9);
    }
    open.wait();
    for point in [
        "exec.attach",
        "exec.init.join",
        "exec.init.privileged",
        "exec.init.program",
        "exec.init.executing",
    ] {
        let (exec, child) = stopped(&sb, point);
        let look = sb.rt(&["exec", "c", "/bin/sh", "-c", REACHED]).ok();
        assert_eq!(look.text(), "end", "{point}");
        // Nor does its program find more than its standard streams.
        for entry in fs::read_dir(format!("/proc/{child}/fd")).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let info = fs::read_to_string(format!("/proc/{child}/fdinfo/{name}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
            let kept = flags & rustix::fs::OFlags::CLOEXEC.bits() == 0;
            assert!(!kept || name.parse::<u32>().unwrap() < 3, "{point}: {name}");
        }
        goes_on(exec, child);
    }
    assert!(process::alive(container.pid));
}

#[test]
fn a_signal_ends_an_exec_whose_container_was_paused_meanwhile() {
    runtime::use_faults();
    let sb = Sandbox::new();
    let container = sb.sleeper("c", |_| {});
    // Its process is in the cgroup by now, and has done nothing yet.
    let (exec, child) = stopped(&sb, "exec.attach");
    sb.rt(&["pause", "c"]).ok();
    process::kill(exec.pid(), 18);
    process::kill(exec.pid(), 2);
    let out = exec.wait_at_most(Duration::from_secs(20));
    sb.rt(&["resume", "c"]).ok();
    assert_eq!(out.expect("it waits for the frozen process").code, 130);
    let ended = process::eventually(Duration::from_secs(20), || !process::alive(child));
    assert!(ended, "the process of exec is left");
    assert!(process::alive(container.pid));
}
