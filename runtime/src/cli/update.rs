//! `update`.

use knarr_runtime::container::Container;
use knarr_runtime::error::{Error, Kind, Result};
use knarr_runtime::spec::parse::parse;
use knarr_runtime::spec::resources::{BlockIo, Cpu, Memory, Pids, Resources};

use super::Outcome;
use super::definition::{Flag, flags};
use super::globals::Globals;
use super::parse::Matches;

/// `update`
pub fn update(globals: &Globals, matches: &Matches<'_>) -> Outcome {
    let container = Container::load(&globals.root(), matches.id()?)?;
    let l3_cache = matches.filled(&flags::L3_CACHE_SCHEMA);
    let mem_bw = matches.filled(&flags::MEM_BW_SCHEMA);
    let file = matches.path(&flags::RESOURCES);
    let text = file.as_deref().map(super::exec::read).transpose()?;
    let resources = match (&file, &text) {
        (Some(file), Some(text)) => parse(&file.to_string_lossy(), text)?,
        _ => from_flags(matches)?,
    };
    container.update(&resources, l3_cache.as_deref(), mem_bw.as_deref())?;
    Ok(0)
}

fn from_flags<'a>(matches: &Matches<'a>) -> Result<Resources<'a>> {
    let memory = Memory {
        limit: bytes(matches, &flags::MEMORY)?,
        reservation: bytes(matches, &flags::MEMORY_RESERVATION)?,
        swap: bytes(matches, &flags::MEMORY_SWAP)?,
        kernel: bytes(matches, &flags::KERNEL_MEMORY)?,
        kernel_tcp: bytes(matches, &flags::KERNEL_MEMORY_TCP)?,
        ..Memory::default()
    };
    let cpu = Cpu {
        shares: decimal(matches, &flags::CPU_SHARE)?,
        quota: decimal(matches, &flags::CPU_QUOTA)?,
        burst: decimal(matches, &flags::CPU_BURST)?,
        period: decimal(matches, &flags::CPU_PERIOD)?,
        realtime_runtime: decimal(matches, &flags::CPU_RT_RUNTIME)?,
        realtime_period: decimal(matches, &flags::CPU_RT_PERIOD)?,
        cpus: matches.text(&flags::CPUSET_CPUS).unwrap_or("").into(),
        mems: matches.text(&flags::CPUSET_MEMS).unwrap_or("").into(),
        idle: decimal(matches, &flags::CPU_IDLE)?,
    };
    // The documented default of 0 stands for no change.
    let weight = matches
        .narrow(&flags::BLKIO_WEIGHT)?
        .filter(|weight| *weight != 0);
    let pids = matches.number(&flags::PIDS_LIMIT);
    Ok(Resources {
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        block_io: weight.map(|weight| BlockIo {
            weight: Some(weight),
            ..BlockIo::default()
        }),
        pids: pids.map(|limit| Pids { limit: Some(limit) }),
        ..Resources::default()
    })
}

/// A number in decimal; an empty text counts as unset.
fn decimal<T: std::str::FromStr>(matches: &Matches<'_>, flag: &'static Flag) -> Result<Option<T>> {
    match matches.text(flag) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(invalid(flag, text, "not a number that the limit can take")),
        },
    }
}

/// A size; -1 means no limit, an empty text counts as unset.
fn bytes(matches: &Matches<'_>, flag: &'static Flag) -> Result<Option<i64>> {
    match matches.text(flag) {
        None | Some("") => Ok(None),
        Some("-1") => Ok(Some(-1)),
        Some(text) => match size(text) {
            Some(value) => Ok(Some(value)),
            None => Err(invalid(
                flag,
                text,
                "not a size such as 1048576, 512K, 200M or 1.5G, nor -1",
            )),
        },
    }
}

fn invalid(flag: &Flag, text: &str, why: &str) -> Error {
    Error::new(
        Kind::InvalidArgument,
        format!("invalid value \"{text}\" for flag -{}: {why}", flag.long),
    )
}

/// A size in bytes with an optional binary unit: `200M`, `200MB` and `200 MiB` are the same.
fn size(text: &str) -> Option<i64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 0,
        "k" | "ki" => 10,
        "m" | "mi" => 20,
        "g" | "gi" => 30,
        "t" | "ti" => 40,
        "p" | "pi" => 50,
        _ => return None,
    };
    i64::try_from(scaled_binary(number, shift)?).ok()
}

/// A decimal number with an optional fraction, times 2 to the power of `shift`, rounded down.
fn scaled_binary(number: &str, shift: u32) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    // Nine digits say more than any size needs, and nine digits times 2^50 fit into 128 bits.
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(fraction.parse::<u64>().ok()?) * (1 << shift) / scale;
    whole.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        for (text, value) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("200M", 200 << 20),
            ("200m", 200 << 20),
            ("200MB", 200 << 20),
            ("200MiB", 200 << 20),
            ("200 M", 200 << 20),
            ("1.5G", 3 << 29),
            ("0.1k", 102),
            ("5b", 5),
        ] {
            assert_eq!(size(text), Some(value), "{text}");
        }
        for text in [
            "",
            "M",
            ".5",
            "-5",
            "1x",
            "1.2.3",
            "1.x",
            ".",
            "99999999999999999999",
            "9999999P",
            "1  M",
            "1i\u{e9}",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
