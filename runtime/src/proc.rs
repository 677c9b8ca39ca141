//! Facts about processes, read from /proc.

use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::clone;

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// `EFBIG` for a longer one, and what read(2) says.
pub(crate) fn read_bounded(fd: OwnedFd, limit: usize) -> std::io::Result<Vec<u8>> {
    let size = usize::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(Errno::FBIG.into());
    }
    // Usually all, in one call. One byte more than expected, so that the end is seen without growing.
    // The kernel's own files have no size, and some of them no second piece.
    let room = if size == 0 { 4096 } else { size + 1 };
    let mut contents = Vec::with_capacity(room);
    let read = rustix::io::retry_on_intr(|| {
        rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut contents))
    })?;
    if read == size && size > 0 {
        return Ok(contents);
    }
    std::fs::File::from(fd)
        .take((limit + 1 - read) as u64)
        .read_to_end(&mut contents)?;
    if contents.len() > limit {
        return Err(Errno::FBIG.into());
    }
    Ok(contents)
}

/// What tells one process from another with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The pid, as the procfs shows it.
    pub pid: i32,
    /// The pid of its parent.
    pub parent: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Whether it runs, that is, is no zombie.
    pub alive: bool,
}

/// Looks a process up; `None` where there is none. proc_pid_stat(5).
pub(crate) fn identity(pid: i32) -> Result<Option<Identity>> {
    let path = format!("/proc/{pid}/stat");
    let fd = match openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::system(format!("open({path})"), errno)),
    };
    let mut buffer = [0u8; 1024];
    let read = match rustix::io::read(&fd, &mut buffer) {
        Ok(read) => read,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(Error::system(format!("read({path})"), errno)),
    };
    parse_stat(buffer.get(..read).unwrap_or_default())
        .map(Some)
        .ok_or_else(|| Error::new(Kind::System, format!("{path} has an unknown form")))
}

/// As [`identity`], from the open file /proc/PID/stat.
pub(crate) fn identity_in(stat: &OwnedFd) -> Option<Identity> {
    let mut buffer = [0u8; 1024];
    let read = rustix::io::read(stat, &mut buffer).ok()?;
    parse_stat(buffer.get(..read)?)
}

/// The standard signals that a process ignores, from the open file /proc/PID/stat: the lowest bit is
/// signal 1's.
pub(crate) fn ignored_signals(stat: &OwnedFd) -> Option<u64> {
    let mut buffer = [0u8; 1024];
    let read = rustix::io::read(stat, &mut buffer).ok()?;
    // The 33rd field.
    fields(buffer.get(..read)?)?.nth(30)?.parse().ok()
}

/// The fields of /proc/PID/stat from the third on.
fn fields(stat: &[u8]) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    // The second field is the command in parentheses and may contain anything, ") " too.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    Some(rest.split_ascii_whitespace())
}

fn parse_stat(stat: &[u8]) -> Option<Identity> {
    let mut fields = fields(stat)?;
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let start_time = fields.nth(17)?.parse().ok()?;
    let pid = stat.split(|byte| *byte == b' ').next()?;
    let pid = std::str::from_utf8(pid).ok()?;
    Some(Identity {
        pid: pid.parse().ok()?,
        parent,
        start_time,
        alive: !matches!(state, "Z" | "X" | "x"),
    })
}

/// The processes in the pid namespace of `pid`, as far as the caller may look into them.
///
/// # Errors
/// /proc cannot be read, or `pid` may not be looked into.
pub(crate) fn pids_with(pid: i32) -> Result<Vec<u32>> {
    let namespace = |pid: &str| {
        let path = format!("/proc/{pid}/ns/pid");
        rustix::fs::stat(&path).map_err(|errno| Error::system(format!("stat({path})"), errno))
    };
    let wanted = namespace(&pid.to_string())?;
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").context(|| "open(/proc)")? {
        let name = entry.context(|| "getdents(/proc)")?.file_name();
        let Some((name, number)) = name
            .to_str()
            .and_then(|name| Some((name, name.parse().ok()?)))
        else {
            continue;
        };
        // Others end meanwhile, or are not the caller's.
        if namespace(name)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino))
        {
            pids.push(number);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The name of a user of the host, or the number where it has none.
pub(crate) fn user_name(uid: u32) -> String {
    let name = std::fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|passwd| {
            let wanted = uid.to_string();
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)? == wanted).then(|| name.to_owned())
            })
        });
    name.unwrap_or_else(|| uid.to_string())
}

/// Makes sure that this process has one thread: only then may it be forked into anything but exec.
///
/// # Errors
/// `InvalidArgument` where it has more.
pub(crate) fn require_one_thread() -> Result<()> {
    // Does nothing to a process with one thread, and fails for others.
    if clone::unshare(clone::flags::THREAD).is_ok() {
        return Ok(());
    }
    // It may have failed because the caller may not use it.
    let links = rustix::fs::stat("/proc/self/task")
        .context(|| "stat(/proc/self/task)")?
        .st_nlink;
    // One for the name, one for ".", one for each thread.
    if links > 3 {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "a process with {} threads cannot make containers: do it from one with a single thread",
                links - 2
            ),
        ));
    }
    Ok(())
}

/// Replaces `\\ooo`, which mountinfo has for blanks and backslashes: proc_pid_mountinfo(5).
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_whatever_the_command_is_called() {
        let tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for command in ["sh", "a) Z 1 2", ") ) )", ""] {
            let line = format!("7 ({command}){tail}");
            assert_eq!(
                parse_stat(line.as_bytes()),
                Some(Identity {
                    pid: 7,
                    parent: 1,
                    start_time: 4711,
                    alive: true
                })
            );
        }
        assert_eq!(parse_stat(b"7 (sh"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn finds_itself_alive() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        assert!(identity(pid).unwrap().unwrap().alive);
        assert_eq!(identity(i32::MAX).unwrap(), None);
    }
}
