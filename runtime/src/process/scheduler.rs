//! `process.scheduler`: policy and attributes, sched_setattr(2).

use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::spec::config;
use crate::sys::sched::{SchedAttr, sched_setattr};

/// Policies, sched(7). SCHED_ISO has a number but no implementation in the kernel.
pub const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// Flags, sched_setattr(2).
pub const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// The policy to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler(SchedAttr);

/// Reads `process.scheduler`.
///
/// # Errors
/// `InvalidConfig` for unknown names and for values that the policy does not take.
pub fn plan(spec: &config::Scheduler<'_>) -> Result<Scheduler> {
    let find = |policy: &str| POLICIES.iter().find(|(name, _)| policy == *name);
    let Some(&(name, policy)) = find(&spec.policy) else {
        return Err(Error::config(
            "process.scheduler.policy",
            format_args!("unknown policy {:?}; one is SCHED_OTHER", spec.policy),
        ));
    };
    let mut flags = 0;
    for (index, flag) in spec.flags.iter().enumerate() {
        match FLAGS.iter().find(|(name, _)| *flag == *name) {
            Some((_, bit)) => flags |= bit,
            None => {
                return Err(Error::config(
                    format_args!("process.scheduler.flags[{index}]"),
                    format_args!("unknown flag {flag:?}; one is SCHED_FLAG_RESET_ON_FORK"),
                ));
            }
        }
    }
    let refuse = |field: &str, value: &dyn std::fmt::Display, why: &str| {
        Err(Error::config(
            format_args!("process.scheduler.{field}"),
            format_args!("{value} {why}"),
        ))
    };
    if spec.nice != 0 && !matches!(name, "SCHED_OTHER" | "SCHED_BATCH") {
        return refuse(
            "nice",
            &spec.nice,
            "is for SCHED_OTHER and SCHED_BATCH only",
        );
    }
    if !(-20..=19).contains(&spec.nice) {
        return refuse("nice", &spec.nice, "is not between -20 and 19");
    }
    let real_time = matches!(name, "SCHED_FIFO" | "SCHED_RR");
    if spec.priority != 0 && !real_time {
        return refuse(
            "priority",
            &spec.priority,
            "is for SCHED_FIFO and SCHED_RR only",
        );
    }
    let priority = match u32::try_from(spec.priority) {
        Ok(priority @ 1..=99) if real_time => priority,
        Ok(0) if !real_time => 0,
        _ => return refuse("priority", &spec.priority, "is not between 1 and 99"),
    };
    for (field, value) in [
        ("runtime", spec.runtime),
        ("deadline", spec.deadline),
        ("period", spec.period),
    ] {
        if value != 0 && name != "SCHED_DEADLINE" {
            return refuse(field, &value, "is for SCHED_DEADLINE only");
        }
    }
    Ok(Scheduler(SchedAttr {
        policy,
        flags,
        nice: spec.nice,
        priority,
        runtime: spec.runtime,
        deadline: spec.deadline,
        period: spec.period,
        ..Default::default()
    }))
}

impl Scheduler {
    /// Sets the policy of the calling process.
    ///
    /// # Errors
    /// Those of sched_setattr(2); `Unsupported` for SCHED_ISO, which Linux does not implement.
    pub fn apply(&self) -> Result<()> {
        let name = POLICIES
            .iter()
            .find(|(_, policy)| *policy == self.0.policy)
            .map_or("?", |(name, _)| name);
        match sched_setattr(self.0) {
            Err(Errno::INVAL) if name == "SCHED_ISO" => Err(Error::unsupported(
                "process.scheduler.policy",
                "this kernel does not implement SCHED_ISO",
            )),
            result => result.context(|| {
                format!(
                    "process.scheduler: sched_setattr({name}, nice {}, priority {}, runtime {}, deadline {}, period {}, flags {:#x})",
                    self.0.nice,
                    self.0.priority,
                    self.0.runtime,
                    self.0.deadline,
                    self.0.period,
                    self.0.flags
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::sys::testing::{in_child, is_root};

    fn spec(policy: &'static str) -> config::Scheduler<'static> {
        config::Scheduler {
            policy: policy.into(),
            ..Default::default()
        }
    }

    /// `policy`, `prio` and the three times as the kernel shows them.
    fn seen() -> String {
        let sched = std::fs::read_to_string("/proc/self/sched").unwrap_or_default();
        let value = |field: &str| {
            sched
                .lines()
                .find_map(|line| line.strip_prefix(field)?.split(':').nth(1))
                .map_or_else(String::new, |value| value.trim().to_owned())
        };
        [value("policy"), value("prio"), value("dl.runtime")].join(" ")
    }

    #[test]
    fn the_kernel_shows_every_policy() {
        if !is_root("the_kernel_shows_every_policy") {
            return;
        }
        if std::fs::metadata("/proc/self/sched").is_err() {
            eprintln!("skipped: this kernel has no /proc/PID/sched");
            return;
        }
        let deadline = config::Scheduler {
            runtime: 10_000_000,
            deadline: 20_000_000,
            period: 30_000_000,
            ..spec("SCHED_DEADLINE")
        };
        for (spec, expected) in [
            (
                config::Scheduler {
                    nice: 5,
                    ..spec("SCHED_BATCH")
                },
                "3 125 ",
            ),
            (
                config::Scheduler {
                    nice: -3,
                    ..spec("SCHED_OTHER")
                },
                "0 117 ",
            ),
            (spec("SCHED_IDLE"), "5 120 "),
            (
                config::Scheduler {
                    priority: 7,
                    ..spec("SCHED_FIFO")
                },
                "1 92 ",
            ),
            (
                config::Scheduler {
                    priority: 1,
                    ..spec("SCHED_RR")
                },
                "2 98 ",
            ),
            (deadline, "6 -1 10000000"),
        ] {
            let name = spec.policy.to_string();
            let line = in_child(|| {
                plan(&spec)?.apply()?;
                Ok(seen())
            });
            assert_eq!(line.unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn all_flags_are_known_and_reset_on_fork_works() {
        if !is_root("all_flags_are_known_and_reset_on_fork_works") {
            return;
        }
        let mut all = spec("SCHED_OTHER");
        all.flags = FLAGS.iter().map(|(name, _)| (*name).into()).collect();
        assert_eq!(plan(&all).unwrap().0.flags, 0x7f);
        let child = in_child(|| {
            let mut spec = spec("SCHED_FIFO");
            spec.priority = 3;
            spec.flags = vec!["SCHED_FLAG_RESET_ON_FORK".into()];
            plan(&spec)?.apply()?;
            in_child(|| Ok(seen()))
        });
        assert!(child.unwrap().starts_with("0 120"));
    }

    #[test]
    fn iso_is_known_but_the_kernel_lacks_it() {
        let error = in_child(|| {
            plan(&spec("SCHED_ISO"))?.apply()?;
            Ok(String::new())
        })
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().starts_with("process.scheduler.policy: "));
    }

    #[test]
    fn refuses_values_that_do_not_belong_together() {
        for (spec, place) in [
            (spec("SCHED_NOISE"), "policy"),
            (spec("SCHED_FIFO"), "priority"),
            (
                config::Scheduler {
                    priority: 100,
                    ..spec("SCHED_RR")
                },
                "priority",
            ),
            (
                config::Scheduler {
                    priority: -1,
                    ..spec("SCHED_RR")
                },
                "priority",
            ),
            (
                config::Scheduler {
                    priority: 1,
                    ..spec("SCHED_OTHER")
                },
                "priority",
            ),
            (
                config::Scheduler {
                    nice: 20,
                    ..spec("SCHED_OTHER")
                },
                "nice",
            ),
            (
                config::Scheduler {
                    nice: 1,
                    ..spec("SCHED_IDLE")
                },
                "nice",
            ),
            (
                config::Scheduler {
                    period: 1,
                    ..spec("SCHED_OTHER")
                },
                "period",
            ),
            (
                config::Scheduler {
                    flags: vec!["X".into()],
                    ..spec("SCHED_OTHER")
                },
                "flags[0]",
            ),
        ] {
            let text = plan(&spec).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("process.scheduler.{place}: ")),
                "{text}"
            );
        }
    }
}
