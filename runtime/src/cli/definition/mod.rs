//! The command line as data: every command, flag and help text, once.
//!
//! Belongs here: what exists and how it is described. The parser, the help
//! texts, the man pages and the completions all read these tables. Does not:
//! what a command does (one file per command beside this directory).

pub mod commands;
pub mod flags;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// Text; the last one counts.
    Text,
    /// A path, of any bytes; the last one counts.
    Path,
    /// Text; each one counts.
    List,
    /// A number in Go's notation.
    Number,
    /// A number in Go's notation; each one counts.
    Numbers,
    /// A duration in Go's notation, such as `1m30s`.
    Duration,
}

/// A flag. Two flags are the same when they are the same static.
#[derive(Debug)]
pub struct Flag {
    /// Name after one or two dashes.
    pub long: &'static str,
    /// Name of one letter.
    pub short: Option<char>,
    /// What it takes.
    pub kind: Kind,
    /// Name of the value in help texts.
    pub value: &'static str,
    /// One line for help texts.
    pub help: &'static str,
    /// Accepted for other callers' sake, but not shown.
    pub hidden: bool,
}

impl Flag {
    /// A flag without a value.
    #[must_use]
    pub const fn switch(long: &'static str, help: &'static str) -> Flag {
        Flag::valued(long, Kind::Switch, "", help)
    }

    /// A flag with a value.
    #[must_use]
    pub const fn valued(
        long: &'static str,
        kind: Kind,
        value: &'static str,
        help: &'static str,
    ) -> Flag {
        Flag {
            long,
            short: None,
            kind,
            value,
            help,
            hidden: false,
        }
    }

    /// The same flag with a name of one letter.
    #[must_use]
    pub const fn short(self, short: char) -> Flag {
        Flag {
            short: Some(short),
            ..self
        }
    }

    /// The same flag, not shown.
    #[must_use]
    pub const fn hidden(self) -> Flag {
        Flag {
            hidden: true,
            ..self
        }
    }
}

/// A positional argument as help texts show it.
#[derive(Debug)]
pub struct Positional {
    /// Its name.
    pub name: &'static str,
    /// One line for help texts.
    pub help: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// Whether everything from here on belongs to it, flags too.
    pub rest: bool,
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// The word.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Further paragraphs.
    pub details: &'static str,
    /// Its flags, in the order of the help text.
    pub flags: &'static [&'static Flag],
    /// Its positional arguments, in order.
    pub positionals: &'static [Positional],
}
