//! exec: every flag, exit codes, and what a process inherits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::time::Duration;

use knarr_integration::{Sandbox, cgroup, json, process};

#[test]
fn gives_output_and_exit_code() {
    let sb = Sandbox::new();
    sb.sleeper("e", |_| {});
    assert_eq!(sb.rt(&["exec", "e", "echo", "hi"]).ok().stdout, "hi\n");
    for code in [1, 7, 126, 254] {
        sb.rt(&["exec", "e", "sh", "-c", &format!("exit {code}")])
            .exits(code);
    }
    sb.rt(&["exec", "e", "sh", "-c", "kill -TERM $$"])
        .exits(143);
    sb.rt(&["exec", "e", "sh", "-c", "kill -KILL $$"])
        .exits(137);
    assert_eq!(
        sb.rt_stdin(&["exec", "e", "cat"], "through").ok().stdout,
        "through"
    );
    assert_eq!(sb.status("e"), "running");
}

#[test]
fn failures_exit_with_255() {
    let sb = Sandbox::new();
    sb.sleeper("e", |_| {});
    let before = sb.look();
    let missing = sb.rt(&["exec", "e", "no-such-program"]).exits(255);
    assert!(
        missing
            .stderr
            .contains("executable file not found in $PATH"),
        "{missing:?}"
    );
    let absent = sb.rt(&["exec", "e", "/no/such/program"]).exits(255);
    assert!(
        absent.stderr.contains("no such file or directory"),
        "{absent:?}"
    );
    let denied = sb.rt(&["exec", "e", "/etc/passwd"]).exits(255);
    assert!(denied.stderr.contains("permission denied"), "{denied:?}");
    let directory = sb.rt(&["exec", "e", "/etc"]).exits(255);
    assert!(
        directory.stderr.contains("is a directory")
            || directory.stderr.contains("permission denied"),
        "{directory:?}"
    );
    let nobody = sb.rt(&["exec", "nobody", "true"]).exits(255);
    assert!(nobody.stderr.contains("does not exist"), "{nobody:?}");
    sb.rt(&["exec", "--cwd", "/no/such/dir", "e", "true"])
        .exits(255);
    sb.rt(&["exec", "--user", "12x", "e", "true"]).exits(255);
    sb.rt(&["exec", "--process", "/no/such/file", "e"])
        .exits(255);
    sb.rt(&["exec", "e"]).exits(255);
    sb.same_as(&before);
    sb.rt(&["kill", "e", "KILL"]).ok();
    sb.wait_status("e", "stopped");
    sb.rt(&["exec", "e", "true"]).exits(255);
}

#[test]
fn joins_every_namespace_and_the_cgroup() {
    let sb = Sandbox::new();
    let c = sb.sleeper("e", |_| {});
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"] {
        let inside = sb
            .rt(&["exec", "e", "readlink", &format!("/proc/self/ns/{kind}")])
            .ok();
        assert_eq!(inside.text(), process::namespace(c.pid, kind));
    }
    let file = sb.path("pid");
    sb.rt(&[
        "exec",
        "--detach",
        "--pid-file",
        file.to_str().unwrap(),
        "e",
        "sleep",
        "600",
    ])
    .ok();
    let pid: u32 = fs::read_to_string(file).unwrap().parse().expect("a number");
    assert!(process::alive(pid));
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap(),
        fs::read_to_string(format!("/proc/{}/cgroup", c.pid)).unwrap()
    );
    assert!(cgroup::processes(&c.bundle.cgroup).contains(&pid));
}

#[test]
fn flags_shape_the_process() {
    let sb = Sandbox::new();
    sb.sleeper("e", |c| {
        c["process"]["env"]
            .as_array_mut()
            .unwrap()
            .push(json!("FROM=config"))
    });
    let sh = |flags: &[&str], script: &str| {
        let mut args = vec!["exec"];
        args.extend(flags);
        args.extend(["e", "sh", "-c", script]);
        sb.rt(&args).ok().text().to_owned()
    };
    assert_eq!(sh(&["--cwd", "/tmp"], "pwd"), "/tmp");
    assert_eq!(
        sh(&["-e", "A=1", "-e", "B=2"], "echo $A$B$FROM"),
        "12config"
    );
    assert_eq!(sh(&["--env", "FROM=flag"], "echo $FROM"), "flag");
    assert_eq!(sh(&["--user", "1000"], "id -u"), "1000");
    assert_eq!(
        sh(&["--user", "1000:2000"], "echo $(id -u) $(id -g)"),
        "1000 2000"
    );
    assert_eq!(
        sh(&["-u", "5:6", "-g", "7", "--additional-gids", "8"], "id -G"),
        "6 7 8"
    );
    assert_eq!(
        sh(
            &["--no-new-privs"],
            "grep NoNewPrivs /proc/self/status | tr -d '\\t'"
        ),
        "NoNewPrivs:1"
    );
    let plain = sh(&[], "grep CapEff /proc/self/status");
    let more = sh(
        &["--cap", "CAP_SYS_ADMIN", "--cap", "CAP_NET_ADMIN"],
        "grep CapEff /proc/self/status",
    );
    let bits =
        |text: &str| u64::from_str_radix(text.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(bits(&more) & !bits(&plain), (1 << 21) | (1 << 12));
}

#[test]
fn process_file_describes_the_process() {
    let sb = Sandbox::new();
    sb.sleeper("e", |_| {});
    let file = sb.path("process.json");
    let process = json!({
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [2000], "umask": 0o027},
        "args": ["/bin/sh", "-c", "pwd; id -u; id -G; umask; ulimit -n; echo $X"],
        "env": ["PATH=/bin", "X=y"],
        "cwd": "/var",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}],
        "noNewPrivileges": true,
    });
    fs::write(&file, process.to_string()).unwrap();
    let out = sb
        .rt(&["exec", "--process", file.to_str().unwrap(), "e"])
        .ok();
    assert_eq!(out.stdout, "/var\n1000\n1000 2000\n0027\n64\ny\n");
    for text in [
        "",
        "{",
        "[]",
        "{\"args\": []}",
        "{\"args\": 1}",
        "{\"cwd\": \"relative\", \"args\": [\"true\"]}",
    ] {
        fs::write(&file, text).unwrap();
        sb.rt(&["exec", "-p", file.to_str().unwrap(), "e"])
            .exits(255);
    }
}

#[test]
fn detached_process_outlives_the_call() {
    let sb = Sandbox::new();
    let c = sb.sleeper("e", |_| {});
    sb.rt(&["exec", "-d", "e", "sh", "-c", "sleep 0.2; echo done >/late"])
        .ok();
    let late = c.bundle.rootfs().join("late");
    assert!(process::eventually(Duration::from_secs(5), || late.exists()));
}

#[test]
fn paused_container_refuses_unless_told() {
    let sb = Sandbox::new();
    let c = sb.sleeper("e", |_| {});
    sb.rt(&["pause", "e"]).ok();
    let out = sb.rt(&["exec", "e", "true"]).exits(255);
    assert!(out.stderr.contains("paused"), "{out:?}");
    let waiting = sb.spawn(sb.command(&["exec", "--ignore-paused", "e", "touch", "/thawed"]));
    // It is there, and stands still.
    let arrived = || cgroup::processes(&c.bundle.cgroup).len() > 1;
    assert!(process::eventually(Duration::from_secs(20), arrived));
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        !c.bundle.rootfs().join("thawed").exists(),
        "it ran in a frozen cgroup"
    );
    sb.rt(&["resume", "e"]).ok();
    waiting.wait().ok();
    assert!(c.bundle.rootfs().join("thawed").exists());
}

#[test]
fn created_container_can_be_entered() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    sb.created("e", &bundle);
    assert_eq!(sb.rt(&["exec", "e", "hostname"]).ok().text(), "knarr-test");
}

#[test]
fn sub_cgroup_is_chosen_by_component() {
    let sb = Sandbox::new();
    let c = sb.sleeper("e", |_| {});
    if !cgroup::v1_controller("pids") {
        knarr_integration::skip!("no cgroup v1 pids controller");
    }
    let sub = cgroup::dir("pids", &c.bundle.cgroup).join("sub");
    fs::create_dir(&sub).unwrap();
    let sibling = cgroup::dir("pids", &format!("{}x", c.bundle.cgroup));
    fs::create_dir(&sibling).unwrap();
    let file = sb.path("pid");
    let pid = || -> u32 { fs::read_to_string(&file).unwrap().parse().unwrap() };
    sb.rt(&[
        "exec",
        "-d",
        "--pid-file",
        file.to_str().unwrap(),
        "--cgroup",
        "pids:sub",
        "e",
        "sleep",
        "600",
    ])
    .ok();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", pid())).unwrap();
    assert!(
        own.lines()
            .any(|line| line.contains("pids") && line.ends_with("/sub")),
        "{own}"
    );
    for escape in ["pids:../c0x", "pids:..", "pids:/../../"] {
        sb.rt(&["exec", "--cgroup", escape, "e", "true"]).exits(255);
    }
    sb.rt(&["exec", "--cgroup", "pids:absent", "e", "true"])
        .exits(255);
}

#[test]
fn case_27_exec_cpu_affinity_is_not_for_init() {
    let sb = Sandbox::new();
    if std::thread::available_parallelism().unwrap().get() < 2 {
        knarr_integration::skip!("one CPU only");
    }
    let c = sb.sleeper("e", |c| {
        c["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    });
    assert_ne!(process::status_field(c.pid, "Cpus_allowed_list"), "1");
    let out = sb
        .rt(&[
            "exec",
            "e",
            "grep",
            "Cpus_allowed_list",
            "/proc/self/status",
        ])
        .ok();
    assert!(out.text().ends_with("\t1"), "{out:?}");
    let file = sb.path("process.json");
    fs::write(&file, json!({
        "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0}, "execCPUAffinity": {"initial": "0"},
    }).to_string()).unwrap();
    // With only `initial` the cgroup's own cpuset decides in the end.
    sb.rt(&["exec", "--process", file.to_str().unwrap(), "e"])
        .ok();
    fs::write(
        &file,
        json!({
            "args": ["true"], "cwd": "/", "execCPUAffinity": {"initial": "7-x"},
        })
        .to_string(),
    )
    .unwrap();
    sb.rt(&["exec", "--process", file.to_str().unwrap(), "e"])
        .exits(255);
}

#[test]
fn a_given_process_leaves_no_confinement_by_silence() {
    let sb = Sandbox::new();
    let c = sb.sleeper("e", |c| {
        c["process"]["user"]["umask"] = json!(0o027);
        let net_raw = json!(["CAP_NET_RAW"]);
        c["process"]["capabilities"] =
            json!({"bounding": net_raw, "permitted": net_raw, "effective": net_raw});
    });
    let file = sb.path("process.json");
    let status = |further: &[(&str, knarr_integration::Value)]| {
        let mut process = json!({"args": ["grep", "CapBnd\\|CapEff\\|Umask", "/proc/self/status"],
            "cwd": "/", "env": ["PATH=/bin"]});
        for (key, value) in further {
            process[*key] = value.clone();
        }
        fs::write(&file, process.to_string()).unwrap();
        let out = sb
            .rt(&["exec", "--process", file.to_str().unwrap(), "e"])
            .ok();
        let words = out.stdout.split_whitespace();
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let own = process::status_field(c.pid, "CapEff");
    let none = "0000000000000000";
    assert_ne!(own, none);
    assert_eq!(
        status(&[]),
        ["Umask:", "0027", "CapEff:", &own, "CapBnd:", &own]
    );
    let says = status(&[
        ("capabilities", json!({})),
        ("user", json!({"uid": 0, "gid": 0, "umask": 0o022})),
    ]);
    assert_eq!(says, ["Umask:", "0022", "CapEff:", none, "CapBnd:", none]);
}

/// Only some processors have resctrl: what is shown is that an exec is not without the container's class.
#[test]
fn an_exec_that_cannot_enter_the_class_does_not_run() {
    let sb = Sandbox::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if mounts.contains(" - resctrl ") {
        knarr_integration::skip!("resctrl is mounted here; it is left alone");
    }
    sb.sleeper("e", |_| {});
    let state = sb.root().join("e/state.json");
    let before = fs::read_to_string(&state).unwrap();
    let mut record: knarr_integration::Value = serde_json::from_str(&before).unwrap();
    record["rdt"] = json!({"class": "c"});
    fs::write(&state, record.to_string()).unwrap();
    let out = sb.rt(&["exec", "e", "echo", "ran"]).exits(255);
    assert!(
        out.stdout.is_empty() && out.stderr.contains("linux.intelRdt"),
        "{out:?}"
    );
    fs::write(&state, before).unwrap();
    sb.rt(&["exec", "e", "true"]).ok();
}

#[test]
fn many_at_once() {
    let sb = Sandbox::new();
    sb.sleeper("e", |_| {});
    let all: Vec<_> = (0..20)
        .map(|i| {
            (
                i,
                sb.spawn(sb.command(&["exec", "e", "sh", "-c", &format!("exit {i}")])),
            )
        })
        .collect();
    for (i, running) in all {
        running.wait().exits(i);
    }
}

#[test]
fn nothing_of_the_host_leaks_in() {
    let sb = Sandbox::new();
    sb.sleeper("e", |_| {});
    let out = sb
        .rt(&["exec", "e", "sh", "-c", "ls /proc/self/fd; env"])
        .ok();
    let fds: Vec<_> = out
        .stdout
        .lines()
        .take_while(|line| line.parse::<u32>().is_ok())
        .collect();
    assert_eq!(fds, ["0", "1", "2", "3"], "3 is ls's own: {out:?}");
    assert!(!out.stdout.contains("KNARR_SANDBOX"), "{out:?}");
}

#[test]
fn warnings_are_told() {
    let sb = Sandbox::new();
    sb.sleeper("e", |_| {});
    let args = ["exec", "--cap", "CAP_NO_SUCH", "e", "echo", "runs"];
    let out = sb.rt(&args).ok();
    assert_eq!(out.stdout, "runs\n");
    let said = out.stderr.matches("bounding").count();
    assert!(said == 1 && out.stderr.contains("CAP_NO_SUCH"), "{out:?}");
}

#[test]
fn an_unprivileged_user_enters_a_container_of_his_own() {
    use std::os::unix::process::CommandExt;
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        let own = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let linux = c["linux"].as_object_mut().unwrap();
        linux.insert("uidMappings".into(), own.clone());
        linux.insert("gidMappings".into(), own);
        linux.remove("cgroupsPath");
        linux.remove("resources");
        // A file system of the kernel wants the privilege over the namespace that it shows, and
        // only one group is mapped.
        c["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| mount["type"] != "sysfs" && mount["type"] != "devpts");
        knarr_integration::bundle::push(c, "/linux/namespaces", json!({"type": "user"}));
        c["process"]["oomScoreAdj"] = json!(700);
    });
    // Where that user can reach it.
    let program = sb.path("knarr");
    fs::copy(knarr_integration::runtime::path(), &program).unwrap();
    let root = sb.path("own");
    fs::create_dir(&root).unwrap();
    let mut chown = knarr_integration::runtime::command("/bin/chown".as_ref());
    chown.args(["-R", "1000:1000", bundle.arg(), root.to_str().unwrap()]);
    sb.spawn(chown).wait().ok();
    let rt = |args: &[&str]| {
        let mut command = knarr_integration::runtime::command(&program);
        command.uid(1000).gid(1000).arg("--root").arg(&root);
        sb.spawn({
            command.args(args);
            command
        })
        .wait()
    };
    rt(&["run", "--detach", "--bundle", bundle.arg(), "own"]).ok();
    let pid = rt(&["state", "own"]).ok().json()["pid"].as_u64().unwrap();
    let script = "id -u; cat /proc/self/oom_score_adj; readlink /proc/self/ns/user; \
                  readlink /proc/self/ns/pid; readlink /proc/self/ns/mnt; exit 7";
    let out = rt(&["exec", "own", "sh", "-c", script]).exits(7);
    let pid = u32::try_from(pid).unwrap();
    let kinds = ["user", "pid", "mnt"].map(|kind| process::namespace(pid, kind));
    assert_eq!(out.stdout, format!("0\n700\n{}\n", kinds.join("\n")));
    rt(&["exec", "own", "/no/such"]).exits(255);
    rt(&["delete", "--force", "own"]).ok();
}
