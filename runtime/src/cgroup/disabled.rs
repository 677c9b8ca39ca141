//! No cgroups: the container stays in the caller's.

use super::{Manager, OomWatch, Record, Stats};
use crate::error::{Error, Kind, Result};
use crate::spec::resources::Resources;

/// Manages nothing.
#[derive(Debug)]
pub(super) struct Disabled;

fn unsupported<T>(what: &str) -> Result<T> {
    Err(Error::new(
        Kind::Unsupported,
        format!("cannot {what}: the container was created with cgroups disabled"),
    ))
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
            unsupported("enter a sub-cgroup")
        }
    }

    fn update(&mut self, _resources: &Resources<'_>) -> Result<()> {
        unsupported("update limits")
    }

    fn freeze(&self) -> Result<()> {
        unsupported("freeze")
    }

    fn thaw(&self) -> Result<()> {
        unsupported("thaw")
    }

    fn is_frozen(&self) -> Result<bool> {
        Ok(false)
    }

    fn pids(&self) -> Result<Vec<u32>> {
        unsupported("list processes")
    }

    /// Nobody is known but init, which those who call this reach by its pid.
    fn kill_all(&self, _signal: i32) -> Result<()> {
        Ok(())
    }

    fn stats(&self) -> Result<Stats> {
        unsupported("read usage figures")
    }

    fn watch_oom(&self) -> Result<OomWatch> {
        unsupported("watch for lack of memory")
    }

    fn delete(&mut self) -> Result<()> {
        Ok(())
    }

    fn record(&self) -> Record {
        Record::default()
    }
}
