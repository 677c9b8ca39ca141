//! [`ProcFs`]: the host's /proc, held open from before anything of the container is mounted.
//!
//! An image can bring a fake /proc or a link there, so that a label meant for
//! the kernel lands in a file of the image's choice (CVE-2019-16884,
//! CVE-2019-19921, CVE-2025-52881). Whoever writes to procfs therefore asks
//! this type, which resolves below its own descriptor, crosses no mount point
//! and looks at what it opened.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, openat};
use rustix::io::{read, write};

use crate::beneath;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fds::Batch;

/// The inode of the top directory of every procfs; a bind mount of a part of it has another one.
const ROOT_INODE: u64 = 1;

/// A verified procfs.
#[derive(Debug)]
pub struct ProcFs(OwnedFd, RefCell<Batch>);

impl ProcFs {
    /// Opens /proc of the caller's mount namespace.
    ///
    /// # Errors
    /// A /proc that is missing, is no procfs, or shows a part of one only.
    pub fn open() -> Result<ProcFs> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            openat(CWD, "/proc", flags, Mode::empty()).context(|| "openat(\"/proc\", O_PATH)")?;
        ProcFs::from_fd(fd)
    }

    /// Takes a descriptor of a procfs from elsewhere.
    ///
    /// # Errors
    /// One that is not the top of a procfs.
    pub fn from_fd(fd: OwnedFd) -> Result<ProcFs> {
        let stat = fstat(&fd).context(|| "fstat(\"/proc\")")?;
        if !is_procfs(&fd)? || stat.st_ino != ROOT_INODE {
            return Err(Error::new(
                Kind::System,
                "/proc is not a procfs; mount one before containers are run",
            ));
        }
        Ok(ProcFs(fd, RefCell::default()))
    }

    /// Closes the descriptor together with others.
    pub fn close(self, spent: &mut Batch) {
        spent.append(self.1.take());
        spent.push(self.0);
    }

    /// Opens `path` below /proc, links like `self` included, mount points and magic links not.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub fn open_file(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        // Nothing that is found so is on another mount than the top, which is a procfs.
        beneath::open(self.as_fd(), path, flags, true)
            .context(|| format!("openat2(\"/proc/{path}\")"))
    }

    /// Opens once more, for what `flags` say, the very object that `file` is a descriptor of.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn reopen(&self, file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let path = format!("self/fd/{}", file.as_raw_fd());
        let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
        openat(self, &path, flags, Mode::empty()).context(|| format!("openat(\"/proc/{path}\")"))
    }

    /// Writes `value` to an existing file below /proc, in one write.
    ///
    /// # Errors
    /// Those of openat2(2) and write(2).
    pub fn write(&self, path: &str, value: &[u8]) -> Result<()> {
        let file = self.open_file(path, OFlags::WRONLY)?;
        let call = || {
            format!(
                "write(\"/proc/{path}\", {:?})",
                String::from_utf8_lossy(value)
            )
        };
        let count = write(&file, value).context(call)?;
        self.1.borrow_mut().push(file);
        if count != value.len() {
            return Err(Error::new(
                Kind::System,
                format!("{}: only {count} bytes were taken", call()),
            ));
        }
        Ok(())
    }

    /// Reads a file below /proc, at most `limit` bytes.
    ///
    /// # Errors
    /// Those of openat2(2) and read(2); a longer file.
    pub fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>> {
        let file = self.open_file(path, OFlags::RDONLY)?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = read(&file, &mut buffer).context(|| format!("read(\"/proc/{path}\")"))?;
            if count == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&buffer[..count]);
            if bytes.len() > limit {
                return Err(Error::new(
                    Kind::System,
                    format!("/proc/{path} is longer than {limit} bytes"),
                ));
            }
        }
    }
}

impl AsFd for ProcFs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_procfs(fd: &OwnedFd) -> Result<bool> {
    Ok(fstatfs(fd).context(|| "fstatfs()")?.f_type == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, is_root, private_mounts};
    use rustix::io::Errno;

    #[test]
    fn reads_and_writes_what_the_process_sees() {
        let seen = in_child(|| {
            let procfs = ProcFs::open()?;
            procfs.write("self/comm", b"renamed")?;
            Ok(String::from_utf8(procfs.read("thread-self/comm", 100)?).unwrap())
        });
        assert_eq!(seen.unwrap(), "renamed\n");
    }

    #[test]
    fn a_directory_that_is_no_procfs_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("self")).unwrap();
        let open = |path: &std::path::Path| {
            ProcFs::from_fd(std::fs::File::open(path).unwrap().into()).is_ok()
        };
        assert!(!open(dir.path()));
        assert!(!open(std::path::Path::new("/proc/sys")));
        assert!(open(std::path::Path::new("/proc")));
    }

    #[test]
    fn leaves_procfs_by_no_way() {
        let procfs = ProcFs::open().unwrap();
        for (path, errno) in [
            ("self/cwd/Cargo.toml", Errno::LOOP),
            ("self/exe", Errno::LOOP),
            ("../etc/hostname", Errno::XDEV),
            ("/etc/hostname", Errno::XDEV),
        ] {
            let error = procfs.open_file(path, OFlags::RDONLY).unwrap_err();
            assert_eq!(error.errno(), Some(errno), "{path}");
        }
    }

    #[test]
    fn a_file_mounted_over_one_of_procfs_is_not_written() {
        if !is_root("a_file_mounted_over_one_of_procfs_is_not_written") {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = in_child(|| {
            private_mounts();
            let comm = format!("/proc/{}/comm", std::process::id());
            rustix::mount::mount_bind(file.path(), comm.as_str()).unwrap();
            ProcFs::open()?.write("self/comm", b"stolen")?;
            Ok(String::new())
        });
        assert_eq!(std::fs::read(file.path()).unwrap(), b"");
        let error = error.unwrap_err();
        assert_eq!(error.errno(), Some(Errno::XDEV), "{error}");
    }
}
