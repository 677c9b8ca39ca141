//! The root file system on the running kernel: what a container would see.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::tests_outside_test_module
)]

mod attacks;
mod binds;
mod docker;
#[path = "../skips/mod.rs"]
mod skips;
mod support;
