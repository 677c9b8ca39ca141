//! The same configurations under knarr, runc and crun: every difference is on the list, and the list
//! says nothing that is not so. `differ` does the work; what differs, and why, is in differences.json.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole file is one")]

use std::path::Path;
use std::process::{Command, Output};

use knarr_integration::skip;

/// No further configuration is begun after this; the rest is told. Enough for all on a machine that
/// has nothing else to do.
const SECONDS: &str = "210";

/// Instead, without a limit: all of the basic configurations and of linux, every so many-th of the others.
const STEP: &str = "KNARR_DIFFER_STEP";

/// The program built with this test, or the one beside it where the test was carried elsewhere.
fn differ(args: &[&str]) -> Output {
    let built = Path::new(env!("CARGO_BIN_EXE_differ"));
    let beside = std::env::current_exe().unwrap().with_file_name("differ");
    let program = if built.exists() { built } else { &beside };
    Command::new(program).args(args).output().unwrap()
}

#[test]
fn every_difference_is_explained() {
    let output = match std::env::var(STEP) {
        Ok(step) => differ(&["--step", &step]),
        Err(_) => differ(&["--limit", SECONDS]),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("skipped: ") {
        skip!("{}", text.trim());
    }
    assert!(
        output.status.success(),
        "fix what differs, or explain it in integration/differences.json:\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{text}");
}

#[test]
fn the_page_for_operators_is_made_from_the_list() {
    let made = differ(&["--page"]).stdout;
    let page = include_bytes!("../../docs/differences.md");
    assert!(
        made == page,
        "run `cargo run -p knarr-integration --bin differ -- --page >docs/differences.md`"
    );
}
