//! Mounting and unmounting: what mount(8) does with a type, a source and options.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::{plan, sys};
use crate::error::{Code, Error, Result};
use crate::store::database::now;
use crate::store::schema::{ActiveMount, Mount};

/// The most bytes of options that mount(2) takes.
const PAGE: usize = 4095;

/// How often a mount point is unmounted: others may have mounted upon it.
const LAYERS: usize = 64;

/// Options that are flags, and whether they set or clear them. mount(8).
const FLAGS: [(&str, bool, MountFlags); 16] = [
    ("ro", true, MountFlags::RDONLY),
    ("rw", false, MountFlags::RDONLY),
    ("nosuid", true, MountFlags::NOSUID),
    ("suid", false, MountFlags::NOSUID),
    ("nodev", true, MountFlags::NODEV),
    ("dev", false, MountFlags::NODEV),
    ("noexec", true, MountFlags::NOEXEC),
    ("exec", false, MountFlags::NOEXEC),
    ("sync", true, MountFlags::SYNCHRONOUS),
    ("async", false, MountFlags::SYNCHRONOUS),
    ("dirsync", true, MountFlags::DIRSYNC),
    ("noatime", true, MountFlags::NOATIME),
    ("nodiratime", true, MountFlags::NODIRATIME),
    ("relatime", true, MountFlags::RELATIME),
    ("strictatime", true, MountFlags::STRICTATIME),
    ("defaults", false, MountFlags::empty()),
];

/// What options mean.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    /// What the file system itself is told.
    data: String,
    /// The source is a file of which a loop device is made.
    looped: bool,
    /// `Some(true)` for all that is mounted below as well.
    bind: Option<bool>,
}

fn parse(options: &[String]) -> Options {
    let mut parsed = Options {
        flags: MountFlags::empty(),
        data: String::new(),
        looped: false,
        bind: None,
    };
    for option in options {
        if let Some((_, set, flag)) = FLAGS.iter().find(|(name, ..)| name == option) {
            parsed.flags.set(*flag, *set);
            continue;
        }
        match option.as_str() {
            "loop" => parsed.looped = true,
            "bind" => parsed.bind = Some(false),
            "rbind" => parsed.bind = Some(true),
            _ => {
                if !parsed.data.is_empty() {
                    parsed.data.push(',');
                }
                parsed.data.push_str(option);
            }
        }
    }
    parsed
}

/// Makes a mount at `point`, where nothing is yet.
///
/// # Errors
/// What the kernel says; `InvalidArgument` where it would not understand.
pub(super) fn make(mount: Mount, point: &Path) -> Result<ActiveMount> {
    let options = parse(&mount.options);
    if mount.kind == plan::LOOP {
        let read_only = options.flags.contains(MountFlags::RDONLY);
        let device = sys::attach(Path::new(&mount.source), read_only, false)?;
        let path = device.path.display().to_string();
        if let Err(error) = std::os::unix::fs::symlink(&device.path, point) {
            let _ = sys::detach(&device.path);
            return Err(Error::io(point.display(), &error));
        }
        return Ok(ActiveMount {
            // Mounts after it ask for its source, and mean the device.
            mount: Mount {
                source: path.clone(),
                ..mount
            },
            point: point.display().to_string(),
            mounted: now(),
            device: path,
        });
    }
    prepare_point(&mount, &options, point)?;
    if let Err(error) = mount_at(&mount, &options, point) {
        let _ = unmake(point);
        return Err(error);
    }
    Ok(ActiveMount {
        mount,
        point: point.display().to_string(),
        mounted: now(),
        device: String::new(),
    })
}

/// A directory to mount at, or a file where a file is to be bound.
fn prepare_point(mount: &Mount, options: &Options, point: &Path) -> Result<()> {
    let file =
        options.bind.is_some() && fs::metadata(&mount.source).is_ok_and(|source| !source.is_dir());
    let made = match file {
        true => fs::File::create_new(point).map(drop),
        false => fs::create_dir(point),
    };
    made.map_err(|error| Error::io(point.display(), &error))
}

fn mount_at(mount: &Mount, options: &Options, point: &Path) -> Result<()> {
    let what = || format!("mount of {:?} as {}", mount.source, mount.kind);
    let failed = |errno: Errno| refused(&what(), errno);
    let text = |text: &str| {
        CString::new(text).map_err(|_| Error::invalid(format!("{}: a zero byte", what())))
    };
    if options.data.len() > PAGE {
        return Err(Error::invalid(format!(
            "{}: {} bytes of options, and mount(2) takes {PAGE}",
            what(),
            options.data.len()
        )));
    }
    if let Some(recursive) = options.bind {
        let source = text(&mount.source)?;
        match recursive {
            true => rustix::mount::mount_bind_recursive(&source, point),
            false => rustix::mount::mount_bind(&source, point),
        }
        .map_err(failed)?;
        if options.flags.is_empty() {
            return Ok(());
        }
        // The kernel takes flags of a bind mount in a second step only.
        let flags = MountFlags::BIND | options.flags;
        return rustix::mount::mount_remount(point, flags, c"").map_err(failed);
    }
    // It goes with the mount; the descriptor holds it until then.
    let device = match options.looped {
        true => {
            let read_only = options.flags.contains(MountFlags::RDONLY);
            Some(sys::attach(Path::new(&mount.source), read_only, true)?)
        }
        false => None,
    };
    let source = match &device {
        Some(device) => text(&device.path.display().to_string())?,
        None => text(&mount.source)?,
    };
    let data = text(&options.data)?;
    let data = Some(data.as_c_str()).filter(|data| !data.is_empty());
    let kind = text(&mount.kind)?;
    rustix::mount::mount(&source, point, &kind, options.flags, data).map_err(failed)
}

/// What the kernel said to a mount, in the classes that clients know.
fn refused(what: &str, errno: Errno) -> Error {
    let code = match errno {
        Errno::NODEV | Errno::INVAL | Errno::NOTBLK | Errno::NOTDIR => Code::InvalidArgument,
        _ => return Error::io(what, &errno.into()),
    };
    Error::new(code, format!("{what}: {}", std::io::Error::from(errno)))
}

/// Unmounts what is at `point`, and removes the point. Nothing there is fine.
///
/// # Errors
/// What the kernel says.
pub(super) fn unmake(point: &Path) -> Result<()> {
    let broken = |error| Error::io(point.display(), &error);
    let found = match fs::symlink_metadata(point) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(broken(error)),
    };
    if found.is_symlink() {
        sys::detach(&fs::read_link(point).map_err(broken)?)?;
        return fs::remove_file(point).map_err(broken);
    }
    for _ in 0..LAYERS {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(point, flags) {
            Ok(()) => {}
            // Nothing is mounted there.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(broken(errno.into())),
        }
    }
    let found = fs::symlink_metadata(point).map_err(broken)?;
    match found.is_dir() {
        true => fs::remove_dir(point),
        false => fs::remove_file(point),
    }
    .map_err(broken)
}

/// Where something is mounted, as this process sees it. proc_pid_mountinfo(5).
pub(super) fn mount_points() -> Result<HashSet<PathBuf>> {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(|point| PathBuf::from(unescape(point))).collect())
}

/// Spaces and the like are octal there.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let escape = part.get(..3).zip(part.get(3..));
        let byte = escape.and_then(|(code, rest)| Some((u8::from_str_radix(code, 8).ok()?, rest)));
        match byte {
            Some((byte, rest)) => {
                out.push(char::from(byte));
                out.push_str(rest);
            }
            None => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

/// Makes directories below `root`, through no symbolic link. The last gets mode and owner where it
/// was not there.
///
/// # Errors
/// Where a name leads out of `root`; where the file system fails.
pub(super) fn make_dirs_beneath(
    root: &Path,
    below: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<()> {
    let whole = root.join(below);
    let failed = |errno: Errno| Error::io(whole.display(), &errno.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir: OwnedFd = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
    let mut made = false;
    for component in below.components() {
        let Component::Normal(name) = component else {
            return Err(Error::invalid(format!(
                "{}: it leads out of the mount",
                whole.display()
            )));
        };
        made = match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(failed(errno)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        dir = rustix::fs::openat2(dir.as_fd(), name, flags, Mode::empty(), resolve)
            .map_err(failed)?;
    }
    if made {
        if let Some((uid, gid)) = owner {
            let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::fchown(&dir, owner.0, owner.1).map_err(failed)?;
        }
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_data() {
        let options = |text: &str| {
            let options: Vec<String> = text.split(',').map(str::to_owned).collect();
            parse(&options)
        };
        let parsed = options("ro,nosuid,rw,loop,size=1m,mode=700");
        assert_eq!(parsed.flags, MountFlags::NOSUID);
        assert_eq!(parsed.data, "size=1m,mode=700");
        assert!(parsed.looped && parsed.bind.is_none());
        assert_eq!(options("rbind,ro").bind, Some(true));
    }

    #[test]
    fn mount_points_are_read_as_they_are() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/a\\9"), "/a\\9");
        assert!(mount_points().unwrap().contains(Path::new("/proc")));
    }
}
