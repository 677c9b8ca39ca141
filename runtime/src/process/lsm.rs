//! x
use crate::error::Result;
/// x
pub fn apply(_a: &str, _s: &str, _p: &super::procfs::ProcFs) -> Result<()> {
    Ok(())
}
