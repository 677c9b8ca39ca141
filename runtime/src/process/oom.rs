//! x
use crate::error::Result;
/// x
pub fn apply(s: i32, p: &super::procfs::ProcFs) -> Result<()> {
    p.write("self/oom_score_adj", s.to_string().as_bytes())
}
