//! Runs the OCI runtime validation suite against any runtime and reports.
//!
//! The way of data: [`fetch`] builds the suite, [`run`] gives each test a
//! [`sandbox`] and parses its [`tap`], [`known`] judges, [`report`] prints.

mod cgroup;
mod cli;
mod compare;
mod docs;
mod fetch;
mod known;
mod model;
mod own;
mod probe;
mod report;
mod run;
mod runtime;
mod sandbox;
mod suite;
mod sys;
mod tap;

use anyhow::{Context, Result};
use clap::Parser;
use cli::{Cli, Command, CompareArgs, Format, RunArgs, Selection, Which};
use model::{Origin, Report, TestResult};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    // Standard output may be a closed pipe (`| head`): end quietly, as others do.
    let name = std::env::args_os().next().unwrap_or_default();
    let result = if Path::new(&name)
        .file_name()
        .is_some_and(|n| n == sandbox::WRAPPER)
    {
        sandbox::wrapper_main()
    } else {
        dispatch(Cli::parse().command)
    };
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("oci-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> Result<i32> {
    match command {
        Command::Run(args) => run_one(&args),
        Command::Compare(args) => run_compare(&args),
        Command::List { json } => print(&docs::list(json)?),
        Command::Faults { runtime: None } => print(&docs::faults()?),
        Command::Faults {
            runtime: Some(name),
        } => check_faults(&name),
        Command::Generate { what, dir } => docs::generate(what, &dir).map(|()| 0),
        Command::Sandbox { stage, plan } => sandbox::main(&stage, &plan),
        Command::Own { id } => own::main(&id),
        Command::Probe { operations } => Ok(probe::main(&operations)),
        Command::Hook { arguments } => Ok(probe::hook_main(&arguments)),
    }
}

/// Writes to standard output; a reader that left is no error.
fn print(text: &str) -> Result<i32> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("standard output"),
        _ => Ok(0),
    }
}

fn options(s: &Selection) -> run::Options {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    run::Options {
        jobs: s.jobs.unwrap_or(processors + 2),
        timeout: Duration::from_secs(s.timeout),
        select: s.tests.clone(),
        skip: s.skip.clone(),
        only: s.only.map(|w| match w {
            Which::Suite => Origin::Suite,
            Which::Own => Origin::Own,
        }),
        oci_version: s.oci_version.clone(),
    }
}

/// Builds the suite unless only own tests are wanted.
fn suite_for(s: &Selection) -> Result<Option<fetch::Suite>> {
    let own_only = !s.tests.is_empty() && s.tests.iter().all(|t| t.starts_with("own/"));
    if matches!(s.only, Some(Which::Own)) || own_only {
        return Ok(None);
    }
    let cache = match &s.cache {
        Some(dir) => std::path::absolute(dir)?,
        None => fetch::cache_dir()?,
    };
    let say = |text: &str| {
        if !s.quiet {
            eprintln!("{text}");
        }
    };
    fetch::suite(&cache, &say).map(Some)
}

fn test_runtime(path: &Path, suite: Option<&fetch::Suite>, s: &Selection) -> Result<Report> {
    use std::io::IsTerminal;
    let live = !s.quiet && std::io::stderr().is_terminal();
    let progress = |test: &TestResult, done: usize, all: usize| {
        if live {
            eprint!("\r\x1b[K{done}/{all} {}", test.id);
        }
    };
    let report = run::run(path, suite, &options(s), &progress);
    if live {
        eprint!("\r\x1b[K");
    }
    report
}

fn run_one(args: &RunArgs) -> Result<i32> {
    let path = runtime::find(&args.runtime)?;
    let suite = suite_for(&args.selection)?;
    let report = test_runtime(&path, suite.as_ref(), &args.selection)?;
    if report.tests.is_empty() {
        anyhow::bail!(
            "no test has an id like {:?}: see `oci-conformance list`",
            args.selection.tests
        );
    }
    let files = [
        (&args.html, Format::Html),
        (&args.junit, Format::Junit),
        (&args.json, Format::Json),
        (&args.tap, Format::Tap),
    ];
    for (file, format) in files {
        if let Some(file) = file {
            let text = render(&report, format, args.verbose)?;
            fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        }
    }
    print(&render(&report, args.format, args.verbose)?)?;
    Ok(i32::from(report.unexpected().next().is_some()))
}

fn render(report: &Report, format: Format, verbose: bool) -> Result<String> {
    Ok(match format {
        Format::Table => report::table::render(report, verbose),
        Format::Html => report::html::render(report),
        Format::Junit => report::junit::render(report),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Tap => report::tap::render(report),
    })
}

fn run_compare(args: &CompareArgs) -> Result<i32> {
    let mut reports: Vec<Report> = Vec::new();
    for file in &args.from {
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        reports.push(
            serde_json::from_slice(&text)
                .with_context(|| format!("{} is no report", file.display()))?,
        );
    }
    let suite = if args.runtime.is_empty() {
        None
    } else {
        suite_for(&args.selection)?
    };
    for name in &args.runtime {
        let path = match runtime::find(name) {
            Ok(path) => path,
            Err(error) => {
                eprintln!("left out: {error:#}");
                continue;
            }
        };
        match test_runtime(&path, suite.as_ref(), &args.selection) {
            Ok(report) => reports.push(report),
            Err(error) => eprintln!("left out: {error:#}"),
        }
    }
    if let Some(dir) = &args.reports {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        for report in &reports {
            let file = dir.join(format!("{}.json", report.runtime.name));
            fs::write(&file, serde_json::to_vec_pretty(report)?)
                .with_context(|| format!("write {}", file.display()))?;
        }
    }
    print(&compare::render(&reports, args.differences))?;
    Ok(i32::from(reports.is_empty()))
}

/// Runs the own tests that contradict the suite.
fn check_faults(name: &str) -> Result<i32> {
    let path = runtime::find(name)?;
    let list = known::List::embedded()?;
    let selection = Selection {
        tests: list
            .entries
            .iter()
            .map(|e| format!("own/{}", e.check))
            .collect(),
        skip: Vec::new(),
        only: Some(Which::Own),
        jobs: None,
        timeout: 120,
        oci_version: Some("auto".to_owned()),
        cache: None,
        quiet: false,
    };
    let report = test_runtime(&path, None, &selection)?;
    print(&report::table::render(&report, true))?;
    Ok(i32::from(report.unexpected().next().is_some()))
}
