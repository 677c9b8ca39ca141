//! Any bytes as a container's /etc/passwd: a home directory or none.
#![no_main]

use std::fs::{self, File};
use std::sync::OnceLock;

use knarr_runtime::process::user::home;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    static DIR: OnceLock<std::path::PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("knarr-fuzz-{}", std::process::id()));
        fs::create_dir_all(dir.join("etc")).expect("a directory for the file");
        dir
    });
    fs::write(dir.join("etc/passwd"), data).expect("the file");
    let root = File::open(dir).expect("the directory");
    for uid in [0, 1, 1000, u32::MAX] {
        if let Some(home) = home(&root, uid) {
            assert!(!home.is_empty() && !home.contains(['\n', ':']), "{home:?}");
        }
    }
});
