//! Namespaces of a container: which are made, which are joined, and how a process gets into them.
//!
//! The runtime joins what is to be joined itself, for a moment, so that the
//! process that it clones is born there and owns what clone3(2) makes for it
//! ([`Entered`] goes back when dropped). That needs no helper process, not even
//! for pid namespaces, which only children enter, and time namespaces, whose
//! offsets can be written only before they have a process. A user namespace
//! is different, nobody comes back from it: the child joins that one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

use crate::container::wait;
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::spec::config::IdMapping;
use crate::spec::linux::Linux;
use crate::sys::clone::{self, flags};

/// The kinds of namespaces: the name in the configuration, the name in /proc/PID/ns, the flag.
pub(crate) const KINDS: [(&str, &str, u64); 8] = [
    ("user", "user", flags::NEWUSER),
    ("pid", "pid", flags::NEWPID),
    ("network", "net", flags::NEWNET),
    ("ipc", "ipc", flags::NEWIPC),
    ("uts", "uts", flags::NEWUTS),
    ("cgroup", "cgroup", flags::NEWCGROUP),
    ("time", "time", flags::NEWTIME),
    ("mount", "mnt", flags::NEWNS),
];

/// What the configuration asks for.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Namespaces to make, as clone flags.
    pub make: u64,
    /// Namespaces to join, opened and of the right kind, but for the user namespace.
    pub join: Vec<(u64, OwnedFd)>,
    /// The user namespace to join.
    pub join_user: Option<OwnedFd>,
    /// Contents for timens_offsets; empty without offsets.
    pub time_offsets: String,
    /// Ids of a new user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// Ids of a new user namespace.
    pub gid_mappings: Vec<IdMapping>,
}

impl Namespaces {
    /// Reads the configuration and opens what is to be joined.
    ///
    /// # Errors
    /// A path that cannot be opened or is a namespace of another kind.
    pub fn open(linux: &Linux<'_>) -> Result<Namespaces> {
        let mut namespaces = Namespaces::default();
        for (index, namespace) in linux.namespaces.iter().enumerate() {
            let field = || format!("linux.namespaces[{index}]");
            let Some((_, _, flag)) = KINDS.iter().find(|(name, _, _)| namespace.kind == *name)
            else {
                return Err(Error::config(
                    field(),
                    format!("unknown namespace type {:?}", namespace.kind),
                ));
            };
            if namespace.path.is_empty() {
                namespaces.make |= flag;
                continue;
            }
            let path = namespace.path.as_str();
            let fd = open(
                path,
                OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
                Mode::empty(),
            )
            .context(|| format!("{}.path: open({path})", field()))?;
            if clone::namespace_type(fd.as_fd()) != Ok(*flag) {
                return Err(Error::config(
                    format!("{}.path", field()),
                    format!(
                        "{path} is no namespace of type {:?}; give the path of one, such as /proc/PID/ns/...",
                        namespace.kind
                    ),
                ));
            }
            if *flag == flags::NEWUSER {
                namespaces.join_user = Some(fd);
            } else {
                namespaces.join.push((*flag, fd));
            }
        }
        for (clock, offset) in &linux.time_offsets {
            use std::fmt::Write;
            let _ = writeln!(
                namespaces.time_offsets,
                "{clock} {} {}",
                offset.secs, offset.nanosecs
            );
        }
        if namespaces.make & flags::NEWUSER != 0 {
            namespaces.uid_mappings.clone_from(&linux.uid_mappings);
            namespaces.gid_mappings.clone_from(&linux.gid_mappings);
        }
        Ok(namespaces)
    }

    /// All kinds that are made or joined, as clone flags.
    pub fn all(&self) -> u64 {
        let joined = self.join.iter().fold(0, |all, (flag, _)| all | flag);
        let user = if self.join_user.is_some() {
            flags::NEWUSER
        } else {
            0
        };
        self.make | joined | user
    }

    /// Whether a kind is made or joined.
    pub fn has(&self, flag: u64) -> bool {
        self.all() & flag != 0
    }

    /// What a user id of the container is on the host; the id itself where it is not mapped.
    pub fn host_uid(&self, uid: u32) -> u32 {
        let mapping = self.uid_mappings.iter().find(|mapping| {
            uid >= mapping.container_id && uid - mapping.container_id < mapping.size
        });
        mapping.map_or(uid, |mapping| {
            mapping.host_id.saturating_add(uid - mapping.container_id)
        })
    }

    /// Flags for clone3: all that are made, but for the cgroup namespace, whose root is the
    /// cgroup that its maker is in, the time namespace where offsets were prepared, and beside a
    /// user namespace the IPC namespace: its maker owns the root of the mqueue file system, and
    /// only inside is that an id that the container knows.
    pub fn clone_flags(&self) -> u64 {
        let prepared = if self.time_offsets.is_empty() {
            0
        } else {
            flags::NEWTIME
        };
        let later = if self.make & flags::NEWUSER != 0 {
            flags::NEWIPC
        } else {
            0
        };
        self.make & !(flags::NEWCGROUP | prepared | later)
    }

    /// Puts the calling process where its next child shall be born.
    ///
    /// # Errors
    /// setns(2), unshare(2) and the writing of the offsets.
    pub fn enter(&self) -> Result<Entered> {
        let mut entered = Entered::default();
        for (flag, fd) in &self.join {
            entered.join(*flag, fd.as_fd())?;
        }
        if self.has_offsets() {
            entered.make(flags::NEWTIME)?;
            self.write_offsets()?;
        }
        Ok(entered)
    }

    /// As [`Namespaces::enter`], for a process that need not come back; goes into the user
    /// namespace too, in which it becomes root.
    ///
    /// The others may belong to that one or to the caller's own: those that cannot be joined before
    /// it are joined after.
    ///
    /// # Errors
    /// As [`Namespaces::enter`].
    pub fn enter_for_good(&self) -> Result<()> {
        let join = |flag: u64, fd: &OwnedFd| {
            clone::setns(fd.as_fd(), flag)
                .context(|| format!("linux.namespaces: setns({})", names(flag)))
        };
        let mut later = Vec::new();
        for (flag, fd) in &self.join {
            match join(*flag, fd) {
                Err(error)
                    if self.join_user.is_some()
                        && error.errno() == Some(rustix::io::Errno::PERM) =>
                {
                    later.push((*flag, fd));
                }
                result => result?,
            }
        }
        if let Some(user) = &self.join_user {
            join(flags::NEWUSER, user)?;
            become_root()?;
        }
        for (flag, fd) in later {
            join(flag, fd)?;
        }
        if self.has_offsets() {
            clone::unshare(flags::NEWTIME).context(|| "linux.timeOffsets: unshare(time)")?;
            self.write_offsets()?;
        }
        Ok(())
    }

    /// Whether somebody else than the runtime has to go where init is to be born, and make it: who
    /// joins a user namespace stays there, and who is not root of the first one cannot come back
    /// to the namespaces that belong to that.
    pub fn need_helper(&self, host: &Host) -> bool {
        self.join_user.is_some()
            || ((!self.join.is_empty() || self.has_offsets()) && host.rootless())
    }

    /// Whether a time namespace is made before its first process, to get its offsets.
    fn has_offsets(&self) -> bool {
        !self.time_offsets.is_empty() && self.make & flags::NEWTIME != 0
    }

    fn write_offsets(&self) -> Result<()> {
        let path = "/proc/self/timens_offsets";
        std::fs::write(path, &self.time_offsets)
            .context(|| format!("linux.timeOffsets: write({path}, {:?})", self.time_offsets))
    }
}

/// A process that is in other namespaces for a moment; goes back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Entered {
    back: Vec<(u64, OwnedFd)>,
    /// Root and working directory, which joining a mount namespace changes.
    places: Option<(OwnedFd, OwnedFd)>,
}

impl Entered {
    /// Joins one namespace, or all of `flag` of the process that the pidfd `fd` is.
    pub fn join(&mut self, flag: u64, fd: BorrowedFd<'_>) -> Result<()> {
        self.remember(flag)?;
        join_those_of(fd, flag).context(|| format!("setns({})", names(flag)))
    }

    /// Makes one namespace and goes there.
    pub fn make(&mut self, flag: u64) -> Result<()> {
        self.remember(flag)?;
        clone::unshare(flag).context(|| format!("unshare({})", names(flag)))
    }

    fn remember(&mut self, flag: u64) -> Result<()> {
        for (_, name, kind) in KINDS {
            if flag & kind == 0 {
                continue;
            }
            let path = format!("/proc/self/ns/{name}");
            let fd = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("open({path})"))?;
            if kind == flags::NEWNS {
                let place = |path: &str| {
                    open(
                        path,
                        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                    .context(|| format!("open({path})"))
                };
                self.places = Some((place("/")?, place(".")?));
            }
            self.back.push((kind, fd));
        }
        Ok(())
    }

    /// Goes back.
    ///
    /// # Errors
    /// setns(2): the process stays where it is and is of no further use.
    pub fn leave(mut self) -> Result<()> {
        self.go_back()
    }

    fn go_back(&mut self) -> Result<()> {
        while let Some((flag, fd)) = self.back.pop() {
            clone::setns(fd.as_fd(), flag)
                .context(|| format!("cannot leave a namespace: setns({})", names(flag)))?;
        }
        if let Some((root, cwd)) = self.places.take() {
            rustix::process::fchdir(&root).context(|| "fchdir(old root)")?;
            rustix::process::chroot(".").context(|| "chroot(old root)")?;
            rustix::process::fchdir(&cwd).context(|| "fchdir(old working directory)")?;
        }
        Ok(())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = self.go_back();
    }
}

/// The names of namespaces in a set, for error texts.
pub(crate) fn names(set: u64) -> String {
    let mut text = String::new();
    for (_, name, flag) in KINDS {
        if set & flag != 0 {
            if !text.is_empty() {
                text.push('|');
            }
            text.push_str(name);
        }
    }
    text
}

/// Joins the namespaces `set` of a process. setns(2).
///
/// # Errors
/// Those of setns(2).
pub(crate) fn join_those_of(
    process: BorrowedFd<'_>,
    set: u64,
) -> std::result::Result<(), rustix::io::Errno> {
    if !wait::is_directory(process) {
        return clone::setns(process, set);
    }
    // One by one, and opened before any is joined.
    let mut opened = Vec::new();
    for (_, name, flag) in KINDS.iter().filter(|(_, _, flag)| set & flag != 0) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(process, format!("ns/{name}"), flags, Mode::empty())?;
        opened.push((fd, *flag));
    }
    opened
        .iter()
        .try_for_each(|(fd, flag)| clone::setns(fd.as_fd(), *flag))
}

/// Makes the process root of its new user namespace, as far as ids are mapped.
pub(crate) fn become_root() -> Result<()> {
    use rustix::process::{Gid, Uid};
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .context(|| "setresgid(0, 0, 0)")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
        .context(|| "setresuid(0, 0, 0)")
}
