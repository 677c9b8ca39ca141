//! containerd with the runtime under test in runc's place: the newest release and Debian's.
//!
//! One daemon of each for the whole file, in namespaces of its own; tests keep apart by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use knarr_integration::cgroup::Driver;
use knarr_integration::containerd::{self, Containerd, Events, IMAGE};
use knarr_integration::daemon::PATIENCE;
use knarr_integration::peers::{self, Shared, Source};
use knarr_integration::runtime::Running;
use knarr_integration::{Value, bundle, cgroup, json, process, runtime, skip};

static NEWEST: Shared<Containerd> = Shared::new(Source::Newest, Driver::Cgroupfs, Containerd::new);
static DEBIAN: Shared<Containerd> = Shared::new(Source::Debian, Driver::Cgroupfs, Containerd::new);
static SHIM: Shared<Containerd> =
    Shared::new(Source::Newest, Driver::Cgroupfs, Containerd::with_shim);
static DEBIAN_SHIM: Shared<Containerd> =
    Shared::new(Source::Debian, Driver::Cgroupfs, Containerd::with_shim);
static SYSTEMD_SHIM: Shared<Containerd> =
    Shared::new(Source::Newest, Driver::Systemd, Containerd::with_shim);
static SYSTEMD: Shared<Containerd> = Shared::new(Source::Newest, Driver::Systemd, Containerd::new);

/// What is missing for that daemon.
fn missing(source: Source, driver: Driver) -> Option<String> {
    if driver == Driver::Systemd
        && let Some(why) = driver.missing()
    {
        return Some(why.to_owned());
    }
    let name = ["containerd", "ctr", "containerd-shim-runc-v2"]
        .into_iter()
        .find(|name| source.find(name).is_none())?;
    Some(peers::missing(&format!("{name} ({source:?})")))
}

fn on(daemon: &'static Shared<Containerd>, test: fn(&Containerd)) {
    let shims = [&SHIM, &DEBIAN_SHIM, &SYSTEMD_SHIM];
    let shim = shims.iter().any(|shim| std::ptr::eq(daemon, *shim));
    if shim && containerd::shim().is_none() {
        skip!(
            "{} is not built: cargo build -p knarr-shim",
            containerd::SHIM
        );
    }
    if let Some(why) = missing(daemon.source, daemon.driver) {
        skip!("{why}");
    }
    let it = daemon.get();
    let _watch = it.watch();
    test(it);
}

knarr_integration::both!(
    run_gives_output_and_exit_code,
    run_passes_standard_input,
    run_on_a_terminal,
    run_with_attributes,
    a_missing_program_is_reported,
    detached_until_deleted,
    exec_variants,
    pause_and_resume,
    limits_and_update,
    signals,
    events_tell_the_life,
    metrics,
    oom_is_reported,
    features_are_read,
    many_at_once,
    logs_go_where_they_shall,
    checkpoint_and_restore,
);

// With our shim, and so without a runtime of its own.
knarr_integration::with_daemon!(shim, SHIM:
    run_gives_output_and_exit_code,
    run_passes_standard_input,
    run_on_a_terminal,
    run_with_attributes,
    a_missing_program_is_reported,
    detached_until_deleted,
    exec_variants,
    pause_and_resume,
    limits_and_update,
    signals,
    events_tell_the_life,
    metrics,
    oom_is_reported,
    many_at_once,
    logs_go_where_they_shall,
    checkpoint_and_restore,
);

knarr_integration::with_daemon!(debian_shim, DEBIAN_SHIM:
    run_gives_output_and_exit_code,
    run_passes_standard_input,
    run_on_a_terminal,
    a_missing_program_is_reported,
    detached_until_deleted,
    exec_variants,
    pause_and_resume,
    signals,
    events_tell_the_life,
    metrics,
    oom_is_reported,
    many_at_once,
    logs_go_where_they_shall,
);

// What the cgroup's maker has a part in.
knarr_integration::with_daemon!(systemd, SYSTEMD:
    run_gives_output_and_exit_code,
    a_missing_program_is_reported,
    detached_until_deleted,
    exec_variants,
    pause_and_resume,
    limits_and_update,
    a_scope_in_the_slice,
    signals,
    metrics,
    oom_is_reported,
    many_at_once,
    checkpoint_and_restore,
);

knarr_integration::with_daemon!(systemd_shim, SYSTEMD_SHIM:
    run_gives_output_and_exit_code,
    detached_until_deleted,
    exec_variants,
    pause_and_resume,
    limits_and_update,
    a_scope_in_the_slice,
    signals,
    metrics,
    oom_is_reported,
    many_at_once,
    checkpoint_and_restore,
);

fn run_gives_output_and_exit_code(it: &Containerd) {
    let out = it
        .run(&[], "out", "echo out; echo err >&2; exit 7")
        .exits(7);
    assert_eq!(out.stdout, "out\n");
    assert!(out.stderr.contains("err\n"), "{out:#?}");
    it.run(&[], "sig", "sh -c 'kill -KILL $$'; exit $?")
        .exits(137);
    assert!(
        cgroup::tree(&it.cgroup("out")).is_empty(),
        "a cgroup is left"
    );
}

// ctr never passes the end of its input on, whatever the runtime: one line has to do.
fn run_passes_standard_input(it: &Containerd) {
    let input = it.pen.path("input");
    fs::write(&input, "to be read\n").unwrap();
    let args = it.run_args(&["--rm"], "stdin", "read -r line; echo \"$line, and end\"");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = it.pen.command(&it.args(&args));
    command.stdin(fs::File::open(input).unwrap());
    let out = it.pen.spawn(command).wait().ok();
    assert_eq!(out.stdout, "to be read, and end\n");
}

// ctr sets the size only after the start, so a first look may find none.
fn run_on_a_terminal(it: &Containerd) {
    let args = it.run_args(
        &["--rm", "-t"],
        "tty",
        "tty; until stty size 2>&1 | grep 111; do sleep 0.02; done; test -t 0 && test -t 1 && test -t 2 && echo all; exit 5",
    );
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = it.pen.on_terminal(&it.args(&args), "").exits(5);
    assert!(out.stdout.contains("/dev/"), "no terminal: {out:#?}");
    assert!(out.stdout.contains("33 111"), "size: {out:#?}");
    assert!(out.stdout.contains("all"), "not all three: {out:#?}");

    let box_ = it.detached(&[], "ttyexec", "sleep 600");
    let name = containerd::exec_name();
    let exec = ["task", "exec", "-t", "--exec-id", &name, box_.id, "/bin/sh"];
    let shell = [
        &exec[..],
        &[
            "-c",
            "tty; until stty size 2>&1 | grep 111; do sleep 0.02; done",
        ],
    ]
    .concat();
    let out = it.pen.on_terminal(&it.args(&shell), "").ok();
    assert!(out.stdout.contains("/dev/pts/"), "no terminal: {out:#?}");
    assert!(out.stdout.contains("33 111"), "size: {out:#?}");
}

fn run_with_attributes(it: &Containerd) {
    let source = it.pen.path("given");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "there").unwrap();
    let mount = format!(
        "type=bind,src={},dst=/given,options=rbind:ro",
        source.display()
    );
    let mut flags = vec![
        "--env",
        "COLOUR=blue",
        "--cwd",
        "/tmp",
        "--mount",
        &mount,
        "--read-only",
    ];
    // Debian's ctr has no flag for these.
    if it.source == Source::Newest {
        flags.extend(["--user", "1000:1000", "--hostname", "inside"]);
    }
    let out = it
        .run(
            &flags,
            "attributes",
            "pwd; echo $COLOUR; cat /given/file; echo; touch /tmp/x || echo read-only; \
             id -u; id -g; hostname; grep CapEff: /proc/self/status",
        )
        .ok();
    let said: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(said[..4], ["/tmp", "blue", "there", "read-only"]);
    if it.source == Source::Newest {
        assert_eq!(said[4..7], ["1000", "1000", "inside"]);
        assert_eq!(said[7], "CapEff:\t0000000000000000");
    }

    let out = it
        .run(
            &[
                "--seccomp",
                "--cap-add",
                "CAP_SYS_TIME",
                "--cap-drop",
                "CAP_CHOWN",
            ],
            "confined",
            "grep -E '^(CapBnd|Seccomp):' /proc/self/status; chown 1 /tmp || echo no",
        )
        .ok();
    assert!(out.stdout.contains("Seccomp:\t2"), "{out:#?}");
    assert!(out.stdout.contains("no\n"), "{out:#?}");
    let bounding = out
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:\t"));
    let bounding = u64::from_str_radix(bounding.unwrap(), 16).unwrap();
    assert!(bounding >> 25 & 1 == 1 && bounding & 1 == 0, "{bounding:x}");

    let out = it
        .run(&["--privileged", "--net-host"], "privileged",
            "mount -t tmpfs none /tmp && echo mounted; readlink /proc/self/ns/net; test -e /dev/null && echo dev")
        .ok();
    assert!(out.stdout.starts_with("mounted\n"), "{out:#?}");
    let host = it.pen.run(&["readlink", "/proc/self/ns/net"]).ok();
    assert!(out.stdout.contains(host.text()), "{out:#?}");
}

fn a_missing_program_is_reported(it: &Containerd) {
    let binary = runtime::path().to_str().unwrap().to_owned();
    let group = it.cgroup("missing");
    let run = |what: &str| {
        it.ctr(&[
            "run",
            "--rm",
            "--runc-binary",
            &binary,
            "--cgroup",
            &group,
            IMAGE,
            "missing",
            what,
        ])
        .fails()
    };
    let out = run("no-such-program");
    assert!(
        out.stderr.contains("executable file not found in $PATH"),
        "{out:#?}"
    );
    let out = run("/etc/passwd");
    assert!(
        out.stderr.to_lowercase().contains("permission denied"),
        "{out:#?}"
    );
    assert!(cgroup::tree(&group).is_empty(), "a cgroup is left");
    // Nothing of it stands in the way of the next of that name.
    it.run(&[], "missing", "true").ok();

    let out = it.ctr(&[
        "run",
        "--rm",
        "--runc-binary",
        "/no/such/runtime",
        "--cgroup",
        &group,
        IMAGE,
        "missing",
        "true",
    ]);
    assert_ne!(out.code, 0);
    it.ctr(&["container", "rm", "missing"]);
}

fn detached_until_deleted(it: &Containerd) {
    let box_ = it.detached(
        &[],
        "life",
        "trap 'exit 9' TERM; echo up > /tmp/up; while :; do sleep 0.1; done",
    );
    box_.becomes("RUNNING");
    box_.wait_until("test -e /tmp/up");
    let listed = it.ctr(&["task", "ps", "life"]).ok();
    assert!(listed.stdout.lines().count() >= 2, "{listed:#?}");
    let out = it.ctr(&["task", "rm", "life"]);
    assert_ne!(out.code, 0, "deleted while it runs: {out:#?}");
    it.ctr(&["task", "kill", "--signal", "SIGTERM", "life"])
        .ok();
    box_.becomes("STOPPED");
    let out = it.ctr(&["task", "kill", "--signal", "SIGTERM", "life"]);
    assert!(
        out.stderr.contains("not found") || out.stderr.contains("already finished"),
        "{out:#?}"
    );
    let out = it.ctr(&["task", "rm", "life"]);
    let told = format!("{}{}", out.stdout, out.stderr);
    assert!(out.code == 9 || told.contains('9'), "exit code 9: {out:#?}");
    assert_eq!(box_.status(), None);
    it.ctr(&["container", "rm", "life"]).ok();
    assert!(
        cgroup::tree(&it.cgroup("life")).is_empty(),
        "a cgroup is left"
    );
}

fn exec_variants(it: &Containerd) {
    let box_ = it.detached(&[], "execs", "sleep 600");
    let out = box_.exec(&[], "echo out; echo err >&2; exit 4").exits(4);
    assert_eq!(out.stdout, "out\n");
    assert!(out.stderr.contains("err\n"), "{out:#?}");
    let out = box_
        .exec(
            &["--user", "1000", "--cwd", "/tmp"],
            "id -u; pwd; cat /proc/1/cmdline",
        )
        .ok();
    assert!(
        out.stdout.starts_with("1000\n/tmp\nsleep") || out.stdout.contains("/bin/sh"),
        "{out:#?}"
    );
    // In the container's cgroup and namespaces.
    let inside = box_
        .exec(&[], "readlink /proc/self/ns/pid; readlink /proc/1/ns/pid")
        .ok();
    let mut lines = inside.stdout.lines();
    assert_eq!(lines.next(), lines.next());
    let name = containerd::exec_name();
    let out = it
        .ctr(&[
            "task",
            "exec",
            "--exec-id",
            &name,
            "execs",
            "no-such-program",
        ])
        .fails();
    assert!(
        out.stderr.contains("executable file not found in $PATH"),
        "{out:#?}"
    );
    // A signal to the exec'ed process alone.
    let args = [
        "task",
        "exec",
        "--exec-id",
        "victim",
        "execs",
        "/bin/sleep",
        "601",
    ];
    let victim = it.spawn(&args);
    box_.wait_until("ps | grep -q '[s]leep 601'");
    it.ctr(&[
        "task",
        "kill",
        "--exec-id",
        "victim",
        "--signal",
        "SIGKILL",
        "execs",
    ])
    .ok();
    victim.wait().exits(137);
    box_.becomes("RUNNING");
}

fn pause_and_resume(it: &Containerd) {
    let box_ = it.detached(
        &[],
        "pauses",
        "while :; do echo x >> /tmp/beats; sleep 0.02; done",
    );
    box_.wait_until("test -s /tmp/beats");
    it.ctr(&["task", "pause", "pauses"]).ok();
    box_.becomes("PAUSED");
    let file = it.root_of("pauses").join("tmp/beats");
    let beats = || fs::metadata(&file).unwrap().len();
    let before = beats();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(beats(), before, "goes on while paused");
    it.ctr(&["task", "resume", "pauses"]).ok();
    box_.becomes("RUNNING");
    assert!(process::eventually(PATIENCE, || beats() > before));
    // A paused container can be killed.
    it.ctr(&["task", "pause", "pauses"]).ok();
    it.ctr(&["task", "kill", "--signal", "SIGKILL", "pauses"])
        .ok();
    it.ctr(&["task", "resume", "pauses"]);
    box_.becomes("STOPPED");
}

fn limits_and_update(it: &Containerd) {
    let _box = it.detached(
        &[
            "--memory-limit",
            "67108864",
            "--cpus",
            "0.5",
            "--cpu-shares",
            "512",
        ],
        "limits",
        "sleep 600",
    );
    let memory = || it.figure("limits", "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory(), "67108864");
    let quota = || it.figure("limits", "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota().split(' ').next().unwrap(), "50000");
    // ctr has no command for it: a client of the same interface.
    let Some(update) = peers::client("task-update") else {
        let why = peers::missing("task-update");
        skip!("{why}");
    };
    let resources = json!({
        "memory": {"limit": 134_217_728},
        "cpu": {"quota": 25_000, "period": 100_000},
        "pids": {"limit": 50},
    });
    it.pen
        .run(&[update.to_str().unwrap(), "limits", &resources.to_string()])
        .ok();
    assert_eq!(memory(), "134217728");
    assert_eq!(quota().split(' ').next().unwrap(), "25000");
    assert_eq!(cgroup::read("pids", &it.cgroup("limits"), "pids.max"), "50");
    // Refused with a reason, and without effect: less than a process needs to be counted in.
    let wrong = json!({"cpu": {"cpus": "4000-4001"}}).to_string();
    let out = it
        .pen
        .run(&[update.to_str().unwrap(), "limits", &wrong])
        .fails();
    assert!(out.stderr.contains("cpus"), "the reason: {out:#?}");
    assert_eq!(memory(), "134217728");
}

fn a_scope_in_the_slice(it: &Containerd) {
    let flags = ["--memory-limit", "67108864", "--cpus", "0.5"];
    let box_ = it.detached(&flags, "scoped", "sleep 600");
    let show = |properties: &str| {
        it.pen
            .run(&["systemctl", "show", "-p", properties, "ctr-scoped.scope"])
            .ok()
            .stdout
    };
    let shown = show("Slice,MemoryMax,CPUQuotaPerSecUSec,Delegate");
    let slice = format!("Slice={}", it.pen.cgroup().trim_start_matches('/'));
    for wanted in [
        slice.as_str(),
        "MemoryMax=67108864",
        "CPUQuotaPerSecUSec=500ms",
        "Delegate=yes",
    ] {
        assert!(
            shown.lines().any(|line| line == wanted),
            "{wanted}: {shown}"
        );
    }
    it.pen.run(&["systemctl", "daemon-reload"]).ok();
    let limit = it.figure("scoped", "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit, "67108864");
    let out = box_
        .exec(
            &[],
            "echo > /dev/null && mknod /tmp/k c 1 11 && head -c 1 /tmp/k || echo refused",
        )
        .ok();
    assert_eq!(out.text(), "refused");
    it.ctr(&["task", "kill", "--signal", "SIGKILL", "scoped"])
        .ok();
    box_.becomes("STOPPED");
    box_.delete();
    assert_eq!(show("LoadState"), "LoadState=not-found\n");
}

fn signals(it: &Containerd) {
    let box_ = it.detached(
        &[],
        "signals",
        "trap 'echo usr1 >> /tmp/got' USR1; trap 'echo hup >> /tmp/got' HUP; touch /tmp/up; while :; do sleep 0.05; done",
    );
    box_.wait_until("test -e /tmp/up");
    it.ctr(&["task", "kill", "--signal", "USR1", "signals"])
        .ok();
    box_.wait_until("grep -q usr1 /tmp/got");
    it.ctr(&["task", "kill", "--signal", "1", "signals"]).ok();
    box_.wait_until("grep -q hup /tmp/got");
    it.ctr(&["task", "kill", "--all", "--signal", "SIGKILL", "signals"])
        .ok();
    box_.becomes("STOPPED");

    // All processes of a container that has no process namespace of its own end with its init.
    let flags = &["--with-ns", "pid:/proc/1/ns/pid"];
    let shared = it.detached(
        flags,
        "shared",
        "sleep 602 & sleep 603 & touch /tmp/up; wait",
    );
    shared.wait_until("test -e /tmp/up");
    assert!(cgroup::processes(&it.cgroup("shared")).len() >= 3);
    it.ctr(&["task", "kill", "--signal", "SIGKILL", "shared"])
        .ok();
    shared.becomes("STOPPED");
    assert!(process::eventually(PATIENCE, || cgroup::processes(
        &it.cgroup("shared")
    )
    .is_empty()));
}

fn events_tell_the_life(it: &Containerd) {
    const LIFE: &[&str] = &[
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit",
    ];
    let events = Events::listen(it);
    let box_ = it.detached(&[], "told", "sleep 600");
    it.ctr(&["task", "exec", "--exec-id", "told-e", "told", "/bin/true"])
        .ok();
    it.ctr(&["task", "pause", "told"]).ok();
    it.ctr(&["task", "resume", "told"]).ok();
    it.ctr(&["task", "kill", "--signal", "SIGKILL", "told"])
        .ok();
    box_.becomes("STOPPED");
    box_.delete();
    it.ctr(&["container", "rm", "told"]).ok();
    let topics = events.wait("told", "/containers/delete");
    let mut wanted = LIFE.iter().peekable();
    for topic in &topics {
        wanted.next_if(|next| *next == topic);
    }
    assert_eq!(
        wanted.next(),
        None,
        "not there, or out of order: {topics:?}"
    );
    // A shim may end before its last message is sent, whatever the runtime: one of several has to come.
    let told = (0..5).any(|_| {
        it.run(&[], "brief", "true").ok();
        process::eventually(Duration::from_secs(2), || {
            events.topics("brief").contains(&"/tasks/delete".to_owned())
        })
    });
    assert!(told, "no /tasks/delete:\n{}", events.text());
}

fn metrics(it: &Containerd) {
    let box_ = it.detached(
        &["--memory-limit", "67108864"],
        "metrics",
        "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; touch /tmp/up; sleep 600",
    );
    box_.wait_until("test -e /tmp/up");
    let out = it
        .ctr(&["task", "metrics", "--format", "json", "metrics"])
        .ok();
    let figures = out.json();
    let text = figures.to_string();
    let (usage, cpu) = if cgroup::unified() {
        (&figures["memory"]["usage"], &figures["cpu"]["usage_usec"])
    } else {
        (
            &figures["memory"]["usage"]["usage"],
            &figures["cpu"]["usage"]["total"],
        )
    };
    assert!(number(usage) > 0, "memory: {text}");
    assert!(number(cpu) > 0, "cpu: {text}");
    assert!(number(&figures["pids"]["current"]) >= 1, "pids: {text}");
    assert!(text.contains("67108864"), "the limit: {text}");
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
        .unwrap_or(0)
}

fn oom_is_reported(it: &Containerd) {
    let events = Events::listen(it);
    // The cgroup goes as its last process ends, now and then before runc's shim has read what happened
    // there: with systemd, and in containerd 1.6 with either driver.
    let late = matches!(it.driver, Driver::Systemd) || it.source == Source::Debian && !it.shim;
    let (script, code) = match late {
        false => ("exec tail /dev/zero", 137),
        true => ("tail /dev/zero; sleep 1; exit 9", 9),
    };
    let args = it.run_args(&["--rm", "--memory-limit", "16777216"], "greedy", script);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let start = Instant::now();
    it.ctr(&args).exits(code);
    assert!(start.elapsed() < Duration::from_secs(30));
    events.wait("greedy", "/tasks/oom");
}

fn features_are_read(it: &Containerd) {
    if it.source == Source::Debian {
        skip!("containerd 1.6 does not ask for features");
    }
    let out = it
        .ctr(&[
            "plugins",
            "inspect-runtime",
            "--runc-binary",
            runtime::path().to_str().unwrap(),
        ])
        .ok();
    let info = out.json();
    let text = info.to_string();
    assert!(text.contains("rro"), "mount options: {text}");
    assert!(text.contains("idmap"), "mount extensions: {text}");
}

fn many_at_once(it: &Containerd) {
    let ids: Vec<String> = (0..8).map(|n| format!("many{n}")).collect();
    let running: Vec<Running> = ids
        .iter()
        .map(|id| {
            let args = it.run_args(
                &["--rm"],
                id,
                "cat /proc/self/cgroup >/dev/null; echo done; exit 3",
            );
            it.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect();
    for one in running {
        let out = one.wait().exits(3);
        assert_eq!(out.stdout, "done\n");
    }
    for id in &ids {
        assert!(
            cgroup::tree(&it.cgroup(id)).is_empty(),
            "a cgroup of {id} is left"
        );
    }
}

/// Into a file, and to a program, whose descriptors and environment containerd's documentation lays down.
fn logs_go_where_they_shall(it: &Containerd) {
    let (dir, script) = (it.pen.path("logs"), "echo out; echo err >&2");
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("new/dir/a log");
    let uri = format!("file://{}", file.display()).replace(' ', "%20");
    for _ in 0..2 {
        it.run(&["--log-uri", &uri], "filed", script).ok();
    }
    // runc's shim copies the two streams, so their order is lost, and may go on with it after the end.
    let text = || fs::read_to_string(&file).unwrap();
    let lines = |line| text().matches(line).count();
    let logged = || lines("out\n") == 2 && lines("err\n") == 2;
    assert!(process::eventually(PATIENCE, logged), "{}", text());
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);

    let logger = dir.join("logger");
    bundle::write_program(
        &logger,
        &format!(
            "#!/bin/sh
             cd {}
             cat <&3 >out 5>&- & cat <&4 >err 5>&- &
             echo \"$@\" >args
             cat /proc/$$/environ | tr '\\0' '\\n' >env
             exec 5>&-
             wait
             echo >done\n",
            dir.display()
        ),
    );
    let uri = format!("binary://{}?key=a+value&%6cast", logger.display());
    it.run(&["--log-uri", &uri], "logged", script).ok();
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let logged = || read("out") == "out\n" && read("err") == "err\n";
    assert!(
        process::eventually(PATIENCE, logged),
        "{}, {}",
        read("out"),
        read("err")
    );
    // runc's shim does not wait for it.
    assert!(dir.join("done").exists() || !it.shim);
    // runc's shim has them in no order.
    let args = read("args");
    assert!(
        args.contains("key a value") && args.contains("last"),
        "{args:?}"
    );
    let env = read("env");
    let mut env: Vec<&str> = env.lines().collect();
    env.sort_unstable();
    let box_ = it.detached(&[], "logs", "sleep 600");
    let _ = fs::remove_file(dir.join("done"));
    let exec = [
        "task",
        "exec",
        "--exec-id",
        "logexec",
        "--log-uri",
        &uri,
        "logs",
        "/bin/echo",
        "hi",
    ];
    it.ctr(&exec).ok();
    assert!(process::eventually(PATIENCE, || read("out") == "hi\n"));
    assert_eq!(
        read("env").lines().next(),
        Some("CONTAINER_ID=logexec"),
        "an exec has its own"
    );
    drop(box_);
    assert_eq!(env, ["CONTAINER_ID=logged", "CONTAINER_NAMESPACE=default"]);
}

fn checkpoint_and_restore(it: &Containerd) {
    let criu = it.pen.run(&["criu", "check"]);
    let help = it
        .pen
        .run(&[runtime::path().to_str().unwrap(), "checkpoint", "--help"]);
    if criu.code != 0 || help.code != 0 {
        skip!(
            "criu is missing or does not work on this kernel: run this in a machine where it does"
        );
    }
    let box_ = it.detached(
        &[],
        "saved",
        "n=0; while :; do n=$((n+1)); echo $n > /tmp/n; mv /tmp/n /tmp/count; sleep 0.1; done",
    );
    box_.wait_until("test $(cat /tmp/count) -gt 3");
    it.ctr(&[
        "container",
        "checkpoint",
        "--rw",
        "--image",
        "--task",
        "saved",
        "knarr.test/saved:1",
    ])
    .ok();
    it.ctr(&["task", "kill", "--signal", "SIGKILL", "saved"])
        .ok();
    box_.becomes("STOPPED");
    it.ctr(&["task", "rm", "saved"]);
    it.ctr(&["container", "rm", "saved"]).ok();
    it.ctr(&[
        "container",
        "restore",
        "--rw",
        "--live",
        "saved",
        "knarr.test/saved:1",
    ])
    .ok();
    box_.becomes("RUNNING");
    // Where it was, not from the start; and it goes on.
    let count = || {
        let out = box_.exec(&[], "cat /tmp/count").ok();
        out.text().parse::<u64>().unwrap()
    };
    let first = count();
    assert!(first >= 3, "begun anew: {first}");
    assert!(process::eventually(PATIENCE, || count() > first));
}

/// containerd is stopped and started again: its containers go on, and answer.
#[test]
fn containers_outlive_the_daemon() {
    let source = Source::Newest;
    if source.find("containerd").is_none() {
        let why = peers::missing("containerd");
        skip!("{why}");
    }
    let it = Containerd::new(source, Driver::Cgroupfs);
    let _watch = it.watch();
    let box_ = it.detached(&[], "outlives", "sleep 600");
    let pid = it.pen.run(&["pidof", "-s", "containerd"]).ok();
    it.pen.run(&["kill", "-9", pid.text()]).ok();
    assert!(process::eventually(PATIENCE, || it
        .pen
        .run(&["pidof", "containerd"])
        .code
        != 0));
    it.start();
    box_.becomes("RUNNING");
    box_.exec(&[], "exit 6").exits(6);
    // A shim that was killed: the next task of that name must not find leftovers.
    it.pen
        .run(&["sh", "-c", "kill -9 $(pidof containerd-shim-runc-v2)"])
        .ok();
    assert!(
        process::eventually(PATIENCE, || {
            cgroup::processes(&it.cgroup("outlives")).is_empty()
        }),
        "processes are left after their shim"
    );
    box_.delete();
    it.ctr(&["container", "rm", "outlives"]).ok();
    it.run(&[], "outlives", "exit 8").exits(8);
}

/// As Kubernetes calls it: a runtime of config.toml, through the Container Runtime Interface.
fn pod(source: Source, driver: Driver) {
    if let Some(why) = missing(source, driver) {
        skip!("{why}");
    }
    let Some(client) = peers::client("pod") else {
        let why = peers::missing("the client");
        skip!("{why}");
    };
    let it = Containerd::for_pods(source, driver);
    let _watch = it.watch();
    // The kubelet names a slice where systemd makes the cgroups.
    let group = match driver {
        Driver::Cgroupfs => it.cgroup("pods"),
        Driver::Systemd => it.pen.cgroup().to_owned(),
    };
    let out = it
        .pen
        .run(&[
            client.to_str().unwrap(),
            "/run/containerd/containerd.sock",
            "knarr",
            IMAGE,
            &group,
        ])
        .ok();
    let mut wanted = vec![
        "exec: 5 inside",
        "memory in use: true",
        "ended: CONTAINER_EXITED 3",
    ];
    // Containerd 1.6 does not tell what a runtime can do.
    if source == Source::Newest {
        wanted.extend(["recursive read-only: true", "user namespaces: true"]);
    }
    for line in wanted {
        assert!(
            out.stdout.lines().any(|said| said == line),
            "{line}: {out:#?}"
        );
    }
    assert!(cgroup::processes(&group).is_empty(), "processes are left");
}

#[test]
fn a_pod_of_the_newest() {
    pod(Source::Newest, Driver::Cgroupfs);
}

#[test]
fn a_pod_of_debian() {
    pod(Source::Debian, Driver::Cgroupfs);
}

#[test]
fn a_pod_whose_cgroups_systemd_makes() {
    pod(Source::Newest, Driver::Systemd);
}

/// The pen leaves nothing, paused containers included.
fn leaves_nothing(driver: Driver) {
    if let Some(why) = missing(Source::Newest, driver) {
        skip!("{why}");
    }
    let it = Containerd::new(Source::Newest, driver);
    let (dir, group) = (it.pen.dir().to_path_buf(), it.pen.cgroup().to_owned());
    let paused = it.detached(&[], "paused", "sleep 600");
    it.ctr(&["task", "pause", "paused"]).ok();
    std::mem::forget(paused);
    drop(it);
    assert!(!dir.exists(), "{}", dir.display());
    assert!(
        cgroup::tree(&group).is_empty(),
        "{:?}",
        cgroup::tree(&group)
    );
}

#[test]
fn nothing_is_left_behind() {
    leaves_nothing(Driver::Cgroupfs);
}

#[test]
fn nothing_is_left_behind_in_systemd() {
    leaves_nothing(Driver::Systemd);
}
