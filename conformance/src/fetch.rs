//! Gets the validation suite: the Go module through the module proxy, built
//! once into the cache directory. Nothing here knows how a test is run.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Go module of the suite.
pub const MODULE: &str = "github.com/opencontainers/runtime-tools";
/// The version that follows runtime-spec 1.3.0.
pub const VERSION: &str = "v0.9.1-0.20251114084447-edf4cb3d2116";
/// The ociVersion that the suite writes into its configurations.
pub const OCI_VERSION: &str = "1.3.0";

/// Checksums are pinned: what is built is what this program was tested with.
const GO_MOD: &str = include_str!("../suite/go.mod");
const GO_SUM: &str = include_str!("../suite/go.sum");

/// A built suite.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Directory with `runtimetest`, the root file system and `tests/`.
    pub dir: PathBuf,
    /// Names of the test programs, sorted.
    pub tests: Vec<String>,
}

/// The directory where the suite is kept: `$XDG_CACHE_HOME/oci-conformance`.
pub fn cache_dir() -> Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let base = match absolute("XDG_CACHE_HOME") {
        Some(dir) => dir,
        None => absolute("HOME")
            .context("neither XDG_CACHE_HOME nor HOME is set: give --cache DIR")?
            .join(".cache"),
    };
    Ok(base.join("oci-conformance"))
}

/// Makes sure that the suite is built below `cache` and lists its tests.
///
/// The finished directory appears by one rename, so that a run that was
/// interrupted leaves nothing that looks complete.
pub fn suite(cache: &Path, progress: &dyn Fn(&str)) -> Result<Suite> {
    let dir = cache.join(format!("suite-{VERSION}"));
    if !dir.join("runtimetest").exists() {
        build(cache, &dir, progress)?;
    }
    let tests_dir = dir.join("tests");
    let mut tests = Vec::new();
    for entry in
        fs::read_dir(&tests_dir).with_context(|| format!("read {}", tests_dir.display()))?
    {
        tests.push(entry?.file_name().to_string_lossy().into_owned());
    }
    tests.sort();
    if tests.is_empty() {
        bail!(
            "{} has no tests: remove {} and run again",
            tests_dir.display(),
            dir.display()
        );
    }
    Ok(Suite { dir, tests })
}

fn build(cache: &Path, dir: &Path, progress: &dyn Fn(&str)) -> Result<()> {
    let work = cache.join(format!("build-{}", std::process::id()));
    let module = work.join("module");
    let out = work.join("suite");
    fs::create_dir_all(&module)
        .with_context(|| format!("make the cache directory {}", module.display()))?;
    fs::create_dir_all(out.join("tests"))?;
    let result = build_in(&module, &out, progress).and_then(|()| {
        // Lost the race against another run: its result is as good.
        match fs::rename(&out, dir) {
            Err(e) if !dir.join("runtimetest").exists() => {
                Err(e).with_context(|| format!("move the built suite to {}", dir.display()))
            }
            _ => Ok(()),
        }
    });
    let cleaned = fs::remove_dir_all(&work);
    result?;
    cleaned.with_context(|| format!("remove {}", work.display()))
}

fn build_in(module: &Path, out: &Path, progress: &dyn Fn(&str)) -> Result<()> {
    fs::write(module.join("go.mod"), GO_MOD)?;
    fs::write(module.join("go.sum"), GO_SUM)?;
    progress(&format!("fetching {MODULE} {VERSION}"));
    go(module, &["mod", "download"])?;
    let source = PathBuf::from(go(module, &["list", "-m", "-f", "{{.Dir}}", MODULE])?.trim());
    progress("building the suite (about a minute)");
    let tests = format!("{}/", out.join("tests").display());
    go(
        module,
        &[
            "build",
            "-trimpath",
            "-o",
            &tests,
            &format!("{MODULE}/validation/..."),
        ],
    )?;
    let rootfs = format!("rootfs-{}.tar.gz", go(module, &["env", "GOARCH"])?.trim());
    fs::copy(source.join(&rootfs), out.join(&rootfs))
        .with_context(|| format!("the suite has no {rootfs}: it supports amd64 and 386"))?;
    let runtimetest = out.join("runtimetest");
    go(
        module,
        &[
            "build",
            "-trimpath",
            "-o",
            &runtimetest.to_string_lossy(),
            &format!("{MODULE}/cmd/runtimetest"),
        ],
    )?;
    Ok(())
}

fn go(dir: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new("go")
        .args(args)
        .current_dir(dir)
        // runtimetest runs in the suite's own root file system: static.
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOWORK", "off")
        .output()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!(
                "the program `go` is not on PATH: the validation suite is written in Go and is built \
                 on first use; install Go 1.24 or newer (https://go.dev/dl/), or give --only own"
            ),
            _ => e.into(),
        })?;
    if !output.status.success() {
        bail!(
            "`go {}` in {}: {}\n{}",
            args.join(" "),
            dir.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
