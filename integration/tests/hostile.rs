//! Bad input: configurations, state files, bundles, interruptions. One clear error, nothing left, and
//! the next command works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use knarr_integration::{Sandbox, json, process};

#[test]
fn case_67_unknown_properties_are_ignored_and_wrong_values_are_not() {
    let sb = Sandbox::new();
    sb.sh("true", |c| {
        c["org.example.unknown"] = json!({"a": [1, 2]});
        c["process"]["unknown"] = json!(null);
        c["linux"]["unknown"] = json!([[]]);
        c["linux"]["resources"]["unknown"] = json!("x");
        c["windows"] = json!({"layerFolders": []});
    })
    .ok();
    let before = sb.look();
    for (pointer, value) in [
        ("/process/terminal", json!("yes")),
        ("/process/args", json!("true")),
        ("/process/args", json!([1])),
        ("/process/env", json!({"A": "b"})),
        ("/process/user", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/process/user/uid", json!(4_294_967_296_u64)),
        ("/process/cwd", json!(5)),
        ("/root", json!([])),
        ("/root/readonly", json!("false")),
        ("/mounts", json!({})),
        ("/mounts/0/destination", json!(7)),
        ("/hostname", json!(["a"])),
        ("/linux/namespaces", json!({})),
        ("/linux/maskedPaths", json!("/proc")),
        ("/hooks", json!({"prestart": {}})),
        ("/hooks", json!([])),
        ("/annotations", json!([])),
    ] {
        let bundle = sb.bundle(|c| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = c.pointer_mut(parent).unwrap();
            match key.parse::<usize>() {
                Ok(index) if parent.is_array() => parent[index] = value.clone(),
                _ => parent[key] = value.clone(),
            }
        });
        let out = sb.create("wrong", &bundle);
        assert_eq!(out.code, 1, "{pointer} as {value}: {out:?}");
        sb.same_as(&before);
    }
}

#[test]
fn case_68_version_is_semver_of_major_one() {
    let sb = Sandbox::new();
    let before = sb.look();
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0"] {
        sb.sh("true", |c| c["ociVersion"] = json!(version)).ok();
    }
    for version in [
        "", "1", "1.0", "v1.0.0", "one", "2.0.0", "01.0.0", "1.0.0.0",
    ] {
        let bundle = sb.bundle(|c| c["ociVersion"] = json!(version));
        sb.create("version", &bundle).fails_with("version");
        sb.same_as(&before);
    }
    let bundle = sb.bundle(|c| {
        c.as_object_mut().unwrap().remove("ociVersion");
    });
    sb.create("version", &bundle).fails_with("version");
    sb.same_as(&before);
}

#[test]
fn case_69_integers_that_overflow_error() {
    let sb = Sandbox::new();
    let before = sb.look();
    for (path, number) in [
        (
            "/linux/resources/memory",
            "{\"limit\": 9223372036854775808}",
        ),
        (
            "/linux/resources/memory",
            "{\"limit\": -9223372036854775809}",
        ),
        ("/linux/resources/memory", "{\"limit\": 1e400}"),
        ("/linux/resources/cpu", "{\"shares\": 18446744073709551616}"),
        ("/linux/resources/pids", "{\"limit\": 99999999999999999999}"),
        ("/process/oomScoreAdj", "2147483648"),
        (
            "/process/rlimits",
            "[{\"type\": \"RLIMIT_CORE\", \"soft\": 18446744073709551616, \"hard\": 18446744073709551616}]",
        ),
    ] {
        let bundle = sb.bundle(|c| {
            let (parent, key) = path.rsplit_once('/').unwrap();
            c.pointer_mut(parent).unwrap()[key] = json!("@@");
        });
        let text = fs::read_to_string(bundle.dir.join("config.json")).unwrap();
        bundle.raw_config(text.replace("\"@@\"", number).as_bytes());
        sb.create("big", &bundle).fails();
        sb.same_as(&before);
    }
    // RLIM_INFINITY is a u64 that fits neither i64 nor, exactly, f64.
    let out = sb.sh("grep 'core file' /proc/self/limits", |c| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 9_007_199_254_740_993_u64, "hard": u64::MAX}]);
    });
    if out.code == 0 {
        assert!(
            out.stdout.contains("9007199254740993") && out.stdout.contains("unlimited"),
            "{out:?}"
        );
    }
}

#[test]
fn case_70_annotations() {
    let sb = Sandbox::new();
    sb.sh("true", |c| {
        c["annotations"] = json!({"org.example.a": "", "x": "y"})
    })
    .ok();
    let before = sb.look();
    for annotations in [
        json!({"": "x"}),
        json!({"a": 1}),
        json!({"a": null}),
        json!({"a": {"b": "c"}}),
    ] {
        let bundle = sb.bundle(|c| c["annotations"] = annotations.clone());
        assert_ne!(sb.create("ann", &bundle).code, 0, "{annotations} was taken");
        sb.same_as(&before);
    }
}

#[test]
fn texts_that_are_no_configuration() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let good = fs::read(bundle.dir.join("config.json")).unwrap();
    let mut texts: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" ".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"text\"".to_vec(),
        b"{".to_vec(),
        b"{}".to_vec(),
        b"{\"ociVersion\": \"1.0.0\"".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"{\"ociVersion\": \"\xff\"}".to_vec(),
        vec![0; 4096],
        [b"[".repeat(100_000), b"]".repeat(100_000)].concat(),
        [
            b"{\"a\":".repeat(100_000),
            b"1".to_vec(),
            b"}".repeat(100_000),
        ]
        .concat(),
        [good.clone(), b"trailing".to_vec()].concat(),
    ];
    for part in 1..8 {
        texts.push(good[..good.len() * part / 8].to_vec());
    }
    let before = sb.look();
    for text in texts {
        bundle.raw_config(&text);
        let begin = Instant::now();
        sb.create("text", &bundle).fails();
        assert!(begin.elapsed() < Duration::from_secs(20));
        sb.same_as(&before);
    }
    bundle.raw_config(&good);
    sb.create("text", &bundle).ok();
}

#[test]
fn strings_with_a_nul_byte_error() {
    let sb = Sandbox::new();
    let before = sb.look();
    for (path, value) in [
        ("/process/args", json!(["/bin/true\u{0}x"])),
        ("/process/env", json!(["A=\u{0}"])),
        ("/process/cwd", json!("/\u{0}")),
        ("/hostname", json!("a\u{0}b")),
        ("/root/path", json!("rootfs\u{0}")),
        ("/linux/cgroupsPath", json!("/a\u{0}b")),
    ] {
        let bundle = sb.bundle(|c| *c.pointer_mut(path).unwrap() = value.clone());
        sb.create("nul", &bundle).fails();
        sb.same_as(&before);
    }
}

#[test]
fn oversized_configuration_is_refused_without_reading_it_all() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let file = fs::OpenOptions::new()
        .write(true)
        .open(bundle.dir.join("config.json"))
        .unwrap();
    file.set_len(1 << 40).unwrap();
    let before = sb.look();
    let begin = Instant::now();
    sb.create("huge", &bundle).fails();
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    sb.same_as(&before);
}

#[test]
fn configuration_that_is_no_file() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let path = bundle.dir.join("config.json");
    let before = sb.look();
    fs::remove_file(&path).unwrap();
    sb.create("none", &bundle).fails_with("config.json");
    fs::create_dir(&path).unwrap();
    sb.create("dir", &bundle).fails_with("config.json");
    fs::remove_dir(&path).unwrap();
    symlink("config.json", &path).unwrap();
    sb.create("loop", &bundle).fails_with("config.json");
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let begin = Instant::now();
    sb.create("fifo", &bundle).fails();
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "a fifo must not block"
    );
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    sb.create("zero", &bundle).fails();
    sb.same_as(&before);
    sb.rt(&["create", "--bundle", "/nonexistent", "b"]).fails();
    sb.rt(&["create", "--bundle", "/etc/passwd", "b"]).fails();
    sb.same_as(&before);
}

#[test]
fn damaged_state_is_reported_and_force_removes_it() {
    let sb = Sandbox::new();
    for damage in [
        b"".as_slice(),
        b"{",
        b"null",
        b"[]",
        b"{\"id\": 5}",
        &[0xff; 100],
        &[b'['; 100_000],
    ] {
        let before = sb.look();
        let c = sb.sleeper("hurt", |_| {});
        let dir = sb.root().join("hurt");
        let state = fs::read_dir(&dir)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.is_file() && fs::read(path).is_ok_and(|text| text.starts_with(b"{")));
        let Some(state) = state else {
            knarr_integration::skip!("this runtime keeps no JSON state");
        };
        fs::write(&state, damage).unwrap();
        for args in [
            &["state", "hurt"][..],
            &["kill", "hurt", "TERM"],
            &["start", "hurt"],
            &["delete", "hurt"],
            &["pause", "hurt"],
        ] {
            sb.rt(args).fails();
        }
        sb.rt(&["exec", "hurt", "true"]).exits(255);
        let listed = sb.rt(&["list"]).ok();
        assert!(listed.stderr.contains("hurt"), "{listed:?}");
        let _ = sb.rt(&["delete", "--force", "hurt"]);
        // Whatever the state said: the id is free, and the init is not left running unseen.
        if !process::eventually(Duration::from_secs(1), || !process::alive(c.pid)) {
            process::kill(c.pid, 9);
        }
        knarr_integration::cgroup::remove(sb.cgroup());
        assert!(!dir.exists(), "the id is still taken");
        sb.same_as(&before);
    }
}

#[test]
fn strange_things_in_the_state_root() {
    let sb = Sandbox::new();
    sb.sleeper("real", |_| {});
    fs::write(sb.root().join("a-file"), "x").unwrap();
    fs::create_dir(sb.root().join("empty-dir")).unwrap();
    symlink("/etc", sb.root().join("link")).unwrap();
    symlink("real", sb.root().join("alias")).unwrap();
    assert!(sb.rt(&["list", "-q"]).ok().stdout.contains("real\n"));
    for id in ["a-file", "empty-dir", "link"] {
        sb.rt(&["state", id]).fails();
        let _ = sb.rt(&["delete", "--force", id]);
    }
    assert!(
        fs::metadata("/etc/passwd").is_ok(),
        "delete followed a link"
    );
    let _ = fs::remove_file(sb.root().join("alias"));
    let _ = fs::remove_file(sb.root().join("a-file"));
    assert_eq!(sb.status("real"), "running");
}

#[test]
fn state_root_that_cannot_be() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let id = format!("knarr-it-{}", std::process::id());
    for root in ["/", "/proc/knarr-root", "/etc/passwd", "/etc/passwd/x"] {
        let mut command = knarr_integration::runtime::call(knarr_integration::runtime::path());
        command.args(["--root", root, "create", "--bundle", bundle.arg(), &id]);
        sb.spawn(command).wait().fails();
    }
    assert!(!std::path::Path::new("/").join(id).exists());
}

#[test]
fn full_disk_leaves_nothing() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    fs::create_dir(sb.root()).unwrap();
    // A state root with room for directories and no data.
    rustix::mount::mount(
        "tmpfs",
        sb.root(),
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        Some(c"size=4k,nr_inodes=20"),
    )
    .unwrap();
    let filler = sb.root().join("filler");
    fs::write(&filler, vec![0; 4096]).unwrap();
    let before = sb.look();
    sb.create("full", &bundle).fails();
    sb.same_as(&before);
    fs::remove_file(filler).unwrap();
    rustix::mount::unmount(sb.root(), rustix::mount::UnmountFlags::DETACH).unwrap();
    sb.create("full", &bundle).ok();
}

#[test]
fn killed_create_leaves_nothing_after_force() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "600"]);
        c["linux"]["resources"]["pids"] = json!({"limit": 20});
    });
    let before = sb.look();
    // How long a whole one takes, so that the moments are spread over it.
    let begin = Instant::now();
    sb.create("whole", &bundle).ok();
    let whole = begin.elapsed();
    sb.finish("whole");
    let rounds = 40_u32;
    for round in 0..rounds {
        let mut running = sb.spawn(sb.command(&["create", "--bundle", bundle.arg(), "cut"]));
        std::thread::sleep(whole * round / rounds);
        running.kill();
        let _ = running.wait();
        sb.rt(&["delete", "--force", "cut"]).ok();
        sb.same_as(&before);
    }
    sb.create("cut", &bundle).ok();
}

#[test]
fn killed_start_and_delete_can_be_repeated() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let before = sb.look();
    for round in 0..20 {
        sb.create("cut", &bundle).ok();
        let mut running = sb.spawn(sb.command(&["start", "cut"]));
        std::thread::sleep(Duration::from_micros(150 * round));
        running.kill();
        let _ = running.wait();
        assert!(["created", "running"].contains(&sb.status("cut").as_str()));
        let mut running = sb.spawn(sb.command(&["delete", "--force", "cut"]));
        std::thread::sleep(Duration::from_micros(300 * round));
        running.kill();
        let _ = running.wait();
        sb.rt(&["delete", "--force", "cut"]).ok();
        sb.same_as(&before);
    }
}

#[test]
fn killed_exec_leaves_the_container_whole() {
    let sb = Sandbox::new();
    let c = sb.sleeper("cut", |_| {});
    for round in 0..15 {
        let mut running = sb.spawn(sb.command(&["exec", "cut", "true"]));
        std::thread::sleep(Duration::from_micros(300 * round));
        running.kill();
        let _ = running.wait();
    }
    assert_eq!(sb.status("cut"), "running");
    sb.rt(&["exec", "cut", "true"]).ok();
    assert!(
        process::eventually(
            Duration::from_secs(5),
            || knarr_integration::cgroup::processes(&c.bundle.cgroup) == [c.pid]
        ),
        "half-made processes stay in the container: {:?}",
        knarr_integration::cgroup::processes(&c.bundle.cgroup)
    );
}

#[test]
fn unreadable_program_and_directories() {
    let sb = Sandbox::new();
    let before = sb.look();
    let bundle = sb.bundle(|c| {
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        c["process"]["capabilities"] = json!({});
        c["process"]["args"] = json!(["/secret/program"]);
    });
    let secret = bundle.rootfs().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::copy("/bin/true", secret.join("program")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    sb.create("secret", &bundle).fails_with("permission denied");
    sb.same_as(&before);
}

#[test]
fn huge_but_legal_configurations_work() {
    let sb = Sandbox::new();
    sb.sh("true", |c| {
        for i in 0..500 {
            knarr_integration::bundle::push(
                c,
                "/linux/maskedPaths",
                json!(format!("/not/there/{i}")),
            );
            knarr_integration::bundle::push(
                c,
                "/process/env",
                json!(format!("V{i}={}", "x".repeat(100))),
            );
        }
        c["annotations"] = json!({"org.example.big": "y".repeat(300_000)});
    })
    .ok();
}

/// Replaces a file of the container's state directory.
fn plant(sb: &Sandbox, id: &str, name: &str, text: &[u8]) {
    fs::write(sb.root().join(id).join(name), text).unwrap();
}

fn record(sb: &Sandbox, id: &str) -> knarr_integration::Value {
    let text = fs::read(sb.root().join(id).join("state.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn forced_delete_of_a_damaged_record_takes_the_container_along() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let before = sb.look();
    for damage in [
        b"".to_vec(),
        b"{\"version\": 4000000000}".to_vec(),
        vec![b' '; 33 << 20],
        [b"{\"a\":".repeat(100_000), b"1".to_vec()].concat(),
    ] {
        let c = sb.started("hurt", &bundle);
        plant(&sb, "hurt", "state.json", &damage);
        sb.rt(&["state", "hurt"]).fails();
        sb.rt(&["delete", "hurt"]).fails();
        sb.rt(&["delete", "--force", "hurt"]).ok();
        assert!(!process::alive(c.pid), "its process runs on unseen");
        let left = knarr_integration::cgroup::tree(&c.bundle.cgroup);
        assert!(left.is_empty(), "left: {left:?}");
        sb.same_as(&before);
        // What was above the container's cgroup may be others'.
        knarr_integration::cgroup::remove(sb.cgroup());
    }
    // Not even a file, or one that cannot be opened.
    for directory in [true, false] {
        sb.started("hurt", &bundle);
        let path = sb.root().join("hurt/state.json");
        fs::remove_file(&path).unwrap();
        if directory {
            fs::create_dir(&path).unwrap();
        } else {
            symlink("state.json", &path).unwrap();
        }
        sb.rt(&["state", "hurt"]).fails();
        sb.rt(&["delete", "--force", "hurt"]).ok();
        sb.same_as(&before);
    }
}

#[test]
fn a_damaged_copy_of_the_configuration_is_no_obstacle_to_delete() {
    let sb = Sandbox::new();
    let before = sb.look();
    let marker = sb.path("poststop-ran");
    for damage in [None, Some(b"".as_slice()), Some(&[b'['; 100_000])] {
        sb.sleeper("copy", |c| {
            let hook = json!([{"path": "/bin/touch", "args": ["touch", marker]}]);
            c["hooks"] = json!({"poststop": hook});
        });
        match damage {
            Some(text) => plant(&sb, "copy", "config.json", text),
            None => fs::remove_file(sb.root().join("copy/config.json")).unwrap(),
        }
        sb.rt(&["exec", "copy", "true"]).exits(255);
        assert_eq!(sb.status("copy"), "running");
        let out = sb.rt(&["delete", "--force", "copy"]).ok();
        assert!(out.stderr.contains("poststop"), "a warning: {out:?}");
        assert!(!marker.exists());
        sb.same_as(&before);
    }
}

#[test]
fn a_pid_that_another_process_has_now_is_stopped_and_left_alone() {
    let sb = Sandbox::new();
    let before = sb.look();
    let c = sb.sleeper("stale", |_| {});
    // The kernel counts start times in ticks of 10 ms: the other process must not share init's,
    // which one that gets a used pid again cannot.
    std::thread::sleep(Duration::from_millis(50));
    let mut other = std::process::Command::new("/bin/sleep")
        .arg("60")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let whole = record(&sb, "stale");
    for pid in [
        json!(other.id()),
        json!(1),
        json!(i32::MAX),
        json!(-1),
        json!(0),
    ] {
        let mut forged = whole.clone();
        forged["pid"] = pid.clone();
        plant(&sb, "stale", "state.json", forged.to_string().as_bytes());
        assert_eq!(sb.status("stale"), "stopped", "{pid}");
        assert_eq!(sb.state("stale")["pid"], 0, "{pid}");
        sb.rt(&["kill", "stale", "KILL"])
            .fails_with("container not running");
        sb.rt(&["exec", "stale", "true"]).exits(255);
        sb.rt(&["start", "stale"]).fails();
    }
    let mut forged = whole.clone();
    forged["startTime"] = json!(whole["startTime"].as_u64().unwrap() + 1);
    plant(&sb, "stale", "state.json", forged.to_string().as_bytes());
    assert_eq!(sb.status("stale"), "stopped");
    // Its own process lives on in its cgroup, where force finds it.
    sb.rt(&["delete", "--force", "stale"]).ok();
    assert!(!process::alive(c.pid));
    assert!(
        process::alive(other.id()),
        "somebody else's process was killed"
    );
    other.kill().unwrap();
    other.wait().unwrap();
    sb.same_as(&before);
}

#[test]
fn what_is_no_container_does_not_keep_its_id() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let before = sb.look();
    // What a runtime leaves that is killed right at the start of create or the end of delete.
    fs::create_dir_all(sb.root().join("remains")).unwrap();
    fs::write(sb.root().join("remains/.state.json"), "{").unwrap();
    for command in ["state", "start", "delete"] {
        sb.rt(&[command, "remains"]).fails_with("does not exist");
    }
    sb.create("remains", &bundle).ok();
    sb.finish("remains");
    // What somebody else put into a container's directory goes with it.
    sb.create("foreign", &bundle).ok();
    fs::create_dir_all(sb.root().join("foreign/a/b/c")).unwrap();
    plant(&sb, "foreign", "a/b/file", b"x");
    symlink("/etc", sb.root().join("foreign/link")).unwrap();
    sb.finish("foreign");
    sb.same_as(&before);
    assert!(fs::metadata("/etc/passwd").is_ok());
}

#[test]
fn a_state_root_behind_a_link_or_read_only() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|_| {});
    let real = sb.path("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, sb.root()).unwrap();
    sb.create("linked", &bundle).ok();
    assert!(real.join("linked").is_dir());
    sb.finish("linked");
    fs::remove_file(sb.root()).unwrap();

    fs::create_dir(sb.root()).unwrap();
    let before = sb.look();
    let none = rustix::mount::MountFlags::empty();
    let read_only = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount("tmpfs", sb.root(), "tmpfs", read_only, None).unwrap();
    sb.create("fixed", &bundle)
        .fails_with("read-only file system");
    rustix::mount::unmount(sb.root(), rustix::mount::UnmountFlags::DETACH).unwrap();
    sb.same_as(&before);

    // Whatever number of files there is room for.
    for inodes in 2..12 {
        let options = std::ffi::CString::new(format!("nr_inodes={inodes}")).unwrap();
        rustix::mount::mount("tmpfs", sb.root(), "tmpfs", none, Some(&*options)).unwrap();
        let out = sb.create("tight", &bundle);
        if out.code == 0 {
            sb.finish("tight");
        } else {
            out.fails_with("no space left");
        }
        let left: Vec<_> = fs::read_dir(sb.root()).unwrap().collect();
        assert!(left.is_empty(), "{inodes}: {left:?}");
        rustix::mount::unmount(sb.root(), rustix::mount::UnmountFlags::DETACH).unwrap();
        sb.same_as(&before);
    }
}

#[test]
fn two_commands_at_once_leave_one_outcome() {
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "600"]));
    let before = sb.look();
    for round in 0..10 {
        for pair in [
            [&["start", "two"][..], &["delete", "--force", "two"]],
            [&["kill", "two", "KILL"], &["delete", "--force", "two"]],
            [&["exec", "two", "true"], &["delete", "--force", "two"]],
            [&["pause", "two"], &["delete", "--force", "two"]],
        ] {
            sb.create("two", &bundle).ok();
            if round % 2 == 0 && pair[0][0] != "start" {
                sb.rt(&["start", "two"]).ok();
            }
            let first = sb.spawn(sb.command(pair[0]));
            std::thread::sleep(Duration::from_micros(200 * round));
            let second = sb.spawn(sb.command(pair[1]));
            let (first, second) = (first.wait(), second.wait());
            second.ok();
            assert!(
                [0, 1, 255].contains(&first.code) || pair[0][0] == "exec",
                "{first:?}"
            );
            sb.same_as(&before);
        }
        let first = sb.spawn(sb.command(&["create", "--bundle", bundle.arg(), "two"]));
        let second = sb.spawn(sb.command(&["delete", "--force", "two"]));
        let (first, second) = (first.wait(), second.wait());
        second.ok();
        if first.code == 0 {
            sb.rt(&["delete", "--force", "two"]).ok();
        }
        sb.same_as(&before);
    }
}

#[test]
fn hooks_that_do_not_end_do_not_hold_up_a_forced_delete() {
    let sb = Sandbox::new();
    let before = sb.look();
    let hang = json!([{"path": "/bin/sleep", "args": ["sleep", "600"]}]);
    // The runtime is killed while a hook runs in the container.
    let bundle = sb.bundle(|c| c["hooks"] = json!({"createContainer": hang.clone()}));
    let mut create = sb.spawn(sb.command(&["create", "--bundle", bundle.arg(), "hang"]));
    let ran = || {
        knarr_integration::cgroup::processes(&bundle.cgroup)
            .iter()
            .any(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.starts_with(b"sleep\0"))
            })
    };
    assert!(process::eventually(Duration::from_secs(10), ran));
    create.kill();
    let _ = create.wait();
    let begin = Instant::now();
    sb.rt(&["delete", "--force", "hang"]).ok();
    assert!(begin.elapsed() < Duration::from_secs(20));
    sb.same_as(&before);
    // The runtime waits in start.
    let bundle = sb.bundle(|c| c["hooks"] = json!({"startContainer": hang}));
    sb.create("hang", &bundle).ok();
    let start = sb.spawn(sb.command(&["start", "hang"]));
    let ran = || knarr_integration::cgroup::processes(&bundle.cgroup).len() > 1;
    assert!(process::eventually(Duration::from_secs(10), ran));
    sb.rt(&["delete", "--force", "hang"]).ok();
    start.wait().fails();
    sb.same_as(&before);
}

/// Masks show the host's null device, and standard input may be it: neither lets its mode be changed.
#[test]
fn the_hosts_null_device_cannot_be_changed() {
    let sb = Sandbox::new();
    // To the mode that it has: where this works, the host is none the worse.
    let script = "chmod 666 /proc/keys 2>&1; chown 0 /proc/keys 2>&1; echo x >/proc/keys && echo written
        for fd in 0 1 2; do stat -L -c \"$fd %d\" /proc/self/fd/$fd; done; stat -c 'own %d' /dev/null";
    let bundle = sb.sh_bundle(script, |c| {
        c["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/proc/timer_list"]);
    });
    let out = sb.run(&bundle).ok().stdout;
    assert_eq!(out.matches("Read-only file system").count(), 2, "{out}");
    assert!(out.contains("written"), "{out}");
    let own = device(&out, "own");
    assert_eq!(device(&out, "0"), own, "standard input: {out}");

    sb.sleeper("sleeps", |_| {});
    let out = sb
        .rt(&["exec", "sleeps", "/bin/sh", "-c", script])
        .ok()
        .stdout;
    assert_eq!(device(&out, "0"), device(&out, "own"), "exec: {out}");

    // A file at /dev/null in the image is no null device: the caller's stays.
    let bundle = sb.sh_bundle("stat -L -c '0 %t:%T' /proc/self/fd/0", |c| {
        c["mounts"].as_array_mut().unwrap().retain(|m| {
            !m["destination"]
                .as_str()
                .is_some_and(|d| d.starts_with("/dev"))
        });
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    assert_eq!(device(&sb.run(&bundle).ok().stdout, "0"), "1:3");
}

/// What a container has put in the place of its null device is not opened for a new process.
#[test]
fn a_pipe_for_the_null_device_is_left_alone() {
    let sb = Sandbox::new();
    let script = "rm /dev/null; mkfifo /dev/null; echo made >/tmp/made; read x </dev/null; echo opened >/tmp/made; sleep 600";
    let bundle = sb.sh_bundle(script, |_| {});
    sb.started("c", &bundle);
    let tmp = || sb.rt(&["exec", "c", "cat", "/tmp/made"]).stdout;
    let made = process::eventually(Duration::from_secs(10), || tmp() == "made\n");
    assert!(made, "{}", tmp());
    // The reader is at its pipe by now, or finds it opened by the second of these.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(tmp(), "made\n");
    }
}

/// What stands after `name` at the start of a line.
fn device<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("no {name}: {text}"))
}

#[test]
fn hooks_of_the_runtime_that_do_not_end_do_not_hold_up_a_forced_delete() {
    let sb = Sandbox::new();
    let before = sb.look();
    let hang = json!([{"path": "/bin/sh", "args": ["sh", "-c", "sleep 600; :"]}]);
    for hook in ["prestart", "createRuntime", "createContainer"] {
        let note = sb.path("poststop");
        let bundle = sb.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sleep", "600"]);
            c["hooks"][hook] = hang.clone();
            c["hooks"]["poststop"] = json!([{"path": "/bin/sh", "args":
                ["sh", "-c", format!("sleep 0.2; echo gone >>{}", note.display())]}]);
        });
        let runs = sb.spawn(sb.command(&["run", "-d", "--bundle", bundle.arg(), "hang"]));
        let hangs = || {
            process::descendants(runs.pid()).iter().any(|pid| {
                fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.starts_with(b"sleep\x00600"))
            })
        };
        assert!(
            process::eventually(Duration::from_secs(10), hangs),
            "{hook}"
        );
        let begin = Instant::now();
        sb.rt(&["delete", "--force", "hang"]).ok();
        assert!(begin.elapsed() < Duration::from_secs(20), "{hook}");
        runs.wait().fails();
        sb.same_as(&before);
        // The last hooks of who undoes it are left to their end.
        assert_eq!(fs::read_to_string(&note).unwrap(), "gone\n", "{hook}");
        fs::remove_file(note).unwrap();
    }
}
