//! No cgroups: the container stays in the caller's.

use super::{Manager, OomWatch, Record, Stats};
use crate::error::{Error, Kind, Result};
use crate::spec::resources::Resources;

/// Why a container has no cgroup.
#[derive(Debug)]
pub(super) enum Disabled {
    /// The caller wanted none.
    Chosen,
    /// The caller is unprivileged and may not make any.
    NotDelegated,
}

impl Disabled {
    fn unsupported<T>(&self, what: &str) -> Result<T> {
        let why = match self {
            Disabled::Chosen => "it was created with cgroups disabled",
            Disabled::NotDelegated => "none was delegated to the user who created it",
        };
        Err(Error::new(
            Kind::Unsupported,
            format!("cannot {what}: the container has no cgroup, {why}"),
        ))
    }
}

impl Manager for Disabled {
    /// Limits are dropped, as the caller who disables cgroups demands: the
    /// configuration still carries those that its engine always writes.
    fn create(&mut self, _resources: &Resources<'_>) -> Result<()> {
        Ok(())
    }

    fn attach(&mut self, _pid: u32) -> Result<()> {
        Ok(())
    }

    fn attach_exec(&self, _pid: u32, sub: &[String], _init: u32) -> Result<()> {
        if sub.is_empty() {
            Ok(())
        } else {
            self.unsupported("enter a sub-cgroup")
        }
    }

    fn update(&mut self, _resources: &Resources<'_>) -> Result<()> {
        self.unsupported("update limits")
    }

    fn freeze(&self) -> Result<()> {
        self.unsupported("freeze")
    }

    fn thaw(&self) -> Result<()> {
        self.unsupported("thaw")
    }

    fn is_frozen(&self) -> Result<bool> {
        Ok(false)
    }

    fn pids(&self) -> Result<Vec<u32>> {
        self.unsupported("list processes")
    }

    /// Nobody is known but init, which those who call this reach by its pid.
    fn kill_all(&self, _signal: i32) -> Result<()> {
        Ok(())
    }

    fn stats(&self) -> Result<Stats> {
        self.unsupported("read usage figures")
    }

    fn watch_oom(&self) -> Result<OomWatch> {
        self.unsupported("watch for lack of memory")
    }

    fn delete(&mut self) -> Result<()> {
        Ok(())
    }

    fn record(&self) -> Record {
        Record::default()
    }
}
