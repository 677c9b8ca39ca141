//! conmon with the runtime under test, called the way CRI-O calls it.
//!
//! conmon makes the container, keeps its output in a log, and writes its exit code to a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use knarr_integration::{Bundle, Sandbox, Value, cgroup, json, peers, process, runtime, skip};

/// Long enough for an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

macro_rules! need_conmon {
    () => {
        if let Err(why) = peers::installed("conmon") {
            skip!("{why}");
        }
    };
}

/// What conmon said and wrote for one container or exec.
struct Monitored<'s> {
    sb: &'s Sandbox,
    id: String,
    dir: PathBuf,
}

/// Starts conmon for `id` in `bundle`, with further arguments; what it does not write yet comes later.
fn conmon<'s>(
    sb: &'s Sandbox,
    id: &str,
    name: &str,
    bundle: &Bundle,
    more: &[&str],
) -> Monitored<'s> {
    let dir = sb.path(name);
    for sub in ["exits", "sockets"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let mut args: Vec<String> = vec![
        "--cid".into(),
        id.into(),
        "--name".into(),
        name.into(),
        "--cuuid".into(),
        name.into(),
        "--runtime".into(),
        runtime::path().display().to_string(),
        "--runtime-arg".into(),
        format!("--root={}", sb.root().display()),
        "--bundle".into(),
        bundle.arg().into(),
        "--log-level".into(),
        "error".into(),
    ];
    for (flag, file) in [
        ("--container-pidfile", "pid"),
        ("--conmon-pidfile", "conmon.pid"),
        ("--log-path", "log"),
        ("--exit-dir", "exits"),
        ("--persist-dir", "exits"),
        ("--socket-dir-path", "sockets"),
    ] {
        args.extend([flag.into(), dir.join(file).display().to_string()]);
    }
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    // What conmon tells its caller comes on a descriptor that a variable names.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "sync=$1; shift; _OCI_SYNCPIPE=9 exec conmon \"$@\" 9>\"$sync\"",
            "sh",
        ])
        .arg(dir.join("sync"))
        .args(&args)
        .env("KNARR_SANDBOX", sb.cgroup())
        .stdin(std::process::Stdio::null());
    sb.spawn(command).wait().ok();
    Monitored {
        sb,
        id: id.to_owned(),
        dir,
    }
}

impl Monitored<'_> {
    /// The first line for conmon's caller.
    #[track_caller]
    fn told(&self) -> Value {
        let read = || fs::read_to_string(self.dir.join("sync")).unwrap_or_default();
        assert!(
            process::eventually(PATIENCE, || read().contains('\n')),
            "conmon said nothing: {}",
            self.log()
        );
        serde_json::from_str(read().lines().next().unwrap()).unwrap()
    }

    #[track_caller]
    fn start(&self) -> u64 {
        let told = self.told();
        let pid = told["pid"].as_i64().or(told["data"].as_i64()).unwrap_or(-1);
        assert!(pid > 0, "no container: {told}");
        let file = fs::read_to_string(self.dir.join("pid")).unwrap();
        assert_eq!(file.trim(), pid.to_string());
        self.sb.rt(&["start", &self.id]).ok();
        u64::try_from(pid).unwrap()
    }

    /// The exit code that conmon wrote, once it has.
    #[track_caller]
    fn exit_code(&self) -> String {
        let name = self.dir.file_name().unwrap();
        let files = [
            self.dir.join("exits").join(name),
            self.dir.join("exits").join(&self.id),
            self.dir.join("exits/exit"),
        ];
        let read = || {
            files.iter().find_map(|file| {
                fs::read_to_string(file)
                    .ok()
                    .filter(|text| !text.is_empty())
            })
        };
        assert!(
            process::eventually(PATIENCE, || read().is_some()),
            "no exit file; the log: {}",
            self.log()
        );
        read().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The log's lines with their streams, without times. A line that came in pieces (P, then F) is
    /// one.
    fn logged(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut begun = String::new();
        for entry in self.log().lines() {
            let mut parts = entry.splitn(4, ' ').skip(1);
            let (stream, kind) = (parts.next().unwrap(), parts.next().unwrap());
            begun += parts.next().unwrap_or("").trim_end();
            if kind == "F" {
                lines.push(format!("{stream} {begun}"));
                begun.clear();
            }
        }
        lines
    }
}

#[test]
fn output_and_exit_code_are_kept() {
    need_conmon!();
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("echo out; sleep 1; echo err >&2; exit 7", |_| {});
    let container = conmon(&sb, "plain", "plain", &bundle, &[]);
    container.start();
    assert_eq!(container.exit_code(), "7");
    assert_eq!(container.logged(), ["stdout out", "stderr err"]);
    assert_eq!(sb.status("plain"), "stopped");
    sb.rt(&["delete", "plain"]).ok();
}

#[test]
fn a_terminal_is_kept_too() {
    need_conmon!();
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("tty; echo err >&2; exit 3", |c| {
        c["process"]["terminal"] = json!(true);
    });
    let container = conmon(&sb, "tty", "tty", &bundle, &["--terminal"]);
    container.start();
    assert_eq!(container.exit_code(), "3");
    assert_eq!(container.logged(), ["stdout /dev/pts/0", "stdout err"]);
    sb.rt(&["delete", "tty"]).ok();
}

#[test]
fn what_failed_is_told() {
    need_conmon!();
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/nowhere"]));
    let log = sb.path("runtime.log");
    let log = format!("--log={}", log.display());
    let more = ["--runtime-arg", &log, "--runtime-arg", "--log-format=json"];
    let container = conmon(&sb, "failed", "failed", &bundle, &more);
    let told = container.told();
    assert!(
        told.to_string().contains("no such file or directory")
            || told.to_string().contains("No such file"),
        "{told}"
    );
    // Podman reads the whole file as one object.
    let text = fs::read_to_string(sb.path("runtime.log")).unwrap();
    let entry: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(entry["level"], "error");
}

#[test]
fn execs_are_monitored() {
    need_conmon!();
    let sb = Sandbox::new();
    let sleeper = sb.sleeper("target", |_| {});
    let spec = |terminal: bool, script: &str| {
        let process = json!({"terminal": terminal, "user": {"uid": 0, "gid": 0}, "cwd": "/",
            "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"]});
        let file = sb.path(if terminal { "tty.json" } else { "plain.json" });
        fs::write(&file, process.to_string()).unwrap();
        file
    };
    let run = |name: &str, file: &Path, more: &[&str]| {
        let mut args = vec!["--exec", "--exec-process-spec", file.to_str().unwrap()];
        args.extend(more);
        let exec = conmon(&sb, "target", name, &sleeper.bundle, &args);
        (exec.exit_code(), exec.logged())
    };
    let (code, log) = run("exec1", &spec(false, "echo out; exit 5"), &[]);
    assert_eq!((code.as_str(), log), ("5", vec!["stdout out".to_owned()]));
    let (code, log) = run("exec2", &spec(true, "tty; exit 6"), &["--terminal"]);
    assert_eq!(code, "6");
    assert!(log[0].starts_with("stdout /dev/pts/"), "{log:?}");
    sb.finish("target");
}

#[test]
fn a_container_out_of_memory_is_marked() {
    need_conmon!();
    if !cgroup::unified() {
        skip!("conmon sees that on cgroup v2 only, where v1 and v2 are mounted together");
    }
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 33_554_432});
    });
    // conmon may hear of the end before it hears of its reason: then it says nothing of that.
    let marked = (0..5).any(|round| {
        let id = format!("oom{round}");
        let container = conmon(&sb, &id, &id, &bundle, &[]);
        container.start();
        assert_eq!(container.exit_code(), "137");
        sb.rt(&["delete", &id]).ok();
        bundle.dir.join("oom").exists() || container.dir.join("exits/oom").exists()
    });
    assert!(marked);
}

#[test]
fn a_time_limit_ends_a_container() {
    need_conmon!();
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let container = conmon(&sb, "slow", "slow", &bundle, &["--timeout", "2"]);
    container.start();
    // 128 and the signal, or -1 for a time limit, as the version has it.
    let code = container.exit_code();
    assert!(["137", "-1"].contains(&code.as_str()), "{code}");
    sb.wait_status("slow", "stopped");
    sb.rt(&["delete", "slow"]).ok();
}
