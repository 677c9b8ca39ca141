//! Images, snapshots, containers and their processes behind one model, which the APIs are views of.

pub mod error;
pub mod snapshot;
pub mod store;
