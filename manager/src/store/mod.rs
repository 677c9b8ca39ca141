//! What is remembered: records in one transactional database, and the blobs beside it.
//!
//! Each kind of object has a file with its operations; [`schema`] draws the tables, [`database`]
//! is the way to them.

pub mod containers;
pub mod content;
pub mod database;
pub mod digest;
mod event_fields;
pub mod events;
pub mod filter;
pub mod gc;
pub mod images;
pub mod leases;
pub mod mask;
pub mod name;
pub mod namespaces;
pub mod sandboxes;
pub mod schema;
