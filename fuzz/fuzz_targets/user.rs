//! Any text of `--user`: an error, or the numbers it says.
#![no_main]

use knarr_runtime::process::user::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok((uid, gid)) = parse(text) {
        let mut parts = text.split(':');
        assert_eq!(parts.next().and_then(|part| part.parse().ok()), Some(uid));
        assert_eq!(parts.next().and_then(|part| part.parse().ok()), gid);
    }
});
