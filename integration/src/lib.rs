//! What the end-to-end tests and benchmarks share: bundles, a private
//! surrounding for each test, and a look at the host before and after.
//!
//! Everything here is black box: a runtime is a program with arguments, and
//! what it did is read from the kernel. `KNARR_BIN` names the program; the same
//! tests can be pointed at another OCI runtime to check a test.
//!
//! Failing is panicking here, as in any test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod attack;
pub mod bundle;
pub mod cgroup;
pub mod containerd;
pub mod daemon;
pub mod docker;
pub mod host;
pub mod images;
pub mod pair;
pub mod peers;
pub mod podman;
pub mod process;
pub mod runtime;
pub mod sandbox;
pub mod script;
pub mod shim;
pub mod socket;
pub mod trace;
pub mod user;
pub mod without;

pub use bundle::Bundle;
pub use runtime::Outcome;
pub use sandbox::{Container, Sandbox};
pub use serde_json::{Value, json};

/// Ends the test at once, saying why, where the host cannot show what it is about.
///
/// Lines also go to the file that `KNARR_SKIPS` names, for a summary.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::runtime::note_skip(module_path!(), &format!($($reason)*));
        return;
    }};
}

/// Ends an attack that succeeded: the runtime under test has the hole.
#[macro_export]
macro_rules! fell {
    ($($how:tt)*) => {
        panic!("{}{}", $crate::attack::FELL, format!($($how)*))
    };
}

/// Ends an attack that did not take place, so that nothing is proven.
#[macro_export]
macro_rules! unproven {
    ($($why:tt)*) => {
        panic!("{}{}", $crate::attack::UNPROVEN, format!($($why)*))
    };
}
