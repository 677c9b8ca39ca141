//! What this host supports and what is missing, told to people.
//!
//! Belongs here: one check for each thing that decides what containers can have on
//! this host, with what its absence means and what to do. Does not: decisions; the
//! modules that do the work find out for themselves.

mod cgroups;
mod kernel;
mod security;
mod users;

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Present,
    /// It is not there; containers run without what needs it.
    Absent,
    /// It is not there and nothing runs without it.
    Fatal,
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Present => "ok",
            State::Absent => "missing",
            State::Fatal => "fatal",
        }
    }

    fn present_if(present: bool) -> State {
        if present {
            State::Present
        } else {
            State::Absent
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Group of checks, such as `kernel`.
    pub area: &'static str,
    /// What was looked at.
    pub name: String,
    /// How it stands.
    pub state: State,
    /// What was found, where there is more to say than the state.
    pub found: String,
    /// What its absence means; empty where it is present.
    pub effect: &'static str,
    /// What to do; empty where it is present or nothing can be done.
    pub help: &'static str,
}

impl Check {
    /// A check that says `effect` and `help` only where the thing is missing.
    fn new(
        area: &'static str,
        name: impl Into<String>,
        state: State,
        found: impl Into<String>,
        effect: &'static str,
        help: &'static str,
    ) -> Check {
        let missing = state != State::Present;
        Check {
            area,
            name: name.into(),
            state,
            found: found.into(),
            effect: if missing { effect } else { "" },
            help: if missing { help } else { "" },
        }
    }
}

/// Looks at the host; changes nothing.
#[must_use]
pub fn examine() -> Vec<Check> {
    let host = crate::host::Host::new();
    let mut checks = kernel::checks(&host);
    checks.extend(cgroups::checks(&host));
    checks.extend(security::checks(&host));
    checks.extend(users::checks(&host));
    checks.push(criu());
    checks
}

fn criu() -> Check {
    let (state, found) = match crate::criu::probe() {
        Ok(()) => (State::Present, String::new()),
        Err(error) => (State::Absent, error.to_string()),
    };
    Check::new(
        "tools",
        "criu",
        state,
        found,
        "checkpoint and restore are refused",
        "install the package criu; where it is installed, `criu check` tells what the kernel lacks",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_what_that_means() {
        let checks = examine();
        assert!(checks.len() > 20);
        for check in checks {
            let missing = check.state != State::Present;
            assert_eq!(missing, !check.effect.is_empty(), "{check:?}");
            assert!(!check.name.is_empty());
        }
    }
}
