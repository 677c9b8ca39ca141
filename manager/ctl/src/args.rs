//! The command line of knarrctl, as data: man pages and completions are made of it, too. Nothing but
//! clap belongs here, since what makes those knows nothing else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Images and containers of knarrd.
#[derive(Debug, Parser)]
#[command(name = "knarrctl", version)]
pub struct Arguments {
    /// Socket of the daemon.
    #[arg(
        long,
        short,
        env = "KNARRD_ADDRESS",
        value_name = "SOCKET",
        default_value = "/run/knarrd/knarrd.sock"
    )]
    pub address: PathBuf,
    /// Namespace of images and containers.
    #[arg(
        long,
        short,
        env = "CONTAINERD_NAMESPACE",
        value_name = "NAME",
        default_value = "default"
    )]
    pub namespace: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What knarrctl does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch an image from a registry and unpack it.
    Pull {
        /// The image, such as docker.io/library/alpine; without a registry it is Docker's.
        image: String,
        /// Ask the registry without TLS.
        #[arg(long)]
        plain_http: bool,
    },
    /// Take the images of an archive in (OCI layout, or docker save) and unpack them.
    Import {
        /// The archive; `-` is standard input.
        file: PathBuf,
    },
    /// List images.
    Images,
    /// Run a command in a new container of an image, and remove the container when it has ended.
    ///
    /// The exit code is the command's.
    Run(Options),
}

/// What `run` can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// Name of the container; made up where it is not given.
    #[arg(long)]
    pub name: Option<String>,
    /// Variable for the command, NAME=VALUE; may be repeated.
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Pass standard input on.
    #[arg(long, short)]
    pub interactive: bool,
    /// Use the host's network; otherwise there is none but the loopback device.
    #[arg(long)]
    pub net_host: bool,
    /// Runtime, as containerd names them.
    #[arg(long, default_value = "io.containerd.knarr.v2")]
    pub runtime: String,
    /// The image.
    pub image: String,
    /// Command and arguments in the place of the image's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
