//! The command line of knarrd, as data: man page and completions are made of it, too. Nothing but clap
//! belongs here, since what makes those knows nothing else.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Container manager that speaks the containerd API.
#[derive(Debug, Parser)]
#[command(name = "knarrd", version, args_conflicts_with_subcommands = false)]
pub struct Arguments {
    /// Configuration file [default: /etc/knarrd/config.toml, if it is there].
    #[arg(long, short, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Directory for images, snapshots and records [default: /var/lib/knarrd].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Directory for what need not survive a restart of the machine [default: /run/knarrd].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Socket that clients connect to [default: /run/knarrd/knarrd.sock].
    #[arg(long, short, value_name = "SOCKET")]
    pub address: Option<PathBuf>,
    /// What to do; without it, knarrd is the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What knarrd does besides being the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show configurations.
    #[command(subcommand)]
    Config(Show),
    /// Tell the daemon of an event, which comes as a protobuf Any on standard input. Shims do.
    Publish {
        /// Topic of the event, such as /tasks/exit.
        #[arg(long)]
        topic: String,
        /// Namespace of the event.
        #[arg(long)]
        namespace: String,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Show {
    /// Print what holds where nothing is configured.
    Default,
    /// Print what holds with the file and the command line as they are.
    Dump,
}
