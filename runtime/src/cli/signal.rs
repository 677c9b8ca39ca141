//! Signals by name and number.

use knarr_runtime::error::{Error, Kind, Result};

/// The names of signal(7) and their numbers.
const NAMES: [(&str, i32); 35] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", 16),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("UNUSED", libc::SIGSYS),
];

/// The kernel's highest signal.
const MAX: i32 = 64;

/// RTMIN as programs know it: the C library keeps 32 and 33, musl 34 as well, for itself;
/// names count from glibc's, as kill(1) does.
const RT_MIN: i32 = 34;

/// Reads a signal: a number, or a name in any case, with or without `SIG`. 0 only asks whether there is a process.
///
/// # Errors
/// No such signal.
pub fn parse(text: &str) -> Result<i32> {
    let number = if text.starts_with(|c: char| c.is_ascii_digit()) {
        text.parse().ok()
    } else {
        by_name(&text.to_ascii_uppercase())
    };
    number
        .filter(|number| (0..=MAX).contains(number))
        .ok_or_else(|| {
            Error::new(
                Kind::InvalidArgument,
                format!(
                    "unknown signal {text:?}; use a number from 0 to {MAX} or a name such as TERM"
                ),
            )
        })
}

fn by_name(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return Some(RT_MIN + offset_of(offset, '+')?);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return Some(MAX - offset_of(offset, '-')?);
    }
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

fn offset_of(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    let offset: u8 = digits.parse().ok()?;
    Some(i32::from(offset)).filter(|offset| (0..=MAX - RT_MIN).contains(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigkill", 9),
            ("0", 0),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("winch", 28),
        ] {
            assert_eq!(parse(text).ok(), Some(number), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_signal() {
        for text in [
            "",
            "-",
            "-1",
            "-9",
            "-KILL",
            "--9",
            "-1x",
            "65",
            "SIG",
            "SIGSIGKILL",
            "RTMIN+31",
            "RTMAX+1",
            "9x",
            "99999999999999999999",
            "RTMIN+",
            "RTMIN-1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
