//! The runtime is killed at every system call, and so is the process that becomes the container's:
//! a forced delete always ends with nothing left.
//!
//! Each command is run again and again, killed as it enters its first call, its second, and so on,
//! until it ends unhindered. Nothing is left out, so that this takes hundreds of calls; where that is
//! too slow, `KNARR_KILL_STEP=N` takes every N-th call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use knarr_integration::host::Snapshot;
use knarr_integration::trace::{Ended, kill_at};
use knarr_integration::{Bundle, Sandbox, Value, cgroup, json, process};

/// More calls than any command makes: a loop that does not end is a failure.
const MAX_CALLS: u64 = 5000;

/// From one call at which a process is killed to the next.
fn step() -> usize {
    let step = std::env::var("KNARR_KILL_STEP").ok();
    step.map_or(1, |step| step.parse().unwrap())
}

/// What one of the two processes of a command is called: who is killed.
const RUNTIME: usize = 0;
const INIT: usize = 1;

struct Scene {
    sb: Sandbox,
    bundle: Bundle,
    before: Snapshot,
}

impl Scene {
    fn new(edit: impl FnOnce(&mut Value)) -> Self {
        let sb = Sandbox::new();
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sleep", "600"]);
            c["linux"]["resources"]["pids"] = json!({"limit": 50});
            c["linux"]["sysctl"] = json!({"kernel.shmmni": "100"});
            c["hooks"]["createRuntime"] = json!([{"path": "/bin/true"}]);
            c["hooks"]["poststop"] = json!([{"path": "/bin/true"}]);
            c["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
            });
            edit(c);
        });
        // The state root stays when it is made once.
        sb.create("c", &bundle).ok();
        sb.finish("c");
        let before = sb.look();
        Self { sb, bundle, before }
    }

    fn create(&self) {
        self.sb.create("c", &self.bundle).ok();
    }

    fn running(&self) {
        self.create();
        self.sb.rt(&["start", "c"]).ok();
    }

    /// Deletes whatever is there, and insists that nothing is left.
    #[track_caller]
    fn clean_up(&self, at: &str) {
        let begin = Instant::now();
        let out = self.sb.rt(&["delete", "--force", "c"]);
        assert_eq!(out.code, 0, "{at}: {out:#?}");
        let took = begin.elapsed();
        let limit = process::patient(Duration::from_secs(8));
        assert!(took < limit, "{at}: took {took:?}");
        let mut left = Vec::new();
        let clean = process::eventually(process::patient(Duration::from_secs(5)), || {
            left = self.before.difference(&self.sb.look());
            left.retain(|line| !(line.starts_with("+ cgroup") && line.ends_with(self.sb.cgroup())));
            left.is_empty()
        });
        assert!(clean, "{at}: the host changed:\n{}", left.join("\n"));
    }

    /// Kills process `whom` of the command at each of its calls in turn.
    #[track_caller]
    fn everywhere(&self, whom: usize, args: &[&str], prepare: impl Fn()) {
        let mut times = 0;
        for nth in (1..).step_by(step()) {
            assert!(nth < MAX_CALLS, "{args:?} does not end");
            prepare();
            let ended = kill_at(self.sb.traced(args), whom, nth);
            let Ended { killed, call, code } = ended;
            let at = format!("{args:?}: process {whom} killed at call {nth} ({call})");
            if whom == RUNTIME && killed {
                assert_eq!(code, 137, "{at}");
            }
            self.clean_up(&at);
            if !killed {
                assert_eq!(code, 0, "{args:?}: unhindered");
                break;
            }
            times += 1;
        }
        eprintln!("{args:?}: process {whom}: killed {times} times");
        assert!(
            times * step() > 5,
            "{args:?}: process {whom}: killed {times} times only"
        );
        // And all is as good as new.
        self.running();
        self.clean_up("afterwards");
    }

    fn pid_file(&self) -> String {
        let path = self.sb.path("io/pid");
        let _ = fs::remove_file(&path);
        path.to_str().unwrap().to_owned()
    }
}

fn user_namespace(c: &mut Value) {
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    c["linux"]["uidMappings"] = mapping.clone();
    c["linux"]["gidMappings"] = mapping;
    let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    c["linux"].as_object_mut().unwrap().remove("sysctl");
}

#[test]
fn the_runtime_in_create() {
    let scene = Scene::new(|_| {});
    let pid = scene.pid_file();
    let args = [
        "create",
        "--pid-file",
        &pid,
        "--bundle",
        scene.bundle.arg(),
        "c",
    ];
    scene.everywhere(RUNTIME, &args, || {});
}

#[test]
fn init_in_create() {
    let scene = Scene::new(|_| {});
    let args = ["create", "--bundle", scene.bundle.arg(), "c"];
    scene.everywhere(INIT, &args, || {});
}

#[test]
fn the_runtime_in_create_with_a_user_namespace() {
    let scene = Scene::new(user_namespace);
    let args = ["create", "--bundle", scene.bundle.arg(), "c"];
    scene.everywhere(RUNTIME, &args, || {});
}

#[test]
fn init_in_create_with_a_user_namespace() {
    let scene = Scene::new(user_namespace);
    let args = ["create", "--bundle", scene.bundle.arg(), "c"];
    scene.everywhere(INIT, &args, || {});
}

/// Where a user namespace is joined, a helper goes there and makes init.
fn in_a_joined_user_namespace(whom: usize) {
    let scene = Scene::new(user_namespace);
    let base = scene.sb.sleeper("base", user_namespace);
    let path = format!("/proc/{}/ns/user", base.pid);
    let bundle = scene.sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user", "path": path}));
        c["linux"].as_object_mut().unwrap().remove("sysctl");
    });
    let before = scene.sb.look();
    let scene = Scene {
        sb: scene.sb,
        bundle,
        before,
    };
    let args = ["create", "--bundle", scene.bundle.arg(), "c"];
    scene.everywhere(whom, &args, || {});
}

#[test]
fn the_helper_in_create_with_a_joined_user_namespace() {
    in_a_joined_user_namespace(1);
}

#[test]
fn init_in_create_with_a_joined_user_namespace() {
    in_a_joined_user_namespace(2);
}

#[test]
fn the_runtime_in_create_with_a_joined_user_namespace() {
    in_a_joined_user_namespace(RUNTIME);
}

/// A cgroup of the path that create will use, in each hierarchy that it is missing in, with a process
/// that is none of the container's. Nothing where it is missing nowhere.
fn stranger(path: &str) -> Option<Child> {
    let missing: Vec<PathBuf> = cgroup::hierarchies()
        .iter()
        // Its cgroups take no process before they have processors and memory.
        .filter(|hierarchy| !hierarchy.ends_with("cpuset"))
        .map(|hierarchy| hierarchy.join(path.trim_start_matches('/')))
        .filter(|dir| !dir.exists())
        .collect();
    if missing.is_empty() {
        return None;
    }
    let child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
    for dir in missing {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    Some(child)
}

#[track_caller]
fn spared(mut stranger: Child, path: &str, at: &str) {
    // A killed one is gone a moment later.
    std::thread::sleep(Duration::from_millis(2));
    let ended = stranger.try_wait().unwrap();
    assert_eq!(ended, None, "{at}: a process of somebody else was killed");
    assert!(cgroup::processes(path).contains(&stranger.id()), "{at}");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn create_in_a_cgroup_of_somebody_else() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let args = ["create", "--bundle", bundle.arg(), "c"];
    for nth in (1..MAX_CALLS).step_by(step()) {
        let other = stranger(&bundle.cgroup).unwrap();
        let Ended { killed, call, code } = kill_at(sb.traced(&args), RUNTIME, nth);
        let at = format!("killed at call {nth} ({call})");
        // Of a half-made container that may be an error.
        let _ = sb.rt(&["kill", "--all", "c", "KILL"]);
        sb.rt(&["delete", "--force", "c"]).ok();
        spared(other, &bundle.cgroup, &at);
        cgroup::remove(sb.cgroup());
        if !killed {
            assert_eq!(code, 1, "the cgroup is in use");
            return;
        }
    }
    panic!("create does not end");
}

/// Somebody makes the cgroup that a killed create has not come to.
#[test]
fn create_before_somebody_else() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let args = ["create", "--bundle", bundle.arg(), "c"];
    for nth in (1..MAX_CALLS).step_by(step()) {
        let Ended { killed, call, .. } = kill_at(sb.traced(&args), RUNTIME, nth);
        let other = stranger(&bundle.cgroup);
        sb.rt(&["delete", "--force", "c"]).ok();
        let Some(other) = other else {
            assert!(killed && nth > 20, "made in {nth} calls");
            return;
        };
        let at = format!("killed at call {nth} ({call})");
        spared(other, &bundle.cgroup, &at);
        cgroup::remove(sb.cgroup());
    }
    panic!("create makes no cgroup");
}

#[test]
fn the_runtime_in_run() {
    let scene = Scene::new(|_| {});
    let args = ["run", "--detach", "--bundle", scene.bundle.arg(), "c"];
    scene.everywhere(RUNTIME, &args, || {});
}

#[test]
fn init_in_run() {
    let scene = Scene::new(|_| {});
    let args = ["run", "--detach", "--bundle", scene.bundle.arg(), "c"];
    scene.everywhere(INIT, &args, || {});
}

#[test]
fn the_runtime_in_start() {
    let scene = Scene::new(|_| {});
    scene.everywhere(RUNTIME, &["start", "c"], || scene.create());
}

#[test]
fn the_runtime_in_delete() {
    let scene = Scene::new(|_| {});
    scene.everywhere(RUNTIME, &["delete", "c"], || {
        scene.create();
        scene.sb.rt(&["kill", "c", "KILL"]).ok();
        scene.sb.wait_status("c", "stopped");
    });
}

#[test]
fn the_runtime_in_a_forced_delete() {
    let scene = Scene::new(|_| {});
    scene.everywhere(RUNTIME, &["delete", "--force", "c"], || scene.create());
}

#[test]
fn the_runtime_in_exec() {
    let scene = Scene::new(|_| {});
    let args = ["exec", "--detach", "c", "/bin/sleep", "600"];
    scene.everywhere(RUNTIME, &args, || scene.running());
}

#[test]
fn the_new_process_in_exec() {
    let scene = Scene::new(|_| {});
    let args = ["exec", "--detach", "c", "/bin/sleep", "600"];
    scene.everywhere(INIT, &args, || scene.running());
}
