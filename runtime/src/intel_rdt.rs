//! x
use crate::error::Result;
use serde::{Deserialize, Serialize};
/// x
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record;
impl Record {
    /// x
    pub fn remove(&self) -> Result<()> {
        Ok(())
    }
    /// x
    pub fn update(&self, _a: Option<&str>, _b: Option<&str>) -> Result<()> {
        Ok(())
    }
}
