//! What a cgroup of version 2 is besides its limits: device rules, the place of processes,
//! ownership, killing, freezing, figures; the same tests for both drivers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use knarr_integration::bundle::{drop_namespace, push, user_namespace};
use knarr_integration::without::CALLS;
use knarr_integration::{Bundle, Container, Sandbox, Value, both_drivers, cgroup, json, process};
use rustix::fs::inotify;

both_drivers! {
    device_rules_apply_in_order_before_the_built_in_ones
    device_rules_outlive_update_reload_and_property_changes
    processes_are_born_in_their_cgroup
    processes_are_moved_where_they_cannot_be_born
    exec_joins_init_in_a_cgroup_that_was_split
    the_container_is_given_its_cgroup
    the_cgroup_stays_ours_unless_all_conditions_hold
    everybody_is_killed
    a_frozen_container_stands_still_and_can_be_killed
    figures_have_pressure_and_limits
    an_oom_kill_is_an_event
    a_frozen_place_is_refused
}

const WAIT: Duration = Duration::from_secs(60);

fn read(c: &Container, file: &str) -> String {
    cgroup::read("", &c.bundle.cgroup, file)
}

/// Where a process is, as the host names it.
fn place(pid: u32) -> String {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    table.trim().trim_start_matches("0::").to_owned()
}

fn cgroup_mount(config: &mut Value, option: &str) {
    push(
        config,
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", option]}),
    );
}

/// Devices besides the built-in ones. Only the verdict of the rules counts: where there is no such
/// device, an open that they let pass fails otherwise.
const NODES: &str = r#"[
    {"path": "/dev/odd0", "type": "c", "major": 240, "minor": 11, "fileMode": 438},
    {"path": "/dev/full0", "type": "c", "major": 1, "minor": 7, "fileMode": 438},
    {"path": "/dev/fuse0", "type": "c", "major": 10, "minor": 229, "fileMode": 438},
    {"path": "/dev/loop0", "type": "b", "major": 7, "minor": 0, "fileMode": 438}
]"#;

/// Prints a line for each device: its name, and which of reading and writing the rules let pass.
const PROBE: &str = "for d in null full0 tty0 odd0 fuse0 loop0; do r=-; w=-; \
    (exec 3</dev/$d) 2>/tmp/e || true; grep -q 'not permitted' /tmp/e || r=r; \
    (exec 3>>/dev/$d) 2>/tmp/e || true; grep -q 'not permitted' /tmp/e || w=w; echo $d $r$w; done; \
    mknod /tmp/n b 200 1 && echo made";

fn device_bundle(sb: &Sandbox, script: &str, rules: Value) -> Bundle {
    sb.sh_bundle(script, |c| {
        c["linux"]["devices"] = serde_json(NODES);
        c["linux"]["resources"]["devices"] = rules;
        push(
            c,
            "/mounts",
            json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}),
        );
    })
}

fn serde_json(text: &str) -> Value {
    text.parse().unwrap()
}

fn device_rules_apply_in_order_before_the_built_in_ones(sb: &Sandbox) {
    let rule = |allow: bool, kind: &str, major: i64, minor: i64, access: &str| json!({"allow": allow, "type": kind, "major": major, "minor": minor, "access": access});
    let nothing = json!({"allow": false, "access": "rwm"});
    for (rules, expected) in [
        // The built-in ones hold whatever comes before: null, full, any node made.
        (
            json!([nothing]),
            "null rw,full0 rw,odd0 --,fuse0 --,loop0 --,made",
        ),
        (json!([]), "null rw,full0 rw,odd0 --,fuse0 --,loop0 --,made"),
        (
            json!([
                nothing,
                rule(true, "c", 240, 11, "r"),
                rule(true, "b", 7, -1, "rw")
            ]),
            "null rw,full0 rw,odd0 r-,fuse0 --,loop0 rw,made",
        ),
        // The last that matches decides: an exception from a wider rule, which version 1 could not express.
        (
            json!([
                nothing,
                rule(true, "c", -1, -1, "rw"),
                rule(false, "c", 10, 229, "w"),
                rule(false, "c", 1, 3, "rwm")
            ]),
            "null rw,full0 rw,odd0 rw,fuse0 r-,loop0 --,made",
        ),
        (
            json!([{"allow": true, "access": "rwm"}, rule(false, "b", 7, 0, "r"), rule(false, "c", 240, 11, "rw")]),
            "null rw,full0 rw,odd0 --,fuse0 rw,loop0 -w,made",
        ),
        (
            json!([
                rule(true, "c", 10, 229, "rw"),
                nothing,
                rule(true, "c", 240, 11, "w")
            ]),
            "null rw,full0 rw,odd0 -w,fuse0 --,loop0 --,made",
        ),
    ] {
        let out = sb.run(&device_bundle(sb, PROBE, rules.clone())).ok();
        let seen: Vec<&str> = out
            .stdout
            .lines()
            .filter(|line| !line.starts_with("tty0"))
            .collect();
        assert_eq!(seen.join(","), expected, "{rules}: {out:?}");
    }
}

fn device_rules_outlive_update_reload_and_property_changes(sb: &Sandbox) {
    let rules = json!([{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 240, "minor": 11, "access": "r"},
        {"allow": true, "type": "c", "major": 10, "minor": -1, "access": "rw"},
        {"allow": false, "type": "c", "major": 10, "minor": 1, "access": "rw"}]);
    let c = sb.started("dev", &device_bundle(sb, "exec sleep 600", rules));
    let probe = || sb.rt(&["exec", "dev", "/bin/sh", "-c", PROBE]).ok().stdout;
    let before = probe();
    for line in ["null rw", "odd0 r-", "fuse0 rw", "loop0 --", "made"] {
        assert!(before.lines().any(|seen| seen == line), "{line}: {before}");
    }
    sb.rt_stdin(
        &["update", "--resources=-", "dev"],
        r#"{"devices": [{"allow": true, "access": "rwm"}], "pids": {"limit": 99}, "memory": {"limit": 104857600}}"#,
    )
    .ok();
    assert_eq!(read(&c, "pids.max"), "99");
    let again = |what: &str| {
        sb.rt(&["exec", "dev", "/bin/rm", "/tmp/n"]).ok();
        assert_eq!(probe(), before, "after {what}");
    };
    again("update");
    let Some(unit) = sb
        .is_systemd()
        .then(|| c.bundle.cgroup.rsplit_once('/').unwrap().1)
    else {
        return;
    };
    let systemctl = |arguments: &[&str]| {
        let out = Command::new("systemctl").args(arguments).output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {out:?}");
    };
    systemctl(&["daemon-reload"]);
    again("a reload");
    systemctl(&[
        "set-property",
        "--runtime",
        unit,
        "TasksMax=77",
        "MemoryMax=90M",
        "CPUWeight=50",
    ]);
    again("a change of limits");
    systemctl(&["set-property", "--runtime", unit, "DeviceAllow=/dev/kmsg r"]);
    again("a further DeviceAllow");
    systemctl(&["daemon-reload"]);
    again("a second reload");
    systemctl(&["daemon-reexec"]);
    again("systemd's new start");
}

/// Counts who opens cgroup.procs for writing: a move is that, and clone3(CLONE_INTO_CGROUP) is not.
struct Moves(std::os::fd::OwnedFd);

impl Moves {
    fn watch(dir: &std::path::Path) -> Moves {
        let fd =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(
            &fd,
            dir.join("cgroup.procs"),
            inotify::WatchFlags::CLOSE_WRITE,
        )
        .unwrap();
        Moves(fd)
    }

    fn seen(&self) -> bool {
        let mut buffer = [0_u8; 4096];
        rustix::io::read(&self.0, &mut buffer).is_ok_and(|count| count > 0)
    }
}

fn processes_are_born_in_their_cgroup(sb: &Sandbox) {
    let bundle = sb.sh_bundle("exec sleep 600", |_| {});
    let dir = cgroup::dir("", &bundle.cgroup);
    // systemd makes no scope without a process, which it moves there.
    let moves = (!sb.is_systemd()).then(|| {
        fs::create_dir_all(&dir).unwrap();
        Moves::watch(&dir)
    });
    let c = sb.started("born", &bundle);
    assert_eq!(place(c.pid), bundle.cgroup);
    if let Some(moves) = moves {
        assert!(!moves.seen(), "init was moved");
        // The watch itself works.
        fs::write(dir.join("cgroup.procs"), c.pid.to_string()).unwrap();
        assert!(moves.seen());
    }
    let moves = Moves::watch(&dir);
    let pid = exec_detached(sb, "born");
    assert_eq!(place(pid), bundle.cgroup);
    assert!(!moves.seen(), "the process of exec was moved");
    let pids = cgroup::processes(&bundle.cgroup);
    assert!(pids.contains(&pid) && pids.contains(&c.pid), "{pids:?}");
}

/// A kernel without clone3(2), or without newer calls at all.
fn processes_are_moved_where_they_cannot_be_born(sb: &Sandbox) {
    let all: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
    for (n, list) in ["clone3", &all.join(",")].into_iter().enumerate() {
        let bundle = sb.sh_bundle("exec sleep 600", |c| {
            cgroup_mount(c, "ro");
            c["linux"]["resources"] = json!({"pids": {"limit": 9}});
        });
        let id = format!("moved{n}");
        let call = |args: &[&str]| sb.spawn(sb.without(list, args)).wait().ok();
        let pid_file = sb.path("pid");
        let pid = || -> u32 { fs::read_to_string(&pid_file).unwrap().parse().unwrap() };
        let pid_arg = ["--pid-file", pid_file.to_str().unwrap()];
        let _ = call(&[&["create", "--bundle", bundle.arg()], &pid_arg[..], &[&id]].concat());
        let init = pid();
        assert_eq!(place(init), bundle.cgroup);
        let _ = call(&["start", &id]);
        fs::remove_file(&pid_file).unwrap();
        // With a parent that lives, so that nobody else need reap it.
        let exec = [&["exec"], &pid_arg[..], &[&id, "/bin/sleep", "600"]].concat();
        let running = sb.spawn(sb.without(list, &exec));
        assert!(process::eventually(WAIT, || pid_file.exists()));
        assert_eq!(place(pid()), bundle.cgroup);
        let seen = ["/bin/cat", "/proc/self/cgroup", "/sys/fs/cgroup/pids.max"];
        let out = call(&[&["exec", &id], &seen[..]].concat());
        assert_eq!(out.text(), "0::/\n9", "without {list}");
        let _ = call(&["pause", &id]);
        assert_eq!(sb.status(&id), "paused");
        let _ = call(&["delete", "--force", &id]);
        assert_eq!(running.wait().code, 137);
        assert!(!process::alive(init));
        assert!(!cgroup::dir("", &bundle.cgroup).exists());
    }
}

/// The pid of a process that exec leaves in the container.
fn exec_detached(sb: &Sandbox, id: &str) -> u32 {
    let pid_file = sb.path("pid");
    let exec = [
        "exec",
        "--detach",
        "--pid-file",
        pid_file.to_str().unwrap(),
        id,
        "/bin/sleep",
        "600",
    ];
    sb.rt(&exec).ok();
    fs::read_to_string(&pid_file).unwrap().parse().unwrap()
}

fn exec_joins_init_in_a_cgroup_that_was_split(sb: &Sandbox) {
    // As systemd and dockerd do inside: out of the top, and controllers for those below.
    let script = "cd /sys/fs/cgroup && mkdir init other && echo 1 >init/cgroup.procs && \
        echo '+memory +pids' >cgroup.subtree_control && echo 20 >init/pids.max && echo ready && exec sleep 600";
    let bundle = sb.sh_bundle(script, |c| {
        cgroup_mount(c, "rw");
        c["linux"]["resources"]["memory"] = json!({"limit": 209_715_200});
    });
    let c = sb.started("split", &bundle);
    assert!(process::eventually(WAIT, || place(c.pid)
        .ends_with("/init")
        && !read(&c, "cgroup.subtree_control").is_empty()));
    let below = format!("{}/init", bundle.cgroup);
    let out = sb
        .rt(&["exec", "split", "/bin/cat", "/proc/self/cgroup"])
        .ok();
    assert_eq!(out.text(), "0::/init");
    let moves = Moves::watch(&cgroup::dir("", &below));
    let pid = exec_detached(sb, "split");
    assert_eq!(place(pid), below);
    assert!(!moves.seen(), "the process of exec was moved");
    let out = sb
        .rt(&[
            "exec",
            "--cgroup",
            "other",
            "split",
            "/bin/cat",
            "/proc/self/cgroup",
        ])
        .ok();
    assert_eq!(out.text(), "0::/other");
    sb.rt(&["exec", "--cgroup", "../..", "split", "/bin/true"])
        .code
        .ne(&0)
        .then_some(())
        .unwrap();
    // The container is still one thing for everything else.
    let ps = sb.rt(&["ps", "--format", "json", "split"]).ok().json();
    assert_eq!(ps.as_array().unwrap().len(), 2);
    sb.rt_stdin(
        &["update", "--resources=-", "split"],
        r#"{"pids": {"limit": 40}}"#,
    )
    .ok();
    assert_eq!(read(&c, "pids.max"), "40");
    let stats = sb.rt(&["events", "--stats", "split"]).ok().json();
    assert_eq!(stats["data"]["pids"]["current"], 2);
    sb.rt(&["pause", "split"]).ok();
    assert_eq!(sb.status("split"), "paused");
    sb.rt(&["resume", "split"]).ok();
    sb.finish("split");
    assert!(!cgroup::dir("", &bundle.cgroup).exists());
    assert!(!process::alive(pid));
}

/// The files that may change hands, as the kernel lists them.
fn delegated() -> Vec<String> {
    let listed = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap();
    listed.lines().map(str::to_owned).collect()
}

fn the_container_is_given_its_cgroup(sb: &Sandbox) {
    let bundle = sb.sh_bundle(
        "cd /sys/fs/cgroup && mkdir below && echo $$ >below/cgroup.procs && echo 5 >below/cgroup.max.depth; \
         echo 1 >cgroup.max.depth || echo refused; sleep 600",
        |c| {
            user_namespace(c);
            cgroup_mount(c, "rw");
        },
    );
    fs::set_permissions(bundle.rootfs(), fs::Permissions::from_mode(0o755)).unwrap();
    let c = sb.started("given", &bundle);
    let dir = cgroup::dir("", &bundle.cgroup);
    let listed = delegated();
    assert_eq!(fs::metadata(&dir).unwrap().uid(), 100_000);
    for entry in fs::read_dir(&dir).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        let name = entry.file_name().into_string().unwrap();
        if meta.is_file() {
            let owner = if listed.contains(&name) { 100_000 } else { 0 };
            assert_eq!(meta.uid(), owner, "{name}");
        }
    }
    assert!(process::eventually(WAIT, || place(c.pid).ends_with("/below")));
    assert!(process::eventually(WAIT, || c
        .created
        .stdout_now()
        .contains("refused")));
    // A further process joins it there, born there although it belongs to another user.
    let out = sb
        .rt(&["exec", "given", "/bin/cat", "/proc/self/cgroup"])
        .ok();
    assert!(["0::/", "0::/below"].contains(&out.text()), "{out:?}");
    sb.finish("given");
    assert!(!dir.exists());

    let other = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        user_namespace(c);
        cgroup_mount(c, "rw");
    });
    sb.started("user", &other);
    let meta = fs::metadata(cgroup::dir("", &other.cgroup)).unwrap();
    assert_eq!(meta.uid(), 101_000, "the user of the process");
}

fn the_cgroup_stays_ours_unless_all_conditions_hold(sb: &Sandbox) {
    for (id, edit) in [
        (
            "ro",
            (|c: &mut Value| cgroup_mount(c, "ro")) as fn(&mut Value),
        ),
        ("nomount", |_| {}),
        ("hosts", |c| {
            drop_namespace(c, "cgroup");
            cgroup_mount(c, "rw");
        }),
    ] {
        let c = sb.sleeper(id, |c| {
            user_namespace(c);
            edit(c);
        });
        let dir = cgroup::dir("", &c.bundle.cgroup);
        assert_eq!(fs::metadata(&dir).unwrap().uid(), 0, "{id}");
        assert_eq!(
            fs::metadata(dir.join("cgroup.procs")).unwrap().uid(),
            0,
            "{id}"
        );
        sb.finish(id);
    }
}

fn everybody_is_killed(sb: &Sandbox) {
    // Without a pid namespace of its own nobody dies with init.
    let bundle = sb.sh_bundle(
        "mkdir /sys/fs/cgroup/deep; for i in 1 2 3; do setsid sleep 600 & done; \
         setsid sh -c 'echo $$ >/sys/fs/cgroup/deep/cgroup.procs; exec sleep 600' & exec sleep 600",
        |c| {
            drop_namespace(c, "pid");
            cgroup_mount(c, "rw");
        },
    );
    let c = sb.started("all", &bundle);
    let count = || cgroup::processes(&bundle.cgroup).len();
    assert!(process::eventually(WAIT, || count() == 5), "{}", count());
    sb.rt(&["kill", "--all", "all", "TERM"]).ok();
    assert!(process::eventually(WAIT, || count() == 0));
    sb.finish("all");
    let c2 = sb.started("kill", &bundle);
    assert!(process::eventually(WAIT, || count() == 5));
    sb.rt(&["kill", "kill", "KILL"]).ok();
    assert!(process::eventually(WAIT, || count() == 0));
    assert!(!process::alive(c.pid) && !process::alive(c2.pid));
    sb.wait_status("kill", "stopped");
    sb.rt(&["delete", "kill"]).ok();
    assert!(!cgroup::dir("", &bundle.cgroup).exists());
}

fn a_frozen_container_stands_still_and_can_be_killed(sb: &Sandbox) {
    let script = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/now; done";
    let c = sb.started("cold", &sb.sh_bundle(script, |_| {}));
    let now =
        || fs::read_to_string(format!("/proc/{}/root/dev/shm/now", c.pid)).unwrap_or_default();
    assert!(process::eventually(WAIT, || !now().is_empty()));
    sb.rt(&["pause", "cold"]).ok();
    assert_eq!(sb.status("cold"), "paused");
    assert_eq!(read(&c, "cgroup.freeze"), "1");
    assert!(read(&c, "cgroup.events").contains("frozen 1"));
    let stopped = now();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(now(), stopped);
    sb.rt(&["exec", "cold", "/bin/true"])
        .code
        .ne(&0)
        .then_some(())
        .unwrap();
    sb.rt(&["resume", "cold"]).ok();
    assert_eq!(sb.status("cold"), "running");
    assert!(process::eventually(WAIT, || now() != stopped));
    sb.rt(&["pause", "cold"]).ok();
    sb.rt(&["kill", "cold", "KILL"]).ok();
    sb.rt(&["delete", "--force", "cold"]).ok();
    assert!(!process::alive(c.pid));
    assert!(!cgroup::dir("", &c.bundle.cgroup).exists());
}

fn figures_have_pressure_and_limits(sb: &Sandbox) {
    let c = sb.sleeper("figures", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 104_857_600, "swap": 157_286_400});
        c["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let data = &sb.rt(&["events", "--stats", "figures"]).ok().json()["data"];
    assert_eq!(data["pids"], json!({"current": 1, "limit": 50}));
    assert_eq!(data["memory"]["usage"]["limit"], 104_857_600);
    assert_eq!(data["memory"]["swap"]["limit"], 157_286_400);
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    for (part, file) in [
        ("cpu", "cpu.pressure"),
        ("memory", "memory.pressure"),
        ("blkio", "io.pressure"),
    ] {
        // The kernel may be without, or told to be (psi=0).
        if fs::read_to_string(cgroup::dir("", &c.bundle.cgroup).join(file)).is_ok() {
            for kind in ["some", "full"] {
                let line = &data[part]["psi"][kind];
                assert!(
                    line["total"].is_u64() && line["avg10"].is_f64(),
                    "{part}: {data}"
                );
            }
        }
    }
}

fn an_oom_kill_is_an_event(sb: &Sandbox) {
    let bundle = sb.sh_bundle("exec sleep 600", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 20_971_520, "swap": 20_971_520});
    });
    let c = sb.started("oom", &bundle);
    let events = sb.spawn(sb.command(&["events", "--interval=200ms", "oom"]));
    assert!(process::eventually(WAIT, || events
        .stdout_now()
        .contains("stats")));
    let hungry = "dd if=/dev/zero of=/dev/null bs=40M count=1; exit 7";
    let out = sb.rt(&["exec", "oom", "/bin/sh", "-c", hungry]);
    assert_ne!(out.code, 0);
    assert!(read(&c, "memory.events").lines().any(|line| {
        line.strip_prefix("oom_kill ")
            .is_some_and(|count| count != "0")
    }));
    let oom = r#"{"type":"oom","id":"oom"}"#;
    assert!(process::eventually(WAIT, || events
        .stdout_now()
        .lines()
        .any(|line| line == oom)));
    assert!(process::alive(c.pid), "only the hungry one dies");
    // How often the limit was met is in the figures.
    let stats = sb.rt(&["events", "--stats", "oom"]).ok().json();
    assert!(
        stats["data"]["memory"]["usage"]["failcnt"]
            .as_u64()
            .unwrap()
            > 0
    );
    sb.finish("oom");
    events.wait().ok();
}

fn a_frozen_place_is_refused(sb: &Sandbox) {
    let first = sb.sleeper("first", |_| {});
    let parent = cgroup::dir("", sb.cgroup());
    fs::write(parent.join("cgroup.freeze"), "1").unwrap();
    let bundle = sb.bundle(|_| {});
    let out = sb.create("frozen", &bundle);
    fs::write(parent.join("cgroup.freeze"), "0").unwrap();
    let out = out.fails_with("frozen");
    assert!(out.stderr.contains("thaw"), "{out:?}");
    sb.rt(&["state", "frozen"]).fails_with("does not exist");
    assert!(!cgroup::dir("", &bundle.cgroup).exists());
    assert!(process::alive(first.pid));
    sb.create("thawed", &bundle).ok();
}

#[test]
fn the_callers_umask_does_not_close_the_cgroup() {
    use std::os::unix::fs::PermissionsExt;
    if let Some(why) = cgroup::Driver::Cgroupfs.missing() {
        knarr_integration::skip!("{why}");
    }
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("exec sleep 600", |_| {});
    let mut shell = knarr_integration::runtime::command("/bin/sh".as_ref());
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]);
    shell.arg(knarr_integration::runtime::path());
    shell.arg("--root").arg(sb.root());
    shell.args(["create", "--bundle", bundle.arg(), "open"]);
    sb.spawn(shell).wait().ok();
    let made = fs::metadata(cgroup::dir("", &bundle.cgroup)).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o755);
    sb.finish("open");
}

#[test]
fn a_place_without_controllers_is_refused_for_limits_only() {
    if let Some(why) = cgroup::Driver::Cgroupfs.missing() {
        knarr_integration::skip!("{why}");
    }
    let sb = Sandbox::new();
    // A process in the parent keeps the kernel from giving controllers to its children; those that
    // it would give (pids) make the tree threaded.
    let parent = cgroup::dir("", sb.cgroup());
    fs::create_dir(&parent).unwrap();
    let before = sb.look();
    let mut guest = Command::new("sleep").arg("600").spawn().unwrap();
    let joined = fs::write(parent.join("cgroup.procs"), guest.id().to_string());
    let results: Vec<_> = [
        json!({"memory": {"limit": 52_428_800}}),
        json!({"pids": {"limit": 5}}),
    ]
    .iter()
    .map(|resources| {
        let bundle = sb.bundle(|c| c["linux"]["resources"] = resources.clone());
        sb.create("limited", &bundle)
    })
    .collect();
    let made = sb.create("free", &sb.sh_bundle("exec sleep 600", |_| {}));
    sb.finish("free");
    let kind = cgroup::read("", sb.cgroup(), "cgroup.type");
    guest.kill().unwrap();
    guest.wait().unwrap();
    joined.unwrap();
    for (out, field) in results.into_iter().zip(["memory.limit", "pids.limit"]) {
        out.fails_with(&format!("linux.resources.{field}"));
    }
    made.ok();
    assert_eq!(kind, "domain");
    sb.same_as(&before);
}

#[test]
fn a_threaded_place_is_refused() {
    if let Some(why) = cgroup::Driver::Cgroupfs.missing() {
        knarr_integration::skip!("{why}");
    }
    let sb = Sandbox::new();
    let parent = cgroup::dir("", sb.cgroup());
    fs::create_dir_all(parent.join("thread")).unwrap();
    fs::write(parent.join("thread/cgroup.type"), "threaded").unwrap();
    for resources in [json!({}), json!({"memory": {"limit": 52_428_800}})] {
        let bundle = sb.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!(format!("{}/thread/c", sb.cgroup()));
            c["linux"]["resources"] = resources.clone();
        });
        let out = sb.create("threaded", &bundle).fails_with("threaded");
        assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
        sb.rt(&["state", "threaded"]).fails_with("does not exist");
        assert!(!parent.join("thread/c").exists());
    }
}

#[test]
fn a_place_in_use_is_refused() {
    if let Some(why) = cgroup::Driver::Cgroupfs.missing() {
        knarr_integration::skip!("{why}");
    }
    let sb = Sandbox::new();
    let first = sb.sleeper("first", |_| {});
    let same = sb.bundle(|c| c["linux"]["cgroupsPath"] = json!(first.bundle.cgroup));
    sb.create("second", &same).fails_with("in use");
    assert_eq!(sb.status("first"), "running");
    // Empty and thawed, it may be there already, and stays when the container goes.
    let kept = sb.bundle(|_| {});
    let dir = cgroup::dir("", &kept.cgroup);
    fs::create_dir_all(&dir).unwrap();
    sb.started("kept", &kept);
    sb.finish("kept");
    assert!(dir.exists(), "made by another");
    fs::write(dir.join("cgroup.freeze"), "1").unwrap();
    sb.create("kept", &kept).fails_with("frozen");
}
