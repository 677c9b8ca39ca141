//! Signals that whoever called the runtime ignored: execve(2) would hand that on to the program.
//!
//! Belongs here: putting them back to the default. Does not: what the runtime changes for itself,
//! see [`exec::restore_signals`].

use rustix::fs::OFlags;

use super::procfs::ProcFs;
use crate::proc;
use crate::sys::exec;

/// Lets the calling process ignore no standard signal that its caller ignored, but SIGPIPE, which the
/// runtime needs ignored until it executes the program.
///
/// Nearly always there is none, and asking what there is takes less than setting all of them.
pub fn set_to_default(procfs: &ProcFs) {
    let stat = procfs.open_file("self/stat", OFlags::RDONLY);
    let ignored = stat.ok().and_then(|stat| proc::ignored_signals(&stat));
    exec::default_signals(ignored.unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, status};

    #[test]
    fn nothing_is_ignored_but_sigpipe() {
        let ignored = || {
            let mask = u64::from_str_radix(&status("SigIgn"), 16).unwrap();
            // Real-time signals are left as they are.
            mask & 0x7fff_ffff
        };
        let seen = in_child(|| {
            exec::ignore_all();
            let before = ignored();
            set_to_default(&ProcFs::open()?);
            Ok(format!("{before:x} {:x}", ignored()))
        });
        let all = 0x7fff_ffff & !(1_u64 << 8 | 1 << 18);
        assert_eq!(seen.unwrap(), format!("{all:x} {:x}", 1 << 12));
    }
}
