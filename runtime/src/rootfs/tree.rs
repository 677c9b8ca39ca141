//! Mounts as descriptors: made detached, given their attributes, then moved onto a descriptor.
//!
//! Belongs here: the few operations on mounts that everything else uses. Does
//! not: destinations, and which mount gets what.
//!
//! A mount that is made detached (fsmount(2), open_tree(2)) is complete before
//! anybody sees it, and move_mount(2) puts it onto an open descriptor: no path
//! of the container is looked up between the check and the mount.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    self, FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MoveMountFlags,
    OpenTreeFlags,
};

use crate::error::{Context, Error, Result};
use crate::spec::mount_options::{
    Attributes, MountOptions, Propagation, PropagationKind, attr, sb,
};
use crate::sys::mount::{MountAttr, mount_setattr};

/// A new instance of a file system, described.
#[derive(Debug)]
pub(super) struct NewFilesystem<'a> {
    /// Its type.
    pub kind: &'a str,
    /// Its device, or the name to show; empty for none.
    pub source: &'a str,
    /// The options from the configuration.
    pub options: &'a MountOptions<'a>,
    /// Options that the runtime adds.
    pub extra: Option<(&'a str, &'a str)>,
    /// SELinux label, empty for none.
    pub label: &'a str,
    /// What becomes read-only where the options say `ro`.
    pub read_only: ReadOnly,
}

/// What becomes read-only where the options say `ro`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOnly {
    /// The mount and the superblock, as mount(2) does it.
    All,
    /// The mount only: the superblock is shared with the host.
    Mount,
    /// Nothing yet: something is still to be made inside.
    Nothing,
}

impl NewFilesystem<'_> {
    /// Makes the instance and a detached mount of it.
    pub(super) fn make(&self) -> Result<OwnedFd> {
        let kind = self.kind;
        let context = mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .context(|| format!("fsopen({kind:?})"))
            .map_err(|error| match error.errno() {
                Some(Errno::NODEV) => error.context("the kernel does not know this file system"),
                _ => error,
            })?;
        let set = |key: &str, value: Option<&str>| {
            match value {
                Some(value) => mount::fsconfig_set_string(&context, key, value),
                None => mount::fsconfig_set_flag(&context, key),
            }
            .map_err(|errno| {
                let value = value.map(|value| format!("={value}")).unwrap_or_default();
                complaint(&context, format!("fsconfig({kind}, {key}{value})"), errno)
            })
        };
        if !self.source.is_empty() {
            set("source", Some(self.source))?;
        }
        for flag in self.options.superblock_flags() {
            if flag != "ro" || self.read_only == ReadOnly::All {
                set(flag, None)?;
            }
        }
        for (key, value) in self.options.data_items() {
            set(key, value)?;
        }
        if let Some((key, value)) = self.extra {
            set(key, Some(value))?;
        }
        if !self.label.is_empty() {
            set("context", Some(self.label))?;
        }
        mount::fsconfig_create(&context).map_err(|errno| {
            complaint(
                &context,
                format!("fsconfig({kind}, FSCONFIG_CMD_CREATE)"),
                errno,
            )
        })?;
        let mut attributes = self.options.attributes.set;
        if self.read_only == ReadOnly::Nothing {
            attributes &= !attr::RDONLY;
        }
        let attributes = u32::try_from(attributes).unwrap_or(u32::MAX);
        mount::fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::from_bits_retain(attributes),
        )
        .context(|| format!("fsmount({kind}, {attributes:#x})"))
    }
}

impl NewFilesystem<'_> {
    /// Whether mount(2) does the same as [`NewFilesystem::make`] and [`attach`], in one call for eight.
    ///
    /// It knows no quotes, and no name that is empty; a label it wants in quotes.
    pub(super) fn is_simple(&self) -> bool {
        let plain = |option: &&str| !option.contains(['"', '\\']);
        // Sources and options of others may be paths that begin where the caller is.
        let pathless = [
            "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2",
        ];
        pathless.contains(&self.kind)
            && !self.source.is_empty()
            && self.label.is_empty()
            && self.options.data.iter().all(plain)
    }

    /// Makes and mounts the instance with mount(2) upon the working directory.
    ///
    /// The name that it gives to the kernel is `.`: no path is looked up, as with a descriptor.
    pub(super) fn mount_here(&self) -> Result<()> {
        self.mount_classic(".")
    }

    /// Makes and mounts the instance with mount(2), which alone knows some
    /// options, onto `destination`.
    pub(super) fn mount_classic(&self, destination: &str) -> Result<()> {
        let mut flags = self.options.mount_flags();
        if self.read_only != ReadOnly::All {
            flags &= !u64::from(MountFlags::RDONLY.bits());
        }
        let mut data = self.options.data_string();
        let label = (!self.label.is_empty()).then(|| format!("\"{}\"", self.label));
        let extra = label.as_deref().map(|label| ("context", label));
        for (key, value) in extra.into_iter().chain(self.extra) {
            if !data.is_empty() {
                data.push(',');
            }
            data.push_str(&format!("{key}={value}"));
        }
        let call = || {
            format!(
                "mount({:?}, {:?}, {flags:#x}, {data:?})",
                self.source, self.kind
            )
        };
        let text = CString::new(data.as_str()).map_err(|_| Error::system(call(), Errno::INVAL))?;
        mount::mount(
            self.source,
            destination,
            self.kind,
            MountFlags::from_bits_retain(u32::try_from(flags).unwrap_or(0)),
            text.as_c_str(),
        )
        .context(call)
    }
}

/// Changes the superblock of the mount whose root `mount` is, as far as the options speak of it.
pub(super) fn reconfigure(mount: BorrowedFd<'_>, options: &MountOptions<'_>) -> Result<()> {
    let cleared = |bit: u64| options.superblock_clear & bit != 0;
    let flags = options
        .superblock_flags()
        .chain((options.attributes.clear & attr::RDONLY != 0).then_some("rw"))
        .chain(cleared(sb::SYNCHRONOUS).then_some("async"))
        .chain(cleared(sb::LAZYTIME).then_some("nolazytime"))
        .chain(cleared(sb::MANDLOCK).then_some("nomand"))
        .map(|flag| (flag, None));
    let mut settings = flags.chain(options.data_items()).peekable();
    if settings.peek().is_none() {
        return Ok(());
    }
    let pick = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let context = mount::fspick(mount, "", pick).context(|| "fspick(destination)")?;
    for (key, value) in settings {
        match value {
            Some(value) => mount::fsconfig_set_string(&context, key, value),
            None => mount::fsconfig_set_flag(&context, key),
        }
        .map_err(|errno| complaint(&context, format!("fsconfig({key})"), errno))?;
    }
    mount::fsconfig_reconfigure(&context).map_err(|errno| {
        complaint(
            &context,
            "fsconfig(FSCONFIG_CMD_RECONFIGURE)".to_owned(),
            errno,
        )
    })
}

/// An error with what the file system itself has to say: its context's log.
fn complaint(context: &OwnedFd, call: String, errno: Errno) -> Error {
    let mut words = [0u8; 256];
    let error = Error::system(call, errno);
    match rustix::io::read(context, &mut words) {
        Ok(length) if length > 0 => {
            let words = String::from_utf8_lossy(&words[..length]);
            // "e tmpfs: Bad value for 'size'": the first letter is the severity.
            let words = words.trim_end();
            let words = words.get(2..).unwrap_or(words);
            error.context(words)
        }
        _ => error,
    }
}

/// A new tmpfs, mounted nowhere.
pub(super) fn new_tmpfs() -> Result<OwnedFd> {
    let context =
        mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).context(|| "fsopen(\"tmpfs\")")?;
    mount::fsconfig_create(&context).context(|| "fsconfig(tmpfs, FSCONFIG_CMD_CREATE)")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
    mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context(|| "fsmount(tmpfs)")
}

/// What a detached copy is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// One mount.
    One,
    /// A mount and all below it.
    All,
}

impl Depth {
    fn flags(self) -> OpenTreeFlags {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        match self {
            Depth::One => flags,
            Depth::All => flags | OpenTreeFlags::AT_RECURSIVE,
        }
    }
}

/// A detached copy of the mount at an open file.
pub(super) fn clone_fd(file: BorrowedFd<'_>, depth: Depth) -> std::result::Result<OwnedFd, Errno> {
    mount::open_tree(file, "", depth.flags() | OpenTreeFlags::AT_EMPTY_PATH)
}

/// A detached copy of the mount at a path of the host. Never use it for a path of the container.
pub(super) fn clone_host_path(
    path: &std::path::Path,
    depth: Depth,
    follow: bool,
) -> std::result::Result<OwnedFd, Errno> {
    let mut flags = depth.flags();
    if !follow {
        flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
    mount::open_tree(CWD, path, flags)
}

/// Puts a detached mount onto `destination`.
pub(super) fn attach(
    tree: BorrowedFd<'_>,
    destination: BorrowedFd<'_>,
) -> std::result::Result<(), Errno> {
    mount::move_mount(
        tree,
        "",
        destination,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Cuts a copy made in the host's mount namespace off from what it is a copy
/// of, in one direction, as [`stop_propagation`](super::pivot::stop_propagation)
/// does with all mounts of the container's namespace: else a mount made below it
/// in the container would appear on the host.
pub(super) fn make_slave(tree: BorrowedFd<'_>) -> Result<()> {
    let slave = Propagation {
        kind: PropagationKind::Slave,
        recursive: true,
    };
    Changes::propagation(slave).apply(tree)
}

/// Changes of a mount, as few calls as possible.
#[derive(Debug, Default)]
pub(super) struct Changes(Vec<(bool, MountAttr)>);

impl Changes {
    /// Attributes of this mount, then of all below too, then propagation.
    pub(super) fn new(
        own: Attributes,
        recursive: Attributes,
        propagation: &[Propagation],
    ) -> Changes {
        let mut changes = Changes(Vec::new());
        for (rec, attributes) in [(false, own), (true, recursive)] {
            if !attributes.is_empty() {
                changes.0.push((
                    rec,
                    MountAttr {
                        attr_set: attributes.set,
                        attr_clr: attributes.clear,
                        ..MountAttr::default()
                    },
                ));
            }
        }
        for step in propagation {
            // A call can do attributes and propagation in one go, of the same mounts.
            let free = changes
                .0
                .iter_mut()
                .find(|(rec, attr)| *rec == step.recursive && attr.propagation == 0);
            match free {
                Some((_, attr)) if propagation.len() == 1 => attr.propagation = step.bit(),
                _ => changes.0.push((
                    step.recursive,
                    MountAttr {
                        propagation: step.bit(),
                        ..MountAttr::default()
                    },
                )),
            }
        }
        changes
    }

    /// Makes the mount read-only and changes nothing else.
    pub(super) fn read_only() -> Changes {
        let own = Attributes {
            set: attr::RDONLY,
            clear: 0,
        };
        Changes::new(own, Attributes::default(), &[])
    }

    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As [`Changes::read_only`] if that is among the options.
    pub(super) fn read_only_if(options: &MountOptions<'_>) -> Changes {
        match options.attributes.set & attr::RDONLY {
            0 => Changes::default(),
            _ => Changes::read_only(),
        }
    }

    /// The calls: whether all mounts below are meant, and what changes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(bool, MountAttr)> {
        self.0.iter()
    }

    /// A change of propagation only.
    pub(super) fn propagation(propagation: Propagation) -> Changes {
        let none = Attributes::default();
        Changes::new(none, none, &[propagation])
    }

    /// Applies them to the mount whose root `mount` is, detached or not.
    pub(super) fn apply(&self, mount: BorrowedFd<'_>) -> Result<()> {
        for (recursive, attr) in &self.0 {
            let result = match mount_setattr(mount, c"", *recursive, attr) {
                // The owner of the source has made it read-only, and locked that for those who are
                // not root of the host. Callers write "rw" for whatever is not to be read-only.
                Err(Errno::PERM) if attr.attr_clr & attr::RDONLY != 0 => {
                    let rest = MountAttr {
                        attr_clr: attr.attr_clr & !attr::RDONLY,
                        ..*attr
                    };
                    mount_setattr(mount, c"", *recursive, &rest)
                }
                result => result,
            };
            result.map_err(|errno| Error::system(call(*recursive, attr), errno))?;
        }
        Ok(())
    }
}

/// The recursive options that set or clear what `changed` does, as the configuration has them.
pub(super) fn attribute_names(changed: &MountAttr) -> String {
    let names = [
        (attr::RDONLY, "rro", "rrw"),
        (attr::NOSUID, "rnosuid", "rsuid"),
        (attr::NODEV, "rnodev", "rdev"),
        (attr::NOEXEC, "rnoexec", "rexec"),
        (attr::NODIRATIME, "rnodiratime", "rdiratime"),
        (attr::NOSYMFOLLOW, "rnosymfollow", "rsymfollow"),
        (attr::NOATIME, "rnoatime", "ratime"),
    ];
    let mut list: Vec<&str> = Vec::new();
    for (bit, set, clear) in names {
        if changed.attr_set & bit != 0 {
            list.push(set);
        } else if changed.attr_clr & bit != 0 && bit != attr::NOATIME {
            list.push(clear);
        }
    }
    list.join(", ")
}

fn call(recursive: bool, attr: &MountAttr) -> String {
    let MountAttr {
        attr_set,
        attr_clr,
        propagation,
        ..
    } = attr;
    let recursive = if recursive { "AT_RECURSIVE, " } else { "" };
    format!(
        "mount_setattr({recursive}set {attr_set:#x}, clear {attr_clr:#x}, propagation {propagation:#x})"
    )
}
