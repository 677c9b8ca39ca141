//! System call filters: from the profile of a configuration to what the kernel runs.
//!
//! Belongs here: `linux.seccomp` (runtime-spec, config-linux.md, section
//! Seccomp) compiled to classic BPF, loaded, and its listener sent away. Does
//! not: when in a container's start that happens.
//!
//! What the specification leaves open is decided as libseccomp, and with it the
//! common runtimes, do:
//!
//! - the native architecture is always part of the filter; a call on another one that
//!   the profile does not name, x32 included, kills the thread;
//! - architectures of other machines and unknown system calls are accepted and have
//!   no effect: a profile serves many machines and kernels;
//! - a rule whose action is the default action has no effect;
//! - of several rules for a call, one without conditions decides (the first, if
//!   there are more); else the first whose conditions hold;
//! - conditions compare unsigned 64-bit numbers; arguments of 32-bit ABIs are
//!   extended with zeros. Several conditions of one rule must all hold; but if two
//!   of them are on the same argument, each condition of the rule is a rule of its own,
//!   so that one that holds is enough: libseccomp once took one condition for each
//!   argument only, and old profiles (lists of forbidden values) rely on that reading;
//! - if the default is not to let calls through, calls newer than the newest that
//!   the profile names fail with ENOSYS;
//! - no `flags` at all means `SECCOMP_FILTER_FLAG_SPEC_ALLOW`, an empty list none.

mod assemble;
mod chain;
mod compile;
#[cfg(any(test, feature = "fuzzing"))]
pub mod interpret;
pub mod listener;
mod profile;
mod stored;
mod table;
mod tree;

use std::os::fd::OwnedFd;

use libc::sock_filter;

use crate::error::{Context, Error, Result};
use crate::spec::names::{SECCOMP_ARCHS, SECCOMP_FLAGS};
use crate::spec::seccomp::Seccomp;
use crate::sys;

/// The [`SECCOMP_FLAGS`] that the running kernel takes.
#[must_use]
pub fn supported_flags() -> Vec<&'static str> {
    SECCOMP_FLAGS
        .iter()
        .copied()
        .filter(|name| flag(name).is_some_and(sys::seccomp::has_flag))
        .collect()
}

/// A filter, ready to be loaded.
#[derive(Clone)]
pub struct Program {
    /// The instructions.
    pub filter: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*` of linux/seccomp.h.
    pub flags: u32,
    /// Whether calls may wait for a listener, so that loading makes one.
    pub notify: bool,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("len", &self.filter.len())
            .field("flags", &format_args!("{:#x}", self.flags))
            .field("notify", &self.notify)
            .finish()
    }
}

/// Compiles a profile for the running kernel's architecture.
///
/// # Errors
/// `InvalidConfig` with the JSON path of what breaks the specification, or if
/// the filter would be longer than the kernel takes.
pub fn compile(profile: &Seccomp<'_>) -> Result<Program> {
    compile_for(profile, table::NATIVE)
}

fn compile_for(profile: &Seccomp<'_>, family: &table::Family) -> Result<Program> {
    for (index, name) in profile.architectures.iter().enumerate() {
        if !SECCOMP_ARCHS.contains(&name.as_str()) {
            return Err(Error::config(
                format_args!("linux.seccomp.architectures[{index}]"),
                format_args!("{name:?} is not an architecture such as SCMP_ARCH_X86_64"),
            ));
        }
    }
    let mut flags = 0;
    match &profile.flags {
        None => flags = sys::seccomp::SPEC_ALLOW,
        Some(names) => {
            for (index, name) in names.iter().enumerate() {
                flags |= flag(name).ok_or_else(|| {
                    Error::config(
                        format_args!("linux.seccomp.flags[{index}]"),
                        format_args!(
                            "{name:?} is not a flag; these are: {}",
                            SECCOMP_FLAGS.join(", ")
                        ),
                    )
                })?;
            }
        }
    }
    if profile.listener_path.is_empty() && !profile.listener_metadata.is_empty() {
        return Err(Error::config(
            "linux.seccomp.listenerMetadata",
            "must not be set without listenerPath",
        ));
    }
    let rules = profile::read(profile, family)?;
    if rules.notify && profile.listener_path.is_empty() {
        return Err(Error::config(
            "linux.seccomp.listenerPath",
            "must be set, because a rule has the action SCMP_ACT_NOTIFY",
        ));
    }
    let filter = compile::filter(&rules, family, |abi| {
        profile.architectures.iter().any(|name| *name == abi.name)
    })?;
    let notify = rules.notify
        && filter
            .iter()
            .any(|insn| insn.code == assemble::RET && insn.k == profile::RET_USER_NOTIF);
    if !notify {
        // How notifications are waited for: the kernel refuses it where there are none.
        flags &= !sys::seccomp::WAIT_KILLABLE_RECV;
    }
    Ok(Program {
        filter,
        flags,
        notify,
    })
}

impl Program {
    /// Loads the filter into the calling thread.
    ///
    /// Returns the listener if the filter has notifications; it is close-on-exec.
    /// From then on the filter binds the caller too.
    ///
    /// # Errors
    /// `System`: EACCES without either `no_new_privs` or `CAP_SYS_ADMIN` in the
    /// user namespace, EBUSY if a filter with a listener is loaded already,
    /// EINVAL if the kernel lacks a flag. seccomp(2)
    pub fn load(&self) -> Result<Option<OwnedFd>> {
        sys::seccomp::load(&self.filter, self.flags, self.notify).context(|| {
            format!(
                "seccomp(SECCOMP_SET_MODE_FILTER, {:#x}, {} instructions)",
                self.flags,
                self.filter.len()
            )
        })
    }
}

fn flag(name: &str) -> Option<u32> {
    match name {
        "SECCOMP_FILTER_FLAG_TSYNC" => Some(sys::seccomp::TSYNC),
        "SECCOMP_FILTER_FLAG_LOG" => Some(sys::seccomp::LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Some(sys::seccomp::SPEC_ALLOW),
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Some(sys::seccomp::WAIT_KILLABLE_RECV),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    mod differential;
    mod direct;
    mod profiles;
    mod refusals;
}
