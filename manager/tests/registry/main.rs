//! The client of registries, against registries: Debian's own, and one that misbehaves on order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::tests_outside_test_module, reason = "the whole program is one")]

mod debian;
mod fetching;
mod pushing;
mod scripted;
mod who;
