//! Tables for people, JSON for machines.

use std::fs;
use std::process::Command;
use std::time::Duration;

use knarr_integration::{Value, json};

use crate::measure::{Op, Sample};
use crate::{Figure, Figures, Runtime};

/// Which programs take part, in which version and size.
pub fn runtimes(all: &[Runtime]) {
    for runtime in all {
        let version = Command::new(&runtime.path)
            .arg("--version")
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let size = fs::metadata(&runtime.path).map_or(0, |meta| meta.len());
        println!(
            "{:8} {} ({}, {} KiB)",
            runtime.name,
            version.lines().next().unwrap_or("?"),
            runtime.path.display(),
            size / 1024,
        );
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Minimum and median, in milliseconds.
fn summary(samples: &[Sample], of: fn(&Sample) -> Duration) -> Option<(f64, f64)> {
    let mut times: Vec<Duration> = samples.iter().map(of).collect();
    times.sort();
    Some((millis(*times.first()?), millis(times[times.len() / 2])))
}

fn wall(sample: &Sample) -> Duration {
    sample.wall
}

fn cpu(sample: &Sample) -> Duration {
    sample.cpu
}

/// `min/med`, or a dash.
fn cell(summary: Option<(f64, f64)>) -> String {
    summary.map_or_else(
        || "-".to_owned(),
        |(min, median)| format!("{min:.2}/{median:.2}"),
    )
}

/// The minimum of one kind of figure, with whatever lock where hot ones are missing.
fn least(figure: Option<&Figure>, of: fn(&Sample) -> Duration) -> Option<f64> {
    let figure = figure?;
    summary(&figure.hot, of)
        .or_else(|| summary(&figure.cold, of))
        .map(|(min, _)| min)
}

/// Prints one bundle's figures.
pub fn table(name: &str, figures: &Figures, hot_only: bool) {
    println!("\n{name} bundle; times in ms, minimum/median; hot: the cgroup lock was just written");
    println!(
        "{:7} {:8} {:>15} {:>15} {:>15} {:>15} {:>8} {:>8} {:>6} {:>6} {:>6}",
        "op",
        "runtime",
        "wall hot",
        "CPU hot",
        "wall cold",
        "CPU cold",
        "RSS MB",
        "syscalls",
        "forks",
        "execs",
        "failed",
    );
    for op in Op::rows() {
        for (runtime, row) in figures {
            let Some(figure) = row.get(&op) else { continue };
            let cold = |of| {
                if hot_only {
                    None
                } else {
                    summary(&figure.cold, of)
                }
            };
            let memory = figure.memory.map_or("-".to_owned(), |kib| {
                format!("{}.{:02}", kib / 1024, kib % 1024 * 100 / 1024)
            });
            let counts = figure.trace.map_or_else(
                || format!("{:>8} {:>6} {:>6}", "-", "-", "-"),
                |counts| {
                    format!(
                        "{:>8} {:>6} {:>6}",
                        counts.syscalls, counts.forks, counts.execs
                    )
                },
            );
            println!(
                "{:7} {:8} {:>15} {:>15} {:>15} {:>15} {:>8} {} {:>6}",
                op.name(),
                runtime,
                cell(summary(&figure.hot, wall)),
                cell(summary(&figure.hot, cpu)),
                cell(cold(wall)),
                cell(cold(cpu)),
                memory,
                counts,
                figure.failed,
            );
        }
    }
    ratios(figures);
}

/// knarr against every peer, by minima: CPU time, then wall time.
fn ratios(figures: &Figures) {
    let Some(own) = figures.get("knarr") else {
        return;
    };
    println!("\nknarr's minimum by the peer's (hot), CPU/wall; less is better");
    let peers: Vec<_> = figures
        .iter()
        .filter(|(name, _)| *name != "knarr")
        .collect();
    print!("{:7}", "op");
    for (name, _) in &peers {
        print!(" {name:>13}");
    }
    println!();
    for op in Op::rows() {
        print!("{:7}", op.name());
        for (_, row) in &peers {
            let ratio = |of| Some(least(own.get(&op), of)? / least(row.get(&op), of)?);
            let cell = match (ratio(cpu), ratio(wall)) {
                (Some(cpu), Some(wall)) => format!("{cpu:.3}/{wall:.3}"),
                _ => "-".to_owned(),
            };
            print!(" {cell:>13}");
        }
        println!();
    }
}

/// All figures.
pub fn json(rounds: &u32, all: &[(&str, Figures)]) -> String {
    let series = |samples: &[Sample], of: fn(&Sample) -> Duration| -> Value {
        match summary(samples, of) {
            Some((min, median)) => json!({"min_ms": min, "median_ms": median}),
            None => Value::Null,
        }
    };
    let mut out = json!({"rounds": rounds, "bundles": {}});
    for (bundle, figures) in all {
        for (runtime, row) in figures {
            for (op, figure) in row {
                out["bundles"][bundle][runtime][op.name()] = json!({
                    "hot": {"wall": series(&figure.hot, wall), "cpu": series(&figure.hot, cpu)},
                    "cold": {"wall": series(&figure.cold, wall), "cpu": series(&figure.cold, cpu)},
                    "failed": figure.failed,
                    "max_rss_kib": figure.memory,
                    "trace": figure.trace.map(|counts| json!({
                        "syscalls": counts.syscalls,
                        "forks": counts.forks, "execs": counts.execs,
                    })),
                });
            }
        }
    }
    format!("{out:#}\n")
}
