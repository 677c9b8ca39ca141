//! knarrctl: images and containers of knarrd, for people.
//!
//! Belongs here: the command line. `daemon` is the connection, `transfer` moves images, `image` reads
//! them, `spec` makes a container's configuration of one, `run` runs it.

mod daemon;
mod image;
mod run;
mod spec;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use daemon::Daemon;

/// Images and containers of knarrd.
#[derive(Debug, Parser)]
#[command(name = "knarrctl", version)]
struct Arguments {
    /// Socket of the daemon.
    #[arg(
        long,
        short,
        env = "KNARRD_ADDRESS",
        value_name = "SOCKET",
        default_value = "/run/knarrd/knarrd.sock"
    )]
    address: PathBuf,
    /// Namespace of images and containers.
    #[arg(
        long,
        short,
        env = "CONTAINERD_NAMESPACE",
        value_name = "NAME",
        default_value = "default"
    )]
    namespace: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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
    Run(run::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("knarrctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        let daemon = Daemon::connect(&arguments.address, &arguments.namespace).await?;
        match &arguments.command {
            Command::Pull { image, plain_http } => {
                transfer::pull(&daemon, image, *plain_http).await?;
            }
            Command::Import { file } => transfer::import(&daemon, file).await?,
            Command::Images => image::list(&daemon).await?,
            Command::Run(options) => return run::run(&daemon, options).await,
        }
        Ok(0)
    });
    // A thread may wait for input that does not come.
    runtime.shutdown_background();
    code
}
