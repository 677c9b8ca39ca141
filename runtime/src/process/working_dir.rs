//! `process.cwd`: entering it without leaving the container.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{fchdir, getcwd};

use crate::error::{Context, Error, Kind, Result};

/// Makes `path` the working directory, in the root directory of the caller.
///
/// Descriptors that the caller left open would lead out of the container through
/// `/proc/self/fd/N` (CVE-2024-21626): magic links are not followed, and the
/// directory must be reachable from the root afterwards.
///
/// # Errors
/// `InvalidConfig` for a path that is not absolute; those of openat2(2); a directory outside the root.
pub fn enter(path: &str) -> Result<()> {
    if !path.starts_with('/') {
        return Err(Error::config(
            "process.cwd",
            format_args!("{path:?} is not absolute"),
        ));
    }
    let dir = openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    )
    .context(|| format!("process.cwd: chdir({path:?})"))?;
    fchdir(&dir).context(|| format!("process.cwd: chdir({path:?})"))?;
    let inside = getcwd(Vec::new()).is_ok_and(|cwd| cwd.as_bytes().starts_with(b"/"));
    if !inside {
        return Err(Error::new(
            Kind::InvalidConfig,
            format!("process.cwd: {path:?} is outside the container's root file system"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::in_child;
    use std::os::fd::AsRawFd;

    #[test]
    fn enters_directories_and_follows_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let path = dir.path().join("link");
        let seen = in_child(|| {
            enter(path.to_str().unwrap())?;
            Ok(std::env::current_dir().unwrap().display().to_string())
        });
        assert!(seen.unwrap().ends_with("/real"));
    }

    #[test]
    fn open_descriptors_are_no_way_out() {
        let host = std::fs::File::open("/").unwrap();
        let error = in_child(|| {
            enter(&format!("/proc/self/fd/{}", host.as_raw_fd()))?;
            Ok(String::new())
        });
        assert_eq!(error.unwrap_err().errno(), Some(rustix::io::Errno::LOOP));
    }

    #[test]
    fn says_what_is_wrong() {
        for (path, expected) in [
            ("etc", "process.cwd: \"etc\" is not absolute"),
            ("", "process.cwd: \"\" is not absolute"),
            (
                "/nonexistent",
                "process.cwd: chdir(\"/nonexistent\"): no such file or directory",
            ),
            (
                "/etc/passwd",
                "process.cwd: chdir(\"/etc/passwd\"): not a directory",
            ),
        ] {
            assert_eq!(enter(path).unwrap_err().to_string(), expected);
        }
    }
}
