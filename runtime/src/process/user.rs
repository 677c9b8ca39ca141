//! `exec --user`, and the home directory of a user in the container's passwd file.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::{Errno, read};

use super::program::Program;
use crate::error::{Error, Kind, Result};
use crate::rootfs::{Links, open_in};
use crate::sys::fds::Batch;

/// How much of a passwd file is read, in bytes; an image could bring one without end.
const MAX_PASSWD: usize = 4 << 20;

/// The longest line that is looked at, in bytes.
const MAX_LINE: usize = 64 << 10;

/// Reads `uid[:gid]`, both numbers. Names are not looked up: an image could map any name to root.
///
/// # Errors
/// `InvalidArgument` for everything that is not one or two numbers from 0 to 4294967294.
pub fn parse(text: &str) -> Result<(u32, Option<u32>)> {
    let refuse = |part: &str, what: &str| {
        Error::new(
            Kind::InvalidArgument,
            format!(
                "user {text:?}: {part:?} is no {what}; use numbers from 0 to 4294967294, as in 1000 or 1000:1000"
            ),
        )
    };
    let id = |part: &str, what: &str| {
        // parse() alone would take a sign.
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse(part, what));
        }
        match part.parse() {
            // The largest number means "unchanged" to setresuid(2).
            Ok(u32::MAX) | Err(_) => Err(refuse(part, what)),
            Ok(id) => Ok(id),
        }
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((id(uid, "user id")?, Some(id(gid, "group id")?))),
        None => Ok((id(text, "user id")?, None)),
    }
}

/// The home directory of `uid` in /etc/passwd below `root`, if it has one: passwd(5).
///
/// Whatever is wrong with the file counts as no entry, because the file is the image's. It is
/// resolved inside `root` (the kernel follows at most 40 links), opened without waiting for
/// the other end of a fifo, and read only if it is a regular file, up to 4 MiB.
pub fn home<Fd: AsFd>(root: Fd, uid: u32) -> Option<String> {
    let mut spent = Batch::default();
    let file = open_inside(root, "etc/passwd", &mut spent).ok()?;
    let mut wanted = None;
    lines(&file, |line| {
        // name:password:uid:gid:comment:home:shell
        let mut fields = line.split(|&byte| byte == b':').skip(2);
        let id = std::str::from_utf8(fields.next()?).ok()?;
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) || id.parse() != Ok(uid) {
            return None;
        }
        wanted = fields
            .nth(2)
            .and_then(|home| std::str::from_utf8(home).ok())
            .map(str::to_owned);
        Some(())
    });
    spent.push(file);
    // A control character could end a line or a variable of somebody who parses HOME.
    wanted.filter(|home| home.starts_with('/') && !home.chars().any(char::is_control))
}

/// Sets HOME where the environment has none, to the home directory of `uid` below `root`, else to `/`.
/// Callers expect it though the specification does not ask for it; a shell without HOME is of little use.
pub fn set_home<Fd: AsFd>(program: &mut Program, root: Fd, uid: u32) {
    if program.variable("HOME").is_none_or(<[u8]>::is_empty) {
        let home = home(root, uid);
        program.set_variable("HOME", home.as_deref().unwrap_or("/"));
    }
}

fn open_inside<Fd: AsFd>(
    root: Fd,
    path: &str,
    spent: &mut Batch,
) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Looked at before it is opened: opening a device can do something by itself.
    let place = open_in(root.as_fd(), path, OFlags::PATH, Links::Follow)?;
    if FileType::from_raw_mode(fstat(&place)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let file = open_in(root.as_fd(), path, flags, Links::Follow)?;
    // It may have been replaced in between.
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    spent.push(place);
    Ok(file)
}

/// Calls `f` with each line until it returns something.
fn lines(file: &OwnedFd, mut f: impl FnMut(&[u8]) -> Option<()>) {
    let mut line: Vec<u8> = Vec::new();
    let mut buffer = [0; 8192];
    let mut left = MAX_PASSWD;
    while left > 0 {
        let count = match read(file, &mut buffer) {
            Ok(0) => {
                f(&line);
                return;
            }
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        left = left.saturating_sub(count);
        let mut rest = &buffer[..count];
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            line.extend_from_slice(&rest[..end]);
            if f(&line).is_some() {
                return;
            }
            line.clear();
            rest = &rest[end + 1..];
        }
        line.extend_from_slice(rest);
        if line.len() > MAX_LINE {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::path::Path;

    #[test]
    fn reads_numbers_only_and_never_wraps() {
        assert_eq!(parse("0").unwrap(), (0, None));
        assert_eq!(parse("1000:007").unwrap(), (1000, Some(7)));
        assert_eq!(parse("4294967294:1").unwrap(), (4_294_967_294, Some(1)));
        for bad in [
            "",
            ":",
            "1:",
            ":1",
            "1:2:3",
            "-1",
            "+1",
            "1:-1",
            " 1",
            "1 ",
            "0x1",
            "root",
            "1:root",
            "4294967295",
            "4294967296",
            "0:4294967295",
            "18446744073709551616",
            "1e3",
            "１",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_its_numbers_or_an_error(text in "[0-9:+\\- a-z]{0,24}|.{0,12}") {
            if let Ok((uid, gid)) = parse(&text) {
                // Written back it is the same text, but for leading zeros.
                let strip = |text: &str| {
                    let digits = text.trim_start_matches('0');
                    if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
                };
                let back: Vec<String> = text.split(':').map(strip).collect();
                let mut ids = vec![uid.to_string()];
                ids.extend(gid.map(|gid| gid.to_string()));
                prop_assert_eq!(back, ids);
            }
        }

        #[test]
        fn any_passwd_file_is_survived(text in proptest::collection::vec(any::<u8>(), 0..400), uid in 0u32..3) {
            let dir = root_with(&text);
            let home = home(File::open(dir.path()).unwrap(), uid);
            prop_assert!(home.is_none_or(|home| home.starts_with('/')));
        }
    }

    fn root_with(passwd: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        dir
    }

    fn home_in(dir: &Path, uid: u32) -> Option<String> {
        home(File::open(dir).unwrap(), uid)
    }

    #[test]
    fn finds_the_first_entry_of_a_user() {
        let dir = root_with(
            b"# comment\nbroken\nroot:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:\nagain:x:1000:1:::\n\
              rel:x:5:5::home:\nctl:x:6:6::/a\tb:\nwrap:x:4294967296:0::/wrap:\nplus:x:+7:7::/plus:\nlast:x:9:9::/last",
        );
        let home = |uid| home_in(dir.path(), uid);
        assert_eq!(home(0).unwrap(), "/root");
        assert_eq!(home(1000).unwrap(), "/home/me");
        assert_eq!(home(9).unwrap(), "/last");
        for uid in [5, 6, 7, 8, 4_294_967_294] {
            assert_eq!(home(uid), None);
        }
    }

    #[test]
    fn home_is_set_where_it_is_missing() {
        let dir = root_with(b"me:x:1000:1000::/home/me:\n");
        let home = |env: &[&'static str], uid| {
            let process = crate::spec::config::Process {
                args: vec!["x".into()],
                env: env.iter().map(|&variable| variable.into()).collect(),
                ..Default::default()
            };
            let mut program = crate::process::program::plan(&process).unwrap();
            set_home(&mut program, File::open(dir.path()).unwrap(), uid);
            String::from_utf8(program.variable("HOME").unwrap().to_vec()).unwrap()
        };
        assert_eq!(home(&["A=1"], 1000), "/home/me");
        assert_eq!(home(&["HOME="], 1000), "/home/me");
        assert_eq!(home(&["HOME=/own"], 1000), "/own");
        assert_eq!(home(&[], 7), "/");
    }

    #[test]
    fn links_stay_inside_the_root() {
        let dir = root_with(b"");
        let passwd = dir.path().join("etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        std::fs::write(dir.path().join("real"), "u:x:1:1::/inside:\n").unwrap();
        std::os::unix::fs::symlink("/../../../real", &passwd).unwrap();
        assert_eq!(home_in(dir.path(), 1).unwrap(), "/inside");
        std::fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("/proc/self/fd/0", &passwd).unwrap();
        assert_eq!(home_in(dir.path(), 1), None);
        std::fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("passwd", &passwd).unwrap();
        assert_eq!(home_in(dir.path(), 1), None);
    }

    #[test]
    fn a_fifo_a_directory_and_an_endless_file_are_no_passwd() {
        let dir = root_with(b"");
        let passwd = dir.path().join("etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        assert_eq!(home_in(dir.path(), 0), None);
        std::fs::create_dir(&passwd).unwrap();
        assert_eq!(home_in(dir.path(), 0), None);
        std::fs::remove_dir(&passwd).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &passwd,
            FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(home_in(dir.path(), 0), None);
        std::fs::remove_file(&passwd).unwrap();
        // 1 TiB of nothing: one line that does not end.
        File::create(&passwd).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(home_in(dir.path(), 0), None);
        let mut many = "x:x:7:7::/x:\n".repeat(MAX_PASSWD / 13 + 1);
        many.push_str("root:x:0:0::/late:\n");
        std::fs::write(&passwd, many).unwrap();
        assert_eq!(home_in(dir.path(), 0), None);
    }
}
