//! Word of what happens in a container.

use super::{Container, Status};
use crate::cgroup::OomWatch;
use crate::error::{Error, Kind, Result};

impl Container {
    /// Watches for processes that are killed for want of memory.
    ///
    /// # Errors
    /// `WrongState` for a stopped container, `Unsupported` without a memory controller.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        let (store, record) = self.open()?;
        if self.status(&store, &record)? == Status::Stopped {
            return Err(Error::new(Kind::WrongState, "container not running"));
        }
        self.manager(&record)?.watch_oom()
    }
}
