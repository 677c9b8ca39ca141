//! create, start, state, kill, delete, run: who may do what when, and what is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use knarr_integration::{Sandbox, json, process};

#[test]
fn whole_life() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("echo hello; exec sleep 600", |_| {});
    let before = sb.look();
    let c = sb.created("life", &bundle);
    assert_eq!(sb.status("life"), "created");
    assert!(process::alive(c.pid));
    assert_eq!(
        c.created.stdout_now(),
        "",
        "the program must not run before start"
    );
    sb.rt(&["start", "life"]).ok();
    assert_eq!(sb.status("life"), "running");
    assert!(process::eventually(Duration::from_secs(5), || {
        c.created.stdout_now() == "hello\n"
    }));
    sb.rt(&["kill", "life", "KILL"]).ok();
    sb.wait_status("life", "stopped");
    sb.rt(&["delete", "life"]).ok();
    sb.rt(&["state", "life"]).fails_with("does not exist");
    sb.same_as(&before);
}

#[test]
fn case_01_delete_of_not_stopped_errors() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let c = sb.created("one", &bundle);
    sb.rt(&["delete", "one"]).fails();
    assert_eq!(
        sb.status("one"),
        "created",
        "a refused delete has no effect"
    );
    assert!(process::alive(c.pid));
    sb.rt(&["start", "one"]).ok();
    sb.rt(&["delete", "one"]).fails();
    assert_eq!(sb.status("one"), "running");
    assert!(process::alive(c.pid));
    sb.rt(&["pause", "one"]).ok();
    sb.rt(&["delete", "one"]).fails();
    assert_eq!(sb.status("one"), "paused");
}

#[test]
fn case_02_kill_only_created_or_running() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    sb.started("two", &bundle);
    sb.wait_status("two", "stopped");
    sb.rt(&["kill", "two", "TERM"])
        .fails_with("container not running");
    sb.rt(&["kill", "two", "0"])
        .fails_with("container not running");
    assert_eq!(sb.status("two"), "stopped");
    sb.rt(&["kill", "nobody", "TERM"])
        .fails_with("does not exist");
}

#[test]
fn case_02_kill_of_created_works() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    sb.created("two", &bundle);
    sb.rt(&["kill", "two", "KILL"]).ok();
    sb.wait_status("two", "stopped");
    sb.rt(&["delete", "two"]).ok();
}

#[test]
fn case_03_duplicate_id_errors_and_changes_nothing() {
    let sb = Sandbox::new();
    let first = sb.sleeper("same", |_| {});
    let other = sb.bundle(|_| {});
    let before = sb.look();
    sb.create("same", &other).fails_with("exist");
    sb.rt(&["run", "--bundle", other.arg(), "same"]).fails();
    sb.same_as(&before);
    assert_eq!(sb.status("same"), "running");
    assert!(process::alive(first.pid));
}

#[test]
fn case_03_failed_create_leaves_nothing() {
    let sb = Sandbox::new();
    let bad_mount = sb.bundle(|c| {
        c["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/data", "type": "bind", "source": "/nonexistent/source", "options": ["bind"]}),
        );
    });
    let bad_program = sb.bundle(|c| c["process"]["args"] = json!(["/nonexistent/program"]));
    let bad_limit = sb.bundle(|c| {
        c["linux"]["resources"]["cpu"] = json!({"cpus": "4095"});
    });
    let bad_sysctl = sb.bundle(|c| {
        c["linux"]["sysctl"] = json!({"net.ipv4.no_such_thing": "1"});
    });
    let bad_hook = sb.bundle(|c| {
        c["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    });
    let before = sb.look();
    for bundle in [bad_mount, bad_program, bad_limit, bad_sysctl, bad_hook] {
        sb.create("failed", &bundle).fails();
        sb.rt(&["state", "failed"]).fails_with("does not exist");
        sb.same_as(&before);
    }
}

#[test]
fn case_03_id_is_free_after_delete() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    for _ in 0..3 {
        sb.started("again", &bundle);
        sb.wait_status("again", "stopped");
        sb.rt(&["delete", "again"]).ok();
    }
}

#[test]
fn case_04_start_only_when_created() {
    let sb = Sandbox::new();
    let c = sb.sleeper("four", |_| {});
    sb.rt(&["start", "four"]).fails();
    assert_eq!(sb.status("four"), "running");
    assert!(process::alive(c.pid));
    sb.rt(&["kill", "four", "KILL"]).ok();
    sb.wait_status("four", "stopped");
    sb.rt(&["start", "four"]).fails();
    assert_eq!(sb.status("four"), "stopped");
    sb.rt(&["start", "nobody"]).fails_with("does not exist");
}

#[test]
fn case_04_create_without_process_is_legal_and_start_errors() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| {
        c.as_object_mut().unwrap().remove("process");
    });
    let before = sb.look();
    sb.create("noproc", &bundle).ok();
    assert_eq!(sb.status("noproc"), "created");
    // What it waits with, and nothing that leads to the host.
    let pid = &sb.state("noproc")["pid"];
    let open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    for host in ["/proc", "/noproc", "/sys/fs/cgroup"] {
        assert!(
            !open.iter().any(|target| target.ends_with(host)),
            "{open:?}"
        );
    }
    sb.rt(&["start", "noproc"]).fails_with("process");
    assert_eq!(
        sb.status("noproc"),
        "created",
        "a refused start has no effect"
    );
    sb.rt(&["kill", "noproc", "KILL"]).ok();
    sb.wait_status("noproc", "stopped");
    sb.rt(&["delete", "noproc"]).ok();
    sb.same_as(&before);
}

#[test]
fn case_05_everything_but_the_program_is_applied_at_create() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("touch /ran; sleep 600", |c| {
        c["hostname"] = json!("applied");
    });
    let c = sb.created("five", &bundle);
    let uts = process::namespace(c.pid, "uts");
    assert_ne!(uts, process::namespace(std::process::id(), "uts"));
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", c.pid)).unwrap();
    assert!(
        mounts.contains(" /dev/pts "),
        "mounts belong to create:\n{mounts}"
    );
    assert!(
        !bundle.rootfs().join("ran").exists(),
        "the program ran before start"
    );
    sb.rt(&["start", "five"]).ok();
    assert!(process::eventually(Duration::from_secs(5), || {
        bundle.rootfs().join("ran").exists()
    }));
}

#[test]
fn case_06_later_changes_of_config_have_no_effect() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("echo original; hostname", |c| {
        c["annotations"] = json!({"org.example.key": "old"});
    });
    let c = sb.created("six", &bundle);
    bundle.edit(|c| {
        c["process"]["args"] = json!(["/bin/echo", "changed"]);
        c["hostname"] = json!("changed");
        c["annotations"] = json!({"org.example.key": "changed"});
        c["hooks"] = json!({"poststart": [{"path": "/bin/false"}]});
    });
    sb.rt(&["start", "six"]).ok();
    sb.wait_status("six", "stopped");
    assert_eq!(c.created.stdout_now(), "original\nknarr-test\n");
    assert_eq!(sb.state("six")["annotations"]["org.example.key"], "old");
    bundle.raw_config(b"no longer JSON");
    assert_eq!(sb.status("six"), "stopped");
    sb.rt(&["delete", "six"]).ok();
}

#[test]
fn case_07_state_has_what_the_specification_asks() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        c["annotations"] = json!({"org.example.a": "1"});
    });
    let mut command = sb.command(&["create", "--bundle", "bundle0", "seven"]);
    command.current_dir(sb.dir());
    sb.spawn(command).wait().ok();
    let state = sb.state("seven");
    assert_eq!(state["id"], "seven");
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], bundle.arg(), "bundle is absolute");
    assert_eq!(state["annotations"]["org.example.a"], "1");
    let version = state["ociVersion"].as_str().unwrap();
    assert_eq!(
        version.split('.').count(),
        3,
        "ociVersion is SemVer: {version}"
    );
    let pid = u32::try_from(state["pid"].as_u64().unwrap()).unwrap();
    assert!(process::alive(pid));
    assert!(
        state["created"].as_str().unwrap().contains('T'),
        "RFC 3339: {state}"
    );
    sb.rt(&["start", "seven"]).ok();
    assert_eq!(sb.state("seven")["pid"], pid);
    sb.rt(&["kill", "seven", "KILL"]).ok();
    sb.wait_status("seven", "stopped");
}

#[test]
fn case_08_delete_removes_only_what_create_made() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    // A cgroup that was there before.
    let dirs: Vec<_> = knarr_integration::cgroup::hierarchies()
        .iter()
        .filter(|dir| !dir.ends_with("systemd"))
        .map(|dir| dir.join(bundle.cgroup.trim_start_matches('/')))
        .collect();
    for dir in &dirs {
        fs::create_dir_all(dir).unwrap();
    }
    let extra = bundle.dir.join("note");
    fs::write(&extra, "the caller's").unwrap();
    sb.started("eight", &bundle);
    sb.wait_status("eight", "stopped");
    sb.rt(&["delete", "eight"]).ok();
    for dir in &dirs {
        assert!(dir.exists(), "{} was the caller's", dir.display());
    }
    assert!(extra.exists() && bundle.rootfs().join("bin/busybox").exists());
}

#[test]
fn case_08_delete_keeps_a_joined_network_namespace() {
    let sb = Sandbox::new();
    let holder = sb.sleeper("holder", |_| {});
    let path = process::namespace_path(holder.pid, "net");
    let bundle = sb.bundle(|c| {
        knarr_integration::bundle::namespace(c, "network")["path"] = json!(path);
    });
    sb.started("guest", &bundle);
    sb.wait_status("guest", "stopped");
    sb.rt(&["delete", "guest"]).ok();
    assert!(path.exists());
    assert_eq!(sb.status("holder"), "running");
}

#[test]
fn run_gives_the_exit_code() {
    let sb = Sandbox::new();
    let before = sb.look();
    for code in [0, 1, 7, 126, 255] {
        sb.sh(&format!("exit {code}"), |_| {}).exits(code);
    }
    // A signal of its own ends pid 1 of a pid namespace only where that allows it.
    sb.sh("kill -TERM $$", |c| {
        knarr_integration::bundle::drop_namespace(c, "pid")
    })
    .exits(128 + 15);
    sb.sh("kill -KILL $$", |c| {
        knarr_integration::bundle::drop_namespace(c, "pid")
    })
    .exits(128 + 9);
    sb.same_as(&before);
}

#[test]
fn run_passes_output_through_and_signals_on() {
    let sb = Sandbox::new();
    let out = sb.sh("echo out; echo err >&2", |_| {}).ok();
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("out\n", "err\n")
    );
    let bundle = sb.sh_bundle(
        "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done",
        |_| {},
    );
    let running = sb.spawn(sb.command(&["run", "--bundle", bundle.arg(), "signals"]));
    assert!(process::eventually(Duration::from_secs(10), || running
        .stdout_now()
        == "ready\n"));
    process::kill(running.pid(), 15);
    let end = running.wait().exits(9);
    assert_eq!(end.stdout, "ready\ncaught\n");
    sb.rt(&["state", "signals"]).fails_with("does not exist");
}

#[test]
fn run_detached_and_keep() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let pid_file = sb.path("pid");
    sb.rt(&[
        "run",
        "--detach",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "-b",
        bundle.arg(),
        "bg",
    ])
    .ok();
    assert_eq!(sb.status("bg"), "running");
    let pid: u64 = fs::read_to_string(pid_file)
        .unwrap()
        .parse()
        .expect("a number and nothing else");
    assert_eq!(sb.state("bg")["pid"], pid);
    sb.finish("bg");
    let quick = sb.bundle(|_| {});
    sb.rt(&["run", "--keep", "--bundle", quick.arg(), "kept"])
        .ok();
    assert_eq!(sb.status("kept"), "stopped");
    sb.rt(&["delete", "kept"]).ok();
}

#[test]
fn create_writes_the_pid_file() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let file = sb.path("pidfile");
    sb.rt(&[
        "create",
        "--pid-file",
        file.to_str().unwrap(),
        "--bundle",
        bundle.arg(),
        "p",
    ])
    .ok();
    let pid: u64 = fs::read_to_string(&file)
        .unwrap()
        .parse()
        .expect("a number and nothing else");
    assert_eq!(sb.state("p")["pid"], pid);
    let bundle = sb.bundle(|_| {});
    let before = sb.look();
    sb.rt(&[
        "create",
        "--pid-file",
        "/nonexistent/dir/pid",
        "--bundle",
        bundle.arg(),
        "q",
    ])
    .fails();
    sb.rt(&["state", "q"]).fails_with("does not exist");
    sb.same_as(&before);
}

#[test]
fn ids_that_are_not_names_are_refused() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let before = sb.look();
    let long = "x".repeat(5000);
    for id in [
        "",
        ".",
        "..",
        "../up",
        "/abs",
        "a/b",
        "a b",
        "a\nb",
        "ä",
        long.as_str(),
    ] {
        let code = sb.rt(&["create", "--bundle", bundle.arg(), "--", id]).code;
        assert_ne!(code, 0, "id {id:?} was taken");
        for verb in ["state", "start", "delete"] {
            assert_ne!(sb.rt(&[verb, "--", id]).code, 0, "{verb} {id:?}");
        }
        sb.same_as(&before);
    }
    assert!(!sb.path("up").exists());
    for id in ["a", "A9_+.-z", "0"] {
        sb.create(id, &bundle).ok();
        sb.finish(id);
    }
}

#[test]
fn two_creates_at_once_one_wins() {
    let sb = Sandbox::new();
    let bundles: Vec<_> = (0..4).map(|_| sb.bundle(|_| {})).collect();
    let all: Vec<_> = bundles
        .iter()
        .map(|bundle| sb.spawn(sb.command(&["create", "--bundle", bundle.arg(), "race"])))
        .collect();
    let codes: Vec<_> = all.into_iter().map(|running| running.wait().code).collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 0).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(sb.status("race"), "created");
    sb.finish("race");
}

#[test]
fn two_starts_at_once_one_wins() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("echo once; exec sleep 600", |_| {});
    let c = sb.created("race", &bundle);
    let all: Vec<_> = (0..4)
        .map(|_| sb.spawn(sb.command(&["start", "race"])))
        .collect();
    let codes: Vec<_> = all.into_iter().map(|running| running.wait().code).collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 0).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(sb.status("race"), "running");
    assert!(process::eventually(Duration::from_secs(5), || c
        .created
        .stdout_now()
        == "once\n"));
}

#[test]
fn two_deletes_at_once_leave_nothing() {
    let sb = Sandbox::new();
    let before = sb.look();
    sb.sleeper("gone", |_| {});
    let all: Vec<_> = (0..4)
        .map(|_| sb.spawn(sb.command(&["delete", "--force", "gone"])))
        .collect();
    for running in all {
        running.wait().ok();
    }
    sb.same_as(&before);
}

#[test]
fn start_while_deleting_does_not_hang() {
    let sb = Sandbox::new();
    let before = sb.look();
    for _ in 0..10 {
        let bundle = sb.bundle(|_| {});
        sb.created("both", &bundle);
        let start = sb.spawn(sb.command(&["start", "both"]));
        let delete = sb.spawn(sb.command(&["delete", "--force", "both"]));
        let _ = start.wait();
        let _ = delete.wait();
        sb.finish("both");
    }
    sb.same_as(&before);
}

#[test]
fn delete_force_kills_and_forgives() {
    let sb = Sandbox::new();
    let before = sb.look();
    sb.rt(&["delete", "--force", "nobody"]).ok();
    sb.rt(&["delete", "nobody"]).fails_with("does not exist");
    let c = sb.sleeper("busy", |_| {});
    sb.rt(&["delete", "--force", "busy"]).ok();
    assert!(!process::alive(c.pid));
    let paused = sb.sleeper("ice", |_| {});
    sb.rt(&["pause", "ice"]).ok();
    sb.rt(&["delete", "-f", "ice"]).ok();
    assert!(!process::alive(paused.pid));
    sb.same_as(&before);
}

#[test]
fn kill_takes_names_and_numbers() {
    let sb = Sandbox::new();
    let script = "for s in HUP USR1 USR2; do trap \"echo $s\" $s; done; trap 'echo TERM; exit' TERM; echo ready; while :; do sleep 0.02; done";
    let bundle = sb.sh_bundle(script, |_| {});
    let c = sb.started("k", &bundle);
    let said = |text: &str| {
        process::eventually(Duration::from_secs(5), || {
            c.created.stdout_now().ends_with(text)
        })
    };
    assert!(said("ready\n"));
    for (signal, name) in [
        ("HUP", "HUP"),
        ("SIGUSR1", "USR1"),
        ("12", "USR2"),
        ("1", "HUP"),
        ("usr1", "USR1"),
    ] {
        sb.rt(&["kill", "k", signal]).ok();
        assert!(
            said(&format!("{name}\n")),
            "{signal}: {}",
            c.created.stdout_now()
        );
    }
    for signal in ["NOSUCH", "SIGNOSUCH", "999", "-1"] {
        let out = sb.rt(&["kill", "k", "--", signal]);
        assert_ne!(out.code, 0, "{signal:?} is no signal");
        assert_eq!(sb.status("k"), "running");
    }
    sb.rt(&["kill", "k"]).ok();
    assert!(said("TERM\n"), "the default is TERM");
    sb.wait_status("k", "stopped");
}

#[test]
fn kill_all_reaches_everybody_without_a_pid_namespace() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("sleep 601 & sleep 602 & exec sleep 603", |c| {
        knarr_integration::bundle::drop_namespace(c, "pid");
    });
    sb.started("all", &bundle);
    assert!(process::eventually(Duration::from_secs(5), || {
        knarr_integration::cgroup::processes(&bundle.cgroup).len() == 3
    }));
    sb.rt(&["kill", "--all", "all", "9"]).ok();
    assert!(process::eventually(Duration::from_secs(5), || {
        knarr_integration::cgroup::processes(&bundle.cgroup).is_empty()
    }));
    sb.wait_status("all", "stopped");
    sb.rt(&["kill", "--all", "all", "9"]).ok();
    sb.rt(&["delete", "all"]).ok();
}

#[test]
fn plain_kill_takes_the_rest_along_without_a_pid_namespace() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("sleep 601 & exec sleep 603", |c| {
        knarr_integration::bundle::drop_namespace(c, "pid");
    });
    let before = sb.look();
    sb.started("all", &bundle);
    assert!(process::eventually(Duration::from_secs(5), || {
        knarr_integration::cgroup::processes(&bundle.cgroup).len() == 2
    }));
    sb.rt(&["kill", "all", "KILL"]).ok();
    sb.wait_status("all", "stopped");
    sb.rt(&["delete", "all"]).ok();
    sb.same_as(&before);
}

#[test]
fn without_cgroups_init_is_killed_all_the_same() {
    let sb = Sandbox::new();
    for private in [true, false] {
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sleep", "600"]);
            if !private {
                knarr_integration::bundle::drop_namespace(c, "pid");
            }
        });
        let run = || {
            let file = bundle.arg();
            let args = ["--cgroup-manager", "disabled", "run", "-d", "-b", file, "d"];
            sb.rt(&args).ok();
        };
        for kill in [&["kill", "d", "KILL"][..], &["kill", "--all", "d", "9"]] {
            run();
            sb.rt(kill).ok();
            sb.wait_status("d", "stopped");
            sb.rt(&["delete", "d"]).ok();
        }
        run();
        sb.rt(&["delete", "--force", "d"]).ok();
        sb.rt(&["state", "d"]).fails_with("does not exist");
        let args = ["--cgroup-manager", "disabled", "run", "-b", bundle.arg()];
        bundle.edit(|c| c["process"]["args"] = json!(["/bin/sh", "-c", "exit 7"]));
        sb.rt(&[&args[..], &["d"]].concat()).exits(7);
        bundle.edit(|c| c["process"]["args"] = json!(["/no/such"]));
        let failed = sb.rt(&[&args[..], &["d"]].concat()).fails();
        assert!(!failed.stderr.contains("cgroup"), "{failed:?}");
    }
}

#[test]
fn run_gives_the_exit_code_of_a_container_that_somebody_else_deletes() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let run = sb.spawn(sb.command(&["run", "-b", bundle.arg(), "r"]));
    assert!(process::eventually(Duration::from_secs(10), || {
        sb.rt(&["state", "r"]).stdout.contains("running")
    }));
    // It waits until run has let go of the container.
    sb.rt(&["resume", "r"]).fails();
    // Stopped for a moment, so that the other one comes first.
    process::kill(run.pid(), 19);
    sb.rt(&["delete", "--force", "r"]).ok();
    process::kill(run.pid(), 18);
    run.wait().exits(137);
}

#[test]
fn list_shows_all() {
    let sb = Sandbox::new();
    let none = sb.rt(&["list", "--format=json"]).ok();
    assert!(matches!(none.text(), "null" | "[]"), "{none:?}");
    let a = sb.sleeper("aa", |_| {});
    let b = sb.bundle(|_| {});
    sb.created("bb", &b);
    let list = sb.rt(&["list", "--format", "json"]).ok().json();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    for entry in list {
        for key in ["ociVersion", "id", "pid", "status", "bundle", "created"] {
            assert!(!entry[key].is_null(), "{key} in {entry}");
        }
    }
    let first = list.iter().find(|entry| entry["id"] == "aa").unwrap();
    assert_eq!(first["pid"], a.pid);
    assert_eq!(first["status"], "running");
    let table = sb.rt(&["list"]).ok();
    let head = table.stdout.lines().next().unwrap();
    for column in ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"] {
        assert!(head.contains(column), "{head}");
    }
    assert_eq!(sb.rt(&["list", "-q"]).ok().stdout, "aa\nbb\n");
    assert_ne!(sb.rt(&["list", "--format", "xml"]).code, 0);
}

#[test]
fn ps_shows_the_processes() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("sleep 600 & exec sleep 601", |_| {});
    let c = sb.started("ps", &bundle);
    assert!(process::eventually(Duration::from_secs(5), || {
        let pids = sb.rt(&["ps", "--format", "json", "ps"]).ok().json();
        let pids = pids.as_array().unwrap();
        pids.len() == 2 && pids.iter().any(|pid| *pid == c.pid)
    }));
    let table = sb.rt(&["ps", "ps"]).ok();
    assert!(
        table.stdout.contains("PID") && table.stdout.contains("sleep 600"),
        "{table:?}"
    );
    let chosen = sb.rt(&["ps", "ps", "-o", "pid,comm"]).ok();
    assert!(
        chosen.stdout.contains("COMMAND") && !chosen.stdout.contains("sleep 600"),
        "{chosen:?}"
    );
    sb.rt(&["ps", "nobody"]).fails_with("does not exist");
}

#[test]
fn pause_and_resume() {
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle(
        "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done",
        |_| {},
    );
    let c = sb.started("ice", &bundle);
    assert!(process::eventually(Duration::from_secs(5), || c
        .created
        .stdout_now()
        .lines()
        .count()
        > 3));
    sb.rt(&["pause", "ice"]).ok();
    assert_eq!(sb.status("ice"), "paused");
    let then = c.created.stdout_now();
    sleep(Duration::from_millis(100));
    assert_eq!(c.created.stdout_now(), then, "it went on while paused");
    sb.rt(&["pause", "ice"]).fails();
    sb.rt(&["exec", "ice", "/bin/true"]).exits(255);
    sb.rt(&["resume", "ice"]).ok();
    assert_eq!(sb.status("ice"), "running");
    assert!(process::eventually(Duration::from_secs(5), || c
        .created
        .stdout_now()
        != then));
    sb.rt(&["resume", "ice"]).fails();
    sb.rt(&["kill", "ice", "KILL"]).ok();
    sb.wait_status("ice", "stopped");
    sb.rt(&["pause", "ice"]).fails();
    sb.rt(&["pause", "nobody"]).fails_with("does not exist");
}

#[test]
fn a_dead_init_is_stopped_even_as_a_number_reused() {
    let sb = Sandbox::new();
    let c = sb.sleeper("dead", |_| {});
    process::kill(c.pid, 9);
    sb.wait_status("dead", "stopped");
    sb.rt(&["kill", "dead", "KILL"])
        .fails_with("container not running");
    sb.rt(&["exec", "dead", "/bin/true"]).exits(255);
    sb.rt(&["delete", "dead"]).ok();
}

#[test]
fn foreground_run_reaps_what_the_container_orphans() {
    let sb = Sandbox::new();
    // Without a pid namespace of its own nobody in the container takes in the orphan.
    let bundle = sb.sh_bundle(
        "(while [ ! -e /go ]; do sleep 0.05; done &); echo up; sleep 600",
        |config| {
            knarr_integration::bundle::drop_namespace(config, "pid");
        },
    );
    let runtime = sb.spawn(sb.command(&["run", "--bundle", bundle.arg(), "orphans"]));
    let patience = Duration::from_secs(20);
    assert!(process::eventually(patience, || runtime
        .stdout_now()
        .contains("up")));
    let pid = runtime.pid();
    let children = || -> Vec<String> {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        list.split_whitespace().map(str::to_owned).collect()
    };
    // The orphan arrives, ends, and is gone: only init is left.
    assert!(
        process::eventually(patience, || children().len() > 1),
        "no orphan came to the runtime"
    );
    fs::write(bundle.rootfs().join("go"), "").unwrap();
    assert!(
        process::eventually(patience, || children().len() == 1),
        "the orphan was not reaped"
    );
    sb.rt(&["kill", "orphans", "KILL"]).ok();
    runtime.wait().exits(137);
}
