//! `process.oomScoreAdj`: proc_pid_oom_score_adj(5).

use rustix::io::Errno;
use rustix::process::Pid;

use super::procfs::ProcFs;
use crate::error::{Error, Kind, Result};

/// The adjustment to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomScoreAdj(i32);

/// Reads `process.oomScoreAdj`.
///
/// # Errors
/// `InvalidConfig` for a value outside -1000 to 1000.
pub fn plan(value: i32) -> Result<OomScoreAdj> {
    if !(-1000..=1000).contains(&value) {
        return Err(Error::config(
            "process.oomScoreAdj",
            format_args!("{value} is not between -1000 and 1000"),
        ));
    }
    Ok(OomScoreAdj(value))
}

impl OomScoreAdj {
    /// Sets the value of `process`. The runtime does this for its child: that one is not dumpable
    /// and so does not own its files below /proc, and in a user namespace it may not write them.
    ///
    /// # Errors
    /// Those of writing the file; `Unsupported` for a lower value without CAP_SYS_RESOURCE.
    pub fn apply(self, procfs: &ProcFs, process: Pid) -> Result<()> {
        procfs
            .write(
                &format!("{}/oom_score_adj", process.as_raw_nonzero()),
                self.0.to_string().as_bytes(),
            )
            .map_err(|error| {
                if error.errno() == Some(Errno::ACCESS) {
                    return error
                        .with_kind(Kind::Unsupported)
                        .context("process.oomScoreAdj: lowering the value needs CAP_SYS_RESOURCE in the initial user namespace");
                }
                error.context("process.oomScoreAdj")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::in_child;
    use rustix::process::getpid;

    #[test]
    fn the_kernel_shows_the_value() {
        let seen = in_child(|| {
            plan(999)?.apply(&ProcFs::open()?, getpid())?;
            Ok(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap())
        });
        assert_eq!(seen.unwrap(), "999\n");
    }

    #[test]
    fn lowers_it_with_the_capability() {
        if !crate::sys::testing::may_use_resources("lowers_it_with_the_capability") {
            return;
        }
        let seen = in_child(|| {
            plan(-999)?.apply(&ProcFs::open()?, getpid())?;
            Ok(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap())
        });
        assert_eq!(seen.unwrap(), "-999\n");
    }

    #[test]
    fn lowering_it_without_the_capability_says_so() {
        let error = in_child(|| {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective
                .remove(rustix::thread::CapabilitySet::SYS_RESOURCE);
            rustix::thread::set_capabilities(None, sets).unwrap();
            plan(-1000)?.apply(&ProcFs::open()?, getpid())?;
            Ok(String::new())
        })
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{error}");
    }

    #[test]
    fn refuses_values_out_of_range() {
        assert!(plan(1001).is_err() && plan(-1001).is_err());
        assert!(plan(-1000).is_ok());
    }
}
