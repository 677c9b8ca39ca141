//! Compiles a configuration's seccomp profile and prints what it costs.
//!
//! `cargo run --release -p knarr-runtime --example seccomp_compile -- config.json`

use std::time::{Duration, Instant};

use knarr_runtime::seccomp;
use knarr_runtime::spec::{Spec, parse};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which config.json?")?;
    let text = std::fs::read(&path)?;
    let spec: Spec<'_> = parse::parse(&path, &text)?;
    let profile = spec
        .linux
        .as_ref()
        .and_then(|linux| linux.seccomp.as_ref())
        .ok_or("the configuration has no linux.seccomp")?;

    let mut times = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        let program = seccomp::compile(profile)?;
        times.push(start.elapsed());
        std::hint::black_box(program);
    }
    let first = times.first().copied().unwrap_or(Duration::ZERO);
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or(Duration::ZERO);
    let program = seccomp::compile(profile)?;
    println!("{program:?}");
    println!(
        "compile: first {first:?}, minimum {:?}, median {:?}",
        at(0),
        at(times.len() / 2)
    );
    rustix::thread::set_no_new_privs(true)?;
    let start = Instant::now();
    program.load()?;
    let took = start.elapsed();
    println!("load: {took:?}");
    Ok(())
}
