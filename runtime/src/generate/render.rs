//! The tables as clap's commands, from which man pages and completions come.

use clap::{Arg, ArgAction};

use crate::definition::commands::{ABOUT, ALL, DETAILS};
use crate::definition::{Command, Flag, Kind, flags};

/// The whole program.
#[must_use]
pub fn program(name: &'static str) -> clap::Command {
    let mut program = clap::Command::new(name)
        .about(ABOUT)
        .after_help(DETAILS)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .override_usage(format!("{name} [OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]"))
        .args(arguments(&flags::GLOBALS));
    for definition in ALL {
        program = program.subcommand(command(definition, None));
    }
    program
}

/// One command; `program` is the name in its usage line.
#[must_use]
pub fn command(definition: &'static Command, program: Option<&str>) -> clap::Command {
    let mut command = clap::Command::new(definition.name)
        .about(definition.about)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(arguments(definition.flags))
        .arg(argument(&flags::HELP));
    if let Some(program) = program {
        command = command.bin_name(format!("{program} {}", definition.name));
    }
    if !definition.details.is_empty() {
        command = command.after_help(definition.details);
    }
    for positional in definition.positionals {
        let mut arg = Arg::new(positional.name)
            .value_name(positional.name)
            .help(positional.help)
            .required(positional.required);
        if positional.rest {
            arg = arg
                .action(ArgAction::Append)
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true);
        }
        command = command.arg(arg);
    }
    command
}

fn arguments(flags: &'static [&'static Flag]) -> impl Iterator<Item = Arg> {
    flags
        .iter()
        .filter(|flag| !flag.hidden)
        .map(|flag| argument(flag))
}

fn argument(flag: &'static Flag) -> Arg {
    let mut arg = Arg::new(flag.long).long(flag.long).help(flag.help);
    if let Some(short) = flag.short {
        arg = arg.short(short);
    }
    if flag.kind == Kind::Switch {
        return arg.action(ArgAction::SetTrue);
    }
    if matches!(flag.kind, Kind::Path) {
        arg = arg.value_hint(clap::ValueHint::AnyPath);
    }
    arg.value_name(flag.value)
        .action(if matches!(flag.kind, Kind::List | Kind::Numbers) {
            ArgAction::Append
        } else {
            ArgAction::Set
        })
}
