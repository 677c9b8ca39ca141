//! Runs one configuration under one runtime and gives everything there is to see as one JSON object.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use knarr_integration::socket::Receiver;
use knarr_integration::{Value, cgroup, json, process};
use serde_json::Map;

use crate::Runtime;
use crate::configs::{Case, Drive};
use crate::look;
use crate::place::Place;

/// A runtime that takes longer hangs; so does a probe that has not reported by then. Long, for emulated machines.
const LIMIT: Duration = Duration::from_secs(60);

/// The container's id, the same everywhere.
const ID: &str = "differ";

/// What the container's process is told to do: report, then stay.
const OPERATIONS: &[&str] = &["probe", "see", "sleep:600000"];

/// One call of the runtime.
struct Call {
    code: Option<i32>,
    stdout: String,
    quiet: bool,
    stderr: String,
}

impl Call {
    fn ok(&self) -> bool {
        self.code == Some(0)
    }

    fn seen(&self) -> Value {
        match self.code {
            Some(code) => json!({ "code": code, "quiet": self.quiet }),
            None => "hangs".into(),
        }
    }
}

/// See the module. `message` gets what the runtime said where it refused.
pub fn run(case: &Case, runtime: &Runtime, place: &Place, message: &mut String) -> Value {
    let mut config = case.config(place);
    if let Some(version) = runtime.version_wanted()
        && config["ociVersion"] == "1.3.0"
    {
        config["ociVersion"] = json!(version);
    }
    let operations: &[&str] = match case.drive {
        Drive::Whole { .. } => OPERATIONS,
        Drive::Run(operation) => &["probe", operation],
    };
    let probes = config.pointer("/process/args/0").and_then(Value::as_str);
    if probes.is_some_and(|program| program.ends_with("probe")) {
        let args = config["process"]["args"].as_array_mut().unwrap();
        args.extend(operations.iter().map(|o| json!(o)));
    }
    fs::write(place.path("config.json"), config.to_string()).unwrap();
    let drive = Driver {
        runtime,
        place,
        config: &config,
    };
    let mut seen = Map::new();
    let before = look::rootfs(place);
    match case.drive {
        Drive::Whole { exec } => drive.whole(exec, &mut seen, message),
        Drive::Run(_) => {
            let call = drive.call("run", &["--bundle", drive.bundle(), ID]);
            seen.insert("run".to_owned(), call.seen());
        }
    }
    // Whatever happened: nothing of this run may stay for the next.
    let call = drive.call("delete", &["--force", ID]);
    seen.insert("delete --force".to_owned(), call.seen());
    seen.insert("left".to_owned(), look::left(place, &before));
    cgroup::remove(&place.cgroup);
    let text = Value::Object(seen).to_string();
    let dir = place.dir.to_str().unwrap();
    let text = text.replace(dir, "@DIR").replace(&place.cgroup, "@CGROUP");
    serde_json::from_str(&text).unwrap()
}

struct Driver<'a> {
    runtime: &'a Runtime,
    place: &'a Place,
    config: &'a Value,
}

impl Driver<'_> {
    fn bundle(&self) -> &str {
        self.place.dir.to_str().unwrap()
    }

    fn command(&self, command: &str, args: &[&str]) -> Command {
        // With a umask that is not the usual one.
        let mut call = Command::new("/bin/sh");
        call.args(["-c", "umask 027; exec \"$@\"", "sh"]);
        call.arg(&self.runtime.path);
        call.arg("--root").arg(self.place.path("state"));
        call.arg(command).args(args);
        // The least of environments: what a runtime hands on shows.
        call.env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CALLER", "differ");
        call
    }

    /// Calls the runtime, with its output in files: a pipe would stay open as long as the container.
    fn call(&self, command: &str, args: &[&str]) -> Call {
        let out = self.place.path(&format!("{command}.out"));
        let err = self.place.path(&format!("{command}.err"));
        let mut call = self.command(command, args);
        call.stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .stdin(self.null());
        let mut child = call.spawn().unwrap();
        let ended = process::ended_within(child.id(), LIMIT);
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let stderr = read(&err);
        Call {
            code: ended.then(|| {
                use std::os::unix::process::ExitStatusExt;
                status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
            }),
            stdout: read(&out),
            quiet: stderr.trim().is_empty(),
            stderr,
        }
    }

    /// A null device of this place's own: some runtimes change its owner.
    fn null(&self) -> File {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let path = self.place.path("null");
        let mode = Mode::from_raw_mode(0o666);
        let _ = mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(1, 3));
        File::options().read(true).write(true).open(path).unwrap()
    }

    /// The whole life of a container.
    fn whole(&self, exec: &[&str], seen: &mut Map<String, Value>, message: &mut String) {
        let terminal = self.config.pointer("/process/terminal") == Some(&json!(true));
        let pid_file = self.place.path("pid");
        let pid_file = pid_file.to_str().unwrap();
        let mut args = vec!["--bundle", self.bundle(), "--pid-file", pid_file];
        let socket = terminal.then(|| Receiver::bind(self.place.path("console")));
        if let Some(socket) = &socket {
            args.extend(["--console-socket", socket.arg()]);
        }
        args.push(ID);
        let created = self.call("create", &args);
        if !created.ok() {
            *message = created.stderr.trim().to_owned();
            seen.insert("accepted".to_owned(), "not by create".into());
            seen.insert("create".to_owned(), created.seen());
            return;
        }
        let console = socket.map(|socket| socket.descriptor().0);
        seen.insert("create".to_owned(), created.seen());
        let init = self.pid();
        seen.insert("state created".to_owned(), self.state(init));
        let started = self.call("start", &[ID]);
        if !started.ok() {
            *message = started.stderr.trim().to_owned();
            seen.insert("accepted".to_owned(), "not by start".into());
            seen.insert("start".to_owned(), started.seen());
            return;
        }
        seen.insert("accepted".to_owned(), "yes".into());
        seen.insert("start".to_owned(), started.seen());
        let report = self.report(init, console);
        seen.insert("state running".to_owned(), self.state(init));
        let around = look::Around::of(self.place, init);
        let lively = report.is_some();
        seen.insert(
            "init".to_owned(),
            report.map_or("no report".into(), |r| look::normal(&r, &around)),
        );
        seen.insert("cgroup".to_owned(), look::cgroups(self.place));
        seen.insert("outside".to_owned(), look::outside(init));
        if lively {
            seen.insert("exec".to_owned(), self.exec(exec, &around, message));
        }
        seen.insert("kill".to_owned(), self.call("kill", &[ID, "KILL"]).seen());
        process::eventually(LIMIT, || !process::alive(init));
        seen.insert("state stopped".to_owned(), self.state(init));
        seen.insert(
            "kill again".to_owned(),
            self.call("kill", &[ID, "KILL"]).seen(),
        );
        seen.insert("delete".to_owned(), self.call("delete", &[ID]).seen());
        seen.insert("state after".to_owned(), self.call("state", &[ID]).seen());
        seen.insert("hooks".to_owned(), look::hooks(self.place, &around));
    }

    fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.place.path("pid")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn state(&self, init: u32) -> Value {
        let call = self.call("state", &[ID]);
        match serde_json::from_str(&call.stdout) {
            Ok(state) if call.ok() => look::state(state, init),
            _ => call.seen(),
        }
    }

    /// Waits for the line with the probe's report: in the output of create, or from the terminal.
    fn report(&self, init: u32, console: Option<OwnedFd>) -> Option<Value> {
        let mut console = console.map(|fd| {
            rustix::io::ioctl_fionbio(&fd, true).unwrap();
            File::from(fd)
        });
        let file = self.place.path("create.out");
        let mut text = Vec::new();
        let end = Instant::now() + LIMIT;
        loop {
            let alive = process::alive(init);
            match &mut console {
                Some(console) => {
                    let mut data = [0; 1 << 14];
                    while let Ok(size @ 1..) = console.read(&mut data) {
                        text.extend_from_slice(&data[..size]);
                    }
                }
                None => text = fs::read(&file).unwrap_or_default(),
            }
            if text.contains(&b'\n') {
                break;
            }
            if !alive || Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        // The terminal lives as long as the container: closed now, it would end it with SIGHUP.
        std::mem::forget(console);
        reported(&String::from_utf8_lossy(&text))
    }

    fn exec(&self, flags: &[&str], around: &look::Around<'_>, message: &mut String) -> Value {
        let file = self.place.path("process.json");
        let mut process = self.config["process"].clone();
        process["terminal"] = json!(false);
        let args = process["args"].as_array_mut().unwrap();
        args.truncate(1);
        args.extend(["probe", "see", "exit:7"].map(|o| json!(o)));
        fs::write(&file, process.to_string()).unwrap();
        let call = if flags.is_empty() {
            self.call("exec", &["--process", file.to_str().unwrap(), ID])
        } else {
            let flags = flags.iter().filter(|flag| **flag != "--");
            let rest = [ID, "/probe", "probe", "see", "exit:7"];
            self.call("exec", &flags.copied().chain(rest).collect::<Vec<_>>())
        };
        let mut seen = match reported(&call.stdout) {
            Some(report) => look::normal(&report, around),
            None => json!({}),
        };
        seen["call"] = call.seen();
        message.push_str(&call.stderr);
        seen
    }
}

/// The report in the probe's first line.
fn reported(text: &str) -> Option<Value> {
    let line = text.lines().next()?;
    let mut value: Value = serde_json::from_str(line).ok()?;
    Some(value["result"]["ok"].take())
}
