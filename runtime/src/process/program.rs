//! `process.args` and `process.env`: finding the program in the container, and becoming it.
//!
//! The search is that of execvp(3), with the container's PATH and working
//! directory, but for one thing: a file without a known format is an error and
//! is not handed to a shell, because that would turn a program for another
//! machine into noise. The texts of the errors are matched by callers.

use std::ffi::{CStr, CString};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::spec::config;
use crate::sys::exec;

/// Where execvp(3) looks when there is no PATH.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// A program with its arguments and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Reads `process.args` and `process.env`. Of variables set twice the last one counts, as callers
/// that append expect; getenv(3) would return the first.
///
/// # Errors
/// `InvalidConfig` for no arguments, NUL bytes, and variables without a name or `=`.
pub fn plan(process: &config::Process<'_>) -> Result<Program> {
    if process.args.is_empty() {
        return Err(Error::config(
            "process.args",
            "needs at least one entry, the program",
        ));
    }
    let text = |field: &str, index: usize, text: &str| {
        CString::new(text).map_err(|_| {
            Error::config(
                format_args!("process.{field}[{index}]"),
                "contains a NUL byte",
            )
        })
    };
    let mut args = Vec::with_capacity(process.args.len());
    for (index, arg) in process.args.iter().enumerate() {
        args.push(text("args", index, arg)?);
    }
    // Three more may come: HOME, LISTEN_FDS and LISTEN_PID.
    let mut env = Vec::with_capacity(process.env.len() + 3);
    let mut names = std::collections::BTreeSet::new();
    for (index, variable) in process.env.iter().enumerate().rev() {
        let name = match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() => name,
            _ => {
                return Err(Error::config(
                    format_args!("process.env[{index}]"),
                    format_args!("{:?} is not of the form NAME=value", &**variable),
                ));
            }
        };
        let variable = text("env", index, variable)?;
        if names.insert(name) {
            env.push(variable);
        }
    }
    env.reverse();
    Ok(Program { args, env })
}

impl Program {
    /// The value of a variable of the environment.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.iter().find_map(|variable| value(variable, name))
    }

    /// Sets a variable, in place of one that is there. Values with a NUL byte are left out.
    pub fn set_variable(&mut self, name: &str, text: &str) {
        self.env.retain(|variable| value(variable, name).is_none());
        if let Ok(variable) = CString::new(format!("{name}={text}")) {
            self.env.push(variable);
        }
    }

    /// Finds the file to execute, in the root and working directory of the caller and with its rights.
    ///
    /// # Errors
    /// `Exec`: `exec: "x": executable file not found in $PATH`, and for names with a slash
    /// `exec: "/x": stat /x: no such file or directory` or `permission denied`, `is a directory`,
    /// `not a directory`.
    pub fn find(&self) -> Result<CString> {
        let file = &self.args[0];
        let name = file.to_bytes();
        if name.contains(&b'/') {
            return match executable(file) {
                Ok(()) => Ok(file.clone()),
                Err(Failure::Stat(errno)) => Err(Error::system(
                    format!("exec: {0:?}: stat {0}", file.to_string_lossy()),
                    errno,
                )
                .with_kind(Kind::Exec)),
                Err(Failure::Denied(errno)) => Err(denied(file, errno)),
            };
        }
        let mut refused = None;
        if !name.is_empty() {
            let path = self.variable("PATH").unwrap_or(DEFAULT_PATH);
            for dir in path.split(|&byte| byte == b':') {
                // An empty element is the working directory.
                let candidate = if dir.is_empty() {
                    [b"./", name].concat()
                } else {
                    [dir, b"/", name].concat()
                };
                let Ok(candidate) = CString::new(candidate) else {
                    continue;
                };
                match executable(&candidate) {
                    Ok(()) => return Ok(candidate),
                    // execvp(3) goes on, and remembers that there was something.
                    Err(Failure::Denied(_) | Failure::Stat(Errno::ACCESS)) => {
                        refused = Some(Errno::ACCESS);
                    }
                    Err(Failure::Stat(_)) => {}
                }
            }
        }
        Err(match refused {
            Some(errno) => denied(file, errno),
            None => Error::new(
                Kind::Exec,
                format!(
                    "exec: {:?}: executable file not found in $PATH",
                    file.to_string_lossy()
                ),
            ),
        })
    }

    /// Becomes the program at `path`. Returns only when that fails. The signals are to be put right
    /// before: [`super::signals`], [`exec::restore_signals`].
    #[must_use]
    pub fn exec(&self, path: &CStr) -> Error {
        let errno = exec::execve(path, &self.args, &self.env);
        Error::system(format!("exec {}", path.to_string_lossy()), errno).with_kind(Kind::Exec)
    }
}

fn value<'a>(variable: &'a CStr, name: &str) -> Option<&'a [u8]> {
    variable
        .to_bytes()
        .strip_prefix(name.as_bytes())?
        .strip_prefix(b"=")
}

enum Failure {
    Stat(Errno),
    Denied(Errno),
}

fn denied(file: &CStr, errno: Errno) -> Error {
    Error::system(format!("exec: {:?}", file.to_string_lossy()), errno).with_kind(Kind::Exec)
}

/// Whether the caller may execute the file at `path`.
fn executable(path: &CStr) -> std::result::Result<(), Failure> {
    let stat = stat(path).map_err(Failure::Stat)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Failure::Denied(Errno::ISDIR));
    }
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        // A seccomp profile that is older than faccessat2(2); ids do not differ here, so the old call answers alike.
        Err(Errno::PERM) => {
            accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()).map_err(Failure::Denied)
        }
        Err(errno) => Err(Failure::Denied(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::in_child;
    use std::os::unix::fs::PermissionsExt;

    fn program(args: &[&str], env: &[&str]) -> Result<Program> {
        plan(&config::Process {
            args: args.iter().map(|arg| arg.to_string().into()).collect(),
            env: env.iter().map(|text| text.to_string().into()).collect(),
            ..Default::default()
        })
    }

    /// A directory with an executable `tool`, a file `plain` without permission, and a directory `dir`.
    fn bin() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("tool", 0o755), ("plain", 0o644)] {
            let file = dir.path().join(name);
            std::fs::write(&file, "#!/bin/sh\necho tool\n").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        dir
    }

    #[test]
    fn finds_programs_as_execvp_does() {
        let dir = bin();
        let dir = dir.path().to_str().unwrap();
        let find = |name: &str, path: &str| {
            program(&[name], &[path])?
                .find()
                .map(|found| found.into_string().unwrap())
        };
        let path = format!("PATH=/nonexistent:{dir}:/bin");
        assert_eq!(find("tool", &path).unwrap(), format!("{dir}/tool"));
        assert_eq!(find("sh", &path).unwrap(), "/bin/sh");
        assert_eq!(find("/bin/sh", "PATH=").unwrap(), "/bin/sh");
        assert_eq!(find("sh", "X=").unwrap(), "/bin/sh");
        // The empty element is the working directory; relative names with a slash count from it.
        let seen = in_child(|| {
            std::env::set_current_dir(dir).unwrap();
            Ok([
                find("tool", "PATH=:/x")?,
                find("./tool", "PATH=")?,
                find("dir/../tool", "A=")?,
            ]
            .join(" "))
        });
        assert_eq!(seen.unwrap(), "./tool ./tool dir/../tool");
    }

    #[test]
    fn the_texts_that_callers_match() {
        let dir = bin();
        let dir = dir.path().to_str().unwrap();
        let path = format!("PATH={dir}");
        let text = |name: &str| {
            let error = program(&[name], &[&path]).unwrap().find().unwrap_err();
            assert_eq!(error.kind(), Kind::Exec);
            error.to_string()
        };
        assert_eq!(text("x"), "exec: \"x\": executable file not found in $PATH");
        assert_eq!(text(""), "exec: \"\": executable file not found in $PATH");
        assert_eq!(text("plain"), "exec: \"plain\": permission denied");
        assert_eq!(
            text("/x"),
            "exec: \"/x\": stat /x: no such file or directory"
        );
        assert_eq!(
            text("/etc/passwd/x"),
            "exec: \"/etc/passwd/x\": stat /etc/passwd/x: not a directory"
        );
        assert_eq!(text("/etc"), "exec: \"/etc\": is a directory");
        let plain = format!("{dir}/plain");
        assert_eq!(
            text(&plain),
            format!("exec: \"{plain}\": permission denied")
        );
    }

    #[test]
    fn becomes_the_program_with_its_environment_and_signals() {
        let out = tempfile::NamedTempFile::new().unwrap();
        let script = format!(
            "exec >{}; echo $0 $1; tr '\\0' ' ' </proc/$$/environ; \
             while read key value; do case $key in SigBlk:|SigIgn:) echo $key $value;; esac; done </proc/$$/status",
            out.path().display()
        );
        let args = ["sh", "-c", script.as_str(), "zero", "one"];
        let mut program = program(
            &args,
            &["A=1", "PATH=/nowhere", "B=2", "PATH=/bin:/usr/bin", "HOME="],
        )
        .unwrap();
        program.set_variable("HOME", "/root");
        in_child(|| {
            let path = program.find()?;
            exec::default_signals(u64::MAX);
            exec::restore_signals();
            Err(program.exec(&path))
        })
        .unwrap();
        let text = std::fs::read_to_string(out.path()).unwrap();
        let ignored = text
            .strip_prefix(
                "zero one\nA=1 B=2 PATH=/bin:/usr/bin HOME=/root SigBlk: 0000000000000000\nSigIgn: ",
            )
            .unwrap_or_else(|| panic!("{text}"));
        // Real-time signals are left as they are.
        let all = 0x7fff_ffff;
        assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & all, 0);
    }

    #[test]
    fn a_file_without_a_format_is_no_script() {
        let dir = bin();
        let file = dir.path().join("tool");
        std::fs::write(&file, "echo never\n").unwrap();
        let name = file.to_str().unwrap();
        let error = in_child(|| {
            let program = program(&[name], &[])?;
            Err(program.exec(&program.find()?))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("exec {name}: exec format error"));
        assert_eq!(error.kind(), Kind::Exec);
    }

    #[test]
    fn refuses_what_the_kernel_cannot_take() {
        for (args, env, place) in [
            (&[][..], &[][..], "process.args: "),
            (&["a", "b\0"], &[], "process.args[1]: "),
            (&["a"], &["A=\0"], "process.env[0]: "),
            (&["a"], &["A=1", "B"], "process.env[1]: "),
            (&["a"], &["=x"], "process.env[0]: "),
        ] {
            let text = program(args, env).unwrap_err().to_string();
            assert!(text.starts_with(place), "{text}");
        }
    }
}
