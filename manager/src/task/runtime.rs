//! Which program a runtime's name stands for.
//!
//! | name | program |
//! |---|---|
//! | `io.containerd.knarr.v2` | containerd-shim-knarr-v2 |
//! | `io.containerd.runc.v2` | the same, since clients ask for this one by default; containerd-shim-runc-v2 where the options name another runtime than knarr as the binary |
//! | `X.NAME.VERSION` | containerd-shim-NAME-VERSION |
//! | an absolute path | that program |

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use knarr_proto::any;
use knarr_proto::containerd::runc::v1::Options;
use knarr_proto::prost_types::Any;

use crate::error::{Code, Error, Result};

/// What clients ask for by default.
const RUNC: &str = "io.containerd.runc.v2";

/// What they get.
const KNARR: &str = "io.containerd.knarr.v2";

/// The programs of runtimes: where to look for them.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Which runtime serves the name of another.
    served: BTreeMap<String, String>,
    /// Besides those in `PATH`: the directory of this program.
    beside: Option<PathBuf>,
}

impl Programs {
    /// Those in `PATH`, then those in the directory of this program. `served` says which runtime
    /// serves the name of another.
    #[must_use]
    pub fn new(served: BTreeMap<String, String>) -> Self {
        let own = std::env::current_exe().ok();
        let beside = own.and_then(|own| Some(own.parent()?.to_owned()));
        Self { served, beside }
    }

    /// The program of a runtime, as it is to be used with these options.
    ///
    /// # Errors
    /// `NotFound` where it isn't installed, `InvalidArgument` for a name that is none.
    pub fn find(&self, runtime: &str, options: &[Option<&Any>]) -> Result<PathBuf> {
        let runtime = match (runtime, self.served.get(runtime)) {
            (_, Some(served)) => served,
            (RUNC, None) if !other_binary(options) => KNARR,
            (other, None) => other,
        };
        if runtime.starts_with('/') {
            let path = PathBuf::from(runtime);
            return match std::fs::metadata(&path) {
                Ok(_) => Ok(path),
                Err(error) => {
                    let error = match error.kind() {
                        ErrorKind::NotFound => "no such file or directory".to_owned(),
                        _ => error.to_string(),
                    };
                    let what = format!("invalid custom binary path: stat {runtime}: {error}");
                    Err(Error::new(Code::Unknown, what))
                }
            };
        }
        let mut parts = runtime.rsplit('.');
        let name = match (parts.next(), parts.next()) {
            (Some(version), Some(name))
                if !version.is_empty() && !name.is_empty() && !runtime.contains('/') =>
            {
                format!("containerd-shim-{name}-{version}")
            }
            _ => {
                return Err(Error::invalid(format!(
                    "invalid runtime name {runtime}, correct runtime name should be either format \
                     like `io.containerd.runc.v2` or a full path to the binary"
                )));
            }
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .filter(|dir| dir.is_absolute())
            .chain(self.beside.clone())
            .map(|dir| dir.join(&name))
            .find(|path| is_program(path));
        found.ok_or_else(|| {
            Error::not_found(format!(
                "runtime {runtime:?} binary not installed {name:?}: file does not exist"
            ))
        })
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whether the options name another binary than the runtime that our shim has in it. A bare `runc`
/// is what clients write who mean the default.
fn other_binary(options: &[Option<&Any>]) -> bool {
    let mut all = options.iter().flatten();
    let named = all.find_map(|options| {
        let options: Options = any::unpack(options).ok()?;
        Some(options.binary_name).filter(|name| !name.is_empty())
    });
    named.is_some_and(|name| {
        let file = Path::new(&name).file_name();
        name != "runc" && file != Some(OsStr::new("knarr"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn options(binary: &str) -> Any {
        any::pack(&Options {
            binary_name: binary.to_owned(),
            ..Options::default()
        })
    }

    #[test]
    fn names_stand_for_programs() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["knarr-v2", "runc-v2", "test-v9"] {
            let path = dir.path().join(format!("containerd-shim-{name}"));
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(dir.path().join("containerd-shim-file-v1"), "").unwrap();
        let mut programs = Programs {
            served: BTreeMap::new(),
            beside: Some(dir.path().to_owned()),
        };
        let find = |runtime: &str, binary: &str| {
            let options = options(binary);
            let found = programs.find(runtime, &[None, Some(&options)]);
            found.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        };
        for (runtime, binary, program) in [
            (KNARR, "", "containerd-shim-knarr-v2"),
            (KNARR, "/usr/bin/runc", "containerd-shim-knarr-v2"),
            (RUNC, "", "containerd-shim-knarr-v2"),
            (RUNC, "runc", "containerd-shim-knarr-v2"),
            (RUNC, "/opt/knarr", "containerd-shim-knarr-v2"),
            (RUNC, "/usr/bin/runc", "containerd-shim-runc-v2"),
            (RUNC, "crun", "containerd-shim-runc-v2"),
            ("io.test.v9", "", "containerd-shim-test-v9"),
            ("test.v9", "", "containerd-shim-test-v9"),
        ] {
            assert_eq!(
                find(runtime, binary).unwrap(),
                program,
                "{runtime} {binary}"
            );
        }
        assert_eq!(programs.find("/bin/sh", &[]).unwrap(), Path::new("/bin/sh"));
        for (runtime, code) in [
            ("io.none.v1", Code::NotFound),
            ("io.file.v1", Code::NotFound),
            ("/no/such", Code::Unknown),
            ("runc", Code::InvalidArgument),
            ("", Code::InvalidArgument),
            (".", Code::InvalidArgument),
            ("a/../b.v1", Code::InvalidArgument),
        ] {
            assert_eq!(find(runtime, "").unwrap_err().code(), code, "{runtime}");
        }
        programs.served.insert(RUNC.to_owned(), RUNC.to_owned());
        let found = programs.find(RUNC, &[]).unwrap();
        assert_eq!(found, dir.path().join("containerd-shim-runc-v2"));
    }
}
