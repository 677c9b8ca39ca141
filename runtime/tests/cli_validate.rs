//! `validate`: findings for people and programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

mod cli_support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cli_support::{Run, message, program};
use serde_json::{Value, json};

fn validate(bundle: &Path, args: &[&str]) -> Run {
    program()
        .args(["validate"])
        .args(args)
        .current_dir(bundle)
        .output()
        .unwrap()
        .into()
}

fn bundle(config: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("rootfs/x");
    std::fs::create_dir(program.parent().unwrap()).unwrap();
    std::fs::write(&program, "#!/x").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn sound() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {"args": ["/x"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}
    })
}

#[test]
fn a_sound_bundle_passes() {
    let bundle = bundle(&sound());
    let path = bundle.path().to_str().unwrap();
    let file = bundle.path().join("config.json");
    for args in [
        &[][..],
        &["."],
        &["config.json"],
        &[path],
        &[file.to_str().unwrap()],
    ] {
        let run = validate(bundle.path(), args);
        assert_eq!(
            (run.code, run.err.as_str()),
            (0, ""),
            "{args:?}: {}",
            run.out
        );
        assert!(run.out.ends_with(": 0 errors, 0 warnings\n"), "{}", run.out);
    }
    assert_eq!(validate(bundle.path(), &["--format=json"]).out, "[]\n");
}

#[test]
fn a_finding_has_place_reason_remedy_and_source() {
    let mut config = sound();
    config["process"]["cwd"] = json!("relative");
    let bundle = bundle(&config);
    let run = validate(bundle.path(), &[]);
    assert_eq!(run.code, 1);
    assert_eq!(message(&run), ".: 1 error, 0 warnings");
    let lines: Vec<&str> = run.out.lines().collect();
    assert!(lines[0].starts_with("error: process.cwd: "), "{lines:?}");
    assert!(
        lines[1].starts_with("    ") && !lines[1].trim().is_empty(),
        "{lines:?}"
    );
    assert_eq!(lines[2], "    see config.md#process");

    let run = validate(bundle.path(), &["--format", "json"]);
    assert_eq!(run.code, 1);
    let findings: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(findings.as_array().unwrap().len(), 1);
    assert_eq!(findings[0]["severity"], "error");
    assert_eq!(findings[0]["path"], "process.cwd");
    for key in ["message", "clause", "help"] {
        assert!(!findings[0][key].as_str().unwrap().is_empty(), "{key}");
    }
}

#[test]
fn a_document_that_cannot_be_read_is_a_finding() {
    let bundle = bundle(&sound());
    std::fs::write(bundle.path().join("config.json"), "{\"root\": 7").unwrap();
    for args in [&[][..], &["/nonexistent"], &["--format=json"]] {
        let run = validate(bundle.path(), args);
        assert_eq!(run.code, 1, "{args:?}");
        assert!(!run.out.is_empty(), "{args:?}");
        message(&run);
    }
}

#[test]
fn an_unknown_form_is_refused() {
    let run = validate(Path::new("/"), &["--format=xml"]);
    assert_eq!(run.code, 1);
    assert!(message(&run).contains("use text or json"));
}
