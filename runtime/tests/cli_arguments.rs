//! Argument styles, usage errors, exit codes, help and version: what needs no container.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

mod cli_support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;

use cli_support::{below, knarr, message, program};

const COMMANDS: [&str; 19] = [
    "create",
    "start",
    "run",
    "exec",
    "state",
    "list",
    "ps",
    "kill",
    "delete",
    "pause",
    "resume",
    "update",
    "events",
    "checkpoint",
    "restore",
    "spec",
    "validate",
    "features",
    "help",
];

fn fails(args: &[&str], text: &str) {
    let run = knarr(args);
    assert_eq!(run.code, 1, "{args:?}: {run:?}");
    assert_eq!(run.out, "", "{args:?}");
    let message = message(&run);
    assert!(message.contains(text), "{args:?}: {message}");
}

/// Arguments that are understood: they get as far as looking for the root directory's containers.
fn understood(args: &[&str]) {
    let run = knarr(args);
    assert!(run.err.is_empty(), "{args:?}: {run:?}");
    assert_eq!(run.code, 0, "{args:?}: {run:?}");
}

#[test]
fn version_has_the_lines_that_callers_parse() {
    for flag in ["--version", "-version", "-v", "-V", "--v", "--version=true"] {
        let run = knarr([flag]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{flag}");
        let first = run.out.lines().next().unwrap();
        assert_eq!(first, concat!("knarr version ", env!("CARGO_PKG_VERSION")));
        assert!(run.out.lines().any(|line| line == "spec: 1.3.0"));
        assert_eq!(run.out.matches("version").count(), 1);
    }
}

#[test]
fn version_follows_the_name_it_is_started_by() {
    for (arg0, word) in [
        ("runc", "runc"),
        ("/usr/sbin/runc", "runc"),
        ("other", "knarr"),
    ] {
        let output = program().arg0(arg0).arg("--version").output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(
            out.starts_with(&format!("{word} version ")),
            "{arg0}: {out}"
        );
    }
}

#[test]
fn version_wins_over_a_command() {
    assert!(knarr(["-v", "list"]).out.starts_with("knarr version"));
}

#[test]
fn help_goes_to_standard_output() {
    for args in [
        &["--help"][..],
        &["-h"],
        &["-help"],
        &["-?"],
        &["help"],
        &["h"],
        &[],
    ] {
        let run = knarr(args);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{args:?}");
        for command in COMMANDS {
            assert!(run.out.contains(command), "{args:?}: {command}");
        }
    }
}

#[test]
fn every_command_has_help_in_three_forms() {
    for command in COMMANDS {
        if command == "checkpoint" || command == "restore" {
            continue;
        }
        let run = knarr([command, "--help"]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{command}");
        assert!(
            run.out.contains(&format!("Usage: knarr {command}")),
            "{}",
            run.out
        );
        assert_eq!(knarr([command, "-h"]).out, run.out);
        assert_eq!(knarr(["help", command]).out, run.out);
    }
}

#[test]
fn help_shows_flags_of_callers_but_not_obsolete_ones() {
    let update = knarr(["update", "--help"]).out;
    assert!(update.contains("--memory-swap") && update.contains("-r, --resources"));
    assert!(!update.contains("--kernel-memory"));
    assert!(!knarr(["kill", "--help"]).out.contains("--all"));
}

/// CRI-O and podman take the help of these commands as a promise that they work.
#[test]
fn help_of_checkpoint_needs_a_criu_that_works() {
    for command in ["checkpoint", "restore"] {
        let run = program()
            .env("PATH", "/nonexistent")
            .args([command, "--help"])
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(1));
        assert!(run.stdout.is_empty());
        assert!(String::from_utf8(run.stderr).unwrap().contains("criu"));
    }
    for (script, code) in [("exit 0", 0), ("echo 'no such luck' >&2; exit 1", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let criu = dir.path().join("criu");
        std::fs::write(&criu, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&criu, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let output = program()
            .env("PATH", dir.path())
            .args(["checkpoint", "--help"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{script}");
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(err.contains("no such luck"), code == 1, "{err}");
    }
}

#[test]
fn flags_have_one_or_two_dashes_and_values_in_two_ways() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("none");
    let root = root.to_str().unwrap();
    let joined = format!("--root={root}");
    let single = format!("-root={root}");
    for args in [
        &["--root", root, "list"][..],
        &["-root", root, "list"],
        &[&joined, "list"],
        &[&single, "list"],
        &["--root", "/elsewhere", "--root", root, "list"],
        &["--systemd-cgroup", "--systemd-cgroup", &joined, "list"],
        &["-systemd-cgroup", &joined, "list"],
        &[
            "--systemd-cgroup=false",
            "--debug=true",
            "--debug=0",
            &joined,
            "list",
        ],
        &["--cgroup-manager", "disabled", &joined, "list"],
        &[
            "--cgroup-manager=systemd",
            "-cgroup-manager=cgroupfs",
            &joined,
            "list",
        ],
        &["--rootless=true", &joined, "list"],
        &["--rootless", "auto", "--rootless=F", &joined, "list"],
        &[
            "--log-level",
            "error",
            "--log-format",
            "text",
            &joined,
            "list",
        ],
        &["--log-level=warning", "--log=", &joined, "list"],
        &["--help=false", "--version=false", &joined, "list"],
        &[&joined, "--", "list"],
        &[&joined, "list", "-q"],
        &[&joined, "list", "--quiet=true", "--format=json"],
        &[&joined, "list", "-f", "table", "-f=json"],
        &[&joined, "list", "-format", "json", "--"],
    ] {
        understood(args);
    }
}

#[test]
fn usage_errors_say_what_is_wrong() {
    for (args, text) in [
        (
            &["--bogus", "state"][..],
            "flag provided but not defined: -bogus",
        ),
        (
            &["state", "--bogus", "x"],
            "flag provided but not defined: -bogus",
        ),
        (&["list", "-v"], "flag provided but not defined: -v"),
        (&["list", "-qx"], "flag provided but not defined: -qx"),
        (
            &["list", "--bogus=1"],
            "flag provided but not defined: -bogus",
        ),
        (&["list", "---q"], "bad flag syntax: ---q"),
        (&["list", "-=x"], "bad flag syntax: -=x"),
        (&["list", "--=x"], "bad flag syntax: --=x"),
        (&["list", "--format"], "flag needs an argument: -format"),
        (&["--root"], "flag needs an argument: -root"),
        (
            &["list", "--quiet=x"],
            "invalid boolean value \"x\" for -quiet: parse error",
        ),
        (
            &["--debug=maybe", "list"],
            "invalid boolean value \"maybe\" for -debug",
        ),
        (
            &["create", "--preserve-fds", "x", "y"],
            "invalid value \"x\" for flag -preserve-fds: parse error",
        ),
        (&["create", "--preserve-fds=-1", "y"], "out of range"),
        (&["create", "--preserve-fds=", "y"], "parse error"),
        (
            &["events", "--interval", "5", "x"],
            "invalid value \"5\" for flag -interval: parse error",
        ),
        (&["events", "--interval", "-5s", "x"], "parse error"),
        (&["events", "--interval", "0", "x"], "greater than 0"),
        (&["--log-format", "xml", "list"], "invalid log-format: xml"),
        (&["--log-level", "loud", "list"], "invalid log-level: loud"),
        (&["--rootless=maybe", "list"], "invalid rootless: maybe"),
        (
            &["--cgroup-manager=none", "list"],
            "invalid cgroup-manager: none",
        ),
        (&["list", "--format", "xml"], "invalid format option"),
        (&["bogus"], "unknown command \"bogus\""),
        (&["help", "bogus"], "unknown command \"bogus\""),
        (&["-"], "unknown command \"-\""),
        (&["", "list"], "unknown command \"\""),
        (&["--root", "/", "list"], "should not be set to /"),
        (&["--root", "/.", "list"], "should not be set to /"),
        (&["--root=", "list"], "--root must name a directory"),
        (
            &["checkpoint", "--manage-cgroups-mode=x", "y"],
            "soft, full, strict or ignore",
        ),
        (&["checkpoint", "--empty-ns=ipc", "y"], "only network"),
        (
            &["checkpoint", "--page-server=localhost", "y"],
            "ADDRESS:PORT",
        ),
        (
            &["checkpoint", "--page-server=h:70000", "y"],
            "ADDRESS:PORT",
        ),
        (
            &["checkpoint", "--network-lock=x", "y"],
            "iptables, nftables or skip",
        ),
    ] {
        fails(args, text);
    }
}

#[test]
fn the_number_of_arguments_is_checked() {
    for command in COMMANDS {
        let none = ["list", "spec", "features", "validate", "help"].contains(&command);
        if !none {
            fails(&[command], "argument(s)");
        }
        if !["exec", "ps"].contains(&command) {
            fails(&[command, "a", "b", "c"], "argument(s)");
        }
    }
    fails(
        &["state"],
        "knarr: \"state\" requires exactly 1 argument(s)",
    );
    fails(
        &["list", "x"],
        "knarr: \"list\" requires exactly 0 argument(s)",
    );
    fails(
        &["kill"],
        "knarr: \"kill\" requires a minimum of 1 argument(s)",
    );
    fails(
        &["kill", "a", "b", "c"],
        "requires a maximum of 2 argument(s)",
    );
    // After -- and the id, a word with a dash is an argument.
    fails(&["delete", "--", "a", "--force"], "argument(s)");
}

#[test]
fn bytes_that_are_no_text_are_errors_and_no_panics() {
    let bad = OsStr::from_bytes(b"\xff\xfe");
    let odd = OsStr::from_bytes(b"--\xff=\xff");
    let word = OsStr::new;
    for args in [
        &[bad][..],
        &[odd],
        &[word("state"), bad],
        &[word("state"), odd],
        &[word("kill"), word("x"), bad],
        &[word("list"), word("--format"), bad],
        &[word("update"), word("--memory"), bad, word("x")],
        &[word("create"), word("-b"), bad, word("x")],
        &[word("help"), bad],
    ] {
        let run = knarr(args);
        assert_eq!(run.code, 1, "{args:?}: {run:?}");
        message(&run);
    }
}

#[test]
fn paths_may_have_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join(OsStr::from_bytes(b"r\xff"));
    let run = below(&root, "list");
    assert_eq!((run.code, run.err.as_str()), (0, ""));
}

#[test]
fn an_empty_argument_list_prints_help() {
    // The kernel supplies an empty argv[0] where there is none.
    let output = program().arg0("").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(!output.stdout.is_empty());
}

#[test]
fn a_closed_standard_output_is_an_error() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = program().arg("--version").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("no space left")
    );
}
