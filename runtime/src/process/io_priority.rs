//! `process.ioPriority`: ioprio_set(2).

use crate::error::{Context, Error, Result};
use crate::spec::config;
use crate::sys::sched::ioprio_set;

/// Classes, ioprio_set(2).
pub const CLASSES: [(&str, u32); 3] = [
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];

/// The I/O priority to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoPriority(u32);

/// Reads `process.ioPriority`.
///
/// # Errors
/// `InvalidConfig` for an unknown class and a priority outside 0 to 7.
pub fn plan(spec: &config::IoPriority<'_>) -> Result<IoPriority> {
    let Some((_, class)) = CLASSES.iter().find(|(name, _)| spec.class == *name) else {
        return Err(Error::config(
            "process.ioPriority.class",
            format_args!("unknown class {:?}; one is IOPRIO_CLASS_BE", spec.class),
        ));
    };
    match u32::try_from(spec.priority) {
        Ok(level @ 0..=7) => Ok(IoPriority(class << 13 | level)),
        _ => Err(Error::config(
            "process.ioPriority.priority",
            format_args!("{} is not between 0 and 7", spec.priority),
        )),
    }
}

impl IoPriority {
    /// Sets the priority of the calling process. All processes of the container inherit it;
    /// setting it for the process group would reach the caller's, where the group is shared.
    ///
    /// # Errors
    /// Those of ioprio_set(2).
    pub fn apply(self) -> Result<()> {
        ioprio_set(self.0).context(|| {
            format!(
                "process.ioPriority: ioprio_set(IOPRIO_WHO_PROCESS, 0, {:#x})",
                self.0
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, ioprio_get, is_root};

    fn spec(class: &'static str, priority: i32) -> config::IoPriority<'static> {
        config::IoPriority {
            class: class.into(),
            priority,
        }
    }

    #[test]
    fn the_kernel_returns_class_and_level() {
        if !is_root("the_kernel_returns_class_and_level") {
            return;
        }
        for (spec, expected) in [
            (spec("IOPRIO_CLASS_RT", 0), 1 << 13),
            (spec("IOPRIO_CLASS_BE", 7), 2 << 13 | 7),
            (spec("IOPRIO_CLASS_IDLE", 4), 3 << 13 | 4),
        ] {
            let seen = in_child(|| {
                plan(&spec)?.apply()?;
                in_child(|| Ok(ioprio_get().to_string()))
            });
            assert_eq!(seen.unwrap(), expected.to_string());
        }
    }

    #[test]
    fn refuses_what_is_no_priority() {
        for (spec, place) in [
            (spec("IOPRIO_CLASS_NONE", 0), "class"),
            (spec("", 0), "class"),
            (spec("IOPRIO_CLASS_BE", 8), "priority"),
            (spec("IOPRIO_CLASS_BE", -1), "priority"),
        ] {
            let text = plan(&spec).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("process.ioPriority.{place}: ")),
                "{text}"
            );
        }
    }
}
