//! x
use crate::error::Result;
use crate::spec::Text;
/// x
pub fn apply(
    s: &std::collections::BTreeMap<Text<'_>, Text<'_>>,
    p: &super::procfs::ProcFs,
) -> Result<()> {
    for (k, v) in s {
        p.write(&format!("sys/{}", k.replace('.', "/")), v.as_bytes())?;
    }
    Ok(())
}
