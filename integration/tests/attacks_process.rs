//! Attacks on processes: those that join a container, what they inherit, who they become.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use knarr_integration::attack::{self, ATTACKER, Canary};
use knarr_integration::socket::Receiver;
use knarr_integration::{
    Sandbox, Value, bundle, cgroup, fell, json, process, runtime, skip, unproven,
};

/// A container that looks into every process that comes near, with `edit`ed rights; runs `near`
/// again and again meanwhile; fails where something was got.
fn joined(
    edit: impl FnOnce(&mut Value),
    mut near: impl FnMut(&Sandbox, &knarr_integration::Container, u32),
) {
    let sb = Sandbox::new();
    let seconds = attack::duration().as_secs_f64() + 90.0;
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!([ATTACKER, "peek", seconds.to_string()]);
        edit(c);
    });
    attack::install(&bundle);
    let container = sb.started("watcher", &bundle);
    let looking = || container.created.stdout_now().contains("looking");
    if !process::eventually(attack::patience(), looking) {
        unproven!("the attacker does not run");
    }
    let met = || container.created.stdout_now().contains("met");
    attack::race_until(met, |round| near(&sb, &container, round));
    fs::write(bundle.rootfs().join("stop"), "").unwrap();
    sb.wait_status("watcher", "stopped");
    let said = container.created.stdout_now();
    if said.contains("got ") {
        fell!("the joining process was open to the container: {said}");
    }
    if !said.contains("tried ") || said.contains("tried 0") {
        unproven!("the attacker saw no process that joined: {said}");
    }
}

/// The attacker gets at a process whose program is not the container's and that nobody protects.
fn control() {
    let sb = Sandbox::new();
    let weak = attack::Victim::copy(&sb, Path::new(bundle::BUSYBOX));
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!([ATTACKER, "peek", "20"]);
        let mount = json!({"destination": "/v", "type": "bind", "options": ["bind", "rw"],
            "source": weak.path.parent().unwrap()});
        bundle::push(c, "/mounts", mount);
    });
    attack::install(&bundle);
    let container = sb.started("watcher", &bundle);
    let looking = || container.created.stdout_now().contains("looking");
    process::eventually(attack::patience(), looking);
    let _ = sb.rt(&["exec", "watcher", "/v/busybox", "sleep", "0.3"]);
    fs::write(bundle.rootfs().join("stop"), "").unwrap();
    sb.wait_status("watcher", "stopped");
    let said = container.created.stdout_now();
    // The attacker is under the filter too, where the tests run without some system calls.
    let without = std::env::var(knarr_integration::without::VARIABLE).unwrap_or_default();
    for what in ["exe", "mem", "ptrace", "pidfd_getfd"] {
        if what == "pidfd_getfd" && without.contains("pidfd") {
            continue;
        }
        if !said.contains(&format!("got {what}\n")) {
            unproven!("not even an unprotected process is open: {said}");
        }
    }
}

/// exec: another process of the container traces it, opens its memory, descriptors, root and program
/// Ids: CVE-2016-9962
#[test]
fn joining_process_by_exec() {
    control();
    joined(
        |_| {},
        |sb, _, _| {
            let command = sb.command(&["exec", "watcher", "/bin/true"]);
            let _ = attack::ends(sb.spawn(command), "exec");
        },
    );
}

/// exec into a user namespace in which the attacker has all capabilities
/// Ids: CVE-2016-9962
#[test]
fn joining_process_in_a_user_namespace() {
    joined(
        |c| {
            bundle::user_namespace(c);
            for set in ["bounding", "effective", "permitted"] {
                for capability in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"] {
                    let list = format!("/process/capabilities/{set}");
                    bundle::push(c, &list, json!(capability));
                }
            }
        },
        |sb, _, _| {
            let command = sb.command(&["exec", "watcher", "/bin/true"]);
            let _ = attack::ends(sb.spawn(command), "exec");
        },
    );
}

/// create: the init of a container that shares the attacker's pid namespace, with a seccomp listener to steal
/// Ids: CVE-2016-9962, CVE-2019-5736
#[test]
fn joining_process_by_create() {
    joined(
        |_| {},
        |sb, watcher, round| {
            let path = process::namespace_path(watcher.pid, "pid");
            let receiver = Receiver::bind(sb.path(&format!("listener{round}")));
            let bundle = sb.bundle(|c| {
                bundle::namespace(c, "pid")["path"] = json!(path);
                // The same programs, which the attacker knows as the container's.
                c["root"]["path"] = json!(watcher.bundle.rootfs());
                if round % 2 == 1 {
                    c["linux"]["seccomp"] = json!({
                        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": receiver.arg(),
                        "syscalls": [{"names": ["mkdirat", "mkdir"], "action": "SCMP_ACT_NOTIFY"}],
                    });
                }
            });
            let _ = attack::run(sb, &bundle, "create");
            let _ = fs::remove_dir_all(&bundle.dir);
        },
    );
}

/// Inheritable capabilities that nobody asked for, in run, exec and exec --cap
/// Ids: CVE-2022-29162, CVE-2022-27650, CVE-2022-24769, CVE-2025-27612
#[test]
fn inheritable_capabilities() {
    let sb = Sandbox::new();
    let container = sb.sleeper("caps", |_| {});
    let inheritable = process::status_field(container.pid, "CapInh");
    let none = "0".repeat(16);
    if inheritable != none {
        fell!("the init has inheritable capabilities: {inheritable}");
    }
    let file = sb.path("process.json");
    let rights = json!({"bounding": bundle::CAPABILITIES, "effective": bundle::CAPABILITIES,
        "permitted": bundle::CAPABILITIES});
    let process = json!({"args": ["/bin/grep", "Cap", "/proc/self/status"], "cwd": "/",
        "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"], "capabilities": rights});
    fs::write(&file, process.to_string()).unwrap();
    let grep = ["/bin/grep", "Cap", "/proc/self/status"];
    for options in [
        vec!["exec", "caps"],
        vec!["exec", "--cap", "CAP_SYS_NICE", "caps"],
        vec!["exec", "--user", "1000", "caps"],
        vec!["exec", "--user", "1000", "--cap", "CAP_NET_RAW", "caps"],
        vec!["exec", "--process", file.to_str().unwrap(), "caps"],
    ] {
        let mut args = options.clone();
        if !options.contains(&"--process") {
            args.extend(grep);
        }
        let out = sb.rt(&args);
        if out.code != 0 {
            unproven!("exec does not work: {out:#?}");
        }
        if !out.stdout.contains(&format!("CapInh:\t{none}")) {
            fell!("{options:?}: {}", out.stdout);
        }
    }
}

/// Who `exec --user` becomes for numbers that wrap, have a sign or a tail, and that are names in the image
/// Ids: CVE-2026-30892, no CVE
#[test]
fn exec_user_parsing() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let names = [
        "4294967296",
        "-1",
        "1000x",
        "1e3",
        "4294968296",
        "0x3e8",
        "18446744073709551616",
    ];
    let lines = |tail: &str| {
        names
            .iter()
            .fold(String::new(), |text, name| text + name + tail)
    };
    fs::write(
        bundle.rootfs().join("etc/passwd"),
        lines(":x:0:0::/:/bin/sh\n"),
    )
    .unwrap();
    fs::write(bundle.rootfs().join("etc/group"), lines(":x:0:\n")).unwrap();
    sb.started("users", &bundle);
    let ids = |args: &[&str]| {
        let mut all = vec!["exec"];
        all.extend(args);
        all.extend([
            "users",
            "/bin/sh",
            "-c",
            "grep -E '^(Uid|Gid|Groups)' /proc/self/status",
        ]);
        let out = attack::ends(sb.spawn(sb.command(&all)), &format!("{args:?}"));
        (out.code == 0).then_some(out.stdout)
    };
    match ids(&["--user", "1000:1001"]) {
        Some(text) if text.contains("Uid:\t1000\t") && text.contains("Gid:\t1001\t") => {}
        other => unproven!("an ordinary user: {other:?}"),
    }
    let mut wrong = Vec::new();
    for text in [
        "4294967296",
        "4294968296",
        "4294967295",
        "-1",
        "-2",
        "-4294967295",
        "+1000",
        " 1000",
        "1000 ",
        "1000x",
        "x1000",
        "1e3",
        "0x3e8",
        "1000\n0",
        "1000\n",
        "\n1000",
        "1000:",
        ":",
        ":0",
        ":1000",
        "1000:-1",
        "1000:4294967296",
        "1000:4294967295",
        "1000:x",
        "1000:0:0",
        "1000.0",
        "1000,0",
        "18446744073709551616",
        "18446744073709552616",
        "99999999999999999999999",
        "١٠٠٠",
        "1000\t",
        "2147483648:x",
    ] {
        if let Some(text_of) = ids(&["--user", text]) {
            wrong.push(format!("--user {text:?}: {}", text_of.replace('\n', " ")));
        }
    }
    for number in ["2147483648", "4294967294"] {
        match ids(&["--user", number]) {
            Some(text) if !text.contains(&format!("Uid:\t{number}\t")) => {
                wrong.push(format!("--user {number}: {}", text.replace('\n', " ")));
            }
            _ => {}
        }
    }
    for group in ["4294967296", "-1", "4294967295", "1000x", "1e3"] {
        if let Some(text) = ids(&["--user", "1000:1000", "--additional-gids", group]) {
            wrong.push(format!(
                "--additional-gids {group:?}: {}",
                text.replace('\n', " ")
            ));
        }
    }
    let file = sb.path("process.json");
    for number in ["4294967296", "-1", "4294967295", "1000.5", "1e40", "\"0\""] {
        let process = format!(
            "{{\"args\": [\"/bin/sh\", \"-c\", \"id -u\"], \"cwd\": \"/\", \"env\": [\"PATH=/bin\"],
              \"user\": {{\"uid\": {number}, \"gid\": 1000}}}}"
        );
        fs::write(&file, process).unwrap();
        let out = sb.rt(&["exec", "--process", file.to_str().unwrap(), "users"]);
        if out.code == 0 {
            wrong.push(format!("process.user.uid {number}: {}", out.text()));
        }
    }
    if !wrong.is_empty() {
        fell!("taken: {}", wrong.join("; "));
    }
}

/// exec --cgroup that leads into a neighbour whose name begins like the container's
/// Ids: no CVE
#[test]
fn exec_cgroup_of_a_neighbour() {
    let sb = Sandbox::new();
    let container = sb.sleeper("inside", |_| {});
    let own = container.bundle.cgroup.clone();
    let evil = format!("{own}evil");
    for hierarchy in cgroup::hierarchies() {
        let at = hierarchy.join(&evil[1..]);
        // A cpuset without processors takes nobody; children of the root's copy copy what it has.
        if fs::create_dir_all(&at).is_ok() {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                for dir in [at.parent().unwrap(), &at] {
                    let value =
                        fs::read_to_string(dir.parent().unwrap().join(file)).unwrap_or_default();
                    let _ = fs::write(dir.join(file), value);
                }
            }
        }
    }
    let name = own.rsplit('/').next().unwrap();
    let mut joined = 0;
    for path in [
        format!("../{name}evil"),
        format!("/../{name}evil"),
        format!("sub/../../{name}evil"),
        format!("./../{name}evil"),
        format!("..//{name}evil"),
        format!("pids:../{name}evil"),
        format!("memory:/../{name}evil"),
        "..".to_owned(),
        "../..".to_owned(),
        "/".to_owned(),
        "evil".to_owned(),
    ] {
        let pid_file = sb.path("pid");
        let _ = fs::remove_file(&pid_file);
        let args = [
            "exec",
            "--detach",
            "--cgroup",
            &path,
            "--pid-file",
            pid_file.to_str().unwrap(),
            "inside",
            "/bin/sleep",
            "60",
        ];
        let out = attack::ends(sb.spawn(sb.command(&args)), &path);
        let Ok(pid) = fs::read_to_string(&pid_file) else {
            continue;
        };
        let pid: u32 = pid.trim().parse().unwrap();
        let at = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        process::kill(pid, 9);
        if out.code != 0 {
            continue;
        }
        joined += 1;
        for line in at.lines() {
            let cgroup = line.splitn(3, ':').nth(2).unwrap();
            let inside = cgroup == own
                || cgroup
                    .strip_prefix(&own)
                    .is_some_and(|rest| rest.starts_with('/'));
            // Hierarchies that the container has no cgroup in do not count.
            if !inside && (cgroup.contains("evil") || cgroup == sb.cgroup()) {
                fell!("--cgroup {path}: the process is in {cgroup}");
            }
        }
    }
    let out = sb.rt(&["exec", "--cgroup", "/", "inside", "true"]);
    if joined == 0 && out.code != 0 {
        unproven!("not even its own cgroup is taken: {out:#?}");
    }
}

/// The runtime started by a shell that has directories of the host open beyond its standard streams
fn leaky(sb: &Sandbox, canary: &Canary, args: &[&str]) -> runtime::Running {
    let mut command = Command::new("/bin/bash");
    let opens = (3..12).fold(String::new(), |text, fd| {
        text + &format!("exec {fd}<\"$CANARY\"; ")
    });
    command
        .args(["-c", &format!("{opens} exec \"$@\""), "leaky"])
        .arg(runtime::path())
        .arg("--root")
        .arg(sb.root())
        .args(args)
        .env("CANARY", canary.dir())
        .env("KNARR_SANDBOX", sb.cgroup())
        .stdin(std::process::Stdio::null());
    sb.spawn(command)
}

/// Tells what a working directory shows of the host.
fn look(canary: &Canary) -> String {
    let up = "../".repeat(20);
    format!(
        "cat ./secret ../secret ../canary/secret ./{up}{dir}/secret {dir}/secret; echo x >./made; ls; true",
        dir = &canary.text()[1..]
    )
}

/// process.cwd, exec --cwd and images' working directories that go through descriptors of the runtime or its caller
/// Ids: CVE-2024-21626, no CVE
#[test]
fn working_directory_through_descriptors() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let mut paths: Vec<String> = (3..24).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    paths.extend((3..12).map(|fd| format!("/proc/self/fd/{fd}/../../..")));
    paths.extend((3..12).map(|fd| format!("/dev/fd/{fd}")));
    paths.extend(["/proc/self/cwd", "/proc/1/cwd", "/link"].map(str::to_owned));
    paths.extend((3..12).map(|fd| format!("/links/{fd}")));
    paths.push("/proc/thread-self/fd/7/sub".to_owned());
    let bundle = sb.sh_bundle(&look(&canary), |_| {});
    let links = bundle.rootfs().join("links");
    fs::create_dir(&links).unwrap();
    for fd in 3..12 {
        attack::link(format!("/proc/self/fd/{fd}"), &links.join(fd.to_string()));
    }
    attack::link("/proc/self/fd/8/sub", &bundle.rootfs().join("link"));
    attack::baseline(&attack::run(&sb, &bundle, "at rest"));
    for path in &paths {
        bundle.edit(|c| c["process"]["cwd"] = json!(path));
        let out = attack::ends(
            leaky(&sb, &canary, &["run", "--bundle", bundle.arg(), "runs"]),
            path,
        );
        canary.safe_from(&out, &format!("process.cwd {path}"));
        if sb.root().join("runs").exists() {
            let _ = sb.rt(&["delete", "--force", "runs"]);
        }
    }
    bundle.edit(|c| {
        c["process"]["cwd"] = json!("/");
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
    });
    sb.started("target", &bundle);
    for path in &paths {
        let args = [
            "exec",
            "--cwd",
            path,
            "target",
            "/bin/sh",
            "-c",
            &look(&canary),
        ];
        let out = attack::ends(leaky(&sb, &canary, &args), path);
        canary.safe_from(&out, &format!("exec --cwd {path}"));
    }
}

/// What the caller left open, and what the runtime itself has open, in run, exec and a hook in the container
/// Ids: CVE-2024-21626
#[test]
fn descriptors_of_the_caller() {
    let sb = Sandbox::new();
    let canary = Canary::new(&sb);
    let bundle = sb.bundle(|c| c["process"]["args"] = json!([ATTACKER, "descriptors"]));
    attack::install(&bundle);
    let check = |out: &knarr_integration::Outcome, how: &str| {
        if !out.stdout.contains("tried ") {
            unproven!("{how}: {out:#?}");
        }
        if out.stdout.contains("got fd") {
            fell!("{how}: {}", out.stdout);
        }
    };
    let run = ["run", "--bundle", bundle.arg(), "runs"];
    check(&attack::ends(leaky(&sb, &canary, &run), "run"), "run");
    // Descriptors that are asked for are no leak; the next ones are.
    let run = [
        "run",
        "--preserve-fds",
        "2",
        "--bundle",
        bundle.arg(),
        "runs",
    ];
    let out = attack::ends(leaky(&sb, &canary, &run), "run --preserve-fds");
    for line in out.stdout.lines().filter(|line| line.starts_with("got fd")) {
        if !["got fd 3 ", "got fd 4 "]
            .iter()
            .any(|own| line.starts_with(own))
        {
            fell!("--preserve-fds 2: {}", out.stdout);
        }
    }
    // More than there are: an error, or nothing of the runtime's own.
    let run = [
        "run",
        "--preserve-fds",
        "60",
        "--bundle",
        bundle.arg(),
        "runs",
    ];
    let out = attack::ends(leaky(&sb, &canary, &run), "run --preserve-fds");
    for line in out.stdout.lines().filter(|line| line.starts_with("got fd")) {
        if !line.ends_with("/canary") {
            fell!("--preserve-fds 60: {}", out.stdout);
        }
    }
    bundle.edit(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        let script = format!("{ATTACKER} descriptors >/hook 2>&1");
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        c["hooks"] = json!({"startContainer": hook});
    });
    let created = attack::ends(
        leaky(
            &sb,
            &canary,
            &["create", "--bundle", bundle.arg(), "target"],
        ),
        "create",
    );
    let started = attack::ends(leaky(&sb, &canary, &["start", "target"]), "start");
    if created.code != 0 || started.code != 0 {
        unproven!("{created:#?} {started:#?}");
    }
    let hook = fs::read_to_string(bundle.rootfs().join("hook")).unwrap_or_default();
    if hook.contains("got fd") {
        fell!("a hook in the container: {hook}");
    }
    let exec = ["exec", "target", ATTACKER, "descriptors"];
    check(&attack::ends(leaky(&sb, &canary, &exec), "exec"), "exec");
}

/// A process without a terminal of its own types into the caller's
/// Ids: no CVE
#[test]
fn callers_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!([ATTACKER, "terminal"]));
    attack::install(&bundle);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    assert!(master.as_raw_fd() > 2);
    if runtime::find(Path::new("setsid")).is_none() {
        skip!("no setsid(1)");
    }
    let with_terminal = |program: &[&str]| {
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .args(program)
            .env("KNARR_SANDBOX", sb.cgroup())
            .stdin(
                fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&name)
                    .unwrap(),
            );
        attack::ends(sb.spawn(command), "run with a terminal")
    };
    let out = with_terminal(&["--wait", attack::program().to_str().unwrap(), "terminal"]);
    if !out.stdout.contains("got terminal") {
        unproven!("there is no terminal to take: {out:#?}");
    }
    let root = sb.root();
    let base = [
        "--wait",
        runtime::path().to_str().unwrap(),
        "--root",
        root.to_str().unwrap(),
    ];
    let run = [&base[..], &["run", "--bundle", bundle.arg(), "runs"]].concat();
    let mut outs = vec![with_terminal(&run)];
    bundle.edit(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    sb.started("target", &bundle);
    let exec = [&base[..], &["exec", "target", ATTACKER, "terminal"]].concat();
    outs.push(with_terminal(&exec));
    for out in outs {
        if !out.stdout.contains("tried 1") {
            unproven!("{out:#?}");
        }
        if out.stdout.contains("got terminal") {
            fell!("the container has its caller's terminal: {}", out.command);
        }
    }
}
