//! `features` and `validate`: what the runtime says about itself and about a bundle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use knarr_integration::{Sandbox, Value, json, runtime};

fn list(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap())
        .collect()
}

#[test]
fn case_66_features_tells_the_truth() {
    let sb = Sandbox::new();
    let features = sb.rt(&["features"]).ok().json();
    for key in ["ociVersionMin", "ociVersionMax"] {
        let version = features[key].as_str().unwrap().to_owned();
        sb.sh("true", |c| c["ociVersion"] = json!(version)).ok();
    }
    assert_eq!(
        list(&features["hooks"]),
        [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop"
        ]
    );
    let linux = &features["linux"];
    let mut namespaces = list(&linux["namespaces"]);
    namespaces.sort_unstable();
    assert_eq!(
        namespaces,
        [
            "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"
        ]
    );
    assert_eq!(linux["mountExtensions"]["idmap"]["enabled"], true);
    assert_eq!(linux["seccomp"]["enabled"], true);
    assert_eq!(linux["cgroup"]["v1"], true);
    assert!(list(&linux["capabilities"]).contains(&"CAP_CHECKPOINT_RESTORE"));
    let known: Vec<&str> = features
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for key in known {
        assert!(
            [
                "ociVersionMin",
                "ociVersionMax",
                "hooks",
                "mountOptions",
                "linux",
                "annotations",
                "potentiallyUnsafeConfigAnnotations"
            ]
            .contains(&key),
            "{key} is not of the specification"
        );
    }
}

#[test]
fn case_66_every_listed_mount_option_is_taken() {
    let sb = Sandbox::new();
    let features = sb.rt(&["features"]).ok().json();
    let options = list(&features["mountOptions"]);
    assert!(options.contains(&"rro"), "containerd looks for it");
    if runtime::name() == "knarr" {
        assert_eq!(options.len(), 62, "{options:?}");
    }
    let dir = sb.path("src");
    std::fs::create_dir(&dir).unwrap();
    for option in options {
        // What needs mappings, or an existing mount, is tested elsewhere.
        if ["idmap", "ridmap", "remount", "mand", "dirsync", "sync"].contains(&option) {
            continue;
        }
        let out = sb.sh("true", |c| {
            let bind = option.starts_with('r') && !["ro", "rw", "relatime"].contains(&option) || option == "bind";
            knarr_integration::bundle::push(c, "/mounts", if bind {
                json!({"destination": "/mnt", "type": "bind", "source": dir, "options": ["rbind", option]})
            } else {
                json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": [option]})
            });
        });
        assert_eq!(out.code, 0, "{option}: {out:?}");
    }
}

#[test]
fn validate_says_what_is_wrong_without_running_it() {
    if runtime::name() != "knarr" {
        knarr_integration::skip!("validate is knarr's own");
    }
    let sb = Sandbox::new();
    let good = sb.bundle(|_| {});
    let before = sb.look();
    sb.rt(&["validate", good.arg()]).ok();
    let bad = sb.bundle(|c| {
        c["process"]["cwd"] = json!("relative");
        c["hooks"] = json!({"poststop": [{"path": "relative"}]});
    });
    let out = sb.rt(&["validate", bad.arg()]);
    assert_ne!(out.code, 0);
    let text = format!("{}{}", out.stdout, out.stderr);
    for path in ["process.cwd", "hooks.poststop"] {
        assert!(text.contains(path), "{path}: {text}");
    }
    sb.same_as(&before);
}

#[test]
fn checkpoint_works_or_says_why_not() {
    let sb = Sandbox::new();
    let c = sb.sleeper("cr", |_| {});
    let help = sb.rt(&["checkpoint", "--help"]);
    if runtime::find("criu".as_ref()).is_none() {
        assert_ne!(
            help.code, 0,
            "callers take a working --help for a working criu"
        );
        let dir = sb.path("image");
        sb.rt(&["checkpoint", "--image-path", dir.to_str().unwrap(), "cr"])
            .fails_with("criu");
        assert!(knarr_integration::process::alive(c.pid));
        assert_eq!(sb.status("cr"), "running");
    }
}

#[test]
fn doctor_tells_what_this_host_has() {
    let sb = Sandbox::new();
    let checks = sb.rt(&["doctor", "--format", "json"]).ok().json();
    let state = |area: &str, name: &str| {
        let found = checks
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["area"] == area && check["name"] == name);
        found.unwrap_or_else(|| panic!("no check {area} {name}: {checks}"))["state"].clone()
    };
    assert_eq!(state("kernel", "/proc"), "ok");
    assert_eq!(state("kernel", "openat2"), "ok");
    assert_eq!(state("kernel", "mount namespaces"), "ok");
    let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let on = apparmor.is_ok_and(|text| text.starts_with('Y'));
    assert_eq!(
        state("security", "AppArmor"),
        if on { "ok" } else { "missing" }
    );
    let text = sb.rt(&["doctor"]).ok().stdout;
    assert!(text.contains("\n  ok       openat2\n"), "{text}");
    for check in checks.as_array().unwrap() {
        let missing = check["state"] != "ok";
        assert_eq!(missing, check["effect"] != "", "{check}");
        let line = format!("without it: {}", check["effect"].as_str().unwrap());
        assert!(!missing || text.contains(&line), "{check}");
    }
    sb.rt(&["doctor", "--format", "xml"])
        .fails_with("invalid format option");
}

#[test]
fn doctor_fails_where_nothing_can_run() {
    let sb = Sandbox::new();
    let mut command = std::process::Command::new("unshare");
    command
        .args(["-m", "sh", "-c", "umount -l /proc && exec \"$0\" doctor"])
        .arg(runtime::path());
    let outcome = sb.spawn(command).wait();
    assert!(
        outcome.stdout.contains("\n  fatal    /proc\n"),
        "{outcome:?}"
    );
    outcome.fails_with("no container can run here: /proc");
}
