//! Device rules: read from the configuration, and what they come to in the end.
//!
//! Belongs here: the rule type, the built-in list, and the merged list that
//! cgroup v1 is told. Does not: the program of cgroup v2 (`device_program`).
//!
//! Rules apply in the listed order, the last one that matches decides, and
//! nothing is allowed before the first. After them comes a built-in list that
//! every runtime has: many callers send "deny all" and nothing else, and expect
//! /dev/null to open.

use crate::error::{Error, Kind, Result};
use crate::spec::resources::DeviceRule;

/// Kind of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceKind {
    Char,
    Block,
}

/// Reading, as in the kernel's DEVCG_ACC_READ.
pub(super) const READ: u8 = 4;
/// Writing.
pub(super) const WRITE: u8 = 2;
/// mknod(2).
pub(super) const MKNOD: u8 = 1;
/// All of it.
pub(super) const ALL: u8 = READ | WRITE | MKNOD;

/// A rule, validated. An absent number or kind stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Option<DeviceKind>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

const fn built_in(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// What follows the configuration's rules: any node may be made (whether it can
/// be opened is another question), and the devices that every container has.
/// 10:200 is /dev/net/tun, which users of VPNs in containers rely on.
pub(super) const BUILT_IN: [Rule; 11] = [
    built_in(DeviceKind::Char, None, None, MKNOD),
    built_in(DeviceKind::Block, None, None, MKNOD),
    built_in(DeviceKind::Char, Some(1), Some(3), ALL),
    built_in(DeviceKind::Char, Some(1), Some(5), ALL),
    built_in(DeviceKind::Char, Some(1), Some(7), ALL),
    built_in(DeviceKind::Char, Some(1), Some(8), ALL),
    built_in(DeviceKind::Char, Some(1), Some(9), ALL),
    built_in(DeviceKind::Char, Some(5), Some(0), ALL),
    built_in(DeviceKind::Char, Some(5), Some(2), ALL),
    built_in(DeviceKind::Char, Some(136), None, ALL),
    built_in(DeviceKind::Char, Some(10), Some(200), ALL),
];

/// Reads one rule of `linux.resources.devices`; `index` is for the error.
fn parse(rule: &DeviceRule<'_>, index: usize) -> Result<Rule> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let kind = match rule.kind.as_str() {
        "" | "a" => None,
        "c" | "u" => Some(DeviceKind::Char),
        "b" => Some(DeviceKind::Block),
        other => {
            return Err(Error::config(
                field("type"),
                format!("{other:?} is none of a, b and c"),
            ));
        }
    };
    let number = |value: Option<i64>, name: &str| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value).map(Some).map_err(|_| {
            Error::config(
                field(name),
                format!("{value} is no device number (-1 means all)"),
            )
        }),
    };
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            other => {
                return Err(Error::config(
                    field("access"),
                    format!("{other:?} is none of r, w and m"),
                ));
            }
        };
    }
    if access == 0 {
        return Err(Error::config(field("access"), "empty: give some of rwm"));
    }
    Ok(Rule {
        allow: rule.allow,
        kind,
        major: number(rule.major, "major")?,
        minor: number(rule.minor, "minor")?,
        access,
    })
}

/// The rules of a configuration, followed by the built-in ones.
///
/// # Errors
/// A value that is no kind, number or access, with its JSON path.
pub(super) fn rules(devices: &[DeviceRule<'_>]) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(devices.len() + BUILT_IN.len());
    for (index, rule) in devices.iter().enumerate() {
        rules.push(parse(rule, index)?);
    }
    rules.extend_from_slice(&BUILT_IN);
    Ok(rules)
}

/// What a list of rules comes to in the terms of cgroup v1: a default and exceptions from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    /// Whether what no exception names is allowed.
    pub(super) default_allow: bool,
    /// The exceptions; `allow` is the opposite of the default.
    pub(super) exceptions: Vec<Rule>,
}

impl Rule {
    /// Whether it says something about every device and access.
    pub(super) fn is_everything(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    /// Whether every device of `other` is one of this rule.
    fn covers(&self, other: &Rule) -> bool {
        fn within<T: PartialEq>(wide: Option<T>, narrow: Option<T>) -> bool {
            wide.is_none() || wide == narrow
        }
        within(self.kind, other.kind)
            && within(self.major, other.major)
            && within(self.minor, other.minor)
    }

    /// Whether some device belongs to both.
    fn overlaps(&self, other: &Rule) -> bool {
        fn meet<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        meet(self.kind, other.kind)
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
    }
}

impl std::fmt::Display for Rule {
    /// The form of devices.allow and devices.deny.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.kind {
            None => "a ",
            Some(DeviceKind::Char) => "c ",
            Some(DeviceKind::Block) => "b ",
        })?;
        match self.major {
            Some(major) => write!(f, "{major}:")?,
            None => f.write_str("*:")?,
        }
        match self.minor {
            Some(minor) => write!(f, "{minor} ")?,
            None => f.write_str("* ")?,
        }
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Works out the end state of a list of rules, so that each device is written
/// once, however often a caller repeats it.
///
/// # Errors
/// A rule that takes devices out of a wider one: cgroup v1 knows no exceptions
/// from exceptions, and would silently not apply it.
pub(super) fn merge(rules: &[Rule]) -> Result<Merged> {
    let mut merged = Merged {
        default_allow: false,
        exceptions: Vec::with_capacity(rules.len()),
    };
    for (index, rule) in rules.iter().enumerate() {
        if rule.is_everything() {
            merged.default_allow = rule.allow;
            merged.exceptions.clear();
            continue;
        }
        // The kernel takes kind `a` for "everything", whatever the numbers say.
        let kinds = match rule.kind {
            Some(kind) => [Some(kind), None],
            None => [Some(DeviceKind::Char), Some(DeviceKind::Block)],
        };
        for kind in kinds.into_iter().flatten() {
            let rule = Rule {
                kind: Some(kind),
                ..*rule
            };
            if rule.allow == merged.default_allow {
                merged
                    .take_back(&rule)
                    .map_err(|error| error.context(format!("linux.resources.devices[{index}]")))?;
            } else {
                merged.except(&rule);
            }
        }
    }
    Ok(merged)
}

impl Merged {
    /// Adds an exception.
    fn except(&mut self, rule: &Rule) {
        let missing = self
            .exceptions
            .iter()
            .filter(|known| known.covers(rule))
            .fold(rule.access, |missing, known| missing & !known.access);
        if missing == 0 {
            return;
        }
        let same = self
            .exceptions
            .iter_mut()
            .find(|known| known.covers(rule) && rule.covers(known));
        match same {
            Some(known) => known.access |= rule.access,
            None => self.exceptions.push(*rule),
        }
    }

    /// Removes what the rule names from the exceptions.
    fn take_back(&mut self, rule: &Rule) -> Result<()> {
        let mut hole = None;
        self.exceptions.retain_mut(|known| {
            if rule.covers(known) {
                known.access &= !rule.access;
            } else if known.overlaps(rule) && known.access & rule.access != 0 {
                hole = Some(*known);
            }
            known.access != 0
        });
        match hole {
            None => Ok(()),
            Some(known) => Err(Error::new(
                Kind::Unsupported,
                format!("cgroup v1 cannot except \"{rule}\" from the wider rule \"{known}\""),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(merged: &Merged) -> Vec<String> {
        merged.exceptions.iter().map(ToString::to_string).collect()
    }

    fn from_json(json: &str) -> Result<Vec<Rule>> {
        let devices: Vec<DeviceRule<'_>> = serde_json::from_str(json).unwrap();
        rules(&devices)
    }

    #[test]
    fn deny_all_leaves_the_built_in_list() {
        let rules = from_json(r#"[{"allow":false,"access":"rwm"}]"#).unwrap();
        let merged = merge(&rules).unwrap();
        assert!(!merged.default_allow);
        let built_in: Vec<String> = BUILT_IN.iter().map(ToString::to_string).collect();
        assert_eq!(list(&merged), built_in);
    }

    #[test]
    fn writes_a_repeated_device_once() {
        let rules = from_json(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":10,"minor":229,"access":"r"},
                {"allow":true,"type":"c","major":10,"minor":229,"access":"wm"},
                {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
                {"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":5,"minor":1,"access":"rwm"},
                {"allow":true,"type":"c","major":5,"minor":1,"access":"rwm"},
                {"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"}]"#,
        )
        .unwrap();
        let merged = merge(&rules).unwrap();
        assert_eq!(merged.exceptions.len(), BUILT_IN.len() + 1);
        assert_eq!(list(&merged).first().unwrap(), "c 5:1 rwm");
    }

    #[test]
    fn allow_all_keeps_its_exceptions() {
        let rules = from_json(
            r#"[{"allow":true,"access":"rwm"},
                {"allow":false,"type":"b","major":8,"access":"rw"},
                {"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}]"#,
        )
        .unwrap();
        let merged = merge(&rules).unwrap();
        assert!(merged.default_allow);
        assert_eq!(list(&merged), ["b 8:* rw"]);
    }

    #[test]
    fn refuses_a_hole_in_a_wider_rule() {
        let rules = from_json(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":4,"access":"rwm"},
                {"allow":false,"type":"c","major":4,"minor":5,"access":"w"}]"#,
        )
        .unwrap();
        let error = merge(&rules).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error
                .to_string()
                .starts_with("linux.resources.devices[2]: ")
        );
    }

    #[test]
    fn splits_a_rule_without_a_kind() {
        let rules =
            from_json(r#"[{"allow":true,"type":"a","major":7,"minor":-1,"access":"r"}]"#).unwrap();
        let merged = merge(&rules).unwrap();
        assert_eq!(list(&merged).get(..2).unwrap(), ["c 7:* r", "b 7:* r"]);
    }

    #[test]
    fn names_the_field_of_a_bad_value() {
        for (json, field) in [
            (
                r#"[{"allow":true,"type":"x","access":"r"}]"#,
                "devices[0].type",
            ),
            (r#"[{"allow":true,"access":""}]"#, "devices[0].access"),
            (r#"[{"allow":true,"access":"rx"}]"#, "devices[0].access"),
            (
                r#"[{"allow":true,"major":-2,"access":"r"}]"#,
                "devices[0].major",
            ),
            (
                r#"[{"allow":true,"minor":4294967296,"access":"r"}]"#,
                "devices[0].minor",
            ),
        ] {
            let error = from_json(json).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
