//! Mount options: the table of config.md and what each option asks of the kernel.
//!
//! Belongs here: names of options and their meaning as bits of
//! mount_setattr(2), fsmount(2), fsconfig(2) and mount(2). Does not: mounting.
//!
//! Source: runtime-spec 1.3.0, config.md, section Linux mount options, and
//! mount(8). The later of two contradicting options wins, as in mount(8).
//! Options of no table are passed to the file system.

use super::text::Text;

/// Attributes of a mount: `MOUNT_ATTR_*` of fsmount(2) and mount_setattr(2).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-ID bits and file capabilities have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Device files cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Programs cannot be executed.
    pub const NOEXEC: u64 = 0x8;
    /// Mask of the access time modes; has to be cleared when one of them is set.
    pub const ATIME: u64 = 0x70;
    /// Access times are updated relative to the modification (the kernel's default).
    pub const RELATIME: u64 = 0x0;
    /// Access times are never updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are never updated.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Flags of a superblock: the part of mount(2)'s flags that concerns it.
pub mod sb {
    /// Writes are synchronous.
    pub const SYNCHRONOUS: u64 = 0x10;
    /// Mandatory locks (no effect since Linux 5.15).
    pub const MANDLOCK: u64 = 0x40;
    /// Changes of directories are synchronous.
    pub const DIRSYNC: u64 = 0x80;
    /// The kernel logs fewer messages.
    pub const SILENT: u64 = 0x8000;
    /// The inode's version changes with its contents.
    pub const I_VERSION: u64 = 0x80_0000;
    /// Timestamps are kept in memory.
    pub const LAZYTIME: u64 = 0x200_0000;
}

/// Other flags of mount(2).
mod ms {
    pub(super) const RDONLY: u64 = 0x1;
    pub(super) const NOSUID: u64 = 0x2;
    pub(super) const NODEV: u64 = 0x4;
    pub(super) const NOEXEC: u64 = 0x8;
    pub(super) const REMOUNT: u64 = 0x20;
    pub(super) const NOSYMFOLLOW: u64 = 0x100;
    pub(super) const NOATIME: u64 = 0x400;
    pub(super) const NODIRATIME: u64 = 0x800;
    pub(super) const BIND: u64 = 0x1000;
    pub(super) const REC: u64 = 0x4000;
    pub(super) const UNBINDABLE: u64 = 0x2_0000;
    pub(super) const PRIVATE: u64 = 0x4_0000;
    pub(super) const SLAVE: u64 = 0x8_0000;
    pub(super) const SHARED: u64 = 0x10_0000;
    pub(super) const RELATIME: u64 = 0x20_0000;
    pub(super) const STRICTATIME: u64 = 0x100_0000;
}

/// How mount events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationKind {
    /// Both ways.
    Shared,
    /// Only into the mount.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and the mount cannot be bound elsewhere.
    Unbindable,
}

/// A propagation option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// How events travel.
    pub kind: PropagationKind,
    /// Whether all mounts below are meant too.
    pub recursive: bool,
}

impl Propagation {
    /// The `MS_*` bit, without `MS_REC`: the `propagation` of mount_setattr(2).
    #[must_use]
    pub fn bit(self) -> u64 {
        match self.kind {
            PropagationKind::Shared => ms::SHARED,
            PropagationKind::Slave => ms::SLAVE,
            PropagationKind::Private => ms::PRIVATE,
            PropagationKind::Unbindable => ms::UNBINDABLE,
        }
    }

    /// The flags of mount(2): the bit, and `MS_REC` where recursive.
    #[must_use]
    pub fn mount_flags(self) -> u64 {
        self.bit() | if self.recursive { ms::REC } else { 0 }
    }
}

/// Whether a mount is a bind mount; its `type` says nothing about that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bind {
    /// A file system is mounted.
    #[default]
    No,
    /// One mount is bound.
    Bind,
    /// A mount is bound with all mounts below it.
    Rbind,
}

/// Whether the options ask for an id mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Idmap {
    /// They do not; mappings given with the mount imply `Plain` all the same.
    #[default]
    None,
    /// Of this mount.
    Plain,
    /// Of this mount and all below it.
    Recursive,
}

/// Attributes to set and to clear, as mount_setattr(2) takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear; contains [`attr::ATIME`] whenever the
    /// options name an access time mode.
    pub clear: u64,
}

impl Attributes {
    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0
    }

    fn apply(&mut self, change: Change) {
        match change {
            Set(bits) => {
                self.set |= bits;
                self.clear &= !bits;
            }
            Clear(bits) => {
                self.set &= !bits;
                self.clear |= bits;
            }
            Atime(mode) => {
                self.clear |= attr::ATIME;
                self.set = self.set & !attr::ATIME | mode;
            }
            NotAtime(mode) => {
                // "Not that mode" leaves another mode alone, else means the kernel's default.
                self.clear |= attr::ATIME;
                if self.set & attr::ATIME == mode {
                    self.set &= !attr::ATIME;
                }
            }
        }
    }
}

/// The options of one mount, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions<'a> {
    /// Attributes of the mount itself. For a new file system `set` goes to
    /// fsmount(2); [`attr::RDONLY`] then also makes the superblock read-only,
    /// see [`MountOptions::superblock_flags`].
    pub attributes: Attributes,
    /// Attributes of the mount and all mounts below it (`rro`, `rnosuid`, ...):
    /// mount_setattr(2) with `AT_RECURSIVE`.
    pub recursive: Attributes,
    /// [`sb`] flags to set.
    pub superblock_set: u64,
    /// [`sb`] flags to clear (matters to a remount only).
    pub superblock_clear: u64,
    /// `remount`: the mount at the destination is changed, none is made.
    pub remount: bool,
    /// Propagation changes in the order in which they were given.
    pub propagation: Vec<Propagation>,
    /// Whether it is a bind mount.
    pub bind: Bind,
    /// Whether an id mapping was asked for.
    pub idmap: Idmap,
    /// `tmpcopyup`: a tmpfs starts with a copy of what it hides.
    pub tmpcopyup: bool,
    /// `copy-symlink`: a source that is a symbolic link is made anew, not mounted.
    pub copy_symlink: bool,
    /// `src-nofollow`: a source that is a symbolic link is bound itself.
    pub src_nofollow: bool,
    /// `dest-nofollow`: a destination that is a symbolic link is mounted upon itself.
    pub dest_nofollow: bool,
    /// What is left for the file system, in order, each as it was written.
    pub data: Vec<&'a str>,
}

impl<'a> MountOptions<'a> {
    /// The names that fsconfig(2) `FSCONFIG_SET_FLAG` takes for the superblock,
    /// `ro` included. `silent` and `iversion` have no such name in the kernel;
    /// [`MountOptions::needs_mount`] tells whether that matters.
    pub fn superblock_flags(&self) -> impl Iterator<Item = &'static str> {
        let read_only = self.attributes.set & attr::RDONLY != 0;
        let set = self.superblock_set;
        [
            ("sync", sb::SYNCHRONOUS),
            ("dirsync", sb::DIRSYNC),
            ("lazytime", sb::LAZYTIME),
            ("mand", sb::MANDLOCK),
        ]
        .into_iter()
        .filter(move |(_, bit)| set & bit != 0)
        .map(|(name, _)| name)
        .chain(read_only.then_some("ro"))
    }

    /// Whether a new file system needs mount(2), because fsconfig(2) cannot
    /// say `iversion`. (`silent` it need not say: messages of a file system
    /// context go to its own log.)
    #[must_use]
    pub fn needs_mount(&self) -> bool {
        self.superblock_set & sb::I_VERSION != 0
    }

    /// All flags for mount(2), without propagation and recursive attributes.
    #[must_use]
    pub fn mount_flags(&self) -> u64 {
        let set = self.attributes.set;
        let mut flags = self.superblock_set;
        for (attribute, flag) in [
            (attr::RDONLY, ms::RDONLY),
            (attr::NOSUID, ms::NOSUID),
            (attr::NODEV, ms::NODEV),
            (attr::NOEXEC, ms::NOEXEC),
            (attr::NODIRATIME, ms::NODIRATIME),
            (attr::NOSYMFOLLOW, ms::NOSYMFOLLOW),
        ] {
            if set & attribute != 0 {
                flags |= flag;
            }
        }
        if self.attributes.clear & attr::ATIME != 0 {
            flags |= match set & attr::ATIME {
                attr::NOATIME => ms::NOATIME,
                attr::STRICTATIME => ms::STRICTATIME,
                _ => ms::RELATIME,
            };
        }
        if self.remount {
            flags |= ms::REMOUNT;
        }
        flags
            | match self.bind {
                Bind::No => 0,
                Bind::Bind => ms::BIND,
                Bind::Rbind => ms::BIND | ms::REC,
            }
    }

    /// Whether this is a bind mount.
    #[must_use]
    pub fn is_bind(&self) -> bool {
        self.bind != Bind::No
    }

    /// The file system's options as fsconfig(2) takes them: key and value, a
    /// flag where there is no value. Splits at commas outside of double quotes
    /// that no backslash precedes, and takes the quotes off, as the kernel
    /// does with the string that mount(2) gets.
    pub fn data_items(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        self.data
            .iter()
            .flat_map(|option| SplitData(Some(option)))
            .filter(|item| !item.is_empty())
            .map(|item| match item.split_once('=') {
                Some((key, value)) => (key, Some(unquoted(value))),
                None => (item, None),
            })
    }

    /// The file system's options as one comma-separated string for mount(2).
    #[must_use]
    pub fn data_string(&self) -> String {
        self.data.join(",")
    }
}

/// Splits one option string at its commas.
struct SplitData<'a>(Option<&'a str>);

impl<'a> Iterator for SplitData<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0?;
        let (mut quoted, mut escaped) = (false, false);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    self.0 = text.get(at + 1..);
                    return text.get(..at);
                }
                _ => {}
            }
        }
        self.0 = None;
        Some(text)
    }
}

fn unquoted(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Set(u64),
    Clear(u64),
    Atime(u64),
    NotAtime(u64),
}

/// What an option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Attribute(Change),
    Recursive(Change),
    SuperblockSet(u64),
    SuperblockClear(u64),
    Propagation(PropagationKind, bool),
    Bind(Bind),
    Idmap(Idmap),
    Remount,
    TmpCopyUp,
    CopySymlink,
    SrcNoFollow,
    DestNoFollow,
    Ignored,
}

use Action::{Attribute, Recursive, SuperblockClear, SuperblockSet};
use Change::{Atime, Clear, NotAtime, Set};

/// The options of the specification, and `rnodev`, which its table forgot; in ASCII order.
const OPTIONS: [(&str, Action); 62] = [
    ("async", SuperblockClear(sb::SYNCHRONOUS)),
    ("atime", Attribute(NotAtime(attr::NOATIME))),
    ("bind", Action::Bind(Bind::Bind)),
    ("defaults", Action::Ignored),
    ("dev", Attribute(Clear(attr::NODEV))),
    ("diratime", Attribute(Clear(attr::NODIRATIME))),
    ("dirsync", SuperblockSet(sb::DIRSYNC)),
    ("exec", Attribute(Clear(attr::NOEXEC))),
    ("idmap", Action::Idmap(Idmap::Plain)),
    ("iversion", SuperblockSet(sb::I_VERSION)),
    ("lazytime", SuperblockSet(sb::LAZYTIME)),
    ("loud", SuperblockClear(sb::SILENT)),
    ("mand", SuperblockSet(sb::MANDLOCK)),
    ("noatime", Attribute(Atime(attr::NOATIME))),
    ("nodev", Attribute(Set(attr::NODEV))),
    ("nodiratime", Attribute(Set(attr::NODIRATIME))),
    ("noexec", Attribute(Set(attr::NOEXEC))),
    ("noiversion", SuperblockClear(sb::I_VERSION)),
    ("nolazytime", SuperblockClear(sb::LAZYTIME)),
    ("nomand", SuperblockClear(sb::MANDLOCK)),
    ("norelatime", Attribute(NotAtime(attr::RELATIME))),
    ("nostrictatime", Attribute(NotAtime(attr::STRICTATIME))),
    ("nosuid", Attribute(Set(attr::NOSUID))),
    ("nosymfollow", Attribute(Set(attr::NOSYMFOLLOW))),
    (
        "private",
        Action::Propagation(PropagationKind::Private, false),
    ),
    ("ratime", Recursive(NotAtime(attr::NOATIME))),
    ("rbind", Action::Bind(Bind::Rbind)),
    ("rdev", Recursive(Clear(attr::NODEV))),
    ("rdiratime", Recursive(Clear(attr::NODIRATIME))),
    ("relatime", Attribute(Atime(attr::RELATIME))),
    ("remount", Action::Remount),
    ("rexec", Recursive(Clear(attr::NOEXEC))),
    ("ridmap", Action::Idmap(Idmap::Recursive)),
    ("rnoatime", Recursive(Atime(attr::NOATIME))),
    ("rnodev", Recursive(Set(attr::NODEV))),
    ("rnodiratime", Recursive(Set(attr::NODIRATIME))),
    ("rnoexec", Recursive(Set(attr::NOEXEC))),
    ("rnorelatime", Recursive(NotAtime(attr::RELATIME))),
    ("rnostrictatime", Recursive(NotAtime(attr::STRICTATIME))),
    ("rnosuid", Recursive(Set(attr::NOSUID))),
    ("rnosymfollow", Recursive(Set(attr::NOSYMFOLLOW))),
    ("ro", Attribute(Set(attr::RDONLY))),
    (
        "rprivate",
        Action::Propagation(PropagationKind::Private, true),
    ),
    ("rrelatime", Recursive(Atime(attr::RELATIME))),
    ("rro", Recursive(Set(attr::RDONLY))),
    ("rrw", Recursive(Clear(attr::RDONLY))),
    (
        "rshared",
        Action::Propagation(PropagationKind::Shared, true),
    ),
    ("rslave", Action::Propagation(PropagationKind::Slave, true)),
    ("rstrictatime", Recursive(Atime(attr::STRICTATIME))),
    ("rsuid", Recursive(Clear(attr::NOSUID))),
    ("rsymfollow", Recursive(Clear(attr::NOSYMFOLLOW))),
    (
        "runbindable",
        Action::Propagation(PropagationKind::Unbindable, true),
    ),
    ("rw", Attribute(Clear(attr::RDONLY))),
    (
        "shared",
        Action::Propagation(PropagationKind::Shared, false),
    ),
    ("silent", SuperblockSet(sb::SILENT)),
    ("slave", Action::Propagation(PropagationKind::Slave, false)),
    ("strictatime", Attribute(Atime(attr::STRICTATIME))),
    ("suid", Attribute(Clear(attr::NOSUID))),
    ("symfollow", Attribute(Clear(attr::NOSYMFOLLOW))),
    ("sync", SuperblockSet(sb::SYNCHRONOUS)),
    ("tmpcopyup", Action::TmpCopyUp),
    (
        "unbindable",
        Action::Propagation(PropagationKind::Unbindable, false),
    ),
];

/// Options that callers of crun use, and those of mount(8) that speak to
/// mount(8) itself and must not reach a file system; in ASCII order.
const EXTENSIONS: [(&str, Action); 13] = [
    ("_netdev", Action::Ignored),
    ("auto", Action::Ignored),
    ("copy-symlink", Action::CopySymlink),
    ("dest-nofollow", Action::DestNoFollow),
    ("noauto", Action::Ignored),
    ("nofail", Action::Ignored),
    ("nouser", Action::Ignored),
    ("rasync", SuperblockClear(sb::SYNCHRONOUS)),
    ("rdirsync", SuperblockSet(sb::DIRSYNC)),
    ("rmand", SuperblockSet(sb::MANDLOCK)),
    ("rnomand", SuperblockClear(sb::MANDLOCK)),
    ("rsync", SuperblockSet(sb::SYNCHRONOUS)),
    ("src-nofollow", Action::SrcNoFollow),
];

fn find(table: &[(&'static str, Action)], option: &str) -> Option<Action> {
    let at = table
        .binary_search_by(|(name, _)| (*name).cmp(option))
        .ok()?;
    table.get(at).map(|(_, action)| *action)
}

fn lookup(option: &str) -> Option<Action> {
    find(&OPTIONS, option).or_else(|| {
        if option.starts_with("x-") || option.starts_with("X-") {
            return Some(Action::Ignored);
        }
        find(&EXTENSIONS, option)
    })
}

/// The options of the specification that the runtime knows, in ASCII order:
/// `mountOptions` of the features document.
pub fn option_names() -> impl ExactSizeIterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// Whether `option` goes to the file system, because no table has it.
#[must_use]
pub fn is_data(option: &str) -> bool {
    lookup(option).is_none()
}

/// The propagation that `text` names, as an option or as `rootfsPropagation`
/// (callers write the recursive names there too).
#[must_use]
pub fn parse_propagation(text: &str) -> Option<Propagation> {
    match find(&OPTIONS, text)? {
        Action::Propagation(kind, recursive) => Some(Propagation { kind, recursive }),
        _ => None,
    }
}

/// Parses the options of one mount. Every text is accepted: what no table has
/// is [`MountOptions::data`].
#[must_use]
pub fn parse_options<'a>(options: &'a [Text<'_>]) -> MountOptions<'a> {
    let mut parsed = MountOptions::default();
    for option in options {
        let Some(action) = lookup(option) else {
            if !option.is_empty() {
                parsed.data.push(option);
            }
            continue;
        };
        match action {
            Attribute(change) => parsed.attributes.apply(change),
            Recursive(change) => parsed.recursive.apply(change),
            SuperblockSet(bit) => {
                parsed.superblock_set |= bit;
                parsed.superblock_clear &= !bit;
            }
            SuperblockClear(bit) => {
                parsed.superblock_set &= !bit;
                parsed.superblock_clear |= bit;
            }
            Action::Propagation(kind, recursive) => {
                parsed.propagation.push(Propagation { kind, recursive });
            }
            // "bind" after "rbind" does not take the recursion away: both are flags.
            Action::Bind(bind) => {
                if parsed.bind != Bind::Rbind {
                    parsed.bind = bind;
                }
            }
            Action::Idmap(idmap) => parsed.idmap = idmap,
            Action::Remount => parsed.remount = true,
            Action::TmpCopyUp => parsed.tmpcopyup = true,
            Action::CopySymlink => parsed.copy_symlink = true,
            Action::SrcNoFollow => parsed.src_nofollow = true,
            Action::DestNoFollow => parsed.dest_nofollow = true,
            Action::Ignored => {}
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(options: &[&'static str]) -> Vec<Text<'static>> {
        options.iter().map(|option| Text::from(*option)).collect()
    }

    #[test]
    fn tables_are_sorted_and_disjoint() {
        assert!(OPTIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(EXTENSIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(
            EXTENSIONS
                .iter()
                .all(|(name, _)| find(&OPTIONS, name).is_none())
        );
    }

    #[test]
    fn every_option_of_the_table_is_known_and_none_reaches_the_file_system() {
        for name in option_names() {
            let options = [Text::from(name)];
            assert!(parse_options(&options).data.is_empty(), "{name}");
        }
    }

    #[test]
    fn the_later_option_wins() {
        let options = texts(&["ro", "nosuid", "rw", "suid", "nosuid"]);
        let parsed = parse_options(&options);
        assert_eq!(parsed.attributes.set, attr::NOSUID);
        assert_eq!(parsed.attributes.clear, attr::RDONLY);
        let options = texts(&["sync", "silent", "async", "loud", "lazytime"]);
        let parsed = parse_options(&options);
        assert_eq!(parsed.superblock_set, sb::LAZYTIME);
        assert_eq!(parsed.superblock_clear, sb::SYNCHRONOUS | sb::SILENT);
    }

    #[test]
    fn access_time_modes_clear_the_whole_mask() {
        for (options, set) in [
            (&["noatime"][..], attr::NOATIME),
            (&["strictatime"], attr::STRICTATIME),
            (&["relatime"], attr::RELATIME),
            (&["noatime", "strictatime"], attr::STRICTATIME),
            (&["strictatime", "atime"], attr::STRICTATIME),
            (&["noatime", "atime"], attr::RELATIME),
            (&["noatime", "norelatime"], attr::NOATIME),
            (&["nostrictatime"], attr::RELATIME),
        ] {
            let options = texts(options);
            let parsed = parse_options(&options);
            assert_eq!(parsed.attributes.set, set, "{options:?}");
            assert_eq!(parsed.attributes.clear, attr::ATIME, "{options:?}");
        }
        let options = texts(&["rnoatime", "rnodiratime", "rro"]);
        let parsed = parse_options(&options);
        assert_eq!(
            parsed.recursive,
            Attributes {
                set: attr::NOATIME | attr::NODIRATIME | attr::RDONLY,
                clear: attr::ATIME
            }
        );
        assert!(parsed.attributes.is_empty());
    }

    #[test]
    fn binds_and_propagation() {
        let options = texts(&["rbind", "bind", "rprivate", "shared"]);
        let parsed = parse_options(&options);
        assert_eq!(parsed.bind, Bind::Rbind);
        let flags: Vec<_> = parsed.propagation.iter().map(|p| p.mount_flags()).collect();
        assert_eq!(flags, [ms::PRIVATE | ms::REC, ms::SHARED]);
    }

    #[test]
    fn mount_flags_say_the_same_as_attributes() {
        let options = texts(&[
            "ro", "nosuid", "nodev", "noexec", "noatime", "dirsync", "iversion",
        ]);
        let parsed = parse_options(&options);
        assert_eq!(
            parsed.mount_flags(),
            libc::MS_RDONLY
                | libc::MS_NOSUID
                | libc::MS_NODEV
                | libc::MS_NOEXEC
                | libc::MS_NOATIME
                | libc::MS_DIRSYNC
                | libc::MS_I_VERSION
        );
        assert!(parsed.needs_mount());
        assert_eq!(
            parsed.superblock_flags().collect::<Vec<_>>(),
            ["dirsync", "ro"]
        );
    }

    #[test]
    fn unknown_options_go_to_the_file_system() {
        let options = texts(&[
            "mode=755,size=64k",
            "context=\"system_u:object_r:t:s0:c1,c2\"",
            "newinstance",
            "lowerdir=/a\\,b:/c",
            "x-systemd.automount",
            "",
        ]);
        let parsed = parse_options(&options);
        assert_eq!(
            parsed.data_items().collect::<Vec<_>>(),
            [
                ("mode", Some("755")),
                ("size", Some("64k")),
                ("context", Some("system_u:object_r:t:s0:c1,c2")),
                ("newinstance", None),
                ("lowerdir", Some("/a\\,b:/c")),
            ]
        );
        assert!(is_data("mode=755") && !is_data("nosuid"));
    }

    proptest::proptest! {
        #[test]
        fn any_options_are_read(
            picks in proptest::collection::vec((0usize..80, "[a-z=,\"\\\\-]{0,8}"), 0..12)
        ) {
            let names: Vec<&str> = option_names().chain(EXTENSIONS.map(|(name, _)| name)).collect();
            let options: Vec<Text<'_>> = picks
                .iter()
                .map(|(pick, other)| Text::from(names.get(*pick).copied().unwrap_or(other)))
                .collect();
            let parsed = parse_options(&options);
            for change in [parsed.attributes, parsed.recursive] {
                // Nothing is set and cleared, but for the mask of the access time.
                assert_eq!(change.set & change.clear & !attr::ATIME, 0);
                assert!(change.set & attr::ATIME == 0 || change.clear & attr::ATIME == attr::ATIME);
            }
            assert_eq!(parsed.superblock_set & parsed.superblock_clear, 0);
            assert!(parsed.data.iter().all(|option| is_data(option) && !option.is_empty()));
            assert!(parsed.data_items().all(|(key, value)| !key.contains('=') && (value.is_some() || !key.is_empty())));
            let _ = (parsed.mount_flags(), parsed.superblock_flags().count(), parsed.data_string());
        }
    }
}
