//! `process.rlimits`: resource limits, getrlimit(2).

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Context, Error, Kind, Result};
use crate::spec::config;

/// The resources of getrlimit(2) by name.
pub const NAMES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// A limit to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Index in [`NAMES`].
    name: usize,
    soft: u64,
    hard: u64,
}

/// Reads `process.rlimits`.
///
/// # Errors
/// `InvalidConfig` for unknown and repeated types and a soft limit above the hard one.
pub fn plan(rlimits: &[config::Rlimit<'_>]) -> Result<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::with_capacity(rlimits.len());
    for (index, rlimit) in rlimits.iter().enumerate() {
        let Some(name) = NAMES.iter().position(|(name, _)| rlimit.kind == *name) else {
            return Err(Error::config(
                format_args!("process.rlimits[{index}].type"),
                format_args!(
                    "{:?} is no resource of getrlimit(2), such as RLIMIT_NOFILE",
                    rlimit.kind
                ),
            ));
        };
        if let Some(first) = limits.iter().position(|limit| limit.name == name) {
            return Err(Error::config(
                format_args!("process.rlimits[{index}].type"),
                format_args!(
                    "{} is also at process.rlimits[{first}]; remove one",
                    rlimit.kind
                ),
            ));
        }
        if rlimit.soft > rlimit.hard {
            return Err(Error::config(
                format_args!("process.rlimits[{index}].soft"),
                format_args!("{} is above the hard limit {}", rlimit.soft, rlimit.hard),
            ));
        }
        limits.push(Limit {
            name,
            soft: rlimit.soft,
            hard: rlimit.hard,
        });
    }
    Ok(limits)
}

/// Sets the limits of the calling process, prlimit(2). Needs CAP_SYS_RESOURCE to raise a hard
/// limit, and so comes before the capabilities are dropped.
///
/// # Errors
/// Those of prlimit(2), with the index of the entry.
pub fn apply(limits: &[Limit]) -> Result<()> {
    // RLIM_INFINITY is the largest u64; rustix spells it `None`.
    let value = |limit: u64| (limit != u64::MAX).then_some(limit);
    for (index, limit) in limits.iter().enumerate() {
        let (name, resource) = NAMES[limit.name];
        let new = Rlimit {
            current: value(limit.soft),
            maximum: value(limit.hard),
        };
        match setrlimit(resource, new) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                let present = getrlimit(resource).maximum.unwrap_or(u64::MAX);
                // Else fs.nr_open is below the limit of open files.
                let why = if limit.hard <= present {
                    String::new()
                } else {
                    format!(
                        " (the hard limit is {present}; raising it needs CAP_SYS_RESOURCE in the initial user namespace)"
                    )
                };
                return Err(Error::system(
                    format!(
                        "process.rlimits[{index}]: prlimit({name}, soft {}, hard {}){why}",
                        limit.soft, limit.hard
                    ),
                    Errno::PERM,
                )
                .with_kind(Kind::Unsupported));
            }
            Err(errno) => {
                return Err(errno).context(|| {
                    format!(
                        "process.rlimits[{index}]: prlimit({name}, soft {}, hard {})",
                        limit.soft, limit.hard
                    )
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::in_child;

    fn rlimit(kind: &'static str, soft: u64, hard: u64) -> config::Rlimit<'static> {
        config::Rlimit {
            kind: kind.into(),
            soft,
            hard,
        }
    }

    fn line(name: &str) -> String {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_kernel_shows_the_limits() {
        let seen = in_child(|| {
            let limits = plan(&[
                rlimit("RLIMIT_NOFILE", 100, 200),
                rlimit("RLIMIT_CORE", 0, 0),
                rlimit("RLIMIT_FSIZE", u64::MAX - 1, u64::MAX),
            ])?;
            apply(&limits)?;
            Ok([line("Max open"), line("Max core"), line("Max file size")].join("; "))
        });
        assert_eq!(
            seen.unwrap(),
            "Max open files 100 200 files; Max core file size 0 0 bytes; Max file size 18446744073709551614 unlimited bytes"
        );
    }

    #[test]
    fn every_name_is_known_to_the_kernel() {
        in_child(|| {
            let present: Vec<_> = NAMES
                .iter()
                .map(|(name, resource)| {
                    let limit = getrlimit(*resource);
                    rlimit(
                        name,
                        limit.current.unwrap_or(u64::MAX),
                        limit.maximum.unwrap_or(u64::MAX),
                    )
                })
                .collect();
            apply(&plan(&present)?)?;
            Ok(String::new())
        })
        .unwrap();
    }

    #[test]
    fn names_the_entry_that_is_wrong() {
        for (limits, expected) in [
            (
                vec![rlimit("RLIMIT_NOFILE", 1, 1), rlimit("RLIMIT_BEER", 1, 1)],
                "process.rlimits[1].type: \"RLIMIT_BEER\" is no resource of getrlimit(2), such as RLIMIT_NOFILE",
            ),
            (
                vec![rlimit("RLIMIT_AS", 1, 1), rlimit("RLIMIT_AS", 1, 1)],
                "process.rlimits[1].type: RLIMIT_AS is also at process.rlimits[0]; remove one",
            ),
            (
                vec![rlimit("RLIMIT_AS", 2, 1)],
                "process.rlimits[0].soft: 2 is above the hard limit 1",
            ),
            (
                vec![rlimit("nofile", 1, 1)],
                "process.rlimits[0].type: \"nofile\" is no resource of getrlimit(2), such as RLIMIT_NOFILE",
            ),
        ] {
            assert_eq!(plan(&limits).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn raising_a_hard_limit_without_the_capability_says_so() {
        let seen = in_child(|| {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective
                .remove(rustix::thread::CapabilitySet::SYS_RESOURCE);
            rustix::thread::set_capabilities(None, sets).unwrap();
            apply(&plan(&[rlimit("RLIMIT_CORE", 1, 1)])?)?;
            apply(&plan(&[rlimit("RLIMIT_CORE", 1, 2)])?)?;
            Ok(String::new())
        });
        assert_eq!(
            seen.unwrap_err().to_string(),
            "process.rlimits[0]: prlimit(RLIMIT_CORE, soft 1, hard 2) (the hard limit is 1; raising it needs CAP_SYS_RESOURCE in the initial user namespace): operation not permitted"
        );
    }
}
