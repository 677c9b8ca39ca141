//! Roots for user namespaces: mounts with the options `uidmap=` and `gidmap=`.
//!
//! The layers of an overlay are shifted by an idmapped copy of the mount they are on, which is
//! attached for as long as the overlay takes to be made: that keeps copies of its own. One copy does
//! for all layers where they have a directory in common, as those of a snapshotter have.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use knarr_runtime::error::{Context, Error, Kind, Result};
use knarr_runtime::rootfs::IdMap;
use knarr_runtime::spec::config::IdMapping;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::mount::{MoveMountFlags, move_mount};

use crate::rootfs::{inside, shorten};

/// Whether an option of a mount is about ids.
pub fn is_map(option: &str) -> bool {
    option.starts_with("uidmap=") || option.starts_with("gidmap=")
}

/// The namespace that such options describe, if there are any.
///
/// # Errors
/// `InvalidArgument` for what is no range; where the kernel refuses the ranges.
pub fn parse(options: &[&String]) -> Result<Option<IdMap>> {
    let ranges = |name: &str| {
        let lists = options
            .iter()
            .filter_map(|option| option.strip_prefix(name));
        let parts = lists.flat_map(|list| list.split(','));
        parts.map(range).collect::<Result<Vec<IdMapping>>>()
    };
    match options {
        [] => Ok(None),
        _ => IdMap::new(&ranges("uidmap=")?, &ranges("gidmap=")?).map(Some),
    }
}

fn range(text: &str) -> Result<IdMapping> {
    let numbers: Option<Vec<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[container_id, host_id, size]) => Ok(IdMapping {
            container_id,
            host_id,
            size,
        }),
        _ => Err(Error::new(
            Kind::InvalidArgument,
            format!("{text:?} is no range of ids: CONTAINER:HOST:COUNT is one"),
        )),
    }
}

/// Covers what is mounted at `target` with a shifted copy of it; both go when the root is unmounted.
///
/// # Errors
/// Where the file system can't be shifted.
pub fn cover(target: &Path, recursive: bool, ids: &IdMap) -> Result<()> {
    let copy = ids.copy(target, recursive)?;
    attach(&copy, target)
}

fn attach(copy: &OwnedFd, at: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(copy, "", CWD, at, flags).context(|| format!("move_mount({})", at.display()))
}

/// The directory in which copies of the layers of `target` are attached.
pub fn spot(target: &Path) -> PathBuf {
    target.with_extension("layers")
}

/// Has an overlay with these options made for `target`, its layers shifted.
///
/// # Errors
/// Where they can't be; what `make` says. No copy stays attached.
pub fn overlay(
    data: &str,
    target: &Path,
    ids: &IdMap,
    make: impl FnOnce(String) -> Result<()>,
) -> Result<()> {
    let spot = spot(target);
    fs::create_dir_all(&spot).context(|| format!("mkdir({})", spot.display()))?;
    let lower = lower_dirs(data);
    let common = shorten(data).filter(|(directory, _)| is_one_mount(directory, &lower));
    let made = match common {
        Some((directory, data)) => ids
            .copy(Path::new(&directory), false)
            .and_then(|copy| attach(&copy, &spot))
            .and_then(|()| inside(&spot, || make(data))),
        None => {
            each(&lower, &spot, ids).and_then(|()| inside(&spot, || make(renamed(data, &lower))))
        }
    };
    let cleared = clear(&spot);
    match (made, cleared) {
        (Err(error), Err(left)) => Err(error.and_also(left)),
        (made, cleared) => made.and(cleared),
    }
}

/// Attaches a copy of each layer by its number.
fn each(lower: &[String], spot: &Path, ids: &IdMap) -> Result<()> {
    for (number, layer) in lower.iter().enumerate() {
        let at = spot.join(number.to_string());
        fs::create_dir(&at).context(|| format!("mkdir({})", at.display()))?;
        attach(&ids.copy(Path::new(layer), false)?, &at)?;
    }
    Ok(())
}

/// The options with the layers' numbers for their names.
fn renamed(data: &str, lower: &[String]) -> String {
    let numbers: Vec<String> = (0..lower.len()).map(|number| number.to_string()).collect();
    let rest = split_options(data).into_iter();
    let rest = rest.filter(|option| !option.starts_with("lowerdir="));
    let mut all: Vec<&str> = rest.collect();
    let lower = format!("lowerdir={}", numbers.join(":"));
    all.push(&lower);
    all.join(",")
}

/// Takes away what is attached in the spot, and the spot.
///
/// # Errors
/// umount2(2).
pub fn clear(spot: &Path) -> Result<()> {
    crate::rootfs::unmount(spot)?;
    let Ok(entries) = fs::read_dir(spot) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        crate::rootfs::unmount(&entry.path())?;
        let _ = fs::remove_dir(entry.path());
    }
    fs::remove_dir(spot).context(|| format!("rmdir({})", spot.display()))
}

/// Whether all layers are on the mount that a directory above them is on.
fn is_one_mount(directory: &str, lower: &[String]) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(above) = open(directory, flags, Mode::empty()) else {
        return false;
    };
    lower.iter().all(|layer| {
        layer.strip_prefix(directory).is_some_and(|layer| {
            let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
            openat2(above.as_fd(), layer, flags, Mode::empty(), resolve).is_ok()
        })
    })
}

/// Options at their commas: one with a backslash before it belongs to a name.
fn split_options(data: &str) -> Vec<&str> {
    let (mut options, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, letter) in data.char_indices() {
        match letter {
            '\\' => escaped = !escaped,
            ',' if !escaped => {
                options.extend(data.get(start..at));
                start = at + 1;
            }
            _ => escaped = false,
        }
    }
    options.extend(data.get(start..));
    options
}

/// The directories of `lowerdir=`, in which a backslash makes a colon part of a name.
fn lower_dirs(data: &str) -> Vec<String> {
    let options = split_options(data).into_iter();
    let Some(list) = options
        .filter_map(|option| option.strip_prefix("lowerdir="))
        .next_back()
    else {
        return Vec::new();
    };
    let mut dirs = vec![String::new()];
    let mut letters = list.chars();
    while let Some(letter) = letters.next() {
        let letter = match letter {
            ':' => {
                dirs.push(String::new());
                continue;
            }
            '\\' => letters.next().unwrap_or('\\'),
            letter => letter,
        };
        if let Some(dir) = dirs.last_mut() {
            dir.push(letter);
        }
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_with_their_escapes() {
        let data = r"upperdir=/a\,b,lowerdir=/x\:y:/z\,1,index=off";
        assert_eq!(lower_dirs(data), ["/x:y", "/z,1"]);
        assert_eq!(
            renamed(data, &lower_dirs(data)),
            r"upperdir=/a\,b,index=off,lowerdir=0:1"
        );
        assert!(lower_dirs("upperdir=/a").is_empty());
    }

    #[test]
    fn ranges_are_three_numbers() {
        assert_eq!(range("0:100000:65536").unwrap().host_id, 100_000);
        for text in ["", "0:1", "0:1:2:3", "0:x:1", "0:-1:1"] {
            range(text).unwrap_err();
        }
        assert!(parse(&[]).unwrap().is_none());
    }
}
