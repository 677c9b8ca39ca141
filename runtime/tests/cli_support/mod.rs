//! Runs the built program the way callers do and looks at what comes out.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run of the program left behind.
#[derive(Debug)]
pub struct Run {
    /// Exit code, -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The program, with no environment that could change where it looks.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
    command
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("LISTEN_FDS")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null());
    command
}

/// Runs the program with these arguments.
pub fn knarr<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Run {
    program().args(args).output().unwrap().into()
}

/// Runs the program with `--root ROOT` and the words of `line`.
pub fn below(root: &Path, line: &str) -> Run {
    program()
        .arg("--root")
        .arg(root)
        .args(line.split_whitespace())
        .output()
        .unwrap()
        .into()
}

/// The message of the only line of text on standard error.
pub fn message(run: &Run) -> String {
    let lines: Vec<&str> = run.err.lines().collect();
    assert_eq!(lines.len(), 1, "one line, not {run:?}");
    let quoted = lines[0].split_once(" level=error msg=").unwrap().1;
    serde_json::from_str(quoted).unwrap()
}
