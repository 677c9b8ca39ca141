//! What is wrong with a configuration, found before anything is done.
//!
//! Belongs here: rules of the specification and of the kernel's interfaces
//! that a configuration breaks, one file an area. Does not: reading the text
//! ([`super::parse`]) or carrying it out.
//!
//! [`validate`] looks at the text alone, and at a few facts of the host when
//! [`Context::host`] is given; it is part of every create. [`check_bundle`]
//! also looks at the files that the configuration names.
//!
//! A rule that refuses has a clause that says so (MUST), or the kernel would
//! refuse later and less clearly. Unknown properties are never looked at:
//! config.md#extensibility.

mod bundle;
mod devices;
mod hooks;
mod host;
mod linux;
mod mounts;
mod namespaces;
mod network;
mod process;
mod resources;
mod seccomp;
mod sysctl;

use std::fmt;

use super::Spec;
use super::config::Process;
use super::path::{Key, Quoted};
use crate::error::{Error, Kind, Result};
use crate::host::Host;

pub use bundle::check_bundle;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The container can be created; what the configuration says is not quite what will be.
    Warning,
    /// The container cannot be created.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Something that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// JSON path of the value, such as `process.rlimits[1].type`; empty for the document.
    pub path: String,
    /// What is wrong, and why.
    pub message: String,
    /// File and section of the specification, such as `config-linux.md#namespaces`.
    pub clause: &'static str,
    /// What to do.
    pub help: String,
}

impl fmt::Display for Finding {
    /// One line: path, what and why, what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}

/// What the rules may know beside the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The host on which the container is to run; without it only the text is judged.
    pub host: Option<&'a Host>,
    /// Whether systemd manages the cgroups: `cgroupsPath` then has another form.
    pub systemd_cgroup: bool,
}

/// Findings, gathered. Nothing is formatted or allocated until something is found.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    #[cold]
    fn add(
        &mut self,
        severity: Severity,
        path: fmt::Arguments<'_>,
        message: fmt::Arguments<'_>,
        clause: &'static str,
        help: &str,
    ) {
        self.0.push(Finding {
            severity,
            path: path.to_string(),
            message: message.to_string(),
            clause,
            help: help.to_owned(),
        });
    }

    #[cold]
    fn error(
        &mut self,
        path: fmt::Arguments<'_>,
        message: fmt::Arguments<'_>,
        clause: &'static str,
        help: &str,
    ) {
        self.add(Severity::Error, path, message, clause, help);
    }

    #[cold]
    fn warn(
        &mut self,
        path: fmt::Arguments<'_>,
        message: fmt::Arguments<'_>,
        clause: &'static str,
        help: &str,
    ) {
        self.add(Severity::Warning, path, message, clause, help);
    }

    /// `text` goes to the kernel as a C string.
    fn no_nul(&mut self, path: fmt::Arguments<'_>, text: &str, clause: &'static str) {
        if text.as_bytes().contains(&0) {
            self.error(
                path,
                format_args!(
                    "{} contains a NUL character, which no system call can take",
                    Quoted(text)
                ),
                clause,
                "remove it",
            );
        }
    }

    /// `text` is an absolute path.
    fn absolute(&mut self, path: fmt::Arguments<'_>, text: &str, clause: &'static str) {
        if text.starts_with('/') {
            self.no_nul(path, text, clause);
            return;
        }
        let help = "write an absolute path";
        if text.is_empty() {
            self.error(path, format_args!("is missing or empty"), clause, help);
        } else {
            let message = format_args!("{} is not absolute", Quoted(text));
            self.error(path, message, clause, help);
        }
    }

    /// `text` is one of `known`; `what` names its kind in the message.
    fn one_of(
        &mut self,
        path: fmt::Arguments<'_>,
        text: &str,
        known: &[&str],
        what: &str,
        clause: &'static str,
    ) -> bool {
        let found = known.contains(&text);
        if !found {
            self.not_one_of(path, text, known, what, clause);
        }
        found
    }

    #[cold]
    fn not_one_of(
        &mut self,
        path: fmt::Arguments<'_>,
        text: &str,
        known: &[&str],
        what: &str,
        clause: &'static str,
    ) {
        let help = format!("use one of {}", known.join(", "));
        if text.is_empty() {
            let message = format_args!("is missing or empty: it names the {what}");
            self.error(path, message, clause, &help);
        } else {
            let message = format_args!("{} is no {what}", Quoted(text));
            self.error(path, message, clause, &help);
        }
    }
}

/// Judges a whole configuration: errors and warnings in the order of its sections.
/// `process` may be absent, start needs it.
#[must_use]
pub fn validate(spec: &Spec<'_>, context: &Context<'_>) -> Vec<Finding> {
    let mut report = Report::default();
    version(&spec.oci_version, &mut report);
    if let Some(process) = &spec.process {
        process::check(process, &mut report);
    }
    mounts::check(spec, &mut report);
    namespaces::check(spec, &mut report);
    hooks::check(spec, &mut report);
    for key in spec.annotations.keys() {
        if key.is_empty() {
            report.error(
                format_args!("annotations[\"\"]"),
                format_args!("the key is empty"),
                "config.md#annotations",
                "name the key, in reverse domain notation",
            );
        }
    }
    if let Some(linux) = &spec.linux {
        linux::check(spec, linux, context, &mut report);
    }
    if let Some(host) = context.host {
        host::check(spec, host, &mut report);
    }
    report.0
}

/// Judges the process of an exec, whose container exists; paths begin with `process`.
#[must_use]
pub fn validate_process(process: &Process<'_>, context: &Context<'_>) -> Vec<Finding> {
    let mut report = Report::default();
    process::check(process, &mut report);
    if let Some(host) = context.host {
        host::check_process(process, host, &mut report);
    }
    report.0
}

/// The warnings, if there is no error.
///
/// # Errors
/// `InvalidConfig` with the first error, and the number of the others.
pub fn refuse_errors(findings: Vec<Finding>) -> Result<Vec<Finding>> {
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    let first = findings
        .iter()
        .find(|finding| finding.severity == Severity::Error);
    match first {
        None => Ok(findings),
        Some(first) if errors == 1 => Err(Error::new(
            Kind::InvalidConfig,
            format!("config.json: {first} ({})", first.clause),
        )),
        Some(first) => Err(Error::new(
            Kind::InvalidConfig,
            format!(
                "config.json: {first} ({}); and {} more, see knarr validate",
                first.clause,
                errors - 1
            ),
        )),
    }
}

/// `ociVersion`: SemVer 2.0.0 of major version 1, because all of 1.x is compatible.
fn version(text: &str, report: &mut Report) {
    const CLAUSE: &str = "config.md#specification-version";
    match semver_major(text) {
        Some("1") => {}
        Some(_) => report.error(
            format_args!("ociVersion"),
            format_args!(
                "{} is not compatible: the runtime supports version 1 of the specification",
                Quoted(text)
            ),
            CLAUSE,
            "write the configuration for a version 1.x.y",
        ),
        None => report.error(
            format_args!("ociVersion"),
            format_args!("{} is no semantic version of three numbers", Quoted(text)),
            CLAUSE,
            "write the version of the specification, such as 1.3.0",
        ),
    }
}

/// The major number of a version in the form of SemVer 2.0.0.
fn semver_major(text: &str) -> Option<&str> {
    let numeric = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    let identifiers = |list: &str| {
        list.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    };
    let (rest, build) = match text.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (text, None),
    };
    let (core, prerelease) = match rest.split_once('-') {
        Some((core, prerelease)) => (core, Some(prerelease)),
        None => (rest, None),
    };
    let mut numbers = core.split('.');
    let major = numbers.next()?;
    let valid = numeric(major)
        && numbers.next().is_some_and(numeric)
        && numbers.next().is_some_and(numeric)
        && numbers.next().is_none()
        && build.is_none_or(identifiers)
        && prerelease.is_none_or(identifiers);
    valid.then_some(major)
}

#[cfg(test)]
mod tests;
