//! `linux.memoryPolicy`: the NUMA policy, set_mempolicy(2).

use rustix::io::Errno;

use super::list::BitList;
use crate::error::{Context, Error, Result};
use crate::spec::linux;
use crate::sys::sched::set_mempolicy;

/// Whether a mode takes nodes, set_mempolicy(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nodes {
    Forbidden,
    Optional,
    Required,
}

/// A mode: its name, its number and whether it takes nodes.
const MODES: [(&str, u32, Nodes); 7] = [
    ("MPOL_DEFAULT", 0, Nodes::Forbidden),
    // Without nodes: the node of the CPU.
    ("MPOL_PREFERRED", 1, Nodes::Optional),
    ("MPOL_BIND", 2, Nodes::Required),
    ("MPOL_INTERLEAVE", 3, Nodes::Required),
    ("MPOL_LOCAL", 4, Nodes::Forbidden),
    ("MPOL_PREFERRED_MANY", 5, Nodes::Required),
    ("MPOL_WEIGHTED_INTERLEAVE", 6, Nodes::Required),
];

const STATIC_NODES: u32 = 1 << 15;
const RELATIVE_NODES: u32 = 1 << 14;

/// Flags, set_mempolicy(2).
pub const FLAGS: [(&str, u32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", RELATIVE_NODES),
    ("MPOL_F_STATIC_NODES", STATIC_NODES),
];

/// The policy to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    mode: u32,
    nodes: BitList,
    text: String,
}

/// Reads `linux.memoryPolicy`.
///
/// # Errors
/// `InvalidConfig` for unknown names, and nodes or flags that the mode does not take.
pub fn plan(spec: &linux::MemoryPolicy<'_>) -> Result<MemoryPolicy> {
    let Some(&(name, number, takes)) = MODES.iter().find(|(name, ..)| spec.mode == *name) else {
        return Err(Error::config(
            "linux.memoryPolicy.mode",
            format_args!("unknown mode {:?}; one is MPOL_BIND", spec.mode),
        ));
    };
    let nodes = BitList::parse(&spec.nodes)
        .map_err(|why| Error::config("linux.memoryPolicy.nodes", why))?;
    match takes {
        Nodes::Required if nodes.is_empty() => {
            return Err(Error::config(
                "linux.memoryPolicy.nodes",
                format_args!("{name} needs at least one node"),
            ));
        }
        Nodes::Forbidden if !nodes.is_empty() => {
            return Err(Error::config(
                "linux.memoryPolicy.nodes",
                format_args!("{name} takes no nodes; leave them out"),
            ));
        }
        _ => {}
    }
    let mut mode = number;
    for (index, flag) in spec.flags.iter().enumerate() {
        match FLAGS.iter().find(|(name, _)| *flag == *name) {
            Some((_, bit)) => mode |= bit,
            None => {
                return Err(Error::config(
                    format_args!("linux.memoryPolicy.flags[{index}]"),
                    format_args!("unknown flag {flag:?}; one is MPOL_F_STATIC_NODES"),
                ));
            }
        }
    }
    if mode & STATIC_NODES != 0 && mode & RELATIVE_NODES != 0 {
        return Err(Error::config(
            "linux.memoryPolicy.flags",
            "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other",
        ));
    }
    Ok(MemoryPolicy {
        mode,
        nodes,
        text: format!("{name}, nodes {:?}, flags {:?}", spec.nodes, spec.flags),
    })
}

impl MemoryPolicy {
    /// Sets the policy of the calling process; execve(2) keeps it.
    ///
    /// # Errors
    /// Those of set_mempolicy(2); `Unsupported` for a kernel without NUMA.
    pub fn apply(&self) -> Result<()> {
        match set_mempolicy(self.mode, self.nodes.words()) {
            Err(Errno::NOSYS) => Err(Error::unsupported(
                "linux.memoryPolicy",
                "this kernel is built without NUMA",
            )),
            result => {
                result.context(|| format!("linux.memoryPolicy: set_mempolicy({})", self.text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, memory_policy};

    fn spec(
        mode: &'static str,
        nodes: &'static str,
        flags: &[&'static str],
    ) -> linux::MemoryPolicy<'static> {
        linux::MemoryPolicy {
            mode: mode.into(),
            nodes: nodes.into(),
            flags: flags.iter().map(|&flag| flag.into()).collect(),
        }
    }

    #[test]
    fn the_kernel_returns_every_mode() {
        if in_child(|| Ok(memory_policy().to_string())).unwrap() == "-1" {
            crate::sys::testing::note_skip(format_args!("this kernel is built without NUMA"));
            return;
        }
        for (mode, nodes, flags, expected) in [
            ("MPOL_DEFAULT", "", &[][..], 0),
            (
                "MPOL_PREFERRED",
                "",
                &[],
                1, /* or 4, since Linux 5.14 */
            ),
            ("MPOL_PREFERRED", "0", &[], 1),
            ("MPOL_BIND", "0", &["MPOL_F_STATIC_NODES"], 2 | 1 << 15),
            ("MPOL_BIND", "0", &["MPOL_F_RELATIVE_NODES"], 2 | 1 << 14),
            ("MPOL_BIND", "0", &["MPOL_F_NUMA_BALANCING"], 2 | 1 << 13),
            ("MPOL_INTERLEAVE", "0", &[], 3),
            ("MPOL_LOCAL", "", &[], 4),
            ("MPOL_PREFERRED_MANY", "0", &[], 5),
            ("MPOL_WEIGHTED_INTERLEAVE", "0", &[], 6),
        ] {
            let seen = in_child(|| {
                plan(&spec(mode, nodes, flags))?.apply()?;
                Ok(memory_policy().to_string())
            });
            let seen: i32 = seen.unwrap().parse().unwrap();
            assert!(
                seen == expected || (expected == 1 && seen == 4),
                "{mode}: {seen}"
            );
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error_of_the_kernel() {
        let error = in_child(|| {
            plan(&spec("MPOL_BIND", "999", &[]))?.apply()?;
            Ok(String::new())
        });
        assert_eq!(
            error.unwrap_err().to_string(),
            "linux.memoryPolicy: set_mempolicy(MPOL_BIND, nodes \"999\", flags []): invalid argument"
        );
    }

    #[test]
    fn refuses_what_does_not_belong_together() {
        for (spec, place) in [
            (spec("MPOL_RANDOM", "", &[]), "mode"),
            (spec("MPOL_DEFAULT", "0", &[]), "nodes"),
            (spec("MPOL_LOCAL", "0", &[]), "nodes"),
            (spec("MPOL_BIND", "", &[]), "nodes"),
            (spec("MPOL_INTERLEAVE", ",", &[]), "nodes"),
            (spec("MPOL_WEIGHTED_INTERLEAVE", "", &[]), "nodes"),
            (spec("MPOL_PREFERRED_MANY", "", &[]), "nodes"),
            (spec("MPOL_BIND", "1-0", &[]), "nodes"),
            (spec("MPOL_BIND", "0", &["MPOL_F_LOOSE"]), "flags[0]"),
            (
                spec(
                    "MPOL_BIND",
                    "0",
                    &["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"],
                ),
                "flags",
            ),
        ] {
            let text = plan(&spec).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("linux.memoryPolicy.{place}: ")),
                "{text}"
            );
        }
    }
}
