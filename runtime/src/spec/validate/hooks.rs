//! `hooks`.

use super::Report;
use crate::spec::Spec;
use crate::spec::config::{Hook, Hooks};

const HOOKS: &str = "config.md#posix-platform-hooks";

/// Name and hooks of each list, in the order in which the lists run.
pub(super) fn lists<'a, 'b>(hooks: &'b Hooks<'a>) -> [(&'static str, &'b [Hook<'a>]); 6] {
    [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ]
}

pub(super) fn check(spec: &Spec<'_>, report: &mut Report) {
    let Some(hooks) = &spec.hooks else { return };
    for (name, list) in lists(hooks) {
        for (at, hook) in list.iter().enumerate() {
            report.absolute(format_args!("hooks.{name}[{at}].path"), &hook.path, HOOKS);
            for (number, arg) in hook.args.iter().enumerate() {
                report.no_nul(
                    format_args!("hooks.{name}[{at}].args[{number}]"),
                    arg,
                    HOOKS,
                );
            }
            for (number, variable) in hook.env.iter().enumerate() {
                report.no_nul(
                    format_args!("hooks.{name}[{at}].env[{number}]"),
                    variable,
                    HOOKS,
                );
            }
            if let Some(timeout) = hook.timeout
                && timeout <= 0
            {
                report.error(
                    format_args!("hooks.{name}[{at}].timeout"),
                    format_args!("{timeout} seconds: a timeout is greater than 0"),
                    HOOKS,
                    "write a positive number, or remove it to wait for ever",
                );
            }
        }
    }
}
