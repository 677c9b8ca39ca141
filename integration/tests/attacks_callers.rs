//! Attacks on whoever calls the runtime: what makes it hang, crash, or report success where there is none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use knarr_integration::attack::{self, ATTACKER, Canary};
use knarr_integration::{Sandbox, bundle, cgroup, fell, json, process, skip, unproven};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A container that floods a terminal which nobody reads: it can be looked at and killed, and the runtime ended
/// Ids: no CVE
#[test]
fn terminal_that_never_reads() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/yes", "0123456789012345678901234567890123456789"]);
        c["process"]["terminal"] = json!(true);
    });
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let open = || {
        let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap();
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(&name)
            .unwrap()
    };
    let mut child = sb
        .command(&["run", "--bundle", bundle.arg(), "flood"])
        .stdin(open())
        .stdout(open())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let running = || sb.rt(&["state", "flood"]).stdout.contains("running");
    if !process::eventually(attack::patience(), running) {
        let _ = child.kill();
        unproven!("no container runs in that terminal");
    }
    std::thread::sleep(Duration::from_millis(300));
    for args in [
        &["state", "flood"][..],
        &["exec", "flood", "true"],
        &["kill", "flood", "KILL"],
    ] {
        let _ = attack::ends(sb.spawn(sb.command(args)), &format!("{args:?}"));
    }
    // What is left in the terminal may still be wanted, so it need not end by itself; but when told to.
    let _ = process::ended_within(child.id(), Duration::from_secs(1));
    process::kill(child.id(), 15);
    let ended = process::ended_within(child.id(), attack::patience());
    if !ended {
        let _ = child.kill();
    }
    let _ = child.wait();
    let _ = attack::ends(
        sb.spawn(sb.command(&["delete", "--force", "flood"])),
        "delete",
    );
    if !cgroup::processes(&bundle.cgroup).is_empty() {
        fell!("the container lives on");
    }
    if !ended {
        fell!("a full terminal makes the runtime deaf to signals");
    }
}

/// Console sockets that do not accept, close at once, send garbage, or are something else
/// Ids: no CVE
#[test]
fn console_socket_of_a_hostile_receiver() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        c["process"]["terminal"] = json!(true);
    });
    let before = sb.look();
    for kind in [
        "no accept",
        "full",
        "closes",
        "garbage",
        "datagram",
        "file",
        "fifo",
        "directory",
        "absent",
        "loop",
    ] {
        let path = sb.path("console");
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&path);
        let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
        match kind {
            "no accept" => keep.push(Box::new(UnixListener::bind(&path).unwrap())),
            "full" => {
                let listener = UnixListener::bind(&path).unwrap();
                // Somebody who asked for a queue of one and has not looked since.
                rustix::net::listen(&listener, 0).unwrap();
                let one = std::os::unix::net::UnixStream::connect(&path).unwrap();
                keep.push(Box::new((listener, one)));
            }
            "closes" | "garbage" => {
                let listener = UnixListener::bind(&path).unwrap();
                let garbage = kind == "garbage";
                std::thread::spawn(move || {
                    for stream in listener.incoming().take(2).flatten() {
                        let mut stream = stream;
                        if garbage {
                            let _ = stream.write_all(&[0xff; 4096]);
                        }
                    }
                });
            }
            "datagram" => keep.push(Box::new(UnixDatagram::bind(&path).unwrap())),
            "file" => fs::write(&path, "x").unwrap(),
            "fifo" => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            "directory" => fs::create_dir(&path).unwrap(),
            "loop" => attack::link("console", &path),
            _ => {}
        }
        let socket = path.to_str().unwrap();
        let args = [
            "create",
            "--bundle",
            bundle.arg(),
            "--console-socket",
            socket,
            "console",
        ];
        let command = sb.command(&args);
        // A peer that does not accept is waited for by connect(2); it is the caller's own.
        if kind == "full" {
            if let Some(out) = sb.spawn(command).wait_at_most(Duration::from_secs(2)) {
                println!("a full queue: {}", out.stderr);
            }
            keep.clear();
        } else {
            let _ = attack::ends(sb.spawn(command), kind);
        }
        drop(keep);
        let _ = attack::ends(
            sb.spawn(sb.command(&["delete", "--force", "console"])),
            kind,
        );
        sb.same_as(&before);
    }
}

/// A service manager that does not read, and a container that speaks for it
/// Ids: no CVE
#[test]
fn notify_socket() {
    let sb = Sandbox::new();
    let texts = [
        "@",
        "",
        "STATUS=x",
        "MAINPID=1\\nFDSTORE=1\\nFDNAME=x\\nBARRIER=1",
        "\u{1}\u{2}",
        "XREADY=1",
        "READY=1x",
        "MAINPID=1\\nREADY=1\\nSTOPPING=1\\nFDSTORE=1\\nBUSERROR=x\\nSTATUS=evil",
    ];
    let bundle = sb.bundle(|c| {
        let mut args = vec![ATTACKER, "notify"];
        args.extend(texts);
        let words = args
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" ");
        let script = format!(
            "{words}; rm -f $NOTIFY_SOCKET; ln -s /proc/1/root/x $NOTIFY_SOCKET; sleep 600"
        );
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    attack::install(&bundle);
    let path = sb.path("manager.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let start = |how: &str| {
        let with = |args: &[&str]| {
            let mut command = sb.command(args);
            command.env("NOTIFY_SOCKET", &path);
            sb.spawn(command)
        };
        let out = attack::ends(with(&["create", "--bundle", bundle.arg(), "notify"]), how);
        if out.code != 0 {
            unproven!("{how}: {out:#?}");
        }
        let begin = Instant::now();
        // Whoever reports ready in between is let through; a manager that hangs is its own business for a while.
        let running = with(&["start", "notify"]);
        (running, begin)
    };
    // An honest manager reads meanwhile.
    let (running, _) = start("an ordinary manager");
    let mut heard = String::new();
    let mut data = vec![0; 1 << 18];
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        if let Ok(size) = manager.recv(&mut data) {
            heard += &String::from_utf8_lossy(&data[..size]);
            heard.push('\n');
            if heard.contains("BARRIER=1") {
                break;
            }
        }
    }
    let _ = attack::ends(running, "start");
    let init = sb.state("notify")["pid"].clone();
    let _ = sb.rt(&["delete", "--force", "notify"]);
    if !heard.contains("READY=1") {
        unproven!("the container's word does not arrive: {heard:?}");
    }
    for line in heard.lines() {
        let own = format!("MAINPID={init}");
        // A line that only begins like that is no word of the container's that anybody understands.
        if !["READY=1", "BARRIER=1", own.as_str(), ""].contains(&line)
            && line.contains('=')
            && line != "READY=1x"
        {
            fell!("the container speaks for its service: {heard:?}");
        }
    }
    // One that has not read for long: its queue is full.
    let noise = UnixDatagram::unbound().unwrap();
    noise.set_nonblocking(true).unwrap();
    while noise.send_to(b"noise", &path).is_ok() {}
    let (running, begin) = start("a manager that hangs");
    let ended = running.wait_at_most(attack::patience());
    let _ = sb.rt(&["delete", "--force", "notify"]);
    if ended.is_none() {
        fell!(
            "start waits for ever for a manager that does not read ({:?})",
            begin.elapsed()
        );
    }
}

/// Hooks that do not end in their time, and whose children keep the pipe open
/// Ids: no CVE
#[test]
fn hooks_that_hang() {
    let sb = Sandbox::new();
    let before = sb.look();
    for list in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ] {
        for script in [
            "sleep 60",
            "sleep 60 & sleep 60",
            "setsid sleep 20 & exit 0",
            "trap '' TERM INT HUP; sleep 60 & wait",
        ] {
            let how = format!("{list}: {script}");
            let bundle = sb.bundle(|c| {
                c["process"]["args"] = json!(["/bin/sleep", "600"]);
                // The image's shell in the container's namespaces, the host's elsewhere.
                let args = json!(["sh", "-c", script]);
                c["hooks"] = json!({list: [{"path": "/bin/sh", "args": args, "timeout": 1}]});
            });
            for args in [
                &["create", "--bundle", bundle.arg(), "hooked"][..],
                &["start", "hooked"],
                &["delete", "--force", "hooked"],
            ] {
                let _ = attack::ends(sb.spawn(sb.command(args)), &how);
            }
            cgroup::remove(sb.cgroup());
            let _ = fs::remove_dir_all(&bundle.dir);
        }
    }
    // A child that made a session of its own is nobody's; it ends by itself.
    let gone = || {
        before
            .difference(&sb.look())
            .iter()
            .all(|line| !line.contains("mount"))
    };
    assert!(gone());
}

/// A startContainer hook or a program that fails, under run --detach and start: no success is reported
/// Ids: no CVE
#[test]
fn failure_under_detach() {
    let sb = Sandbox::new();
    let before = sb.look();
    attack::baseline(&sb.sh("true", |_| {}));
    for (how, hook, program) in [
        ("startContainer hook", "/bin/false", "/bin/true"),
        (
            "startContainer hook that is absent",
            "/bin/absent",
            "/bin/true",
        ),
        ("program that is absent", "", "/bin/absent"),
        ("program that is a directory", "", "/etc"),
        ("program that is no program", "", "/etc/passwd"),
    ] {
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = json!([program]);
            if !hook.is_empty() {
                c["hooks"] = json!({"startContainer": [{"path": hook}]});
            }
        });
        let args = ["run", "--detach", "--bundle", bundle.arg(), "fails"];
        let out = attack::ends(sb.spawn(sb.command(&args)), how);
        let _ = sb.rt(&["delete", "--force", "fails"]);
        if out.code == 0 {
            fell!("{how}: run --detach reports success");
        }
        sb.same_as(&before);
    }
}

/// /etc/passwd and /etc/group that are fifos, devices, huge, links to the host or to descriptors
/// Ids: no CVE, CVE-2025-4437
#[test]
fn user_files_of_the_image() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let token = canary.token().to_owned();
    fs::write(
        sb.path("passwd"),
        format!("u:x:1000:1000::/{token}:/bin/sh\n"),
    )
    .unwrap();
    let up = "../".repeat(20);
    let outside = format!("{up}{}", &sb.path("passwd").to_str().unwrap()[1..]);
    for file in ["passwd", "group"] {
        for kind in [
            "fifo",
            "zero",
            "tty",
            "directory",
            "loop",
            "huge",
            "long line",
            "link to a fifo",
            "/dev/zero",
            "/proc/kmsg",
            "/proc/self/mem",
            "/proc/self/fd/0",
            "/proc/self/fd/3",
            "/proc/1/root/etc/passwd",
            sb.path("passwd").to_str().unwrap(),
            &outside,
        ] {
            let bundle = sb.sh_bundle("echo HOME=$HOME", |c| {
                c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                c["process"]["capabilities"] = json!({});
            });
            let path = bundle.rootfs().join("etc").join(file);
            fs::remove_file(&path).unwrap();
            let node = |path: &Path, kind, number| {
                mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), number).unwrap();
            };
            match kind {
                "fifo" => node(&path, FileType::Fifo, 0),
                "zero" => node(&path, FileType::CharacterDevice, makedev(1, 5)),
                "tty" => node(&path, FileType::CharacterDevice, makedev(5, 0)),
                "directory" => fs::create_dir(&path).unwrap(),
                "loop" => attack::link(file, &path),
                "huge" => fs::File::create(&path).unwrap().set_len(1 << 40).unwrap(),
                "long line" => fs::write(&path, vec![b'x'; 64 << 20]).unwrap(),
                "link to a fifo" => {
                    node(&path.with_extension("fifo"), FileType::Fifo, 0);
                    attack::link(format!("{file}.fifo"), &path);
                }
                target => attack::link(target, &path),
            }
            let how = format!("/etc/{file}: {kind}");
            let begin = Instant::now();
            let mut outs = vec![attack::run(&sb, &bundle, &how)];
            bundle.edit(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
            if sb.create("users", &bundle).code == 0 {
                let script = "echo HOME=$HOME";
                let exec = [
                    "exec",
                    "--user",
                    "1000:1000",
                    "users",
                    "/bin/sh",
                    "-c",
                    script,
                ];
                outs.push(attack::ends(sb.spawn(sb.command(&exec)), &how));
            }
            let _ = sb.rt(&["delete", "--force", "users"]);
            for out in &outs {
                if out.stdout.contains(&token) {
                    fell!("{how}: the host's file is read: {out:#?}");
                }
                if out.code != 0 {
                    println!("{how}: refused: {}", out.stderr.trim());
                }
            }
            if begin.elapsed() > attack::patience() {
                fell!("{how}: takes {:?}", begin.elapsed());
            }
            let _ = fs::remove_dir_all(&bundle.dir);
        }
    }
    // A home directory that would be a second line of somebody's environment or of another file.
    let bundle = sb.sh_bundle("env", |c| {
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000})
    });
    fs::write(
        bundle.rootfs().join("etc/passwd"),
        "u:x:1000:1000::/a\u{1b}[2J\tb:/bin/sh\n",
    )
    .unwrap();
    let out = attack::run(&sb, &bundle, "control characters in a home directory");
    if out.stdout.contains('\u{1b}') {
        fell!("control characters of the image get into HOME");
    }
}

/// State files that are null, empty, cut or full of nonsense
/// Ids: no CVE
#[test]
fn damaged_state() {
    let sb = Sandbox::new();
    for damage in [
        "null",
        "{}",
        "[]",
        "",
        "{",
        "true",
        "\"x\"",
        "{\"id\": null}",
        "cut",
        "numbers",
    ] {
        let container = sb.sleeper("hurt", |_| {});
        let dir = sb.root().join("hurt");
        let mut hurt = 0;
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let Ok(text) = fs::read(entry.path()) else {
                continue;
            };
            if !entry.file_type().unwrap().is_file() || !text.starts_with(b"{") {
                continue;
            }
            let new = match damage {
                "cut" => text[..text.len() / 2].to_vec(),
                "numbers" => String::from_utf8_lossy(&text)
                    .replace(": ", ":")
                    .replace(":\"", ":7,\"x\":\"")
                    .into(),
                other => other.as_bytes().to_vec(),
            };
            fs::write(entry.path(), new).unwrap();
            hurt += 1;
        }
        if hurt == 0 {
            skip!("this runtime keeps no JSON state");
        }
        for args in [
            &["state", "hurt"][..],
            &["kill", "hurt", "TERM"],
            &["start", "hurt"],
            &["exec", "hurt", "true"],
            &["pause", "hurt"],
            &["resume", "hurt"],
            &["ps", "hurt"],
            &["update", "--pids-limit", "20", "hurt"],
            &["list"],
            &["delete", "hurt"],
            &["delete", "--force", "hurt"],
        ] {
            let out = attack::ends(sb.spawn(sb.command(args)), &format!("{damage}: {args:?}"));
            if out.stderr.contains("SIGSEGV")
                || out.code == 2 && out.stderr.contains("runtime error")
            {
                fell!("{damage}: {args:?} crashed: {out:#?}");
            }
        }
        process::kill(container.pid, 9);
        let _ = fs::remove_dir_all(&dir);
        cgroup::remove(sb.cgroup());
    }
}

/// Versions that are none, or of a specification that this runtime cannot know
/// Ids: no CVE
#[test]
fn versions_that_are_none() {
    let sb = Sandbox::new();
    attack::baseline(&sb.sh("true", |_| {}));
    let mut taken = Vec::new();
    for version in [
        "2.0.0",
        "one",
        "",
        "1",
        "1.0.0.0",
        "0.0.0-",
        "1.0.0\n",
        "99999999999999999999.0.0",
        "-1.0.0",
        "v1.0.0",
    ] {
        let out = sb.sh("true", |c| c["ociVersion"] = json!(version));
        if out.code == 0 {
            taken.push(version);
        }
    }
    if !taken.is_empty() {
        fell!("taken: {taken:?}");
    }
}

/// An init that ends, stops itself or floods while it is being handled
/// Ids: no CVE
#[test]
fn processes_that_do_not_cooperate() {
    let sb = Sandbox::new();
    let before = sb.look();
    for script in [
        "trap '' TERM INT HUP QUIT; while :; do sleep 60; done",
        "kill -STOP 1; kill -STOP $$; sleep 600",
        "while :; do (sleep 600 &) ; done",
        "exec sleep 600 <&- >&- 2>&-",
    ] {
        let bundle = sb.sh_bundle(script, |c| {
            bundle::push(
                c,
                "/linux/resources/devices",
                json!({"allow": false, "access": "rwm"}),
            );
            c["linux"]["resources"]["pids"] = json!({"limit": 40});
        });
        let out = attack::ends(
            sb.spawn(sb.command(&["run", "--detach", "--bundle", bundle.arg(), "stubborn"])),
            script,
        );
        if out.code != 0 {
            unproven!("{script}: {out:#?}");
        }
        std::thread::sleep(Duration::from_millis(50));
        for args in [
            &["exec", "stubborn", "true"][..],
            &["kill", "stubborn", "TERM"],
            &["delete", "--force", "stubborn"],
        ] {
            let _ = attack::ends(sb.spawn(sb.command(args)), &format!("{script}: {args:?}"));
        }
        sb.same_as(&before);
    }
}
