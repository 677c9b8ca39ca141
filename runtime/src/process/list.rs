//! Lists of numbers such as `0-3,7`, for CPUs and memory nodes: cpuset(7), List format.

/// Highest number that a list may have; the kernel's limits (8192 CPUs, 1024 nodes) are below it.
const MAX: u32 = 65535;

/// A set of small numbers as the kernel takes it: words of 64 bits, lowest number first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BitList(Vec<u64>);

impl BitList {
    /// Reads a list. Spaces and empty elements count for nothing, as in the kernel's own files.
    ///
    /// # Errors
    /// What is wrong, without the place.
    pub fn parse(text: &str) -> Result<BitList, String> {
        let mut words = Vec::new();
        for element in text.split(',').map(str::trim) {
            if element.is_empty() {
                continue;
            }
            let (first, last) = match element.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(element)?, number(element)?),
            };
            if first > last {
                return Err(format!("{element:?} runs backwards"));
            }
            for bit in first..=last {
                let word = usize::try_from(bit / 64).unwrap_or(usize::MAX);
                if words.len() <= word {
                    words.resize(word + 1, 0);
                }
                words[word] |= 1 << (bit % 64);
            }
        }
        Ok(BitList(words))
    }

    /// Whether no number is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The words, lowest number first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.0
    }
}

fn number(text: &str) -> Result<u32, String> {
    let text = text.trim();
    // parse() alone would take a sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "{text:?} is no number; a list reads like \"0-3,7\""
        ));
    }
    match text.parse() {
        Ok(number) if number <= MAX => Ok(number),
        _ => Err(format!("{text} is above {MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_numbers_and_ranges() {
        let words = |text| BitList::parse(text).map(|list| list.0);
        assert_eq!(words("0-3,7"), Ok(vec![0x8f]));
        assert_eq!(words(" 1 , ,64-65,"), Ok(vec![2, 3]));
        assert_eq!(words(""), Ok(vec![]));
        for bad in [
            "a",
            "1-",
            "-1",
            "+1",
            "3-1",
            "1-2-3",
            "65536",
            "99999999999",
            "0x1",
            "1 2",
        ] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = BitList::parse(&text);
        }

        #[test]
        fn has_exactly_what_was_listed(numbers in prop::collection::btree_set(0u32..2000, 0..20)) {
            let text = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            let list = BitList::parse(&text).unwrap();
            let read: Vec<u32> = (0u32..2048)
                .filter(|bit| {
                    let word = list.words().get((bit / 64) as usize).copied().unwrap_or(0);
                    word >> (bit % 64) & 1 == 1
                })
                .collect();
            prop_assert_eq!(read, numbers.into_iter().collect::<Vec<_>>());
        }
    }
}
