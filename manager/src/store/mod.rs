//! What is remembered: records in one transactional database, and the blobs beside it.
//!
//! Each kind of object has a file with its operations; [`schema`] draws the tables, [`database`]
//! is the way to them.

pub mod database;
pub mod filter;
pub mod name;
pub mod schema;
