//! What a profile says about each system call name, whatever the ABI.
//!
//! Belongs here: reading actions, operators, flags, architectures and rules,
//! and which rule wins. Does not: numbers and instructions.

use crate::error::{Error, Result};
use crate::spec::seccomp::{Seccomp, SyscallArg, SyscallRule};

use super::table::Family;

/// `SECCOMP_RET_*` of linux/seccomp.h; the low 16 bits are data.
pub(super) const RET_KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const RET_KILL_THREAD: u32 = 0;
pub(super) const RET_TRAP: u32 = 0x0003_0000;
pub(super) const RET_ERRNO: u32 = 0x0005_0000;
pub(super) const RET_USER_NOTIF: u32 = 0x7fc0_0000;
pub(super) const RET_TRACE: u32 = 0x7ff0_0000;
pub(super) const RET_LOG: u32 = 0x7ffc_0000;
pub(super) const RET_ALLOW: u32 = 0x7fff_0000;

/// The largest errno that the kernel returns: `MAX_ERRNO` of linux/err.h.
const MAX_ERRNO: u32 = 4095;
/// The largest value that fits beside an action: `SECCOMP_RET_DATA`.
const MAX_DATA: u32 = 0xffff;

/// A comparison; numbers are unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument, 0 to 5.
    pub index: u32,
    pub op: Op,
    /// What the argument is compared with.
    pub value: u64,
    /// Applied to the argument first; all ones unless `op` is `MaskedEq`.
    pub mask: u64,
}

/// A rule with at least one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conditional {
    pub action: u32,
    /// All of them must hold; each is on another argument.
    pub conditions: Vec<Condition>,
}

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The profile has no rule for it.
    Default,
    /// This, whatever the arguments.
    Action(u32),
    /// An element of [`Rules::chains`].
    Chain(usize),
}

/// A profile, read and checked.
#[derive(Debug)]
pub(super) struct Rules {
    pub default_action: u32,
    /// One element for each row of the table.
    pub verdicts: Vec<Verdict>,
    /// Which rows the profile names at all, even if to no effect.
    pub mentioned: Vec<bool>,
    /// Indices into `conditionals`, in the order of the profile; the first that matches decides.
    pub chains: Vec<Vec<usize>>,
    pub conditionals: Vec<Conditional>,
    /// Whether some rule has the action `SCMP_ACT_NOTIFY`.
    pub notify: bool,
}

/// Reads the rules of `profile`.
///
/// Rules with the default action have no effect, as in libseccomp. A rule
/// without conditions decides, wherever it stands; of several the first. Among
/// rules with conditions the first that matches decides.
pub(super) fn read(profile: &Seccomp<'_>, family: &Family) -> Result<Rules> {
    let default_action = action(
        &profile.default_action,
        profile.default_errno_ret,
        ["defaultAction", "defaultErrnoRet"],
    )
    .map_err(|(field, why)| Error::config(format_args!("linux.seccomp.{field}"), why))?;
    if default_action == RET_USER_NOTIF {
        return Err(Error::config(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY cannot be the default action: \
             the call that sends the listener away would wait for the listener",
        ));
    }
    let mut rules = Rules {
        default_action,
        verdicts: vec![Verdict::Default; family.len()],
        mentioned: vec![false; family.len()],
        chains: Vec::new(),
        conditionals: Vec::new(),
        notify: false,
    };
    for (index, rule) in profile.syscalls.iter().enumerate() {
        rules.add(index, rule, family)?;
    }
    Ok(rules)
}

impl Rules {
    fn add(&mut self, index: usize, rule: &SyscallRule<'_>, family: &Family) -> Result<()> {
        let path = |field: &str| format!("linux.seccomp.syscalls[{index}].{field}");
        if rule.names.is_empty() {
            return Err(Error::config(path("names"), "must name a system call"));
        }
        let action = action(&rule.action, rule.errno_ret, ["action", "errnoRet"])
            .map_err(|(field, why)| Error::config(path(field), why))?;
        let mut conditions = Vec::with_capacity(rule.args.len());
        for (arg, condition) in rule.args.iter().enumerate() {
            conditions.push(read_condition(condition).map_err(|(field, why)| {
                Error::config(path(&format!("args[{arg}].{field}")), why)
            })?);
        }
        if action == RET_USER_NOTIF {
            if let Some(name) = rule.names.iter().position(|name| *name == "write") {
                return Err(Error::config(
                    path(&format!("names[{name}]")),
                    "SCMP_ACT_NOTIFY cannot be used for write: \
                     the runtime needs it before anybody listens",
                ));
            }
            self.notify = true;
        }
        let idle = action == self.default_action;
        let first = self.conditionals.len();
        let unconditional = conditions.is_empty();
        if !unconditional && !idle {
            self.add_conditionals(action, conditions);
        }
        let added = first..self.conditionals.len();
        // Names that this kernel family does not have are left out: profiles are
        // written for many architectures and kernels at once.
        for row in rule.names.iter().filter_map(|name| family.row(name)) {
            if let Some(mentioned) = self.mentioned.get_mut(row) {
                *mentioned = true;
            }
            let Some(verdict) = self.verdicts.get_mut(row).filter(|_| !idle) else {
                continue;
            };
            match *verdict {
                Verdict::Action(_) => {}
                _ if unconditional => *verdict = Verdict::Action(action),
                Verdict::Default => {
                    *verdict = Verdict::Chain(self.chains.len());
                    self.chains.push(added.clone().collect());
                }
                Verdict::Chain(chain) => {
                    if let Some(chain) = self.chains.get_mut(chain) {
                        chain.extend(added.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// One rule with all `conditions`; or one for each of them if two are on
    /// the same argument, which libseccomp long could not take in one rule:
    /// profiles from then list alternatives like that.
    fn add_conditionals(&mut self, action: u32, conditions: Vec<Condition>) {
        if has_repeated_index(&conditions) {
            let rules = conditions.into_iter().map(|condition| Conditional {
                action,
                conditions: vec![condition],
            });
            self.conditionals.extend(rules);
        } else {
            self.conditionals.push(Conditional { action, conditions });
        }
    }
}

fn has_repeated_index(conditions: &[Condition]) -> bool {
    conditions.iter().enumerate().any(|(at, condition)| {
        let before = conditions.get(..at).unwrap_or_default();
        before.iter().any(|other| other.index == condition.index)
    })
}

/// The value that a filter returns for an action of a profile, or the field at fault and why.
fn action(
    name: &str,
    errno: Option<u32>,
    fields: [&'static str; 2],
) -> std::result::Result<u32, (&'static str, String)> {
    let [action_field, errno_field] = fields;
    let (base, limit) = match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => (RET_KILL_THREAD, None),
        "SCMP_ACT_KILL_PROCESS" => (RET_KILL_PROCESS, None),
        "SCMP_ACT_TRAP" => (RET_TRAP, None),
        "SCMP_ACT_ERRNO" => (RET_ERRNO, Some(MAX_ERRNO)),
        "SCMP_ACT_TRACE" => (RET_TRACE, Some(MAX_DATA)),
        "SCMP_ACT_ALLOW" => (RET_ALLOW, None),
        "SCMP_ACT_LOG" => (RET_LOG, None),
        "SCMP_ACT_NOTIFY" => (RET_USER_NOTIF, None),
        "" => {
            let why = "must be set, for instance to SCMP_ACT_ERRNO".to_owned();
            return Err((action_field, why));
        }
        other => {
            let known = crate::spec::names::SECCOMP_ACTIONS.join(", ");
            let why = format!("{other:?} is not an action; these are: {known}");
            return Err((action_field, why));
        }
    };
    match (limit, errno) {
        (None, None) => Ok(base),
        (None, Some(_)) => Err((
            errno_field,
            format!("{name} takes no errno, only SCMP_ACT_ERRNO and SCMP_ACT_TRACE do; remove it"),
        )),
        (Some(limit), Some(errno)) if errno > limit => Err((
            errno_field,
            format!("{errno} is too large, {name} takes at most {limit}"),
        )),
        // EPERM is the default of the specification.
        (Some(_), errno) => Ok(base | errno.unwrap_or(1)),
    }
}

fn read_condition(arg: &SyscallArg<'_>) -> std::result::Result<Condition, (&'static str, String)> {
    if arg.index > 5 {
        return Err(("index", format!("{} is not an argument: 0 to 5", arg.index)));
    }
    let op = match arg.op.as_str() {
        "SCMP_CMP_NE" => Op::Ne,
        "SCMP_CMP_LT" => Op::Lt,
        "SCMP_CMP_LE" => Op::Le,
        "SCMP_CMP_EQ" => Op::Eq,
        "SCMP_CMP_GE" => Op::Ge,
        "SCMP_CMP_GT" => Op::Gt,
        "SCMP_CMP_MASKED_EQ" => Op::MaskedEq,
        other => {
            let known = crate::spec::names::SECCOMP_OPERATORS.join(", ");
            return Err((
                "op",
                format!("{other:?} is not an operator; these are: {known}"),
            ));
        }
    };
    let (mask, value) = match op {
        // Bits outside of the mask do not count on either side, as in libseccomp.
        Op::MaskedEq => (arg.value, arg.value_two & arg.value),
        _ => (u64::MAX, arg.value),
    };
    Ok(Condition {
        index: arg.index,
        op,
        value,
        mask,
    })
}
