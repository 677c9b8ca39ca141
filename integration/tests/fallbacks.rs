//! Kernels without newer system calls, and filters that hide them: everything works, and is as safe.
//!
//! A seccomp filter that the runtime inherits takes calls away, one alone and all together; then the
//! other files of tests run, among them the attacks. What the tests of one file cannot show without
//! a call is left out here, by name, with the reason; that each of these is an error that says so is
//! shown below.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use knarr_integration::without::{CALLS, VARIABLE};
use knarr_integration::{Sandbox, json, runtime};

/// The files of tests that show most of what a call is for, which run without it alone.
fn files(call: &str) -> &'static [&'static str] {
    match call {
        "openat2" => &["filesystem", "exec"],
        "clone3" => &["lifecycle", "namespaces"],
        "mount_setattr" => &["filesystem", "namespaces"],
        "open_tree" | "move_mount" | "fsopen" | "fsconfig" | "fsmount" | "fspick" => {
            &["filesystem"]
        }
        "pidfd_open" => &["lifecycle", "exec", "hooks"],
        "pidfd_send_signal" | "waitid_pidfd" => &["lifecycle", "exec"],
        "pidfd_getfd" => &["seccomp"],
        "close_range" => &["exec", "io"],
        _ => &["privileged"],
    }
}

/// Files that run without all calls together.
const FILES: &[&str] = &[
    "lifecycle",
    "exec",
    "filesystem",
    "hooks",
    "namespaces",
    "io",
    "process",
    "seccomp",
    "hostile",
    "attacks_rootfs",
    "attacks_process",
];

/// Tests that need a call: the call, the test, the reason.
const NEED: &[(&str, &str, &str)] = &[
    (
        "mount_setattr",
        "case_36_id_mapped_mounts",
        "ids are mapped by mount_setattr",
    ),
    (
        "open_tree",
        "case_36_id_mapped_mounts",
        "ids are mapped of detached mounts",
    ),
    (
        "move_mount",
        "case_36_id_mapped_mounts",
        "ids are mapped of detached mounts",
    ),
    (
        "pidfd_getfd",
        "case_62_listener_gets_one_process_state",
        "takes the listener",
    ),
    (
        "pidfd_getfd",
        "case_62_listener_failures",
        "takes the listener",
    ),
];

/// The executables of this package's tests, as cargo builds them.
fn executables() -> HashMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["test", "--locked", "--no-run", "--message-format=json"])
        .args(["-p", "knarr-integration"])
        .output()
        .expect("cargo");
    assert!(output.status.success(), "the tests cannot be built");
    let text = String::from_utf8(output.stdout).unwrap();
    let found = text.lines().filter_map(|line| {
        let message: knarr_integration::Value = serde_json::from_str(line).ok()?;
        if message["target"]["kind"] != json!(["test"]) {
            return None;
        }
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, message["executable"].as_str()?.into()))
    });
    found.collect()
}

/// Runs a file of tests without the calls of `list`; what fails is noted.
fn run(program: &Path, list: &str, failures: &Mutex<Vec<String>>) {
    let name = program.file_name().unwrap().to_string_lossy().into_owned();
    let mut command = Command::new(program);
    command
        .env(VARIABLE, list)
        .env("KNARR_BIN", runtime::path())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--test-threads", "2"]);
    for (call, test, reason) in NEED {
        if names(list).any(|name| name == *call) {
            eprintln!("without {call}: left out: {test}: {reason}");
            command.args(["--skip", test]);
        }
    }
    let output = command.output().unwrap();
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        let more = String::from_utf8_lossy(&output.stderr);
        failures
            .lock()
            .unwrap()
            .push(format!("{name} without {list}:\n{text}{more}"));
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|name| name.split('=').next().unwrap())
}

/// Whether the kernel and this harness are the real thing: another runtime is not asked.
fn is_knarr() -> bool {
    runtime::name() == "knarr"
}

#[test]
fn without_each_call_alone() {
    if !is_knarr() {
        knarr_integration::skip!("only knarr promises to do without newer calls");
    }
    let programs = executables();
    let failures = Mutex::default();
    for (call, _) in CALLS {
        for file in files(call) {
            run(&programs[*file], call, &failures);
        }
    }
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn without_all_calls_together() {
    if !is_knarr() {
        knarr_integration::skip!("only knarr promises to do without newer calls");
    }
    let programs = executables();
    let all: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
    let failures = Mutex::default();
    for file in FILES {
        match programs.get(*file) {
            Some(program) => run(program, &all.join(","), &failures),
            None => eprintln!("no file of tests {file}"),
        }
    }
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Filters of older container engines say that an unknown call is not permitted.
#[test]
fn where_unknown_calls_are_not_permitted() {
    if !is_knarr() {
        knarr_integration::skip!("only knarr promises to do without newer calls");
    }
    let programs = executables();
    let all: Vec<String> = CALLS
        .iter()
        .filter(|(name, _)| *name != "waitid_pidfd")
        .map(|(name, _)| format!("{name}=EPERM"))
        .collect();
    let failures = Mutex::default();
    for file in ["lifecycle", "exec", "filesystem", "namespaces"] {
        run(&programs[file], &all.join(","), &failures);
    }
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A call of the runtime without some system calls.
fn call(sb: &Sandbox, list: &str, args: &[&str]) -> knarr_integration::Outcome {
    sb.spawn(sb.without(list, args)).wait()
}

#[test]
fn what_cannot_be_done_says_so_and_leaves_nothing() {
    if !is_knarr() {
        knarr_integration::skip!("only knarr promises to do without newer calls");
    }
    let sb = Sandbox::new();
    fs::create_dir(sb.path("source")).unwrap();
    let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let mapped = sb.bundle(|c| {
        knarr_integration::bundle::push(
            c,
            "/mounts",
            json!({
                "destination": "/mapped", "source": sb.path("source"), "options": ["bind"],
                "uidMappings": mapping, "gidMappings": mapping,
            }),
        );
    });
    let listening = sb.bundle(|c| {
        c["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": sb.path("seccomp.sock"),
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    let before = sb.look();
    for (list, bundle, text) in [
        ("mount_setattr", &mapped, "id mappings need Linux 5.12"),
        ("open_tree", &mapped, "id mappings need Linux 5.12"),
        ("move_mount", &mapped, "id mapping: needs Linux 5.12"),
        ("pidfd_getfd", &listening, "needs pidfd_getfd(2)"),
    ] {
        call(&sb, list, &["create", "--bundle", bundle.arg(), "c"]).fails_with(text);
        sb.same_as(&before);
    }
}

/// An image may have files where a procfs would tell about descriptors, and mounts nothing there.
#[test]
fn an_image_does_not_tell_which_mount_a_file_is_in() {
    if !is_knarr() {
        knarr_integration::skip!("only knarr promises to do without newer calls");
    }
    let sb = Sandbox::new();
    let bundle = sb.sh_bundle("echo ran", |c| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/proc"));
        c["linux"]["maskedPaths"] = json!([]);
        c["linux"]["readonlyPaths"] = json!([]);
        c["linux"]["sysctl"] = json!({"kernel.shmmni": "100"});
    });
    let run = ["run", "--bundle", bundle.arg(), "c"];
    let without = "openat2,statx,mount_setattr";
    assert_eq!(call(&sb, without, &run).ok().stdout, "ran\n", "no /proc");
    let fake = bundle.rootfs().join("proc/self/fdinfo");
    fs::create_dir_all(&fake).unwrap();
    for number in 0..64 {
        fs::write(
            fake.join(number.to_string()),
            format!("mnt_id:\t{number}\n"),
        )
        .unwrap();
    }
    assert_eq!(call(&sb, without, &run).ok().stdout, "ran\n", "a false one");
}

/// What a container can see of how its mounts were made is the same.
#[test]
fn the_container_sees_the_same() {
    if !is_knarr() {
        knarr_integration::skip!("only knarr promises to do without newer calls");
    }
    let sb = Sandbox::new();
    let source = sb.path("source");
    fs::create_dir_all(source.join("below")).unwrap();
    let bundle = sb.sh_bundle(
        "cut -d' ' -f4-6 /proc/self/mountinfo; ls /proc/self/fd; cat /proc/self/limits; \
         grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; stat -c '%n %A %u %g %t,%T' /dev/*; umask; pwd; readlink /proc/self/ns/* | wc -l",
        |c| {
            for (at, options) in [
                ("/a", json!(["rbind", "ro", "nodev", "rslave"])),
                ("/b", json!(["bind", "rw", "nosuid", "noatime"])),
                ("/c", json!(["rbind", "rro", "private"])),
            ] {
                knarr_integration::bundle::push(c, "/mounts", json!({
                    "destination": at, "source": source, "options": options,
                }));
            }
            knarr_integration::bundle::push(c, "/mounts", json!({
                "destination": "/t", "type": "tmpfs", "source": "tmpfs",
                "options": ["ro", "nosuid", "noexec", "size=64k", "mode=1770"],
            }));
            knarr_integration::bundle::push(c, "/mounts", json!({
                "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["ro", "nosuid", "nodev", "noexec"],
            }));
            c["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/acpi", "/sys/firmware", "/b"]);
            c["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/bus"]);
        },
    );
    let run = ["run", "--bundle", bundle.arg(), "c"];
    // A call that nobody makes: this filter shows in the container, too.
    let plain = call(&sb, "statmount", &run).ok().stdout;
    let clean = |text: &str| text.replace(sb.dir().to_str().unwrap(), "DIR");
    let groups = [
        "openat2",
        "clone3",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsmount",
        "mount_setattr",
        "open_tree,move_mount,fsopen,fsconfig,fsmount,fspick,mount_setattr,statx",
        "pidfd_open,pidfd_send_signal,pidfd_getfd,waitid_pidfd,close_range",
    ];
    for list in groups {
        let seen = call(&sb, list, &run).ok().stdout;
        assert_eq!(clean(&seen), clean(&plain), "without {list}");
    }
}
