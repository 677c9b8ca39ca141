//! Files and directories of a cgroup file system: read, write, make, remove.
//!
//! Belongs here: what is the same for every version of cgroups. Does not: what
//! a file means. Paths are absolute and on the host: no container can make a
//! symbolic link in a cgroup file system, so that they may be followed.

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::sys::fds::Batch;

/// Joins a directory and a name, `a/b`, without doubling slashes.
pub(super) fn join(dir: &str, name: &str) -> String {
    let (dir, name) = (dir.trim_end_matches('/'), name.trim_matches('/'));
    if name.is_empty() {
        return dir.to_owned();
    }
    let mut path = String::with_capacity(dir.len() + name.len() + 1);
    path.push_str(dir);
    path.push('/');
    path.push_str(name);
    path
}

/// A path without `.`, `..` and empty components, so that it cannot leave the place it is joined to.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Opens a control file for writing.
pub(super) fn open_write(path: &str) -> std::result::Result<rustix::fd::OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY,
        Mode::empty(),
    )
}

/// Writes a value in one write(2), as control files want it.
pub(super) fn write_fd(fd: impl rustix::fd::AsFd, value: &[u8]) -> std::result::Result<(), Errno> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, value))?;
    if written == value.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

/// Writes a value into the file `dir/name`.
pub(super) fn write(dir: &str, name: &str, value: &str) -> std::result::Result<(), Errno> {
    let fd = open_write(&join(dir, name))?;
    write_fd(fd, value.as_bytes())
}

/// As [`write()`]; the file is closed later, with others.
pub(super) fn write_among(
    dir: &str,
    name: &str,
    value: &str,
    spent: &mut Batch,
) -> std::result::Result<(), Errno> {
    let fd = open_write(&join(dir, name))?;
    let result = write_fd(&fd, value.as_bytes());
    spent.push(fd);
    result
}

/// A failed write, as strace prints it.
pub(super) fn write_error(dir: &str, name: &str, value: &str, errno: Errno) -> Error {
    Error::system(format!("write(\"{}\", {value:?})", join(dir, name)), errno)
}

/// The contents of `dir/name`, without the newline at its end.
pub(super) fn read(dir: &str, name: &str) -> std::result::Result<String, Errno> {
    read_among(dir, name, &mut Batch::default())
}

/// As [`read`]; the file is closed later, with others.
pub(super) fn read_among(
    dir: &str,
    name: &str,
    spent: &mut Batch,
) -> std::result::Result<String, Errno> {
    read_until(&join(dir, name), PAGE / 2, spent)
}

/// What the kernel collects of a file before it hands it out.
const PAGE: usize = 4096;

/// The contents of a file, without the newline at its end.
pub(super) fn read_path(path: &str) -> std::result::Result<String, Errno> {
    read_until(path, 0, &mut Batch::default())
}

/// Reads a file to its end, which has come where less than `short` bytes are read: a control file is
/// handed out a page at a time, and no line in one is so long that half of the page stays empty.
fn read_until(path: &str, short: usize, spent: &mut Batch) -> std::result::Result<String, Errno> {
    let fd = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )?;
    let mut bytes = Vec::new();
    loop {
        let length = bytes.len();
        bytes.resize(length + PAGE, 0);
        let read = rustix::io::retry_on_intr(|| {
            let (_, rest) = bytes.split_at_mut(length);
            rustix::io::read(&fd, rest)
        })?;
        bytes.truncate(length + read);
        if read == 0 || read < short {
            break;
        }
    }
    spent.push(fd);
    let end = bytes
        .iter()
        .rposition(|byte| *byte != b'\n')
        .map_or(0, |at| at + 1);
    bytes.truncate(end);
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// As [`read`], with an error that names the file.
pub(super) fn read_text(dir: &str, name: &str) -> Result<String> {
    read(dir, name).context(|| format!("read(\"{}\")", join(dir, name)))
}

/// The mode of a cgroup's directory.
pub(super) const MODE: Mode = Mode::from_raw_mode(0o755);

/// Makes the directory `base/below` and what is missing above it, down from `base`: by [`missing_dirs`]
/// `missing` directories, or 1 where nobody has looked.
/// Returns how many directories were made, counted from the end of the path.
///
/// # Errors
/// mkdir(2); what was made before the failure is removed.
pub(super) fn make_dirs(path: &str, base_length: usize, missing: usize) -> Result<usize> {
    let expected = missing;
    // A container that shares a parent may be deleted, and the parent with it,
    // between our two mkdir(2): begin again then.
    let mut attempts = 0;
    loop {
        let mut missing: Vec<&str> = Vec::new();
        let mut current = path;
        for _ in 1..expected {
            let Some(at) = current.rfind('/').filter(|at| *at > base_length) else {
                break;
            };
            missing.push(current);
            (current, _) = current.split_at(at);
        }
        let deepest = loop {
            match rustix::fs::mkdir(current, MODE) {
                Ok(()) => break 1,
                Err(Errno::EXIST) => break 0,
                Err(Errno::NOENT) => {
                    let Some(at) = current.rfind('/').filter(|at| *at > base_length) else {
                        return Err(Error::system(format!("mkdir(\"{current}\")"), Errno::NOENT));
                    };
                    missing.push(current);
                    let (above, _) = current.split_at(at);
                    current = above;
                }
                Err(errno) => return Err(Error::system(format!("mkdir(\"{current}\")"), errno)),
            }
        };
        let mut made = deepest;
        let mut failed = None;
        for dir in missing.iter().rev() {
            match rustix::fs::mkdir(*dir, MODE) {
                Ok(()) => made += 1,
                // Made by another at the same time: not ours to remove, nor what is above it.
                Err(Errno::EXIST) => made = 0,
                Err(errno) => {
                    failed = Some((*dir, errno));
                    break;
                }
            }
        }
        let Some((dir, errno)) = failed else {
            return Ok(made);
        };
        let (above, _) = dir.split_at(dir.rfind('/').unwrap_or(dir.len()));
        remove_made(above, made);
        attempts += 1;
        if errno != Errno::NOENT || attempts == 5 {
            return Err(Error::system(format!("mkdir(\"{dir}\")"), errno));
        }
    }
}

/// How many directories at the path's end are missing: those that [`make_dirs`] would make.
pub(super) fn missing_dirs(path: &str, base_length: usize) -> usize {
    let exists = |path| rustix::fs::access(path, Access::EXISTS) != Err(Errno::NOENT);
    let above = |path: &str| path.rfind('/').filter(|at| *at >= base_length);
    // The directory above first: where that is missing, so is the last one.
    let mut missing = 1;
    let mut current = path;
    while let Some(at) = above(current).filter(|at| *at > base_length) {
        (current, _) = current.split_at(at);
        if exists(current) {
            break;
        }
        missing += 1;
    }
    if missing == 1 && (above(path).is_none() || exists(path)) {
        return 0;
    }
    missing
}

/// Removes the last `made` directories of a path as far as they are empty. One that is missing
/// was planned and never made.
pub(super) fn remove_made(path: &str, made: usize) {
    let mut current = path;
    for _ in 0..made {
        if !matches!(rustix::fs::rmdir(current), Ok(()) | Err(Errno::NOENT)) {
            return;
        }
        let (above, _) = current.split_at(current.rfind('/').unwrap_or(0));
        current = above;
    }
}

/// Names of the directories in a directory.
pub(super) fn subdirs(path: &str) -> std::result::Result<Vec<String>, Errno> {
    let fd = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        Mode::empty(),
    )?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(fd)? {
        let entry = entry?;
        if entry.file_type() != rustix::fs::FileType::Directory {
            continue;
        }
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) => names.push(name.to_owned()),
            // The kernel allows any bytes; what is not UTF-8 is none of ours.
            Err(_) => {}
        }
    }
    Ok(names)
}

/// How often, and with which pauses, a cgroup is asked to go away while its last tasks exit.
const REMOVE_ATTEMPTS: u32 = 12;

/// Removes a cgroup with everything below it; a missing one is no error.
///
/// A cgroup stays busy for a moment after its last process was reaped.
///
/// # Errors
/// rmdir(2) once the attempts (about 2 s) are used up.
pub(super) fn remove_tree(path: &str) -> Result<()> {
    let mut pause = 1;
    for attempt in 0.. {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) if attempt < REMOVE_ATTEMPTS => {}
            Err(errno) => return Err(Error::system(format!("rmdir(\"{path}\")"), errno)),
        }
        let below = subdirs(path).unwrap_or_default();
        if below.is_empty() || attempt > 0 {
            pause_ms(pause);
            pause = (pause * 2).min(500);
        }
        for name in below {
            // What cannot go yet keeps its parent busy, and that is reported.
            let _ = remove_children_first(&join(path, &name), 0);
        }
    }
    Ok(())
}

/// Depth beyond which no cgroup is looked for: more than any nested manager makes,
/// and less than what would exhaust the stack.
const MAX_DEPTH: usize = 128;

fn remove_children_first(path: &str, depth: usize) -> std::result::Result<(), Errno> {
    if depth < MAX_DEPTH {
        for name in subdirs(path)? {
            let _ = remove_children_first(&join(path, &name), depth + 1);
        }
    }
    rustix::fs::rmdir(path)
}

/// Sleeps.
pub(super) fn pause_ms(milliseconds: u64) {
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}

/// The pids in `file` of a cgroup and of all cgroups below it.
pub(super) fn pids_below(path: &str, pids: &mut Vec<u32>) -> std::result::Result<(), Errno> {
    collect_pids(path, pids, 0)
}

fn collect_pids(path: &str, pids: &mut Vec<u32>, depth: usize) -> std::result::Result<(), Errno> {
    let own = match read(path, "cgroup.procs") {
        // A threaded cgroup has its processes listed in the root of its domain.
        Err(Errno::OPNOTSUPP) => String::new(),
        other => other?,
    };
    // 0 is a process of a pid namespace that we do not see.
    pids.extend(
        own.lines()
            .filter_map(|line| line.parse::<u32>().ok())
            .filter(|pid| *pid != 0),
    );
    if depth < MAX_DEPTH {
        for name in subdirs(path)? {
            match collect_pids(&join(path, &name), pids, depth + 1) {
                // Removed meanwhile.
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_lead_nowhere() {
        for (path, cleaned) in [
            ("/a/b", "a/b"),
            ("a//b/./c/", "a/b/c"),
            ("../../a", "a"),
            ("/a/../../b", "b"),
            ("/", ""),
            ("a/..", ""),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn makes_what_is_missing_and_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_str().unwrap();
        let path = join(base, "a/b/c");
        // However many somebody has counted before, too few or too many.
        for expected in [3, 1, 2, 9] {
            assert_eq!(missing_dirs(&path, base.len()), 3);
            assert_eq!(make_dirs(&path, base.len(), expected).unwrap(), 3);
            assert_eq!(missing_dirs(&path, base.len()), 0);
            assert_eq!(make_dirs(&path, base.len(), 1).unwrap(), 0);
            assert_eq!(missing_dirs(&join(&path, "d"), base.len()), 1);
            assert_eq!(missing_dirs(&join(&path, "d/e/f/g"), base.len()), 4);
            assert_eq!(make_dirs(&join(&path, "d"), base.len(), 2).unwrap(), 1);
            remove_made(&join(&path, "d"), 1);
            std::fs::remove_dir(&path).unwrap();
            assert_eq!(missing_dirs(&path, base.len()), 1);
            remove_made(&path, 3);
            assert_eq!(subdirs(base).unwrap(), Vec::<String>::new());
        }
        assert_eq!(missing_dirs(base, base.len()), 0);
    }

    #[test]
    fn does_not_make_the_mount_point_itself() {
        let dir = tempfile::tempdir().unwrap();
        let base = join(dir.path().to_str().unwrap(), "gone");
        let error = make_dirs(&join(&base, "a"), base.len(), 1).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOENT));
    }
}
