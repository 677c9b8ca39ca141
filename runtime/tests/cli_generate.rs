//! The man pages and completions that are made from the command tables.
#![cfg(feature = "generate")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

use std::collections::BTreeMap;
use std::process::Command;

/// What the generator writes, by file name.
fn generated(what: &str) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_knarr-generate"))
        .arg(what)
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    dir.path()
        .read_dir()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        })
        .collect()
}

#[test]
fn every_command_has_a_page() {
    let pages = generated("man");
    let help = Command::new(env!("CARGO_BIN_EXE_knarr"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split_once("Commands:\n").unwrap().1;
    let commands = commands.split_once("\n\n").unwrap().0;
    assert_eq!(commands.lines().count() + 1, pages.len());
    for line in commands.lines() {
        let name = line.split_whitespace().next().unwrap();
        let page = &pages[&format!("knarr-{name}.8")];
        assert!(page.contains(&format!(".TH knarr-{name} 8")), "{page}");
    }
    assert!(pages["knarr.8"].contains("systemd\\-cgroup"));
    assert!(pages["knarr-update.8"].contains("memory\\-swap"));
    assert!(!pages["knarr-update.8"].contains("kernel\\-memory"));
}

#[test]
fn shells_complete_commands_and_flags() {
    let files = generated("completions");
    for name in ["knarr.bash", "_knarr", "knarr.fish"] {
        let text = &files[name];
        assert!(
            text.contains("checkpoint") && text.contains("console-socket"),
            "{name}"
        );
        assert!(!text.contains("kernel-memory"), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("knarr.bash");
    std::fs::write(&script, &files["knarr.bash"]).unwrap();
    let output = Command::new("bash")
        .arg("-n")
        .arg(&script)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_wrong_call_says_how() {
    let output = Command::new(env!("CARGO_BIN_EXE_knarr-generate"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("usage: knarr-generate")
    );
}
