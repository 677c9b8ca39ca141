//! `process.apparmorProfile` and `process.selinuxLabel`: what the next execve(2) changes to.
//!
//! Sources: Documentation/security/lsm.rst of the kernel, aa_change_onexec(2), setexeccon(3), setkeycreatecon(3).

use rustix::io::Errno;

use super::procfs::ProcFs;
use crate::error::{Error, Kind, Result};
use crate::spec::config;

const APPARMOR: &str = "process.apparmorProfile";
const SELINUX: &str = "process.selinuxLabel";

/// The labels of a process; absent ones change nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

/// Reads both labels.
///
/// # Errors
/// `InvalidConfig` for control characters, which have a meaning to the kernel's parsers.
pub fn plan(process: &config::Process<'_>) -> Result<Labels> {
    let label = |place: &str, text: &str| {
        if text.is_empty() {
            return Ok(None);
        }
        if text.chars().any(char::is_control) {
            return Err(Error::config(
                place,
                format_args!("{text:?} contains a control character"),
            ));
        }
        Ok(Some(text.to_owned()))
    };
    Ok(Labels {
        apparmor: label(APPARMOR, &process.apparmor_profile)?,
        selinux: label(SELINUX, &process.selinux_label)?,
    })
}

/// Whether AppArmor is in force on the host.
#[must_use]
pub fn apparmor_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|value| value.starts_with(b"Y"))
}

/// Whether SELinux is in force on the host: its file system is registered only then.
#[must_use]
pub fn selinux_enabled(procfs: &ProcFs) -> bool {
    procfs.read("filesystems", 1 << 16).is_ok_and(|text| {
        text.split(|&byte| byte == b'\n')
            .any(|line| line.ends_with(b"\tselinuxfs"))
    })
}

impl Labels {
    /// Whether there is nothing to set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apparmor.is_none() && self.selinux.is_none()
    }

    /// Refuses labels of modules that the host does not run; asked on the host's side.
    /// `unconfined` needs no AppArmor to be true.
    ///
    /// # Errors
    /// `Unsupported`, with the field.
    pub fn check_host(&mut self, procfs: &ProcFs) -> Result<()> {
        if self.apparmor.is_some() && !apparmor_enabled() {
            if self.apparmor.as_deref() != Some("unconfined") {
                return Err(Error::unsupported(
                    APPARMOR,
                    "AppArmor is not enabled on this host; leave the profile out",
                ));
            }
            self.apparmor = None;
        }
        if self.selinux.is_some() && !selinux_enabled(procfs) {
            return Err(Error::unsupported(
                SELINUX,
                "SELinux is not enabled on this host; leave the label out",
            ));
        }
        Ok(())
    }

    /// Labels the keys that the calling process makes, as SELinux wants it before the session keyring
    /// is made.
    ///
    /// # Errors
    /// As [`Labels::apply`].
    pub fn apply_to_keys(&self, procfs: &ProcFs) -> Result<()> {
        match &self.selinux {
            Some(label) => write(procfs, SELINUX, "thread-self/attr/keycreate", label),
            None => Ok(()),
        }
    }

    /// Sets what the next execve(2) of the calling process changes to.
    ///
    /// # Errors
    /// `Unsupported` where the kernel does not know the module; a label that the policy lacks
    /// (`EINVAL`, `ENOENT`) or forbids (`EACCES`, `EPERM`).
    pub fn apply(&self, procfs: &ProcFs) -> Result<()> {
        if let Some(profile) = &self.apparmor {
            let command = format!("exec {profile}");
            // The directory of its own, since Linux 5.8, works beside another module too.
            match write(procfs, APPARMOR, "thread-self/attr/apparmor/exec", &command) {
                Err(error) if error.errno() == Some(Errno::NOENT) && !has_own_files(procfs) => {
                    write(procfs, APPARMOR, "thread-self/attr/exec", &command)?;
                }
                result => result?,
            }
        }
        if let Some(label) = &self.selinux {
            write(procfs, SELINUX, "thread-self/attr/exec", label)?;
        }
        Ok(())
    }
}

/// A profile that is not loaded is `ENOENT` as well, so the directory is asked for.
fn has_own_files(procfs: &ProcFs) -> bool {
    procfs
        .open_file("thread-self/attr/apparmor", rustix::fs::OFlags::PATH)
        .is_ok()
}

fn write(procfs: &ProcFs, place: &str, path: &str, value: &str) -> Result<()> {
    procfs.write(path, value.as_bytes()).map_err(|error| {
        let module_missing = match error.errno() {
            Some(Errno::INVAL) if place == SELINUX => !selinux_enabled(procfs),
            Some(Errno::INVAL) => !has_own_files(procfs),
            _ => false,
        };
        let error = error.context(place);
        if module_missing {
            error.with_kind(Kind::Unsupported)
        } else {
            error
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(apparmor: &'static str, selinux: &'static str) -> Result<Labels> {
        plan(&config::Process {
            apparmor_profile: apparmor.into(),
            selinux_label: selinux.into(),
            ..Default::default()
        })
    }

    #[test]
    fn an_absent_module_is_unsupported_and_named() {
        let procfs = ProcFs::open().unwrap();
        if !apparmor_enabled() {
            let mut profile = labels("docker-default", "").unwrap();
            let error = profile.check_host(&procfs).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().starts_with("process.apparmorProfile: "));
            let mut unconfined = labels("unconfined", "").unwrap();
            unconfined.check_host(&procfs).unwrap();
            assert!(unconfined.is_empty());
        }
        if !selinux_enabled(&procfs) {
            let mut label = labels("", "system_u:system_r:container_t:s0:c1,c2").unwrap();
            let error = label.check_host(&procfs).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().starts_with("process.selinuxLabel: "));
            // The same answer where the host was not asked before.
            let error = label.apply(&procfs).unwrap_err();
            assert!(
                error.to_string().starts_with("process.selinuxLabel: "),
                "{error}"
            );
        }
    }

    #[test]
    fn no_label_does_nothing() {
        let procfs = ProcFs::open().unwrap();
        let mut none = labels("", "").unwrap();
        assert!(none.is_empty());
        none.check_host(&procfs).unwrap();
        none.apply(&procfs).unwrap();
        none.apply_to_keys(&procfs).unwrap();
    }

    #[test]
    fn control_characters_are_refused() {
        assert!(labels("a\nb", "").is_err());
        assert!(labels("", "a\0b").is_err());
    }
}
