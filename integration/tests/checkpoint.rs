//! checkpoint and restore: a process tree saved by criu goes on where it was.
//!
//! criu does not work on every kernel: where it does not, only its absence is tested.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use knarr_integration::bundle::{Bundle, namespace, push, user_namespace, write_program};
use knarr_integration::socket::Receiver;
use knarr_integration::{Sandbox, json, process, runtime, skip};

/// Long enough for an emulated machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts in memory and in a file.
const COUNTER: &str = "n=0; while :; do n=$((n+1)); echo $n > /count.new; \
    mv /count.new /count; sleep 0.1; done";

/// Whether criu works here; callers find out in the same way.
fn works(sb: &Sandbox) -> bool {
    sb.rt(&["checkpoint", "--help"]).code == 0
}

macro_rules! need_criu {
    ($sb:expr) => {
        if !works(&$sb) {
            skip!("criu is missing or does not work on this kernel");
        }
    };
}

fn count(bundle: &Bundle) -> u64 {
    fs::read_to_string(bundle.rootfs().join("count"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[track_caller]
fn counts_past(bundle: &Bundle, last: u64) {
    assert!(
        process::eventually(PATIENCE, || count(bundle) > last),
        "the counter should go on after {last}, is {}",
        count(bundle)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Shows a log of criu when the test fails.
struct Log(std::path::PathBuf);

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read(&self.0).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(30)..];
            eprintln!("{}:\n{}", self.0.display(), end.join("\n"));
        }
    }
}

/// Saves `id` into `images` below the sandbox, with further arguments.
#[track_caller]
fn checkpoint(sb: &Sandbox, id: &str, images: &str, more: &[&str]) {
    let images = sb.path(images);
    let mut args = vec!["checkpoint", "--image-path", text(&images)];
    args.extend(more);
    args.push(id);
    let _log = Log(images.join("dump.log"));
    sb.rt(&args).ok();
}

/// Runs a command whose output goes into pipes, as managers of containers have it; they stay open
/// as long as what comes back.
#[track_caller]
fn with_pipes(sb: &Sandbox, args: &[&str]) -> Child {
    let mut command = sb.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Insists that a command with pipes succeeds, soon.
#[track_caller]
fn succeeds(child: &mut Child) {
    assert!(process::ended_within(child.id(), runtime::LIMIT));
    let status = child.wait().unwrap();
    if !status.success() {
        let mut error = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut error)
            .unwrap();
        panic!("{status}: {error}");
    }
}

#[track_caller]
fn restore(sb: &Sandbox, id: &str, images: &str, bundle: &Bundle, more: &[&str]) -> String {
    let images = sb.path(images);
    let mut args = vec!["restore", "--detach", "--bundle", bundle.arg()];
    args.extend(["--image-path", text(&images)]);
    args.extend(more);
    args.push(id);
    let _log = Log(images.join("restore.log"));
    sb.rt(&args).ok();
    sb.status(id)
}

#[test]
fn a_container_goes_on_where_it_was() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let bundle = sb.sh_bundle(COUNTER, |_| {});
    let before = sb.look();
    sb.started("c", &bundle);
    counts_past(&bundle, 2);
    checkpoint(&sb, "c", "images", &[]);
    sb.rt(&["state", "c"]).fails_with("does not exist");
    sb.same_as(&before);
    let saved = count(&bundle);

    fs::write(bundle.rootfs().join("count"), "0").unwrap();
    let pid_file = sb.path("pid");
    let arguments = ["--pid-file", text(&pid_file)];
    let status = restore(&sb, "c", "images", &bundle, &arguments);
    assert_eq!(status, "running");
    counts_past(&bundle, saved);
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(sb.state("c")["pid"].to_string(), pid);
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.contains(&bundle.cgroup), "{cgroup}");
    // It is a container like any other.
    let hostname = sb.rt(&["exec", "c", "hostname"]).ok();
    assert_eq!(hostname.text(), "knarr-test");
    sb.rt(&["exec", "c", "cat", "/proc/kcore"]).ok();
    sb.rt(&["pause", "c"]).ok();
    assert_eq!(sb.status("c"), "paused");
    sb.rt(&["resume", "c"]).ok();
    sb.finish("c");
    sb.same_as(&before);
}

#[test]
fn a_container_that_runs_on_can_be_restored_twice() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let bundle = sb.sh_bundle(COUNTER, |_| {});
    sb.started("c", &bundle);
    counts_past(&bundle, 2);
    checkpoint(&sb, "c", "images", &["--leave-running"]);
    assert_eq!(sb.status("c"), "running");
    counts_past(&bundle, count(&bundle));
    sb.finish("c");
    for id in ["d", "e"] {
        fs::write(bundle.rootfs().join("count"), "0").unwrap();
        restore(&sb, id, "images", &bundle, &[]);
        counts_past(&bundle, 2);
        sb.finish(id);
    }
}

#[test]
fn memory_can_be_saved_step_by_step() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let bundle = sb.sh_bundle(COUNTER, |_| {});
    sb.started("c", &bundle);
    counts_past(&bundle, 2);
    checkpoint(&sb, "c", "one", &["--pre-dump"]);
    assert_eq!(sb.status("c"), "running");
    counts_past(&bundle, count(&bundle));
    checkpoint(&sb, "c", "two", &["--pre-dump", "--parent-path", "../one"]);
    counts_past(&bundle, count(&bundle));
    checkpoint(&sb, "c", "three", &["--parent-path", "../two"]);
    let saved = count(&bundle);
    let parent = fs::read_link(sb.path("three/parent")).unwrap();
    assert_eq!(parent, Path::new("../two"));
    fs::write(bundle.rootfs().join("count"), "0").unwrap();
    restore(&sb, "c", "three", &bundle, &[]);
    counts_past(&bundle, saved);
    sb.finish("c");
}

/// Reads from a terminal until `text` has come.
fn read_until(terminal: &mut File, text: &str) -> String {
    let mut all = Vec::new();
    let mut bytes = [0; 256];
    while !String::from_utf8_lossy(&all).contains(text) {
        match terminal.read(&mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(n) => all.extend_from_slice(&bytes[..n]),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_terminal_is_handed_over_again() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let script = "echo ready; read line; echo first $line; read line; echo second $line on $(tty)";
    let bundle = sb.sh_bundle(script, |c| c["process"]["terminal"] = json!(true));
    let socket = Receiver::bind(sb.path("tty.sock"));
    let run = sb.spawn(sb.command(&[
        "run",
        "--detach",
        "--console-socket",
        socket.arg(),
        "--bundle",
        bundle.arg(),
        "t",
    ]));
    let (fd, _) = socket.descriptor();
    run.wait().ok();
    let mut terminal = File::from(fd);
    read_until(&mut terminal, "ready");
    terminal.write_all(b"one\n").unwrap();
    read_until(&mut terminal, "first one");
    checkpoint(&sb, "t", "images", &[]);
    drop(terminal);

    let socket = Receiver::bind(sb.path("tty2.sock"));
    let images = sb.path("images");
    let _log = Log(images.join("restore.log"));
    let restore = sb.spawn(sb.command(&[
        "restore",
        "--detach",
        "--console-socket",
        socket.arg(),
        "--image-path",
        text(&images),
        "--bundle",
        bundle.arg(),
        "t",
    ]));
    let (fd, _) = socket.descriptor();
    restore.wait().ok();
    let mut terminal = File::from(fd);
    terminal.write_all(b"two\n").unwrap();
    let said = read_until(&mut terminal, "second two on /dev/pts/0");
    assert!(said.contains("second two on /dev/"), "{said:?}");
    sb.wait_status("t", "stopped");
}

#[test]
fn restore_in_the_foreground_gives_the_exit_code() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let script = "echo before; while ! test -e /go; do sleep 0.1; done; echo after; exit 7";
    let bundle = sb.sh_bundle(script, |_| {});
    let before = sb.look();
    let mut first = with_pipes(&sb, &["run", "--detach", "--bundle", bundle.arg(), "f"]);
    succeeds(&mut first);
    let mut said = [0; 7];
    first.stdout.take().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"before\n");
    checkpoint(&sb, "f", "images", &[]);
    let images = sb.path("images");
    let _log = Log(images.join("restore.log"));
    let arguments = ["--image-path", text(&images), "--bundle", bundle.arg(), "f"];
    let mut second = with_pipes(&sb, &[&["restore"], &arguments[..]].concat());
    let running = || sb.rt(&["state", "f"]).stdout.contains("\"running\"");
    assert!(process::eventually(PATIENCE, running));
    fs::write(bundle.rootfs().join("go"), "").unwrap();
    assert!(process::ended_within(second.id(), PATIENCE));
    assert_eq!(second.wait().unwrap().code(), Some(7));
    // The output goes to whoever restored it.
    let mut said = String::new();
    second
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "after\n");
    sb.rt(&["state", "f"]).fails_with("does not exist");
    sb.same_as(&before);
}

#[test]
fn bind_mounts_get_the_new_sources() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let (old, new) = (sb.path("old"), sb.path("new"));
    for dir in [&old, &new] {
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(
            dir.join("hosts"),
            dir.file_name().unwrap().to_str().unwrap(),
        )
        .unwrap();
        let own = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", dir.join("sub"), "tmpfs", own, None).unwrap();
    }
    fs::write(new.join("sub/file"), "below").unwrap();
    let mounts = |dir: &Path| {
        [
            json!({"destination": "/data", "source": text(dir), "options": ["rbind"]}),
            // Leads elsewhere in the image.
            json!({"destination": "/link/hosts", "source": text(&dir.join("hosts")),
                   "options": ["bind", "ro"]}),
        ]
    };
    let bundle = sb.sh_bundle(COUNTER, |c| {
        for mount in mounts(&old) {
            push(c, "/mounts", mount);
        }
    });
    std::os::unix::fs::symlink("/etc", bundle.rootfs().join("link")).unwrap();
    sb.started("b", &bundle);
    counts_past(&bundle, 1);
    checkpoint(&sb, "b", "images", &[]);
    bundle.edit(|c| {
        let list = c["mounts"].as_array_mut().unwrap();
        list.truncate(list.len() - 2);
        list.extend(mounts(&new));
    });
    restore(&sb, "b", "images", &bundle, &[]);
    let shown = sb
        .rt(&[
            "exec",
            "b",
            "cat",
            "/data/hosts",
            "/etc/hosts",
            "/data/sub/file",
        ])
        .ok();
    assert_eq!(shown.text(), "newnewbelow");
    sb.rt(&["exec", "b", "sh", "-c", "! echo x 2>/dev/null > /etc/hosts"])
        .ok();
    sb.finish("b");
}

#[test]
fn a_joined_network_stays_outside() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let owner = sb.sleeper("owner", |_| {});
    let path = format!("/proc/{}/ns/net", owner.pid);
    let bundle = sb.sh_bundle(COUNTER, |c| {
        namespace(c, "network")["path"] = json!(path);
    });
    sb.started("n", &bundle);
    counts_past(&bundle, 1);
    checkpoint(&sb, "n", "images", &[]);
    restore(&sb, "n", "images", &bundle, &[]);
    counts_past(&bundle, 1);
    let pid = sb.state("n")["pid"].to_string();
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(),
        fs::read_link(path).unwrap()
    );
    sb.finish("n");
}

/// What connects a container belongs to whoever connected it: the images do not bring it back.
#[test]
fn an_own_network_is_set_up_anew() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let host = format!("kn{}", std::process::id());
    let bundle = sb.sh_bundle(COUNTER, |_| {});
    let peer = "name eth0 netns $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')";
    let hook = bundle.script(
        "connect",
        &format!("PATH=$PATH:/sbin:/usr/sbin; ip link add {host} type veth peer {peer}"),
    );
    bundle.edit(|c| {
        c["hooks"] = json!({"createRuntime": [{"path": text(&hook)}]});
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
    });
    let shows = || {
        let script = "ls /sys/class/net; cat /sys/class/net/lo/flags; \
            cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
        let out = sb.rt(&["exec", "n", "sh", "-c", script]).ok();
        out.text().to_owned()
    };
    sb.started("n", &bundle);
    counts_past(&bundle, 1);
    let before = shows();
    assert_eq!(before, "eth0\nlo\n0x9\n77");
    checkpoint(&sb, "n", "images", &[]);
    let saved = count(&bundle);
    restore(&sb, "n", "images", &bundle, &[]);
    counts_past(&bundle, saved);
    assert_eq!(shows(), before);
    sb.finish("n");
}

#[test]
fn a_user_namespace_is_restored() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let bundle = sb.sh_bundle(COUNTER, user_namespace);
    let rootfs = bundle.rootfs();
    std::os::unix::fs::chown(&rootfs, Some(100_000), Some(100_000)).unwrap();
    let mut first = with_pipes(&sb, &["run", "--detach", "--bundle", bundle.arg(), "u"]);
    succeeds(&mut first);
    counts_past(&bundle, 1);
    checkpoint(&sb, "u", "images", &[]);
    let saved = count(&bundle);
    let images = sb.path("images");
    let _log = Log(images.join("restore.log"));
    let arguments = ["--image-path", text(&images), "--bundle", bundle.arg(), "u"];
    let mut second = with_pipes(&sb, &[&["restore", "--detach"], &arguments[..]].concat());
    succeeds(&mut second);
    counts_past(&bundle, saved);
    let pid = sb.state("u")["pid"].to_string();
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert!(map.contains("100000"), "{map}");
    sb.rt(&["exec", "u", "sh", "-c", "echo x > /dev/null"]).ok();
    sb.finish("u");
}

#[test]
fn hooks_run_when_the_namespaces_are_there() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let bundle = sb.sh_bundle(COUNTER, |_| {});
    sb.started("h", &bundle);
    counts_past(&bundle, 1);
    checkpoint(&sb, "h", "images", &[]);
    let seen = sb.path("seen");
    let hook = bundle.script("hook", &format!("cat > {}", seen.display()));
    bundle.edit(|c| c["hooks"] = json!({"createRuntime": [{"path": text(&hook)}]}));
    restore(&sb, "h", "images", &bundle, &[]);
    let state: serde_json::Value = serde_json::from_slice(&fs::read(&seen).unwrap()).unwrap();
    assert_eq!(state["status"], "creating");
    assert_eq!(state["id"], "h");
    assert_eq!(state["pid"], sb.state("h")["pid"]);
    sb.finish("h");

    // A hook that fails ends the restore, and nothing is left.
    bundle.edit(|c| c["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]}));
    let before = sb.look();
    let images = sb.path("images");
    let pid_file = sb.path("pid");
    sb.rt(&[
        "restore",
        "--detach",
        "--pid-file",
        text(&pid_file),
        "--image-path",
        text(&images),
        "--bundle",
        bundle.arg(),
        "h",
    ])
    .fails_with("hooks.createRuntime[0]");
    assert!(!pid_file.exists());
    sb.same_as(&before);
}

/// A container in which one process sends to another over TCP.
#[track_caller]
fn talking(sb: &Sandbox, id: &str) -> Bundle {
    // busybox's nc itself ends when it is stopped for a moment; what it hands the connection to does not.
    let script = "nc -l -p 5000 -e sh -c 'cat > /got' & sleep 1; \
        nc 127.0.0.1 5000 -e sh -c 'while :; do echo x; sleep 0.2; done'; sleep 1000";
    let bundle = sb.sh_bundle(script, |_| {});
    sb.started(id, &bundle);
    assert!(process::eventually(PATIENCE, || got(&bundle) > 0));
    bundle
}

fn got(bundle: &Bundle) -> u64 {
    fs::metadata(bundle.rootfs().join("got")).map_or(0, |file| file.len())
}

#[test]
fn connections_go_on() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let bundle = talking(&sb, "t");
    let arguments = ["--tcp-established", "--network-lock", "nftables"];
    checkpoint(&sb, "t", "images", &arguments);
    let saved = got(&bundle);
    restore(&sb, "t", "images", &bundle, &arguments);
    assert!(process::eventually(PATIENCE, || got(&bundle) > saved));
    sb.finish("t");
}

#[test]
fn what_criu_says_is_told_with_its_log() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let bundle = sb.sh_bundle(COUNTER, |_| {});
    sb.started("x", &bundle);
    counts_past(&bundle, 1);
    checkpoint(&sb, "x", "images", &["--leave-running"]);

    // A connection that nobody allowed.
    let talks = talking(&sb, "l");
    let (images, work) = (sb.path("tcp"), sb.path("work"));
    let arguments = [
        "checkpoint",
        "--image-path",
        text(&images),
        "--work-path",
        text(&work),
        "l",
    ];
    let log = work.join("dump.log");
    sb.rt(&arguments)
        .fails_with(&format!("(log: {})", log.display()));
    assert!(log.exists());
    assert_eq!(sb.status("l"), "running");
    assert!(got(&talks) > 0);
    sb.finish("l");

    sb.finish("x");
    let before = sb.look();
    let broken = sb.path("images");
    fs::remove_file(broken.join("inventory.img")).unwrap();
    sb.rt(&[
        "restore",
        "--image-path",
        text(&broken),
        "--bundle",
        bundle.arg(),
        "x",
    ])
    .fails_with(&format!("(log: {}/restore.log)", broken.display()));
    sb.same_as(&before);
}

#[test]
fn pages_can_go_to_a_server() {
    let sb = Sandbox::new();
    need_criu!(sb);
    let bundle = sb.sh_bundle(COUNTER, |_| {});
    sb.started("p", &bundle);
    counts_past(&bundle, 1);
    let images = sb.path("images");
    fs::create_dir(&images).unwrap();
    let mut server = std::process::Command::new("criu")
        .args(["page-server", "--address", "127.0.0.1", "--port", "27182"])
        .args(["--images-dir", text(&images)])
        .spawn()
        .unwrap();
    let listens = || {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        table.contains(&format!(":{:04X}", 27182))
    };
    assert!(process::eventually(PATIENCE, listens));
    let arguments = ["--page-server", "127.0.0.1:27182"];
    checkpoint(&sb, "p", "images", &arguments);
    assert!(server.wait().unwrap().success());
    let saved = count(&bundle);
    restore(&sb, "p", "images", &bundle, &[]);
    counts_past(&bundle, saved);
    sb.finish("p");
}

#[test]
fn only_a_container_that_runs_can_be_saved() {
    let sb = Sandbox::new();
    sb.rt(&["checkpoint", "absent"])
        .fails_with("container does not exist");
    let bundle = sb.sh_bundle("exit 0", |_| {});
    sb.created("c", &bundle);
    sb.rt(&["checkpoint", "c"])
        .fails_with("cannot checkpoint a container in the created state");
    sb.rt(&["start", "c"]).ok();
    sb.wait_status("c", "stopped");
    sb.rt(&["checkpoint", "c"])
        .fails_with("container not running");
}

#[test]
fn a_missing_criu_is_named() {
    let sb = Sandbox::new();
    let container = sb.sleeper("c", |_| {});
    let nothing = "criu not found in PATH: install the package criu";
    let before = sb.look();
    let bundle = container.bundle.arg();
    for args in [
        &["checkpoint", "c"][..],
        &["checkpoint", "--help"],
        &["restore", "--help"],
        &["restore", "--bundle", bundle, "d"],
    ] {
        let mut command = sb.command(args);
        command.env("PATH", sb.dir());
        command.current_dir(sb.dir());
        sb.spawn(command).wait().fails_with(nothing);
    }
    assert!(!sb.path("checkpoint").exists(), "no images without criu");
    sb.same_as(&before);
    assert_eq!(sb.status("c"), "running");
}

/// Puts a program that stands in for criu into a directory of its own, which it returns: the real
/// one does not run on every kernel.
fn stand_in(sb: &Sandbox, text: &str) -> std::path::PathBuf {
    let dir = sb.path("bin");
    fs::create_dir(&dir).unwrap();
    write_program(&dir.join("criu"), text);
    dir
}

/// Saves the container `c` with the program of [`stand_in`].
fn checkpoint_with(sb: &Sandbox, stand_in: &Path) -> knarr_integration::Outcome {
    let path = format!("{}:{}", text(stand_in), std::env::var("PATH").unwrap());
    let images = sb.path("images");
    let mut command = sb.command(&["checkpoint", "--image-path", text(&images), "c"]);
    command.env("PATH", path);
    sb.spawn(command).wait()
}

#[test]
fn a_criu_that_dies_is_told_with_the_first_error_of_its_log() {
    let sb = Sandbox::new();
    let log = sb.path("images/dump.log");
    let dir = stand_in(
        &sb,
        &format!(
            "#!/bin/sh\n\
             test \"$1\" = swrk || exit 9\n\
             printf '%s\\n' '(0.1) ok' '(0.2) Error (criu/x.c:1):  bad   thing' \
             '(0.3) Error (y.c:2): worse' > {}\n",
            text(&log)
        ),
    );
    sb.sleeper("c", |_| {});
    checkpoint_with(&sb, &dir).fails_with(&format!(
        "criu dump failed: (0.2) Error (criu/x.c:1): bad thing (log: {})",
        text(&log)
    ));
    assert_eq!(sb.status("c"), "running");
}

#[test]
fn a_criu_that_cannot_be_executed_is_named() {
    let sb = Sandbox::new();
    let dir = stand_in(&sb, "neither a script nor a binary");
    sb.sleeper("c", |_| {});
    checkpoint_with(&sb, &dir).fails_with(&format!("exec({}/criu)", text(&dir)));
    assert_eq!(sb.status("c"), "running");
}

#[test]
fn parents_are_below_the_images() {
    let sb = Sandbox::new();
    if runtime::find(Path::new("criu")).is_none() {
        skip!("criu is missing");
    }
    sb.sleeper("c", |_| {});
    let images = sb.path("images");
    for (parent, why) in [
        ("/tmp", "must be relative"),
        ("../absent", "is no directory"),
    ] {
        sb.rt(&[
            "checkpoint",
            "--image-path",
            text(&images),
            "--parent-path",
            parent,
            "c",
        ])
        .fails_with(why);
    }
}
