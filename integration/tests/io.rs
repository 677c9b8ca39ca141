//! What a runtime hands over: terminals, pidfds, descriptors, notifications, logs, error texts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use knarr_integration::socket::{Notify, Receiver};
use knarr_integration::{Sandbox, Value, json, process};

/// Reads from a terminal until `text` has come.
fn read_until(terminal: &mut File, text: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0; 256];
    while !String::from_utf8_lossy(&all).contains(text) {
        match terminal.read(&mut byte) {
            Ok(0) | Err(_) => break,
            Ok(n) => all.extend_from_slice(&byte[..n]),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn console_socket_gets_the_terminal() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle(
        "tty; stty size; readlink /dev/console; read line; echo got $line",
        |c| {
            c["process"]["terminal"] = json!(true);
            c["process"]["consoleSize"] = json!({"height": 33, "width": 77});
        },
    );
    let socket = Receiver::bind(sb.path("tty.sock"));
    let create = sb.spawn(sb.command(&[
        "create",
        "--console-socket",
        socket.arg(),
        "--bundle",
        bundle.arg(),
        "t",
    ]));
    let (fd, name) = socket.descriptor();
    create.wait().ok();
    assert!(
        !name.is_empty(),
        "the message carries the descriptor's name"
    );
    let mut terminal = File::from(fd);
    sb.rt(&["start", "t"]).ok();
    let begin = read_until(&mut terminal, "33 77");
    assert!(
        begin.contains("/dev/pts/0") || begin.contains("/dev/console"),
        "{begin:?}"
    );
    terminal.write_all(b"hello\n").unwrap();
    let end = read_until(&mut terminal, "got hello");
    assert!(end.contains("got hello"), "{end:?}");
    sb.wait_status("t", "stopped");
}

#[test]
fn exec_console_socket_gets_the_terminal() {
    let sb = Sandbox::new();
    sb.sleeper("t", |_| {});
    let socket = Receiver::bind(sb.path("tty.sock"));
    let exec = sb.spawn(sb.command(&[
        "exec",
        "--tty",
        "--detach",
        "--console-socket",
        socket.arg(),
        "t",
        "sh",
        "-c",
        "echo on $(tty); sleep 600",
    ]));
    let (fd, _) = socket.descriptor();
    exec.wait().ok();
    let text = read_until(&mut File::from(fd), "\n");
    assert!(text.contains("on /dev/"), "{text:?}");
}

#[test]
fn terminal_and_console_socket_must_fit_in_exec() {
    let sb = Sandbox::new();
    sb.sleeper("t", |_| {});
    let before = sb.look();
    let refused = sb
        .rt(&["exec", "--tty", "--detach", "t", "sleep", "600"])
        .exits(255);
    assert!(refused.stderr.contains("--console-socket"), "{refused:?}");
    let socket = Receiver::bind(sb.path("tty.sock"));
    let refused = sb
        .rt(&["exec", "--console-socket", socket.arg(), "t", "true"])
        .exits(255);
    assert!(refused.stderr.contains("--console-socket"), "{refused:?}");
    sb.same_as(&before);
}

#[test]
fn terminal_and_console_socket_must_fit() {
    let sb = Sandbox::new();
    let tty = sb.bundle(|c| c["process"]["terminal"] = json!(true));
    let plain = sb.bundle(|_| {});
    let before = sb.look();
    sb.create("t", &tty).fails_with("console");
    let absent = sb.path("absent.sock");
    sb.rt(&[
        "create",
        "--console-socket",
        absent.to_str().unwrap(),
        "--bundle",
        tty.arg(),
        "t",
    ])
    .fails();
    sb.rt(&[
        "create",
        "--console-socket",
        absent.to_str().unwrap(),
        "--bundle",
        plain.arg(),
        "t",
    ])
    .fails();
    sb.same_as(&before);
}

#[test]
fn case_23_console_size_is_ignored_without_terminal() {
    let sb = Sandbox::new();
    sb.sh("true", |c| {
        c["process"]["consoleSize"] = json!({"height": 10, "width": 20})
    })
    .ok();
}

#[test]
fn pidfd_socket_gets_a_pidfd() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let socket = Receiver::bind(sb.path("pidfd.sock"));
    let create = sb.spawn(sb.command(&[
        "create",
        "--pidfd-socket",
        socket.arg(),
        "--bundle",
        bundle.arg(),
        "p",
    ]));
    let (fd, _) = socket.descriptor();
    create.wait().ok();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let pid = sb.state("p")["pid"].as_u64().unwrap();
    assert!(info.contains(&format!("Pid:\t{pid}\n")), "{info}");
    sb.rt(&["start", "p"]).ok();
    let socket = Receiver::bind(sb.path("exec.sock"));
    let file = sb.path("pid");
    let exec = sb.spawn(sb.command(&[
        "exec",
        "-d",
        "--pid-file",
        file.to_str().unwrap(),
        "--pidfd-socket",
        socket.arg(),
        "p",
        "sleep",
        "600",
    ]));
    let (fd, _) = socket.descriptor();
    exec.wait().ok();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let pid = fs::read_to_string(file).unwrap();
    assert!(info.contains(&format!("Pid:\t{pid}\n")), "{info} {pid}");
}

/// A shell that opens descriptor 3 and 4 and then becomes the runtime: std closes such descriptors itself.
fn with_descriptors(sb: &Sandbox, env: &str, args: &str) -> knarr_integration::Outcome {
    let mut command = sb.command(&[]);
    let program = knarr_integration::runtime::path().display();
    let root = sb.root();
    command = {
        let mut shell = knarr_integration::runtime::command("/bin/sh".as_ref());
        shell.env("KNARR_SANDBOX", sb.cgroup());
        let script = format!(
            "echo three >{0}/3; echo four >{0}/4; exec 3<{0}/3 4<{0}/4; {env} exec {program} --root {1} {args}",
            sb.dir().display(),
            root.display(),
        );
        shell.args(["-c", &script]);
        drop(command);
        shell
    };
    sb.spawn(command).wait()
}

#[test]
fn preserve_fds_passes_descriptors() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("cat <&3; cat <&4; ls /proc/self/fd | wc -l", |_| {});
    let out = with_descriptors(
        &sb,
        "",
        &format!("run --preserve-fds 2 --bundle {} f", bundle.arg()),
    )
    .ok();
    assert_eq!(out.stdout, "three\nfour\n6\n");
    let none = with_descriptors(&sb, "", &format!("run --bundle {} f", bundle.arg()));
    assert!(!none.stdout.contains("three"), "{none:?}");
    sb.sleeper("e", |_| {});
    let out = with_descriptors(
        &sb,
        "",
        "exec --preserve-fds 1 e sh -c 'cat <&3; ls /proc/self/fd | wc -l'",
    )
    .ok();
    assert_eq!(out.stdout, "three\n5\n");
}

#[test]
fn preserve_fds_of_closed_descriptors_errors() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let before = sb.look();
    sb.rt(&[
        "create",
        "--preserve-fds",
        "40",
        "--bundle",
        bundle.arg(),
        "f",
    ])
    .fails();
    sb.same_as(&before);
    // The runtime's own descriptors have these numbers meanwhile: they lead to the host.
    for command in ["run", "create"] {
        for (env, preserve) in [("", 3), ("LISTEN_FDS=3 LISTEN_PID=$$", 0)] {
            let args = format!(
                "{command} --preserve-fds {preserve} --bundle {} f",
                bundle.arg()
            );
            with_descriptors(&sb, env, &args).fails_with("descriptor 5");
        }
    }
    sb.same_as(&before);
    sb.sleeper("e", |_| {});
    with_descriptors(&sb, "", "exec --preserve-fds 3 e true").exits(255);
}

#[test]
fn listen_fds_are_passed_on() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4", |_| {});
    let out = with_descriptors(
        &sb,
        "LISTEN_FDS=1 LISTEN_PID=$$",
        &format!("run --preserve-fds 1 --bundle {} f", bundle.arg()),
    )
    .ok();
    assert_eq!(out.stdout, "1 1\nthree\nfour\n");
    // Only who is pid 1 is told so.
    let said = "echo $LISTEN_FDS; test $LISTEN_PID = $$ && cat <&3";
    let bundle = sb.sh_bundle(said, |c| {
        knarr_integration::bundle::drop_namespace(c, "pid");
    });
    let args = format!("run --bundle {} f", bundle.arg());
    let out = with_descriptors(&sb, "LISTEN_FDS=1 LISTEN_PID=$$", &args).ok();
    assert_eq!(out.stdout, "1\nthree\n");
    sb.sleeper("e", |_| {});
    let args = format!("exec e sh -c '{said}'");
    let out = with_descriptors(&sb, "LISTEN_FDS=1 LISTEN_PID=$$", &args).ok();
    assert_eq!(out.stdout, "1\nthree\n");
    // Meant for another process: none of ours.
    let bundle = sb.sh_bundle(
        "echo \"${LISTEN_FDS-none}\"; ls /proc/self/fd | wc -l",
        |_| {},
    );
    let out = with_descriptors(
        &sb,
        "LISTEN_FDS=2 LISTEN_PID=1",
        &format!("run --bundle {} f", bundle.arg()),
    )
    .ok();
    assert_eq!(out.stdout, "none\n4\n");
}

#[test]
fn notify_socket_is_forwarded() {
    let sb = Sandbox::new();
    let notify = Notify::bind(sb.path("notify.sock"));
    let bundle = sb.sh_bundle(
        "printf 'READY=1\\nSTATUS=hidden\\n' | nc -u -w 1 local:$NOTIFY_SOCKET 2>/dev/null || echo no sender; echo $NOTIFY_SOCKET; sleep 600",
        |_| {},
    );
    let mut command = sb.command(&["create", "--bundle", bundle.arg(), "n"]);
    command.env("NOTIFY_SOCKET", notify.path());
    let created = sb.spawn(command).wait().ok();
    let mut command = sb.command(&["start", "n"]);
    command.env("NOTIFY_SOCKET", notify.path());
    let start = sb.spawn(command);
    let seen = || created.stdout_now();
    assert!(
        process::eventually(Duration::from_secs(5), || seen().contains("/notify.sock")),
        "{:?}",
        seen()
    );
    // However long the program takes to be ready, other commands do not wait for that.
    sb.rt(&["pause", "n"]).ok();
    sb.rt(&["resume", "n"]).ok();
    if seen().contains("no sender") {
        // busybox's nc has no unix datagrams: send from the host's side of the mount.
        let pid = sb.state("n")["pid"].as_u64().unwrap();
        let inner = seen().lines().last().unwrap().to_owned();
        let path = format!("/proc/{pid}/root{inner}");
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1\nSTATUS=hidden\n", path).unwrap();
    }
    let text = notify.next();
    assert!(text.contains("READY=1"), "{text}");
    let rest = if text.contains("MAINPID=") {
        text
    } else {
        notify.next()
    };
    assert!(rest.contains("MAINPID="), "{rest}");
    start.wait().ok();
}

#[test]
fn json_log_is_one_line_on_failure() {
    let sb = Sandbox::new();
    let log = sb.path("log.json");
    let args = [
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "state",
        "nobody",
    ];
    let out = sb.rt(&args).fails_with("does not exist");
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let entry: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(entry["level"], "error");
    assert_eq!(entry["msg"], "container does not exist");
    assert!(
        entry["time"].as_str().unwrap().contains('T'),
        "RFC 3339: {entry}"
    );
    assert!(
        out.stderr.contains("container does not exist"),
        "stderr has it too: {out:?}"
    );
    sb.rt(&args).fails();
    assert_eq!(
        fs::read_to_string(&log).unwrap().lines().count(),
        2,
        "the log is appended to"
    );
}

#[test]
fn json_log_is_silent_on_success_and_escapes() {
    let sb = Sandbox::new();
    let log = sb.path("log.json");
    let with_log = |rest: &[&str]| {
        let mut args = vec!["--log", log.to_str().unwrap(), "--log-format=json"];
        args.extend(rest);
        sb.rt(&args)
    };
    let bundle = sb.bundle(|_| {});
    with_log(&["run", "--bundle", bundle.arg(), "quiet"]).ok();
    assert_eq!(fs::read_to_string(&log).unwrap_or_default(), "");
    let bad = sb.bundle(|c| c["process"]["args"] = json!(["/no\"such\n\u{1}\\program"]));
    with_log(&["create", "--bundle", bad.arg(), "bad"]).fails();
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let entry: Value = serde_json::from_str(&text).expect("valid JSON whatever the message has");
    assert_eq!(entry["level"], "error");
}

#[test]
fn text_log_and_bad_log_options() {
    let sb = Sandbox::new();
    let log = sb.path("log");
    sb.rt(&[
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "text",
        "state",
        "nobody",
    ])
    .fails();
    assert!(
        fs::read_to_string(&log)
            .unwrap()
            .contains("container does not exist")
    );
    sb.rt(&["--log-format", "xml", "state", "nobody"]).fails();
    sb.rt(&["--log", "/nonexistent/dir/log", "state", "nobody"])
        .fails();
}

#[test]
fn create_names_a_missing_program_as_callers_expect() {
    let sb = Sandbox::new();
    let before = sb.look();
    for (program, text) in [
        ("no-such-program", "executable file not found in $PATH"),
        ("/no/such/program", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc/passwd/x", "not a directory"),
    ] {
        let bundle = sb.bundle(|c| c["process"]["args"] = json!([program]));
        let out = sb.create("missing", &bundle).fails();
        assert!(
            out.stderr.contains(text),
            "{program}: should have {text:?}: {out:?}"
        );
        sb.same_as(&before);
    }
}

#[test]
fn flags_are_read_like_go_does() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    for args in [
        vec!["create", "-bundle", bundle.arg(), "go"],
        vec!["create", "--bundle", bundle.arg(), "--no-pivot=false", "go"],
        vec![
            "create",
            &format!("-b={}", bundle.arg()),
            "-no-new-keyring",
            "go",
        ],
        vec![
            "--debug=false",
            "--rootless=false",
            "create",
            "--bundle",
            bundle.arg(),
            "go",
        ],
        vec![
            "-rootless",
            "auto",
            "create",
            "--bundle",
            bundle.arg(),
            "go",
        ],
    ] {
        sb.rt(&args).ok();
        sb.finish("go");
    }
    sb.sleeper("e", |_| {});
    assert_eq!(
        sb.rt(&["exec", "e", "echo", "-n", "--help", "-t"])
            .ok()
            .stdout,
        "--help -t"
    );
}

#[test]
fn usage_errors_exit_with_1() {
    let sb = Sandbox::new();
    for args in [
        vec!["nosuchcommand"],
        vec!["state"],
        vec!["state", "a", "b"],
        vec!["create", "--no-such-flag", "x"],
        vec!["--no-such-global", "list"],
        vec!["kill"],
        vec!["create", "--preserve-fds", "x", "y"],
    ] {
        sb.rt(&args).fails();
    }
    sb.rt(&["--help"]).ok();
    sb.rt(&["create", "--help"]).ok();
}

#[test]
fn version_is_what_parsers_want() {
    let sb = Sandbox::new();
    for flag in ["--version", "-v"] {
        let out = sb.rt(&[flag]).ok();
        let first = out.stdout.lines().next().unwrap();
        let mut words = first.split(' ');
        assert_eq!(
            words.next(),
            Some(knarr_integration::runtime::name().as_str()),
            "{first}"
        );
        assert_eq!(words.next(), Some("version"), "{first}");
        assert!(
            out.stdout.lines().any(|line| line.starts_with("spec: 1.")),
            "{out:?}"
        );
    }
    let link = sb.path("runc");
    std::os::unix::fs::symlink(knarr_integration::runtime::path(), &link).unwrap();
    let out = sb
        .spawn({
            let mut command = knarr_integration::runtime::command(&link);
            command.arg("--version");
            command
        })
        .wait()
        .ok();
    assert!(out.stdout.starts_with("runc version "), "{out:?}");
    assert!(
        out.stdout.lines().any(|line| line.starts_with("spec: ")),
        "{out:?}"
    );
}

#[test]
fn spec_writes_a_configuration_that_runs() {
    let sb = Sandbox::new();
    let dir = sb.path("fresh");
    knarr_integration::bundle::rootfs(&dir.join("rootfs"));
    sb.rt(&["spec", "--bundle", dir.to_str().unwrap()]).ok();
    sb.rt(&["spec", "--bundle", dir.to_str().unwrap()])
        .fails_with("exist");
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/echo", "it runs"]);
    config["linux"]["cgroupsPath"] = json!(format!("{}/spec", sb.cgroup()));
    fs::write(&path, config.to_string()).unwrap();
    let out = sb
        .rt(&["run", "--bundle", dir.to_str().unwrap(), "fresh"])
        .ok();
    assert_eq!(out.text(), "it runs");
}
