//! `process.capabilities`: five sets as bit masks, capabilities(7).
//!
//! What cannot be mapped or granted is a warning and not an error
//! (runtime-spec 1.3.0, config.md, Linux Process), and warnings are data here:
//! the caller prints them.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities,
};

use crate::error::{Context, Result};
use crate::spec::config;
use crate::spec::names::{CAPABILITIES, capability_number};

const SETPCAP: u64 = 1 << 8;
/// CAP_SYS_ADMIN, which loading a system call filter takes without no_new_privs.
pub const SYS_ADMIN: u64 = 1 << 21;

/// The mask of one capability, by its name.
#[must_use]
pub fn mask(name: &str) -> Option<u64> {
    capability_number(name).map(|bit| 1 << bit)
}

/// The five sets, a bit for each capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Bounding set.
    pub bounding: u64,
    /// Effective set.
    pub effective: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Ambient set.
    pub ambient: u64,
}

/// Reads the five lists; absent lists are empty sets. The texts are the warnings about unknown names.
#[must_use]
pub fn plan(spec: Option<&config::Capabilities<'_>>) -> (Capabilities, Vec<String>) {
    let mut warnings = Vec::new();
    let Some(spec) = spec else {
        return (Capabilities::default(), warnings);
    };
    let mut set = |list: &str, names: &[crate::spec::Text<'_>]| {
        names.iter().enumerate().fold(0, |set, (index, name)| {
            let bit = mask(name).unwrap_or_else(|| {
                warnings.push(format!(
                    "process.capabilities.{list}[{index}]: unknown capability {name:?} is ignored"
                ));
                0
            });
            set | bit
        })
    };
    let capabilities = Capabilities {
        bounding: set("bounding", &spec.bounding),
        effective: set("effective", &spec.effective),
        inheritable: set("inheritable", &spec.inheritable),
        permitted: set("permitted", &spec.permitted),
        ambient: set("ambient", &spec.ambient),
    };
    (capabilities, warnings)
}

/// What a process holds, and so can grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    bounding: u64,
    /// Permitted set.
    pub permitted: u64,
    inheritable: u64,
    effective: u64,
}

impl Held {
    /// What the calling process holds. The bounding set is asked only about bits of
    /// `asked` that are not permitted, because a system call is needed for each.
    ///
    /// # Errors
    /// Those of capget(2).
    pub fn current(asked: &Capabilities) -> Result<Held> {
        let sets = capabilities(None).context(|| "capget(0)")?;
        let permitted = sets.permitted.bits();
        // A permitted capability may be missing in the bounding set only where somebody
        // dropped it there and did not exec since; then dropping it again does no harm.
        let mut bounding = permitted;
        for bit in bits((asked.bounding | asked.inheritable) & !permitted) {
            // EINVAL: the kernel is older than the capability.
            if capability_is_in_bounding_set(CapabilitySet::from_bits_retain(bit)) == Ok(true) {
                bounding |= bit;
            }
        }
        Ok(Held {
            bounding,
            permitted,
            inheritable: sets.inheritable.bits(),
            effective: sets.effective.bits(),
        })
    }
}

impl Capabilities {
    /// Takes away what `held` cannot grant; returns a warning for each capability taken away.
    #[must_use]
    pub fn limit_to(&mut self, held: Held) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut limit = |list: &str, asked: &mut u64, available: u64| {
            for bit in bits(*asked & !available) {
                let name = CAPABILITIES
                    .get(usize::try_from(bit.trailing_zeros()).unwrap_or(usize::MAX))
                    .unwrap_or(&"?");
                warnings.push(format!(
                    "process.capabilities.{list}: {name} cannot be granted and is left out"
                ));
            }
            *asked &= available;
        };
        limit("bounding", &mut self.bounding, held.bounding);
        limit("permitted", &mut self.permitted, held.permitted);
        // capset(2): effective is a subset of permitted; inheritable is one of what is inheritable
        // now and the bounding set, which is already the new one by then.
        limit("effective", &mut self.effective, self.permitted);
        let inheritable = if held.effective & SETPCAP != 0 {
            held.inheritable | self.bounding
        } else {
            held.inheritable | (self.bounding & held.permitted)
        };
        limit("inheritable", &mut self.inheritable, inheritable);
        // prctl(2), PR_CAP_AMBIENT_RAISE: both permitted and inheritable.
        limit(
            "ambient",
            &mut self.ambient,
            self.permitted & self.inheritable,
        );
        warnings
    }

    /// Drops from the bounding set everything that is not in [`Capabilities::bounding`],
    /// those too that are newer than this program: prctl(2), PR_CAPBSET_DROP.
    /// Before the user id changes, because it needs CAP_SETPCAP.
    ///
    /// # Errors
    /// `EPERM` without CAP_SETPCAP.
    pub fn drop_bounding(&self) -> Result<()> {
        for bit in bits(!self.bounding) {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
                Ok(()) => {}
                // The kernel's last capability was the one before.
                Err(Errno::INVAL) if bit > 1 => break,
                Err(errno) => {
                    return Err(errno).context(|| {
                        format!(
                            "process.capabilities.bounding: prctl(PR_CAPBSET_DROP, {})",
                            bit.trailing_zeros()
                        )
                    });
                }
            }
        }
        Ok(())
    }

    /// Keeps the permitted set across the change to `uid`: prctl(2), PR_SET_KEEPCAPS.
    /// Nothing is needed for uid 0, which loses nothing.
    ///
    /// # Errors
    /// `EPERM` where the securebits forbid it.
    pub fn keep_across_setuid(&self, uid: u32, spare: u64) -> Result<()> {
        if uid == 0 || self.permitted | spare == 0 {
            return Ok(());
        }
        set_keep_capabilities(true).context(|| "prctl(PR_SET_KEEPCAPS, 1)")
    }

    /// Sets permitted, effective, inheritable and ambient, after the user id changed: capset(2).
    /// `spare` stays permitted beside them, but not effective, until [`Capabilities::drop_spare`].
    /// The flag of [`Capabilities::keep_across_setuid`] ends by itself at execve(2).
    ///
    /// # Errors
    /// `EPERM` for sets that [`Capabilities::limit_to`] would have reduced.
    pub fn apply(&self, spare: u64) -> Result<()> {
        // capset(2) clears from the ambient set whatever leaves permitted or inheritable.
        self.set(spare, 0)?;
        // What the caller had as ambient must not reach the container.
        if self.inheritable & self.permitted & !self.ambient != 0 {
            rustix::thread::clear_ambient_capability_set()
                .context(|| "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)")?;
        }
        for bit in bits(self.ambient) {
            configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(bit), true)
                .context(|| {
                    format!(
                        "process.capabilities.ambient: prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, {})",
                        bit.trailing_zeros()
                    )
                })?;
        }
        Ok(())
    }

    /// Makes `spare` effective, for one thing that needs it.
    ///
    /// # Errors
    /// `EPERM` where it is not permitted.
    pub fn raise_spare(&self, spare: u64) -> Result<()> {
        self.set(spare, spare)
    }

    /// Gives `spare` up: one capset(2), the only call that a system call filter must let pass.
    ///
    /// # Errors
    /// Those of capset(2).
    pub fn drop_spare(&self) -> Result<()> {
        self.set(0, 0)
    }

    fn set(&self, permitted: u64, effective: u64) -> Result<()> {
        let (permitted, effective) = (self.permitted | permitted, self.effective | effective);
        let sets = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(effective),
            permitted: CapabilitySet::from_bits_retain(permitted),
            inheritable: CapabilitySet::from_bits_retain(self.inheritable),
        };
        set_capabilities(None, sets).context(|| {
            format!(
                "process.capabilities: capset(effective {effective:#x}, permitted {permitted:#x}, inheritable {:#x})",
                self.inheritable
            )
        })
    }
}

/// The single bits of a mask, lowest first.
fn bits(mask: u64) -> impl Iterator<Item = u64> {
    (0..64)
        .map(|bit| 1 << bit)
        .filter(move |bit| mask & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::identity;
    use crate::sys::testing::{in_child, is_root, status};

    const KILL: u64 = 1 << 5;
    const NET_BIND: u64 = 1 << 10;
    const CHOWN: u64 = 1;

    fn sets() -> String {
        ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"]
            .map(|field| status(field).trim_start_matches('0').to_owned())
            .join(" ")
    }

    #[test]
    fn reads_the_lists_and_warns_about_unknown_names() {
        let spec = config::Capabilities {
            bounding: vec!["CAP_CHOWN".into(), "CAP_FLY".into(), "chown".into()],
            ambient: vec!["CAP_CHECKPOINT_RESTORE".into()],
            ..Default::default()
        };
        let (capabilities, warnings) = plan(Some(&spec));
        assert_eq!(capabilities.bounding, CHOWN);
        assert_eq!(capabilities.ambient, 1 << 40);
        assert_eq!(
            warnings[0],
            "process.capabilities.bounding[1]: unknown capability \"CAP_FLY\" is ignored"
        );
        assert_eq!(warnings.len(), 2);
        assert_eq!(plan(None).0, Capabilities::default());
    }

    #[test]
    fn root_gets_exactly_the_five_sets() {
        if !is_root("root_gets_exactly_the_five_sets") {
            return;
        }
        let asked = Capabilities {
            bounding: CHOWN | KILL | NET_BIND,
            permitted: CHOWN | KILL,
            effective: KILL,
            inheritable: KILL | NET_BIND,
            ambient: KILL,
        };
        let seen = in_child(|| {
            let mut asked = asked;
            let warnings = asked.limit_to(Held::current(&asked)?);
            assert!(warnings.is_empty(), "{warnings:?}");
            asked.drop_bounding()?;
            asked.apply(0)?;
            Ok(sets())
        });
        assert_eq!(seen.unwrap(), "421 21 20 420 20");
    }

    #[test]
    fn nothing_is_inherited_unless_asked() {
        if !is_root("nothing_is_inherited_unless_asked") {
            return;
        }
        let seen = in_child(|| {
            // The caller itself carries inheritable and ambient capabilities.
            let mut held = capabilities(None).unwrap();
            held.inheritable = held.permitted;
            set_capabilities(None, held).unwrap();
            configure_capability_in_ambient_set(CapabilitySet::KILL, true).unwrap();
            let asked = Capabilities {
                bounding: KILL,
                permitted: KILL,
                effective: KILL,
                ..Default::default()
            };
            asked.drop_bounding()?;
            asked.apply(0)?;
            Ok(sets())
        });
        assert_eq!(seen.unwrap(), "20 20 20  ");
    }

    #[test]
    fn a_user_keeps_what_was_asked() {
        if !is_root("a_user_keeps_what_was_asked") {
            return;
        }
        let asked = Capabilities {
            bounding: NET_BIND,
            permitted: NET_BIND,
            effective: NET_BIND,
            inheritable: NET_BIND,
            ambient: NET_BIND,
        };
        let seen = in_child(|| {
            asked.drop_bounding()?;
            asked.keep_across_setuid(1000, 0)?;
            let user = config::User {
                uid: 1000,
                gid: 1000,
                ..Default::default()
            };
            identity::plan(&user)?.apply()?;
            asked.apply(0)?;
            Ok(sets())
        });
        assert_eq!(seen.unwrap(), "400 400 400 400 400");
    }

    #[test]
    fn what_cannot_be_granted_is_a_warning() {
        if !is_root("what_cannot_be_granted_is_a_warning") {
            return;
        }
        let seen = in_child(|| {
            // A caller with a few capabilities only.
            let few = Capabilities {
                bounding: CHOWN | KILL,
                permitted: CHOWN | KILL | SETPCAP,
                effective: CHOWN | KILL | SETPCAP,
                ..Default::default()
            };
            few.drop_bounding()?;
            few.apply(0)?;
            let mut asked = Capabilities {
                bounding: CHOWN | NET_BIND,
                permitted: CHOWN | NET_BIND,
                effective: CHOWN | KILL,
                inheritable: NET_BIND,
                ambient: CHOWN,
            };
            let warnings = asked.limit_to(Held::current(&asked)?);
            asked.drop_bounding()?;
            asked.apply(0)?;
            Ok(format!("{}\n{}", sets(), warnings.join("\n")))
        })
        .unwrap();
        let mut lines = seen.lines();
        assert_eq!(lines.next(), Some("1 1 1  "));
        let what: Vec<_> = lines
            .map(|line| line.replace(" cannot be granted and is left out", ""))
            .collect();
        assert_eq!(
            what,
            [
                "process.capabilities.bounding: CAP_NET_BIND_SERVICE",
                "process.capabilities.permitted: CAP_NET_BIND_SERVICE",
                "process.capabilities.effective: CAP_KILL",
                "process.capabilities.inheritable: CAP_NET_BIND_SERVICE",
                "process.capabilities.ambient: CAP_CHOWN",
            ]
        );
    }
}
