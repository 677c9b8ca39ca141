//! Runs the program as a user would, on the runtime that `KNARR_BIN` names, or on runc; root is needed.

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    fn program() -> Command {
        Command::new(env!("CARGO_BIN_EXE_oci-conformance"))
    }

    /// Whether a program is on PATH, or is a path of a file.
    fn found(name: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    }

    /// The runtime for tests that any runtime passes.
    fn runtime() -> String {
        std::env::var("KNARR_BIN").unwrap_or_else(|_| "runc".to_owned())
    }

    /// Says why a test cannot run here, also in the file that `KNARR_SKIPS` names.
    fn skipped(test: &str, runtime: &str) -> bool {
        let why = if !rustix::process::geteuid().is_root() {
            "not root".to_owned()
        } else if !found(runtime) {
            format!("{runtime} is not there")
        } else {
            return false;
        };
        let line = format!("skipped: end_to_end::{test}: {why}\n");
        eprint!("{line}");
        if let Some(file) = std::env::var_os("KNARR_SKIPS") {
            let file = OpenOptions::new().append(true).create(true).open(file);
            file.unwrap().write_all(line.as_bytes()).unwrap();
        }
        true
    }

    fn text(output: &Output) -> String {
        format!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    #[test]
    fn own_tests_pass_and_leave_nothing() {
        let runtime = runtime();
        if skipped("own_tests_pass_and_leave_nothing", &runtime) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let child = program()
            .args(["run", "--runtime", &runtime, "--only", "own", "--quiet"])
            .args([
                "own/process.hostname",
                "own/process.env",
                "own/lifecycle.statuses",
            ])
            .arg("--json")
            .arg(file("r.json"))
            .arg("--html")
            .arg(file("r.html"))
            .arg("--junit")
            .arg(file("r.xml"))
            .arg("--tap")
            .arg(file("r.tap"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ours = format!("oci-conformance-{}", child.id());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(text(&output).contains("as expected"), "{}", text(&output));
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file("r.json")).unwrap()).unwrap();
        let tests = json["tests"].as_array().unwrap();
        assert_eq!(tests.len(), 3);
        for test in tests {
            assert_eq!(test["status"], "passed", "{test}");
            assert!(test.get("leftovers").is_none(), "{test}");
        }
        for (name, words) in [
            ("r.html", "own/process.hostname"),
            ("r.xml", "failures=\"0\""),
            ("r.tap", "1..3"),
        ] {
            assert!(
                std::fs::read_to_string(file(name)).unwrap().contains(words),
                "{name}"
            );
        }
        let layout = std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        for hierarchy in layout {
            let left = std::fs::read_dir(hierarchy.path())
                .into_iter()
                .flatten()
                .flatten();
            assert!(
                left.into_iter()
                    .all(|e| e.file_name().to_string_lossy() != ours)
            );
        }
    }

    #[test]
    fn a_failing_test_makes_the_exit_code_one() {
        if skipped("a_failing_test_makes_the_exit_code_one", "runc") {
            return;
        }
        // runc kills a created container instead of refusing to delete it.
        let output = program()
            .args([
                "run",
                "--runtime",
                "runc",
                "--only",
                "own",
                "--quiet",
                "own/lifecycle.delete-created",
            ])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(
            text(&output).contains("1 unexpected: own/lifecycle.delete-created"),
            "{}",
            text(&output)
        );
    }

    #[test]
    fn a_runtime_that_does_nothing_fails_everything() {
        if skipped("a_runtime_that_does_nothing_fails_everything", "true") {
            return;
        }
        let output = program()
            .args([
                "run",
                "--runtime",
                "true",
                "--only",
                "own",
                "--quiet",
                "own/process.hostname",
            ])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    }

    #[test]
    fn errors_of_use() {
        let output = program()
            .args(["run", "--runtime", "/no/such/runtime"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(
            text(&output).contains("/no/such/runtime"),
            "{}",
            text(&output)
        );
        let output = program().args(["run"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    }

    #[test]
    fn documents_are_written() {
        let dir = tempfile::tempdir().unwrap();
        for what in ["man", "completions", "docs"] {
            let status = program()
                .args(["generate", what])
                .arg(dir.path())
                .status()
                .unwrap();
            assert!(status.success(), "{what}");
        }
        for name in [
            "oci-conformance.1",
            "oci-conformance-run.1",
            "_oci-conformance",
            "conformance.md",
        ] {
            assert!(Path::new(dir.path()).join(name).exists(), "{name}");
        }
    }
}
