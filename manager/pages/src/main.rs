//! knarr-pages: writes the man pages or shell completions of knarrd and knarrctl into a directory, from
//! the definitions that the programs themselves read their command lines by.
//!
//! A package of its own, so that making them does not take building the manager.

#[path = "../../src/args.rs"]
mod knarrd;

#[path = "../../ctl/src/args.rs"]
mod knarrctl;

use std::io::{Error, Result};
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let programs = [
        (knarrd::Arguments::command(), "8"),
        (knarrctl::Arguments::command(), "1"),
    ];
    for (program, section) in programs {
        match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["man", directory] => man(program, section, Path::new(directory))?,
            ["completions", directory] => completions(program, Path::new(directory))?,
            _ => {
                return Err(Error::other("usage: knarr-pages man|completions DIRECTORY"));
            }
        }
    }
    Ok(())
}

/// One page for the program and one for each command, `PROGRAM-COMMAND.SECTION`.
fn man(program: clap::Command, section: &str, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let name = program.get_name().to_owned();
    let mut commands = vec![(name.clone(), program.clone())];
    for command in program.get_subcommands() {
        let whole = format!("{name}-{}", command.get_name());
        commands.push((whole.clone(), command.clone().display_name(whole)));
    }
    for (name, command) in commands {
        let mut text = Vec::new();
        clap_mangen::Man::new(command)
            .title(&name)
            .section(section)
            .source(concat!("knarr ", env!("CARGO_PKG_VERSION")))
            .manual("System administration")
            .render(&mut text)?;
        std::fs::write(directory.join(format!("{name}.{section}")), text)?;
    }
    Ok(())
}

/// One file a shell.
fn completions(mut program: clap::Command, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let name = program.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut program, &name, directory)?;
    }
    Ok(())
}
