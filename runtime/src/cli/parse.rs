//! The parser: arguments in Go's flag style, against the tables of `definition`.
//!
//! Callers of OCI runtimes write flags as Go's flag package reads them: one or
//! two dashes, `--flag value` or `--flag=value`, switches with `=true` or
//! `=false`, `--` as the end of flags. clap reads none of the single-dash
//! forms and costs more time than `state` itself, so it only renders help.
//!
//! As in runc, global flags end at the first word that is no flag, and so do
//! those of `exec` and `ps`, whose later words belong to another program; the
//! other commands take their flags after the id as well.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_runtime::error::{Error, Kind as ErrorKind, Result};

use super::definition::flags::HELP;
use super::definition::{Flag, Kind};

/// The value of a flag, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Switch(bool),
    Text(&'a str),
    Path(&'a Path),
    Number(i64),
    Duration(Duration),
}

/// What was found on the command line.
#[derive(Debug, Default)]
pub struct Matches<'a> {
    flags: Vec<(&'static Flag, Value<'a>)>,
    /// What is no flag, in order.
    pub positionals: Vec<&'a OsStr>,
}

/// Whether flags may follow positional arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first positional argument ends the flags.
    FlagsFirst,
    /// Flags may follow.
    Mixed,
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl<'a> Matches<'a> {
    fn last(&self, flag: &'static Flag) -> Option<Value<'a>> {
        self.flags
            .iter()
            .rev()
            .find(|(found, _)| std::ptr::eq(*found, flag))
            .map(|(_, value)| *value)
    }

    /// Whether the flag was given at all.
    #[must_use]
    pub fn has(&self, flag: &'static Flag) -> bool {
        self.last(flag).is_some()
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn on(&self, flag: &'static Flag) -> bool {
        self.last(flag) == Some(Value::Switch(true))
    }

    /// The last value of a text flag.
    #[must_use]
    pub fn text(&self, flag: &'static Flag) -> Option<&'a str> {
        match self.last(flag) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The last value of a text flag, unless it is empty: Go programs pass empty values for unset ones.
    #[must_use]
    pub fn filled(&self, flag: &'static Flag) -> Option<String> {
        self.text(flag)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }

    /// All values of a repeated text flag.
    #[must_use]
    pub fn texts(&self, flag: &'static Flag) -> Vec<String> {
        self.values(flag)
            .filter_map(|value| match value {
                Value::Text(text) => Some(text.to_owned()),
                _ => None,
            })
            .collect()
    }

    /// The last value of a path flag, unless it is empty.
    #[must_use]
    pub fn path(&self, flag: &'static Flag) -> Option<PathBuf> {
        match self.last(flag) {
            Some(Value::Path(path)) if !path.as_os_str().is_empty() => Some(path.to_owned()),
            _ => None,
        }
    }

    /// The last value of a number flag.
    #[must_use]
    pub fn number(&self, flag: &'static Flag) -> Option<i64> {
        match self.last(flag) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// The last value of a number flag that must fit into a narrower type.
    ///
    /// # Errors
    /// A number that does not fit.
    pub fn narrow<T: TryFrom<i64>>(&self, flag: &'static Flag) -> Result<Option<T>> {
        self.number(flag)
            .map(|number| narrow(flag, number))
            .transpose()
    }

    /// All values of a repeated number flag.
    ///
    /// # Errors
    /// A number that does not fit.
    pub fn numbers<T: TryFrom<i64>>(&self, flag: &'static Flag) -> Result<Vec<T>> {
        self.values(flag)
            .filter_map(|value| match value {
                Value::Number(number) => Some(narrow(flag, number)),
                _ => None,
            })
            .collect()
    }

    /// The last value of a duration flag.
    #[must_use]
    pub fn duration(&self, flag: &'static Flag) -> Option<Duration> {
        match self.last(flag) {
            Some(Value::Duration(duration)) => Some(duration),
            _ => None,
        }
    }

    /// A positional argument as text.
    ///
    /// # Errors
    /// Not there, or not UTF-8.
    pub fn positional(&self, index: usize, what: &str) -> Result<&'a str> {
        let Some(word) = self.positionals.get(index) else {
            return Err(usage(format!("{what} is missing")));
        };
        word.to_str()
            .ok_or_else(|| usage(format!("{what} {word:?} is not valid UTF-8")))
    }

    /// The container's id.
    ///
    /// # Errors
    /// Not UTF-8; which ids are valid is for the library to say.
    pub fn id(&self) -> Result<&'a str> {
        self.positional(0, "container id")
    }

    fn values(&self, flag: &'static Flag) -> impl Iterator<Item = Value<'a>> {
        self.flags
            .iter()
            .filter(move |(found, _)| std::ptr::eq(*found, flag))
            .map(|(_, value)| *value)
    }
}

fn narrow<T: TryFrom<i64>>(flag: &Flag, number: i64) -> Result<T> {
    T::try_from(number).map_err(|_| {
        usage(format!(
            "invalid value \"{number}\" for flag -{}: value out of range",
            flag.long
        ))
    })
}

fn find(flags: &[&'static Flag], name: &[u8]) -> Option<&'static Flag> {
    let by_name = flags.iter().copied().find(|flag| {
        flag.long.as_bytes() == name
            || matches!((flag.short, name), (Some(short), [letter]) if short == char::from(*letter))
    });
    // -? is crun's.
    by_name.or_else(|| matches!(name, b"help" | b"h" | b"?").then_some(&HELP))
}

/// Parses `args` into `matches` (what was read before an error stays there).
/// Returns how many arguments were read.
///
/// # Errors
/// `InvalidArgument`, in the words of Go's flag package.
pub fn parse<'a>(
    flags: &[&'static Flag],
    order: Order,
    args: &'a [OsString],
    matches: &mut Matches<'a>,
) -> Result<usize> {
    let mut index = 0;
    while let Some(word) = args.get(index) {
        let bytes = word.as_bytes();
        let name = match bytes {
            b"--" => {
                index += 1;
                if order == Order::Mixed {
                    matches
                        .positionals
                        .extend(args[index..].iter().map(OsString::as_os_str));
                    index = args.len();
                }
                break;
            }
            [b'-', b'-', name @ ..] => name,
            [b'-', name @ ..] if !name.is_empty() => name,
            _ => {
                if order == Order::FlagsFirst {
                    break;
                }
                matches.positionals.push(word);
                index += 1;
                continue;
            }
        };
        index += 1;
        if matches!(name.first(), None | Some(b'-' | b'=')) {
            return Err(usage(format!("bad flag syntax: {}", shown(bytes))));
        }
        let (name, value) = match name.iter().position(|byte| *byte == b'=') {
            Some(at) => (&name[..at], Some(OsStr::from_bytes(&name[at + 1..]))),
            None => (name, None),
        };
        let Some(flag) = find(flags, name) else {
            if value.is_none() && !bytes.starts_with(b"--") && push_bundle(flags, name, matches) {
                continue;
            }
            if !matches.positionals.is_empty() {
                // `kill ID -9`: after the id only known flags are flags.
                matches.positionals.push(word);
                continue;
            }
            return Err(usage(format!(
                "flag provided but not defined: -{}",
                shown(name)
            )));
        };
        let value = match (flag.kind, value) {
            (Kind::Switch, None) => Value::Switch(true),
            (_, Some(value)) => convert(flag, value)?,
            (_, None) => {
                let Some(value) = args.get(index) else {
                    return Err(usage(format!("flag needs an argument: -{}", shown(name))));
                };
                index += 1;
                convert(flag, value)?
            }
        };
        matches.flags.push((flag, value));
    }
    Ok(index)
}

/// Switches of one letter written together, as getopt(3) allows: `-td`.
fn push_bundle(flags: &[&'static Flag], letters: &[u8], matches: &mut Matches<'_>) -> bool {
    let found: Option<Vec<_>> = letters
        .iter()
        .map(|letter| find(flags, &[*letter]).filter(|flag| flag.kind == Kind::Switch))
        .collect();
    let Some(found) = found else {
        return false;
    };
    matches
        .flags
        .extend(found.into_iter().map(|flag| (flag, Value::Switch(true))));
    true
}

fn convert<'a>(flag: &'static Flag, value: &'a OsStr) -> Result<Value<'a>> {
    if flag.kind == Kind::Path {
        return Ok(Value::Path(Path::new(value)));
    }
    let Some(text) = value.to_str() else {
        return Err(usage(format!(
            "invalid value {value:?} for flag -{}: not valid UTF-8",
            flag.long
        )));
    };
    let invalid = || {
        let what = if flag.kind == Kind::Switch {
            format!("invalid boolean value \"{text}\" for -{}", flag.long)
        } else {
            format!("invalid value \"{text}\" for flag -{}", flag.long)
        };
        usage(format!("{what}: parse error"))
    };
    match flag.kind {
        Kind::Switch => boolean(text).map(Value::Switch).ok_or_else(invalid),
        Kind::Number | Kind::Numbers => integer(text).map(Value::Number).ok_or_else(invalid),
        Kind::Duration => duration(text).map(Value::Duration).ok_or_else(invalid),
        Kind::Text | Kind::List | Kind::Path => Ok(Value::Text(text)),
    }
}

/// A truth value as Go reads it.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// An integer as Go reads it: with a sign, a prefix for the base, and `_` between digits.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.ends_with('_') || digits.contains("__") || (base == 10 && digits.starts_with('_')) {
        return None;
    }
    let digits = digits.replace('_', "");
    // from_str_radix takes a sign of its own; there is none left to take.
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(&digits, base).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// A duration as Go reads it: numbers with units, such as `1h15m30.5s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        nanos = nanos.checked_add(scaled(number, unit)?)?;
        rest = after;
    }
    Some(Duration::from_nanos(nanos))
}

/// A decimal number with an optional fraction, times `unit`, rounded down.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut value = match whole {
        "" => 0,
        whole => whole.parse::<u64>().ok()?.checked_mul(unit)?,
    };
    let mut place = unit;
    for digit in fraction.bytes().take(18) {
        place /= 10;
        value = value.checked_add(place.checked_mul(u64::from(digit - b'0'))?)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::super::definition::{commands, flags};
    use super::*;
    use proptest::prelude::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn flags_stand_after_the_id_where_no_other_program_is_named() {
        let args = words("x --force -- -f");
        let mut matches = Matches::default();
        let used = parse(commands::DELETE.flags, Order::Mixed, &args, &mut matches).unwrap();
        assert_eq!(used, args.len());
        assert!(matches.on(&flags::FORCE));
        assert_eq!(matches.positionals, ["x", "-f"]);
    }

    #[test]
    fn another_programs_flags_are_left_alone() {
        let args = words("-t -e A=1 --env B=2=3 -g 010 --user=1:2 x ls -t --env");
        let mut matches = Matches::default();
        let used = parse(commands::EXEC.flags, Order::FlagsFirst, &args, &mut matches).unwrap();
        assert_eq!(used, 8);
        assert!(matches.on(&flags::TTY));
        assert_eq!(matches.texts(&flags::ENV), ["A=1", "B=2=3"]);
        assert_eq!(
            matches.numbers(&flags::ADDITIONAL_GIDS).ok(),
            Some(vec![8_u32])
        );
        assert_eq!(matches.text(&flags::USER), Some("1:2"));
        assert!(!matches.on(&flags::DETACH));
    }

    #[test]
    fn switches_of_one_letter_may_stand_together() {
        let args = words("-td x");
        let mut matches = Matches::default();
        parse(commands::EXEC.flags, Order::FlagsFirst, &args, &mut matches).unwrap();
        assert!(matches.on(&flags::TTY) && matches.on(&flags::DETACH));
        let args = words("-te x");
        assert!(parse(commands::EXEC.flags, Order::FlagsFirst, &args, &mut matches).is_err());
    }

    #[test]
    fn the_last_value_counts() {
        let args = words("--tty --tty=false --cwd /a -cwd=/b");
        let mut matches = Matches::default();
        parse(commands::EXEC.flags, Order::FlagsFirst, &args, &mut matches).unwrap();
        assert!(matches.has(&flags::TTY) && !matches.on(&flags::TTY));
        assert_eq!(matches.filled(&flags::CWD).as_deref(), Some("/b"));
    }

    #[test]
    fn reads_integers_as_go_does() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("017", 15),
            ("0o17", 15),
            ("0x1F", 31),
            ("0b101", 5),
            ("1_000", 1000),
            ("0_7", 7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text), Some(value), "{text}");
        }
        for text in [
            "",
            "-",
            "+",
            "--1",
            "+-1",
            "1.0",
            "0x",
            "0b2",
            "08",
            "_1",
            "1_",
            "1__0",
            "1 ",
            "\u{665}",
            "9223372036854775808",
        ] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn reads_durations_as_go_does() {
        for (text, nanos) in [
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("100ms", 100_000_000),
            (".5us", 500),
            ("1\u{b5}s2ns", 1002),
            ("0", 0),
            ("+0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "5x",
            "1.2.3s",
            ".s",
            "5s5",
            "1d",
            "99999999999h",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9a-fxob_.\u{b5}nsmh]{0,12}|.*") {
            let _ = (integer(&text), duration(&text), boolean(&text));
        }

        #[test]
        fn decimal_integers_survive(number: i64) {
            prop_assert_eq!(integer(&number.to_string()), Some(number));
        }

        #[test]
        fn any_arguments_are_read_or_refused(args: Vec<Vec<u8>>, command in 0..commands::ALL.len()) {
            use std::os::unix::ffi::OsStringExt;
            let args: Vec<OsString> = args.into_iter().map(OsString::from_vec).collect();
            let mut matches = Matches::default();
            for order in [Order::Mixed, Order::FlagsFirst] {
                if let Ok(used) = parse(commands::ALL[command].flags, order, &args, &mut matches) {
                    prop_assert!(used <= args.len());
                }
            }
        }
    }
}
