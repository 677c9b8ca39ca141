//! `linux.personality`: the execution domain, personality(2).

use crate::error::{Context, Error, Result};
use crate::spec::linux;
use crate::sys::sched::personality;

/// Domains, personality(2).
pub const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];

/// The execution domain to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Personality(u32);

/// Reads `linux.personality`.
///
/// # Errors
/// `InvalidConfig` for an unknown domain and for any flag: the specification has none.
pub fn plan(spec: &linux::Personality<'_>) -> Result<Personality> {
    let Some((_, domain)) = DOMAINS.iter().find(|(name, _)| spec.domain == *name) else {
        return Err(Error::config(
            "linux.personality.domain",
            format_args!("unknown domain {:?}; use LINUX or LINUX32", spec.domain),
        ));
    };
    if let Some(flag) = spec.flags.first() {
        return Err(Error::config(
            "linux.personality.flags[0]",
            format_args!("{flag:?}: the specification supports no flags; leave them out"),
        ));
    }
    Ok(Personality(*domain))
}

impl Personality {
    /// Sets the domain of the calling process. Before seccomp, whose profile may forbid it.
    ///
    /// # Errors
    /// Those of personality(2).
    pub fn apply(self) -> Result<()> {
        personality(self.0).context(|| format!("linux.personality: personality({:#x})", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::in_child;

    #[test]
    fn uname_shows_the_domain() {
        let machine = |domain: &'static str| {
            in_child(|| {
                plan(&linux::Personality {
                    domain: domain.into(),
                    flags: vec![],
                })?
                .apply()?;
                let name = rustix::system::uname();
                Ok(name.machine().to_string_lossy().into_owned())
            })
            .unwrap()
        };
        let native = machine("LINUX");
        assert_eq!(native, std::env::consts::ARCH);
        if native == "x86_64" {
            assert_eq!(machine("LINUX32"), "i686");
        }
    }

    #[test]
    fn refuses_flags_and_unknown_domains() {
        let mut spec = linux::Personality {
            domain: "LINUX".into(),
            flags: vec!["ADDR_NO_RANDOMIZE".into()],
        };
        let text = plan(&spec).unwrap_err().to_string();
        assert!(text.starts_with("linux.personality.flags[0]: "), "{text}");
        spec.domain = "BSD".into();
        let text = plan(&spec).unwrap_err().to_string();
        assert!(text.starts_with("linux.personality.domain: "), "{text}");
    }
}
