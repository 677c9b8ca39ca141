//! Any bytes as a container's state.json: an error, or the state of that container.
#![no_main]

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use knarr_runtime::container::Container;
use libfuzzer_sys::fuzz_target;

const ID: &str = "fuzzed";

fuzz_target!(|data: &[u8]| {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("knarr-fuzz-state-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(root.join(ID))
            .expect("a directory for the state");
        root
    });
    fs::write(root.join(ID).join("state.json"), data).expect("the file");
    let container = Container::load(root, ID).expect("the directory is there");
    if let Ok(state) = container.state() {
        assert_eq!(state.id, ID);
    }
    // Neither of these is for a container that does not run.
    let _ = container.pids();
    let _ = container.stats();
});
