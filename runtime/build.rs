//! Linker flags of the program knarr where it is built to be installed, and what goes with them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=knarr.ld");
    println!("cargo::rustc-check-cfg=cfg(no_backtraces, early_entry)");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is == value);
    // Only the profile `runtime` is built for size. It aborts and so never unwinds; other
    // builds keep their backtraces.
    if is("OPT_LEVEL", "z") && is("CARGO_CFG_TARGET_ENV", "musl") {
        println!("cargo::rustc-cfg=no_backtraces");
        let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for flag in [
            &format!("-T,{directory}/knarr.ld"),
            "--no-eh-frame-hdr",
            // Relative relocations as a bitmap: musl applies them since 1.2.4.
            "-z,pack-relative-relocs",
        ] {
            println!("cargo::rustc-link-arg-bin=knarr=-Wl,{flag}");
        }
        if ["x86_64", "aarch64", "riscv64"]
            .iter()
            .any(|arch| is("CARGO_CFG_TARGET_ARCH", arch))
        {
            println!("cargo::rustc-cfg=early_entry");
            println!("cargo::rustc-link-arg-bin=knarr=-Wl,--entry=knarr_entry");
        }
    }
}
