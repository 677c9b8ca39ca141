//! The command line: one definition for parsing, help, man page and completions.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Runs the OCI runtime validation suite, and tests of its own, against any runtime.
///
/// The suite (opencontainers/runtime-tools) is fetched as a Go module and built on first use. Every
/// test runs in namespaces and cgroups of its own, bounded in time, and is cleaned up after.
#[derive(Debug, Parser)]
#[command(name = "oci-conformance", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Test one runtime; exits with 1 on an unexpected result.
    Run(RunArgs),
    /// Test several runtimes and print the matrix.
    Compare(CompareArgs),
    /// List the tests and the clauses they are about.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the list of the suite's faults; with --runtime, run the checks that prove them.
    Faults {
        /// Runtime to run the checks with.
        #[arg(long, value_name = "PATH")]
        runtime: Option<String>,
    },
    /// Write documents made from the same definitions.
    Generate {
        /// Which.
        what: Generated,
        /// Directory to write to.
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Processes of the sandbox.
    #[command(hide = true)]
    Sandbox {
        /// `enter` or `init`.
        stage: String,
        /// JSON.
        plan: String,
    },
    /// One own test, inside the sandbox.
    #[command(hide = true)]
    Own {
        /// Test id without `own/`.
        id: String,
    },
    /// Operations inside a container.
    #[command(hide = true)]
    Probe {
        /// In order.
        operations: Vec<String>,
    },
    /// A hook that logs what it sees.
    #[command(hide = true)]
    Hook {
        /// LOG NAME [OPERATION...]
        arguments: Vec<String>,
    },
}

/// What `generate` writes.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Generated {
    /// man1/*.1
    Man,
    /// Completions for bash, zsh and fish.
    Completions,
    /// conformance.md: clauses of the specification and their tests.
    Docs,
}

/// Which tests, and how.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Only tests whose id contains one of these.
    #[arg(value_name = "TEST")]
    pub tests: Vec<String>,
    /// Leave out tests whose id contains this (repeatable).
    #[arg(long, value_name = "TEST")]
    pub skip: Vec<String>,
    /// Only the suite's tests, or only our own (which need no Go).
    #[arg(long, value_enum)]
    pub only: Option<Which>,
    /// Tests at once [default: processors + 2, the suite mostly waits].
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Time bound of one test, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub timeout: u64,
    /// ociVersion to hand to the runtime instead of the suite's; `auto` lowers it only for a runtime
    /// that refuses it.
    #[arg(long, value_name = "VERSION")]
    pub oci_version: Option<String>,
    /// Directory for the built suite [default: $XDG_CACHE_HOME/oci-conformance].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// No progress on standard error.
    #[arg(long, short)]
    pub quiet: bool,
}

/// An origin of tests.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Which {
    /// opencontainers/runtime-tools.
    Suite,
    /// This program's.
    Own,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The runtime: a path, or a name on PATH.
    #[arg(long, value_name = "PATH")]
    pub runtime: String,
    #[command(flatten)]
    /// Which tests.
    pub selection: Selection,
    /// What to print on standard output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Show every assertion in the table.
    #[arg(long, short)]
    pub verbose: bool,
    /// Write an HTML page.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write TAP.
    #[arg(long, value_name = "FILE")]
    pub tap: Option<PathBuf>,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// A runtime (repeatable); one that is not installed is named and left out.
    #[arg(long, value_name = "PATH", required_unless_present = "from")]
    pub runtime: Vec<String>,
    /// Take results from a JSON report instead of a run (repeatable).
    #[arg(long, value_name = "FILE")]
    pub from: Vec<PathBuf>,
    #[command(flatten)]
    /// Which tests.
    pub selection: Selection,
    /// Only tests on which the runtimes differ.
    #[arg(long)]
    pub differences: bool,
    /// Write the reports, one JSON file each, into this directory.
    #[arg(long, value_name = "DIR")]
    pub reports: Option<PathBuf>,
}

/// Formats of a report.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One page.
    Html,
    /// For CI systems.
    Junit,
    /// Everything.
    Json,
    /// Test Anything Protocol 13.
    Tap,
}
