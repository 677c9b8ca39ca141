//! knarrctl: images and containers of knarrd, for people.
//!
//! Belongs here: which command does what. `args` is the command line, `daemon` is the connection, `transfer` moves images, `image` reads
//! them, `spec` makes a container's configuration of one, `run` runs it.

mod args;
mod daemon;
mod image;
mod run;
mod spec;
mod transfer;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use args::{Arguments, Command};
use daemon::Daemon;

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
