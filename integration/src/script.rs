//! Lists of ctr's command lines, each run on knarrd and on containerd at once: exit code, output and
//! errors have to be the same, but for what differs from one daemon and moment to the next.
//!
//! A line begins with any of these:
//!
//! | | |
//! |---|---|
//! | `^` | it fails; any other succeeds |
//! | `!` | it is for the shell |
//! | `%` | the order of the lines of its output is left to chance |
//! | `~` | its output is not compared, but errors are |
//! | `*` | only its exit code is compared |
//! | `<FILE ` | standard input |
//! | `@"TEXT" ` | it is run again until its output has the text |
//!
//! `{dir}` is the pen's directory, `{S}` the daemon, so that `{dir}/{S}` is its directory, `{cg}` its
//! cgroup, `{own}` a name that is its own, and `{id}` one that no other line has.

use std::fs;

use regex::Regex;

use crate::daemon::PATIENCE;
use crate::pair::Pair;
use crate::process;
use crate::runtime::Outcome;

/// What differs, in this order, and what stands there instead. Of the runtimes' own words there is
/// but the beginning, and a class may be named where the other has none.
const DIFFERENT: &[(&str, &str)] = &[
    (r"(?m)^.*(DEPRECATION:|context canceled).*\n", ""),
    (
        r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?( ?([+-]\d\d:?\d\d|Z))?( UTC)?",
        "TIME",
    ),
    (r"seconds:\d+( nanos:\d+)?", "TIME"),
    (
        r"(Less than a second|About a minute|About an hour|\d+ (second|minute)s?)( ago)?",
        "AGE",
    ),
    (
        r"elapsed: *\d+\.\d+ s|\(\d+\.\d+ \w+/s\)|Completed pull.*",
        "elapsed",
    ),
    (
        r"(/io\.containerd\.snapshotter\.v1\.\w+)?/snapshots/(\w+/)?\d+",
        "/SNAPSHOT",
    ),
    (
        r"state/(io\.containerd\.mount-manager\.v1\.bolt/t|mounts)/\d+/\d+",
        "state/MOUNT",
    ),
    (r"blobs/sha256:[0-9a-f]{64}", "BLOB"),
    (r"(?m)^\d+( +(-|exec_id))", "PID$1"),
    (r#""pid": \d+"#, "PID"),
    (r"ctr-images-mount-\S+", "MOUNT"),
    (r"(/run/containerd/s/|/fifo/)\w+", "${1}X"),
    (
        r"unknown error after kill: .*\n",
        "OCI runtime kill failed\n",
    ),
    (r"(OCI runtime \w+ failed).*", "$1"),
    (
        r"(?m)^(\S+ +)\d+( +(RUNNING|STOPPED|PAUSED|CREATED))",
        "${1}PID$2",
    ),
    (
        r#"(?m)(: (permission denied|unavailable|invalid argument|not found|failed precondition|not implemented|already exists|unknown))+("?)$"#,
        "$3",
    ),
];

/// Runs scripts on a pair of daemons.
#[derive(Debug)]
pub struct Script<'a> {
    pair: &'a Pair,
    different: Vec<(Regex, &'static str)>,
    lines: usize,
    failures: Vec<String>,
}

/// A line with what it begins with taken apart.
#[derive(Debug, Default)]
struct Line<'a> {
    fails: bool,
    shell: bool,
    unordered: bool,
    progress: bool,
    code_only: bool,
    input: Option<&'a str>,
    until: Option<&'a str>,
    command: &'a str,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Self {
        let mut line = Self::default();
        let mut rest = text;
        loop {
            let (first, after) = rest.split_at(1);
            match first {
                "^" => line.fails = true,
                "!" => line.shell = true,
                "%" => line.unordered = true,
                "~" => line.progress = true,
                "*" => line.code_only = true,
                "<" => {
                    let (file, after) = after.split_once(' ').expect("a command after the file");
                    line.input = Some(file);
                    rest = after;
                    continue;
                }
                "@" => {
                    let quoted = after
                        .strip_prefix('"')
                        .and_then(|text| text.split_once("\" "));
                    let (until, after) = quoted.expect("a quoted text and a command");
                    line.until = Some(until);
                    rest = after;
                    continue;
                }
                _ => break,
            }
            rest = after;
        }
        line.command = rest;
        line
    }
}

impl<'a> Script<'a> {
    /// Scripts for these daemons.
    ///
    /// # Panics
    /// Where a directory cannot be made.
    #[must_use]
    pub fn new(pair: &'a Pair) -> Self {
        let compile =
            |(pattern, put): &(&str, &'static str)| (Regex::new(pattern).expect("a pattern"), *put);
        for daemon in Pair::DAEMONS {
            fs::create_dir_all(pair.pen.path(daemon)).unwrap();
        }
        Self {
            pair,
            different: DIFFERENT.iter().map(compile).collect(),
            lines: 0,
            failures: Vec::new(),
        }
    }

    /// Runs the lines of a script, in which `names` stand for something.
    ///
    /// # Panics
    /// At the end, with all lines that were not as they should be.
    #[track_caller]
    pub fn run(&mut self, names: &[(&str, &str)], script: &str) {
        for text in script.lines().map(str::trim) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let mut text = text.to_owned();
            for (name, value) in names {
                text = text.replace(&format!("{{{name}}}"), value);
            }
            self.line(&text);
        }
        let failures = std::mem::take(&mut self.failures);
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    fn line(&mut self, text: &str) {
        self.lines += 1;
        let line = Line::parse(text);
        let both = std::thread::scope(|scope| {
            let one = |daemon| self.on(daemon, &line);
            let other = scope.spawn(move || one(Pair::DAEMONS[1]));
            [one(Pair::DAEMONS[0]), other.join().unwrap()]
        });
        let [ours, theirs] = &both;
        let mut wrong = Vec::new();
        if both.iter().any(|out| (out.code != 0) != line.fails) || ours.code != theirs.code {
            wrong.push(format!("exit codes {} and {}", ours.code, theirs.code));
        }
        if !line.code_only {
            for (name, streams) in [
                ("output", [&ours.stdout, &theirs.stdout]),
                ("errors", [&ours.stderr, &theirs.stderr]),
            ] {
                if line.progress && name == "output" {
                    continue;
                }
                let [said, expected] =
                    [0, 1].map(|at| self.plain(streams[at], Pair::DAEMONS[at], line.unordered));
                wrong.extend(difference(&said, &expected).map(|text| format!("{name}: {text}")));
            }
        }
        if !wrong.is_empty() {
            let stderr = [&ours.stderr, &theirs.stderr];
            self.failures.push(format!(
                "ctr {text}\n    {}\n    {stderr:?}",
                wrong.join("\n    ")
            ));
        }
    }

    fn on(&self, daemon: &str, line: &Line<'_>) -> Outcome {
        let own = format!("own-{daemon}");
        let fill = |text: &str| {
            text.replace("{S}", daemon)
                .replace("{dir}", self.pair.pen.dir().to_str().unwrap())
                .replace("{cg}", &format!("{}/{daemon}", self.pair.pen.cgroup()))
                .replace("{own}", &own)
                .replace("{id}", &format!("id{}-{own}", self.lines))
        };
        let command = fill(line.command);
        let once = || {
            let words = match line.shell {
                true => vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()],
                false => words(&command),
            };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut command = match line.shell {
                true => self.pair.pen.command(&words),
                false => self.pair.command(daemon, &words),
            };
            if let Some(input) = line.input {
                command.stdin(fs::File::open(fill(input)).unwrap());
            }
            self.pair.pen.spawn(command).wait()
        };
        let mut out = once();
        if let Some(text) = line.until {
            process::eventually(PATIENCE, || {
                let reached = out.stdout.contains(text);
                if !reached {
                    out = once();
                }
                reached
            });
        }
        out
    }

    /// What has to be equal.
    fn plain(&self, text: &str, daemon: &str, unordered: bool) -> Vec<String> {
        let dir = self.pair.pen.path(daemon);
        let mut text = text.replace(dir.to_str().unwrap(), "SIDE");
        text = text.replace(&format!("{}/{daemon}", self.pair.pen.cgroup()), "CGROUP");
        text = text.replace(&format!("own-{daemon}"), "OWN");
        text = text.replace(&format!("{}.sock", dir.to_str().unwrap()), "SIDE.sock");
        for (pattern, put) in &self.different {
            text = pattern.replace_all(&text, *put).into_owned();
        }
        let lines = text.lines().map(|line| {
            // Labels come in any order.
            let words = line.split_whitespace().map(|word| {
                let mut parts: Vec<&str> = word.split(',').collect();
                parts.sort_unstable();
                parts.join(",")
            });
            words.collect::<Vec<_>>().join(" ")
        });
        let mut lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
        if unordered {
            lines.sort();
        }
        lines
    }
}

/// The first lines that differ.
fn difference(said: &[String], expected: &[String]) -> Option<String> {
    let line = |lines: &[String], at: usize| lines.get(at).cloned();
    let most = said.len().max(expected.len());
    let at = (0..most).find(|at| line(said, *at) != line(expected, *at))?;
    Some(format!(
        "line {}: {:?}, and containerd has {:?}",
        at + 1,
        line(said, at),
        line(expected, at)
    ))
}

/// The words of a command line, of which some are in quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
