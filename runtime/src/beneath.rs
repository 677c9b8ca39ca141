//! Opening files of the kernel's own file systems (procfs, resctrl) below a directory that is held.
//!
//! Belongs here: a look-up that leaves neither the directory nor its mount, with openat2(2) and
//! without. Does not: look-ups below a container's root, where links are followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;

use crate::rootfs::{SELF, mount_id};

/// Opens `path`, relative, below `directory`: no way leads above it or across a mount point.
/// Links are refused, but in the top of a procfs, as which `own` marks the directory, the first component
/// may be `self` or `thread-self`.
///
/// # Errors
/// Those of openat2(2): `ELOOP` for a link, `EXDEV` for a way out.
pub(crate) fn open(
    directory: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    own: bool,
) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    resolve |= if own {
        ResolveFlags::NO_MAGICLINKS
    } else {
        ResolveFlags::NO_SYMLINKS
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(directory, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => walk(directory, path, flags, own),
        result => result,
    }
}

/// The same, component by component.
fn walk(directory: BorrowedFd<'_>, path: &str, flags: OFlags, own: bool) -> Result<OwnedFd, Errno> {
    if path.starts_with('/') {
        return Err(Errno::XDEV);
    }
    // A procfs tells of its own files, whatever has been made of /proc meanwhile.
    let proc = if own { (directory, "self") } else { SELF };
    let id = |file: BorrowedFd<'_>| {
        mount_id(file, proc)
            .map(|(id, _)| id)
            .map_err(|error| error.errno().unwrap_or(Errno::IO))
    };
    let mount = id(directory)?;
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = rustix::io::fcntl_dupfd_cloexec(directory, 3)?;
    let mut rest: Vec<String> = components(path);
    let mut link_allowed = own;
    while let Some(name) = rest.pop() {
        if name == ".." {
            return Err(Errno::XDEV);
        }
        let seen = openat(&here, &name, look, Mode::empty())?;
        let kind = FileType::from_raw_mode(fstat(&seen)?.st_mode);
        if kind == FileType::Symlink {
            if !link_allowed || !matches!(&*name, "self" | "thread-self") {
                return Err(Errno::LOOP);
            }
            let target = readlinkat(&seen, "", Vec::new())?;
            rest.append(&mut components(target.to_str().map_err(|_| Errno::INVAL)?));
            link_allowed = false;
            continue;
        }
        link_allowed = false;
        // Looked at before it is opened: something may be mounted there.
        if id(seen.as_fd())? != mount {
            return Err(Errno::XDEV);
        }
        if !rest.is_empty() {
            here = seen;
            continue;
        }
        let file = openat(&here, &name, flags, Mode::empty())?;
        if id(file.as_fd())? != mount {
            return Err(Errno::XDEV);
        }
        return Ok(file);
    }
    openat(&here, ".", flags, Mode::empty())
}

/// The components of a path, the first one last.
fn components(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|name| !name.is_empty() && *name != ".")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, is_root, private_mounts};

    #[test]
    fn the_walk_leads_where_the_kernel_does() {
        let proc = std::fs::File::open("/proc").unwrap();
        let pid = std::process::id();
        for (path, expected) in [
            ("self/status", Ok(())),
            ("thread-self/attr", Ok(())),
            ("sys/kernel/../kernel/hostname", Err(Errno::XDEV)),
            ("./self//status", Ok(())),
            ("self/nothing", Err(Errno::NOENT)),
            ("self/exe", Err(Errno::LOOP)),
            ("self/cwd/x", Err(Errno::LOOP)),
            ("../etc", Err(Errno::XDEV)),
            ("/etc", Err(Errno::XDEV)),
            (&format!("{pid}/fd/0"), Err(Errno::LOOP)),
        ] {
            let walked = walk(proc.as_fd(), path, OFlags::RDONLY | OFlags::NOFOLLOW, true);
            assert_eq!(walked.map(drop), expected, "{path}");
            if !path.contains("kernel/..") {
                let opened = open(proc.as_fd(), path, OFlags::RDONLY, true);
                assert_eq!(opened.map(drop), expected, "{path}");
            }
        }
        assert_eq!(
            walk(proc.as_fd(), "self/status", OFlags::RDONLY, false).map(drop),
            Err(Errno::LOOP)
        );
    }

    #[test]
    fn the_walk_stops_at_a_mount_of_the_same_file_system() {
        if !is_root("the_walk_stops_at_a_mount_of_the_same_file_system") {
            return;
        }
        in_child(|| {
            private_mounts();
            let proc = std::fs::File::open("/proc").unwrap();
            let comm = format!("/proc/{}/comm", std::process::id());
            rustix::mount::mount_bind("/proc/version", comm.as_str()).unwrap();
            let walked = walk(proc.as_fd(), "self/comm", OFlags::RDONLY, true);
            assert_eq!(walked.map(drop), Err(Errno::XDEV));
            Ok(String::new())
        })
        .unwrap();
    }
}
