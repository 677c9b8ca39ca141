//! What a failure writes, where, and in which form.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

mod cli_support;
mod skips;

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use cli_support::{knarr, program};
use serde_json::Value;

/// `YYYY-MM-DDTHH:MM:SSZ`
fn is_rfc3339(time: &str) -> bool {
    let form: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    form == "0000-00-00T00:00:00Z"
}

#[test]
fn json_is_one_object_with_the_three_keys() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.json");
    let path = log.to_str().unwrap();
    let run = knarr(["--log", path, "--log-format", "json", "kill"]);
    assert_eq!(run.code, 1);
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    let entry: Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<&String> = entry.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["level", "msg", "time"]);
    assert_eq!(entry["level"], "error");
    assert!(is_rfc3339(entry["time"].as_str().unwrap()), "{entry}");
    // Standard error says the same, plainly.
    assert_eq!(run.err.trim_end(), entry["msg"].as_str().unwrap());

    knarr(["--log", path, "--log-format=json", "pause"]);
    assert_eq!(
        std::fs::read_to_string(&log).unwrap().lines().count(),
        2,
        "appended"
    );
}

#[test]
fn text_is_one_line_of_fields() {
    let run = knarr(["pause"]);
    let line = run.err.strip_suffix('\n').unwrap();
    let (time, rest) = line
        .strip_prefix("time=\"")
        .unwrap()
        .split_once('"')
        .unwrap();
    assert!(is_rfc3339(time));
    assert!(
        rest.starts_with(" level=error msg=\"knarr: \\\"pause\\\" requires"),
        "{line}"
    );
}

#[test]
fn json_goes_to_standard_error_without_a_file() {
    let run = knarr(["--log-format", "json", "bogus"]);
    let entry: Value = serde_json::from_str(&run.err).unwrap();
    assert!(entry["msg"].as_str().unwrap().contains("bogus"));
}

#[test]
fn a_file_gets_the_errors_of_later_global_flags() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let path = log.to_str().unwrap();
    for args in [
        &["--log", path, "--log-format=json", "--bogus"][..],
        &["--log", path, "--log-format=json", "--root", "/", "list"],
        &[
            "--log",
            path,
            "--log-format=json",
            "--log-level=loud",
            "list",
        ],
    ] {
        let _ = std::fs::remove_file(&log);
        assert_eq!(knarr(args).code, 1);
        let text = std::fs::read_to_string(&log).unwrap();
        serde_json::from_str::<Value>(&text).unwrap();
    }
}

#[test]
fn success_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for debug in ["--debug=false", "--log-level=error"] {
        let run = knarr([
            debug,
            "--log",
            log.to_str().unwrap(),
            "--root",
            dir.path().join("none").to_str().unwrap(),
            "list",
        ]);
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "");
    }
}

#[test]
fn prefixes_of_crun_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    knarr([format!("--log=file:{}", log.display()), "pause".into()]);
    assert!(std::fs::read_to_string(&log).unwrap().contains("pause"));
}

/// Whether a test may give itself a mount namespace to put sockets at fixed paths.
fn can_unshare() -> bool {
    let able = Command::new("unshare")
        .args(["--mount", "true"])
        .status()
        .is_ok_and(|status| status.success());
    if !able {
        skips::note("no right to a mount namespace (needs root and unshare)");
    }
    able
}

/// Runs the program where `directory` stands in place of `target`, with a datagram socket `name` in it.
fn logged_to_socket(target: &str, name: &str, log: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(dir.path().join(name)).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    let script = format!(
        "mkdir -p {target} && mount --bind {} {target} && exec {} --log={log} pause",
        dir.path().display(),
        env!("CARGO_BIN_EXE_knarr"),
    );
    // The directory that is made is in a tmpfs of the namespace's own.
    let outer = format!("mount -t tmpfs none /run && {script}");
    let script = if target.starts_with("/run") {
        outer
    } else {
        script
    };
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let mut bytes = vec![0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

#[test]
fn the_journal_gets_an_entry() {
    if !can_unshare() {
        return;
    }
    let entry = logged_to_socket("/run/systemd/journal", "socket", "journald:box");
    let head = b"PRIORITY=3\nSYSLOG_IDENTIFIER=box\nMESSAGE\n";
    assert!(entry.starts_with(head), "{entry:?}");
    let (length, message) = entry[head.len()..].split_at(8);
    let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
    assert_eq!(message.len(), length + 1);
    assert!(message.starts_with(b"knarr: \"pause\" requires") && message.ends_with(b"\n"));
}

#[test]
fn syslog_gets_a_line() {
    if !can_unshare() {
        return;
    }
    let line = String::from_utf8(logged_to_socket("/dev", "log", "syslog:box")).unwrap();
    assert!(line.starts_with("<11>box["), "{line}");
    assert!(line.contains("]: knarr: \"pause\" requires"), "{line}");
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error() {
    let run = knarr(["--log", "/nonexistent/log", "list"]);
    assert_eq!(run.code, 1);
    assert!(
        run.err
            .contains("/nonexistent/log: no such file or directory"),
        "{}",
        run.err
    );
}

#[test]
fn a_message_of_several_lines_stays_on_one() {
    let output = program()
        .args(["--log-format=json", "a\nb\"c"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    serde_json::from_str::<Value>(&text).unwrap();
}
