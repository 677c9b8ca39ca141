//! Lists of numbers such as `0-3,7`: CPUs and memory nodes.
//!
//! Source: config.md (`execCPUAffinity`), config-linux.md (`cpu.cpus`,
//! `cpu.mems`, `memoryPolicy.nodes`). Spaces and empty parts are passed over,
//! as the kernel does.

/// The ranges of a list, both ends included; an item that is none is `Err` with its text.
pub fn ranges(list: &str) -> impl Iterator<Item = Result<(u32, u32), &str>> {
    list.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first), number(last)),
                None => (number(part), number(part)),
            };
            match (first, last) {
                (Some(first), Some(last)) if first <= last => Ok((first, last)),
                _ => Err(part),
            }
        })
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    // No sign: u32::from_str would take "+1".
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists() {
        let read = |list| ranges(list).collect::<Result<Vec<_>, _>>();
        assert_eq!(read("0-3,7"), Ok(vec![(0, 3), (7, 7)]));
        assert_eq!(read(" 1 - 2 ,, 4,"), Ok(vec![(1, 2), (4, 4)]));
        assert_eq!(read(""), Ok(vec![]));
        for wrong in ["3-1", "a", "1-", "-1", "+1", "1-2-3", "4294967296"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
