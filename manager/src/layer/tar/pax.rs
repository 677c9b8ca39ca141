//! Extended headers: records of a key and a value, for what does not fit into a header.

use super::{Region, Time};
use crate::error::{Error, Result};

/// What the records of one entry say.
#[derive(Debug, Default)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub size: Option<i64>,
    pub modified: Option<Time>,
    pub accessed: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// GNU.sparse.major and minor.
    pub sparse_version: (i64, i64),
    /// The name of a file with holes: `path` is a made-up one.
    pub sparse_name: Option<Vec<u8>>,
    /// Its length with the holes.
    pub sparse_size: Option<i64>,
    /// Where it has bytes, unless that is in front of them.
    pub sparse: Option<Vec<Region>>,
    /// The start of a region, whose length is the next record.
    sparse_start: Option<u64>,
}

impl Records {
    /// Reads records, which come after those that are there already.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (record, rest) = split(bytes)?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = record.split_at(equals.ok_or_else(broken)?);
            self.record(key, &value[1..])?;
            bytes = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.contains(&0) {
                return Err(Error::invalid("an extended attribute has no proper name"));
            }
            let known = self.xattrs.iter_mut().find(|(known, _)| known == name);
            match known {
                Some((_, old)) => *old = value.to_owned(),
                None => self.xattrs.push((name.to_owned(), value.to_owned())),
            }
            return Ok(());
        }
        // An empty value takes back what an earlier one said.
        let text = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = text.map(<[u8]>::to_owned),
            b"linkpath" => self.link = text.map(<[u8]>::to_owned),
            b"uid" => self.uid = text.map(number).transpose()?,
            b"gid" => self.gid = text.map(number).transpose()?,
            b"size" => self.size = text.map(number).transpose()?,
            b"mtime" => self.modified = text.map(time).transpose()?,
            b"atime" => self.accessed = text.map(time).transpose()?,
            b"GNU.sparse.major" => self.sparse_version.0 = number(value)?,
            b"GNU.sparse.minor" => self.sparse_version.1 = number(value)?,
            b"GNU.sparse.name" => self.sparse_name = text.map(<[u8]>::to_owned),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse_size = text.map(number).transpose()?;
            }
            b"GNU.sparse.offset" => self.sparse_start = Some(length(value)?),
            b"GNU.sparse.numbytes" => {
                let region = Region {
                    start: self.sparse_start.take().ok_or_else(broken)?,
                    length: length(value)?,
                };
                self.sparse.get_or_insert_default().push(region);
            }
            b"GNU.sparse.map" => {
                let mut map = Vec::new();
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(start) = numbers.next().filter(|text| !text.is_empty()) {
                    map.push(Region {
                        start: length(start)?,
                        length: length(numbers.next().ok_or_else(broken)?)?,
                    });
                }
                self.sparse = Some(map);
            }
            _ => {}
        }
        Ok(())
    }
}

fn broken() -> Error {
    Error::invalid("an extended header is broken")
}

/// The first record, `LENGTH KEY=VALUE` and a line feed, without length and line feed, and the rest.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let digits = bytes.iter().take(20).position(|byte| *byte == b' ');
    let digits = digits.ok_or_else(broken)?;
    let length = usize::try_from(number(&bytes[..digits])?).map_err(|_| broken())?;
    match bytes.split_at_checked(length) {
        Some((record, rest)) if length > digits + 1 && record.ends_with(b"\n") => {
            Ok((&record[digits + 1..length - 1], rest))
        }
        _ => Err(broken()),
    }
}

/// A decimal number.
pub fn number(text: &[u8]) -> Result<i64> {
    let text = str::from_utf8(text).map_err(|_| broken())?;
    text.parse().map_err(|_| broken())
}

/// A decimal number that is not negative.
pub fn length(text: &[u8]) -> Result<u64> {
    u64::try_from(number(text)?).map_err(|_| broken())
}

/// Seconds with a fraction.
fn time(text: &[u8]) -> Result<Time> {
    let text = str::from_utf8(text).map_err(|_| broken())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let mut seconds = match whole {
        "" | "-" => 0,
        _ => number(whole.as_bytes())?,
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(broken());
    }
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction.as_bytes().get(place).map_or(0, |byte| byte - b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    if negative && nanoseconds > 0 {
        seconds = seconds.checked_sub(1).ok_or_else(broken)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Ok(Time {
        seconds,
        nanoseconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_too() {
        for (text, seconds, nanoseconds) in [
            ("1.5", 1, 500_000_000),
            ("-1.5", -2, 500_000_000),
            ("-0.000000001", -1, 999_999_999),
            ("-3", -3, 0),
            ("7.1234567899", 7, 123_456_789),
            (".25", 0, 250_000_000),
        ] {
            assert_eq!(
                time(text.as_bytes()).unwrap(),
                Time {
                    seconds,
                    nanoseconds
                },
                "{text}"
            );
        }
        for text in ["x", "1.x", "--1", "1.-5", "99999999999999999999"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn records_that_are_none() {
        for bytes in [
            &b"x"[..],
            b"5 a=b",
            b"7 a=b\n",
            b"6 a=b\n7",
            b"0 a=b\n",
            b"2 \n",
            b"5 ab\n",
            b"99999999999999999999 a=b\n",
            b"-6 a=b\n",
            b"11 uid=abc\n",
        ] {
            assert!(Records::default().read(bytes).is_err(), "{bytes:?}");
        }
        let mut records = Records::default();
        records
            .read(b"6 a=b\n10 path=x\n20 SCHILY.xattr.a=b\n19 SCHILY.xattr.a=\n")
            .unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"x"[..]));
        assert_eq!(records.xattrs, [(b"a".to_vec(), Vec::new())]);
    }
}
