//! Any bytes as config.json: an error or a configuration, never a crash.
#![no_main]

use knarr_runtime::spec::config::Spec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = knarr_runtime::spec::parse::parse::<Spec<'_>>("config.json", data);
});
