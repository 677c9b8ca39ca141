//! Tests of this program's own, one clause of the specification each. A test
//! runs inside the sandbox as a process of its own and prints TAP, so that it
//! comes into the report the way the suite's tests do.
//!
//! Belongs here: the table of cases and what they share. One file an area.

mod bundle;
mod cgroups;
mod contra;
mod ctx;
mod devices_net;
mod fdpass;
mod features;
mod hooks;
mod lifecycle;
mod mounts;
mod namespaces;
mod options;
mod process;
mod rdt;
mod resources_v1;
mod resources_v2;
mod rootfs;
mod seccomp;

pub use bundle::Bundle;
pub use ctx::{Ctx, Ended};

use anyhow::Result;
use std::fmt;

/// The specification that clauses are linked to.
pub const SPEC: &str = "https://github.com/opencontainers/runtime-spec/blob/v1.3.0";
/// The case that only asks whether a plain bundle can be created.
pub const PREFLIGHT: &str = "preflight";

/// How binding the words of the specification are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// MUST, REQUIRED, SHALL.
    Must,
    /// SHOULD, RECOMMENDED.
    Should,
    /// Not in the specification, but every caller relies on it.
    Practice,
}

impl Level {
    /// As printed.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Practice => "practice",
        }
    }
}

/// The body of a case; the string is the case's parameter.
pub type Body = fn(&Ctx, &str) -> Result<()>;

/// One test.
#[derive(Clone)]
pub struct Case {
    /// `AREA.NAME`.
    pub id: String,
    /// File and heading of the specification.
    pub clause: &'static str,
    /// How binding it is.
    pub level: Level,
    /// What must hold, in one sentence.
    pub text: String,
    /// Distinguishes cases with one body.
    pub param: String,
    /// Needs the host's realtime budget.
    pub realtime: bool,
    /// The test.
    pub run: Body,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("id", &self.id)
            .field("clause", &self.clause)
            .finish_non_exhaustive()
    }
}

/// A row of an area's table: id, clause, level, text, body.
pub type Row = (&'static str, &'static str, Level, &'static str, Body);

/// Makes cases of an area's table.
pub fn rows(table: &[Row]) -> Vec<Case> {
    table
        .iter()
        .map(|(id, clause, level, text, run)| Case {
            id: (*id).to_owned(),
            clause,
            level: *level,
            text: (*text).to_owned(),
            param: String::new(),
            realtime: false,
            run: *run,
        })
        .collect()
}

/// Raised by a test that cannot be tried here.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends a test as skipped.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

/// All cases, in the order of the specification's files.
pub fn cases() -> Vec<Case> {
    let areas = [
        lifecycle::cases,
        hooks::cases,
        process::cases,
        namespaces::cases,
        mounts::cases,
        options::cases,
        rootfs::cases,
        resources_v1::cases,
        resources_v2::cases,
        seccomp::cases,
        devices_net::cases,
        rdt::cases,
        features::cases,
        contra::cases,
    ];
    let mut all: Vec<Case> = areas.iter().flat_map(|area| area()).collect();
    all.sort_by(|a: &Case, b: &Case| a.id.cmp(&b.id));
    all
}

fn preflight(ctx: &Ctx, _: &str) -> Result<()> {
    let bundle = ctx.bundle()?;
    let created = ctx.create(&bundle, "preflight");
    let error = created
        .as_ref()
        .err()
        .map_or(String::new(), ToString::to_string);
    ctx.note(
        "a plain bundle is created",
        created.is_ok(),
        &[("error", &error)],
    );
    Ok(())
}

/// Entry of the hidden `own` command: runs one case and prints its TAP.
pub fn main(id: &str) -> Result<i32> {
    let case = if id == PREFLIGHT {
        Case {
            id: PREFLIGHT.to_owned(),
            clause: "runtime.md#create",
            level: Level::Must,
            text: String::new(),
            param: String::new(),
            realtime: false,
            run: preflight,
        }
    } else {
        match cases().into_iter().find(|c| c.id == id) {
            Some(case) => case,
            None => anyhow::bail!("no test {id}: see `oci-conformance list`"),
        }
    };
    println!("TAP version 13");
    let ctx = Ctx::new(&case)?;
    match (case.run)(&ctx, &case.param) {
        Ok(()) => {}
        Err(e) => match e.downcast_ref::<Skip>() {
            Some(Skip(reason)) => ctx.skipped(&case.text, reason),
            None => ctx.note(&case.text, false, &[("error", &format!("{e:#}"))]),
        },
    }
    println!("1..{}", ctx.count());
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_clauses_are_links() {
        let cases = cases();
        let mut ids: Vec<&str> = cases.iter().map(|c| c.id.as_str()).collect();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all);
        for case in &cases {
            assert!(
                case.clause.contains(".md#") && case.id.contains('.'),
                "{case:?}"
            );
            assert!(!case.text.is_empty());
        }
    }
}
