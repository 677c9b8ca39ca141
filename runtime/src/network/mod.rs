//! The network of a container: its loopback device, and devices moved into it.
//!
//! Belongs here: what the runtime does to a network namespace. Does not:
//! making interfaces, addresses or routes, which is the manager's task.

pub mod devices;
pub mod loopback;
mod netlink;
