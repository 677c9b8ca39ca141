//! `process.user`: groups, ids and the umask, credentials(7).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid, fchown, fstat, major, minor};
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::procfs::ProcFs;
use crate::error::{Context, Error, Result};
use crate::rootfs::{Links, RootFd};
use crate::spec::config;

/// Kernel's NGROUPS_MAX, setgroups(2).
const MAX_GROUPS: usize = 65536;

/// Who a process runs as, ids as its user namespace sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id; never 4294967295, which means "unchanged" to setresuid(2).
    pub uid: u32,
    /// Group id; never 4294967295.
    pub gid: u32,
    groups: Vec<Gid>,
    umask: Option<u32>,
    /// Whether the groups of the caller stay instead.
    pub keep_groups: bool,
}

/// Reads `process.user`.
///
/// # Errors
/// `InvalidConfig` for ids that are none, a umask beyond 0777, too many groups.
pub fn plan(user: &config::User) -> Result<Identity> {
    let id = |path: &dyn std::fmt::Display, id: u32| {
        if id == u32::MAX {
            return Err(Error::config(
                format_args!("process.user.{path}"),
                "4294967295 is not an id; use a smaller number",
            ));
        }
        Ok(id)
    };
    let uid = id(&"uid", user.uid)?;
    let gid = id(&"gid", user.gid)?;
    if user.additional_gids.len() > MAX_GROUPS {
        return Err(Error::config(
            "process.user.additionalGids",
            "more than 65536 groups",
        ));
    }
    let mut groups = Vec::with_capacity(user.additional_gids.len());
    for (index, &group) in user.additional_gids.iter().enumerate() {
        let group = id(&format_args!("additionalGids[{index}]"), group)?;
        groups.push(Gid::from_raw(group));
    }
    if let Some(mask) = user.umask
        && mask > 0o777
    {
        return Err(Error::config(
            "process.user.umask",
            format_args!("{mask} is beyond 511 (octal 0777); JSON numbers are decimal"),
        ));
    }
    Ok(Identity {
        uid,
        gid,
        groups,
        umask: user.umask,
        keep_groups: false,
    })
}

impl Identity {
    /// Sets supplementary groups, group ids, user ids and the umask.
    ///
    /// Groups first: setgroups(2) needs CAP_SETGID, which leaves with the user id. They are set
    /// for uid 0 and for an empty list too, or the caller's groups would reach the container.
    ///
    /// # Errors
    /// Those of setgroups(2), setresgid(2), setresuid(2), with the field that asked for it.
    pub fn apply(&self) -> Result<()> {
        if !self.keep_groups {
            match set_thread_groups(&self.groups) {
                // A user namespace made without privilege forbids setgroups(2) so that nobody
                // gets rid of a group that denies access: user_namespaces(7).
                // Nothing is lost where no group was asked for but the one that the process has anyway.
                Err(Errno::PERM) if self.groups.iter().all(|group| group.as_raw() == self.gid) => {}
                result => result.context(|| self.groups_refused(result.err()))?,
            }
        }
        let gid = Gid::from_raw(self.gid);
        set_thread_res_gid(gid, gid, gid).map_err(|errno| id_refused("gid", self.gid, errno))?;
        let uid = Uid::from_raw(self.uid);
        set_thread_res_uid(uid, uid, uid).map_err(|errno| id_refused("uid", self.uid, errno))?;
        set_umask(self.umask);
        Ok(())
    }

    fn groups_refused(&self, errno: Option<Errno>) -> String {
        let why = match errno {
            Some(Errno::PERM) => {
                " (a user namespace that was made without privileges takes no groups, see /proc/self/setgroups)"
            }
            Some(Errno::INVAL) => " (a group is not mapped in the user namespace)",
            _ => "",
        };
        let groups: Vec<u32> = self.groups.iter().map(|group| group.as_raw()).collect();
        format!("process.user.additionalGids: setgroups({groups:?}){why}")
    }

    /// Gives the descriptors 0 to 2 to the user, so that it can open `/dev/stdout` again.
    /// Before [`Identity::apply`]. One that is the null device belongs to everybody: it becomes
    /// the container's own, because of the host's the container could change mode and owner.
    ///
    /// # Errors
    /// Those of fchown(2), but for files whose owner cannot change: ids without a mapping
    /// (`EINVAL`, `EPERM`), read-only file systems, anonymous files. Those of dup2(2).
    pub fn own_stdio(&self, root: &RootFd, procfs: &ProcFs) -> Result<()> {
        let stdio: [BorrowedFd<'_>; 3] = [
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ];
        let mut own_null = None;
        for (fd, replace) in stdio.into_iter().zip(REPLACE) {
            let Ok(stat) = fstat(fd) else {
                // Closed by the caller: nothing to own.
                continue;
            };
            if is_null(&stat) {
                if let Some(null) = own_null.get_or_insert_with(|| null_of(root, procfs)) {
                    replace(null.as_fd()).context(|| "dup2(/dev/null)")?;
                }
                continue;
            }
            if stat.st_uid == self.uid {
                continue;
            }
            match fchown(fd, Some(Uid::from_raw(self.uid)), None) {
                Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    return Err(errno).context(|| format!("fchown(stdio, {}, -1)", self.uid));
                }
            }
        }
        if let Some(null) = own_null.flatten() {
            root.done(null);
        }
        Ok(())
    }
}

/// dup2(2) onto 0, 1 and 2.
const REPLACE: [fn(BorrowedFd<'_>) -> rustix::io::Result<()>; 3] = [
    |fd| rustix::stdio::dup2_stdin(fd),
    |fd| rustix::stdio::dup2_stdout(fd),
    |fd| rustix::stdio::dup2_stderr(fd),
];

fn is_null(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
}

/// The container's null device, where it has one.
fn null_of(root: &RootFd, procfs: &ProcFs) -> Option<OwnedFd> {
    let found = root.resolve("/dev/null", Links::Refuse).ok()?;
    // Looked at before it is opened: opening some devices does things, and a pipe's other end notices.
    let own = is_null(&fstat(&found).ok()?).then(|| procfs.reopen(found.as_fd(), OFlags::RDWR));
    root.done(found);
    own?.ok()
}

fn id_refused(field: &str, id: u32, errno: Errno) -> Error {
    let call = format!("process.user.{field}: setres{field}({id}, {id}, {id})");
    let error = Error::system(call, errno);
    match errno {
        Errno::INVAL => error.context(format!("{id} is not mapped in the user namespace")),
        _ => error,
    }
}

/// Sets no_new_privs: execve(2) grants nothing any more, prctl(2).
///
/// # Errors
/// Those of prctl(2).
pub fn set_no_new_privileges() -> Result<()> {
    rustix::thread::set_no_new_privs(true)
        .context(|| "process.noNewPrivileges: prctl(PR_SET_NO_NEW_PRIVS, 1)")
}

/// What takes the place of an umask of 0. The specification wants the caller's umask where none is
/// configured, but daemons give up theirs so as to set modes exactly (dockerd and its shims have
/// 0), and every file of their containers would be writable by everybody. runc sets 022 always.
const DAEMON_UMASK: Mode = Mode::from_raw_mode(0o022);

fn set_umask(wanted: Option<u32>) {
    match wanted {
        Some(mask) => {
            umask(Mode::from_raw_mode(mask));
        }
        None => {
            let inherited = umask(DAEMON_UMASK);
            if !inherited.is_empty() && inherited != DAEMON_UMASK {
                umask(inherited);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, is_root, status};

    fn user(uid: u32, gid: u32, groups: &[u32]) -> config::User {
        config::User {
            uid,
            gid,
            umask: None,
            additional_gids: groups.to_vec(),
        }
    }

    #[test]
    fn all_ids_change_and_the_umask_when_asked_or_zero() {
        if !is_root("all_ids_change_and_the_umask_when_asked_or_zero") {
            return;
        }
        let seen = in_child(|| {
            umask(Mode::from_raw_mode(0o013));
            let mut spec = user(1000, 1001, &[5, 4_294_967_294]);
            plan(&spec)?.apply()?;
            let before = status("Umask");
            set_umask(Some(0));
            set_umask(None);
            let daemon = status("Umask");
            spec.umask = Some(0o077);
            spec.uid = 1000;
            let mut again = plan(&spec)?;
            again.keep_groups = true;
            again.apply()?;
            Ok(format!(
                "{} | {} | {} | {before} {daemon} {}",
                status("Uid"),
                status("Gid"),
                status("Groups"),
                status("Umask")
            ))
        });
        assert_eq!(
            seen.unwrap(),
            "1000\t1000\t1000\t1000 | 1001\t1001\t1001\t1001 | 5 4294967294 | 0013 0022 0077"
        );
    }

    #[test]
    fn root_loses_the_groups_of_the_caller() {
        if !is_root("root_loses_the_groups_of_the_caller") {
            return;
        }
        let seen = in_child(|| {
            set_thread_groups(&[Gid::from_raw(7)]).unwrap();
            plan(&user(0, 0, &[]))?.apply()?;
            let none = status("Groups");
            plan(&user(0, 0, &[9]))?.apply()?;
            Ok(format!("{none}|{}", status("Groups")))
        });
        assert_eq!(seen.unwrap(), "|9");
    }

    #[test]
    fn a_namespace_that_denies_setgroups_takes_no_further_group() {
        if !is_root("a_namespace_that_denies_setgroups_takes_no_further_group") {
            return;
        }
        let enter = || {
            set_thread_res_gid(
                Gid::from_raw(1000),
                Gid::from_raw(1000),
                Gid::from_raw(1000),
            )
            .unwrap();
            set_thread_res_uid(
                Uid::from_raw(1000),
                Uid::from_raw(1000),
                Uid::from_raw(1000),
            )
            .unwrap();
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
                .unwrap();
            crate::sys::testing::unshare_user();
            std::fs::write("/proc/self/setgroups", "deny").unwrap();
            std::fs::write("/proc/self/uid_map", "0 1000 1").unwrap();
            std::fs::write("/proc/self/gid_map", "0 1000 1").unwrap();
        };
        let seen = in_child(|| {
            enter();
            plan(&user(0, 0, &[]))?.apply()?;
            Ok(status("Uid"))
        });
        assert_eq!(seen.unwrap(), "0\t0\t0\t0");
        let seen = in_child(|| {
            enter();
            plan(&user(0, 0, &[0]))?.apply()?;
            Ok(status("Uid"))
        });
        assert_eq!(seen.unwrap(), "0\t0\t0\t0");
        let seen = in_child(|| {
            enter();
            plan(&user(0, 0, &[0, 1]))?.apply()?;
            Ok(String::new())
        });
        let message = seen.unwrap_err().to_string();
        assert!(
            message.starts_with("process.user.additionalGids: setgroups([0, 1]) (a user namespace"),
            "{message}"
        );
    }

    #[test]
    fn refuses_what_the_kernel_would_misread() {
        for (spec, path) in [
            (user(u32::MAX, 0, &[]), "process.user.uid: "),
            (user(0, u32::MAX, &[]), "process.user.gid: "),
            (
                user(0, 0, &[1, u32::MAX]),
                "process.user.additionalGids[1]: ",
            ),
        ] {
            let error = plan(&spec).unwrap_err().to_string();
            assert!(error.starts_with(path), "{error}");
        }
        let mut spec = user(0, 0, &[]);
        spec.umask = Some(0o1000);
        assert!(plan(&spec).unwrap_err().to_string().contains("umask"));
    }

    #[test]
    fn no_new_privileges_is_seen_by_the_kernel() {
        let seen = in_child(|| {
            set_no_new_privileges()?;
            Ok(status("NoNewPrivs"))
        });
        assert_eq!(seen.unwrap(), "1");
    }
}
