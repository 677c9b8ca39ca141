//! Prints which tests show which corner case of the specification; fails where a case has none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Cases that only a host with cgroup v2 can show; they are proven there, not here.
const VERSION_2: [u32; 2] = [52, 57];

/// How many cases there are.
const CASES: u32 = 70;

fn main() -> ExitCode {
    let mut found: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in fs::read_dir(tests).unwrap().flatten() {
        let area = entry
            .path()
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines() {
            let Some(rest) = line.trim().strip_prefix("fn case_") else {
                continue;
            };
            let name = rest.split('(').next().unwrap();
            if let Some(number) = name.split('_').next().and_then(|n| n.parse().ok()) {
                found
                    .entry(number)
                    .or_default()
                    .push(format!("{area}::case_{name}"));
            }
        }
    }
    let mut missing = 0;
    println!("| case | tests |\n|---|---|");
    for case in 1..=CASES {
        match found.get(&case) {
            Some(tests) => println!("| {case} | {} |", tests.join(", ")),
            None if VERSION_2.contains(&case) => {
                println!("| {case} | cgroup v2 only: unit tests |")
            }
            None => {
                missing += 1;
                println!("| {case} | none |");
            }
        }
    }
    println!("\n{missing} of {CASES} without a test");
    if missing == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
