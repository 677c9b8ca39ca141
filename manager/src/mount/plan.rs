//! What is done here and what is left to the caller, and what a mount's prefixes ask for.
//!
//! ```text
//! loop                   a block device of a file
//! format/TYPE            {{ mount 0 }}, {{ source 0 }}, {{ target 0 }} and {{ overlay 0 2 }} in its
//!                        strings stand for mounts before it
//! mkdir/TYPE             X-containerd.mkdir.path=DIR[:MODE[:UID:GID]] makes directories first
//! ```
//!
//! What comes before such a mount is made here as well, since it refers to it. Prefixes are obeyed
//! from left to right.

use std::path::Path;

use super::system;
use crate::error::{Code, Error, Result};
use crate::store::schema::{ActiveMount, Mount};

/// The most mounts of one request, each of which costs a mount of the machine.
const MOST: usize = 256;

/// The longest string that comes of a format, in bytes: more than a mount's options may have.
const LONGEST: usize = 64 * 1024;

/// The type of a mount that is a loop device.
pub(super) const LOOP: &str = "loop";

const FORMAT: &str = "format/";
const MKDIR: &str = "mkdir/";
const MKFS: &str = "mkfs/";
const MKDIR_OPTION: &str = "X-containerd.mkdir.";

/// How many mounts, from the first on, are made here.
///
/// # Errors
/// `Unimplemented` where the caller can make all of them as they are.
pub(super) fn made_here(mounts: &[Mount], temporary: bool) -> Result<usize> {
    if mounts.len() > MOST {
        return Err(Error::invalid(format!(
            "{} mounts at once: at most {MOST} are possible",
            mounts.len()
        )));
    }
    let mut count = None;
    for (number, mount) in mounts.iter().enumerate() {
        let prefixed = [FORMAT, MKDIR, MKFS].iter();
        if mount.kind == LOOP {
            count = Some(number + 1);
        } else if prefixed
            .copied()
            .any(|prefix| mount.kind.starts_with(prefix))
        {
            count = Some(number + usize::from(mount.kind.ends_with("/loop")));
        }
    }
    if temporary && !mounts.is_empty() {
        count = Some(mounts.len());
    }
    count.ok_or_else(|| {
        let what = "the mounts need nothing but mount(2): make them yourself";
        Error::new(Code::Unimplemented, what)
    })
}

/// Does what the prefixes of a mount ask for; what is left is for mount(2).
///
/// # Errors
/// `InvalidArgument` for a format that is none; `Unimplemented` for directories outside of what is
/// mounted here.
pub(super) fn transform(mut mount: Mount, active: &[ActiveMount]) -> Result<Mount> {
    loop {
        if let Some(kind) = mount.kind.strip_prefix(FORMAT) {
            mount.kind = kind.to_owned();
            for text in [&mut mount.source, &mut mount.target]
                .into_iter()
                .chain(&mut mount.options)
            {
                *text = format(text, active)?;
            }
        } else if let Some(kind) = mount.kind.strip_prefix(MKDIR) {
            mount.kind = kind.to_owned();
            let (orders, options) = mount
                .options
                .into_iter()
                .partition(|option| option.starts_with(MKDIR_OPTION));
            mount.options = options;
            for order in orders {
                mkdir(&order, active)?;
            }
        } else if mount.kind.starts_with(MKFS) {
            let what = format!("no root {:?} configured for mkfs", mount.source);
            return Err(Error::new(Code::Unimplemented, what));
        } else {
            return Ok(mount);
        }
    }
}

/// Puts what is mounted into a text.
fn format(text: &str, active: &[ActiveMount]) -> Result<String> {
    let wrong = |what: String| Error::invalid(format!("format {text:?}: {what}"));
    let mut rest = text;
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (inner, after) = after
            .split_once("}}")
            .ok_or_else(|| wrong("`{{` without `}}`".to_owned()))?;
        let words: Vec<&str> = inner.split_whitespace().collect();
        let at = |word: &str| {
            let number: usize = word
                .parse()
                .map_err(|_| wrong(format!("{word:?} is no number of a mount")))?;
            active.get(number).ok_or_else(|| {
                let count = active.len();
                wrong(format!(
                    "index out of bounds: {number}, has {count} active mounts"
                ))
            })
        };
        match *words {
            ["source", of] => out.push_str(&at(of)?.mount.source),
            ["target", of] => out.push_str(&at(of)?.mount.target),
            ["mount", of] => out.push_str(&at(of)?.point),
            ["overlay", first, last] => {
                at(first)?;
                at(last)?;
                let number = |word: &str| word.parse::<usize>().unwrap_or(0);
                let (first, last) = (number(first), number(last));
                let range = active.get(first.min(last)..=first.max(last));
                let mut points: Vec<&str> = range
                    .unwrap_or_default()
                    .iter()
                    .map(|mount| &*mount.point)
                    .collect();
                if first > last {
                    points.reverse();
                }
                out.push_str(&points.join(":"));
            }
            _ => return Err(wrong(format!("nothing is called {:?}", inner.trim()))),
        }
        if out.len() > LONGEST {
            return Err(wrong(format!("it gives more than {LONGEST} bytes")));
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Makes a directory, where it is not there, below one of the mounts.
fn mkdir(order: &str, active: &[ActiveMount]) -> Result<()> {
    let wrong = |what: &str| Error::invalid(format!("mount option {order:?}: {what}"));
    let rest = order
        .strip_prefix(MKDIR_OPTION)
        .and_then(|rest| rest.strip_prefix("path="))
        .ok_or_else(|| wrong("it is none of X-containerd.mkdir.path="))?;
    let mut parts = rest.split(':');
    let path = Path::new(parts.next().unwrap_or_default());
    let number = |text: &str, radix| u32::from_str_radix(text, radix).ok();
    let (mode, owner) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (None, ..) => (Some(0o700), Some(None)),
        (Some(mode), None, ..) => (number(mode, 8), Some(None)),
        (Some(mode), Some(uid), Some(gid), None) => {
            let owner = number(uid, 10).zip(number(gid, 10));
            (number(mode, 8), owner.map(Some))
        }
        _ => (None, None),
    };
    let (Some(mode), Some(owner)) = (mode.filter(|mode| *mode <= 0o7777), owner) else {
        return Err(wrong("expected DIR, DIR:MODE or DIR:MODE:UID:GID"));
    };
    let below = active.iter().find_map(|mount| {
        let root = Path::new(&mount.point);
        path.strip_prefix(root).ok().map(|below| (root, below))
    });
    let Some((root, below)) = below else {
        let what = format!("no root {:?} configured for mkdir", path.display());
        return Err(Error::new(Code::Unimplemented, what));
    };
    system::make_dirs_beneath(root, below, mode, owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str) -> Mount {
        Mount {
            kind: kind.to_owned(),
            ..Mount::default()
        }
    }

    #[test]
    fn what_the_kernel_can_do_alone_is_left() {
        let count = |kinds: &[&str], temporary| {
            let mounts: Vec<Mount> = kinds.iter().map(|kind| mount(kind)).collect();
            made_here(&mounts, temporary).ok()
        };
        assert_eq!(count(&[], true), None);
        assert_eq!(count(&["bind"], false), None);
        assert_eq!(count(&["bind"], true), Some(1));
        assert_eq!(count(&["ext4", "format/overlay"], false), Some(1));
        assert_eq!(count(&["loop", "format/ext4", "bind"], false), Some(1));
        assert_eq!(count(&["loop"], false), Some(1));
        assert_eq!(count(&["format/mkdir/overlay"], false), Some(0));
        assert_eq!(count(&["bind"; MOST + 1], true), None);
    }

    #[test]
    fn formats_name_what_came_before() {
        let active = ["a", "b", "c"].map(|name| ActiveMount {
            mount: Mount {
                source: format!("source-{name}"),
                target: format!("target-{name}"),
                ..Mount::default()
            },
            point: format!("/m/{name}"),
            ..ActiveMount::default()
        });
        for (text, expected) in [
            ("", ""),
            ("plain }} text", "plain }} text"),
            ("{{ source 0 }},{{target 1}}", "source-a,target-b"),
            ("up={{ mount 2 }}/upper", "up=/m/c/upper"),
            ("{{ overlay 0 2 }}", "/m/a:/m/b:/m/c"),
            ("{{ overlay 2 1 }}", "/m/c:/m/b"),
        ] {
            assert_eq!(format(text, &active).unwrap(), expected, "{text}");
        }
        for wrong in [
            "{{",
            "{{ mount }}",
            "{{ mount 3 }}",
            "{{ mount -1 }}",
            "{{ mount 99999999999999999999 }}",
            "{{ overlay 0 3 }}",
            "{{ exec 0 }}",
            "{{}}",
        ] {
            let error = format(wrong, &active).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{wrong}: {error}");
        }
        let many = "{{ overlay 0 2 }}".repeat(10_000);
        assert!(format(&many, &active).is_err());
    }

    #[test]
    fn orders_for_directories_are_checked() {
        let point = tempfile::tempdir().unwrap();
        let root = point.path().display().to_string();
        let active = [ActiveMount {
            point: root.clone(),
            ..ActiveMount::default()
        }];
        let make = |rest: &str| mkdir(&format!("X-containerd.mkdir.path={rest}"), &active);
        make(&format!("{root}/a/b")).unwrap();
        make(&format!("{root}/c:0751")).unwrap();
        assert!(point.path().join("a/b").is_dir());
        std::os::unix::fs::symlink("/", point.path().join("out")).unwrap();
        for wrong in [
            "/x:y",
            "/x:0755:1",
            "/x:0755:1:2:3",
            "/x:99999",
            "/../x",
            "/out/x",
        ] {
            assert!(make(&format!("{root}{wrong}")).is_err(), "{wrong}");
        }
        for outside in ["/elsewhere", "", "relative"] {
            let error = make(outside).unwrap_err();
            assert_eq!(error.code(), Code::Unimplemented, "{error}");
        }
        assert!(mkdir("X-containerd.mkdir.other=x", &active).is_err());
    }
}
