//! Points at which tests make a step fail, to see that nothing is left of it.
//!
//! Belongs here: the points' own code, which exists with the feature `faults`
//! only; without it `fault!` is empty. `KNARR_FAULT=NAME` makes the point of
//! that name an error, `KNARR_FAULT=NAME:kill` the process's end by SIGKILL.
//! Tests find the points by reading the sources for `fault!`.

/// A point at which a step may be made to fail; returns from the function then.
macro_rules! fault {
    ($name:literal) => {
        #[cfg(feature = "faults")]
        $crate::fault::point($name)?;
    };
}
/// Fails, or ends the process, where the environment names this point.
#[cfg(feature = "faults")]
pub(crate) fn point(name: &str) -> crate::error::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};
    let Ok(wanted) = std::env::var("KNARR_FAULT") else {
        return Ok(());
    };
    match wanted.strip_prefix(name) {
        Some("") => Err(crate::error::Error::system(
            format!("fault at {name}"),
            rustix::io::Errno::IO,
        )),
        Some(":kill") => {
            let _ = kill_process(getpid(), Signal::KILL);
            // The first process of a pid namespace cannot kill itself so.
            std::process::abort()
        }
        Some(":stop") => {
            let _ = kill_process(getpid(), Signal::STOP);
            Ok(())
        }
        _ => Ok(()),
    }
}
