//! The plan of a container's file system view: plain data, made without a system call.
//!
//! Belongs here: every choice that can be made from the configuration alone.
//! Does not: opening, mounting or making anything.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::error::{Error, Result};
use crate::spec::Spec;
use crate::spec::Text;
use crate::spec::config::IdMapping;
use crate::spec::linux::Device;
use crate::spec::mount_options::{
    Idmap, MountOptions, Propagation, PropagationKind, attr, parse_options,
};

/// Where files may be bound inside a procfs: what lxcfs and its kin replace.
/// Anything else there could feign a file that the runtime or the program trusts.
const BINDABLE_IN_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// The devices that every container has: config-linux.md, section Default Devices.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Permission bits of a device where the configuration says nothing.
const DEVICE_MODE: u32 = 0o666;

/// All that happens to a container's mounts, in order.
#[derive(Debug)]
pub struct RootfsPlan<'a> {
    /// The root file system on the host, absolute.
    pub rootfs: PathBuf,
    /// Whether the root ends up read-only.
    pub readonly: bool,
    /// `linux.rootfsPropagation`.
    pub propagation: Option<Propagation>,
    /// The mounts, in the configured order.
    pub mounts: Vec<MountStep<'a>>,
    /// The device nodes: the default ones and the configured.
    pub devices: Vec<DeviceStep<'a>>,
    /// Whether devices and links are made in `/dev`; not where the host's own
    /// `/dev` (or another directory) is bound there, since they would appear outside.
    pub populate_dev: bool,
    /// Paths that are hidden.
    pub masked: &'a [Text<'a>],
    /// Paths that cannot be written.
    pub readonly_paths: &'a [Text<'a>],
    /// SELinux label of the file systems, empty for none.
    pub label: &'a str,
    /// The container's user namespace, if it is not the runtime's.
    pub user_namespace: Option<UserNamespace<'a>>,
    /// Whether the container has a cgroup namespace other than the runtime's.
    pub cgroup_namespace: bool,
    /// On version 2, where others made the cgroup namespace: the container's own cgroup, as the runtime names it.
    pub cgroup_directory: Option<PathBuf>,
    /// Whether the container has a mount namespace other than the runtime's. If
    /// not, the root is entered with chroot(2), and no mount but those of the
    /// configuration is made or changed: all of them are the host's.
    pub mount_namespace: bool,
}

/// The user namespace of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserNamespace<'a> {
    /// A new one with these mappings.
    New(&'a [IdMapping], &'a [IdMapping]),
    /// The one of this file.
    Joined(&'a str),
}

/// One of `mounts`.
#[derive(Debug)]
pub struct MountStep<'a> {
    /// Its place in the configuration's list.
    pub index: usize,
    /// Where, in the container, as configured.
    pub destination: &'a str,
    /// The destination, absolute, without `.`, `..` and doubled slashes; for comparisons only.
    pub normal: String,
    /// What is mounted.
    pub what: What<'a>,
    /// The parsed options.
    pub options: MountOptions<'a>,
    /// The id mapping asked for.
    pub idmap: Option<IdmapStep<'a>>,
}

/// What a mount brings.
#[derive(Debug)]
pub enum What<'a> {
    /// A file or directory of the host, by its absolute path.
    Bind(PathBuf),
    /// A new instance of a file system.
    Filesystem {
        /// Its type.
        kind: &'a str,
        /// Its device, or a name to show.
        source: &'a str,
    },
    /// The container's view of the cgroups, whatever version the host has.
    Cgroup {
        /// The name to show.
        source: &'a str,
    },
    /// No new mount: the one at the destination is changed.
    Remount,
}

/// An id mapping of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdmapStep<'a> {
    /// The user namespace that maps like this; the container's own where the
    /// mount brings no mapping.
    pub mapping: UserNamespace<'a>,
    /// Whether mounts below are mapped too.
    pub recursive: bool,
}

/// A device node.
#[derive(Debug, PartialEq, Eq)]
pub struct DeviceStep<'a> {
    /// Where, in the container.
    pub path: Cow<'a, str>,
    /// Character device, block device or FIFO.
    pub kind: FileType,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as the container sees it.
    pub uid: u32,
    /// Group, as the container sees it.
    pub gid: u32,
}

impl DeviceStep<'_> {
    /// Whether every container has it, just like this.
    pub(super) fn is_default(&self) -> bool {
        let number = (self.major, self.minor);
        self.kind == FileType::CharacterDevice
            && (self.mode, self.uid, self.gid) == (DEVICE_MODE, 0, 0)
            && DEFAULT_DEVICES
                .iter()
                .any(|(path, major, minor)| *path == self.path && (*major, *minor) == number)
    }
}

/// Makes the plan for `spec`, a configuration in the directory `bundle` (absolute).
///
/// # Errors
/// `InvalidConfig` for what contradicts the specification; each names its JSON path.
pub fn plan<'a>(spec: &'a Spec<'a>, bundle: &Path) -> Result<RootfsPlan<'a>> {
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| Error::config("root", "is required"))?;
    if root.path.is_empty() {
        return Err(Error::config("root.path", "must not be empty"));
    }
    let mut plan = RootfsPlan {
        rootfs: bundle.join(root.path.as_str()),
        readonly: root.readonly,
        propagation: None,
        mounts: Vec::with_capacity(spec.mounts.len()),
        devices: Vec::new(),
        populate_dev: true,
        masked: &[],
        readonly_paths: &[],
        label: "",
        user_namespace: None,
        cgroup_namespace: false,
        cgroup_directory: None,
        mount_namespace: false,
    };
    let mut devices: &'a [Device<'a>] = &[];
    if let Some(linux) = &spec.linux {
        plan.propagation = root_propagation(&linux.rootfs_propagation)?;
        plan.masked = &linux.masked_paths;
        plan.readonly_paths = &linux.readonly_paths;
        plan.label = &linux.mount_label;
        plan.user_namespace =
            linux
                .namespaces
                .iter()
                .find(|ns| ns.kind == "user")
                .map(|ns| match ns.path.as_str() {
                    "" => UserNamespace::New(&linux.uid_mappings, &linux.gid_mappings),
                    path => UserNamespace::Joined(path),
                });
        plan.cgroup_namespace = linux.namespaces.iter().any(|ns| ns.kind == "cgroup");
        plan.mount_namespace = linux.namespaces.iter().any(|ns| ns.kind == "mount");
        devices = &linux.devices;
    }
    for (field, paths) in [
        ("maskedPaths", plan.masked),
        ("readonlyPaths", plan.readonly_paths),
    ] {
        if let Some(at) = paths.iter().position(|path| !path.starts_with('/')) {
            return Err(Error::config(
                format_args!("linux.{field}[{at}]"),
                "must be an absolute path",
            ));
        }
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        let options = parse_options(&mount.options);
        let normal = normalize(&mount.destination);
        if normal == "/" {
            return Err(Error::config(
                format_args!("mounts[{index}].destination"),
                "must not be the root; set root.path instead",
            ));
        }
        let what = what(index, mount.kind.as_str(), &mount.source, bundle, &options)?;
        check_proc(index, &normal, &what)?;
        if matches!(what, What::Bind(_)) && normal == "/dev" {
            plan.populate_dev = false;
        }
        let idmap = idmap(
            index,
            &options,
            &what,
            (&mount.uid_mappings, &mount.gid_mappings),
            plan.user_namespace,
        )?;
        plan.mounts.push(MountStep {
            index,
            destination: &mount.destination,
            normal,
            what,
            options,
            idmap,
        });
    }
    plan.devices = plan_devices(devices, plan.populate_dev)?;
    Ok(plan)
}

fn root_propagation(text: &str) -> Result<Option<Propagation>> {
    let (kind, recursive) = match text {
        "" => return Ok(None),
        "shared" => (PropagationKind::Shared, false),
        "rshared" => (PropagationKind::Shared, true),
        "slave" => (PropagationKind::Slave, false),
        "rslave" => (PropagationKind::Slave, true),
        "private" => (PropagationKind::Private, false),
        "rprivate" => (PropagationKind::Private, true),
        "unbindable" => (PropagationKind::Unbindable, false),
        "runbindable" => (PropagationKind::Unbindable, true),
        _ => {
            return Err(Error::config(
                "linux.rootfsPropagation",
                format_args!("{text:?} is unknown; use shared, slave, private or unbindable"),
            ));
        }
    };
    Ok(Some(Propagation { kind, recursive }))
}

fn what<'a>(
    index: usize,
    kind: &'a str,
    source: &'a str,
    bundle: &Path,
    options: &MountOptions<'_>,
) -> Result<What<'a>> {
    if options.remount {
        return Ok(What::Remount);
    }
    // Some callers write `type: bind` and forget the option; nothing else can be meant.
    if options.is_bind() || kind == "bind" {
        if source.is_empty() {
            return Err(Error::config(
                format_args!("mounts[{index}].source"),
                "a bind mount needs a source",
            ));
        }
        if let Some(data) = options.data.first() {
            return Err(Error::config(
                format_args!("mounts[{index}].options"),
                format_args!("{data:?} is no option of a bind mount"),
            ));
        }
        return Ok(What::Bind(bundle.join(source)));
    }
    let source = if source.is_empty() { "none" } else { source };
    match kind {
        "" => Err(Error::config(
            format_args!("mounts[{index}].type"),
            "is required, except for bind mounts",
        )),
        "cgroup" => Ok(What::Cgroup { source }),
        kind => Ok(What::Filesystem { kind, source }),
    }
}

/// Refuses what would put something else in the place of (part of) the proc file system.
fn check_proc(index: usize, normal: &str, what: &What<'_>) -> Result<()> {
    let allowed = match normal.strip_prefix("/proc") {
        Some("") => match what {
            What::Filesystem { kind, .. } => *kind == "proc",
            // Whether the source is a procfs shows when it is opened.
            What::Bind(_) | What::Remount => true,
            What::Cgroup { .. } => false,
        },
        Some(below) if below.starts_with('/') => {
            matches!(what, What::Remount) || BINDABLE_IN_PROC.contains(&normal)
        }
        _ => true,
    };
    if allowed {
        return Ok(());
    }
    Err(Error::config(
        format_args!("mounts[{index}].destination"),
        format_args!("{normal:?} is part of the proc file system and cannot be mounted over"),
    ))
}

/// Whether something may be mounted at `normal`, which turned out to be inside a procfs.
pub(super) fn bindable_in_proc(normal: &str) -> bool {
    BINDABLE_IN_PROC.contains(&normal)
}

fn idmap<'a>(
    index: usize,
    options: &MountOptions<'_>,
    what: &What<'_>,
    (uids, gids): (&'a [IdMapping], &'a [IdMapping]),
    container: Option<UserNamespace<'a>>,
) -> Result<Option<IdmapStep<'a>>> {
    let field = || format!("mounts[{index}]");
    if uids.is_empty() != gids.is_empty() {
        let text = "uidMappings and gidMappings need each other";
        return Err(Error::config(field(), text));
    }
    if options.idmap == Idmap::None && uids.is_empty() {
        return Ok(None);
    }
    if !matches!(what, What::Bind(_)) {
        let text = "only bind mounts can have an id mapping";
        return Err(Error::config(field(), text));
    }
    let mapping = if uids.is_empty() {
        container.ok_or_else(|| {
            let text = "idmap needs uidMappings and gidMappings, or a user namespace";
            Error::config(field(), text)
        })?
    } else {
        UserNamespace::New(uids, gids)
    };
    Ok(Some(IdmapStep {
        mapping,
        recursive: options.idmap == Idmap::Recursive,
    }))
}

fn plan_devices<'a>(configured: &'a [Device<'a>], populate: bool) -> Result<Vec<DeviceStep<'a>>> {
    let mut steps: Vec<DeviceStep<'a>> =
        Vec::with_capacity(DEFAULT_DEVICES.len() + configured.len());
    steps.extend(DEFAULT_DEVICES.map(|(path, major, minor)| DeviceStep {
        path: Cow::Borrowed(path),
        kind: FileType::CharacterDevice,
        major,
        minor,
        mode: DEVICE_MODE,
        uid: 0,
        gid: 0,
    }));
    for (index, device) in configured.iter().enumerate() {
        let step = device_step(index, device)?;
        match steps.iter_mut().find(|other| other.path == step.path) {
            Some(other) => *other = step,
            None => steps.push(step),
        }
    }
    if !populate {
        steps.retain(|step| !step.path.starts_with("/dev/"));
    }
    Ok(steps)
}

fn device_step<'a>(index: usize, device: &'a Device<'a>) -> Result<DeviceStep<'a>> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        _ => return Err(Error::config(field("type"), "must be c, b, u or p")),
    };
    let number = |name: &str, value: Option<i64>, max: u32| match value {
        _ if kind == FileType::Fifo => Ok(0),
        None => Err(Error::config(field(name), "is required for this type")),
        Some(value) => u32::try_from(value)
            .ok()
            .filter(|value| *value <= max)
            .ok_or_else(|| Error::config(field(name), format_args!("must be from 0 to {max}"))),
    };
    if !device.path.starts_with('/') {
        return Err(Error::config(field("path"), "must be an absolute path"));
    }
    Ok(DeviceStep {
        path: Cow::Owned(normalize(&device.path)),
        kind,
        // The kernel's dev_t has 12 bits of major and 20 bits of minor number.
        major: number("major", device.major, 0xfff)?,
        minor: number("minor", device.minor, 0xf_ffff)?,
        mode: device.file_mode.unwrap_or(DEVICE_MODE) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
    })
}

/// The path as absolute, without empty, `.` and `..` components. Says nothing
/// about links, so it serves comparisons, never look-ups.
pub(super) fn normalize(path: &str) -> String {
    let mut normal = String::with_capacity(path.len() + 1);
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => normal.truncate(normal.rfind('/').unwrap_or(0)),
            name => {
                normal.push('/');
                normal.push_str(name);
            }
        }
    }
    if normal.is_empty() {
        normal.push('/');
    }
    normal
}

impl MountStep<'_> {
    /// Whether the mount is made writable first and read-only at the end,
    /// because devices and mount points are still to be made inside.
    pub(super) fn read_only_later(&self) -> bool {
        self.options.attributes.set & attr::RDONLY != 0
            && match self.what {
                What::Filesystem { kind, .. } => kind == "tmpfs" || self.normal == "/dev",
                What::Cgroup { .. } | What::Bind(_) | What::Remount => false,
            }
    }
}
