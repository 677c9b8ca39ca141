//! Labels of the Linux security modules, really set: AppArmor, in the virtual machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use knarr_integration::{Sandbox, json, skip};

/// Whether AppArmor is on and its parser there.
fn can_load() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|on| on.starts_with('Y'))
        && Command::new("apparmor_parser")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

macro_rules! need_apparmor {
    () => {
        if !can_load() {
            skip!("AppArmor is off, or apparmor_parser missing");
        }
    };
}

/// A profile that forbids reading /secret; unloaded when dropped.
struct Profile {
    name: String,
    text: String,
}

impl Profile {
    fn load(name: &str) -> Profile {
        let name = format!("knarr-it-{}-{name}", std::process::id());
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n\
             file, signal, unix, capability, network, ptrace,\n\
             deny /secret r,\n}}\n"
        );
        let profile = Profile { name, text };
        assert!(profile.parser("--replace"), "the profile should load");
        profile
    }

    fn parser(&self, action: &str) -> bool {
        let mut parser = Command::new("apparmor_parser")
            .args([action, "--skip-cache"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        parser
            .stdin
            .take()
            .unwrap()
            .write_all(self.text.as_bytes())
            .unwrap();
        parser.wait().unwrap().success()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

#[test]
fn a_process_runs_under_its_profile() {
    need_apparmor!();
    let sb = Sandbox::new();
    let profile = Profile::load("run");
    let script = "cat /proc/self/attr/current; cat /secret || echo refused";
    let bundle = sb.sh_bundle(script, |c| {
        c["process"]["apparmorProfile"] = json!(profile.name);
    });
    fs::write(bundle.rootfs().join("secret"), "told\n").unwrap();
    let out = sb.run(&bundle).ok();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!(lines, [&format!("{} (enforce)", profile.name), "refused"]);
}

#[test]
fn exec_takes_the_containers_profile_or_its_own() {
    need_apparmor!();
    let sb = Sandbox::new();
    let (of_init, of_exec) = (Profile::load("init"), Profile::load("exec"));
    let _container = sb.sleeper("c", |c| {
        c["process"]["apparmorProfile"] = json!(of_init.name);
    });
    let show = ["cat", "/proc/self/attr/current"];
    let out = sb.rt(&["exec", "c", show[0], show[1]]).ok();
    assert_eq!(out.text(), format!("{} (enforce)", of_init.name));
    let out = sb
        .rt(&["exec", "--apparmor", &of_exec.name, "c", show[0], show[1]])
        .ok();
    assert_eq!(out.text(), format!("{} (enforce)", of_exec.name));
    // A process that is described as a whole, but for the profile.
    let file = sb.path("process.json");
    let process = json!({"args": show, "cwd": "/", "env": ["PATH=/bin"]});
    fs::write(&file, process.to_string()).unwrap();
    let out = sb
        .rt(&["exec", "--process", file.to_str().unwrap(), "c"])
        .ok();
    assert_eq!(out.text(), format!("{} (enforce)", of_init.name));
    let out = sb
        .rt(&["exec", "--apparmor", "knarr-it-absent", "c", "true"])
        .exits(255);
    assert!(out.stderr.contains("is not loaded on this host"), "{out:?}");
}

#[test]
fn a_profile_that_is_not_loaded_is_refused_before_anything_is_made() {
    need_apparmor!();
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["apparmorProfile"] = json!("knarr-it-absent"));
    let before = sb.look();
    let out = sb
        .create("c", &bundle)
        .fails_with("is not loaded on this host");
    assert!(out.stderr.contains("process.apparmorProfile"), "{out:?}");
    sb.same_as(&before);
    let out = sb.rt(&["validate", bundle.arg()]).fails();
    let finding = "process.apparmorProfile: \"knarr-it-absent\" is not loaded on this host";
    assert!(out.stdout.contains(finding), "{out:?}");
}

#[test]
fn a_profile_where_apparmor_is_off_is_refused_before_anything_is_made() {
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if on.is_ok_and(|text| text.starts_with('Y')) {
        skip!("AppArmor is on");
    }
    let sb = Sandbox::new();
    let bundle = sb.bundle(|c| c["process"]["apparmorProfile"] = json!("docker-default"));
    let before = sb.look();
    let out = sb
        .create("c", &bundle)
        .fails_with("AppArmor is not enabled");
    assert!(out.stderr.contains("process.apparmorProfile"), "{out:?}");
    assert_eq!(out.stderr.trim().lines().count(), 1, "{out:?}");
    sb.same_as(&before);
}
