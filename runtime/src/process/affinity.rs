//! `process.execCPUAffinity`: the CPUs of an exec'ed process, sched_setaffinity(2).

use super::list::BitList;
use crate::error::{Context, Error, Result};
use crate::spec::config;
use crate::sys::sched::{sched_getaffinity, sched_setaffinity};

/// A set of CPUs to run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuSet {
    cpus: BitList,
    place: &'static str,
    text: String,
}

/// Before and after the process enters the container's cgroup; absent sets change nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity {
    /// To apply before the process enters the cgroup.
    pub initial: Option<CpuSet>,
    /// To apply after it.
    pub after: Option<CpuSet>,
}

/// Reads `process.execCPUAffinity`.
///
/// # Errors
/// `InvalidConfig` for what is no list of CPUs.
pub fn plan(spec: &config::ExecCpuAffinity<'_>) -> Result<Affinity> {
    let set = |place: &'static str, text: &str| {
        if text.is_empty() {
            return Ok(None);
        }
        let cpus = BitList::parse(text).map_err(|why| Error::config(place, why))?;
        if cpus.is_empty() {
            return Err(Error::config(place, format_args!("{text:?} names no CPU")));
        }
        Ok(Some(CpuSet {
            cpus,
            place,
            text: text.to_owned(),
        }))
    };
    Ok(Affinity {
        initial: set("process.execCPUAffinity.initial", &spec.initial)?,
        after: set("process.execCPUAffinity.final", &spec.after)?,
    })
}

impl CpuSet {
    /// Lets the calling process run on these CPUs only.
    ///
    /// # Errors
    /// `EINVAL` when none of them is there and allowed by the cpuset.
    pub fn apply(&self) -> Result<()> {
        sched_setaffinity(self.cpus.words())
            .context(|| format!("{}: sched_setaffinity({})", self.place, self.text))
    }

    /// As [`CpuSet::apply`], until what is returned is dropped; for what the caller makes meanwhile.
    ///
    /// # Errors
    /// As [`CpuSet::apply`].
    pub fn apply_meanwhile(&self) -> Result<Moved> {
        let before = sched_getaffinity().context(|| "sched_getaffinity()")?;
        self.apply().map(|()| Moved(before))
    }
}

/// A process that runs on other CPUs for a moment; goes back when dropped.
#[derive(Debug)]
pub struct Moved(Vec<u64>);

impl Drop for Moved {
    fn drop(&mut self) {
        let _ = sched_setaffinity(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, status};

    fn spec(initial: &'static str, after: &'static str) -> config::ExecCpuAffinity<'static> {
        config::ExecCpuAffinity {
            initial: initial.into(),
            after: after.into(),
        }
    }

    #[test]
    fn the_kernel_shows_the_cpus() {
        let all = status("Cpus_allowed_list");
        let first = all.split(['-', ',']).next().unwrap().to_owned();
        let text: &'static str = first.clone().leak();
        let seen = in_child(|| {
            let affinity = plan(&spec(text, ""))?;
            assert!(affinity.after.is_none());
            affinity.initial.unwrap().apply()?;
            Ok(status("Cpus_allowed_list"))
        });
        assert_eq!(seen.unwrap(), first);
    }

    #[test]
    fn says_which_list_is_wrong() {
        let text = plan(&spec("0", "3-x")).unwrap_err().to_string();
        assert!(
            text.starts_with("process.execCPUAffinity.final: "),
            "{text}"
        );
        let text = plan(&spec(" ,", "")).unwrap_err().to_string();
        assert!(
            text.starts_with("process.execCPUAffinity.initial: "),
            "{text}"
        );
        let error = in_child(|| {
            plan(&spec("", "8000"))?.after.unwrap().apply()?;
            Ok(String::new())
        });
        assert_eq!(
            error.unwrap_err().to_string(),
            "process.execCPUAffinity.final: sched_setaffinity(8000): invalid argument"
        );
    }
}
