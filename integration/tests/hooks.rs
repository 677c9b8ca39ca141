//! Hooks: order, state on standard input, namespaces, timeouts, and what their failure means.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knarr_integration::bundle::write_program;
use knarr_integration::{Bundle, Sandbox, Value, json, process};

/// All kinds, in the order in which a container's life calls them.
const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A bundle whose hooks of every kind append to `hooks.log`, and whose program does too.
///
/// One directory carries log and script, bound into the container at the same path, because
/// startContainer hooks see the container's file system and the others the host's.
fn logging(sb: &Sandbox, edit: impl FnOnce(&mut Value)) -> (Bundle, PathBuf) {
    let shared = sb.path("shared");
    fs::create_dir_all(&shared).unwrap();
    let log = shared.join("hooks.log");
    let hook = shared.join("hook");
    write_program(
        &hook,
        &format!(
            "#!/bin/sh\nread -r state\necho \"$1 $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/pid) $state\" >>{}\n",
            log.display()
        ),
    );
    let bundle = sb.sh_bundle(&format!("echo program >>{}", log.display()), |c| {
        c["mounts"].as_array_mut().unwrap().push(json!({
            "destination": shared, "type": "bind", "source": shared, "options": ["rbind", "rw"]
        }));
        c["hooks"] = json!({});
        for kind in KINDS {
            // The state must be one line for `read`: joined by tr where a runtime indents it.
            c["hooks"][kind] = json!([
                {"path": hook, "args": ["hook", format!("{kind}1")], "env": ["PATH=/bin:/usr/bin"]},
                {"path": hook, "args": ["hook", format!("{kind}2")], "env": ["PATH=/bin:/usr/bin"]},
            ]);
        }
        edit(c);
    });
    (bundle, log)
}

/// One line of the log.
struct Line {
    name: String,
    mnt: String,
    pid: String,
    state: Value,
}

fn lines(log: &Path) -> Vec<Line> {
    fs::read_to_string(log)
        .unwrap_or_default()
        .lines()
        .map(|line| {
            let mut parts = line.splitn(4, ' ');
            let mut next = || parts.next().unwrap_or("").to_owned();
            Line {
                name: next(),
                mnt: next(),
                pid: next(),
                state: serde_json::from_str(&next()).unwrap_or(Value::Null),
            }
        })
        .collect()
}

fn names(log: &Path) -> Vec<String> {
    lines(log).into_iter().map(|line| line.name).collect()
}

#[test]
fn case_09_hooks_run_in_order() {
    let sb = Sandbox::new();
    let (bundle, log) = logging(&sb, |_| {});
    sb.create("nine", &bundle).ok();
    assert_eq!(
        names(&log),
        [
            "prestart1",
            "prestart2",
            "createRuntime1",
            "createRuntime2",
            "createContainer1",
            "createContainer2",
        ]
    );
    sb.rt(&["start", "nine"]).ok();
    let at_start = names(&log);
    let place = |name: &str| at_start.iter().position(|x| x == name);
    assert!(
        place("poststart2").is_some(),
        "poststart is over when start returns: {at_start:?}"
    );
    assert!(
        place("startContainer2") < place("poststart1"),
        "{at_start:?}"
    );
    sb.wait_status("nine", "stopped");
    let stopped = names(&log);
    let place = |name: &str| stopped.iter().position(|x| x == name).unwrap();
    assert!(place("startContainer2") < place("program"), "{stopped:?}");
    assert!(!stopped.contains(&"poststop1".to_owned()));
    sb.rt(&["delete", "nine"]).ok();
    assert_eq!(names(&log)[stopped.len()..], ["poststop1", "poststop2"]);
}

#[test]
fn case_10_hooks_run_in_their_namespaces() {
    let sb = Sandbox::new();
    let (bundle, log) = logging(&sb, |_| {});
    let c = sb.created("ten", &bundle);
    let container = (
        process::namespace(c.pid, "mnt"),
        process::namespace(c.pid, "pid"),
    );
    sb.rt(&["start", "ten"]).ok();
    sb.wait_status("ten", "stopped");
    sb.rt(&["delete", "ten"]).ok();
    let host = process::namespace(std::process::id(), "mnt");
    for line in lines(&log) {
        let kind = line.name.trim_end_matches(['1', '2']);
        match kind {
            "createContainer" | "startContainer" => {
                assert_eq!(line.mnt, container.0, "{kind} belongs in the container");
                assert_eq!(line.pid, container.1, "{kind} belongs in the container");
            }
            "program" => {}
            _ => assert_eq!(line.mnt, host, "{kind} belongs in the runtime's namespaces"),
        }
    }
}

#[test]
fn case_10_paths_resolve_where_the_specification_says() {
    let sb = Sandbox::new();
    // In the host only: createContainer finds it. In the container only: startContainer finds it.
    let bundle = sb.bundle(|_| {});
    let host = bundle.script(
        "host-only",
        &format!("cat >/dev/null; : >{}/host-ran", bundle.arg()),
    );
    let inner = bundle.rootfs().join("container-only");
    fs::copy(bundle.script("tmp", ": >/container-ran"), &inner).unwrap();
    bundle.edit(|c| {
        c["hooks"] = json!({
            "createContainer": [{"path": host}],
            "startContainer": [{"path": "/container-only"}],
        });
    });
    sb.started("paths", &bundle);
    sb.wait_status("paths", "stopped");
    assert!(bundle.dir.join("host-ran").exists());
    assert!(bundle.rootfs().join("container-ran").exists());
}

#[test]
fn case_11_hooks_get_the_state() {
    let sb = Sandbox::new();
    let (bundle, log) = logging(&sb, |c| {
        c["annotations"] = json!({"org.example.hook": "yes"});
    });
    let c = sb.started("eleven", &bundle);
    sb.wait_status("eleven", "stopped");
    sb.rt(&["delete", "eleven"]).ok();
    let mut seen = 0;
    for line in lines(&log).iter().filter(|line| line.name != "program") {
        let kind = line.name.trim_end_matches(['1', '2']);
        let status = match kind {
            "prestart" | "createRuntime" | "createContainer" => "creating",
            "startContainer" => "created",
            "poststart" => "running",
            _ => "stopped",
        };
        assert_eq!(line.state["status"], status, "{kind}");
        assert_eq!(line.state["id"], "eleven", "{kind}");
        assert_eq!(line.state["bundle"], bundle.arg(), "{kind}");
        assert_eq!(
            line.state["annotations"]["org.example.hook"], "yes",
            "{kind}"
        );
        // In the container's pid namespace its init is 1.
        let pid = match kind {
            "createContainer" | "startContainer" => Some(1),
            "poststop" => None,
            _ => Some(c.pid),
        };
        if let Some(pid) = pid {
            assert_eq!(line.state["pid"], pid, "{kind}");
        }
        seen += 1;
    }
    assert_eq!(seen, 12);
}

#[test]
fn case_12_failing_hooks_undo_create() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let sb = Sandbox::new();
        let (bundle, log) = logging(&sb, |c| {
            c["hooks"][kind].as_array_mut().unwrap().insert(
                1,
                json!({"path": "/bin/sh", "args": ["sh", "-c", "echo because-of-this >&2; exit 3"]}),
            );
        });
        let before = sb.look();
        sb.create("twelve", &bundle).fails_with("hook");
        sb.rt(&["state", "twelve"]).fails_with("does not exist");
        sb.same_as(&before);
        let ran = names(&log);
        assert!(ran.contains(&format!("{kind}1")), "{kind}: {ran:?}");
        assert!(!ran.contains(&format!("{kind}2")), "{kind}: {ran:?}");
        assert!(
            ran.contains(&"poststop2".to_owned()),
            "{kind}: poststop runs: {ran:?}"
        );
        assert!(!ran.contains(&"program".to_owned()));
    }
}

#[test]
fn case_12_failing_hooks_stop_start() {
    for kind in ["startContainer", "poststart"] {
        let sb = Sandbox::new();
        let (bundle, log) = logging(&sb, |c| {
            c["process"]["args"] = json!(["/bin/sleep", "600"]);
            c["hooks"][kind]
                .as_array_mut()
                .unwrap()
                .insert(1, json!({"path": "/bin/false"}));
        });
        let before = sb.look();
        sb.create("twelve", &bundle).ok();
        sb.rt(&["start", "twelve"]).fails_with("hook");
        let ran = names(&log);
        assert!(
            ran.contains(&format!("{kind}1")) && !ran.contains(&format!("{kind}2")),
            "{ran:?}"
        );
        assert!(
            process::eventually(Duration::from_secs(5), || {
                knarr_integration::cgroup::processes(&bundle.cgroup).is_empty()
            }),
            "{kind}: the container must be stopped"
        );
        let _ = sb.rt(&["delete", "--force", "twelve"]);
        assert!(
            names(&log).contains(&"poststop2".to_owned()),
            "{kind}: {:?}",
            names(&log)
        );
        sb.same_as(&before);
    }
}

#[test]
fn case_13_poststop_failure_is_a_warning() {
    let sb = Sandbox::new();
    let (bundle, log) = logging(&sb, |c| {
        c["hooks"]["poststop"]
            .as_array_mut()
            .unwrap()
            .insert(1, json!({"path": "/bin/false"}));
    });
    let before = sb.look();
    sb.started("thirteen", &bundle);
    sb.wait_status("thirteen", "stopped");
    sb.rt(&["delete", "thirteen"]).ok();
    assert_eq!(names(&log).last().map(String::as_str), Some("poststop2"));
    sb.rt(&["state", "thirteen"]).fails_with("does not exist");
    sb.same_as(&before);
}

#[test]
fn case_14_timeout_and_path_are_checked() {
    let sb = Sandbox::new();
    let before = sb.look();
    for hook in [
        json!({"path": "/bin/true", "timeout": 0}),
        json!({"path": "/bin/true", "timeout": -1}),
        json!({"path": "bin/true"}),
        json!({"path": ""}),
        json!({"args": ["true"]}),
    ] {
        for kind in KINDS {
            let bundle = sb.bundle(|c| c["hooks"] = json!({kind: [hook]}));
            sb.create("fourteen", &bundle).fails_with("hook");
            sb.same_as(&before);
        }
    }
}

#[test]
fn case_15_timeout_kills_the_whole_group() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let pids = bundle.dir.join("pids");
    let hook = bundle.script(
        "slow",
        &format!("sleep 600 & echo $! $$ >{}; sleep 601", pids.display()),
    );
    bundle.edit(|c| c["hooks"] = json!({"createRuntime": [{"path": hook, "timeout": 1}]}));
    let begin = Instant::now();
    sb.create("fifteen", &bundle).fails_with("time");
    assert!(begin.elapsed() < Duration::from_secs(20));
    let text = fs::read_to_string(&pids).unwrap();
    for pid in text.split_whitespace().map(|pid| pid.parse().unwrap()) {
        let gone = process::eventually(Duration::from_secs(3), || !process::alive(pid));
        assert!(
            gone,
            "{pid} of the hook's process group outlived the timeout"
        );
    }
}

#[test]
fn case_15_state_carries_the_true_version() {
    let sb = Sandbox::new();
    let (bundle, log) = logging(&sb, |c| c["ociVersion"] = json!("1.0.2"));
    sb.create("version", &bundle).ok();
    let own = sb.state("version")["ociVersion"].clone();
    for line in lines(&log) {
        let version = line.state["ociVersion"].as_str().unwrap();
        assert_eq!(version.split('.').count(), 3, "SemVer: {version}");
        assert_eq!(line.state["ociVersion"], own);
    }
}

#[test]
fn hooks_that_cannot_run_are_named() {
    let sb = Sandbox::new();
    let before = sb.look();
    for path in ["/nonexistent/hook", "/etc/passwd", "/"] {
        let bundle = sb.bundle(|c| c["hooks"] = json!({"createRuntime": [{"path": path}]}));
        sb.create("bad", &bundle).fails_with(path);
        sb.same_as(&before);
    }
}

#[test]
fn hooks_have_only_their_own_environment_and_arguments() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let out = bundle.dir.join("seen");
    let hook = bundle.script(
        "see",
        &format!("(echo \"$0|$1|$2\"; env) >{}", out.display()),
    );
    bundle.edit(|c| {
        c["hooks"] = json!({"createRuntime": [
            {"path": hook, "args": ["zero", "a b", ""], "env": ["ONLY=this"]}
        ]});
    });
    sb.create("env", &bundle).ok();
    let seen = fs::read_to_string(out).unwrap();
    assert!(seen.contains("|a b|\n"), "{seen}");
    assert!(seen.contains("ONLY=this"), "{seen}");
    assert!(
        !seen.contains("KNARR_SANDBOX"),
        "the caller's environment leaked: {seen}"
    );
}

#[test]
fn a_hook_that_ignores_its_input_is_fine() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| {
        let big: String = "x".repeat(200_000);
        c["annotations"] = json!({"org.example.big": big});
        c["hooks"] =
            json!({"createRuntime": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]});
    });
    sb.create("deaf", &bundle).ok();
    sb.finish("deaf");
}

#[test]
fn hooks_do_not_get_what_the_caller_left_open() {
    let sb = Sandbox::new();
    let seen = sb.path("seen");
    let bundle = sb.sh_bundle("true", |c| {
        c["hooks"] = json!({"createRuntime": [{
            "path": "/bin/sh",
            "args": ["sh", "-c", format!("ls -l /proc/$$/fd >{}", seen.display())],
            "env": ["PATH=/bin:/usr/bin"],
        }]});
    });
    let mut shell = knarr_integration::runtime::command("/bin/sh".as_ref());
    shell.args([
        "-c",
        &format!(
            "exec 9</etc/hostname; exec {} --root {} run --bundle {} open",
            knarr_integration::runtime::path().display(),
            sb.root().display(),
            bundle.arg()
        ),
    ]);
    sb.spawn(shell).wait().ok();
    let seen = fs::read_to_string(seen).unwrap();
    assert!(!seen.contains("/etc/hostname"), "{seen}");
}

/// The specification names no directory; hooks of callers rely on the bundle, where runc and crun run them.
#[test]
fn hooks_outside_the_container_run_in_the_bundle() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let log = sb.path("directories");
    bundle.edit(|c| {
        c["hooks"] = json!({});
        for kind in KINDS.into_iter().filter(|kind| *kind != "startContainer") {
            let script = format!("echo {kind} $(pwd -P) >>{}", log.display());
            c["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        }
    });
    let mut run = sb.command(&["run", "--bundle", bundle.arg(), "runs"]);
    run.current_dir("/");
    sb.spawn(run).wait().ok();
    let dir = bundle.dir.display();
    let expected: String = KINDS
        .into_iter()
        .filter(|kind| *kind != "startContainer")
        .map(|kind| format!("{kind} {dir}\n"))
        .collect();
    assert_eq!(fs::read_to_string(&log).unwrap(), expected);
}
