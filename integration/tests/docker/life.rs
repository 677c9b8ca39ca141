//! What containers do from their start to their end, and what is done to them meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use knarr_integration::daemon::PATIENCE;
use knarr_integration::docker::{Docker, IMAGE};
use knarr_integration::peers::Source;
use knarr_integration::{cgroup, process};

pub fn run_gives_output_and_exit_code(it: &Docker) {
    let out = it.sh(&[], "echo out; echo err >&2; exit 7").exits(7);
    assert_eq!(out.stdout, "out\n");
    assert_eq!(out.stderr, "err\n");
    it.sh(&[], "sh -c 'kill -KILL $$'; exit $?").exits(137);
    let input = it.pen.path("input");
    fs::write(&input, "one\ntwo\n").unwrap();
    let args = [
        "docker",
        "run",
        "--rm",
        "-i",
        IMAGE,
        "sh",
        "-c",
        "cat; echo end",
    ];
    let mut command = it.pen.command(&args);
    command.stdin(fs::File::open(input).unwrap());
    let out = it.pen.spawn(command).wait().ok();
    assert_eq!(out.stdout, "one\ntwo\nend\n");
}

pub fn run_interactive_on_a_terminal(it: &Docker) {
    let out = it
        .pen
        .on_terminal(
            &["docker", "run", "--rm", "-it", IMAGE, "sh"],
            "until stty size | grep 111; do sleep 0.05; done\ntty\nread -r line\ntyped here\necho got $line\nexit 5\n",
        )
        .exits(5);
    for wanted in ["33 111", "/dev/", "got typed here"] {
        assert!(out.stdout.contains(wanted), "{wanted}: {out:#?}");
    }
    let box_ = it.detached(&["-t"], "tty", "sleep 600");
    let out = it.pen.on_terminal(
        &["docker", "exec", "-it", box_.name, "sh"],
        "until stty size | grep 111; do sleep 0.05; done\ntty\nexit 6\n",
    );
    let out = out.exits(6);
    assert!(out.stdout.contains("33 111"), "{out:#?}");
    assert!(out.stdout.contains("/dev/pts/"), "{out:#?}");
}

pub fn detached_stop_start_restart(it: &Docker) {
    let script = "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let box_ = it.detached(&[], "stops", script);
    assert_eq!(box_.status(), "running");
    let up = |times: usize| {
        process::eventually(PATIENCE, || {
            it.docker(&["logs", "stops"])
                .ok()
                .stdout
                .matches("up\n")
                .count()
                == times
        })
    };
    assert!(up(1));
    it.docker(&["stop", "-t", "20", "stops"]).ok();
    assert_eq!(
        box_.inspect("{{.State.Status}} {{.State.ExitCode}}"),
        "exited 3"
    );
    assert!(cgroup::tree(&box_.cgroup()).is_empty(), "a cgroup is left");
    it.docker(&["start", "stops"]).ok();
    assert!(up(2));
    it.docker(&["restart", "-t", "20", "stops"]).ok();
    assert!(up(3));
    assert_eq!(box_.status(), "running");
    it.docker(&["rm", "stops"]).fails();

    // Deaf to SIGTERM: killed when the time is over.
    let deaf = it.detached(&[], "deaf", "trap '' TERM; while :; do sleep 0.05; done");
    it.docker(&["stop", "-t", "1", "deaf"]).ok();
    assert_eq!(deaf.inspect("{{.State.ExitCode}}"), "137");
}

pub fn exec_variants(it: &Docker) {
    let box_ = it.detached(&["-w", "/tmp", "-e", "A=run"], "execs", "sleep 600");
    let out = box_.exec(&[], "echo out; echo err >&2; exit 4").exits(4);
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("out\n", "err\n")
    );
    let flags = ["-u", "1000:2000", "-w", "/var", "-e", "B=exec"];
    let out = box_.exec(&flags, "id -u; id -g; pwd; echo $A $B").ok();
    assert_eq!(out.lines(), ["1000", "2000", "/var", "run exec"]);
    let out = box_
        .exec(&["--privileged"], "grep CapEff /proc/self/status")
        .ok();
    let full = u64::from_str_radix(out.text().rsplit('\t').next().unwrap(), 16).unwrap();
    assert!(full >> 21 & 1 == 1, "CAP_SYS_ADMIN: {out:#?}");
    let out = it.docker(&["exec", box_.name, "no-such-program"]);
    // Debian's gives 126 for this with every runtime.
    assert!(
        out.code == 127 || it.source == Source::Debian && out.code == 126,
        "{out:#?}"
    );
    let text = format!("{}{}", out.stdout, out.stderr);
    assert!(
        text.contains("executable file not found in $PATH"),
        "{out:#?}"
    );
    let out = it.docker(&["exec", box_.name, "/etc/passwd"]);
    assert_eq!(out.code, 126, "{out:#?}");
    it.docker(&["exec", "-d", box_.name, "touch", "/tmp/later"])
        .ok();
    box_.wait_until("test -e /tmp/later");
    let out = box_.exec(&["-u", "nobody-such"], "true");
    assert_ne!(out.code, 0);
    // Many at a time.
    let running: Vec<_> = (0..8)
        .map(|n| it.spawn(&["exec", box_.name, "sh", "-c", &format!("exit {n}")]))
        .collect();
    for (n, one) in running.into_iter().enumerate() {
        one.wait().exits(i32::try_from(n).unwrap());
    }
}

pub fn pause_and_unpause(it: &Docker) {
    let box_ = it.detached(&[], "pauses", "while :; do echo x; sleep 0.02; done");
    it.docker(&["pause", "pauses"]).ok();
    assert_eq!(box_.status(), "paused");
    let beats = || it.docker(&["logs", "pauses"]).ok().stdout.len();
    std::thread::sleep(Duration::from_millis(100));
    let before = beats();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(beats(), before, "goes on while paused");
    let out = box_.exec(&[], "true").fails();
    assert!(out.stderr.contains("paused"), "{out:#?}");
    it.docker(&["unpause", "pauses"]).ok();
    assert!(process::eventually(PATIENCE, || beats() > before));
    it.docker(&["pause", "pauses"]).ok();
    it.docker(&["rm", "-f", "pauses"]).ok();
    // For the guard.
    it.detached(&[], "pauses", "true");
}

pub fn init_reaps(it: &Docker) {
    let out = it.sh(&["--init"], "cat /proc/1/comm; exec true").ok();
    assert!(
        out.stdout.contains("init") || out.stdout.contains("tini"),
        "{out:#?}"
    );
    // SIGTERM reaches a child of it that has no handler.
    let box_ = it.detached(&["--init"], "inits", "exec sleep 600");
    let start = Instant::now();
    it.docker(&["stop", "-t", "20", "inits"]).ok();
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "waited for the kill"
    );
    assert_eq!(box_.inspect("{{.State.ExitCode}}"), "143");
}

pub fn healthcheck(it: &Docker) {
    let box_ = it.detached(
        &[
            "--health-cmd",
            "test -e /tmp/well",
            "--health-interval",
            "1s",
            "--health-retries",
            "1",
            "--health-timeout",
            "20s",
        ],
        "health",
        "sleep 600",
    );
    box_.becomes("{{.State.Health.Status}}", "unhealthy");
    box_.exec(&[], "touch /tmp/well").ok();
    box_.becomes("{{.State.Health.Status}}", "healthy");
}

pub fn errors_reach_the_user(it: &Docker) {
    let run = |args: &[&str]| it.docker(&[&["run", "--rm"], args].concat());
    let out = run(&[IMAGE, "no-such-program"]).exits(127);
    assert!(
        out.stderr.contains("executable file not found in $PATH"),
        "{out:#?}"
    );
    let out = run(&[IMAGE, "/no/such/program"]).exits(127);
    assert!(
        out.stderr
            .to_lowercase()
            .contains("no such file or directory"),
        "{out:#?}"
    );
    let out = run(&[IMAGE, "/etc/passwd"]).exits(126);
    assert!(
        out.stderr.to_lowercase().contains("permission denied"),
        "{out:#?}"
    );
    run(&[IMAGE, "/etc"]).exits(126);
    let out = run(&["-w", "/etc/passwd", IMAGE, "true"]);
    assert!(out.code == 125 || out.code == 127, "{out:#?}");
    run(&["--sysctl", "kernel.hostname=x", IMAGE, "true"]).exits(125);
    let out = run(&["--device", "/dev/no-such-device", IMAGE, "true"]);
    assert!(
        out.code >= 125 && out.stderr.contains("no-such-device"),
        "{out:#?}"
    );
    run(&["--runtime", "no-such-runtime", IMAGE, "true"]).exits(125);
    let left = it.docker(&["ps", "-aq", "--filter", "status=created"]).ok();
    assert!(left.text().lines().count() < 3, "{left:#?}");
}

pub fn top_stats_and_logs(it: &Docker) {
    let box_ = it.detached(&[], "shows", "echo a line; echo b >&2; sleep 600");
    let out = it.docker(&["top", "shows"]).ok();
    assert!(out.stdout.contains("sleep 600"), "{out:#?}");
    let out = it.docker(&["top", "shows", "-o", "pid,comm"]).ok();
    assert!(out.stdout.contains("sleep"), "{out:#?}");
    let stats = it
        .docker(&["stats", "--no-stream", "--format", "{{json .}}", "shows"])
        .ok()
        .json();
    assert_ne!(stats["PIDs"], "0", "{stats}");
    assert!(
        !stats["MemUsage"].as_str().unwrap().starts_with("0B"),
        "{stats}"
    );
    let out = it.docker(&["logs", "shows"]).ok();
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("a line\n", "b\n")
    );
    box_.exec(&[], "echo made > /tmp/made").ok();
    let out = it.docker(&["diff", "shows"]).ok();
    assert!(out.stdout.contains("A /tmp/made"), "{out:#?}");
    it.docker(&["commit", "shows", "made:1"]).ok();
    it.docker(&["run", "--rm", "made:1", "test", "-e", "/tmp/made"])
        .ok();
    it.docker(&["rename", "shows", "shown"]).ok();
    it.docker(&["rename", "shown", "shows"]).ok();
}

pub fn attach_and_kill(it: &Docker) {
    let box_ = it.detached(
        &["-i"],
        "attached",
        "trap 'echo hup' HUP; read -r line; echo got $line; exit 11",
    );
    let input = it.pen.path("attached");
    fs::write(&input, "this\n").unwrap();
    let mut command = it.pen.command(&["docker", "attach", box_.name]);
    command.stdin(fs::File::open(input).unwrap());
    let out = it.pen.spawn(command).wait().exits(11);
    // What came after the end of the input may not reach the client any more, but the log.
    let logs = it.docker(&["logs", box_.name]).ok();
    assert!(logs.stdout.contains("got this"), "{out:#?} {logs:#?}");
    let signals = it.detached(
        &[],
        "signalled",
        "trap 'echo usr1' USR1; echo up; while :; do sleep 0.05; done",
    );
    let logged = |text: &str| {
        process::eventually(PATIENCE, || {
            it.docker(&["logs", "signalled"]).ok().stdout.contains(text)
        })
    };
    assert!(logged("up"));
    it.docker(&["kill", "-s", "USR1", "signalled"]).ok();
    assert!(logged("usr1"));
    it.docker(&["kill", "signalled"]).ok();
    let out = it.docker(&["wait", "signalled"]).ok();
    assert_eq!(out.text(), "137");
    let out = it.docker(&["kill", "signalled"]).fails();
    assert!(out.stderr.contains("is not running"), "{out:#?}");
    drop(signals);
}

pub fn restart_policy(it: &Docker) {
    let box_ = it.detached(&["--restart", "on-failure:2"], "returns", "exit 9");
    box_.becomes("{{.RestartCount}} {{.State.Status}}", "2 exited");
    assert_eq!(box_.inspect("{{.State.ExitCode}}"), "9");
}
