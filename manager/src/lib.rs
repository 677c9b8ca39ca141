//! Images, snapshots, containers and their processes behind one model, which the APIs are views of.

pub mod api;
pub mod config;
pub mod descriptor;
pub mod error;
pub mod image;
pub mod layer;
pub mod manager;
pub mod mount;
mod proxy;
pub mod registry;
pub mod snapshot;
pub mod store;
pub mod task;
