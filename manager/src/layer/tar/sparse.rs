//! Files with holes: where their bytes are.

use super::{Region, pax};
use crate::error::{Error, Result};

/// Checks that regions are in order, within `size`, and have `stored` bytes together.
pub fn check(regions: &[Region], size: u64, stored: u64) -> Result<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for region in regions {
        let next = region
            .start
            .checked_add(region.length)
            .filter(|next| *next <= size);
        let (Some(next), true) = (next, region.start >= end) else {
            return Err(Error::invalid("the map of a file with holes is broken"));
        };
        end = next;
        sum += region.length;
    }
    if sum == stored {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the map of a file with holes has {sum} bytes, and {stored} follow"
    )))
}

/// Reads the map that is in front of the bytes (format 1.0): the number of regions, then start and
/// length of each, a line each.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    count: Option<u64>,
    start: Option<u64>,
    /// What it has read.
    pub regions: Vec<Region>,
}

impl Lines {
    /// Reads another block. Whether the map ends in it.
    pub fn block(&mut self, block: &[u8], most: usize) -> Result<bool> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err(Error::invalid("the map of a file with holes is broken"));
                }
                continue;
            }
            let number = pax::length(&self.line)?;
            self.line.clear();
            match (self.count, self.start.take()) {
                (None, _) => self.count = Some(number),
                (_, None) => self.start = Some(number),
                (_, Some(start)) => self.regions.push(Region {
                    start,
                    length: number,
                }),
            }
            let read = u64::try_from(self.regions.len()).unwrap_or(u64::MAX);
            if self.regions.len() > most {
                return Err(too_many(most));
            }
            if self.start.is_none() && self.count == Some(read) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub fn too_many(most: usize) -> Error {
    Error::new(
        crate::error::Code::ResourceExhausted,
        format!("the map of a file with holes has more than {most} parts"),
    )
}
