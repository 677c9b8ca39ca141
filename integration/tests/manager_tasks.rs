//! Running containers with the daemon: what clients see of them, and that they outlive it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use knarr_integration::cgroup::Driver;
use knarr_integration::daemon::{PATIENCE, Pen};
use knarr_integration::peers::{self, Source};
use knarr_integration::runtime::{self, Outcome, Running};
use knarr_integration::{bundle, containerd, process, skip};
use rustix::process::{Pid, Signal, kill_process};

const IMAGE: &str = "knarr.test/box:1";

/// knarrd with an image, and ctr.
struct It {
    pen: Pen,
    ctr: PathBuf,
    knarrd: PathBuf,
}

impl It {
    /// `None` where the client or the shim is missing.
    fn new() -> Result<Self, String> {
        let ctr = Source::Newest
            .find("ctr")
            .ok_or_else(|| peers::missing("ctr"))?;
        let shim = containerd::shim()
            .ok_or("containerd-shim-knarr-v2 is not built: cargo build -p knarr-shim")?;
        let knarrd = std::env::var_os("KNARRD_BIN").map(PathBuf::from);
        let knarrd = knarrd
            .or_else(|| runtime::newest_built("knarrd"))
            .ok_or("knarrd is not built: cargo build -p knarr-manager")?;
        let pen = Pen::new(&Source::Newest.path(), Driver::Cgroupfs);
        std::os::unix::fs::symlink(shim, pen.bin().join(containerd::SHIM)).unwrap();
        let this = Self { pen, ctr, knarrd };
        this.start();
        this.bring_image();
        Ok(this)
    }

    fn path(&self, name: &str) -> String {
        self.pen.path(name).to_str().unwrap().to_owned()
    }

    /// Starts the daemon, also again.
    fn start(&self) {
        let args = [
            self.knarrd.to_str().unwrap(),
            "--root",
            &self.path("root"),
            "--state",
            &self.path("state"),
            "--address",
            &self.path("knarrd.sock"),
        ];
        self.pen.daemon("knarrd", &args);
        let answers = || self.ctr(&["version"]).code == 0;
        self.pen.wait_for("knarrd", answers);
    }

    /// The daemon, as this process counts.
    fn daemon(&self) -> Pid {
        let state = self.path("state");
        let words = ["--state", &state].join("\0");
        let found = fs::read_dir("/proc").unwrap().flatten().find(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            // Not who has started it.
            line.starts_with(self.knarrd.as_os_str().as_encoded_bytes())
                && String::from_utf8_lossy(&line).contains(&words)
        });
        let pid = found.expect("the daemon").file_name();
        Pid::from_raw(pid.to_str().unwrap().parse().unwrap()).unwrap()
    }

    /// Ends the daemon by a signal.
    fn end(&self, signal: Signal) {
        let pid = self.daemon();
        kill_process(pid, signal).unwrap();
        let path = format!("/proc/{}/exe", pid.as_raw_nonzero());
        let database = self.path("root/metadata.db");
        // Its files are closed a moment after its program is gone.
        let free = || self.pen.run(&["flock", "-n", &database, "true"]).code == 0;
        let ended = || fs::read_link(&path).is_err() && free();
        assert!(process::eventually(PATIENCE, ended));
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let socket = self.path("knarrd.sock");
        let ctr = [self.ctr.to_str().unwrap(), "-a", &socket];
        self.pen.command(&[&ctr, args].concat())
    }

    #[track_caller]
    fn ctr(&self, args: &[&str]) -> Outcome {
        self.pen.spawn(self.command(args)).wait()
    }

    /// The image, and its one layer as a snapshot.
    fn bring_image(&self) {
        let tar = self.pen.path("box.tar");
        let dir = self.pen.path("image");
        bundle::image(&dir, &tar, IMAGE, &["/bin/sh"]);
        let import = ["images", "import", "--local", "--no-unpack"];
        self.ctr(&[&import[..], &[tar.to_str().unwrap()]].concat())
            .ok();
        let layer = dir.join("layer.tar");
        let layer = layer.to_str().unwrap();
        let sum = self.pen.run(&["sha256sum", layer]).ok();
        let digest = format!("sha256:{}", sum.text().split(' ').next().unwrap());
        let target = self.path("layer");
        fs::create_dir(&target).unwrap();
        self.ctr(&["snapshots", "prepare", "layer"]).ok();
        let mount = self
            .ctr(&["snapshots", "mounts", &target, "layer"])
            .ok()
            .stdout;
        self.pen.run(&["sh", "-c", &mount]).ok();
        self.pen.run(&["tar", "-C", &target, "-xf", layer]).ok();
        self.pen.run(&["umount", &target]).ok();
        self.ctr(&["snapshots", "commit", &digest, "layer"]).ok();
    }

    fn run_args(&self, flags: &[&str], id: &str, script: &str) -> Vec<String> {
        let cgroup = format!("{}/{id}", self.pen.cgroup());
        let mut all = vec!["run", "--cgroup", &cgroup];
        all.extend(flags);
        all.extend([IMAGE, id, "/bin/sh", "-c", script]);
        all.into_iter().map(str::to_owned).collect()
    }

    #[track_caller]
    fn run(&self, flags: &[&str], id: &str, script: &str) -> Outcome {
        let args = self.run_args(flags, id, script);
        self.ctr(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Status and number of a task.
    fn status(&self, id: &str) -> Option<(String, String)> {
        let listed = self.ctr(&["task", "ls"]).ok();
        listed.stdout.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.first() == Some(&id)).then(|| (words[2].to_owned(), words[1].to_owned()))
        })
    }

    #[track_caller]
    fn becomes(&self, id: &str, status: Option<&str>) {
        let is = || self.status(id).map(|(status, _)| status);
        let reached = process::eventually(PATIENCE, || is().as_deref() == status);
        assert!(reached, "{id} should be {status:?}, is {:?}", is());
    }

    /// The processes inside of the pen whose command line has these words, as the pen counts.
    fn pids(&self, words: &str) -> Vec<String> {
        let found = self.pen.run(&["pgrep", "-f", words]);
        found.stdout.lines().map(str::to_owned).collect()
    }

    /// Follows events from now on.
    fn events(&self) -> Running {
        let events = self.pen.spawn(self.command(&["events"]));
        let mut beat = 0;
        let heard = process::eventually(PATIENCE, || {
            beat += 1;
            let name = format!("beat{beat}");
            self.ctr(&["namespaces", "create", &name]).ok();
            events.stdout_now().contains("beat")
        });
        assert!(heard, "ctr events stays silent");
        events
    }

    fn bundles(&self) -> Vec<String> {
        let dir = self.pen.path("state/io.containerd.runtime.v2.task/default");
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }
}

/// The topics of a container's events so far.
fn topics(events: &Running, id: &str) -> Vec<String> {
    let text = events.stdout_now();
    let own = text
        .lines()
        .filter(|line| line.contains(&format!("\"container_id\":\"{id}\"")));
    own.filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn hears(events: &Running, id: &str, expected: &[&str]) {
    process::eventually(PATIENCE, || topics(events, id).len() >= expected.len());
    // One too many would come at once.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(topics(events, id), expected);
}

macro_rules! it {
    () => {
        match It::new() {
            Ok(it) => it,
            Err(why) => skip!("{why}"),
        }
    };
}

#[test]
fn a_container_lives_and_ends() {
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    let mut events = it.events();
    let out = it.run(&["--rm"], "one", "echo out; echo err >&2; exit 7");
    out.exits(7);
    let out = it.run(&["--rm"], "two", "echo out; echo err >&2").ok();
    assert_eq!((&*out.stdout, out.stderr.contains("err")), ("out\n", true));
    let all = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ];
    hears(&events, "one", &all);
    hears(&events, "two", &all);
    assert!(process::eventually(PATIENCE, || it.bundles().is_empty()));

    it.run(&["-d"], "box", "sleep 1000").ok();
    it.becomes("box", Some("RUNNING"));
    let exec = |script: &str| {
        it.ctr(&[
            "task",
            "exec",
            "--exec-id",
            "e",
            "box",
            "/bin/sh",
            "-c",
            script,
        ])
    };
    exec("exit 5").exits(5);
    assert_eq!(exec("echo hi").ok().stdout, "hi\n");
    it.ctr(&["task", "exec", "--exec-id", "e", "box", "/no/such"])
        .fails_with("no such file or directory");
    it.ctr(&["task", "exec", "--exec-id", "no/id", "box", "/bin/true"])
        .fails();
    let listed = it.ctr(&["task", "ps", "box"]).ok();
    assert!(listed.stdout.contains(&it.status("box").unwrap().1));
    it.ctr(&["task", "pause", "box"]).ok();
    it.becomes("box", Some("PAUSED"));
    it.ctr(&["task", "resume", "box"]).ok();
    it.becomes("box", Some("RUNNING"));
    let figures = it.ctr(&["task", "metrics", "box"]).ok();
    assert!(figures.stdout.contains("pids.current"), "{figures:#?}");
    it.ctr(&["task", "rm", "box"])
        .fails_with("task must be stopped before deletion: running: failed precondition");
    it.ctr(&["task", "start", "box"])
        .fails_with("task box: already exists");
    it.ctr(&["task", "kill", "-s", "KILL", "box"]).ok();
    it.becomes("box", Some("STOPPED"));
    it.ctr(&["task", "kill", "box"])
        .fails_with("process already finished: not found");
    let out = it.ctr(&["task", "rm", "box"]);
    assert!(out.stderr.contains("exit code 137"), "{out:#?}");
    it.ctr(&["task", "rm", "box"])
        .fails_with("no running task found: task box not found");
    // The name is free.
    it.ctr(&["task", "start", "-d", "box"]).ok();
    it.becomes("box", Some("RUNNING"));
    it.ctr(&["task", "rm", "-f", "box"]);
    it.becomes("box", None);
    it.ctr(&["container", "rm", "box"]).ok();
    events.kill();
}

#[test]
fn runtimes_are_found_by_their_names() {
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    let shims = || {
        it.pids("containerd-shim-")
            .iter()
            .fold(String::new(), |all, pid| {
                let exe = it.pen.run(&["readlink", &format!("/proc/{pid}/exe")]);
                all + &exe.stdout
            })
    };
    for (flags, shim) in [
        (&[][..], "containerd-shim-knarr-v2"),
        (
            &["--runtime", "io.containerd.knarr.v2"],
            "containerd-shim-knarr-v2",
        ),
        (
            &["--runtime", "io.containerd.runc.v2"],
            "containerd-shim-knarr-v2",
        ),
    ] {
        it.run(&[&["-d"], flags].concat(), "box", "sleep 1000").ok();
        // What runs may be a copy that has another name.
        assert!(
            !shims().contains("runc"),
            "{flags:?}: {}, not {shim}",
            shims()
        );
        it.ctr(&["task", "rm", "-f", "box"]);
        it.ctr(&["container", "rm", "box"]).ok();
    }
    if let Some(runc) = peers::runc() {
        let runc = runc.to_str().unwrap();
        it.run(&["-d", "--runc-binary", runc], "box", "sleep 1000")
            .ok();
        assert!(shims().contains("containerd-shim-runc-v2"), "{}", shims());
        let exec = [
            "task",
            "exec",
            "--exec-id",
            "e",
            "box",
            "/bin/sh",
            "-c",
            "exit 3",
        ];
        it.ctr(&exec).exits(3);
        it.end(Signal::KILL);
        it.start();
        it.ctr(&exec).exits(3);
        it.ctr(&["task", "rm", "-f", "box"]);
        it.ctr(&["container", "rm", "box"]).ok();
    }
    let fails = |runtime: &str, text: &str| {
        it.run(&["--rm", "--runtime", runtime], "wrong", "true")
            .fails_with(text);
        assert!(process::eventually(PATIENCE, || it.bundles().is_empty()));
    };
    fails(
        "io.containerd.none.v2",
        "runtime \"io.containerd.none.v2\" binary not installed \"containerd-shim-none-v2\": file does not exist",
    );
    fails("none", "invalid runtime name none");
    fails("/no/such", "no such file or directory");
    fails("/bin/true", "unexpected protocol: \"\"");
    fails("/bin/false", "start failed: exit status 1");
    fails("/bin/echo", "is no address");
    for (name, script) in [
        ("nobody", "echo unix:///no/such/socket"),
        ("rubbish", "head -c 100000 /dev/urandom"),
        ("json", "echo '{\"version\": 3}'"),
        ("relative", "echo unix://socket"),
        ("dies", "kill -9 $$"),
    ] {
        let path = it.path(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fails(&path, "failed to start shim");
    }
    it.run(&["--rm"], "right", "exit 4").exits(4);
}

#[test]
fn containers_outlive_the_daemon() {
    const IDS: [&str; 6] = ["c1", "c2", "c3", "c4", "c5", "c6"];
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    for id in IDS {
        it.run(
            &["-d"],
            id,
            "trap 'exit 9' TERM; while :; do sleep 0.1; done",
        )
        .ok();
    }
    let before = IDS.map(|id| it.status(id));
    it.end(Signal::TERM);
    it.start();
    assert_eq!(IDS.map(|id| it.status(id)), before);

    // In the middle of something else.
    for round in 0..4 {
        let args = it.run_args(&["-d"], "extra", "sleep 1000");
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut making = it.pen.spawn(it.command(&args));
        std::thread::sleep(std::time::Duration::from_millis(15 * round + 20));
        it.end(Signal::KILL);
        making.kill();
        it.start();
        assert_eq!(IDS.map(|id| it.status(id)), before);
        let gone = process::eventually(PATIENCE, || {
            it.ctr(&["task", "rm", "-f", "extra"]);
            it.ctr(&["container", "rm", "extra"]);
            it.ctr(&["snapshots", "rm", "extra"]);
            it.run(&["--rm"], "extra", "exit 6").code == 6
        });
        assert!(gone, "{:?}", it.run(&["--rm"], "extra", "exit 6"));
    }

    // What ends while it is away: one task, and the shim of another.
    let shim = it.pids("containerd-shim-knarr-v2 .*-id c2 ");
    it.end(Signal::KILL);
    let pid = &before[0].as_ref().unwrap().1;
    it.pen.run(&["kill", "-TERM", pid]).ok();
    it.pen.run(&["kill", "-KILL", &shim[0]]).ok();
    fs::create_dir(
        it.pen
            .path("state/io.containerd.runtime.v2.task/default/half"),
    )
    .unwrap();
    it.start();
    it.becomes("c1", Some("STOPPED"));
    it.becomes("c2", None);
    let out = it.ctr(&["task", "rm", "c1"]);
    assert!(out.stderr.contains("exit code 9"), "{out:#?}");
    assert_eq!(it.status("c3"), before[2]);
    let left = || {
        let mut left = it.bundles();
        left.sort();
        left
    };
    let expected = ["c3", "c4", "c5", "c6"];
    assert!(
        process::eventually(PATIENCE, || left() == expected),
        "{:?}",
        left()
    );
    it.ctr(&["task", "exec", "--exec-id", "e", "c3", "/bin/true"])
        .ok();
    for id in IDS {
        it.ctr(&["task", "rm", "-f", id]);
        it.ctr(&["container", "rm", id]).ok();
    }
    let shims = || it.pids("containerd-shim-knarr-v2 -namespace");
    assert!(
        process::eventually(PATIENCE, || shims().is_empty()),
        "{:?}",
        shims()
    );
}

/// What a container's end leaves to be told is told once, whoever tells it.
#[test]
fn ends_are_told_once() {
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    let events = it.events();
    it.run(&["-d"], "killed", "sleep 1000").ok();
    let exec = [
        "task",
        "exec",
        "-d",
        "--exec-id",
        "e",
        "killed",
        "/bin/sleep",
        "1000",
    ];
    it.ctr(&exec).ok();
    // What a shim has not told yet goes with it.
    process::eventually(PATIENCE, || topics(&events, "killed").len() == 4);
    let shim = it.pids("containerd-shim-knarr-v2 .*-id killed ");
    it.pen.run(&["kill", "-KILL", &shim[0]]).ok();
    it.becomes("killed", None);
    let all = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ];
    let with_exec = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/exit",
        "/tasks/delete",
    ];
    hears(&events, "killed", &with_exec);
    it.ctr(&["container", "rm", "killed"]).ok();
    it.run(&["--rm"], "killed", "exit 3").exits(3);

    it.run(&["-d"], "ended", "exit 3").ok();
    it.becomes("ended", Some("STOPPED"));
    let shim = it.pids("containerd-shim-knarr-v2 .*-id ended ");
    it.pen.run(&["kill", "-KILL", &shim[0]]).ok();
    it.becomes("ended", None);
    hears(&events, "ended", &all);
    let text = events.stdout_now();
    let end = text
        .lines()
        .find(|line| line.contains("/tasks/delete") && line.contains("\"ended\""));
    assert!(end.unwrap().contains("\"exit_status\":3"), "{end:?}");
    it.ctr(&["container", "rm", "ended"]).ok();

    // Two clients at once.
    for round in 0..5 {
        let id = format!("shared{round}");
        it.run(&["-d"], &id, "exit 0").ok();
        it.becomes(&id, Some("STOPPED"));
        let mut clients: Vec<Running> = (0..3)
            .map(|_| it.pen.spawn(it.command(&["task", "rm", &id])))
            .collect();
        let codes: Vec<i32> = clients.drain(..).map(|client| client.wait().code).collect();
        assert_eq!(
            codes.iter().filter(|code| **code == 0).count(),
            1,
            "{codes:?}"
        );
        hears(&events, &id, &all);
        it.ctr(&["container", "rm", &id]).ok();
    }
    assert!(process::eventually(PATIENCE, || it.bundles().is_empty()));
}

/// A shim that does not answer holds up nobody but who asks for its task.
#[test]
fn a_shim_that_hangs() {
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    it.run(&["-d"], "stuck", "sleep 1000").ok();
    it.run(&["-d"], "well", "sleep 1000").ok();
    let shim = it.pids("containerd-shim-knarr-v2 .*-id stuck ");
    it.pen.run(&["kill", "-STOP", &shim[0]]).ok();
    it.becomes("stuck", Some("UNKNOWN"));
    assert_eq!(it.status("well").unwrap().0, "RUNNING");
    it.end(Signal::KILL);
    it.start();
    it.becomes("stuck", Some("UNKNOWN"));
    assert_eq!(it.status("well").unwrap().0, "RUNNING");
    it.run(&["--rm"], "other", "exit 2").exits(2);
    it.pen.run(&["kill", "-CONT", &shim[0]]).ok();
    it.becomes("stuck", Some("RUNNING"));
    for id in ["stuck", "well"] {
        it.ctr(&["task", "rm", "-f", id]);
        it.ctr(&["container", "rm", id]).ok();
    }
}

#[test]
fn a_container_is_held_by_the_shim_of_its_sandbox() {
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    let shims = || it.pids("containerd-shim-knarr-v2 -namespace").len();
    let pod = it.path("pod.json");
    fs::write(
        &pod,
        r#"{"metadata": {"name": "a", "uid": "u", "namespace": "n"}}"#,
    )
    .unwrap();
    let said = it.ctr(&["sandboxes", "run", &pod, "pod"]).ok();
    assert_eq!(said.stdout, "pod\n");
    let listed = it.ctr(&["sandboxes", "ls"]).ok();
    assert!(listed.stdout.contains("pod "), "{listed:#?}");
    assert_eq!(shims(), 1);
    for id in ["one", "two"] {
        it.run(&["-d", "--sandbox", "pod"], id, "sleep 1000").ok();
        it.becomes(id, Some("RUNNING"));
        let info = it.ctr(&["containers", "info", id]).ok();
        assert!(info.stdout.contains(r#""SandboxID": "pod""#), "{info:#?}");
    }
    assert_eq!(shims(), 1);
    it.ctr(&["task", "rm", "-f", "one"]);
    it.becomes("one", None);
    // A daemon that comes later knows what is in the sandbox, and that the shim stays.
    it.end(Signal::KILL);
    it.start();
    it.becomes("two", Some("RUNNING"));
    it.ctr(&["task", "rm", "-f", "two"]);
    it.becomes("two", None);
    assert_eq!(shims(), 1, "the sandbox goes with its last container");
    it.ctr(&["sandboxes", "rm", "pod"]).ok();
    assert!(process::eventually(PATIENCE, || shims() == 0));
    assert!(!it.ctr(&["sandboxes", "ls"]).ok().stdout.contains("pod "));
}

/// runc's shims of today and of containerd 1.6, and crun below runc's: their containers live as those of our own.
#[test]
fn shims_of_others() {
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    let Some(runc) = peers::runc() else {
        skip!("{}", peers::missing("runc"));
    };
    std::os::unix::fs::symlink(runc, it.pen.bin().join("runc")).unwrap();
    let find = |source: Source| {
        let found = source.find("containerd-shim-runc-v2");
        found.map(|path| path.to_str().unwrap().to_owned())
    };
    let crun = peers::dir().join("crun-new/crun");
    // crun refuses hosts with both versions of cgroups.
    it.pen.run(&["umount", "-l", "/sys/fs/cgroup/unified"]);
    let (newest, debian) = (find(Source::Newest), find(Source::Debian));
    let ways = [
        newest.as_deref().map(|shim| vec!["--runtime", shim]),
        debian.as_deref().map(|shim| vec!["--runtime", shim]),
        crun.is_file()
            .then(|| vec!["--runc-binary", crun.to_str().unwrap()]),
    ];
    let events = it.events();
    for (n, flags) in ways.into_iter().enumerate() {
        let Some(flags) = flags else {
            println!(
                "way {n} left out: {}",
                peers::missing("another's shim or crun")
            );
            continue;
        };
        let ids = [format!("short{n}"), format!("long{n}")];
        it.run(&[&["--rm"], &flags[..]].concat(), &ids[0], "exit 6")
            .exits(6);
        let limited = [&["-d", "--memory-limit", "16777216"], &flags[..]].concat();
        let id = &*ids[1];
        it.run(&limited, id, "sleep 1000").ok();
        let pids = it.pids("containerd-shim-runc-v2 ");
        assert_eq!(pids.len(), 1, "{flags:?}: {pids:?}");
        let exec = |script: &str| {
            let to = [
                "task",
                "exec",
                "--exec-id",
                "e",
                id,
                "/bin/sh",
                "-c",
                script,
            ];
            it.ctr(&to)
        };
        exec("exit 3").exits(3);
        it.ctr(&["task", "pause", id]).ok();
        it.becomes(id, Some("PAUSED"));
        it.ctr(&["task", "resume", id]).ok();
        let figures = it.ctr(&["task", "metrics", id]).ok();
        assert!(figures.stdout.contains("pids.current"), "{figures:#?}");
        exec("exec tail /dev/zero").exits(137);
        let told = || {
            topics(&events, id)
                .iter()
                .any(|topic| topic == "/tasks/oom")
        };
        assert!(
            process::eventually(PATIENCE, told),
            "{flags:?}: no word of it"
        );
        if n == 0 {
            it.ctr(&["task", "kill", "-s", "KILL", id]).ok();
            it.becomes(id, Some("STOPPED"));
        }
        let out = it.ctr(&["task", "rm", "-f", id]);
        assert!(out.stderr.contains("137"), "{out:#?}");
        it.ctr(&["container", "rm", id]).ok();
        assert!(process::eventually(PATIENCE, || it
            .pids("containerd-shim-runc-v2 ")
            .is_empty()));
    }
    assert!(process::eventually(PATIENCE, || it.bundles().is_empty()));
}

/// A container of another's shim that ends while the daemon is away.
#[test]
fn shims_of_others_outlive_the_daemon() {
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    let Some(runc) = peers::runc() else {
        skip!("{}", peers::missing("runc"));
    };
    std::os::unix::fs::symlink(runc, it.pen.bin().join("runc")).unwrap();
    let script = "trap 'exit 9' TERM; while :; do sleep 0.1; done";
    let sources = [Source::Newest, Source::Debian];
    let shims = sources.map(|source| source.find("containerd-shim-runc-v2"));
    let shims: Vec<_> = shims.into_iter().flatten().collect();
    for (n, shim) in shims.iter().enumerate() {
        let flags = ["-d", "--runtime", shim.to_str().unwrap()];
        for name in ["ends", "stays"] {
            it.run(&flags, &format!("{name}{n}"), script).ok();
        }
    }
    let ids: Vec<String> = (0..shims.len())
        .flat_map(|n| ["ends", "stays"].map(|name| format!("{name}{n}")))
        .collect();
    let pids: Vec<String> = ids.iter().map(|id| it.status(id).unwrap().1).collect();
    it.end(Signal::KILL);
    for (id, pid) in ids.iter().zip(&pids) {
        if id.starts_with("ends") {
            it.pen.run(&["kill", "-TERM", pid]).ok();
            let gone = || it.pen.run(&["kill", "-0", pid]).code != 0;
            assert!(process::eventually(PATIENCE, gone));
        }
    }
    it.start();
    // Who listens only now hears what happened since the start; what had been told before does not come again.
    let events = it.events();
    for (id, pid) in ids.iter().zip(&pids) {
        if id.starts_with("ends") {
            it.becomes(id, Some("STOPPED"));
            hears(&events, id, &["/tasks/exit"]);
            let out = it.ctr(&["task", "rm", id]);
            assert!(out.stderr.contains("exit code 9"), "{out:#?}");
        } else {
            assert_eq!(it.status(id), Some(("RUNNING".to_owned(), pid.clone())));
            let exec = ["task", "exec", "--exec-id", "e", id, "/bin/true"];
            it.ctr(&exec).ok();
            it.ctr(&["task", "rm", "-f", id]);
        }
        it.ctr(&["container", "rm", id]).ok();
    }
    assert!(process::eventually(PATIENCE, || it.bundles().is_empty()));
}

/// Our own client: the command's output and exit code, plain words where something is wrong, and nothing left.
#[test]
fn knarrctl_runs_containers() {
    let it = it!();
    let _watch = it.pen.watch("knarrd");
    let Some(knarrctl) = runtime::newest_built("knarrctl") else {
        skip!("knarrctl is not built: cargo build -p knarr-ctl");
    };
    let socket = it.path("knarrd.sock");
    let command = |args: &[&str]| {
        let knarrctl = [knarrctl.to_str().unwrap(), "-a", &socket];
        it.pen.command(&[&knarrctl, args].concat())
    };
    let ctl = |args: &[&str]| it.pen.spawn(command(args)).wait();
    let nothing_left = || {
        let left = it.ctr(&["containers", "ls", "-q"]).ok();
        assert_eq!(left.text(), "");
        let left = it.ctr(&["snapshots", "ls"]).ok();
        assert!(!left.stdout.contains("Active"), "{left:#?}");
    };
    let image = ["run", IMAGE];
    for code in 0..4 {
        let script = format!("echo out; echo err >&2; exit {code}");
        let out = ctl(&[&image[..], &["sh", "-c", &script]].concat()).exits(code);
        assert_eq!((&*out.stdout, &*out.stderr), ("out\n", "err\n"));
    }
    let input = it.pen.path("input");
    fs::write(&input, "piped\n").unwrap();
    let mut piped = command(&["run", "-i", IMAGE, "cat"]);
    piped.stdin(fs::File::open(input).unwrap());
    assert_eq!(it.pen.spawn(piped).wait().ok().stdout, "piped\n");
    ctl(&["run", IMAGE, "no-such-program"]).fails_with("executable file not found in $PATH");
    nothing_left();

    let one = it
        .pen
        .spawn(command(&["run", "--name", "one", IMAGE, "sleep", "1000"]));
    it.becomes("one", Some("RUNNING"));
    ctl(&["run", "--name", "one", IMAGE, "true"]).fails_with("container \"one\": already exists");
    assert_eq!(it.status("one").unwrap().0, "RUNNING");
    it.ctr(&["task", "kill", "-s", "KILL", "one"]).ok();
    one.wait().exits(137);
    nothing_left();

    let lost = ["run", "none:1", "true"];
    ctl(&lost).fails_with("no image docker.io/library/none:1 here");
    let nowhere = it
        .pen
        .run(&[knarrctl.to_str().unwrap(), "-a", "/no/such", "images"]);
    let said = nowhere.fails_with("is it running?");
    assert_eq!(said.stderr.matches("No such file").count(), 1, "{said:#?}");
}
