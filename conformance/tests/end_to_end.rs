//! Runs the program against runc, as a user would; root is needed.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Output};

    fn program() -> Command {
        Command::new(env!("CARGO_BIN_EXE_oci-conformance"))
    }

    /// Why the test cannot run here; printed by the test.
    fn skipped() -> bool {
        let found = |name: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
        };
        let root = rustix::process::geteuid().is_root();
        for (ok, why) in [(root, "not root"), (found("runc"), "runc is not on PATH")] {
            if !ok {
                eprintln!("skipped: {why}");
                return true;
            }
        }
        false
    }

    fn text(output: &Output) -> String {
        format!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    #[test]
    fn own_tests_of_runc_pass_and_leave_nothing() {
        if skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let output = program()
            .args(["run", "--runtime", "runc", "--only", "own", "--quiet"])
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
            .output()
            .unwrap();
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
            let ours = format!("oci-conformance-{}", std::process::id());
            assert!(
                left.into_iter()
                    .all(|e| e.file_name().to_string_lossy() != ours)
            );
        }
    }

    #[test]
    fn a_failing_test_makes_the_exit_code_one() {
        if skipped() {
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
        if skipped() {
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
