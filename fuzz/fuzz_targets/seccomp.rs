//! Any profile: an error, or a filter that the kernel would load and that decides every call.
#![no_main]

use knarr_runtime::seccomp::compile;
use knarr_runtime::seccomp::interpret::{Call, run};
use knarr_runtime::spec::parse::parse;
use knarr_runtime::spec::seccomp::Seccomp;
use libfuzzer_sys::fuzz_target;

/// `AUDIT_ARCH_*`: x86_64, i386, aarch64, and one that no profile names.
const ARCHES: [u32; 4] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x1234_5678];

fuzz_target!(|data: &[u8]| {
    let Ok(profile) = parse::<Seccomp<'_>>("seccomp", data) else {
        return;
    };
    let Ok(program) = compile(&profile) else {
        return;
    };
    if program.filter.is_empty() {
        return;
    }
    for arch in ARCHES {
        for number in (0..500).chain([0x4000_0001, u32::MAX]) {
            for value in [0, 1, u64::from(u32::MAX) + 1, u64::MAX] {
                let call = Call {
                    number,
                    arch,
                    args: [value; 6],
                };
                assert!(
                    run(&program.filter, &call).is_some(),
                    "{call:?} is not decided"
                );
            }
        }
    }
});
