//! What a test says that does not run here: for unit tests and those beside this directory.

use std::io::Write;

/// Says on stderr, and in the file that `KNARR_SKIPS` names, that the test of this thread did not run.
pub fn note(reason: impl std::fmt::Display) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("?"));
    eprint!("{line}");
    if let Some(file) = std::env::var_os("KNARR_SKIPS") {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
