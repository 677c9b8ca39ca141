//! Commands on containers that are not there, and ids that are none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

mod cli_support;

use cli_support::{Run, below, knarr, message, program};

fn root() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_container_that_does_not_exist_is_an_error() {
    let root = root();
    for line in [
        "state nope",
        "start nope",
        "kill nope",
        "kill nope KILL",
        "kill nope FOO",
        "kill --all nope 9",
        "kill -a nope 9",
        "kill nope -9",
        "delete nope",
        "pause nope",
        "resume nope",
        "ps nope",
        "ps --format json nope",
        "ps nope -o pid",
        "update --memory 1M nope",
        "update nope --memory 1M",
        "events --stats nope",
        "events --interval=1m30s nope",
    ] {
        let run = below(root.path(), line);
        assert_eq!((run.code, run.out.as_str()), (1, ""), "{line}: {run:?}");
        let message = message(&run);
        assert!(
            message.contains("container does not exist"),
            "{line}: {message}"
        );
    }
}

#[test]
fn exec_fails_with_a_code_of_its_own() {
    let root = root();
    for line in [
        "exec nope ls",
        "exec nope",
        "exec -t nope ls -t",
        "exec -p /nonexistent nope",
    ] {
        let run = below(root.path(), line);
        assert_eq!(run.code, 255, "{line}: {run:?}");
        assert!(
            message(&run).contains("container does not exist"),
            "{line}: {run:?}"
        );
    }
    // What is wrong with the command line itself is no failed exec.
    for line in ["exec", "exec --bogus nope ls"] {
        assert_eq!(below(root.path(), line).code, 1, "{line}");
    }
}

#[test]
fn deleting_what_is_not_there_by_force_is_no_error() {
    let root = root();
    for line in [
        "delete --force nope",
        "delete -f nope",
        "delete nope --force",
        "delete -f -- nope",
    ] {
        let run = below(root.path(), line);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{line}");
    }
    assert_eq!(
        below(&root.path().join("missing"), "delete -f nope").code,
        0
    );
}

#[test]
fn an_empty_list_is_null_for_programs() {
    let root = root();
    for root in [root.path().to_owned(), root.path().join("missing")] {
        assert_eq!(below(&root, "list --format=json").out, "null\n");
        assert_eq!(below(&root, "list -q").out, "");
        assert_eq!(
            below(&root, "list").out,
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
    }
}

fn refused(run: &Run, what: &str) {
    assert!(run.code == 1 || run.code == 255, "{what}: {run:?}");
    message(run);
}

#[test]
fn ids_that_are_no_ids_are_refused_everywhere() {
    let root = root();
    let inner = root.path().join("root");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(root.path().join("state.json"), "{}").unwrap();
    let long = "x".repeat(5000);
    for id in [
        "", ".", "..", "../x", "a/b", "/", "a b", "a\nb", "\u{e9}", "a:b", &long,
    ] {
        for command in [
            &["state"][..],
            &["start"],
            &["kill"],
            &["delete"],
            &["delete", "--force"],
            &["pause"],
            &["resume"],
            &["ps"],
            &["update"],
            &["events", "--stats"],
            &["exec", "-t"],
            &["create", "-b", "/nonexistent"],
            &["run", "-b", "/nonexistent"],
        ] {
            let mut args = vec!["--root", inner.to_str().unwrap()];
            args.extend(command);
            args.extend(["--", id]);
            refused(&knarr(args), &format!("{command:?} {id:?}"));
        }
    }
    let left: Vec<_> = std::fs::read_dir(&inner).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(root.path().join("state.json").exists());
}

#[test]
fn a_bundle_that_is_not_there_leaves_nothing() {
    let root = root();
    for (line, text) in [
        ("create -b /nonexistent x", "/nonexistent"),
        ("create x -b /nonexistent", "/nonexistent"),
        ("run --bundle=/nonexistent x", "/nonexistent"),
        ("create -b /proc/self/fdinfo x", "config.json"),
        (
            "create -b /proc/self/fdinfo -f /nonexistent.json x",
            "/nonexistent.json",
        ),
    ] {
        let run = below(root.path(), line);
        assert_eq!(run.code, 1, "{line}: {run:?}");
        let message = message(&run);
        assert!(
            message.contains(text) && message.contains("no such file"),
            "{message}"
        );
        assert!(root.path().read_dir().unwrap().next().is_none(), "{line}");
    }
}

#[test]
fn expressions_choose_containers() {
    let root = root();
    for line in [
        "kill --regex ^x TERM",
        "kill -r x",
        "delete --regex x",
        "delete -rf .",
    ] {
        let run = below(root.path(), line);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{line}");
    }
    for line in ["kill --regex (", "delete -r [a", "kill -r x FOO"] {
        let run = below(root.path(), line);
        assert_eq!(run.code, 1, "{line}");
        message(&run);
    }
}

#[test]
fn only_debugging_says_more_than_the_failure() {
    let root = root();
    let log = root.path().join("log");
    for (flag, lines) in [
        ("--debug=false", 1),
        ("--debug", 2),
        ("--log-level=info", 1),
    ] {
        let _ = std::fs::remove_file(&log);
        let run = program()
            .args([flag, "--log-format=json", "--log"])
            .arg(&log)
            .arg("--root")
            .arg(root.path())
            .args(["state", "nope"])
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(1));
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().count(), lines, "{flag}: {text}");
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        assert!(text.lines().last().unwrap().contains("\"level\":\"error\""));
    }
}
