//! The mounts that make a container's root, as snapshotters describe them.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use knarr_proto::types::Mount;
use knarr_runtime::error::{Context, Error, Kind, Result};
use knarr_runtime::rootfs::{Links, RootFd};
use knarr_runtime::spec::Text;
use knarr_runtime::spec::mount_options::parse_options;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount as umount};

use crate::idmap;

/// mount(2) takes a page of options.
const MAX_DATA: usize = 4095;

/// Makes the mounts, in order, at `target`, which is made where it is missing.
///
/// # Errors
/// A mount that fails; those before it are taken back.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(target).context(|| format!("mkdir({})", target.display()))?;
    for (index, one) in mounts.iter().enumerate() {
        if let Err(error) = mount_one(one, target) {
            return Err(match unmount(target) {
                Ok(()) => error,
                Err(left) => error.and_also(left),
            }
            .context(format_args!("rootfs[{index}]")));
        }
    }
    Ok(())
}

/// Where a mount goes: the root itself, or a place below it, as the mounts that are there already show it.
/// What is in them comes from an image, whose links must not lead to the host.
fn place(root: &Path, below: &str) -> Result<(PathBuf, Option<OwnedFd>)> {
    if below.is_empty() {
        return Ok((root.to_owned(), None));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = open(root, flags, Mode::empty()).context(|| format!("open({})", root.display()))?;
    let found = RootFd::from(fd).resolve(below, Links::Follow);
    let found = found.context(|| format!("target {below}"))?;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok((path.into(), Some(found)))
}

fn mount_one(described: &Mount, root: &Path) -> Result<()> {
    let (target, _found) = place(root, &described.target)?;
    let (maps, rest): (Vec<&String>, Vec<&String>) = described
        .options
        .iter()
        .partition(|option| idmap::is_map(option));
    let ids = idmap::parse(&maps)?;
    let texts: Vec<Text<'_>> = rest
        .iter()
        .map(|option| Text::from(option.as_str()))
        .collect();
    let options = parse_options(&texts);
    let flags = MountFlags::from_bits_retain(u32::try_from(options.mount_flags()).unwrap_or(0));
    let call = |flags: MountFlags| {
        format!(
            "mount({}, {}, {}, {flags:?})",
            described.source,
            root.join(described.target.trim_start_matches('/'))
                .display(),
            described.r#type
        )
    };
    if described.r#type == "bind" || options.is_bind() {
        let recursive = described.options.iter().any(|option| option == "rbind");
        let bind = match recursive {
            true => MountFlags::BIND | MountFlags::REC,
            false => MountFlags::BIND,
        };
        mount(described.source.as_str(), &target, "", bind, None).context(|| call(bind))?;
        let rest = flags & !(MountFlags::BIND | MountFlags::REC);
        // It covers what was found before.
        let (target, _found) = place(root, &described.target)?;
        if !rest.is_empty() {
            // What is bound keeps its flags unless it is mounted anew.
            let again = rest | MountFlags::BIND;
            mount_remount(&target, again, "").context(|| call(again))?;
        }
        return ids.map_or(Ok(()), |ids| idmap::cover(&target, recursive, &ids));
    }
    let data = options.data_string();
    let make = |data: String| {
        let length = data.len();
        if length > MAX_DATA {
            return Err(Error::new(
                Kind::Unsupported,
                format!("options of {length} bytes: mount(2) takes {MAX_DATA}"),
            ));
        }
        let data = std::ffi::CString::new(data)
            .map_err(|_| Error::new(Kind::InvalidArgument, "an option with a NUL byte"))?;
        mount(
            described.source.as_str(),
            &target,
            described.r#type.as_str(),
            flags,
            Some(data.as_c_str()),
        )
        .context(|| call(flags))
    };
    match (described.r#type == "overlay", ids) {
        // Its layers are shifted, and not what is written.
        (true, Some(ids)) => idmap::overlay(&data, &target, &ids, make),
        (true, None) if data.len() > MAX_DATA => match shorten(&data) {
            Some((directory, data)) => inside(Path::new(&directory), || make(data)),
            None => make(data),
        },
        (_, None) => make(data),
        (false, Some(ids)) => {
            make(data)?;
            let (target, _found) = place(root, &described.target)?;
            idmap::cover(&target, false, &ids)
        }
    }
}

/// Names the lower directories of an overlay relative to the directory that they are all below.
pub(crate) fn shorten(data: &str) -> Option<(String, String)> {
    let option = data
        .split(',')
        .find_map(|option| option.strip_prefix("lowerdir="))?;
    // Escaped colons belong to names; such a list stays as it is.
    if option.contains('\\') {
        return None;
    }
    let first = option.split(':').next()?;
    let common = option.split(':').fold(first.len(), |length, dir| {
        let same = first.bytes().zip(dir.bytes()).take_while(|(a, b)| a == b);
        length.min(same.count())
    });
    let directory = first.get(..common)?;
    let directory = directory.get(..=directory.rfind('/')?)?;
    let relative: Vec<&str> = option
        .split(':')
        .map(|dir| dir.strip_prefix(directory).filter(|rest| !rest.is_empty()))
        .collect::<Option<_>>()?;
    let rest = data
        .split(',')
        .filter(|option| !option.starts_with("lowerdir="));
    let lower = format!("lowerdir={}", relative.join(":"));
    let data: Vec<&str> = rest.chain([lower.as_str()]).collect();
    Some((directory.to_owned(), data.join(",")))
}

/// Does something with another working directory.
pub(crate) fn inside<T>(directory: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    use rustix::process::{chdir, fchdir};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = open(".", flags, Mode::empty()).context(|| "open(.)")?;
    chdir(directory).context(|| format!("chdir({})", directory.display()))?;
    let result = work();
    fchdir(before).context(|| "fchdir(before)")?;
    result
}

/// Takes away all mounts at `target`; it is no error if there are none.
///
/// # Errors
/// Those of umount2(2).
pub fn unmount(target: &Path) -> Result<()> {
    loop {
        match umount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => {
                return Err(Error::system(
                    format!("umount2({})", target.display()),
                    errno,
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_directories_become_relative() {
        let (directory, data) =
            shorten("workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/12/fs:/s/1/fs,index=off")
                .unwrap();
        assert_eq!(directory, "/s/");
        assert_eq!(
            data,
            "workdir=/s/9/work,upperdir=/s/9/fs,index=off,lowerdir=12/fs:1/fs"
        );
    }

    #[test]
    fn what_cannot_be_shortened_stays() {
        for data in ["", "upperdir=/a", "lowerdir=a:b", r"lowerdir=/a\:b:/a"] {
            assert_eq!(shorten(data), None, "{data}");
        }
    }
}
