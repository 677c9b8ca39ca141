//! Compiles a configuration's seccomp profile and loads it; prints what each costs in microseconds.
//!
//! `cargo run --release -p knarr-runtime --example seccomp_compile -- config.json`
//!
//! With a further argument, writes the filter to a file of that name instead, as the kernel takes it.

use std::time::{Duration, Instant};

use knarr_runtime::seccomp;
use knarr_runtime::spec::{Spec, parse};
use knarr_runtime::sys::heap::Heap;

/// As in the program knarr.
#[global_allocator]
static HEAP: Heap = Heap::new();

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which config.json?")?;
    let text = std::fs::read(&path)?;
    let spec: Spec<'_> = parse::parse(&path, &text)?;
    let profile = spec
        .linux
        .as_ref()
        .and_then(|linux| linux.seccomp.as_ref())
        .ok_or("the configuration has no linux.seccomp")?;

    if let Some(file) = std::env::args().nth(2) {
        let bytes = |insn: &libc::sock_filter| {
            let [c, d] = insn.code.to_ne_bytes();
            let [w, x, y, z] = insn.k.to_ne_bytes();
            [c, d, insn.jt, insn.jf, w, x, y, z]
        };
        let filter: Vec<u8> = seccomp::compile(profile)?
            .filter
            .iter()
            .flat_map(bytes)
            .collect();
        return Ok(std::fs::write(file, filter)?);
    }

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
    rustix::thread::set_no_new_privs(true)?;
    let start = Instant::now();
    program.load()?;
    let load = start.elapsed();
    for (name, time) in [
        ("first-compile", first),
        ("compile", at(0)),
        ("median-compile", at(times.len() / 2)),
        ("load", load),
        ("first-compile-and-load", first + load),
    ] {
        println!("{name} {}", time.as_secs_f64() * 1e6);
    }
    Ok(())
}
