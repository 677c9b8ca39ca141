//! knarr-generate: writes the man pages or shell completions of knarr into a
//! directory, from the tables the command line itself is made of.
//!
//! A program of its own, so that the runtime's binary does not carry the generators.

#[path = "../cli/definition/mod.rs"]
mod definition;
mod render;

use std::io::{Error, Result};
use std::path::Path;

use clap::builder::Resettable;
use clap_complete::{Shell, generate_to};

/// The program that is described.
const PROGRAM: &str = "knarr";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["man", directory] => man(Path::new(directory)),
        ["completions", directory] => completions(Path::new(directory)),
        _ => Err(Error::other(
            "usage: knarr-generate man|completions DIRECTORY",
        )),
    }
}

/// One page for the program and one for each command, `knarr-COMMAND.8`.
fn man(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    page(
        render::program(PROGRAM),
        PROGRAM,
        definition::commands::ABOUT,
        definition::commands::DETAILS,
        directory,
    )?;
    for definition in definition::commands::ALL {
        let name = format!("{PROGRAM}-{}", definition.name);
        page(
            render::command(definition, Some(PROGRAM)).display_name(&name),
            &name,
            definition.about,
            definition.details,
            directory,
        )?;
    }
    Ok(())
}

fn page(
    command: clap::Command,
    name: &str,
    about: &str,
    details: &str,
    directory: &Path,
) -> Result<()> {
    // A page has a section for the details; a help text has them at its end.
    let command = command
        .long_about(format!("{about}.\n\n{details}").trim_end().to_owned())
        .after_help(Resettable::Reset);
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .title(name)
        .section("8")
        .source(concat!("knarr ", env!("CARGO_PKG_VERSION")))
        .manual("System administration")
        .render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.8")), text)
}

/// One file a shell.
fn completions(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut program = render::program(PROGRAM);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut program, PROGRAM, directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn clap_accepts_the_tables() {
        super::render::program(super::PROGRAM).debug_assert();
    }
}
