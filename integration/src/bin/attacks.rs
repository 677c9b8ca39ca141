//! Runs the attacks (tests/attacks_*.rs) against every runtime that is found, and prints what held and what fell.
//!
//! A test is an attack: the first line of its documentation says what it tries, the line `Ids:`
//! where the hole is known from. What is printed is the table of docs/attacks.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use knarr_integration::attack::{FELL, UNPROVEN};
use knarr_integration::{peers, runtime};

/// Compare runtimes under attack.
#[derive(Parser)]
struct Args {
    /// A runtime: a program, or NAME=PROGRAM; without any, the newest knarr built here, runc and crun.
    #[arg(long = "runtime")]
    runtimes: Vec<String>,
    /// How long each race is run.
    #[arg(long, default_value = "2")]
    seconds: f64,
    /// Only attacks whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Writes the table there, too.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// What stands above the table in the file.
const PREAMBLE: &str = "\
# Attacks

One test for each class of hole that container runtimes have had (`integration/tests/attacks_*.rs`).
`make test` runs them against knarr. This page compares runtimes; it is written by

    cargo run -p knarr-integration --bin attacks -- --write docs/attacks.md

- *held*: the attack took place, and nothing outside the container was read, changed or made; nothing
  hung, crashed or was reported as a success that was none.
- *fell*: it succeeded. *unproven*: it did not take place, for the reason given below.
- Races are run for a limited time (`--seconds`): what held may still fall to luck.

Not defended by any of the three, and seen with the attacker of `joining_process_by_exec`: a container
with CAP_SYS_PTRACE of the host's user namespace, and no LSM that confines ptrace(2), can take over a
process that joins it by exec, before that has given up the runtime's privileges. Give that
capability only inside a user namespace.

Not defended by knarr: a container that executes the runtime's own program can keep a descriptor of it and
try to open it for writing again and again. Each try fails, as the mount is read-only, but makes the file
busy for a moment, in which the host cannot start it (`ETXTBSY`).

";

/// One test.
struct Attack {
    file: String,
    name: String,
    title: String,
    ids: String,
}

/// How it ended.
struct Verdict {
    word: &'static str,
    reason: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let attacks: Vec<Attack> = attacks()
        .into_iter()
        .filter(|attack| attack.name.contains(&args.only))
        .collect();
    let runtimes = runtimes(&args.runtimes);
    let tests = build();
    let mut table = String::from("| attack | known as |");
    let mut rule = String::from("|---|---|");
    for (name, path) in &runtimes {
        write!(table, " {name} {} |", version(path)).unwrap();
        rule += "---|";
    }
    writeln!(table, "\n{rule}").unwrap();
    let mut reasons = String::new();
    let mut bad = false;
    for attack in &attacks {
        write!(
            table,
            "| {} (`{}`) | {} |",
            attack.title, attack.name, attack.ids
        )
        .unwrap();
        for (index, (name, path)) in runtimes.iter().enumerate() {
            let verdict = run(&tests[&attack.file], attack, path, args.seconds);
            eprintln!(
                "{:45} {name:8} {} {}",
                attack.name, verdict.word, verdict.reason
            );
            write!(table, " {} |", verdict.word).unwrap();
            if verdict.word != "held" {
                writeln!(
                    reasons,
                    "- {name}, `{}`: {}: {}",
                    attack.name, verdict.word, verdict.reason
                )
                .unwrap();
            }
            bad |= index == 0 && !matches!(verdict.word, "held" | "not applicable");
        }
        table.push('\n');
    }
    let text = format!("{table}\n{reasons}");
    println!("{text}");
    if let Some(path) = args.write {
        fs::write(path, PREAMBLE.to_owned() + &text).unwrap();
    }
    ExitCode::from(u8::from(bad))
}

/// The attacks, as their sources document them.
fn attacks() -> Vec<Attack> {
    let mut found = Vec::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_stem()
                .is_some_and(|stem| stem.to_string_lossy().starts_with("attacks_"))
        })
        .collect();
    paths.sort();
    for path in paths {
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let mut doc: Vec<&str> = Vec::new();
        let mut test = false;
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("/// ") {
                doc.push(line);
            } else if line == "#[test]" {
                test = true;
            } else if let Some(rest) = line.strip_prefix("fn ") {
                if test {
                    let name = rest.split('(').next().unwrap().to_owned();
                    let ids = doc.iter().find_map(|line| line.strip_prefix("Ids: "));
                    found.push(Attack {
                        file: file.clone(),
                        title: (*doc
                            .first()
                            .unwrap_or_else(|| panic!("{name}: no documentation")))
                        .to_owned(),
                        ids: ids
                            .unwrap_or_else(|| panic!("{name}: no line `Ids:`"))
                            .to_owned(),
                        name,
                    });
                }
                test = false;
                doc.clear();
            } else if !line.starts_with("#[") {
                doc.clear();
            }
        }
    }
    found
}

/// The runtimes as names and programs, those that exist.
fn runtimes(named: &[String]) -> Vec<(String, PathBuf)> {
    if named.is_empty() {
        let mut found = vec![("knarr".to_owned(), runtime::path().to_owned())];
        for (name, path) in [
            ("runc", peers::runc()),
            ("crun", peers::cruns().into_iter().next()),
        ] {
            match path {
                Some(path) => found.push((name.to_owned(), path)),
                None => eprintln!("{}", peers::missing(name)),
            }
        }
        return found;
    }
    named
        .iter()
        .map(|text| {
            let (name, program) = text.split_once('=').unwrap_or((text, text));
            let name = Path::new(name)
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            (name, runtime::which(Path::new(program)))
        })
        .collect()
}

/// What a runtime says of its version, the number alone.
fn version(path: &Path) -> String {
    let out = Command::new(path).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let words = text.lines().next().unwrap_or_default().split_whitespace();
    words.last().unwrap_or_default().to_owned()
}

/// Builds the tests; each file's program.
fn build() -> BTreeMap<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "test",
            "--locked",
            "--no-run",
            "--tests",
            "--message-format=json",
        ])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo");
    assert!(out.status.success(), "the tests cannot be built");
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| {
            let message: knarr_integration::Value = serde_json::from_str(line).ok()?;
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, message["executable"].as_str()?.to_owned()))
        })
        .collect()
}

/// Runs one attack on one runtime, with the unified hierarchy of a hybrid host out of its sight: crun refuses that.
fn run(test: &str, attack: &Attack, runtime: &Path, seconds: f64) -> Verdict {
    let hide = "mount --make-rprivate / && umount -l /sys/fs/cgroup/unified; exec \"$@\"";
    let mut command = if Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", hide, "hide", test]);
        command
    } else {
        Command::new(test)
    };
    let out = command
        .args(["--exact", &attack.name, "--nocapture", "--test-threads=1"])
        .env("KNARR_BIN", runtime)
        .env("ATTACK_SECONDS", seconds.to_string())
        .env("RUST_BACKTRACE", "0")
        .env_remove("KNARR_SKIPS")
        .stdin(Stdio::null())
        .output()
        .expect("the test");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let after = |sign: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(sign)?;
            // The table is the same wherever it was made.
            let words = rest.split_whitespace().map(|word| {
                if word.contains("/knarr-it-") || word.contains("/tmp/") {
                    "…"
                } else {
                    word
                }
            });
            let text = words.collect::<Vec<_>>().join(" ");
            let text = text
                .trim_end_matches("Outcome {")
                .trim_end_matches([' ', ':']);
            Some(text.chars().take(160).collect::<String>())
        })
    };
    let (word, reason) = if let Some(reason) = after(FELL) {
        ("**fell**", reason)
    } else if let Some(reason) = after("skipped: ") {
        ("not applicable", reason)
    } else if out.status.success() {
        ("held", String::new())
    } else if let Some(reason) = after(UNPROVEN) {
        ("unproven", reason)
    } else {
        let end = text.lines().rev().find(|line| !line.trim().is_empty());
        (
            "unproven",
            after("should ").unwrap_or_else(|| end.unwrap_or_default().chars().take(160).collect()),
        )
    };
    Verdict { word, reason }
}
