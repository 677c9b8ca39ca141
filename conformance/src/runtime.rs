//! The runtime under test from outside: where it is, what it calls itself, and
//! which ociVersion it takes.

use crate::model::RuntimeInfo;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Finds a runtime by path or on PATH.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = if name.contains('/') {
        PathBuf::from(name)
    } else {
        std::env::var_os("PATH")
            .iter()
            .flat_map(std::env::split_paths)
            .map(|dir| dir.join(name))
            .find(|p| p.is_file())
            .with_context(|| format!("the runtime {name} is not on PATH"))?
    };
    let path = path
        .canonicalize()
        .with_context(|| format!("the runtime {}", path.display()))?;
    if !path.is_file() {
        bail!("the runtime {} is not a file", path.display());
    }
    if path.starts_with("/run") {
        bail!(
            "{} is below /run, which every test gets empty: put the runtime elsewhere",
            path.display()
        );
    }
    Ok(path)
}

/// What is known of the runtime before the first test.
pub fn info(path: &Path) -> RuntimeInfo {
    let output = Command::new(path).arg("--version").output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    RuntimeInfo {
        name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        path: path.display().to_string(),
        version: text
            .lines()
            .next()
            .unwrap_or("version unknown")
            .trim()
            .to_owned(),
        notes: Vec::new(),
        lowered: None,
    }
}
