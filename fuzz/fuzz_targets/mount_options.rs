//! Any list of mount options: every accessor of what was parsed holds.
#![no_main]

use knarr_runtime::spec::Text;
use knarr_runtime::spec::mount_options::{is_data, parse_options, parse_propagation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let options: Vec<Text<'_>> = text.split(',').map(Text::from).collect();
    let parsed = parse_options(&options);
    let _ = (parsed.is_bind(), parsed.mount_flags(), parsed.needs_mount());
    // What goes to the file system is exactly the options that nobody knows, in their order.
    let unknown: Vec<&str> = text.split(',').filter(|option| is_data(option)).collect();
    assert!(parsed.data_items().count() <= unknown.len());
    let _ = (parsed.data_string(), parse_propagation(text));
});
